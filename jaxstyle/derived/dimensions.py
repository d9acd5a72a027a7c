"""The axes of a page, the tables of its cells, and what distinguishes its pictures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxstyle.derived import sample
from jaxstyle.derived.thumbnails import Heads
from jaxstyle.derived.tiles import Tile, axis_names
from jaxstyle.rundir.hdf5 import dataset
from jaxstyle.rundir.records import Record
from jaxstyle.rundir.results_csv import Rows
from jaxstyle.spec import settings
from jaxstyle.spec.settings import PATH_AXES, axis_row
from jaxstyle.spec.tables import TOTAL

WINDOW_RATIO = 1.6
"""The approximate number of columns per row with which a grid is first shown."""
MAX_VALUES = 60
"""The most values of an axis in the table of all cells of a run that is shown in part."""
MAX_COLOURS = 12
"""The most groups of curves that the overview tells apart by colour."""


def speaks_for_itself(axis: str) -> bool:
    """Whether a value of an axis is clear without a word before it."""
    return not settings.short(axis)


@dataclass(frozen=True)
class Dimension:
    """A group of axes that change together; rows, columns or pages can stand for its values."""

    axes: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]
    """Its values in the order of the grid, each with a text for every axis."""
    at: list[int]
    """The index of every tile's value."""
    about: dict[str, Any]
    """Its description for the script of the page."""


def dimension(record: Record, tiles: Sequence[Tile], axes: tuple[str, ...], heads: Heads) -> Dimension:
    """The dimension of a page for axes that vary together."""
    index: dict[tuple[str, ...], int] = {}
    values, at = [], []
    for tile in tiles:
        key = tuple(tile.place[axis] for axis in axes)
        if key not in index:
            index[key] = len(values)
            values.append(_value(record, tile, axes, heads))
        at.append(index[key])
    about = {
        "id": axes[0],
        "label": " + ".join(map(settings.title, axes)),
        "axes": [settings.title(axis) for axis in axes],
        "named": not speaks_for_itself(axes[0]),
        "values": values,
    }
    return Dimension(axes, tuple(index), at, about)


def _raw(record: Record, tile: Tile, axis: str) -> Any:
    """The value of a tile on an axis as it is in the run, not as text."""
    return record.sweep.steps[tile.snapshot] if axis == "steps" else getattr(record.cells[tile.cell], axis)


def _value(record: Record, tile: Tile, axes: Sequence[str], heads: Heads) -> dict[str, Any]:
    raws: list[Any] = [_raw(record, tile, axis) for axis in axes]
    given, pictures = [], []
    for axis, raw in zip(axes, raws, strict=True):
        given.append(record.given(axis, raw) if axis in PATH_AXES else tile.place[axis])
        if (
            axis != "steps"
            and axis_row(axis).thumbnail
            and (number := heads.add(raw, given[-1])) is not None
        ):
            pictures.append(number)
    return {
        "text": [tile.place[axis] for axis in axes],
        "given": given,
        "pictures": pictures,
        "numbers": [raw if isinstance(raw, int | float) and math.isfinite(raw) else None for raw in raws],
    }


def rounded(value: Any) -> float | None:
    """A number to five digits, as JSON can have it: None where it is not finite."""
    number = float(value)
    return float(f"{number:.5g}") if math.isfinite(number) else None


def tile_losses(
    tiles: Sequence[Tile],
    names: Sequence[str],
    where: Mapping,
    rows: Mapping[int, Mapping],
    *,
    keeps_best: bool = False,
) -> list[list]:
    """The losses of every tile, a list for each of `names`; None for a loss that the run did not keep.

    Args:
        tiles: the tiles.
        names: names of losses.
        where: the group and the index of every cell in `results.h5`.
        rows: the rows of `results.csv`, by cell.
        keeps_best: whether a picture is that of the lowest total loss up to its step.
    """
    found: list[list] = [[] for _ in names]
    places: dict[str, dict[int, int]] = {}
    for tile in tiles:
        group, index = where[tile.cell]
        snapshots = dataset(group, "snapshot")
        if tile.snapshot == len(snapshots) - 1:
            values = [rows[tile.cell][name] for name in names]
        else:
            if group.name not in places:
                steps = dataset(group, "step")[()]
                places[group.name] = {int(step): i for i, step in enumerate(steps)}
            at = places[group.name].get(last := int(snapshots[tile.snapshot]))
            if keeps_best:
                at = _lowest(dataset(group, TOTAL)[index], places[group.name], last)
            values = [math.nan if at is None else dataset(group, n)[index, at] for n in names]
        for losses, value in zip(found, values, strict=True):
            losses.append(rounded(value))
    return found


def _lowest(total: np.ndarray, places: Mapping[int, int], last: int) -> int | None:
    """The place of the lowest total loss up to step `last`; None if the run did not keep every step."""
    before = [place for step, place in places.items() if step <= last]
    if len(before) <= last or np.isnan(total[before]).all():
        return None
    return before[int(np.nanargmin(total[before]))]


