"""Finishing: what is done to a picture after it was optimised, before it is saved.

`histogram` gives every channel exactly the values of the style, by rank. `contrast` scales and shifts
linear light until mean luminance and rms contrast are those asked for. Pixels are RGB, 0 to 255, (h, w, 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Real, UInt8

from jaxstyle.inputs.light import LUMINANCE, encoded, linear

FINISHES = ("none", "histogram", "contrast")
"""The values of `Sweep.finish`."""
ROUNDS = 200
"""Most corrections of scale and shift; without clipped pixels two are enough."""
CLOSE = 1e-7
"""Difference of mean and standard deviation of L, from those asked for, at which corrections end."""
MOST_GAIN = 4.0
"""The most by which one correction changes the scale."""


def rank_matched(
    image: Real[np.ndarray, "h w 3"],
    references: Sequence[UInt8[np.ndarray, "_h _w 3"]],
    shares: Sequence[float] = (1.0,),
) -> Float[np.ndarray, "h w 3"]:
    """`image` with the values of the references in its own order, in every channel: an exact histogram.

    Pixel i of n in ascending order gets the quantile (i + 1/2)/n of the references, which is always one of
    their values; a reference of as many pixels gives each of its values once. Equal values keep the order
    of their places.

    Args:
        image: a finite image, of any range.
        references: the style, or the images of a blend.
        shares: the share of each reference in the histogram; they sum to 1.
    """
    found = np.empty(image.shape, np.float64)
    count = image.shape[0] * image.shape[1]
    wanted = (np.arange(count) + 0.5) / count
    for channel in range(3):
        values = np.concatenate([of[..., channel].ravel() for of in references])
        weights = [
            np.full(of[..., 0].size, s / of[..., 0].size) for of, s in zip(references, shares, strict=True)
        ]
        order = np.argsort(values, kind="stable")
        reached = np.cumsum(np.concatenate(weights)[order])
        quantiles = values[order][np.minimum(np.searchsorted(reached, wanted), len(values) - 1)]
        by_rank = np.argsort(image[..., channel], axis=None, kind="stable")
        found[..., channel].flat[by_rank] = quantiles
    return found


def with_contrast(
    image: Real[np.ndarray, "h w 3"],
    rms_contrast: float | None,
    mean_luminance: float | None,
) -> Float[np.ndarray, "h w 3"]:
    """`image` with a given rms contrast, sd(L)/mean(L), and mean luminance; None keeps its own.

    Linear light becomes a c + b, the same a and b for all channels, clipped to 0 to 1. They are corrected
    until the *clipped* picture has both values; where a display's range does not allow that, the nearest of
    the corrections stands.
    """
    c = linear(np.clip(image, 0, 255))
    own = c @ LUMINANCE
    mean = own.mean() if mean_luminance is None else mean_luminance
    contrast = own.std() / max(own.mean(), CLOSE) if rms_contrast is None else rms_contrast
    sd, a, b = contrast * mean, 1.0, 0.0
    nearest = np.inf, a, b
    for _ in range(ROUNDS):
        found = np.clip(a * c + b, 0, 1) @ LUMINANCE
        off = abs(found.mean() - mean), abs(found.std() - sd)
        nearest = min(nearest, (float(np.hypot(*off)), a, b))
        if max(off) < CLOSE:
            break
        gain = np.clip(sd / found.std(), 1 / MOST_GAIN, MOST_GAIN) if found.std() > CLOSE else 1.0
        # Scaled about the mean, which the shift then brings to its place.
        a, b = a * gain, mean + gain * (b - found.mean())
    else:
        _, a, b = nearest
    return encoded(np.clip(a * c + b, 0, 1))
