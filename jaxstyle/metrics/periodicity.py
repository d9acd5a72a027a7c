"""Grids and dots in a picture: patterns of one frequency that neither its content nor its style has.

Pictures that were optimised through a network have a screen of dots where their content is flat, on skies
and fur above all. Two measurements see it, and the score is the larger one, in grey levels (root mean
square); it is 0 for the content itself, blurred or with noise, and for noise.

A *grid* has the period of a pooling, 2, 4, 8 or 16 px, and the phase of its frequencies is the same
everywhere in the picture; where strokes or leaves are, it is anything. So the picture is cut into tiles t
of max(16, 2 p) px for each period p, a plane is subtracted from each, a Hann window laid over it, and its
Fourier coefficients X_t(f) are taken at all frequencies f = (i/p, j/p) that have no smaller period. With
the unit phases u_t = X_t / |X_t|, the length being that over the three channels, and weights
w_t = 1 / (|C_t(f)| + c_0) that are large where the content is flat at f,

    R^2(f) = |sum_t w_t u_t|^2 / (sum_t w_t)^2

is 1 for a grid alone and about sum_t w_t^2 / (sum_t w_t)^2 for random phases, beyond whose L-fold it comes
by chance with probability e^-L (Rayleigh's test). The amplitude of a grid is then R times the harmonic
mean of |X_t|. What is beyond chance, less what the content or the style has at f, is summed over all f and
periods. One grey level at 4 or 8 px is found in most photographs of 256 px.

*Dots* need not be in step: those of the demo have periods of some 3 px along the axes, and drift. They are
a peak of the power spectrum, averaged over tiles of 32 px with weights that are large where the content is
flat. At a frequency of at least 6/32, what counts is what exceeds 2 (and chance) times the geometric mean
of the frequencies around it, less such peaks of the content and the style, and at most what exceeds the
content.

Pictures are RGB, 0 to 255.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
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
DOT_TILE_PX = 32
DOT_BINS, RING_BINS = 6, (4, 5)
"""In units of 1/32: the lowest frequency of dots, and the distances of the frequencies around one."""
DOT_FACTOR = 2.0
"""Factor by which a peak of dots exceeds its surroundings: the spectra of strokes are not flat either."""
ROUGH_BINS = 4
"""The lowest frequency, in 1/32, that counts for whether a tile of a content is flat."""
ROUGH_LEVELS = 1.0
"""The root mean square in grey levels under which it is."""


class Tiles(NamedTuple):
    """The Fourier coefficients of a picture's tiles."""

    of: Mapping[int, Complex[np.ndarray, "t 3 f"]]
    """X_t(f) by period; none for periods that are too long for the picture."""
    power: Float[np.ndarray, "t 32 32"] | None
    """Mean over channels of |X_t|^2 at all frequencies of tiles of 32 px; None for a smaller picture."""


class Known(NamedTuple):
    """The patterns that a content or a style has itself, and which are no fault in a picture."""

    grid: Mapping[int, Float[np.ndarray, " f"]]
    """Power of its grid by period and frequency."""
    dots: Float[np.ndarray, "32 32"] | None
    """Power beyond the surroundings, by frequency; None for a picture smaller than 32 px."""


@functools.cache
def _frequencies(period: int) -> np.ndarray:
    """The (i, j) of all f = (i/p, j/p) that no smaller period has."""
    every = ((i, j) for i in range(period) for j in range(period))
    return np.array([(i, j) for i, j in every if math.gcd(i, j, period) == 1])


