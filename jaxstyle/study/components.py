"""Variance components of a balanced crossed design, and the balanced part of a grid that is not.

All functions are pure functions of NumPy arrays and compute in float64.

Symbols:
    y  the numbers, an axis for each factor and one for seeds; N of them
    R  seeds; K = N / R settings; L_f  levels of factor f
    v  variances: v_f of a factor, v_i of the interactions, v_s of the seed, v_e of the residual
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxstyle.study.stats import Numbers

INTERACTIONS, SEED, RESIDUAL = "interactions of these", "seed", "seed x setting"
"""Names of the components that are not those of a factor."""


class Component(NamedTuple):
    """One source of variance in a crossed design; numbers, or arrays for a design of arrays."""

    name: str
    df: int
    """Degrees of freedom."""
    sum_of_squares: Numbers
    variance: Numbers
    """The estimate as computed, which may be negative by chance."""


def variance_components(y: np.ndarray, names: Sequence[str]) -> list[Component]:
    """Variance components of a balanced crossed design: settings by seeds, one number in each place.

    The model is y = mu + sum_f (effect of f) + (interactions of the factors) + (effect of the seed)
    + residual, all random and independent. With N numbers, R seeds, K = N / R settings and L_f levels of
    factor f, the mean squares have these expectations (Searle, Casella & McCulloch 1992, Variance
    Components, chapter 4, for balanced data):

        residual      E MS_e = v_e                          (K - 1)(R - 1) degrees of freedom
        seed          E MS_s = v_e + K v_s                  R - 1
        interactions  E MS_i = v_e + R v_i                  K - 1 - sum_f (L_f - 1)
        factor f      E MS_f = v_e + R v_i + (N / L_f) v_f  L_f - 1

    v_s is the part of a seed's effect that is the same in every setting, v_e the part that differs between
    settings; the whole effect is their sum. Interactions of every order are pooled into one stratum; if it
    has no degrees of freedom, as with one factor only, MS_e replaces MS_i.

    The levels are those that somebody chose for a study: the components describe them, not all styles.

    Args:
        y: an axis for each factor, then one for seeds, each of at least two; further axes are decomposed
            element by element.
        names: names of the factors.

    Returns:
        The factors in order, their interactions if there are any, the seed, the residual.
    """
    y = np.asarray(y, np.float64)
    factors = len(names)
    levels = y.shape[: factors + 1]
    if y.ndim <= factors or min(levels) < 2:
        raise ValueError(f"a design of shape {y.shape} for {names}: every factor needs two levels")
    settings, seeds, total = math.prod(levels[:-1]), levels[-1], math.prod(levels)
    ss, ss_inter, ss_seed, ss_error = _sums_of_squares(y, levels)
    df_inter, df_error = settings - 1 - sum(n - 1 for n in levels[:-1]), (settings - 1) * (seeds - 1)
    ms_error = ss_error / df_error if df_error else np.zeros(y.shape[factors + 1 :])
    ms_inter = ss_inter / df_inter if df_inter else ms_error
    found = [
        Component(name, n - 1, s, (s / (n - 1) - ms_inter) * n / total)
        for name, n, s in zip(names, levels[:-1], ss, strict=True)
    ]
    if df_inter:
        found.append(Component(INTERACTIONS, df_inter, ss_inter, (ms_inter - ms_error) / seeds))
    found.append(Component(SEED, seeds - 1, ss_seed, (ss_seed / (seeds - 1) - ms_error) / settings))
    if df_error:
        found.append(Component(RESIDUAL, df_error, ss_error, ms_error))
    return found


def _sums_of_squares(
    y: np.ndarray, levels: Sequence[int]
) -> tuple[list[Numbers], Numbers, Numbers, Numbers]:
    """The sums of squares of each factor, of their interactions, of the seed and of the residual."""
    axes, total, grand = tuple(range(len(levels))), math.prod(levels), y.mean(tuple(range(len(levels))))

    def squares(kept: tuple[int, ...]) -> Numbers:
        """The sum of squares between the means over all axes except those kept."""
        means = y.mean(tuple(a for a in axes if a not in kept))
        size = math.prod(levels[a] for a in kept)
        own = tuple(range(len(kept)))
        return np.sum((means - grand) ** 2, axis=own) * (total // size)

    ss = [squares((f,)) for f in axes[:-1]]
    ss_settings = squares(axes[:-1]) if ss else np.zeros_like(grand)
    ss_seed = squares(axes[-1:])
    ss_total = np.sum((y - grand) ** 2, axis=axes)
    ss_inter, ss_error = ss_settings - sum(ss), ss_total - ss_settings - ss_seed
    # A difference of sums that should be 0 leaves rounding errors, of the size of the total's.
    tiny = 64 * np.finfo(np.float64).eps * (ss_total + total * grand**2)
    ss_inter, ss_error = (np.where(np.abs(s) < tiny, 0.0, s) for s in (ss_inter, ss_error))
    return ss, ss_inter, ss_seed, ss_error


def shares(found: Sequence[Component]) -> list[float]:
    """The share of each component in their sum; negative estimates count as 0.

    Components that are arrays are averaged over their elements first.
    """
    sizes = [max(float(np.mean(c.variance)), 0.0) for c in found]
    return [size / sum(sizes) if sum(sizes) else 0.0 for size in sizes]


@dataclass(frozen=True)
class Design:
    """A balanced part of a grid, in which every combination of its levels is present."""

    names: tuple[str, ...]
    """Names of its factors; those that always vary together are one, with their names joined by +."""
    levels: tuple[tuple[Hashable, ...], ...]
    """Levels of each factor, in order; tuples for factors that vary together."""
    dropped: tuple[tuple[str, Hashable], ...]
    """Pairs (factor, level) that were dropped so that no combination is missing."""

    def places(self) -> Iterator[tuple[Hashable, ...]]:
        """Every combination of levels, the last factor fastest."""
        return itertools.product(*self.levels)


def balanced(names: Sequence[str], rows: Collection[tuple[Hashable, ...]]) -> Design:
    """A large balanced sub-grid of `rows`; factors with one level are left out.

    While combinations are missing, the level that has the smallest part of its own is dropped. This does
    not always give the largest possible sub-grid, but always the same one.

    Args:
        names: names of the factors.
        rows: tuples with a level of each factor.
    """
    if not rows:
        return Design((), (), ())
    columns = [[row[i] for row in rows] for i in range(len(names))]
    groups: list[list[int]] = []
    for i, column in enumerate(columns):
        if len(set(column)) < 2:
            continue
        for group in groups:
            pairs = set(zip(columns[group[0]], column, strict=True))
            if len(pairs) == len(set(column)) == len(set(columns[group[0]])):
                group.append(i)
                break
        else:
            groups.append([i])
    titles = tuple("+".join(names[i] for i in group) for group in groups)

    def place(row: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
        parts = (tuple(row[i] for i in group) for group in groups)
        return tuple(part[0] if len(part) == 1 else part for part in parts)

    there = dict.fromkeys(place(row) for row in rows)
    dropped: list[tuple[str, Hashable]] = []
    while True:
        levels = [list(dict.fromkeys(row[i] for row in there)) for i in range(len(groups))]
        if len(there) == math.prod(map(len, levels)):
            kept = [(title, tuple(found)) for title, found in zip(titles, levels, strict=True)]
            kept = [(title, found) for title, found in kept if len(found) > 1]
            return Design(tuple(t for t, _ in kept), tuple(f for _, f in kept), tuple(dropped))
        counts = {
            (i, level): sum(row[i] == level for row in there) * len(levels[i])
            for i in range(len(groups))
            for level in levels[i]
        }
        # The counts are relative to a complete grid. Of equals the last is dropped, so that the first stay.
        i, level = min(reversed(counts), key=counts.__getitem__)
        there = {row: None for row in there if row[i] != level}
        dropped.append((titles[i], level))
