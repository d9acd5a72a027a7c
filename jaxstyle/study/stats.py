"""Statistics of differences between seeds: spreads, intervals, distances of pictures, and their pairs.

All functions are pure functions of NumPy arrays and compute in float64. Pictures are RGB, 0 to 255,
(h, w, 3). Random numbers come from a generator with a fixed seed, so that the same numbers give the same
intervals.

Symbols:
    n  seeds of one setting; x_i  result of the i-th seed
    D  distances between the pictures of two seeds, (n, n), symmetric; NaN for pairs that were not measured

Nothing here needs JAX or touches a file.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Numbers = np.ndarray | np.floating
"""An array, or the number that a reduction leaves of one."""
CONFIDENCE = 0.95
DRAWS = 2000
"""Number of resamples for an interval."""
SMALLEST = 3
"""Fewest seeds for an interval; two have only three different resamples, which say nothing."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in the luma (ITU-R BT.601) that SSIM compares."""
_NORMAL = NormalDist()


# --- numbers --------------------------------------------------------------------------------------


def mean(x: np.ndarray, axis: int = 0) -> Numbers:
    """The mean over seeds."""
    return np.mean(np.asarray(x, np.float64), axis=axis)


def sd(x: np.ndarray, axis: int = 0) -> Numbers:
    """The standard deviation over seeds, sqrt(sum (x_i - mean)^2 / (n - 1)); NaN for one seed."""
    x = np.asarray(x, np.float64)
    if x.shape[axis] < 2:
        return np.full(np.delete(x.shape, axis), np.nan)
    return np.std(x, axis=axis, ddof=1)


def cv(x: np.ndarray, axis: int = 0) -> Numbers:
    """The coefficient of variation, sd / |mean|; 0 where both are 0, NaN where only the mean is."""
    spread, size = sd(x, axis), np.abs(mean(x, axis))
    return np.where(spread == 0, 0.0, spread / np.where(size == 0, np.nan, size))


def best_of(x: Float[np.ndarray, " n"], k: int) -> float:
    """The expected minimum of k of the n numbers, drawn without replacement.

    It is sum_i x_(i) C(n-i, k-1) / C(n, k), where x_(1) is the smallest (David & Nagaraja 2003,
    section 2.1, for a finite population).
    """
    n = len(x)
    if not 1 <= k <= n:
        raise ValueError(f"k is {k} and there are {n} numbers")
    weights = [math.comb(n - i, k - 1) / math.comb(n, k) for i in range(1, n + 1)]
    return float(np.dot(np.sort(np.asarray(x, np.float64)), weights))


def quantile_curves(
    curves: Float[np.ndarray, "n steps"], quantiles: Sequence[float] = QUANTILES
) -> Float[np.ndarray, "quantiles steps"]:
    """Quantiles over seeds at every step, interpolated linearly between seeds; NaN where a seed is."""
    return np.quantile(np.asarray(curves, np.float64), quantiles, axis=0)


class Interval(NamedTuple):
    """A confidence interval; NaN where there are too few seeds for one."""

    low: Numbers
    high: Numbers


def resamples(n: int, draws: int = DRAWS, seed: int = 0) -> Int[np.ndarray, "draws n"]:
    """Indices of `draws` samples of n out of n with replacement."""
    return np.random.default_rng((seed, n)).integers(0, n, (draws, n))


def interval(
    x: np.ndarray,
    statistic: Callable[..., Numbers],
    *,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    corrected: bool = True,
) -> Interval:
    """The bootstrap interval of a statistic of n seeds: bias-corrected and accelerated, or by percentiles.

    BCa (Efron 1987; Efron & Tibshirani 1993, eqs. 14.9 to 14.15): theta* is the statistic of a resample and
    theta_(-i) that of the sample without seed i. With z0 = Phi^-1(share of theta* < theta),
    d_i = mean_j theta_(-j) - theta_(-i) and a = sum d_i^3 / (6 (sum d_i^2)^(3/2)), the ends are the
    quantiles of theta* at Phi(z0 + (z0 + z) / (1 - a (z0 + z))) for z = Phi^-1((1 -+ confidence) / 2).

    Unlike in the book, resamples equal to theta count half in z0, because ties are frequent with few seeds.

    Args:
        x: (n, ...), a seed per row; every further element has its own interval, over the same resamples.
        statistic: function of an array that reduces the axis of seeds, given by the keyword `axis`.
        corrected: whether to use BCa; otherwise percentiles.
    """
    x = np.asarray(x, np.float64)
    n, theta = len(x), np.asarray(statistic(x, axis=0))
    if n < SMALLEST:
        nothing = np.full(theta.shape, np.nan)
        return Interval(nothing, nothing.copy())
    found = np.stack([statistic(x[rows], axis=0) for rows in resamples(n, draws, seed)])
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    if not corrected:
        low, high = np.quantile(found, tails, axis=0)
        return Interval(low, high)
    below = (np.sum(found < theta, axis=0) + 0.5 * np.sum(found == theta, axis=0)) / draws
    z0 = _each(_NORMAL.inv_cdf, np.clip(below, 0.5 / draws, 1 - 0.5 / draws))
    left_out = np.stack([statistic(np.delete(x, i, axis=0), axis=0) for i in range(n)])
    d = np.mean(left_out, axis=0) - left_out
    squares = np.sum(d**2, axis=0)
    a = np.sum(d**3, axis=0) / (6 * np.where(squares == 0, np.inf, squares) ** 1.5)
    ends = []
    for tail in tails:
        z = z0 + _NORMAL.inv_cdf(tail)
        level = _each(_NORMAL.cdf, z0 + z / (1 - a * z))
        ends.append(_quantile_each(found, level))
    return Interval(*ends)


