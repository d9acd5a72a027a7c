"""Pictures as light: sRGB to linear light and back, luminance, contrast, clipping.

Linear light is 0 to 1, the share of a display's white, by the curve of sRGB (IEC 61966-2-1). Symbols:
    c  linear light of R, G and B
    L  luminance, 0.2126 R + 0.7152 G + 0.0722 B of linear light
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Real, UInt8

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
"""Weights of R, G and B in L (ITU-R BT.709)."""


class Light(NamedTuple):
    """A saved picture as light on a display that follows sRGB."""

    luminance: float
    """Mean of L over pixels."""
    luminance_sd: float
    """Standard deviation of L, over n as in `numpy.std`."""
    rms_contrast: float
    """`luminance_sd` / `luminance`; 0 for a black picture."""
    clipped: float
    """Share of pixels of which at least one channel is 0 or 255."""


def linear(pixels: Real[Any, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """c of pixels from 0 to 255."""
    v = np.asarray(pixels, np.float64) / 255
    return np.where(v <= 0.04045, v / 12.92, ((np.maximum(v, 0.0) + 0.055) / 1.055) ** 2.4)


_LINEAR = linear(np.repeat(np.arange(256.0)[:, None], 3, axis=1))[:, 0]


def encoded(c: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Pixels, 0 to 255, unrounded, of linear light from 0 to 1."""
    return 255 * np.where(c <= 0.0031308, 12.92 * c, 1.055 * np.maximum(c, 0.0) ** (1 / 2.4) - 0.055)


def light_of(pixels: UInt8[np.ndarray, "h w 3"]) -> Light:
    """Luminance, contrast and clipping of a saved picture."""
    luminance = _LINEAR[pixels] @ LUMINANCE
    mean, sd = float(luminance.mean()), float(luminance.std())
    clipped = ((pixels == 0) | (pixels == 255)).any(axis=-1).mean()
    return Light(mean, sd, sd / mean if mean else 0.0, float(clipped))
