"""The style loss of Gram matrices and means.

A Gram matrix is of degree 2 in the features and its loss of degree 4, beside which the squared distance of
means would vanish; 2 tr(A) lifts it to the same degree.

Symbols are those of `losses`; mu is the mean of F over its positions, mu_A that of the style image.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstyle.cell import gram_matrix, losses
from jaxstyle.vgg.precision import ARITHMETIC, Arithmetic


class Moments(NamedTuple):
    """The first two moments of a layer's features, which are kept of a style."""

    gram: Float[Array, "*rows c c"]
    """A."""
    mean: Float[Array, "*rows c"]
    """mu_A."""


def mean(features: Float[Array, "h w c"], positions: Float[Array, ""] | None = None) -> Float[Array, " c"]:
    """mu, in float32; the arguments are those of `gram_matrix.gram`."""
    total = jnp.sum(features.astype(jnp.float32), (0, 1))
    return total / (features.shape[0] * features.shape[1] if positions is None else positions)


def keep(
    features: Float[Array, "h w c"],
    positions: Float[Array, ""] | None = None,
    arithmetic: Arithmetic = ARITHMETIC["f32"],
) -> Moments:
    """A and mu_A; the arguments are those of `gram_matrix.gram`."""
    return Moments(
        jnp.asarray(gram_matrix.gram(features, positions, arithmetic)), mean(features, positions)
    )


def loss(
    features: Float[Array, "h w c"],
    target: Moments,
    positions: Float[Array, ""] | None = None,
    arithmetic: Arithmetic = ARITHMETIC["f32"],
) -> Float[Array, ""]:
    """E_l = (sum (G - A)^2 + 2 tr(A) sum (mu - mu_A)^2) / (4 N^2)."""
    of_grams = losses.style_layer_loss(features, target.gram, positions, arithmetic)
    of_means = jnp.sum(jnp.square(mean(features, positions) - target.mean))
    return of_grams + jnp.trace(target.gram) * of_means / (2.0 * features.shape[-1] ** 2)
