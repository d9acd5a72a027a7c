"""The poolings with stride 2, as pure functions of one image, (h, w, c); odd edges are dropped.

Average and maximum are of squares of 2x2. The blurred poolings weigh 4x4 positions, half of which belong to
the neighbouring squares, so that a pattern of two positions is averaged away instead of being sampled
(Zhang 2019, "Making convolutional networks shift-invariant again"; Hénaff & Simoncelli 2016 for L2).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstyle.vgg.padding import REPLICATE, Border

L2_FLOOR = 1e-8
"""The mean square that L2 pooling adds, since the root has no derivative at 0: 1e-4 for zeros."""


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


def blur_pool(x: Float[Array, "h w c"], border: Border | None = None) -> Float[Array, "h2 w2 c"]:
    """Mean of the 4x4 positions around each 2x2 square, weighed 1 3 3 1 both ways, over 64.

    The weights sum to 1 at edges too: beyond them stand positions of the image, with `border` None the edge
    itself.
    """
    border = border or REPLICATE
    return _blurred_rows(_blurred_rows(x, border).swapaxes(0, 1), border).swapaxes(0, 1)


def l2_pool(x: Float[Array, "h w c"], border: Border | None = None) -> Float[Array, "h2 w2 c"]:
    """Root of the blurred squares, sqrt(blur_pool(x^2) + `L2_FLOOR`), in float32.

    # Differs from Hénaff & Simoncelli (2016), who blur by a Hann window.
    """
    squares = blur_pool(jnp.square(x.astype(jnp.float32)), border)
    return jnp.sqrt(squares + L2_FLOOR).astype(x.dtype)


def _blurred_rows(x: Float[Array, "h w c"], border: Border) -> Float[Array, "h2 w c"]:
    """Every second row of x * [1 3 3 1] / 8, an odd last one dropped."""
    n = x.shape[0] // 2 * 2
    pairs = x[:n].reshape(n // 2, 2, *x.shape[1:])
    first, second = pairs[:, 0], pairs[:, 1]
    above, below = border.before(n), border.after(n)
    before = jnp.concatenate([x[above : above + 1], second[:-1]])
    after = jnp.concatenate([first[1:], x[below : below + 1]])
    return 0.375 * (first + second) + 0.125 * (before + after)


def _quads(x: Float[Array, "h w c"]) -> Float[Array, "h2 2 w2 2 c"]:
    h, w, c = x.shape
    return x[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, c)
