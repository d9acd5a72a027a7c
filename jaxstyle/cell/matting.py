"""The matting Laplacian of the content: what a picture costs that is not, around every pixel, an affine
image of the content's colours (Levin, Lischinski & Weiss 2008; Luan et al. 2017, eq. 2).

Symbols:
    I    the content, RGB, 0 to 1, (h, w, 3)
    v    one channel of the picture, 0 to 255, (h, w)
    k    a window of 3x3 px that lies wholly within the image
    e    the ridge, Levin's 1e-7

    L_photorealism = sum_c v_c^T L v_c
                   = sum_c sum_k min_{a, b} ( sum_{i in k} (v_i - a^T I_i - b)^2 + e |a|^2 ),

so that edges of a picture are where those of the content are, and colours change smoothly or not at all. An
affine image of the content, a^T I + b everywhere, costs at most e |a|^2 for each window, and not 0.

No matrix of pixels by pixels is made. With X the nine centred colours of a window, (9, 3), the minimum is
at a = (X^T X + e 1)^-1 X^T v and b = mean(v - I a); all sums over a window are box filters. Matrices are
inverted once for a content, as triangular factors: T with T T^T = (X^T X + e 1)^-1.

# X^T X + e 1 is never formed. In float32 its rounding would be as large as e, and where a window has one
# colour or colours on a line, it would be inverted into noise. T comes from a QR factorisation of X with
# sqrt(e) 1 below it, which loses the root of that; it needs no float64.

By the envelope theorem the slope of L is that of its residuals with a and b held fixed, and an error in a
changes L by its square.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxstyle.cell.state import View

RIDGE = 1e-7
"""e, for colours of 0 to 1."""
SIDE = 3
"""Pixels along an edge of a window."""


class Kept(NamedTuple):
    """The values kept of a content: its colours, and an inverse root for every window."""

    colours: Float[Array, "h w 3"]
    """I."""
    factor: Float[Array, "h2 w2 6"]
    """The upper triangle of T by rows: T_11, T_12, T_13, T_22, T_23, T_33."""


def _shifted(image: Float[Array, "h w *c"]) -> Iterator[Float[Array, "h2 w2 *c"]]:
    """The pixels of every window, one of the nine at a time."""
    h, w = image.shape[:2]
    for down in range(SIDE):
        for across in range(SIDE):
            yield image[down : h - SIDE + 1 + down, across : w - SIDE + 1 + across]


def _mean(image: Float[Array, "h w *c"]) -> Float[Array, "h2 w2 *c"]:
    """The mean of every window."""
    return sum(_shifted(image)) / SIDE**2  # pyright: ignore[reportReturnType]


def factor(colours: Float[Array, "h w 3"]) -> Float[Array, "h2 w2 6"]:
    """T = R^-1, where Q R is the QR factorisation of X above sqrt(e) 1 (modified Gram-Schmidt)."""
    centre = _mean(colours)
    nine = jnp.stack([pixel - centre for pixel in _shifted(colours)])  # (9, h2, w2, 3)
    zero, ridge = jnp.zeros_like(centre[..., 0]), jnp.full_like(centre[..., 0], math.sqrt(RIDGE))
    columns = [
        jnp.concatenate([nine[..., c], jnp.stack([ridge if row == c else zero for row in range(3)])])
        for c in range(3)
    ]
    r = {}
    for i in range(3):
        r[i, i] = jnp.sqrt(jnp.sum(jnp.square(columns[i]), 0))
        unit = columns[i] / r[i, i]
        for j in range(i + 1, 3):
            r[i, j] = jnp.sum(unit * columns[j], 0)
            columns[j] = columns[j] - unit * r[i, j]
    a, b, c = (1 / r[i, i] for i in range(3))
    t = (a, -a * r[0, 1] * b, a * b * c * (r[0, 1] * r[1, 2] - r[0, 2] * r[1, 1]), b, -b * r[1, 2] * c, c)
    return jnp.stack(t, -1)


def keep(view: View) -> Kept:
    """I and T of a content image."""
    colours = view.image / 255
    return Kept(colours, factor(colours))


def coefficients(
    image: Float[Array, "h w 3"], kept: Kept
) -> tuple[list[Float[Array, "h2 w2 3"]], Float[Array, "h2 w2 3"]]:
    """a of every window and channel, as its three entries, and b as the mean of v and of I in its place.

    Returns:
        a_r, a_g, a_b, each for the three channels of the picture; mean of v.
    """
    centre, mean = _mean(kept.colours), _mean(image)
    products = [jnp.zeros_like(mean) for _ in range(3)]  # X^T v, with v centred, too
    for pixel, value in zip(_shifted(kept.colours), _shifted(image), strict=True):
        for c in range(3):
            products[c] = products[c] + (pixel - centre)[..., c, None] * (value - mean)
    t = [kept.factor[..., i, None] for i in range(6)]
    x, y, z = products
    x, y, z = t[0] * x, t[1] * x + t[3] * y, t[2] * x + t[4] * y + t[5] * z  # T^T X^T v
    return [t[0] * x + t[1] * y + t[2] * z, t[3] * y + t[4] * z, t[5] * z], mean


def loss(view: View, kept: Kept) -> Float[Array, ""]:
    """L_photorealism of a picture."""
    image = view.image
    a, mean = coefficients(lax.stop_gradient(image), lax.stop_gradient(kept))
    total = RIDGE * sum(jnp.sum(jnp.square(of)) for of in a)
    centre = _mean(kept.colours)
    for pixel, value in zip(_shifted(kept.colours), _shifted(image), strict=True):
        apart = pixel - centre
        rest = value - mean - sum(apart[..., c, None] * a[c] for c in range(3))
        total = total + jnp.sum(jnp.square(rest))
    return jnp.asarray(total)
