"""The 2x2 poolings with stride 2, as pure functions of one image, (h, w, c); odd edges are dropped."""

from __future__ import annotations

from jaxtyping import Array, Float


def avg_pool(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
    """Mean of each 2x2 square; an odd last row or column is dropped."""
    return _quads(x).mean(axis=(1, 3))


def max_pool(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
    """Maximum of each 2x2 square; an odd last row or column is dropped.

    It is a reduction over a reshape, because the gradient of a windowed maximum is a select-and-scatter,
    which is slow everywhere and has no deterministic form on a GPU. Equal maxima share the gradient evenly;
    after a ReLU most ties are zeros, whose gradient the ReLU removes.
    """
    return _quads(x).max(axis=(1, 3))


def _quads(x: Float[Array, "h w c"]) -> Float[Array, "h2 2 w2 2 c"]:
    h, w, c = x.shape
    return x[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, c)
