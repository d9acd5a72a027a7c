"""The order of cells of one content and style: their Pareto front, percentiles and ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each point is on the Pareto front: no other is as low in both coordinates and lower in
    one."""
    order = sorted(range(len(points)), key=lambda i: points[i])
    found, lowest, at = [False] * len(points), float("inf"), None
    for i in order:
        if points[i][1] < lowest or points[i] == at:
            found[i], lowest, at = True, points[i][1], points[i]
    return found


def percentiles(values: Sequence[float]) -> np.ndarray:
    """The part of the other values that each value exceeds, equal ones counting half; 0 if there is no
    other."""
    x = np.asarray(values, np.float64)
    if len(x) < 2:
        return np.zeros(len(x))
    ordered = np.sort(x)
    below = np.searchsorted(ordered, x, "left")
    equal = np.searchsorted(ordered, x, "right") - below - 1
    return (below + equal / 2) / (len(x) - 1)


def ranks(scores: Sequence[Sequence[float | None]]) -> list[int | None]:
    """Ranks from 1 by the mean percentile of the scores that a cell has; cells without any have none.

    Equal ones are in the order of the cells.

    Args:
        scores: for each cell, several scores, None for those that it lacks.
    """
    sums, counts = np.zeros(len(scores)), np.zeros(len(scores), int)
    for column in zip(*scores, strict=True):
        there = [i for i, value in enumerate(column) if value is not None]
        sums[there] += percentiles([value for value in column if value is not None])
        counts[there] += 1
    rated = [i for i in range(len(scores)) if counts[i]]
    means = np.round(sums / np.maximum(counts, 1), 12)
    found: list[int | None] = [None] * len(scores)
    for place, i in enumerate(sorted(rated, key=lambda i: (means[i], i)), 1):
        found[i] = place
    return found
