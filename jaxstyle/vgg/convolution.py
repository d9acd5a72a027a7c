"""The 3x3 convolution with its ReLU, as a pure function of one image.

Layout is (h, w, c) and HWIO; batching is left to the one `vmap` in `device/batch.py`. The network's
weights are constants of the problem, so only the derivative with respect to the image exists.

A kernel comes in one of two forms, prepared once and passed as an argument: as it is, (3, 3, i, o), for
XLA's own convolution; or transformed, (6, 6, i, o), for Winograd's algorithm (`winograd`). The latter needs
a quarter of the multiplications and is faster on a CPU wherever there are many channels.

The dtype of a kernel is the one in which its products are computed: float32, or bfloat16 summed in float32.
An image keeps its own dtype throughout.

What a convolution reads beyond the edges of an image is zero, or what a `Border` puts there. XLA's own
convolution then gets the image with its border around it and has no padding of its own (`has_border`);
Winograd's has the border in its linear maps, unless it wraps.

Symbols: x input, k kernel, b bias, y = max(0, x * k + b), g = dL/dy.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxstyle.vgg.bordered import bordered, unbordered
from jaxstyle.vgg.padding import Border
from jaxstyle.vgg.planes import (
    TAPS,
    bordered_by_sums,
    is_by_edges,
    of_planes,
    to_planes,
    with_edges,
    with_edges_adjoint,
)
from jaxstyle.vgg.winograd import (
    adjoint_tiling,
    bordered_adjoint_tiling,
    bordered_tiling,
    tiling,
    transformed,
    unfilled,
    winograd_conv,
    winograd_conv_adjoint,
)

TENSOR_CORE_CHANNELS = 8
"""A GPU's matrix units need channels in multiples of this."""


class Kernel(NamedTuple):
    """A 3x3 kernel in the form that its layer uses: plain, k k = 3 3, or transformed, k k = 6 6."""

    forward: Float[Array | np.ndarray, "k k i o"]
    backward: Float[Array | np.ndarray, "k k o i"]
    """The kernel of the input gradient, with its channels exchanged.

    A plain one, and one for an image with zeros outside, is turned by 180 degrees, for the gradient is then
    a correlation itself. A transformed one for a border is the forward one, for `winograd_conv_adjoint`.
    """


def prepare(
    kernel: Float[np.ndarray, "3 3 i o"],
    *,
    winograd: bool,
    dtype: DTypeLike = np.float32,
    border: Border | None = None,
) -> Kernel:
    """Both directions of a layer's kernel, in the form that its convolution needs.

    Args:
        kernel: float32.
        winograd: whether to transform it for Winograd's algorithm.
        dtype: type in which the products will be computed.
        border: what stands outside the image; None for zeros.
    """
    is_transposed = winograd and border is not None
    return Kernel(
        forward_kernel(kernel, winograd, dtype), backward_kernel(kernel, winograd, dtype, is_transposed)
    )


def forward_kernel(
    kernel: Float[np.ndarray, "3 3 i o"], winograd: bool, dtype: DTypeLike
) -> Float[np.ndarray, "k k i o"]:
    """`Kernel.forward` of a layer."""
    return transformed(kernel, dtype) if winograd else _copied(kernel, dtype)


def backward_kernel(
    kernel: Float[np.ndarray, "3 3 i o"], winograd: bool, dtype: DTypeLike, is_transposed: bool
) -> Float[np.ndarray, "k k o i"]:
    """`Kernel.backward` of a layer; `is_transposed` where it is the forward one with channels exchanged."""
    if is_transposed:
        return _copied(transformed(kernel, dtype).swapaxes(2, 3), dtype)
    return forward_kernel(kernel[::-1, ::-1].swapaxes(2, 3), winograd, dtype)


