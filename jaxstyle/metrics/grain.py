"""Grain of a picture beside that of its style: log E|Lap x|^2 / E|Lap s|^2, positive if it has more.

The Laplacian has five points. Pictures are RGB, 0 to 255.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import UInt8

ROUNDING = 20 / 12
"""E|Lap|^2 of rounding to whole grey levels, 1/12 times the sum 4^2 + 4 of the squared points; a picture
with less, which must be nearly flat, counts as having this."""


def laplacian_energy(pixels: UInt8[np.ndarray, "h w 3"]) -> float:
    """E|Lap x|^2 over channels and all positions but the border."""
    x = pixels.astype(np.float64)
    inner = x[1:-1, 1:-1]
    lap = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] - 4 * inner
    return max(float(np.mean(lap**2)), ROUNDING)


def noise(picture_energy: float, style_energy: float) -> float:
    """The logarithm of the ratio of two energies."""
    return math.log(picture_energy / style_energy)
