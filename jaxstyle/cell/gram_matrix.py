"""The Gram matrix of features, and its gradient.

Symbols:
    F  features at one layer, (h, w, N): N channels, M = h*w positions
    G  their Gram matrix over its pixel count, G = F^T F / M, (N, N)

Products are computed as `precision.Arithmetic` says, in full float32 by default: the entries reach 1e7, and
the style loss depends on their differences. Sums are float32.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxstyle.vgg.precision import ARITHMETIC, Arithmetic


def product(
    a: Float[Array, "_i _j"], b: Float[Array, "_k _l"], over: tuple[int, int], arithmetic: Arithmetic
) -> Float[Array, "_m _n"]:
    """Sum of products over axis `over[0]` of a and `over[1]` of b.

    It never takes a transpose, which a CPU would first write to memory: for conv1_1 that takes longer than
    the product itself.
    """
    return lax.dot_general(
        a.astype(arithmetic.dtype),
        b.astype(arithmetic.dtype),
        (((over[0],), (over[1],)), ((), ())),
        precision=arithmetic.precision,
        preferred_element_type=jnp.float32,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def gram(
    features: Float[Array, "h w c"],
    positions: Float[Array, ""] | None = None,
    arithmetic: Arithmetic = ARITHMETIC["f32"],
) -> Float[Array, "c c"]:
    """G = F^T F / M, the mean over positions of the products of channels (eq. 3, over M).

    # Differs from Gatys et al. (2016): they leave G unscaled and divide the loss by M^2, which is
    # meaningful only if the style image has as many positions as the generated one. With each G divided
    # by its own M, the loss equals theirs at equal sizes and stays meaningful at others.

    The gradient for a cotangent S is F (S + S^T) / M: one product, since S is symmetric in use.

    Args:
        positions: M, if the features are those of an image on a canvas, with zeros around it.
        arithmetic: that of the products.
    """
    flat = features.reshape(-1, features.shape[-1])
    return product(flat, flat, (0, 0), arithmetic) / (flat.shape[0] if positions is None else positions)


def _gram_forward(features, positions, arithmetic):
    return gram(features, positions, arithmetic), (features, positions)


def _gram_backward(arithmetic, residuals, s):
    features, positions = residuals
    flat = features.reshape(-1, features.shape[-1])
    both = (s + s.T) / (flat.shape[0] if positions is None else positions)
    gradient = product(flat, both, (1, 0), arithmetic)
    return gradient.reshape(features.shape).astype(features.dtype), None


gram.defvjp(_gram_forward, _gram_backward)