def _copied(kernel: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """A contiguous copy that `jax.device_put` need not copy again."""
    made = unfilled(kernel.shape, dtype)
    made[:] = kernel
    return made


def conv3x3(
    x: Float[Array, "h w i"],
    kernel: Float[Array | np.ndarray, "k k i o"],
    precision: lax.Precision = lax.Precision.HIGHEST,
    border: Border | None = None,
    planes: bool = False,
) -> Float[Array, "h w o"]:
    """Correlation of one image with a 3x3 kernel in either form, with stride 1.

    Args:
        precision: see `precision.Arithmetic`.
        border: what stands outside the image; None for zeros.
        planes: whether to use the forms that suit a TPU (`vgg.planes`).
    """
    kernel = jnp.asarray(kernel)
    if kernel.shape[0] == 3:
        if planes and border is not None and is_by_edges(*kernel.shape[2:]):
            inner = _plain(x, kernel, precision, has_border=False, planes=True)
            return with_edges(inner, x, kernel, precision, border)
        put_around = bordered_by_sums if planes else bordered
        around = x if border is None else put_around(x, border)
        return _plain(around, kernel, precision, has_border=border is not None, planes=planes)
    return _by_winograd(x, kernel, precision, border)


@functools.partial(jax.jit, static_argnums=(2, 3))  # layers that are alike are then traced once
def _by_winograd(
    x: Float[Array, "h w i"],
    kernel: Float[Array, "6 6 i o"],
    precision: lax.Precision,
    border: Border | None,
) -> Float[Array, "h w o"]:
    h, w, _ = x.shape
    if border is not None and border.wraps:
        return winograd_conv(bordered(x, border), kernel, precision, *(bordered_tiling(n) for n in (h, w)))
    return winograd_conv(x, kernel, precision, *(tiling(n, border) for n in (h, w)))


def conv3x3_adjoint(
    g: Float[Array, "h w o"],
    backward: Float[Array | np.ndarray, "k k o i"],
    precision: lax.Precision = lax.Precision.HIGHEST,
    border: Border | None = None,
    planes: bool = False,
) -> Float[Array, "h w i"]:
    """The adjoint of `conv3x3` in its image, for the kernel of the gradient.

    With zeros outside, and for a plain kernel with a border that wraps, it is itself such a correlation.
    With any other border it is the full correlation, one position larger on every side, followed by the
    adjoint of the border. Winograd's algorithm has both in its last linear maps, except where a border
    wraps inside of a tile (`winograd`).
    """
    backward = jnp.asarray(backward)
    is_plain = backward.shape[0] == 3
    if border is None or (is_plain and border.wraps):
        return conv3x3(g, backward, precision, border, planes)
    if not is_plain:
        return _adjoint_by_winograd(g, backward, precision, border)
    return _full_adjoint(g, backward, precision, border, planes)


def _full_adjoint(
    g: Float[Array, "h w o"],
    turned: Float[Array, "k k o i"],
    precision: lax.Precision,
    border: Border,
    planes: bool = False,
) -> Float[Array, "h w i"]:
    if planes and is_by_edges(*turned.shape[2:]):
        inner = _plain(g, turned, precision, has_border=False, planes=True)
        return with_edges_adjoint(inner, g, turned, precision, border)
    around = jnp.pad(g, ((1, 1), (1, 1), (0, 0)))
    if turned.shape[-1] < TENSOR_CORE_CHANNELS and not planes:
        # XLA would make these zeros the convolution's own padding, with which a CPU takes twice as long.
        around = lax.optimization_barrier(around)
    return unbordered(conv3x3(around, turned, precision, planes=planes), border)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _adjoint_by_winograd(
    g: Float[Array, "h w o"],
    backward: Float[Array, "6 6 o i"],
    precision: lax.Precision,
    border: Border,
) -> Float[Array, "h w i"]:
    rows, columns = (adjoint_tiling(n, border) for n in g.shape[:2])
    if rows and columns:
        return winograd_conv_adjoint(g, backward, precision, rows, columns)
    rows, columns = (bordered_adjoint_tiling(n) for n in g.shape[:2])
    return unbordered(winograd_conv_adjoint(g, backward, precision, rows, columns), border)


def _plain(
    x: Float[Array, "_h _w i"],
    kernel: Float[Array, "3 3 i o"],
    precision: lax.Precision,
    *,
    has_border: bool,
    planes: bool,
) -> Float[Array, "h w o"]:
    correlate = functools.partial(_correlate, precision=precision, has_border=has_border)
    inputs, outputs = kernel.shape[2:]
    if inputs >= TENSOR_CORE_CHANNELS and outputs >= TENSOR_CORE_CHANNELS:
        return correlate(x, kernel)
    if planes:
        form = of_planes if inputs < TENSOR_CORE_CHANNELS else to_planes
        return form(x, kernel, precision, has_border=has_border)
    product = sum_of_patches if inputs < TENSOR_CORE_CHANNELS else sum_of_shifts
    return lax.platform_dependent(
        x,
        kernel,
        cuda=functools.partial(product, precision=precision, has_border=has_border),
        default=correlate,
    )


def sum_of_patches(
    x: Float[Array, "_h _w i"],
    kernel: Float[Array, "3 3 i o"],
    precision: lax.Precision,
    *,
    has_border: bool = False,
) -> Float[Array, "h w o"]:
    """The correlation as a 1x1 convolution of the 3x3 patch around each position.

    For an image, whose channels are three: cuDNN has no 3x3 convolution of so few, whether or not they are
    padded with zeros to eight, that uses a GPU's matrix units well, and writing the patches costs less
    (docs/gpu.md).
    """
    around = x if has_border else jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    h, w = around.shape[0] - 2, around.shape[1] - 2
    patches = jnp.concatenate([around[r : r + h, c : c + w] for r, c in TAPS], axis=-1)
    flat = kernel.reshape(-1, kernel.shape[-1])
    missing = -len(flat) % TENSOR_CORE_CHANNELS
    patches = jnp.pad(patches, ((0, 0), (0, 0), (0, missing)))
    flat = jnp.pad(flat, ((0, missing), (0, 0)))
    # Unlike a product, a convolution takes the bias and the ReLU into its kernel.
    return _correlate(patches, flat[None, None], precision)


def sum_of_shifts(
    x: Float[Array, "_h _w i"],
    kernel: Float[Array, "3 3 i o"],
    precision: lax.Precision,
    *,
    has_border: bool = False,
) -> Float[Array, "h w o"]:
    """The correlation as one product, whose nine parts, one per tap, are shifted and added.

    For the gradient with respect to an image, whose outputs are three channels. The parts are rounded to
    the dtype of `x` and summed in float32.
    """
    outputs = kernel.shape[-1]
    flat = kernel.transpose(2, 0, 1, 3).reshape(kernel.shape[2], -1)
    flat = jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % TENSOR_CORE_CHANNELS)))
    parts = lax.dot_general(x, flat, (((2,), (0,)), ((), ())), precision=precision)
    around = parts if has_border else jnp.pad(parts, ((1, 1), (1, 1), (0, 0)))
    h, w = around.shape[0] - 2, around.shape[1] - 2
    total = jnp.zeros((h, w, outputs), jnp.float32)
    for index, (r, c) in enumerate(TAPS):
        own = slice(index * outputs, (index + 1) * outputs)
        total += around[r : r + h, c : c + w, own].astype(jnp.float32)
    return total.astype(x.dtype)


