"""Distances between pictures in the features of a held-out network, in float64.

Features are lists of arrays (h_l, w_l, c_l), one for each tap l.

The content distance is LPIPS 0.1 (Zhang et al. 2018, eq. 1): the features of both pictures, scaled to
length 1 at every position, are subtracted, squared, weighted by channel with the heads w_l, averaged over
positions and summed over taps,

    d(x, y) = sum_l 1/(h_l w_l) sum_hw sum_c w_lc (x_lhwc / |x_lhw| - y_lhwc / |y_lhw|)^2.

The style distance sees no positions. The features of a tap are taken as a Gaussian with their mean and
covariance, and two Gaussians are W apart (Olkin & Pukelsheim 1982),

    W^2 = |mu - mu'|^2 + tr(C + C' - 2 (C^1/2 C' C^1/2)^1/2).

Every tap is divided by the root mean square r_l of the length of the style's own features, r_l^2 =
|mu'|^2 + tr C', and the style distance is the mean over taps of W_l / r_l: so all taps count alike,
whatever the scale and the number of their channels, and 1 is the distance of a picture without any
features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

LENGTH_FLOOR = 1e-10
"""Added to the length of features before they are divided by it, as LPIPS does."""
ROUNDING = 1e-12
"""The part of tr(C + C') and |mu|^2 + |mu'|^2 below which a W^2 is rounding, and 0."""
Features = Sequence[Float[np.ndarray, "_ _ _"]]


class Unit(NamedTuple):
    """The features of a tap in float64, of length 1 at every position."""

    values: Float[np.ndarray, "h w c"]


class Gaussian(NamedTuple):
    """Mean and covariance C = F^T F of the features of a tap, with r the smaller of positions and
    channels."""

    mean: Float[np.ndarray, " c"]
    factor: Float[np.ndarray, "r c"]


def units(features: Features) -> list[Unit]:
    """The features of every tap, scaled to length 1 at every position."""
    found = []
    for tap in features:
        tap = tap.astype(np.float64)
        length = np.sqrt(np.sum(tap * tap, axis=-1, keepdims=True))
        found.append(Unit(tap / (length + LENGTH_FLOOR)))
    return found


def content_distance(a: Sequence[Unit], b: Sequence[Unit], heads: Sequence[np.ndarray]) -> float:
    """LPIPS between two pictures of one shape; 0 for equal ones.

    Args:
        a: features of one picture.
        b: features of the other.
        heads: w_l, (c_l,) for every tap.
    """
    total = 0.0
    for x, y, head in zip(a, b, heads, strict=True):
        squares = (x.values - y.values) ** 2
        total += float(squares.reshape(-1, len(head)).mean(0) @ head.astype(np.float64))
    return total


def gaussians(features: Features) -> list[Gaussian]:
    """The mean and the factor of the covariance of every tap.

    The factor is the triangular part of a QR decomposition of the centred features, which are never
    squared: small variances keep their digits, and a rank below the number of channels needs no special
    care.
    """
    found = []
    for tap in features:
        rows = tap.reshape(-1, tap.shape[-1]).astype(np.float64)
        mean = rows.mean(0)
        centred = (rows - mean) / math.sqrt(len(rows))
        factor = np.asarray(np.linalg.qr(centred, mode="r")) if len(rows) > rows.shape[1] else centred
        found.append(Gaussian(mean, factor))
    return found


def blended(parts: Sequence[Sequence[Gaussian]], weights: Sequence[float]) -> list[Gaussian]:
    """The mean and the covariance of every tap of a mixture of styles: of sum_s b_s p_s, not of the p_s.

    Args:
        parts: `gaussians` of each style s.
        weights: b_s, of sum 1.
    """
    found = []
    for tap in zip(*parts, strict=True):
        mean = sum((b * own.mean for b, own in zip(weights, tap, strict=True)), np.zeros(()))
        rows = [
            math.sqrt(b) * np.concatenate([own.factor, (own.mean - mean)[None]])
            for b, own in zip(weights, tap, strict=True)
        ]
        found.append(Gaussian(mean, np.asarray(np.linalg.qr(np.concatenate(rows), mode="r"))))
    return found


def wasserstein_squared(a: Gaussian, b: Gaussian) -> float:
    """W^2 between two Gaussians; 0 if it is no more than rounding.

    With C = F^T F and C' = F'^T F', the trace of (C^1/2 C' C^1/2)^1/2 is the sum of the singular values of
    F F'^T, since C^1/2 and F differ by a rotation. No root of a matrix is taken.
    """
    crossed = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False)
    spread = float(np.sum(a.factor**2) + np.sum(b.factor**2))
    apart = float(np.sum((a.mean - b.mean) ** 2))
    size = spread + float(np.sum(a.mean**2) + np.sum(b.mean**2))
    squared = apart + spread - 2 * float(np.sum(crossed))
    return squared if squared > ROUNDING * size else 0.0


def style_distance(picture: Sequence[Gaussian], style: Sequence[Gaussian]) -> float:
    """The mean over taps of W_l / r_l; 0 for a picture with the style's means and covariances."""
    found = []
    for x, s in zip(picture, style, strict=True):
        own = float(np.sum(s.mean**2) + np.sum(s.factor**2))
        found.append(math.sqrt(wasserstein_squared(x, s) / own) if own > 0 else 0.0)
    return sum(found) / len(found)
