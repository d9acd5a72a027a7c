"""The losses of Gatys, Ecker & Bethge (2016), on one image.

Symbols:
    F  features of the generated image at one layer, (h, w, N): N channels, M = h*w positions
    P  features of the content image at the same layer
    G  Gram matrix of F over its pixel count, G = F^T F / M, (N, N)
    A  the same of the style image, over *its* pixel count

Everything is float32 and every product asks for full float32 precision: Gram entries reach 1e7 and
their differences decide the style loss.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def content_loss(features: Float[Array, "h w c"], target: Float[Array, "h w c"]) -> Float[Array, ""]:
    """L_content = 1/2 sum (F - P)^2 (Gatys et al. 2016, eq. 1); dL/dF = F - P."""
    return 0.5 * jnp.sum(jnp.square(features - target))


def _matmul(a: Float[Array, "m k"], b: Float[Array, "k n"]) -> Float[Array, "m n"]:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


@jax.custom_vjp
def gram(features: Float[Array, "h w c"]) -> Float[Array, "c c"]:
    """G = F^T F / M, the mean over positions of the products of channels (eq. 3, over M).

    # Differs from Gatys et al. (2016): they leave G unscaled and divide the loss by M^2, which has a
    # meaning only while the style image has as many positions as the generated one. With G over its
    # own M the loss is theirs at equal sizes and stays meaningful at others.

    The gradient for a cotangent S is F (S + S^T) / M: one product, since S is symmetric in use.
    """
    flat = features.reshape(-1, features.shape[-1])
    return _matmul(flat.T, flat) / flat.shape[0]


def _gram_forward(features):
    return gram(features), features


def _gram_backward(features, s):
    flat = features.reshape(-1, features.shape[-1])
    return (_matmul(flat, (s + s.T) / flat.shape[0]).reshape(features.shape),)


gram.defvjp(_gram_forward, _gram_backward)


def style_layer_loss(features: Float[Array, "h w c"], target: Float[Array, "c c"]) -> Float[Array, ""]:
    """E_l = 1/(4 N^2) sum (G - A)^2 (eq. 4, with G and A over their own pixel counts).

    dE_l/dF = F (G - A) / (N^2 M).
    """
    n = features.shape[-1]
    return jnp.sum(jnp.square(gram(features) - target)) / (4.0 * n**2)


def total_variation(image: Float[Array, "h w c"]) -> Float[Array, ""]:
    """Sum of the squared differences of horizontal and of vertical neighbours, in pixel units."""
    dx = image[:, 1:] - image[:, :-1]
    dy = image[1:] - image[:-1]
    return jnp.sum(jnp.square(dx)) + jnp.sum(jnp.square(dy))