def _correlate(
    x: Float[Array, "_h _w i"],
    kernel: Float[Array, "k k i o"],
    precision: lax.Precision,
    *,
    has_border: bool = False,
) -> Float[Array, "h w o"]:
    return lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=(1, 1),
        padding="VALID" if has_border else "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def conv_relu(
    x: Float[Array, "h w i"],
    kernel: Kernel,
    bias: Float[Array, " o"],
    inside: Bool[Array, "h w 1"] | None = None,
    precision: lax.Precision = lax.Precision.HIGHEST,
    border: Border | None = None,
    planes: bool = False,
) -> Float[Array, "h w o"]:
    """y = max(0, x * k + b), differentiable with respect to `x` only.

    The backward pass needs nothing but y: its mask is y != 0, which is the deck's "zero where F <= 0", and
    the input gradient is `conv3x3_adjoint` of g and the backward kernel. The kernel and the bias get no
    gradient (it reads as zero).

    Args:
        x: one image, in the dtype wanted for y.
        kernel: both directions of the kernel.
        bias: bias in the dtype of x.
        inside: positions of the image on a canvas larger than it; y is zero elsewhere.
        precision: see `precision.Arithmetic`.
        border: what stands outside the image; None for zeros, without which there is no canvas.
        planes: whether to use the forms that suit a TPU (`vgg.planes`).
    """
    y = jnp.maximum(conv3x3(x, kernel.forward, precision, border, planes) + bias, 0)
    return y if inside is None else jnp.where(inside, y, 0)


def _conv_relu_forward(x, kernel, bias, inside, precision, border, planes):
    y = conv_relu(x, kernel, bias, inside, precision, border, planes)
    return y, (y, kernel)


def _conv_relu_backward(precision, border, planes, residuals, g):
    y, kernel = residuals
    # y is never negative, so y != 0 means y > 0. XLA would turn y > 0 into x * k + b > 0; the sum would
    # then have a second reader, and the ReLU would not be fused into cuDNN's convolution: an eighth more
    # memory traffic in a step (docs/gpu.md).
    g = jnp.where(y != 0, g, 0)
    return conv3x3_adjoint(g, kernel.backward, precision, border, planes), None, None, None


conv_relu.defvjp(_conv_relu_forward, _conv_relu_backward)
