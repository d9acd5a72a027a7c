"""Targets made of others: mean and spread over images, ladders between two, random ones. In float64.

Symbols are those of `cell.losses`: A second moments, mu mean, and C = A - mu mu^T the covariance. Every
result is symmetric and positive semidefinite, as the moments of any features are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxstyle.inputs.target_files import Statistics, TargetFile
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.vgg import layers

Matrix = Float[np.ndarray, "n n"]


class _Sums(NamedTuple):
    """Running mean and sum of squared differences from it (Welford 1962)."""

    mean: np.ndarray
    squares: np.ndarray

    def add(self, value: np.ndarray, count: int) -> _Sums:
        """The same with one more value, the `count`-th."""
        before = value - self.mean
        mean = self.mean + before / count
        return _Sums(mean, self.squares + before * (value - mean))


def mean_and_sd(several: Iterable[TargetFile]) -> TargetFile:
    """Mean and standard deviation of every entry over at least one image, which all count alike.

    The standard deviation is that of the images themselves, as `numpy.std` has it: over their number.
    """
    sums: dict[tuple[str, str], _Sums] = {}
    positions: dict[str, int] = {}
    count, first = 0, None
    for count, targets in enumerate(several, 1):
        first = first or targets
        for name, of in targets.layers.items():
            known = of.positions and (count == 1 or positions[name])
            positions[name] = positions.get(name, 0) + of.positions if known else 0
            for kind, value in (("gram", of.gram), ("mean", of.mean)):
                wide = np.asarray(value, np.float64)
                at = sums.get((kind, name)) or _Sums(np.zeros_like(wide), np.zeros_like(wide))
                sums[kind, name] = at.add(wide, count)
    assert first is not None
    sd = {key: np.sqrt(own.squares / count) for key, own in sums.items()}
    found = {
        name: Statistics(
            sums["gram", name].mean,
            sums["mean", name].mean,
            positions[name],
            sd["gram", name],
            sd["mean", name],
        )
        for name in first.layers
    }
    return replace(first, layers=found, spectrum=None, sha256="")


def blended(several: Sequence[TargetFile], weights: Sequence[float]) -> TargetFile:
    """The raw moments of a blend: sum_s b_s A_s and sum_s b_s mu_s, for weights of sum 1."""

    def one(*of: Statistics) -> Statistics:
        zipped = list(zip(weights, of, strict=True))
        gram = sum((w * np.asarray(s.gram, np.float64) for w, s in zipped), np.zeros(()))
        mean = sum((w * np.asarray(s.mean, np.float64) for w, s in zipped), np.zeros(()))
        return Statistics(gram, mean, _positions(weights, of))

    return _layerwise(one, several) if len(several) > 1 else several[0]


def _positions(weights: Iterable[float], of: Sequence[Statistics]) -> int:
    """The weighted mean of numbers of positions; 0, not known, if one is not known."""
    known = all(s.positions for s in of)
    return round(sum(w * s.positions for w, s in zip(weights, of, strict=True))) if known else 0


def ladder(a: TargetFile, b: TargetFile, rungs: int, along: str) -> Iterator[TargetFile]:
    """Targets from `a` to `b` in equal steps; the first and the last are theirs, unchanged.

    Args:
        along: `linear`, A_t = (1-t) A_a + t A_b, or `wasserstein`, see `_geodesic`.
    """
    for rung in range(rungs):
        t = rung / (rungs - 1)
        if along == "linear" or rung in (0, rungs - 1):
            yield blended([a, b], [1 - t, t]) if 0 < t < 1 else _without_spread((a, b)[round(t)])
        else:
            yield _layerwise(lambda x, y, t=t: _geodesic(x, y, t), [a, b])


def _geodesic(a: Statistics, b: Statistics, t: float) -> Statistics:
    """The point at t of the geodesic between two normal distributions in the Wasserstein-2 metric.

    With S = C^1/2, and U the orthogonal factor of the polar decomposition of S_b S_a,

        Z_t = (1-t) S_a + t S_b U,   C_t = Z_t Z_t^T,   mu_t = (1-t) mu_a + t mu_b.

    # Differs from McCann (1997) in form, not in value: the transport map needs S_a^-1, which does not exist
    # where a layer has fewer positions than channels; this form has no inverse.
    """
    root_a, root_b = (_root(s.gram - np.outer(s.mean, s.mean)) for s in (a, b))
    left, _, right = np.linalg.svd(root_b @ root_a)
    z = (1 - t) * root_a + t * root_b @ (left @ right)
    mean = (1 - t) * np.asarray(a.mean, np.float64) + t * np.asarray(b.mean, np.float64)
    gram = z @ z.T + np.outer(mean, mean)
    return Statistics(gram, mean, _positions((1 - t, t), (a, b)))


def drawn(path: str, of: TargetFile, seed: int) -> TargetFile:
    """Random targets from the mean and the standard deviation of others.

    The entries of A on and above its diagonal are drawn from normal distributions, and so are those of mu;
    then negative eigenvalues of A are cut to 0. No features have moments A and mu unless A - mu mu^T is
    positive semidefinite too: mu is cut at 0, projected onto the range of A, which leaves a few of its
    entries below 0 where eigenvalues were cut, and shortened as far as that needs.

    Args:
        path: name of the others, for messages.
        of: targets with standard deviations.
        seed: decides the draw, of each layer whatever the others are.

    Raises:
        JaxstyleError: if there are no standard deviations.
    """

    def one(name: str, own: Statistics) -> Statistics:
        if own.gram_sd is None or own.mean_sd is None:
            why = "has no standard deviations to draw from; make it of several images with --mean"
            raise JaxstyleError(path, why)
        random = np.random.default_rng([seed, layers.TAPS.index(name)])
        upper = np.triu(random.standard_normal(own.gram.shape))
        values, vectors = np.linalg.eigh(own.gram + own.gram_sd * (upper + np.triu(upper, 1).T))
        values = np.maximum(values, 0.0)
        mean = np.maximum(own.mean + own.mean_sd * random.standard_normal(own.mean.shape), 0.0)
        gram = (vectors * values) @ vectors.T
        return Statistics((gram + gram.T) / 2, _shortened(mean, values, vectors), own.positions)

    found = {name: one(name, own) for name, own in of.layers.items()}
    return replace(of, layers=found, spectrum=None, sha256="")


def _shortened(mean: np.ndarray, values: np.ndarray, vectors: Matrix) -> np.ndarray:
    """mu in the range of A = V diag(values) V^T, and no longer than mu^T A^+ mu = 1 allows."""
    there = values > values.max(initial=0.0) * 1e-9
    along = np.where(there, vectors.T @ mean, 0.0)
    length = float(np.sum(along[there] ** 2 / values[there]))
    return vectors @ along / max(1.0, np.sqrt(length))


def _root(covariance: Matrix) -> Matrix:
    """The root of a symmetric matrix, whose negative eigenvalues are rounding."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _without_spread(of: TargetFile) -> TargetFile:
    own: Mapping[str, Statistics] = {name: Statistics(*s[:3]) for name, s in of.layers.items()}
    return replace(of, layers=own, spectrum=None, sha256="")


def _layerwise(make: Callable[..., Statistics], several: Sequence[TargetFile]) -> TargetFile:
    """A function of the statistics of a layer, applied to every layer that all have."""
    names = [n for n in several[0].layers if all(n in of.layers for of in several)]
    found = {name: make(*(of.layers[name] for of in several)) for name in names}
    return replace(several[0], layers=found, spectrum=None, sha256="")