def _each(function: Callable[[float], float], values: Numbers) -> np.ndarray:
    flat = [math.nan if math.isnan(v) else function(v) for v in np.ravel(values).tolist()]
    return np.reshape(flat, np.shape(values))


def _quantile_each(found: np.ndarray, levels: Numbers) -> np.ndarray:
    """The quantile of every column of `found` at its own level."""
    columns = found.reshape(len(found), -1)
    pairs = zip(columns.T, np.ravel(levels).tolist(), strict=True)
    ends = [np.nan if math.isnan(level) else np.quantile(column, level) for column, level in pairs]
    return np.reshape(ends, np.shape(levels))


# --- pictures -------------------------------------------------------------------------------------


def rmse(a: Float[np.ndarray, "h w 3"], b: Float[np.ndarray, "h w 3"]) -> float:
    """The root mean square of the difference over pixels and channels, in grey levels."""
    return float(np.sqrt(np.mean(np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64)))))


@functools.cache
def _smoother(size: int, sigma_px: float) -> np.ndarray:
    """Gaussian weights around every position, (size, size); each row sums to 1."""
    at = np.arange(size)
    weights = np.exp(-0.5 * ((at[:, None] - at) / sigma_px) ** 2)
    return weights / weights.sum(1, keepdims=True)


def low_pass(image: Float[np.ndarray, "h w 3"], sigma_px: float) -> Float[np.ndarray, "h w 3"]:
    """`image` blurred by a Gaussian that is cut off at the edges and rescaled: a flat image stays flat."""
    down, across = (_smoother(image.shape[axis], sigma_px) for axis in (0, 1))
    return np.einsum("ih,hwc,jw->ijc", down, np.asarray(image, np.float64), across, optimize=True)


@functools.cache
def _window(size: int) -> np.ndarray:
    """SSIM's window at every place where it lies inside, (size - 10, size); each row sums to 1."""
    at = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (at / SSIM_SIGMA) ** 2)
    rows = np.zeros((size - SSIM_WINDOW + 1, size))
    for i in range(len(rows)):
        rows[i, i : i + SSIM_WINDOW] = weights / weights.sum()
    return rows


class Patches(NamedTuple):
    """Data of one picture for SSIM: its luma, and the luma's mean and variance in every window."""

    luma: Float[np.ndarray, "h w"]
    mean: Float[np.ndarray, "h2 w2"]
    variance: Float[np.ndarray, "h2 w2"]


