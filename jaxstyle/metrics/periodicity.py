"""A grid of dots in a picture: pattern of a fixed period that neither its content nor its style has.

Networks with poolings leave grids of 2, 4, 8 or 16 px, on skies and fur above all. Where a grid is, the
phase of its frequencies is the same everywhere in the picture; where strokes or leaves are, it is
anything. So the picture is cut into tiles t of max(16, 2 p) px for each period p, a plane is subtracted
from each, a Hann window laid over it, and its Fourier coefficients X_t(f) are taken at all frequencies f
= (i/p, j/p) that have no smaller period. With the unit phases u_t = X_t / |X_t|, the length being that
over the three channels, and weights w_t = 1 / (|C_t(f)| + c_0) that are large where the content is flat
at f,

    R^2(f) = |sum_t w_t u_t|^2 / (sum_t w_t)^2

is 1 for a grid alone and about sum_t w_t^2 / (sum_t w_t)^2 for random phases, beyond whose L-fold it
comes by chance with probability e^-L (Rayleigh's test). The amplitude of a grid is then R times the
harmonic mean of |X_t|. What is beyond chance, less what the content or the style has at f, is summed over
all f and periods; its root is the grid's root mean square in grey levels: 0 for photographs, blurred ones
and noise.

Pictures are RGB, 0 to 255.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float, UInt8

PERIODS = (2, 4, 8, 16)
MIN_TILE_PX = 16
CHANCE = 9.0
"""L above. With e^-9 per frequency, 1 or 2 of 100 pictures of noise have some frequency beyond chance."""
OVERLAP = (1 + 2 / 6) ** 2
"""Tiles of a half overlap for every independent one: a Hann window and itself moved by half have
correlation 1/6, in each direction."""
REAL = 2.0
"""Factor of L at period 2, whose coefficients are real: chi-squared with one degree of freedom, not two."""
FLAT_LEVELS = 0.1
"""c_0 above: the amplitude in grey levels under which a content is flat."""
Peaks = Mapping[int, Float[np.ndarray, " f"]]


class Tiles(NamedTuple):
    """The Fourier coefficients X_t(f) of a picture by period; none for periods that are too long for it."""

    of: Mapping[int, Complex[np.ndarray, "t 3 f"]]


def _frequencies(period: int) -> np.ndarray:
    """The (i, j) of all f = (i/p, j/p) that no smaller period has."""
    every = ((i, j) for i in range(period) for j in range(period))
    return np.array([(i, j) for i, j in every if math.gcd(i, j, period) == 1])


def _coefficients(pixels: np.ndarray, side: int) -> np.ndarray:
    """The 2-D spectra (t, 3, side, side) of the tiles of a picture, amplitudes in grey levels."""
    cut = np.lib.stride_tricks.sliding_window_view(pixels, (side, side), axis=(0, 1))
    found = cut[:: side // 2, :: side // 2].reshape(-1, 3, side, side).astype(np.float64)
    hann = np.hanning(side + 1)[:-1]
    window = np.outer(hann, hann)
    window /= window.sum()
    along = np.arange(side) - side / 2
    for part in (np.ones((side, side)), along[:, None] + 0 * along, along + 0 * along[:, None]):
        weighted = window * part
        share = np.tensordot(found, weighted, 2) / np.sum(weighted * part)
        found -= share[..., None, None] * part
    return np.fft.fft2(found * window)


def tiles(pixels: UInt8[np.ndarray, "h w 3"]) -> Tiles:
    """The Fourier coefficients of a picture's tiles at the frequencies of every period."""
    spectra, found = {}, {}
    for period in PERIODS:
        side = max(MIN_TILE_PX, 2 * period)
        if min(pixels.shape[:2]) < side:
            continue
        if side not in spectra:
            spectra[side] = _coefficients(pixels, side)
        i, j = _frequencies(period).T * side // period
        found[period] = spectra[side][:, :, i, j]
    return Tiles(found)


def _locked(
    x: Complex[np.ndarray, "t 3 f"], content: Complex[np.ndarray, "t 3 f"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """R^2(f), its mean by chance, and the squared harmonic mean of |X_t| per channel."""
    length = np.sqrt(np.sum(np.abs(x) ** 2, axis=1, keepdims=True)) + 1e-9
    weight = 1 / (np.sqrt(np.sum(np.abs(content) ** 2, axis=1, keepdims=True)) + FLAT_LEVELS)
    total = weight.sum(0)[0]
    squared = np.sum(np.abs(np.sum(weight * x / length, axis=0)) ** 2, axis=0) / total**2
    chance = OVERLAP * np.sum(weight**2, axis=0)[0] / total**2
    harmonic = total / np.sum(weight / length, axis=0)[0]
    return squared, chance, harmonic**2 / x.shape[1]


def peaks(own: Tiles) -> Peaks:
    """The power of the pattern that a content or a style itself has, by period and frequency."""
    found = {}
    for period, x in own.of.items():
        squared, _, power = _locked(x, x)
        found[period] = squared * power
    return found


def periodicity(picture: Tiles, content: Tiles, content_peaks: Peaks, style_peaks: Peaks) -> float:
    """The root mean square, in grey levels, of the grid in a picture where its content is flat.

    Args:
        picture: tiles of the picture.
        content: tiles of its content, of the same shape.
        content_peaks: peaks of the content.
        style_peaks: peaks of the style.
    """
    total = 0.0
    for period, x in picture.of.items():
        squared, chance, power = _locked(x, content.of[period])
        limit = CHANCE * (REAL if period == 2 else 1.0) * chance
        known = np.maximum(content_peaks[period], style_peaks.get(period, 0.0))
        total += float(np.sum(np.maximum(0.0, np.maximum(0.0, squared - limit) * power - known)))
    return math.sqrt(total)
