"""The style loss that is the squared Wasserstein-2 distance of two normal distributions of features.

    E_l = (|mu - mu_A|^2 + tr(C + C_A - 2 (S C S)^1/2)) / N,    S = C_A^1/2

Symbols:
    mu, C      mean and covariance of the features of the generated image at a layer
    mu_A, C_A  those of the style image
    N          number of channels

With M = S C S the derivative of the trace by C is I - S M^-1/2 S (Olkin & Pukelsheim 1982). The iteration
of Newton and Schulz yields M^1/2 and M^-1/2 together (Higham 2008, eq. 6.35), so that no derivative is ever
taken through it.

Both covariances are given the same ridge epsilon I. A layer with fewer positions than channels, as conv5_1
at 256 px, has a singular covariance, and then neither the root nor the iteration has the digits: with a
ridge of a thousandth of the mean variance, 12 iterations in float32 leave the gradient far off, and 28 give
NaN. With a tenth of it M has a condition number of 1e4 to 1e5 on photographs and paintings.

# Differs from crowsonkb's style-transfer-pytorch, which adds 1e-4 whatever the scale of the features, and
# iterates without scaling: 16 such iterations leave the trace 1.6e-3 off at conv4_1 of a photograph at
# 128 px, and an image a distance to itself of 3 % of the mean variance; 10 scaled ones leave 1e-6 and 1e-5.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxstyle.cell import gram_matrix, moments
from jaxstyle.vgg.precision import ARITHMETIC, Arithmetic

ITERATIONS = 12
"""Iterations of Newton and Schulz; 10 are enough for a condition number of 1e5."""
MOST_SCALE = 1.69770248526
"""Limit on the scale of an iteration; 3^1/2 would cost the largest eigenvalues their digits (Chen & Chow
2014, "A stable scaling of Newton-Schulz for improving the sign function computation")."""
FLOAT32_BITS = 23
"""Bits of the mantissa of a float32 number."""
RIDGE = 0.1
"""Epsilon over the mean variance of the style's features."""
LEAST_RIDGE = 1e-6
"""Least epsilon over tr(C_A) + |mu_A|^2, for a flat style, whose covariance is nothing but rounding."""

_matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


class Normal(NamedTuple):
    """The distribution of a layer's features that is kept of a style."""

    mean: Float[Array, "*rows c"]
    """mu_A."""
    root: Float[Array, "*rows c c"]
    """S, the root of C_A + epsilon I."""
    ridge: Float[Array, "*rows"]
    """Epsilon."""


def _moments(
    features: Float[Array, "h w c"], positions: Float[Array, ""] | None, arithmetic: Arithmetic
) -> tuple[Float[Array, " c"], Float[Array, "c c"]]:
    """mu and C, the second moment of F - mu, whose own mean has no derivative, as it is 0.

    As F^T F / M - mu mu^T, C would have the rounding of |mu|^2: of a flat picture, which is all mean, it
    would be nothing else, and C + epsilon I indefinite. Around a picture on a canvas there are zeros, and
    no mu can be subtracted. There C is that difference; and as products in bf16 or TF32 round their
    operands, the mean is that of the rounded features, without which C would be up to 2^-8 |mu|^2 off.
    """
    if positions is None:
        mean = moments.mean(features)
        return mean, jnp.asarray(gram_matrix.gram(features - lax.stop_gradient(mean), None, arithmetic))
    if arithmetic.mantissa_bits < FLOAT32_BITS:
        rounded = lax.reduce_precision(features, 8, arithmetic.mantissa_bits)
        features = features + lax.stop_gradient(rounded - features)  # rounding itself has no gradient
    mean = moments.mean(features, positions)
    gram = jnp.asarray(gram_matrix.gram(features, positions, arithmetic))
    return mean, gram - mean[:, None] * mean[None, :]


def keep(
    features: Float[Array, "h w c"],
    positions: Float[Array, ""] | None = None,
    arithmetic: Arithmetic = ARITHMETIC["f32"],
) -> Normal:
    """mu_A, S and epsilon; the arguments are those of `gram_matrix.gram`."""
    mean, covariance = _moments(features, positions, arithmetic)
    n, variance = len(mean), jnp.trace(covariance)
    ridge = jnp.maximum(RIDGE * variance / n, LEAST_RIDGE * (variance + jnp.sum(jnp.square(mean))))
    root, _ = roots(covariance + ridge * jnp.eye(n), ridge)
    return Normal(mean, root, ridge)


def loss(
    features: Float[Array, "h w c"],
    target: Normal,
    positions: Float[Array, ""] | None = None,
    arithmetic: Arithmetic = ARITHMETIC["f32"],
) -> Float[Array, ""]:
    """E_l, with epsilon I in both covariances; its roots are float32 in any arithmetic."""
    mean, covariance = _moments(features, positions, arithmetic)
    n = len(mean)
    covariance = covariance + target.ridge * jnp.eye(n)
    variances = jnp.trace(covariance) + jnp.sum(jnp.square(target.root))
    apart = variances - 2.0 * trace_of_root(covariance, target.root, target.ridge)
    return (jnp.sum(jnp.square(mean - target.mean)) + apart) / n


def roots(
    m: Float[Array, "c c"], least: Float[Array, ""]
) -> tuple[Float[Array, "c c"], Float[Array, "c c"]]:
    """M^1/2 and M^-1/2 of a symmetric positive definite matrix, by the scaled coupled iteration

        T = a (3 I - a^2 Z Y) / 2,   Y <- Y T,   Z <- T Z,   from Y = M / |M|, Z = I.

    The roots of the eigenvalues of Z Y lie between l and 1; a^2 = 3 / (1 + l + l^2) takes both ends to the
    same value, from which the next l follows (Chen & Chow 2014).

    Args:
        m: M.
        least: a number not above its least eigenvalue.
    """
    three, norm = 3.0 * jnp.eye(len(m)), jnp.sqrt(jnp.sum(jnp.square(m)))
    norm = jnp.where(norm > 0, norm, 1.0)
    y, z, low = m / norm, None, jnp.sqrt(least / norm)
    for _ in range(ITERATIONS):
        a = jnp.minimum(jnp.sqrt(3.0 / (1.0 + low + low * low)), MOST_SCALE)
        low = jnp.minimum(0.5 * a * low * (3.0 - jnp.square(a * low)), 1.0)
        t = 0.5 * a * (three - a * a * (y if z is None else _matmul(z, y)))
        y, z = _matmul(y, t), t if z is None else _matmul(t, z)
    assert z is not None
    return y * jnp.sqrt(norm), z / jnp.sqrt(norm)


@jax.custom_vjp
def trace_of_root(
    covariance: Float[Array, "c c"], root: Float[Array, "c c"], ridge: Float[Array, ""]
) -> Float[Array, ""]:
    """tr M^1/2 for M = S C S, differentiable in C only: d/dC = S M^-1/2 S / 2.

    Args:
        covariance: C, with its ridge.
        root: S.
        ridge: epsilon, which no eigenvalue of C or of S S is below.
    """
    return _trace_of_root_forward(covariance, root, ridge)[0]


def _trace_of_root_forward(covariance, root, ridge):
    m_root, inverse = roots(_matmul(_matmul(root, covariance), root), jnp.square(ridge))
    return jnp.trace(m_root), _matmul(_matmul(root, inverse), root)


def _trace_of_root_backward(gradient, g):
    return g * 0.5 * gradient, None, None


trace_of_root.defvjp(_trace_of_root_forward, _trace_of_root_backward)
