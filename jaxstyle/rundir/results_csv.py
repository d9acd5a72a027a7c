"""`results.csv`: a row for every cell."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from jaxstyle.rundir.chunks import PER_CELL, ChunkSummary
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.files import replacing
from jaxstyle.rundir.image_files import image_name
from jaxstyle.rundir.records import Record
from jaxstyle.spec.settings import AXES, PATH_AXES
from jaxstyle.spec.tables import LOSSES, TOTAL

COLUMNS = (
    "cell",
    *AXES,
    "steps",
    "height",
    "width",
    "status",
    *LOSSES,
    "image",
    "diverged_step",
    "loss_best",
    "step_best",
    "evaluations",
    "start_cell",
    "alpha_beta_given",
    "style_layer_weights",
)


class Rows(Sequence[dict[str, Any]]):
    """The rows of `results.csv`, ascending by cell, for the cells that have been computed.

    This is like a list of dictionaries, but the numbers are kept in arrays and each dictionary is made when
    it is asked for.

    Args:
        record: the run.
        outlines: the outlines of its chunks.
    """

    def __init__(self, record: Record, outlines: Iterable[ChunkSummary]):
        self._record = record
        found = list(outlines)
        cells = np.concatenate([np.zeros(0, np.int64), *(outline.cell for outline in found)])
        order = np.argsort(cells, kind="stable")

        def column(values: Callable[[ChunkSummary], np.ndarray]) -> np.ndarray:
            return np.concatenate([values(outline) for outline in found])[order] if found else cells

        self.cell = cells[order]
        """The ids of the cells."""
        self.losses = column(lambda outline: _in_columns(outline, tuple(record.losses)))
        """The record's losses of the last image kept, (cells, losses)."""
        self.diverged = column(lambda outline: outline.diverged_step) >= 0
        """Whether each cell diverged."""
        self._numbers = {name: column(lambda o, name=name: getattr(o, name)) for name in PER_CELL}
        self._further = {name: column(lambda o, name=name: o.further[name]) for name in record.further}
        self._shape = column(lambda o: np.full((len(o.cell), 2), (o.height_px, o.width_px), np.int32))

    @property
    def above_best(self) -> np.ndarray:
        """The total loss of each cell's picture over the lowest of its steps; NaN where it has none."""
        best = self._numbers["loss_best"].astype(np.float64)
        total = self.losses[:, [*self._record.losses].index(TOTAL)].astype(np.float64)
        return np.divide(total, best, out=np.full(len(best), np.nan), where=best > 0)

    @property
    def planned(self) -> int:
        """Number of cells of the run, also of those that have not been computed."""
        return len(self._record.cells)

    def __len__(self) -> int:
        return len(self.cell)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self._line(i) for i in range(*index.indices(len(self)))]
        return self._line(range(len(self))[index])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"<{len(self)} rows>"

    def __reduce__(self) -> Any:
        return list, (list(self),)

    def find(self, cell: int) -> dict[str, Any] | None:
        """The row of a cell, or None if the cell has not been computed."""
        index = int(np.searchsorted(self.cell, cell))
        return self._line(index) if index < len(self) and self.cell[index] == cell else None

    def _line(self, index: int) -> dict[str, Any]:
        cell = self._record.cells[int(self.cell[index])]
        number = {name: values[index] for name, values in self._numbers.items()}
        diverged, step_best = int(number["diverged_step"]), int(number["step_best"])
        values: dict[str, Any] = {"cell": cell.id}
        for axis in self._record.axes:
            value = self._record.number(cell, axis)
            values[axis] = self._record.given(axis, value) if axis in PATH_AXES else value
        values |= {
            "steps": int(number["steps"]),
            "height": int(self._shape[index, 0]),
            "width": int(self._shape[index, 1]),
            "status": "done" if diverged < 0 else "diverged",
            **dict(zip(self._record.losses, self.losses[index], strict=True)),
            "image": image_name(cell.id, 0, 0),
            "diverged_step": "" if diverged < 0 else diverged,
            "loss_best": number["loss_best"],
            "step_best": "" if step_best < 0 else step_best,
            "evaluations": number["evaluations"],
            "start_cell": "",  # earlier versions, with `warm_steps`, put here the cell it started from
            "alpha_beta_given": cell.label("alpha_beta"),
            "style_layer_weights": "+".join(f"{name}:{w!r}" for name, w in cell.layer_weights.items()),
            **{name: of[index] for name, of in self._further.items()},
        }
        return values

    @property
    def columns(self) -> tuple[str, ...]:
        """The column names of `results.csv`: first those of every run, then those of optional terms."""
        more = (*self._record.axes, *self._record.losses, *self._record.further)
        return (*COLUMNS, *(name for name in more if name not in COLUMNS))


def _in_columns(outline: ChunkSummary, losses: Sequence[str]) -> np.ndarray:
    """The final losses of a chunk's cells, (cells, losses); NaN for losses that the chunk does not have."""
    found = np.full((len(outline.cell), len(losses)), np.nan, np.float32)
    found[:, [losses.index(name) for name in outline.losses]] = outline.loss_final
    return found


def read_rows(record: Record) -> Rows:
    """The rows of `results.csv`. Raises JaxstyleError if a chunk is damaged."""
    return Rows(record, record.outlines())


def _write_lines(file: io.TextIOBase, lines: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write a CSV table, with float32 numbers in the shortest form that reads back as the same number."""
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        numbers = {name: str(value) for name, value in line.items() if isinstance(value, np.floating)}
        writer.writerow({**line, **numbers})


def write_csv(
    run: RunDirectory, lines: Iterable[Mapping[str, Any]], columns: Sequence[str] = COLUMNS
) -> Path:
    """Write `results.csv` row by row, whole or not at all."""
    path = run.path / "results.csv"
    with replacing(path) as temporary, open(temporary, "x", encoding="utf-8", newline="") as file:
        _write_lines(file, lines, columns)
    return path
