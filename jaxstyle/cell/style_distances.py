"""Style losses between two images that are both kept, in float64: E_l of the one for the other.

Each function takes what a row of `tables.STYLE_LOSSES` keeps of one layer, without an axis of rows. They
are for the few pairs of images that are weighed against each other before a run.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def _wide(array: Any) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def gram(of: Any, target: Any) -> float:
    """E_l = 1/(4 N^2) sum (G - A)^2."""
    difference = _wide(of) - np.asarray(target)
    return float(np.square(difference).sum()) / (4.0 * len(difference) ** 2)


def gram_trace(target: Any) -> float:
    """tr(A)."""
    return float(np.trace(_wide(target)))


def moments(of: Any, target: Any) -> float:
    """E_l = (sum (G - A)^2 + 2 tr(A) sum (mu - mu_A)^2) / (4 N^2)."""
    means = float(np.square(_wide(of.mean) - np.asarray(target.mean)).sum())
    return gram(of.gram, target.gram) + gram_trace(target.gram) * means / (2.0 * len(of.mean) ** 2)


def moments_trace(target: Any) -> float:
    """tr(A)."""
    return gram_trace(target.gram)


def wasserstein(of: Any, target: Any) -> float:
    """E_l = (|mu - mu_A|^2 + tr(C + C_A - 2 (S C S)^1/2)) / N, with the style's epsilon in C and C_A."""
    root, n = _symmetric(target.root), len(target.mean)
    covariance = _covariance(of) + float(target.ridge) * np.eye(n)
    of_root = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance @ root), 0)).sum()
    means = np.square(_wide(of.mean) - np.asarray(target.mean)).sum()
    return float(means + np.trace(covariance) + np.square(root).sum() - 2 * of_root) / n


def wasserstein_trace(target: Any) -> float:
    """tr(A), which is tr(C_A) + |mu_A|^2."""
    return float(np.trace(_covariance(target)) + np.square(_wide(target.mean)).sum())


def _covariance(kept: Any) -> np.ndarray:
    """C, without epsilon."""
    root = _symmetric(kept.root)
    return root @ root - float(kept.ridge) * np.eye(len(root))


def _symmetric(root: Any) -> np.ndarray:
    """S without the asymmetry of float32: with it, an image is 4e-7 of its tr(A) away from itself."""
    wide = _wide(root)
    return (wide + wide.T) / 2.0
