"""The network's image and poolings in forms that suit a TPU, as pure functions of one image, (h, w, c).

A TPU keeps an array in tiles of 8 x 128 numbers of its two innermost axes, which the compiler chooses. For
a convolution of three channels it chooses the cells of a launch as one of them: eight fill a sixteenth of
each tile, in the image, its gradient and every image of the optimizer's state. Here the channels are planes
of height and width throughout. And where a pooling folds axes, the gradient of every value is written four
times to an array of its own; strides leave that to the operation that reads it.

Figures, with and without: docs/tpu.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

SQUARE = tuple(itertools.product((0, 1), (0, 1)))
"""The positions of a 2x2 square, row and column."""
TAPS = tuple(itertools.product(range(3), range(3)))
"""The positions of a kernel, row and column, in the order in which its numbers lie."""


def of_planes(
    x: Float[Array, "_h _w i"],
    kernel: Float[Array, "3 3 i o"],
    precision: lax.Precision,
    *,
    has_border: bool,
) -> Float[Array, "h w o"]:
    """The correlation of an image of few channels with a kernel: a product over 9 shifted copies of each.

    Args:
        precision: of the products.
        has_border: whether `x` has a border around it already; otherwise zeros are outside.
    """
    planes = (x if has_border else jnp.pad(x, ((1, 1), (1, 1), (0, 0)))).transpose(2, 0, 1)
    h, w = planes.shape[1] - 2, planes.shape[2] - 2
    patches = jnp.concatenate([planes[:, r : r + h, c : c + w] for r, c in TAPS])
    flat = kernel.reshape(-1, kernel.shape[-1])
    return lax.dot_general(patches, flat, (((0,), (0,)), ((), ())), precision=precision)


def to_planes(
    x: Float[Array, "_h _w i"],
    kernel: Float[Array, "3 3 i o"],
    precision: lax.Precision,
    *,
    has_border: bool,
) -> Float[Array, "h w o"]:
    """The correlation with a kernel of few outputs: one product, whose nine parts are shifted and added.

    The parts are rounded to the dtype of `x` and summed in float32. Arguments are those of `of_planes`.
    """
    outputs = kernel.shape[-1]
    flat = kernel.transpose(2, 0, 1, 3).reshape(kernel.shape[2], -1)
    parts = lax.dot_general(flat, x, (((0,), (2,)), ((), ())), precision=precision)
    around = parts if has_border else jnp.pad(parts, ((0, 0), (1, 1), (1, 1)))
    h, w = around.shape[1] - 2, around.shape[2] - 2
    total = jnp.zeros((outputs, h, w), jnp.float32)
    for index, (r, c) in enumerate(TAPS):
        own = slice(index * outputs, (index + 1) * outputs)
        total += around[own, r : r + h, c : c + w].astype(jnp.float32)
    return total.transpose(1, 2, 0).astype(x.dtype)


@jax.custom_vjp
def avg_pool(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
    """Mean of each 2x2 square, as `pooling.avg_pool`."""
    a, b, c, d = (part.astype(jnp.float32) for part in _parts(x))
    return ((a + b + c + d) * 0.25).astype(x.dtype)


def _avg_forward(x):
    return avg_pool(x), jnp.zeros((x.shape[0] % 2, x.shape[1] % 2, 0), x.dtype)


def _avg_backward(odd, g):
    quarter = g * jnp.asarray(0.25, g.dtype)
    return (_spread([quarter] * 4, odd.shape),)


avg_pool.defvjp(_avg_forward, _avg_backward)


@jax.custom_vjp
def max_pool(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
    """Maximum of each 2x2 square, as `pooling.max_pool`: equal maxima share the gradient evenly."""
    a, b, c, d = _parts(x)
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def _max_forward(x):
    y = max_pool(x)
    return y, (x, y)


def _max_backward(kept, g):
    x, y = kept
    largest = [part == y for part in _parts(x)]
    share = g / sum(one.astype(g.dtype) for one in largest)
    return (_spread([jnp.where(one, share, 0) for one in largest], (x.shape[0] % 2, x.shape[1] % 2)),)


max_pool.defvjp(_max_forward, _max_backward)


def _parts(x: Float[Array, "h w c"]) -> list[Float[Array, "h2 w2 c"]]:
    """The values at each position of the squares."""
    h, w = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    return [x[r:h:2, c:w:2] for r, c in SQUARE]


def _spread(parts: Sequence[Float[Array, "h2 w2 c"]], odd: tuple[int, ...]) -> Float[Array, "h w c"]:
    """The adjoint of `_parts`, for an image with as many rows and columns left over as `odd` says."""
    zero = jnp.zeros((), parts[0].dtype)
    spread = [
        lax.pad(part, zero, ((r, 1 - r + odd[0], 1), (c, 1 - c + odd[1], 1), (0, 0, 0)))
        for part, (r, c) in zip(parts, SQUARE, strict=True)
    ]
    return spread[0] + spread[1] + spread[2] + spread[3]
