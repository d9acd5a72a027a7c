"""Colours taken from the content: a style's moved to the content's, and the content's chroma put back
(Gatys et al. 2016, "Preserving color in neural artistic style transfer").

Pixels are RGB, 0 to 255, (h, w, 3); everything is computed in float64. Symbols:
    m_s, C_s  mean and covariance of the colours of a style
    m_c, C_c  those of a content
    Y         luma (ITU-R BT.601)
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64, UInt8

from jaxstyle.inputs.preprocess import LUMA

MOST_STRETCH = 8.0
"""The most by which a direction of colour is stretched.

Of 288 pairs of coloured photographs and paintings three need more. A style that is nearly grey would need
20 or 50, and its coloured speckle, of a grey level or two, would become the colours.
"""
_TINY = 0.1
"""The least standard deviation that the map divides by, in grey levels, a third of what rounding to whole
levels makes; what is smaller is stretched too much anyway."""


def colour_map(
    style_covariance: Float64[np.ndarray, "3 3"], content_covariance: Float64[np.ndarray, "3 3"]
) -> Float64[np.ndarray, "3 3"]:
    """A, symmetric and positive semidefinite, with A C_s A = C_c: the optimal transport between them.

        A = C_s^-1/2 (C_s^1/2 C_c C_s^1/2)^1/2 C_s^-1/2

    # Differs from Gatys et al. (2016): they add 1e-5 of the squared range to both diagonals, so that
    # neither is singular, and no covariance is met exactly. Here C_c is taken as it is, and so is C_s if
    # A stretches no direction of colour more than `MOST_STRETCH` times, as it would for a grey style.
    """
    values, vectors = np.linalg.eigh(style_covariance)
    sd = np.sqrt(np.maximum(values, _TINY**2))
    root, inverse = (vectors * of @ vectors.T for of in (sd, 1 / sd))
    found = inverse @ _root(root @ content_covariance @ root) @ inverse
    stretch, directions = np.linalg.eigh((found + found.T) / 2)
    return directions * np.clip(stretch, 0.0, MOST_STRETCH) @ directions.T


def _root(matrix: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """The symmetric root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T


def moved(
    style: UInt8[np.ndarray, "h w 3"], content: UInt8[np.ndarray, "_h _w 3"]
) -> Float64[np.ndarray, "h w 3"]:
    """The style with the mean and the covariance of the content's colours: A (s - m_s) + m_c."""
    s, c = (of.reshape(-1, 3).astype(np.float64) for of in (style, content))
    found = colour_map(*(np.cov(of, rowvar=False, bias=True) for of in (s, c)))
    return ((s - s.mean(0)) @ found + c.mean(0)).reshape(style.shape)


def matched(
    style: UInt8[np.ndarray, "h w 3"], content: UInt8[np.ndarray, "_h _w 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """`moved`, as pixels of an image: clipped and rounded. For a grey content it is exactly grey."""
    found = moved(style, content)
    if np.ptp(content, axis=-1).max() == 0:  # the three channels then differ by rounding alone
        found = np.repeat(found.mean(-1, keepdims=True), 3, axis=-1)
    return np.clip(np.rint(found), 0, 255).astype(np.uint8)


def with_chroma(
    image: Float[np.ndarray, "h w 3"], content: UInt8[np.ndarray, "h w 3"]
) -> Float64[np.ndarray, "h w 3"]:
    """A grey image in the chroma of a content: its luma is kept, and each channel's difference from luma is
    the content's. Values may leave 0 to 255."""
    c = content.astype(np.float64)
    y = image[..., :1].astype(np.float64)
    return y + (c - (c @ LUMA)[..., None])
