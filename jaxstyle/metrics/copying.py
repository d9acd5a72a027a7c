"""Pieces of the style that a picture repeats as they are (after the copy score of Ecker and colleagues).

The largest normalised cross-correlation of a crop of the picture with any place of the style is compared
with that of the style's own crops and other places of the style, at offsets of more than 32 px. With m
and b for these two, the score is (m - b) / (1 - b): 1 for an exact copy, and 0 or less for a picture that
is no more like the style than the style is like itself elsewhere.

Images are reduced to grey (BT.601 luma), and halved together until no edge is over 384 px. Nine crops are
spread evenly over the picture; their side is 128 px or, in smaller images, half of the shortest edge, and
the offset is a quarter of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

CROP_PX, LONGEST_PX, CROPS_ALONG = 128, 384, 3
LUMA = (0.299, 0.587, 0.114)
FLAT_VARIANCE = 1.0
"""Variance in squared grey levels below which a place is flat and like nothing."""
REPEATING = 0.99
"""b from which a style repeats itself, so that nobody can tell a copy."""


class Reference(NamedTuple):
    """A style for pictures of one shape, and how like itself it is."""

    grey: Float[np.ndarray, "h w"]
    spectrum: np.ndarray
    deviation: np.ndarray
    """The root of the sum of squares about the mean, at every place for a crop; 0 where it is flat."""
    side: int
    halvings: int
    baseline: float


def reference(style: UInt8[np.ndarray, "h w 3"], picture_shape: tuple[int, int]) -> Reference:
    """A style, prepared for comparing pictures of a shape with it."""
    longest, halvings = max(*style.shape[:2], *picture_shape), 0
    while longest > LONGEST_PX:
        longest, halvings = longest // 2, halvings + 1
    grey = _grey(style, halvings)
    side = max(1, min(CROP_PX, min(*grey.shape, *(edge >> halvings for edge in picture_shape)) // 2))
    padded = tuple(-(-edge // 16) * 16 for edge in grey.shape)
    spectrum = np.fft.rfft2(grey - grey.mean(), padded)
    found = Reference(grey, spectrum, _deviation(grey, side), side, halvings, 0.0)
    alike = 0.0
    for y, x in _places(grey.shape, side):
        map_ = _correlation(grey[y : y + side, x : x + side], found)
        down, across = np.ogrid[: map_.shape[0], : map_.shape[1]]
        elsewhere = (down - y) ** 2 + (across - x) ** 2 > (side // 4) ** 2
        alike = max(alike, float(np.max(map_, where=elsewhere, initial=0.0)))
    return found._replace(baseline=alike)


def copy(picture: UInt8[np.ndarray, "h w 3"], style: Reference) -> float | None:
    """The score of a picture; None if the style repeats itself."""
    if style.baseline > REPEATING:
        return None
    grey, side = _grey(picture, style.halvings), style.side
    crops = (grey[y : y + side, x : x + side] for y, x in _places(grey.shape, side))
    most = max(float(_correlation(crop, style).max()) for crop in crops)
    return (most - style.baseline) / (1 - style.baseline)


def _grey(pixels: np.ndarray, halvings: int) -> np.ndarray:
    grey = pixels.astype(np.float64) @ np.array(LUMA)
    for _ in range(halvings):
        h, w = (edge // 2 for edge in grey.shape)
        grey = grey[: 2 * h, : 2 * w].reshape(h, 2, w, 2).mean((1, 3))
    return grey


def _places(shape: tuple[int, ...], side: int) -> list[tuple[int, int]]:
    """The upper left corners of the crops, each once."""
    down, across = (
        dict.fromkeys(np.linspace(0, edge - side, CROPS_ALONG).round().astype(int).tolist())
        for edge in shape
    )
    return [(y, x) for y in down for x in across]


def _deviation(grey: np.ndarray, side: int) -> np.ndarray:
    def window_sum(values: np.ndarray) -> np.ndarray:
        s = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        return s[side:, side:] - s[:-side, side:] - s[side:, :-side] + s[:-side, :-side]

    centred = grey - grey.mean()
    squares = window_sum(centred**2) - window_sum(centred) ** 2 / side**2
    return np.sqrt(np.where(squares > FLAT_VARIANCE * side**2, squares, 0.0))


def _correlation(crop: np.ndarray, style: Reference) -> np.ndarray:
    """The normalised cross-correlation of a crop with every place of the style."""
    centred = crop - crop.mean()
    length = float(np.sqrt(np.sum(centred**2)))
    h, w = style.deviation.shape
    if length**2 <= FLAT_VARIANCE * crop.size:
        return np.zeros((h, w))
    padded = tuple(-(-edge // 16) * 16 for edge in style.grey.shape)
    product = np.fft.irfft2(style.spectrum * np.conj(np.fft.rfft2(centred, padded)), padded)[:h, :w]
    flat = style.deviation == 0
    return np.where(flat, 0.0, product / (length * np.where(flat, 1.0, style.deviation)))
