"""The 3x3 convolution with its ReLU, and the 2x2 poolings, as pure functions of one image.

Layout is (h, w, c) and HWIO, float32; a batch is made by the one `vmap` in `engine.py`. The network's
weights are constants of the problem, so only the derivative with respect to the image exists.

A kernel comes in one of two forms, prepared once and passed as an argument: as it is, (3, 3, i, o), for
XLA's own convolution; or transformed, (6, 6, i, o), for Winograd's F(4x4, 3x3) (Lavin & Gray 2016),
which needs a quarter of the multiplications and is the faster one on a CPU wherever channels are many.

Symbols: x input, k kernel, b bias, y = max(0, x * k + b), g = dL/dy; for Winograd d a 6x6 tile of x,
U = G k G^T, V = B^T d B, Y = A^T (U V) A a 4x4 tile of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

# Lavin & Gray (2016), section 4.2, of the points 0, 1, -1, 2, -2 and infinity.
WINOGRAD_BT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
WINOGRAD_G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
WINOGRAD_AT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)


class Kernel(NamedTuple):
    """A 3x3 kernel in the form its layer runs in: plain, k k = 3 3, or transformed, k k = 6 6."""

    forward: Float[Array | np.ndarray, "k k i o"]
    backward: Float[Array | np.ndarray, "k k o i"]
    """Of the input gradient: the kernel turned by 180 degrees, its channels exchanged."""


def prepare(kernel: Float[np.ndarray, "3 3 i o"], *, winograd: bool) -> Kernel:
    """Both directions of a layer's kernel, transformed for Winograd's algorithm if asked to."""
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    if winograd:
        return Kernel(_transform(kernel), _transform(turned))
    return Kernel(kernel, np.ascontiguousarray(turned))


def _transform(kernel: Float[np.ndarray, "3 3 i o"]) -> Float[np.ndarray, "6 6 i o"]:
    """U = G k G^T for every pair of channels, in float64, rounded once."""
    g = np.array(WINOGRAD_G)
    columns = np.tensordot(g, kernel.astype(np.float64), (1, 0))
    return np.tensordot(g, columns, (1, 1)).swapaxes(0, 1).astype(np.float32)


def conv3x3(
    x: Float[Array, "h w i"], kernel: Float[Array | np.ndarray, "k k i o"]
) -> Float[Array, "h w o"]:
    """Correlation of one image with a 3x3 kernel in either form, stride 1, zeros outside the image."""
    return _plain(x, kernel) if kernel.shape[0] == 3 else _winograd(x, kernel)


def _plain(x: Float[Array, "h w i"], kernel: Float[Array | np.ndarray, "3 3 i o"]) -> Float[Array, "h w o"]:
    return lax.conv_general_dilated(
        x[None],
        jnp.asarray(kernel),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        # Float32 products on every device: without this a GPU takes TF32 and a TPU bfloat16.
        precision=lax.Precision.HIGHEST,
    )[0]


def _combine(coefficients: Sequence[float | int], parts: Sequence[Array]) -> Array:
    """The sum of `parts`, each times its coefficient, skipping zeros and multiplications by one."""
    terms = []
    for c, part in zip(coefficients, parts, strict=True):
        if c:
            terms.append(part if c == 1 else -part if c == -1 else float(c) * part)
    return sum(terms[1:], start=terms[0])


def _winograd(x: Float[Array, "h w i"], u: Float[Array | np.ndarray, "6 6 i o"]) -> Float[Array, "h w o"]:
    """F(4x4, 3x3): 36 matrix products over all tiles, between linear maps of rows and of columns.

    The barriers keep the passes apart. Without them XLA fuses a row pass into its column pass and
    computes it again for every element that needs it: measured 3.4 times slower than PyTorch.
    """
    (h, w, i), o = x.shape, u.shape[-1]
    down, across = -(-h // 4), -(-w // 4)
    x = jnp.pad(x, ((1, 4 * down + 1 - h), (1, 4 * across + 1 - w), (0, 0)))
    d = [lax.slice_in_dim(x, k, k + 4 * down - 3, 4, axis=0) for k in range(6)]
    v = lax.optimization_barrier(jnp.stack([_combine(row, d) for row in WINOGRAD_BT]))
    d = [lax.slice_in_dim(v, k, k + 4 * across - 3, 4, axis=2) for k in range(6)]
    v = jnp.stack([_combine(row, d) for row in WINOGRAD_BT], axis=1)
    v = lax.optimization_barrier(v.reshape(36, down * across, i))
    products = lax.dot_general(
        v, u.reshape(36, i, o), (((2,), (1,)), ((0,), (0,))), precision=lax.Precision.HIGHEST
    )
    products = lax.optimization_barrier(products).reshape(6, 6, down, across, o)
    y = lax.optimization_barrier(jnp.stack([_combine(row, list(products)) for row in WINOGRAD_AT]))
    y = jnp.stack([_combine(row, [y[:, k] for k in range(6)]) for row in WINOGRAD_AT], axis=3)
    return y.transpose(1, 0, 2, 3, 4).reshape(4 * down, 4 * across, o)[:h, :w]


@jax.custom_vjp
def conv_relu(x: Float[Array, "h w i"], kernel: Kernel, bias: Float[Array, " o"]) -> Float[Array, "h w o"]:
    """max(0, x * k + b), differentiable with respect to `x` only.

    The gradient keeps nothing but y: its mask is y > 0, which is the deck's "zero where F <= 0", and the
    input gradient is itself a convolution, of g with the turned kernel. The kernel and the bias get no
    gradient (it reads as zero).
    """
    return jnp.maximum(conv3x3(x, kernel.forward) + bias, 0)


def _conv_relu_forward(x, kernel, bias):
    y = conv_relu(x, kernel, bias)
    return y, (y, kernel)


def _conv_relu_backward(residuals, g):
    y, kernel = residuals
    return conv3x3(jnp.where(y > 0, g, 0), kernel.backward), None, None


conv_relu.defvjp(_conv_relu_forward, _conv_relu_backward)


def _quads(x: Float[Array, "h w c"]) -> Float[Array, "h2 2 w2 2 c"]:
    h, w, c = x.shape
    return x[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, c)


def avg_pool(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
    """Mean of each 2x2 square; an odd last row or column is dropped."""
    return _quads(x).mean(axis=(1, 3))


def max_pool(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
    """Maximum of each 2x2 square; an odd last row or column is dropped.

    Written as a reduction over a reshape, because the gradient of a windowed maximum is a
    select-and-scatter: slow everywhere and without a deterministic form on a GPU. Equal maxima share
    the gradient evenly; after a ReLU most ties are zeros, whose gradient the ReLU removes.
    """
    return _quads(x).max(axis=(1, 3))


POOLS = {"avg": avg_pool, "max": max_pool}