def _windowed(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h2 w2"]:
    return _window(values.shape[0]) @ values @ _window(values.shape[1]).T


def patches(image: Float[np.ndarray, "h w 3"]) -> Patches:
    """Data of a picture for `ssim`; both edges must have at least `SSIM_WINDOW` px."""
    luma = np.asarray(image, np.float64) @ LUMA
    mu = _windowed(luma)
    return Patches(luma, mu, _windowed(luma * luma) - mu * mu)


def ssim(a: Patches, b: Patches) -> float:
    """The mean structural similarity of two pictures, on luma (Wang et al. 2004, eq. 13 and section III.C).

    (2 mu_a mu_b + C1)(2 cov_ab + C2) / ((mu_a^2 + mu_b^2 + C1)(var_a + var_b + C2)), averaged over all
    places inside the picture of an 11 x 11 Gaussian window with sigma 1.5; C1 = (0.01 L)^2,
    C2 = (0.03 L)^2, L = 255.
    """
    both = a.mean * b.mean
    covariance = _windowed(a.luma * b.luma) - both
    top = (2 * both + SSIM_C1) * (2 * covariance + SSIM_C2)
    bottom = (a.mean**2 + b.mean**2 + SSIM_C1) * (a.variance + b.variance + SSIM_C2)
    return float(np.mean(top / bottom))


def relative_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The distance |a - b| / sqrt((|a|^2 + |b|^2) / 2), Euclidean; at most 2, 0 for two arrays of zeros."""
    size = np.sqrt((np.sum(np.square(a, dtype=np.float64)) + np.sum(np.square(b, dtype=np.float64))) / 2)
    return float(np.sqrt(np.sum(np.square(a - b, dtype=np.float64))) / size) if size else 0.0


def pixel_sd(images: Float[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "h w"]:
    """The root of the variance (n - 1) over seeds, averaged over the channels: a map in grey levels."""
    return np.sqrt(np.mean(sd(images) ** 2, axis=-1))


def map_numbers(values: Float[np.ndarray, "*shape"]) -> dict[str, float]:
    """Mean, least, median and most of the values of a map."""
    found = {"mean": values.mean(), "min": values.min(), "median": np.median(values), "max": values.max()}
    return {name: float(value) for name, value in found.items()}


# --- pairs ----------------------------------------------------------------------------------------


def chosen_pairs(n: int, limit: int, seed: int = 0) -> list[tuple[int, int]]:
    """All pairs i < j of n seeds, or `limit` of them, drawn at random, if there are more."""
    pairs = list(itertools.combinations(range(n), 2))
    if len(pairs) <= limit:
        return pairs
    chosen = np.random.default_rng((seed, n)).choice(len(pairs), limit, replace=False)
    return [pairs[i] for i in np.sort(chosen)]


def pairwise(
    items: Sequence, distance: Callable[..., float], pairs: Sequence[tuple[int, int]]
) -> Float[np.ndarray, "n n"]:
    """D of `items`, symmetric; NaN on the diagonal and for all pairs but `pairs`."""
    found = np.full((len(items), len(items)), np.nan)
    for i, j in pairs:
        found[i, j] = found[j, i] = distance(items[i], items[j])
    return found


def pair_mean(d: Float[np.ndarray, "*k n n"]) -> Numbers:
    """The mean of D over the pairs that were measured."""
    upper = d[..., *np.triu_indices(d.shape[-1], 1)]
    known = np.isfinite(upper)
    return np.where(known, upper, 0).sum(-1) / known.sum(-1)


def pair_means(
    d: Float[np.ndarray, "k n n"], *, draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "draws k"]:
    """The means of several D over resampled *seeds*, with the same resamples for all.

    Pairs that share a seed depend on each other, so seeds are resampled and not pairs. A seed that is drawn
    twice makes no pair with itself; a resample without any measured pair has no mean and is NaN.
    """
    n = d.shape[-1]
    upper = np.triu_indices(n, 1)
    found = np.full((draws, len(d)), np.nan)
    for draw, rows in enumerate(resamples(n, draws, seed)):
        drawn = d[:, rows[upper[0]], rows[upper[1]]]
        known = np.isfinite(drawn)
        counts = known.sum(1)
        if counts.all():
            found[draw] = np.where(known, drawn, 0).sum(1) / counts
    return found


def percentiles(found: Float[np.ndarray, "draws ..."], n: int, confidence: float = CONFIDENCE) -> Interval:
    """The percentile interval of the values of resamples of n seeds."""
    kept = found[np.isfinite(found).reshape(len(found), -1).all(1)]
    if n < SMALLEST or not len(kept):
        nothing = np.full(found.shape[1:], np.nan)
        return Interval(nothing, nothing.copy())
    low, high = np.quantile(kept, ((1 - confidence) / 2, (1 + confidence) / 2), axis=0)
    return Interval(low, high)


class Ratio(NamedTuple):
    """A ratio of two mean distances and its interval, over resampled seeds."""

    value: float
    low: float
    high: float


def seed_ratio(
    between_seeds: Float[np.ndarray, "n n"],
    same_seed: Float[np.ndarray, " n"],
    *,
    draws: int = DRAWS,
) -> Ratio:
    """The mean distance between seeds divided by that between settings of the *same* seed.

    Args:
        between_seeds: D, averaged over the settings.
        same_seed: for each seed, the mean distance between its pictures at two settings.
    """
    n = len(same_seed)
    top = pair_means(between_seeds[None], draws=draws)[:, 0]
    bottom = np.mean(same_seed[resamples(n, draws)], axis=1)
    ends = percentiles(top / np.where(bottom == 0, np.nan, bottom), n)
    value = float(pair_mean(between_seeds)) / float(np.mean(same_seed)) if np.any(same_seed) else math.inf
    return Ratio(value, float(ends.low), float(ends.high))


def trend(
    before: Float[np.ndarray, "n n"], after: Float[np.ndarray, "n n"], *, draws: int = DRAWS
) -> Ratio:
    """The mean of a later D divided by that of an earlier one of the same seeds."""
    found = pair_means(np.stack([before, after]), draws=draws)
    ends = percentiles(found[:, 1] / np.where(found[:, 0] == 0, np.nan, found[:, 0]), len(before))
    first, last = float(pair_mean(before)), float(pair_mean(after))
    return Ratio(last / first if first else math.inf, float(ends.low), float(ends.high))
