"""The losses of Gatys, Ecker & Bethge (2016), on one image.

Symbols:
    F  features of the generated image at one layer, (h, w, N): N channels, M = h*w positions
    P  features of the content image at the same layer
    G  Gram matrix of F over its pixel count, G = F^T F / M, (N, N); see `gram_matrix`
    A  the same for the style image, over *its* pixel count

Losses and sums are float32, whatever the type of the features.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxstyle.cell.gram_matrix import gram
from jaxstyle.vgg.precision import ARITHMETIC, Arithmetic


def content_loss(features: Float[Array, "h w c"], target: Float[Array, "h w c"]) -> Float[Array, ""]:
    """L_content = 1/2 sum (F - P)^2 (Gatys et al. 2016, eq. 1); dL/dF = F - P."""
    return 0.5 * jnp.sum(jnp.square(features.astype(jnp.float32) - target.astype(jnp.float32)))


def style_layer_loss(
    features: Float[Array, "h w c"],
    target: Float[Array, "c c"],
    positions: Float[Array, ""] | None = None,
    arithmetic: Arithmetic = ARITHMETIC["f32"],
) -> Float[Array, ""]:
    """E_l = 1/(4 N^2) sum (G - A)^2 (eq. 4, with G and A over their own pixel counts).

    dE_l/dF = F (G - A) / (N^2 M). The other arguments are those of `gram`.
    """
    n = features.shape[-1]
    g: Array = gram(features, positions, arithmetic)  # pyright: ignore[reportAssignmentType]
    return jnp.sum(jnp.square(g - target)) / (4.0 * n**2)


def total_variation(
    image: Float[Array, "h w c"], inside: Bool[Array, "h w 1"] | None = None, wraps: bool = False
) -> Float[Array, ""]:
    """Sum of the squared differences of horizontal and of vertical neighbours, in grey levels squared.

    Args:
        inside: the positions of the image on a canvas larger than it; pairs that leave it do not count.
        wraps: whether opposite edges are neighbours too.
    """
    if wraps:
        dx = jnp.roll(image, -1, 1) - image
        dy = jnp.roll(image, -1, 0) - image
    else:
        dx = image[:, 1:] - image[:, :-1]
        dy = image[1:] - image[:-1]
    if inside is not None:
        dx, dy = jnp.where(inside[:, 1:], dx, 0), jnp.where(inside[1:], dy, 0)
    return jnp.sum(jnp.square(dx)) + jnp.sum(jnp.square(dy))
