"""The network's image and poolings in forms that suit a TPU, as pure functions of one image, (h, w, c).

A TPU keeps an array in tiles of 8 x 128 numbers of its two innermost axes, which the compiler chooses. For
a convolution of three channels it chooses the cells of a launch as one of them: eight fill a sixteenth of
each tile, in the image, its gradient and every image of the optimizer's state. Here the channels are planes
of height and width throughout. And a pooling that folds axes leaves its sums, and the gradients that it
repeats, as passes of their own; strides and windows are fused with their neighbours. What a border adds to
a convolution is computed at the edges alone, for an image that is larger by two positions fills more tiles;
where a border is put around an image, that is a sum, which is one pass, and not two concatenations.

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

from jaxstyle.vgg.bordered import folded, placed
from jaxstyle.vgg.padding import Border

SQUARE = tuple(itertools.product((0, 1), (0, 1)))
"""The positions of a 2x2 square, row and column."""
TAPS = tuple(itertools.product(range(3), range(3)))
"""The positions of a kernel, row and column, in the order in which its numbers lie."""
FEWEST_BY_EDGES, MOST_BY_EDGES = 8, 256
"""Channels of the layers whose border is computed apart from the image."""


def bordered_by_sums(x: Float[Array, "h w c"], border: Border) -> Float[Array, "h2 w2 c"]:
    """`x` within a border, as `bordered.bordered`: a sum of it and of its edges, each padded with zeros."""
    for axis in (0, 1):
        n = x.shape[axis]
        parts = (
            (x, 1),
            (lax.slice_in_dim(x, border.before(n), border.before(n) + 1, axis=axis), 0),
            (lax.slice_in_dim(x, border.after(n), border.after(n) + 1, axis=axis), n + 1),
        )
        x = functools.reduce(jnp.add, (placed(part, at, n + 2, axis) for part, at in parts))
    return x


def is_by_edges(inputs: int, outputs: int) -> bool:
    """Whether a layer of so many channels has what a border adds computed apart, at the edges alone.

    Then the convolution pads with zeros and `with_edges` adds the rest. A row of 258 numbers would fill
    three tiles where 256 fill two. From 512 channels on, such products take longer to compile than they
    save.
    """
    return min(inputs, outputs) >= FEWEST_BY_EDGES and max(inputs, outputs) <= MOST_BY_EDGES


def with_edges(
    y: Float[Array, "h w o"],
    x: Float[Array, "h w i"],
    kernel: Float[Array, "3 3 i o"],
    precision: lax.Precision,
    border: Border,
) -> Float[Array, "h w o"]:
    """`y`, the correlation of `x` with zeros outside, and what a border adds to it: a product an edge."""
    for axis, at, tap in _edges(x.shape, border):
        line = lax.index_in_dim(x, at, axis, keepdims=False)
        # The corners belong to the rows.
        around = _bordered_line(line, border) if axis == 0 else jnp.pad(line, ((1, 1), (0, 0)))
        seen = _along(around, lax.index_in_dim(kernel, tap, axis, keepdims=False), precision)
        n = x.shape[axis]
        y += placed(jnp.expand_dims(seen, axis), 0 if tap == 0 else n - 1, n, axis)
    return y


def with_edges_adjoint(
    back: Float[Array, "h w i"],
    g: Float[Array, "h w o"],
    turned: Float[Array, "3 3 o i"],
    precision: lax.Precision,
    border: Border,
) -> Float[Array, "h w i"]:
    """`back`, the gradient if zeros are outside, and the adjoint of what `with_edges` adds.

    Args:
        back: the correlation of `g` with the turned kernel, zeros outside.
        g: gradient with respect to what `with_edges` returns.
        turned: the kernel, turned by 180 degrees, with its channels exchanged.
        precision: of the products.
        border: what stands outside the image.
    """
    for axis, at, tap in _edges(g.shape, border):
        n = g.shape[axis]
        line = lax.index_in_dim(g, 0 if tap == 0 else n - 1, axis, keepdims=False)
        around = jnp.pad(line, ((2, 2) if axis == 0 else (1, 1), (0, 0)))
        seen = _along(around, lax.index_in_dim(turned, 2 - tap, axis, keepdims=False), precision)
        own = folded(seen, border, axis=0) if axis == 0 else seen
        back += placed(jnp.expand_dims(own, axis), at, n, axis)
    return back


def _edges(shape: tuple[int, ...], border: Border) -> list[tuple[int, int, int]]:
    """(axis, position that stands beyond the edge, index of the kernel's row or column that reads it)."""
    return [
        (axis, at, tap)
        for axis in (0, 1)
        for at, tap in ((border.before(shape[axis]), 0), (border.after(shape[axis]), 2))
    ]


def _bordered_line(line: Float[Array, "n c"], border: Border) -> Float[Array, "n2 c"]:
    n = len(line)
    before, after = border.before(n), border.after(n)
    return jnp.concatenate([line[before : before + 1], line, line[after : after + 1]])


def _along(
    line: Float[Array, "n2 i"], kernel: Float[Array, "3 i o"], precision: lax.Precision
) -> Float[Array, "n o"]:
    """The correlation of a line with three taps, as one product."""
    n = len(line) - 2
    patches = jnp.concatenate([line[tap : tap + n] for tap in range(3)], axis=1)
    return jnp.matmul(patches, kernel.reshape(-1, kernel.shape[-1]), precision=precision)


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
