"""The power spectrum of the style's pixels: half the squared distance of a picture to the nearest image
that has it (Liu, Gousseau & Xia 2016).

Symbols:
    x    the picture, RGB, 0 to 255, (h, w, 3)
    T    the periodic component of the style image, of the same size
    ^    the discrete Fourier transform of a channel, unitary, at half of the frequencies

Images whose three channels are those of T, each frequency turned by a phase that the channels share, have
its spectrum and its colours. The nearest of them to x is

    P(x)^ = T^ phi,   phi = s / |s|,   s = sum_c x_c^ conj(T_c^),

and L_spectrum = 1/2 sum (x - P(x))^2, whose gradient is x - P(x): as P(x) is the nearest, L does not change
to first order when it moves. Where s is 0 every phase is as near; phi is 1 there.

The spectrum of an image as it is has a cross, from the jumps between its opposite edges. The periodic
component (Moisan 2011) is the image without them: its Laplacian with wrapped edges is that of the image
without any beyond its edges. So L is 0 for cyclic shifts of T, not of the style image itself.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from jaxstyle.cell.state import View

AXES = (0, 1)


def _transform(image: Float[Array, "h w c"]) -> Complex[Array, "h w2 c"]:
    return jnp.fft.rfft2(image, axes=AXES, norm="ortho")


def periodic_spectrum(image: Float[Array, "h w c"]) -> Complex[Array, "h w2 c"]:
    """T^ of an image: of u - s, where s solves the Poisson equation of the jumps v between opposite edges.

    v is what wrapping the edges adds to the Laplacian of u, and s^ = v^ / (2 cos 2 pi q/h + 2 cos 2 pi r/w
    - 4), without a mean.
    """
    h, w, _ = image.shape
    down, across = image[-1] - image[0], image[:, -1] - image[:, 0]
    jumps = jnp.zeros_like(image).at[0].add(down).at[-1].add(-down)
    jumps = jumps.at[:, 0].add(across).at[:, -1].add(-across)
    cosines = (2 * np.cos(2 * np.pi * np.arange(edge) / edge) for edge in (h, w))
    rows, columns = cosines
    divisor = rows[:, None] + columns[None, : w // 2 + 1] - 4
    divisor[0, 0] = np.inf
    return _transform(image) - _transform(jumps) * jnp.asarray(1 / divisor, jnp.float32)[..., None]


def nearest(image: Float[Array, "h w c"], spectrum: Complex[Array, "h w2 c"]) -> Float[Array, "h w c"]:
    """P(x), for T^."""
    s = jnp.sum(_transform(image) * jnp.conj(spectrum), -1, keepdims=True)
    length = jnp.abs(s)
    phase = jnp.where(length > 0, s / jnp.where(length > 0, length, 1.0), 1.0)
    return jnp.fft.irfft2(spectrum * phase, image.shape[:2], axes=AXES, norm="ortho")


@jax.custom_vjp
def distance(image: Float[Array, "h w c"], spectrum: Complex[Array, "h w2 c"]) -> Float[Array, ""]:
    """L_spectrum, differentiable in x only."""
    return _forward(image, spectrum)[0]


def _forward(image, spectrum):
    apart = image - nearest(image, spectrum)
    return 0.5 * jnp.sum(jnp.square(apart)), apart


def _backward(apart, g):
    return g * apart, None


distance.defvjp(_forward, _backward)


def keep(view: View) -> Complex[Array, "h w2 3"]:
    """T^ of a style image."""
    return periodic_spectrum(view.image)


def loss(view: View, kept: Complex[Array, "h w2 3"]) -> Float[Array, ""]:
    """L_spectrum of a picture."""
    return jnp.asarray(distance(view.image, kept))
