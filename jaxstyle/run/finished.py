"""A run that is finished or was opened: the Python API of its results."""

from __future__ import annotations

import functools
import operator
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from jaxtyping import UInt8

from jaxstyle.console.progress import counted
from jaxstyle.derived.notebook import html_of
from jaxstyle.derived.sheets import sheet_paths
from jaxstyle.inputs import decode
from jaxstyle.rundir.hdf5 import dataset, lacks_locks, open_h5
from jaxstyle.rundir.image_files import image_name, image_step
from jaxstyle.rundir.records import open_record
from jaxstyle.rundir.results_csv import Rows, read_rows
from jaxstyle.spec import paths
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.values import NONE, style_set

if TYPE_CHECKING:
    import pandas
    import xarray


@dataclass(frozen=True)
class Run:
    """A finished run, or one that was opened."""

    path: Path
    rows: Rows
    """The rows of `results.csv`: like a list, with a dictionary per cell."""
    sheets: list[Path]
    """Its contact sheets."""

    def __reduce__(self) -> Any:
        return open_run, (os.path.abspath(self.path),)

    @property
    def diverged(self) -> int:
        """Number of cells that diverged."""
        return int(self.rows.diverged.sum())

    @property
    def exit_code(self) -> int:
        """0, or 1 if some of its cells diverged."""
        return 1 if self.diverged else 0

    @functools.cached_property
    def _losses(self) -> tuple[str, ...]:
        """The names of its loss curves."""
        return tuple(open_record(self.path).losses)

    def _row(self, cell: int) -> dict[str, Any]:
        try:
            cell = operator.index(cell)
        except TypeError:
            why = f"{cell!r} is not a whole number; give that of a row, its cell"
            raise JaxstyleError("cell", why) from None
        found = self.rows.find(cell)
        if found is None:
            planned, there = self.rows.planned, counted(len(self.rows), "cell")
            why = f"has no cell {cell}; it has {there}"
            if 0 <= cell < planned:
                why = f"has not computed cell {cell} yet, but {there} of {planned}; go on with --resume"
            raise JaxstyleError(str(self.path), why)
        return found

    def image(self, cell: int, step: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
        """A picture of a cell, RGB.

        Args:
            cell: its number.
            step: the snapshot to take, one of the `steps` of the sweep; None for the final picture.

        Raises:
            JaxstyleError: if there is no such cell or snapshot.
        """
        row = self._row(cell)
        last = int(row["steps"])
        if step is not None and not hasattr(step, "__index__"):
            raise JaxstyleError("step", f"{step!r} is not a whole number; give one of the run's steps")
        path = self.path / (row["image"] if step is None else image_name(cell, step, last))
        if step is not None and not path.exists():
            named = (image_step(p.name) for p in path.parent.glob(f"{cell:06d}-step*.png"))
            steps = [*sorted(n for n in named if n is not None), last]
            raise JaxstyleError(
                str(self.path),
                f"cell {cell} has no picture after {step} steps; it has {' and '.join(map(str, steps))}",
            )
        return decode.read(str(path)).pixels

    def _repr_html_(self) -> str:
        """HTML for a notebook: the first contact sheet, the first rows, and where the page is."""
        return html_of(self.path, self.rows, self.sheets)

    def to_pandas(self) -> pandas.DataFrame:
        """`results.csv` as a table, a row per cell with the cell's number as its index.

        Raises:
            JaxstyleError: without pandas.
        """
        try:
            import pandas
        except ImportError:
            raise JaxstyleError("pandas", "is not installed; pip install pandas, or use rows") from None
        table = pandas.DataFrame(list(self.rows), columns=list(self.rows.columns))
        return with_one_type_each(table).set_index("cell")

    def losses(self, cell: int) -> dict[str, np.ndarray]:
        """The loss curves of a cell: float32 arrays over the steps that are in `step`.

        `loss_total`, `loss_content`, `loss_style` and those of plugins, and E_l of each of its own style
        layers under the layer's name. Where the cell had diverged they are NaN.

        Raises:
            JaxstyleError: if there is no such cell, or no `results.h5` yet.
        """
        row = self._row(cell)
        own = [] if row["style"] == NONE else [name for name, _ in style_set(row["style_layers"])]
        with self._results() as file:
            group = file.get(f"{row['height']}x{row['width']}")
            if not isinstance(group, h5py.Group) or cell not in (
                there := dataset(group, "cell")[()].tolist()
            ):
                raise JaxstyleError(str(self.path / "results.h5"), f"has no cell {cell} yet; {self._mend}")
            at = there.index(cell)
            names = [name.decode() for name in dataset(group, "layer")[()]]
            layers = dataset(group, "style_layer_loss")[at]
            found = {"step": dataset(group, "step")[()]}
            found |= {name: dataset(group, name)[at] for name in self._losses}
            return found | {name: layers[:, names.index(name)] for name in own}

    def dataset(self, shape: str | None = None) -> xarray.Dataset:
        """All cells of one image shape, read from `results.h5` as they are used; close it after use.

        Its axes are coordinates of the dimension `cell`: `data["loss_total"].groupby("alpha_beta")`.

        Args:
            shape: `HxW`, such as `192x256`; needed only where a run has several.

        Raises:
            JaxstyleError: without xarray, for a shape that the run does not have, or without `results.h5`.
        """
        try:
            import xarray
        except ImportError:
            raise JaxstyleError(
                "xarray", "is not installed; pip install xarray h5netcdf, or read results.h5 with h5py"
            ) from None
        with self._results() as file:
            shapes = sorted(map(str, file))
        if shape is None and len(shapes) > 1:
            raise JaxstyleError(str(self.path), f"has pictures of {' and '.join(shapes)}; name one of them")
        if shape is not None and shape not in shapes:
            raise JaxstyleError(
                str(self.path), f"has no pictures of {shape}; it has {' and '.join(shapes)}"
            )
        path, group = self.path / "results.h5", shape or shapes[0]
        try:
            return xarray.open_dataset(path, group=group, engine="h5netcdf")
        except OSError as error:  # as in `files.open_h5`
            if not lacks_locks(error):
                raise
            without = {"locking": False}
            return xarray.open_dataset(path, group=group, engine="h5netcdf", driver_kwds=without)

    @property
    def _mend(self) -> str:
        return f"python -m jaxstyle.report {shlex.quote(str(self.path))} makes it from the chunks there"

    def _results(self) -> h5py.File:
        path = self.path / "results.h5"
        if not path.is_file():
            raise JaxstyleError(str(path), f"is not there yet; {self._mend}")
        return open_h5(path)


WHOLE_OR_EMPTY = ("diverged_step", "step_best", "start_cell")
"""Columns of `results.csv` of whole numbers, whose cells may be empty, and often all are."""


def with_one_type_each(table: pandas.DataFrame) -> pandas.DataFrame:
    """A table of `results.csv` whose columns have one type each, as Parquet needs them.

    Empty cells become missing values, and the type of a column does not depend on whether there are some;
    numbers among texts become texts.
    """
    import pandas

    found = table.copy()
    for name in table.columns:
        if pandas.api.types.is_numeric_dtype(table[name]) and name not in WHOLE_OR_EMPTY:
            continue
        values = [None if isinstance(value, str) and not value else value for value in table[name]]
        kinds = {type(value) for value in values} - {type(None)}
        if name in WHOLE_OR_EMPTY or (kinds and kinds <= {int}):
            found[name] = pandas.array([pandas.NA if v is None else v for v in values], "Int64")
        elif not kinds:
            found[name] = pandas.array([pandas.NA] * len(values), "string")
        elif kinds <= {int, float}:
            found[name] = pandas.array([float("nan") if v is None else v for v in values], "float64")
        else:
            found[name] = [value if value is None else str(value) for value in values]
    return found


def open_run(path: str | os.PathLike[str]) -> Run:
    """The run in a directory: the cells that have been computed, and its contact sheets.

    Raises:
        JaxstyleError: if it holds no run.
    """
    if not isinstance(path, str | os.PathLike):
        raise JaxstyleError("path", f"{path!r} is not a path; give the directory of a run")
    record = open_record(Path(paths.at_home(os.fspath(path))))
    return Run(record.path, read_rows(record), sheet_paths(record.path))
