"""The 3x3 convolution with its ReLU, and the 2x2 poolings, as pure functions of one image.

Layout is (h, w, c) and HWIO; batching is left to the one `vmap` in `device/compilation.py`. The network's
weights are constants of the problem, so only the derivative with respect to the image exists.

A kernel comes in one of two forms, prepared once and passed as an argument: as it is, (3, 3, i, o), for
XLA's own convolution; or transformed, (6, 6, i, o), for Winograd's F(4x4, 3x3) (Lavin & Gray 2016). The
latter needs a quarter of the multiplications and is faster on a CPU wherever there are many channels.

The dtype of a kernel is the one in which its products are computed: float32, or bfloat16 summed in float32.
An image keeps its own dtype throughout.

Symbols: x input, k kernel, b bias, y = max(0, x * k + b), g = dL/dy; for Winograd d a 6x6 tile of x,
U = G k G^T, V = B^T d B, Y = A^T (U V) A a 4x4 tile of the output.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

TENSOR_CORE_CHANNELS = 8
"""A GPU's matrix units need channels in multiples of this."""
TILE = 4
"""Edge of an output tile of Winograd's algorithm; the edge of an input tile is two more."""
# Lavin & Gray use 0, +-1, +-2. With the points below, rounding of the products does half the harm, in
# float32 and in bfloat16 (tests/test_conv.py).
POINTS = tuple(Fraction(n, 4) for n in (0, 3, -3, 6, -6))


