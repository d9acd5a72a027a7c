"""The network's image and poolings in forms that suit a TPU, as pure functions of one image, (h, w, c).

A TPU keeps an array in tiles of 8 x 128 numbers of its two innermost axes, which the compiler chooses. For
a convolution of three channels it chooses the cells of a launch as one of them: eight fill a sixteenth of
each tile, in the image, its gradient and every image of the optimizer's state. Here the channels are planes
of height and width throughout. And a pooling that folds axes leaves its sums, and the gradients that it
repeats, as passes of their own; strides and windows are fused with their neighbours. A border around an
image is a sum, which is one pass, where concatenations of rows and of columns are two.

Figures, with and without: docs/tpu.md.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxstyle.vgg.padding import Border

SQUARE = tuple(itertools.product((0, 1), (0, 1)))
"""The positions of a 2x2 square, row and column."""
TAPS = tuple(itertools.product(range(3), range(3)))
"""The positions of a kernel, row and column, in the order in which its numbers lie."""


def bordered_by_sums(x: Float[Array, "h w c"], border: Border) -> Float[Array, "h2 w2 c"]:
    """`x` within a border, as `bordered.bordered`: a sum of it and of its edges, each padded with zeros."""
    for axis in (0, 1):
        n = x.shape[axis]
        parts = (
            (x, 1),
            (lax.slice_in_dim(x, border.before(n), border.before(n) + 1, axis=axis), 0),
            (lax.slice_in_dim(x, border.after(n), border.after(n) + 1, axis=axis), n + 1),
        )
        x = functools.reduce(jnp.add, (_placed(part, at, n + 2, axis) for part, at in parts))
    return x


def _placed(part: Float[Array, "h w c"], at: int, length: int, axis: int) -> Float[Array, "h2 w2 c"]:
    """`part` from position `at` of an axis of `length`, zeros elsewhere."""
    beyond = [(0, 0)] * part.ndim
    beyond[axis] = (at, length - at - part.shape[axis])
    return jnp.pad(part, beyond)


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
    return avg_pool(x), _odd(x)


def _avg_backward(odd, g):
    return (_spread(g * jnp.asarray(0.25, g.dtype), odd.shape),)


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
    share = g / sum((part == y).astype(g.dtype) for part in _parts(x))
    odd = _odd(x).shape
    return (jnp.where(x == _spread(y, odd), _spread(share, odd), 0),)


max_pool.defvjp(_max_forward, _max_backward)


def _odd(x: Float[Array, "h w c"]) -> Float[Array, "_rows _columns 0"]:
    """Nothing, in the shape of what squares of 2x2 leave over."""
    return jnp.zeros((x.shape[0] % 2, x.shape[1] % 2, 0), x.dtype)


def _parts(x: Float[Array, "h w c"]) -> list[Float[Array, "h2 w2 c"]]:
    """The values at each position of the squares."""
    h, w = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    return [x[r:h:2, c:w:2] for r, c in SQUARE]


def _spread(values: Float[Array, "h2 w2 c"], odd: tuple[int, ...]) -> Float[Array, "h w c"]:
    """Every value at the four positions of its square, and zeros in `odd` more rows and columns.

    It is a sum over windows of 2x2 with zeros between the values, of which a TPU's compiler makes one pass.
    """
    beyond = ((1, 1 + odd[0]), (1, 1 + odd[1]), (0, 0))
    zero = np.zeros((), values.dtype)
    return lax.reduce_window(values, zero, lax.add, (2, 2, 1), (1, 1, 1), beyond, base_dilation=(2, 2, 1))
