"""The numerical floor of a run: what computing a cell again changes where nothing should.

The same cells are computed alike, elsewhere in a batch, in batches of another width, and with products of
another precision, each time through the whole package as any run is. How far their pictures and losses move
is what rounding does; a spread between seeds means something by what it has beyond that.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxstyle import cli, manifest, run, stats, store, tables
from jaxstyle.grid import Cell, Program
from jaxstyle.settings import RunOptions, Sweep
from jaxstyle.store import Record

OTHER_WIDTH = 4
"""Cells per launch beside a run of 1; beside a wider one it is 1."""
PRODUCTS = "products in "
"""What begins the names of rows of another precision."""


class FloorRow(NamedTuple):
    """How far a recomputation is from the first one of the same cells."""

    name: str
    rmse: float
    """Of the saved pictures, in grey levels, averaged over cells; NaN where there are none to compare."""
    largest: float
    """The largest difference of a pixel, in grey levels."""
    loss: float
    """The largest |L' - L| / L of the final total loss."""
    first_loss: float
    """The same at step 0."""


@dataclass(frozen=True)
class Floor:
    """What changes when a cell is computed again."""

    label: str
    """Of the setting."""
    cells: tuple[int, ...]
    """Those of the run that were computed again."""
    seeds: tuple[int, ...]
    steps: int
    rows: list[FloorRow]
    between: FloorRow
    """Another seed, of the same cells after the same steps."""
    precision: str
    """That of the run."""
    width: int
    notes: tuple[str, ...]


class Computed(NamedTuple):
    """Cells that were computed for the floor, in the order of the seeds asked for."""

    pictures: np.ndarray | None
    totals: np.ndarray
    """(n, steps + 1): the total losses."""


def compute(sweep: Sweep, seeds: Sequence[int], width: int) -> Computed:
    """Compute a sweep of one setting in a directory of its own, as any run is."""
    with tempfile.TemporaryDirectory(prefix="jaxstyle-floor-") as folder:
        out = Path(folder) / "run"
        try:
            run.run_sweep(sweep, RunOptions(out=str(out), quiet=True, no_lock=True), width=width)
        except cli.Interrupted as stop:
            raise cli.Interrupted(stop.number) from None  # there will be nothing to go on with
        record = store.open_record(out)
        pictures, totals = {}, {}
        for part in record.chunks():
            for i, number in enumerate(part.cell):
                seed = record.cells[int(number)].seed
                pictures[seed], totals[seed] = part.image[i, -1], part.curves[tables.TOTAL][i]
    return Computed(np.stack([pictures[s] for s in seeds]), np.stack([totals[s] for s in seeds]))


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.max(np.abs(a - b) / np.where(b == 0, 1, np.abs(b))))


def _compare(name: str, found: Computed, base: Computed) -> FloorRow:
    rmse = largest = float("nan")
    if found.pictures is not None and base.pictures is not None:
        a, b = found.pictures.astype(np.float64), base.pictures.astype(np.float64)
        rmse = float(np.mean([stats.rmse(x, y) for x, y in zip(a, b, strict=True)]))
        largest = float(np.max(np.abs(a - b)))
    last, first = (_relative(found.totals[:, k], base.totals[:, k]) for k in (-1, 0))
    return FloorRow(name, rmse, largest, last, first)


def _between_seeds(base: Computed) -> FloorRow:
    """Every pair of the seeds that were recomputed, as a row."""
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
    return FloorRow("another seed", rmse, largest, loss, first)


def measure(record: Record, cells: Sequence[Cell], label: str, device: Any, *, most_steps: int) -> Floor:
    """Compute some cells of a run again where nothing should change, and say what does.

    With the run's own settings: twice alike, in the other order, with another number of cells per launch,
    with products of another precision. The first of these also stands beside what the run itself has.

    Args:
        record: the run.
        cells: two or more that differ in their seed alone.
        label: what to call them.
        device: where they are computed.
        most_steps: they are computed for the run's steps, or for so many if those are more.
    """
    from jaxstyle import engine

    sweep, cell = record.sweep, cells[0]
    seeds = tuple(c.seed for c in cells)
    steps = min(sweep.steps[-1], most_steps)
    program = _program_of(record, cell.id)
    own = {axis: (getattr(cell, axis),) for axis in sweep.axes} | {"seed": seeds}
    alike = replace(sweep, **own, grid=(), steps=(steps,), trace_every=1, given={})
    width = program.width
    other = OTHER_WIDTH if width == 1 else 1
    precisions = ["f32"] if sweep.precision != "f32" else ["bf16"]
    if sweep.precision == "f32" and engine.can_tf32(device):
        precisions.insert(0, "tf32")

    base = compute(alike, seeds, width)
    rows = [_compare("the same seed again", compute(alike, seeds, width), base)]
    notes = []
    if (stored := _stored(record, cells, steps)) is None:
        notes.append("The run's own trajectory is another one, so that what it has is not compared.")
    else:
        rows.append(_compare("as the run has it", stored, base._replace(totals=base.totals[:, [0, -1]])))
    reverse = compute(replace(alike, seed=seeds[::-1]), seeds, width)
    rows.append(_compare("in another place of the batch", reverse, base))
    rows.append(_compare(f"{other} cells per launch", compute(alike, seeds, other), base))
    for precision in precisions:
        found = compute(replace(alike, precision=precision), seeds, width)
        rows.append(_compare(PRODUCTS + precision, found, base))
    notes += _differences(record, program, cell, device)
    ids = tuple(c.id for c in cells)
    return Floor(label, ids, seeds, steps, rows, _between_seeds(base), sweep.precision, width, tuple(notes))


def _program_of(record: Record, cell: int) -> Program:
    plan = record.plan
    (chunk,) = (chunk for chunk in plan.chunks if cell in chunk.cells)
    return plan.programs[chunk.program]


def _stored(record: Record, cells: Sequence[Cell], steps: int) -> Computed | None:
    """What the run has of some cells after so many steps; None where its trajectory is another one."""
    if steps != record.sweep.steps[-1] and record.sweep.schedule != "constant":
        return None
    ids = [cell.id for cell in cells]
    with store.open_h5(record.path / "results.h5") as file:
        for shape in map(str, file):
            there = store.dataset(file, f"{shape}/cell")[()].tolist()
            traced = store.dataset(file, f"{shape}/step")[()].tolist()
            if ids[0] not in there or steps not in traced:
                continue
            rows = [there.index(i) for i in ids]
            totals = store.take(store.dataset(file, f"{shape}/loss_total"), rows)
            snapshots = store.dataset(file, f"{shape}/snapshot")[()].tolist()
            images, pictures = store.dataset(file, f"{shape}/image"), None
            if steps in snapshots:
                pictures = store.take(images, rows, snapshots.index(steps))
            return Computed(pictures, totals[:, [0, traced.index(steps)]])
    return None


def _differences(record: Record, program: Program, cell: Cell, device: Any) -> Iterator[str]:
    """What may make a recomputed cell differ from what the run has stored."""
    was = record.manifest
    had, now = was.get("device", {}).get("kind"), device.device_kind
    if had != now:
        yield f"The run was computed on a {had}, the floor on a {now}."
    if was.get("threads") != manifest.thread_count():
        yield f"The run had {was.get('threads')} threads, the floor {manifest.thread_count()}."
    if was.get("code_sha256") != manifest.code_digest():
        yield "The run was computed by other source files of jaxstyle than the floor."
    if program.taps != cell.taps:
        yield "The run's program also looks at layers that these cells do not use."
    if program.canvas:
        yield "In the run these cells lie on a canvas with others, here they do not."
