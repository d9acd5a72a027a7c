"""Selection of the cells of a huge run that are shown: an even part of its grid.

Some values of every axis are kept, and all cells that have only such values. The result is a smaller grid
of the same kind, with neighbours to compare; single cells at random would leave a large grid full of holes.
Seeds are left out first, since they stand for chance, and then values of the longest axes. The choice is
not random: the same run always shows the same cells.

Symbols:
    n  cells; a  axes; codes (n, a)  number of each cell's value on each axis, from 0
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxstyle.rundir.records import Record

SEEDS_KEPT = 2
"""Fewest seeds to keep before values of other axes are left out: two can be compared."""
MIN_SNAPSHOTS = 5
"""Fewest snapshots of each cell to keep before cells are left out."""


class Count(NamedTuple):
    """Numbers of values, in the run and among those shown, of axes that vary together."""

    axes: tuple[str, ...]
    shown: int
    total: int


@dataclass(frozen=True)
class Shown:
    """The cells and snapshots of a run that are shown."""

    cells: tuple[int, ...]
    """Indices of the cells, ascending."""
    snapshots: tuple[int, ...]
    """Indices into the steps of the run."""
    left_out: int
    """Number of pictures that are not shown."""
    counts: tuple[Count, ...] = ()
    """Counts for all axes that vary; empty if nothing is left out."""


def axis_codes(record: Record, present: Sequence[int]) -> tuple[tuple[str, ...], Int[np.ndarray, "n a"]]:
    """The axes on which the cells in `present` differ, and the codes of the cells."""
    cells, axes, columns = [record.cells[i] for i in present], [], []
    for axis, values in record.values.items():
        number = {value: i for i, value in enumerate(values)}
        codes = np.fromiter((number[cell.label(axis)] for cell in cells), np.int32, len(cells))
        there, codes = np.unique(codes, return_inverse=True)
        if len(there) > 1:
            axes.append(axis)
            columns.append(codes)
    return tuple(axes), np.array(columns, np.int64).reshape(len(columns), len(cells)).T


def shown(record: Record, present: Iterable[int], limit: int) -> Shown:
    """All pictures of the cells in `present`, or an even part of them, at most about `limit`."""
    cells, steps = sorted(present), len(record.sweep.steps)
    total = len(cells) * steps
    if total <= limit:
        return Shown(tuple(cells), tuple(range(steps)), 0)
    snapshots = even(steps, max(MIN_SNAPSHOTS, limit // len(cells)))
    axes, codes = axis_codes(record, cells)
    seeds = [i for i, axis in enumerate(axes) if axis == "seed"]
    kept = chosen(codes, max(1, limit // len(snapshots)), seeds=seeds)
    counts = []
    for group in together(codes):
        here, all_of_them = (len(np.unique(part[:, group[0]])) for part in (codes[kept], codes))
        counts.append(Count(tuple(axes[i] for i in group), here, all_of_them))
    if steps > 1:
        counts.append(Count(("steps",), len(snapshots), steps))
    numbers = np.array(cells)[kept]
    left_out = total - len(numbers) * len(snapshots)
    return Shown(tuple(numbers.tolist()), tuple(snapshots.tolist()), left_out, tuple(counts))


def even(count: int, kept: int) -> Int[np.ndarray, " kept"]:
    """`kept` of the indices below `count`, evenly spread and including the first and the last; or all."""
    if kept >= count:
        return np.arange(count)
    return np.round(np.linspace(0, count - 1, kept)).astype(np.int64)


def together(codes: Int[np.ndarray, "n a"]) -> list[list[int]]:
    """Groups of axes that always vary together, as zipped ones do; every axis is in one group."""
    found: list[list[int]] = []
    sizes = [len(np.unique(column)) for column in codes.T]
    for axis, size in enumerate(sizes):
        for group in found:
            pairs = codes[:, group[0]].astype(np.int64) * size + codes[:, axis]
            if sizes[group[0]] == size == len(np.unique(pairs)):
                group.append(axis)
                break
        else:
            found.append([axis])
    return found


def chosen(
    codes: Int[np.ndarray, "n a"], limit: int, *, seeds: Sequence[int] = ()
) -> Bool[np.ndarray, " n"]:
    """Mask of the cells to keep so that there are at most `limit`.

    Of each group of axes that vary together, min(size, most) values are kept, with the largest `most` that
    leaves few enough cells: first for seeds alone, then for all other axes, so that short ones stay whole.

    Args:
        codes: codes of all cells.
        limit: most cells to keep, at least 1.
        seeds: indices of the axes that stand for chance.
    """
    n = len(codes)
    if n <= limit:
        return np.ones(n, bool)
    groups = together(codes)
    columns = [codes[:, group[0]] for group in groups]
    sizes = [int(column.max()) + 1 for column in columns]
    chance = [set(group) <= set(seeds) for group in groups]

    def mask(most_seeds: int, most: int) -> Bool[np.ndarray, " n"]:
        kept = np.ones(n, bool)
        for column, size, by_chance in zip(columns, sizes, chance, strict=True):
            values = np.zeros(size, bool)
            values[even(size, most_seeds if by_chance else most)] = True
            kept &= values[column]
        return kept

    longest = max(sizes)
    fewest = min(SEEDS_KEPT, limit)
    if mask(fewest, longest).sum() <= limit:
        found = _largest(lambda most: mask(most, longest), fewest, longest, limit)
    else:
        found = _largest(lambda most: mask(fewest, most), 1, longest, limit)
    if 4 * found.sum() < min(n, limit):  # full of holes, such as several small grids that share no values
        found = np.zeros(n, bool)
        found[even(n, limit)] = True
    return found


def _largest(
    mask: Callable[[int], Bool[np.ndarray, " n"]], low: int, high: int, limit: int
) -> Bool[np.ndarray, " n"]:
    """The mask for the largest number from `low` to `high` that keeps at most `limit` cells.

    The search assumes that more values keep more cells, which is nearly true: in a grid with holes they may
    keep fewer. It never keeps more than `limit` cells, and none if no number keeps so few.
    """
    found = np.zeros_like(mask(low))
    while low <= high:
        middle = (low + high) // 2
        kept = mask(middle)
        if kept.sum() <= limit:
            found, low = kept, middle + 1
        else:
            high = middle - 1
    return found
