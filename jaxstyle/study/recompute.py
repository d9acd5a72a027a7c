"""The numerical floor of a run: how far a cell moves when it is computed again and nothing should change.

The same cells are computed as before, in other places of the batch, in batches of another width, and with
products of another precision, each time as a run of its own through the whole package. Their pictures and
losses then move by rounding alone; a spread between seeds is meaningful only as far as it exceeds that.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxstyle.console import signals
from jaxstyle.console.progress import Display, counted, parts_of
from jaxstyle.plan.cells import Cell
from jaxstyle.plan.masks import masks_of, with_masks
from jaxstyle.plan.programs import Program
from jaxstyle.run.sweep import run_sweep
from jaxstyle.rundir import manifest
from jaxstyle.rundir.hdf5 import dataset, open_h5, rows_in_order
from jaxstyle.rundir.records import Record, open_record
from jaxstyle.spec import tables
from jaxstyle.spec.regions import MASKS
from jaxstyle.spec.settings import MASK_KEYS, RunOptions, Sweep
from jaxstyle.study import stats

OTHER_WIDTH = 4
"""Cells per launch that a run with 1 is compared with; a wider run is compared with 1."""
PRODUCTS = "products in "
"""Prefix of the names of rows with another precision."""


class RecomputedRow(NamedTuple):
    """Distance of a recomputation from the first one of the same cells."""

    name: str
    rmse: float
    """RMSE of the saved pictures in grey levels, averaged over cells; NaN if there are none to compare."""
    largest: float
    """The largest difference of a pixel, in grey levels."""
    loss: float
    """The largest |L' - L| / L of the final total loss."""
    first_loss: float
    """The same at step 0."""


@dataclass(frozen=True)
class Recomputed:
    """The changes in some cells of one setting when they are computed again."""

    label: str
    """Name of the setting."""
    cells: tuple[int, ...]
    """Cells of the run that were computed again."""
    seeds: tuple[int, ...]
    steps: int
    rows: list[RecomputedRow]
    between: RecomputedRow
    """Distance between seeds, of the same cells after the same steps."""
    precision: str
    """Precision of the run."""
    width: int
    notes: tuple[str, ...]


class Computed(NamedTuple):
    """Cells that were computed for the floor, in the order of the seeds asked for."""

    pictures: np.ndarray | None
    totals: np.ndarray
    """Total losses, (n, steps + 1); of cells that a run has stored only the first and the last, (n, 2)."""


