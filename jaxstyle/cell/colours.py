"""The colours that a picture may have, a subspace of its pixels.

For `grey`, a value of `Program.colour`, it is r = g = b, in which the orthogonal projection of x is its
mean over channels, P x. A picture starts in it and stays in it: the optimizer is given P grad L, the
gradient within it, so that all that L-BFGS remembers lies in it too.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstyle.spec.colours import GREY


def projected(colour: str, change: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """P of a change of a picture, such as a gradient."""
    if colour != GREY:
        return change
    return jnp.broadcast_to(jnp.mean(change, axis=-1, keepdims=True), change.shape)


def noise_in(colour: str, noise: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """Noise N(0, 1) as a picture may have it: for grey sqrt(3) P, which is N(0, 1) again."""
    return noise if colour != GREY else math.sqrt(3.0) * projected(colour, noise)


def held(colour: str, image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """A picture that differs from the subspace by rounding alone, put into it.

    # Matrix products need not round equal columns equally, and the mean of three equal numbers need not be
    # that number; the first channel in place of all three is exact.
    """
    return image if colour != GREY else jnp.broadcast_to(image[..., :1], image.shape)