def toom_cook(points: Sequence[Fraction]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B^T, G and A^T of F(m, 3) with m + 1 finite points and infinity (Lavin & Gray 2016, section 4.2).

    Returns:
        float64 matrices (m + 2, m + 2), (m + 2, 3) and (m, m + 2), with A^T [(G k)(B^T d)] = d * k.
    """
    m = len(points) - 1
    bt, g, at = np.zeros((m + 2, m + 2)), np.zeros((m + 2, 3)), np.zeros((m, m + 2))

    def polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
        """Coefficients of the product of (z - root), the constant one first."""
        found = [Fraction(1)]
        for root in roots:
            found = [
                a - root * b for a, b in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)
            ]
        return found

    for j, p in enumerate(points):
        others = [q for q in points if q != p]
        scale = math.prod((p - q for q in others), start=Fraction(1))
        bt[j, : m + 1] = [float(c) for c in polynomial(others)]
        g[j] = [float(p**i / scale) for i in range(3)]
        at[:, j] = [float(p**i) for i in range(m)]
    bt[-1] = [float(c) for c in polynomial(points)]
    g[-1, -1] = at[-1, -1] = 1
    return bt, g, at


WINOGRAD_BT, WINOGRAD_G, WINOGRAD_AT = toom_cook(POINTS)


class Arithmetic(NamedTuple):
    """The type and precision in which products are computed; they are always summed in float32."""

    dtype: DTypeLike
    """Type of the operands."""
    precision: lax.Precision
    """Precision for float32 operands. Below the highest, a GPU uses TF32 and a TPU bfloat16."""


ARITHMETIC = {
    "f32": Arithmetic(np.float32, lax.Precision.HIGHEST),
    "tf32": Arithmetic(np.float32, lax.Precision.DEFAULT),
    "bf16": Arithmetic(jnp.bfloat16, lax.Precision.DEFAULT),
}
"""The arithmetic for each value of `--precision`."""


class Kernel(NamedTuple):
    """A 3x3 kernel in the form that its layer uses: plain, k k = 3 3, or transformed, k k = 6 6."""

    forward: Float[Array | np.ndarray, "k k i o"]
    backward: Float[Array | np.ndarray, "k k o i"]
    """The kernel of the input gradient: turned by 180 degrees, with its channels exchanged."""


def prepare(
    kernel: Float[np.ndarray, "3 3 i o"], *, winograd: bool, dtype: DTypeLike = np.float32
) -> Kernel:
    """Both directions of a layer's kernel, in the form that its convolution needs.

    Args:
        kernel: float32.
        winograd: whether to transform it for Winograd's algorithm.
        dtype: type in which the products will be computed.
    """
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    if winograd:
        return Kernel(_transform(kernel).astype(dtype), _transform(turned).astype(dtype))
    return Kernel(kernel.astype(dtype), np.ascontiguousarray(turned.astype(dtype)))


def _transform(kernel: Float[np.ndarray, "3 3 i o"]) -> Float[np.ndarray, "6 6 i o"]:
    """U = G k G^T for every pair of channels, in float64 and without rounding."""
    i, o = kernel.shape[2:]
    both = np.kron(WINOGRAD_G, WINOGRAD_G)  # rows and columns in one matrix product, without transposing
    return (both @ kernel.reshape(9, i * o).astype(np.float64)).reshape(6, 6, i, o)


def conv3x3(
    x: Float[Array, "h w i"],
    kernel: Float[Array | np.ndarray, "k k i o"],
    precision: lax.Precision = lax.Precision.HIGHEST,
) -> Float[Array, "h w o"]:
    """Correlation of one image with a 3x3 kernel in either form, with stride 1 and zeros outside the image.

    Args:
        precision: see `Arithmetic`.
    """
    return (_plain if kernel.shape[0] == 3 else _winograd)(x, jnp.asarray(kernel), precision)


def _plain(
    x: Float[Array, "h w i"], kernel: Float[Array, "3 3 i o"], precision: lax.Precision
) -> Float[Array, "h w o"]:
    correlate = functools.partial(_correlate, precision=precision)
    if not any(channels % TENSOR_CORE_CHANNELS for channels in kernel.shape[2:]):
        return correlate(x, kernel)
    return lax.platform_dependent(
        x, kernel, cuda=lambda x, kernel: in_eights(correlate, x, kernel), default=correlate
    )


def in_eights(
    correlate: Callable[[Array, Array], Array], x: Float[Array, "h w i"], kernel: Float[Array, "3 3 i o"]
) -> Float[Array, "h w o"]:
    """The result of `correlate`, with zero channels added up to multiples of `TENSOR_CORE_CHANNELS`.

    XLA itself does this only for float16. It matters for the first layer, whose input has the three
    channels of an image.
    """
    i, o = (-channels % TENSOR_CORE_CHANNELS for channels in kernel.shape[2:])
    x = jnp.pad(x, ((0, 0), (0, 0), (0, i)))
    return correlate(x, jnp.pad(kernel, ((0, 0), (0, 0), (0, i), (0, o))))[..., : kernel.shape[3]]


def _correlate(
    x: Float[Array, "h w i"], kernel: Float[Array, "3 3 i o"], precision: lax.Precision
) -> Float[Array, "h w o"]:
    return lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )[0]


def _combine(coefficients: np.ndarray, parts: Sequence[Array]) -> Array:
    """The sum of `parts`, each times its coefficient, skipping zeros and multiplications by one."""
    terms = []
    for c, part in zip(coefficients, parts, strict=True):
        if c:
            terms.append(part if c == 1 else -part if c == -1 else float(c) * part)
    return sum(terms[1:], start=terms[0])


def _winograd(
    x: Float[Array, "h w i"], u: Float[Array, "6 6 i o"], precision: lax.Precision
) -> Float[Array, "h w o"]:
    """F(4x4, 3x3): 36 matrix products over all tiles, between linear maps of rows and of columns.

    The barriers keep the passes apart. Without them, XLA fuses each row pass into its column pass and
    computes it again for every element that needs it, which was measured to be 3.4 times slower than
    PyTorch.
    """
    (h, w, i), o, n = x.shape, u.shape[-1], TILE + 2
    down, across = -(-h // TILE), -(-w // TILE)
    x = jnp.pad(x, ((1, TILE * down + 1 - h), (1, TILE * across + 1 - w), (0, 0)))
    d = [lax.slice_in_dim(x, k, k + TILE * (down - 1) + 1, TILE, axis=0) for k in range(n)]
    v = lax.optimization_barrier(jnp.stack([_combine(row, d) for row in WINOGRAD_BT]))
    d = [lax.slice_in_dim(v, k, k + TILE * (across - 1) + 1, TILE, axis=2) for k in range(n)]
    v = jnp.stack([_combine(row, d) for row in WINOGRAD_BT], axis=1).astype(u.dtype)
    v = lax.optimization_barrier(v.reshape(n * n, down * across, i))
    products = lax.dot_general(
        v,
        u.reshape(n * n, i, o),
        (((2,), (1,)), ((0,), (0,))),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    products = lax.optimization_barrier(products).reshape(n, n, down, across, o)
    y = lax.optimization_barrier(jnp.stack([_combine(row, list(products)) for row in WINOGRAD_AT]))
    y = jnp.stack([_combine(row, [y[:, k] for k in range(n)]) for row in WINOGRAD_AT], axis=3)
    return y.transpose(1, 0, 2, 3, 4).reshape(TILE * down, TILE * across, o)[:h, :w].astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def conv_relu(
    x: Float[Array, "h w i"],
    kernel: Kernel,
    bias: Float[Array, " o"],
    inside: Bool[Array, "h w 1"] | None = None,
    precision: lax.Precision = lax.Precision.HIGHEST,
) -> Float[Array, "h w o"]:
    """y = max(0, x * k + b), differentiable with respect to `x` only.

    The backward pass needs nothing but y: its mask is y != 0, which is the deck's "zero where F <= 0", and
    the input gradient is itself a convolution, of g with the turned kernel. The kernel and the bias get no
    gradient (it reads as zero).

    Args:
        x: one image, in the dtype wanted for y.
        kernel: both directions of the kernel.
        bias: bias in the dtype of x.
        inside: positions of the image on a canvas larger than it; y is zero elsewhere.
        precision: see `Arithmetic`.
    """
    y = jnp.maximum(conv3x3(x, kernel.forward, precision) + bias, 0)
    return y if inside is None else jnp.where(inside, y, 0)


def _conv_relu_forward(x, kernel, bias, inside, precision):
    y = conv_relu(x, kernel, bias, inside, precision)
    return y, (y, kernel)


def _conv_relu_backward(precision, residuals, g):
    y, kernel = residuals
    # y is never negative, so y != 0 means y > 0. XLA would turn y > 0 into x * k + b > 0; the sum would
    # then have a second reader, and the ReLU would not be fused into cuDNN's convolution: an eighth more
    # memory traffic in a step (docs/gpu.md).
    return conv3x3(jnp.where(y != 0, g, 0), kernel.backward, precision), None, None, None


conv_relu.defvjp(_conv_relu_forward, _conv_relu_backward)


def _quads(x: Float[Array, "h w c"]) -> Float[Array, "h2 2 w2 2 c"]:
    h, w, c = x.shape
    return x[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, c)


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
