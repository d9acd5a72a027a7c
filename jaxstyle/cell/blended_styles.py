"""The values that style losses keep of a style that is no single image: a file of moments, or a blend.

A blend of styles s with weights b_s has the raw moments A = sum_s b_s A_s and mu = sum_s b_s mu_s, those of
a picture of which each style fills its share. Covariances are not blended: they lack the distances of the
means. For Gram matrices, sum_s b_s |G - A_s|^2 = |G - A|^2 + a constant, so the blend is also the style
that minimises the weighted sum of the losses.

Sums are in float64, in NumPy; what is kept has no axis of rows. Symbols are those of `losses` and
`wasserstein`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxstyle.cell.moments import Moments
from jaxstyle.cell.wasserstein import LEAST_RIDGE, RIDGE, Normal


def _narrow(array: Any) -> Any:
    """An array as rows of `Targets` have it."""
    return np.asarray(array, np.float32)


def _weighted(arrays: Sequence[Any], weights: Sequence[float]) -> np.ndarray:
    """The sum of some arrays, each times its weight."""
    return sum((w * np.asarray(a, np.float64) for a, w in zip(arrays, weights, strict=True)), np.zeros(()))


def gram(gram: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """A."""
    return _narrow(gram)


def blended_grams(kept: Sequence[Any], weights: Sequence[float]) -> np.ndarray:
    """A of a blend."""
    return _narrow(_weighted(kept, weights))


def moments(gram: np.ndarray, mean: np.ndarray) -> Moments:
    """A and mu_A."""
    return Moments(_narrow(gram), _narrow(mean))


def blended_moments(kept: Sequence[Any], weights: Sequence[float]) -> Moments:
    """A and mu_A of a blend."""
    return moments(_weighted([k.gram for k in kept], weights), _weighted([k.mean for k in kept], weights))


def normal(gram: np.ndarray, mean: np.ndarray) -> Normal:
    """mu_A, S and epsilon, as `wasserstein.keep` has them of an image."""
    gram, mean = np.asarray(gram, np.float64), np.asarray(mean, np.float64)
    values, vectors = np.linalg.eigh(gram - np.outer(mean, mean))
    values = np.maximum(values, 0.0)
    variance = values.sum()
    ridge = max(RIDGE * variance / len(mean), LEAST_RIDGE * (variance + mean @ mean))
    root = (vectors * np.sqrt(values + ridge)) @ vectors.T
    return Normal(_narrow(mean), _narrow(root), _narrow(ridge))


def blended_normals(kept: Sequence[Any], weights: Sequence[float]) -> Normal:
    """mu_A, S and epsilon of a blend; epsilon is that of the blend, not of its parts."""
    grams, means = zip(*map(_raw, kept), strict=True)
    return normal(_weighted(grams, weights), _weighted(means, weights))


def _raw(kept: Any) -> tuple[np.ndarray, np.ndarray]:
    """A = S S - epsilon I + mu mu^T, and mu."""
    root, mean = np.asarray(kept.root, np.float64), np.asarray(kept.mean, np.float64)
    return root @ root - float(kept.ridge) * np.eye(len(mean)) + np.outer(mean, mean), mean