def curve_colours(
    tiles: Sequence[Tile], dimensions: Sequence[Dimension], rows: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[int, str], str, bool]:
    """The groups by which the overview colours curves: values of the axis that decides most of the loss.

    Only axes with at most `MAX_COLOURS` values count.

    Returns:
        The group of every cell, the title of the groups, and whether they are numbers in order.
    """
    totals = np.array([float(rows[tile.cell]["loss_total"]) for tile in tiles])
    few = [d for d in dimensions if d.axes != ("steps",) and len(d.keys) <= MAX_COLOURS]
    if not few:
        return {tile.cell: "all" for tile in tiles}, "", False
    d = min(few, key=lambda d: _spread_within(totals, np.array(d.at)))
    texts = {t.cell: ", ".join(d.keys[at]) for t, at in zip(tiles, d.at, strict=True)}
    return texts, d.about["label"], d.about["values"][0]["numbers"][0] is not None


def _spread_within(totals: np.ndarray, at: np.ndarray) -> float:
    """The variation of log10 losses within groups of cells: the sum of squares, rounded to 6 decimals."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(totals)
    groups = [logs[at == value] for value in range(int(at.max()) + 1)]
    kept = [group[np.isfinite(group)] for group in groups]
    return round(sum(float(np.sum((group - group.mean()) ** 2)) for group in kept if group.size), 6)


class WholeRun(NamedTuple):
    """Summaries of all cells of a run that is shown in part."""

    tables: list[dict[str, Any]]
    """A table for every group of axes that vary, with a summary of the cells of each value."""
    colours: tuple[dict[int, str], str, bool]
    """The groups of curves, as `curve_colours` returns them."""


def whole_run(record: Record, rows: Rows) -> WholeRun:
    """The tables and the colours of all cells of a run that is shown in part."""
    present = rows.cell.tolist()
    axes, codes = sample.axis_codes(record, present)
    totals = rows.losses[:, 0].astype(np.float64)
    tables, few = [], []
    for group in sample.together(codes):
        own, at = [axes[i] for i in group], codes[:, group[0]]
        _, first = np.unique(at, return_index=True)
        cells = [record.cells[present[i]] for i in first]
        names = [axis_names(record, axis) for axis in own]
        texts = [
            ", ".join(name[cell.label(axis)] for axis, name in zip(own, names, strict=True))
            for cell in cells
        ]
        label = " + ".join(map(settings.title, own))
        if len(texts) <= MAX_COLOURS:
            ordered = isinstance(getattr(cells[0], own[0]), int | float)
            few.append((_spread_within(totals, at), (at, texts, label, ordered)))
        kept = sample.even(len(texts), MAX_VALUES)
        lines = [[texts[i], *_line_of(rows, at == i)] for i in kept]
        columns = [label, "cells", "diverged", *(f"median {title}" for title in record.losses.values())]
        tables.append({"columns": columns, "rows": lines, "left_out": len(texts) - len(kept)})
    if not few:
        return WholeRun(tables, (dict.fromkeys(present, "all"), "", False))
    at, colours, label, ordered = min(few, key=lambda found: found[0])[1]
    by_cell = {cell: colours[code] for cell, code in zip(present, at.tolist(), strict=True)}
    return WholeRun(tables, (by_cell, label, ordered))


def _line_of(rows: Rows, own: np.ndarray) -> list[str]:
    """The number of the cells in `own`, the number that diverged, and the others' median losses."""
    losses = rows.losses[own & ~rows.diverged]
    medians = [_median(column) for column in losses.T]
    return [f"{own.sum():,}", f"{rows.diverged[own].sum():,}", *medians]


def _median(values: np.ndarray) -> str:
    """The median of the known values as text; empty if there are none."""
    known = values[~np.isnan(values)]
    return f"{np.median(known):.4g}" if len(known) else ""


def shown_rows(
    record: Record,
    rows: Mapping[int, Mapping[str, Any]],
    dimensions: Sequence[Dimension],
    tiles: Sequence[Tile],
) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table of cells: the axes that vary, losses and status."""
    axes = [axis for d in dimensions for axis in d.axes if axis != "steps"]
    place = {tile.cell: tile.place for tile in tiles}

    def number(value: Any) -> str:
        return f"{float(value):.4g}"

    lines = [
        [
            str(row["cell"]),
            *(place[row["cell"]][axis] for axis in axes),
            *(number(row[name]) for name in (*record.losses, *record.further)),
            row["status"] if row["status"] == "done" else f"diverged at step {row['diverged_step']}",
        ]
        for row in rows.values()
    ]
    further = [further_title(name) for name in record.further]
    return ["cell", *map(settings.title, axes), *record.losses.values(), *further, "status"], lines


def further_title(name: str) -> str:
    """The title of a loss that is kept once for each cell: `finished loss` for `loss_finished`."""
    return name.removeprefix("loss_") + " loss"


def arranged(dimensions: Sequence[Dimension]) -> tuple[list[str], list[str]]:
    """The axes of the rows and those of the columns at first, chosen so that the grid fits a window."""
    if len(dimensions) < 2:
        return [], []
    sizes = [len(d.keys) for d in dimensions]

    def misfit(rows: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        high = math.prod(sizes[i] for i in rows)
        return round(abs(math.log(math.prod(sizes) / high**2 / WINDOW_RATIO)), 6), rows

    numbers = range(len(sizes))
    choices = itertools.chain(*(itertools.combinations(numbers, n) for n in numbers if n))
    rows = min(choices, key=misfit)
    names = [d.about["id"] for d in dimensions]
    return [names[i] for i in rows], [names[i] for i in numbers if i not in rows]
