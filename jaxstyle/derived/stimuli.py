"""`stimuli.csv`: every picture of a run as a stimulus, its light and how far its synthesis came.

E_l is the loss of style layer l; `left_NAME` is E_l / E_l(0), the part that is left of the start's. A
synthesis failed if one of these holds, the first of which is `why`:

    diverged   it did
    falling    its total loss fell by more than FALLING over the last tenth of its steps, and some E_l is
               above NEAR times E_l(0): a loss of next to nothing may go on falling
    no nearer  without a content and without coarser stages, some E_l is not below E_l(0)
    outlier    its total loss is more than OUTLIER times the median of the seeds of its setting, if there
               are at least MIN_SEEDS
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxstyle.inputs.light import Light, light_of
from jaxstyle.plan.cells import Cell
from jaxstyle.rundir.chunks import ChunkResult
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.image_files import image_name
from jaxstyle.rundir.records import Record
from jaxstyle.spec.settings import PATH_AXES, Sweep
from jaxstyle.spec.tables import TOTAL
from jaxstyle.vgg import layers

FILE = "stimuli.csv"
FALLING, NEAR, OUTLIER, MIN_SEEDS = 0.1, 1e-3, 2.0, 3
LAST_PART = 0.1
"""The part of a trajectory whose fall says whether it has ended. The nearest loss that is kept may be half
of it too early."""
FAILED = ("failed", "why", "falls")
OF_SEEDS = ("seeds", "place")
STIMULUS_SETTINGS = ("colour", "finish")
"""Settings that only somebody who makes stimuli gives."""


def is_wanted(record: Record) -> bool:
    """Whether a run makes stimuli: it has textures, or settings that are for stimuli."""
    own = any(getattr(record.sweep, name) != getattr(Sweep, name) for name in STIMULUS_SETTINGS)
    return own or any(not cell.has_content for cell in record.cells)


def write_stimuli(run: RunDirectory, record: Record) -> None:
    """Write `stimuli.csv` of the cells that have been computed, if the run makes stimuli."""
    if not is_wanted(record):
        return
    staged = _staged(record)
    rows = [row for chunk in record.chunks() for row in _rows(record, chunk, staged)]
    rows.sort(key=lambda row: row["cell"])
    _compare_seeds(record, rows)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns_of(record), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({name: number_text(value) for name, value in row.items()} for row in rows)
    run.write(FILE, buffer.getvalue())


def columns_of(record: Record) -> tuple[str, ...]:
    """Names of the columns: the cell and its axes, light, losses, layers, failure, place among seeds."""
    names = layers.in_order(name for cell in record.cells for name in cell.layer_weights)
    return (
        *("cell", *record.axes, "steps", "height", "width", "image"),
        *Light._fields,
        *(TOTAL, *record.further),
        *(f"left_{name}" for name in names),
        *FAILED,
        *OF_SEEDS,
    )


def _staged(record: Record) -> set[int]:
    """The cells that go through coarser stages first."""
    plan = record.plan
    return {i for own in plan.chunks if plan.programs[own.program].coarser for i in own.cells}


def _rows(record: Record, chunk: ChunkResult, staged: Collection[int]) -> Iterator[dict[str, Any]]:
    """The rows of a chunk's cells, without what depends on other seeds.

    Args:
        record: the run.
        chunk: the results of the cells.
        staged: the cells of the run that go through coarser stages first.
    """
    for index, number in enumerate(chunk.cell):
        cell = record.cells[int(number)]
        axes = {axis: record.number(cell, axis) for axis in record.axes}
        axes |= {axis: record.given(axis, axes[axis]) for axis in record.axes if axis in PATH_AXES}
        height, width = chunk.image.shape[2:4]
        left = _left(chunk, index)
        falls = fall(chunk.curves[TOTAL][index], chunk.step)
        why = ""
        if chunk.diverged_step[index] >= 0:
            why = "diverged"
        elif falls is not None and falls > FALLING and max(left.values(), default=0.0) > NEAR:
            why = "falling"
        elif cell.id not in staged and not cell.has_content and any(part >= 1 for part in left.values()):
            why = "no nearer"
        yield {
            **axes,
            "cell": cell.id,
            "steps": int(chunk.steps[index]),
            "height": height,
            "width": width,
            "image": image_name(cell.id, 0, 0),
            **light_of(chunk.image[index, -1])._asdict(),
            TOTAL: float(chunk.loss_final[index, chunk.losses.index(TOTAL)]),
            **{name: float(values[index]) for name, values in chunk.further.items()},
            **{f"left_{name}": part for name, part in left.items()},
            "why": why,
            "falls": falls,
        }


def _left(chunk: ChunkResult, index: int) -> dict[str, float]:
    """E_l / E_l(0) of a cell's own layers, by name; none where E_l(0) is 0 or a value is not finite."""
    curve = chunk.style_layer_loss[index].astype(np.float64)
    first, last = curve[0], curve[-1]
    sound = np.isfinite(first) & np.isfinite(last) & (first > 0)
    return {name: float(last[i] / first[i]) for i, name in enumerate(chunk.layer) if sound[i]}


def fall(losses: np.ndarray, steps: Sequence[int]) -> float | None:
    """The part of a loss that was lost over the last tenth of its steps; None if no curve is kept there.

    Args:
        losses: the losses at `steps`.
        steps: ascending, the last being the end.
    """
    end = steps[-1]
    earliest = min((1 - 1.5 * LAST_PART) * end, math.floor((1 - LAST_PART) * end))
    before = [i for i, step in enumerate(steps) if earliest <= step <= (1 - LAST_PART) * end]
    if not before or not np.isfinite([losses[before[-1]], losses[-1]]).all() or losses[before[-1]] <= 0:
        return None
    return float(1 - losses[-1] / losses[before[-1]])


def _compare_seeds(record: Record, rows: Iterable[dict[str, Any]]) -> None:
    """Add to every row the number of seeds of its setting, its place among them, and whether it failed."""
    settings: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        settings.setdefault(_setting(record, record.cells[row["cell"]]), []).append(row)
    for of in settings.values():
        done = sorted((r for r in of if r["why"] != "diverged"), key=lambda r: (r[TOTAL], r["cell"]))
        middle = statistics.median(r[TOTAL] for r in done) if done else 0.0
        for place, row in enumerate(done, 1):
            row["place"] = place
            if len(done) >= MIN_SEEDS and not row["why"] and row[TOTAL] > OUTLIER * middle:
                row["why"] = "outlier"
        for row in of:
            row |= {"seeds": len(of), "failed": int(bool(row["why"]))}


def _setting(record: Record, cell: Cell) -> tuple[Any, ...]:
    return tuple(getattr(cell, axis) for axis in record.axes if axis != "seed")


def number_text(value: Any) -> Any:
    """A number as it is written: six digits for measured ones, nothing for one that is not there."""
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
