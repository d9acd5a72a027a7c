"""The 3x3 convolution with its ReLU, and the 2x2 poolings, as pure functions of one image.

Layout is (h, w, c) and HWIO, float32; a batch is made by `jax.vmap` in `engine.py`. The network's
weights are constants of the problem, so only the derivative with respect to the image exists.

Symbols: x input, k kernel, b bias, y = max(0, x * k + b), g = dL/dy.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_HWIO = ("NHWC", "HWIO", "NHWC")


def conv3x3(x: Float[Array, "h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "h w o"]:
    """Correlation of one image with a 3x3 kernel, stride 1, zeros outside the image."""
    return lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=_HWIO,
        # Float32 products on every device: without this a GPU takes TF32 and a TPU bfloat16.
        precision=lax.Precision.HIGHEST,
    )[0]


@jax.custom_vjp
def conv_relu(
    x: Float[Array, "h w i"], kernel: Float[Array, "3 3 i o"], bias: Float[Array, " o"]
) -> Float[Array, "h w o"]:
    """max(0, x * k + b), differentiable with respect to `x` only.

    The gradient keeps nothing but y: its mask is y > 0, which is the deck's "zero where F <= 0", and
    the input gradient is itself a convolution, of g with the kernel turned by 180 degrees and its
    channels exchanged. The kernel and the bias get no gradient (it reads as zero).
    """
    return jnp.maximum(conv3x3(x, kernel) + bias, 0)


def _conv_relu_forward(x, kernel, bias):
    y = conv_relu(x, kernel, bias)
    return y, (y, kernel)


def _conv_relu_backward(residuals, g):
    y, kernel = residuals
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return conv3x3(jnp.where(y > 0, g, 0), turned), None, None


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