def _strips(pixels: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """The 2-D spectra (t, 3, side, side) of a picture's tiles, row by row, amplitudes in grey levels."""
    hann = np.hanning(side + 1)[:-1]
    window = np.outer(hann, hann)
    window /= window.sum()
    along = np.arange(side) - side / 2
    plane = (np.ones((side, side)), along[:, None] + 0 * along, along + 0 * along[:, None])
    cut = np.lib.stride_tricks.sliding_window_view(pixels, (side, side), axis=(0, 1))
    for row in cut[:: side // 2, :: side // 2]:
        found = row.astype(np.float64)
        for part in plane:
            weighted = window * part
            share = np.tensordot(found, weighted, 2) / np.sum(weighted * part)
            found -= share[..., None, None] * part
        yield np.fft.fft2(found * window)


def tiles(pixels: UInt8[np.ndarray, "h w 3"]) -> Tiles:
    """The Fourier coefficients of a picture's tiles at the frequencies of every period."""
    parts: dict[int, list[np.ndarray]] = {}
    powers = []
    for side in dict.fromkeys(_side(period) for period in PERIODS):
        if min(pixels.shape[:2]) < side:
            continue
        own = [period for period in PERIODS if _side(period) == side]
        for spectra in _strips(pixels, side):
            for period in own:
                i, j = _frequencies(period).T * side // period
                parts.setdefault(period, []).append(spectra[:, :, i, j].astype(np.complex64))
            if side == DOT_TILE_PX:
                powers.append(np.mean(np.abs(spectra) ** 2, axis=1))
    found = {period: np.concatenate(own) for period, own in parts.items()}
    return Tiles(found, np.concatenate(powers) if powers else None)


def _side(period: int) -> int:
    return max(MIN_TILE_PX, 2 * period)


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


def _flat_weights(power: Float[np.ndarray, "t 32 32"]) -> Float[np.ndarray, " t"]:
    """Weights of tiles, of sum 1, that are large where a content is flat."""
    weight = 1 / (np.sqrt(np.sum(power * (_radius() >= ROUGH_BINS), axis=(1, 2))) + ROUGH_LEVELS)
    return weight / weight.sum()


def _radius() -> Float[np.ndarray, "32 32"]:
    """The length of every frequency of a tile of 32 px, in 1/32."""
    bins = np.fft.fftfreq(DOT_TILE_PX, 1 / DOT_TILE_PX)
    return np.hypot(bins[:, None], bins)


def _surroundings(power: Float[np.ndarray, "32 32"]) -> Float[np.ndarray, "32 32"]:
    """The geometric mean of the power at the frequencies in a ring around each."""
    logs, reach = np.log(power + 1e-12), range(-RING_BINS[1], RING_BINS[1] + 1)
    ring = [(a, b) for a in reach for b in reach if max(abs(a), abs(b)) >= RING_BINS[0]]
    return np.exp(sum(np.roll(logs, shift, (0, 1)) for shift in ring) / len(ring))


def _excess(power: Float[np.ndarray, "32 32"]) -> Float[np.ndarray, "32 32"]:
    return np.maximum(0.0, power - _surroundings(power))


def known(own: Tiles, *, everywhere: bool = False) -> Known:
    """The patterns of a content or a style.

    Args:
        own: its tiles.
        everywhere: also those of its rough places, as the strokes of a style may appear anywhere.
    """
    grid = {}
    for period, x in own.of.items():
        squared, _, power = _locked(x, x)
        grid[period] = squared * power
        if everywhere:  # the mean over all places, as far as it is beyond its chance e^-3
            chance = OVERLAP / len(x) * np.mean(np.abs(x) ** 2, axis=(0, 1))
            mean = np.mean(np.abs(np.mean(x, axis=0)) ** 2, axis=0)
            grid[period] = np.maximum(grid[period], mean - 3 * chance)
    if own.power is None:
        return Known(grid, None)
    dots = _excess(np.tensordot(_flat_weights(own.power), own.power, 1))
    return Known(grid, np.maximum(dots, _excess(own.power.mean(0))) if everywhere else dots)


def joined(several: Sequence[Known]) -> Known:
    """The patterns of several styles together: at every frequency those of the one that has most."""
    grid: dict[int, np.ndarray] = {}
    for own in several:
        grid |= {p: np.maximum(grid[p], x) if p in grid else x for p, x in own.grid.items()}
    dots = [own.dots for own in several if own.dots is not None]
    return Known(grid, np.maximum.reduce(dots) if dots else None)


def periodicity(picture: Tiles, content: Tiles, content_known: Known, style_known: Known) -> float:
    """The root mean square, in grey levels, of the grid or dots in a picture where its content is flat.

    Args:
        picture: tiles of the picture.
        content: tiles of its content, of the same shape.
        content_known: patterns of the content.
        style_known: patterns of the style.
    """
    grid = 0.0
    for period, x in picture.of.items():
        squared, chance, power = _locked(x, content.of[period])
        limit = CHANCE * (REAL if period == 2 else 1.0) * chance
        own = np.maximum(content_known.grid[period], style_known.grid.get(period, 0.0))
        grid += float(np.sum(np.maximum(0.0, np.maximum(0.0, squared - limit) * power - own)))
    return math.sqrt(max(grid, _dots(picture, content, content_known, style_known)))


def _dots(picture: Tiles, content: Tiles, content_known: Known, style_known: Known) -> float:
    """The mean square of dots; 0 for pictures that are too small."""
    if picture.power is None or content.power is None or content_known.dots is None:
        return 0.0
    weight = _flat_weights(content.power)
    power, before = (np.tensordot(weight, x, 1) for x in (picture.power, content.power))
    independent = 1 / (OVERLAP * float(np.sum(weight**2)))
    # The mean of n exponentials exceeds 1 so far with probability e^-L (Laurent & Massart 2000, lemma 1).
    factor = DOT_FACTOR + math.sqrt(2 * CHANCE / independent) + CHANCE / independent
    own = (
        content_known.dots if style_known.dots is None else np.maximum(content_known.dots, style_known.dots)
    )
    beyond = np.minimum(power - factor * _surroundings(power) - own, power - before)
    return float(np.sum(np.maximum(0.0, beyond) * (_radius() >= DOT_BINS)))