def compute(sweep: Sweep, seeds: Sequence[int], width: int) -> Computed:
    """Compute a sweep of one setting as a run of its own, in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="jaxstyle-floor-") as folder:
        out = Path(folder) / "run"
        with signals.mended(lambda: ""):  # no advice to go on: its directory will be gone
            run_sweep(sweep, RunOptions(out=str(out), quiet=True, no_lock=True), width=width)
        record = open_record(out)
        pictures, totals = {}, {}
        for part in record.chunks():
            for i, number in enumerate(part.cell):
                seed = record.cells[int(number)].seed
                pictures[seed], totals[seed] = part.image[i, -1], part.curves[tables.TOTAL][i]
    return Computed(np.stack([pictures[s] for s in seeds]), np.stack([totals[s] for s in seeds]))


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.max(np.abs(a - b) / np.where(b == 0, 1, np.abs(b))))


def _compare(name: str, found: Computed, base: Computed) -> RecomputedRow:
    rmse = largest = float("nan")
    if found.pictures is not None and base.pictures is not None:
        a, b = found.pictures.astype(np.float64), base.pictures.astype(np.float64)
        rmse = float(np.mean([stats.rmse(x, y) for x, y in zip(a, b, strict=True)]))
        largest = float(np.max(np.abs(a - b)))
    last, first = (_relative(found.totals[:, k], base.totals[:, k]) for k in (-1, 0))
    return RecomputedRow(name, rmse, largest, last, first)


def _between_seeds(base: Computed) -> RecomputedRow:
    """Distance between the recomputed seeds, over all pairs, as a row."""
    pairs = list(itertools.combinations(range(len(base.totals)), 2))
    assert base.pictures is not None
    rows = [
        _compare(
            "",
            Computed(base.pictures[[i]], base.totals[[i]]),
            Computed(base.pictures[[j]], base.totals[[j]]),
        )
        for i, j in pairs
    ]
    rmse = float(np.mean([row.rmse for row in rows]))
    largest, loss, first = (max(getattr(row, k) for row in rows) for k in ("largest", "loss", "first_loss"))
    return RecomputedRow("another seed", rmse, largest, loss, first)


def of_setting(sweep: Sweep, cell: Cell, seeds: Sequence[int], steps: int) -> Sweep:
    """A sweep of one setting of a resolved one, for some of its seeds.

    Args:
        cell: a cell of that setting.
        steps: number of steps, all of which are traced.
    """
    own = {axis: (getattr(cell, axis),) for axis in sweep.axes} | {"seed": tuple(seeds)}
    if not cell.has_style:  # and the infinite ratio that this means
        own["alpha_beta"] = (0.0,)
    alike = replace(sweep, **own, grid=(), steps=(steps,), trace_every=1, given={})
    if cell.regions == MASKS:
        return with_masks(alike, masks_of(sweep))
    return replace(alike, **dict.fromkeys(MASK_KEYS, ()), leave=(), hold=())


def measure(
    record: Record,
    cells: Sequence[Cell],
    label: str,
    device: Any,
    *,
    most_steps: int,
    display: Display,
) -> Recomputed:
    """Compute some cells of a run again in ways that should change nothing, and measure what changes.

    They are computed with the run's own settings: twice in the same way, in the other order, with another
    number of cells per launch, and with products of another precision. The first of these is also compared
    with the results that the run has stored.

    Args:
        record: the run.
        cells: two or more cells that differ in their seed alone.
        label: name of their setting.
        device: the device that computes them.
        most_steps: number of steps to compute if the run has more.
        display: the display that shows the progress of all computations together.
    """
    from jaxstyle.device.memory import can_tf32

    sweep, cell = record.sweep, cells[0]
    seeds = tuple(c.seed for c in cells)
    steps = min(sweep.steps[-1], most_steps)
    program = _program_of(record, cell.id)
    alike = of_setting(sweep, cell, seeds, steps)
    width = program.width
    other = OTHER_WIDTH if width == 1 else 1
    precisions = ["f32"] if sweep.precision != "f32" else ["bf16"]
    if sweep.precision == "f32" and can_tf32(device):
        precisions.insert(0, "tf32")

    times = 4 + len(precisions)
    what = counted(len(cells), "cell")
    display.event("note", f"computing {what} {times} times again, for the numerical floor")
    with parts_of(display, times):
        base, again = (compute(alike, seeds, width) for _ in range(2))
        reverse = compute(replace(alike, seed=seeds[::-1]), seeds, width)
        wide = compute(alike, seeds, other)
        products = [compute(replace(alike, precision=kind), seeds, width) for kind in precisions]

    rows, notes = [_compare("the same seed again", again, base)], list[str]()
    if (stored := _stored(record, cells, steps)) is None:
        why = "own trajectory is another one" if _differs(record, steps) else f"curves have no step {steps}"
        notes.append(f"The run's {why}, so its stored results are not compared.")
    else:
        rows.append(_compare("as the run has it", stored, base._replace(totals=base.totals[:, [0, -1]])))
    rows.append(_compare("in another place of the batch", reverse, base))
    rows.append(_compare(f"{other} cells per launch", wide, base))
    rows += [_compare(PRODUCTS + k, of, base) for k, of in zip(precisions, products, strict=True)]
    notes += _differences(record, program, cell, device)
    ids = tuple(c.id for c in cells)
    return Recomputed(
        label, ids, seeds, steps, rows, _between_seeds(base), sweep.precision, width, tuple(notes)
    )


def _program_of(record: Record, cell: int) -> Program:
    plan = record.plan
    (chunk,) = (chunk for chunk in plan.chunks if cell in chunk.cells)
    return plan.programs[chunk.program]


def _differs(record: Record, steps: int) -> bool:
    """Whether the first `steps` steps of a run are not what a run of so many steps computes."""
    return steps != record.sweep.steps[-1] and record.sweep.schedule != "constant"


def _stored(record: Record, cells: Sequence[Cell], steps: int) -> Computed | None:
    """The run's results of some cells after `steps` steps; None if it has none that compare."""
    if _differs(record, steps):
        return None
    ids = [cell.id for cell in cells]
    with open_h5(record.path / "results.h5") as file:
        for shape in map(str, file):
            there = dataset(file, f"{shape}/cell")[()].tolist()
            traced = dataset(file, f"{shape}/step")[()].tolist()
            if ids[0] not in there or steps not in traced:
                continue
            rows = [there.index(i) for i in ids]
            totals = rows_in_order(dataset(file, f"{shape}/loss_total"), rows)
            snapshots = dataset(file, f"{shape}/snapshot")[()].tolist()
            images, pictures = dataset(file, f"{shape}/image"), None
            if steps in snapshots:
                pictures = rows_in_order(images, rows, snapshots.index(steps))
            return Computed(pictures, totals[:, [0, traced.index(steps)]])
    return None


def _differences(record: Record, program: Program, cell: Cell, device: Any) -> Iterator[str]:
    """Reasons why a recomputed cell may differ from the one that the run has stored, in sentences."""
    was = record.manifest
    had, now = was.get("device", {}).get("kind"), device.device_kind
    if had != now:
        yield f"The run was computed on a {had}, the floor on a {now}."
    if was.get("threads") != manifest.thread_count():
        yield f"The run had {was.get('threads')} threads, the floor {manifest.thread_count()}."
    if was.get("code_sha256") != manifest.code_digest():
        yield "The run was computed with other source files of jaxstyle than the floor."
    if program.taps != cell.taps:
        yield "The run's program also looks at layers that these cells do not use."
    if program.canvas:
        yield "In the run these cells lie on a canvas with others, but here they do not."
