"""`results.h5`: the chunks of a run, merged, and where a cell is in it.

It holds no time, host or device: the same cells give the same bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jaxstyle.rundir.chunks import PER_CELL
from jaxstyle.rundir.files import check_space, replacing, write_atomic
from jaxstyle.rundir.fingerprints import SCHEMA
from jaxstyle.rundir.hdf5 import LIBVER, dataset, members, open_h5, texts
from jaxstyle.rundir.records import Record, open_record
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import PATH_AXES
from jaxstyle.spec.tables import LAYER_CURVE, LOSSES

MERGED_IN_MEMORY = 64 * 2**20
"""Total size of the chunk files, in bytes, up to which `results.h5` is made in memory."""


def merge(record: Record) -> None:
    """Make `results.h5` from the chunks.

    A small file is made in memory. A large one is streamed by a separate process, with one chunk in memory
    at a time, because HDF5 crashes the process that is writing when the disk fills up.

    Raises:
        JaxstyleError: if the disk has too little space for it, or a chunk is damaged.
    """
    for path in record.chunk_paths:
        record.check(path)
    size = sum(path.stat().st_size for path in record.chunk_paths)
    path = record.path / "results.h5"
    if size <= MERGED_IN_MEMORY:
        buffer = io.BytesIO()
        with h5py.File(buffer, "w", libver=LIBVER) as file:
            _fill(file, record)
        write_atomic(path, buffer.getvalue())
        return
    with replacing(path) as temporary:
        check_space(record.path, int(1.2 * size) + 16 * 2**20)
        done = subprocess.run(
            [sys.executable, "-P", "-c", _MERGE, record.path, temporary, str(os.getpid())],
            input="\0".join(chunk.name for chunk in record.chunk_paths),  # shares may add chunks meanwhile
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise JaxstyleError(
                str(path),
                f"could not be made: {said[-1] if said else f'exit code {done.returncode}'};"
                " the chunks are kept, make space and --resume",
            )


_MERGE = f"""
import sys
from pathlib import Path
import {__name__} as own
own.end_with(int(sys.argv[3]))
try:
    own.merge_into(Path(sys.argv[1]), Path(sys.argv[2]), sys.stdin.read().split("\\0"))
except own.JaxstyleError as error:
    raise SystemExit(str(error)) from None
"""


def end_with(parent: int) -> None:
    """Have the system kill this process when the process `parent` dies, where that is possible (Linux)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        raise SystemExit("the process that asked for it is gone")


def merge_into(run: Path, temporary: Path, chunks: Collection[str] | None = None) -> None:
    """Write the `results.h5` of the run at `run` to `temporary`, from all chunk files or the named ones."""
    record = open_record(run)
    if chunks is not None:
        record = replace(record, chunk_paths=tuple(p for p in record.chunk_paths if p.name in {*chunks}))
    with h5py.File(temporary, "w", libver=LIBVER, locking=False) as file:  # no other process opens it
        _fill(file, record)


def _fill(file: h5py.File, record: Record) -> None:
    """Write everything that `results.h5` holds, with one chunk in memory at a time."""
    groups = _survey(record)
    file.attrs["schema"] = SCHEMA
    names = (*record.images, *record.losses, *PER_CELL, *record.further, LAYER_CURVE)
    made = {}
    for shape, group in groups.items():
        h5 = _create_group(file, shape, group, record)
        made[shape] = {name: dataset(h5, name) for name in names}
    for chunk in record.chunks():
        data, group = made[chunk.shape], groups[chunk.shape]
        where = np.searchsorted(group.cells, chunk.cell)
        for start, stop in _runs(where):
            target = slice(int(where[start]), int(where[start]) + stop - start)
            for name in (*record.images, *PER_CELL):
                data[name][target] = getattr(chunk, name)[start:stop]
            for name, curve in {**chunk.curves, **chunk.further}.items():
                data[name][target] = curve[start:stop]
            # All layers at once: writing them one at a time would take a write for every number.
            own = chunk.style_layer_loss[start:stop]
            every = np.full((*own.shape[:2], len(group.layers)), np.nan, np.float32)
            every[:, :, [group.layers.index(layer) for layer in chunk.layer]] = own
            data[LAYER_CURVE][target] = every


@dataclass
class _Group:
    """The cells and coordinates of one image shape in `results.h5`, known before it is filled."""

    cells: list[int]
    layers: tuple[str, ...]
    snapshot: tuple[int, ...]
    step: tuple[int, ...]


def _survey(record: Record) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    for chunk in record.outlines():
        group = groups.setdefault(chunk.shape, _Group([], (), chunk.snapshot, chunk.step))
        group.cells.extend(chunk.cell.tolist())
        group.layers = tuple(sorted({*group.layers, *chunk.layer}))
    for group in groups.values():
        group.cells.sort()
    return groups


def _create_group(file: h5py.File, shape: str, group: _Group, record: Record) -> h5py.Group:
    height, width = (int(n) for n in shape.split("x"))
    h5 = file.create_group(shape)
    n, s, t, k = len(group.cells), len(group.snapshot), len(group.step), len(group.layers)
    _coordinate(h5, "cell", np.array(group.cells, np.int64))
    _coordinate(h5, "snapshot", np.array(group.snapshot, np.int64))
    _coordinate(h5, "step", np.array(group.step, np.int64))
    _coordinate(h5, "layer", texts(group.layers))
    _coordinate(h5, "y", np.arange(height, dtype=np.int64))
    _coordinate(h5, "x", np.arange(width, dtype=np.int64))
    _coordinate(h5, "channel", texts("RGB"))
    cells = [record.cells[i] for i in group.cells]
    for axis in record.axes:
        values: Any = [record.number(cell, axis) for cell in cells]
        if axis in PATH_AXES:
            values = [record.given(axis, value) for value in values]
        data = texts(values) if isinstance(values[0], str) else np.array(values)
        h5.create_dataset(axis, data=data).dims[0].attach_scale(h5["cell"])
    _variable(h5, "image", (n, s, height, width, 3), np.uint8, "cell snapshot y x channel")
    if "image_float" in record.images:
        _variable(h5, "image_float", (n, s, height, width, 3), np.float32, "cell snapshot y x channel")
    for name in record.losses:
        fill = None if name in LOSSES else np.nan
        _variable(h5, name, (n, t), np.float32, "cell step", fill=fill)
    _variable(h5, LAYER_CURVE, (n, t, k), np.float32, "cell step layer", fill=np.nan)
    _variable(h5, "diverged_step", (n,), np.int64, "cell")
    _variable(h5, "loss_best", (n,), np.float32, "cell")
    _variable(h5, "step_best", (n,), np.int64, "cell")
    _variable(h5, "evaluations", (n,), np.float32, "cell")
    _variable(h5, "steps", (n,), np.int64, "cell")
    for name in record.further:
        _variable(h5, name, (n,), np.float32, "cell")
    # This makes the per-cell axes coordinates in xarray and other readers of the CF conventions.
    for name in (*record.images, *record.losses, LAYER_CURVE, *PER_CELL, *record.further):
        h5[name].attrs["coordinates"] = " ".join(record.axes)
    return h5


def _coordinate(group: h5py.Group, name: str, values: Any) -> None:
    group.create_dataset(name, data=values).make_scale(name)


def _variable(
    group: h5py.Group, name: str, shape: tuple[int, ...], dtype: Any, dims: str, *, fill: Any = None
) -> h5py.Dataset:
    data = group.create_dataset(name, shape, dtype, fillvalue=fill)
    for index, dim in enumerate(dims.split()):
        data.dims[index].attach_scale(group[dim])
    return data


def _runs(positions: np.ndarray) -> Iterator[tuple[int, int]]:
    """The index ranges [start, stop) over which `positions` rise by one."""
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    yield from itertools.pairwise([0, *breaks.tolist(), len(positions)])


class CellIndex(Mapping[int, tuple[h5py.Group, int]]):
    """The group of `results.h5` that holds a cell and the cell's index in it, by the cell's number."""

    def __init__(self, file: h5py.File):
        self.groups = [group for group in members(file) if isinstance(group, h5py.Group)]
        cells = [dataset(group, "cell")[()] for group in self.groups]
        cell = np.concatenate([np.zeros(0, np.int64), *cells])
        order = np.argsort(cell, kind="stable")
        self._cell = cell[order]
        self._group = np.repeat(np.arange(len(cells)), [len(own) for own in cells])[order]
        self._index = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(own)) for own in cells)])[
            order
        ]

    def __getitem__(self, cell: int) -> tuple[h5py.Group, int]:
        at = int(np.searchsorted(self._cell, cell))
        if at == len(self._cell) or self._cell[at] != cell:
            raise KeyError(cell)
        return self.groups[self._group[at]], int(self._index[at])

    def __iter__(self) -> Iterator[int]:
        return iter(self._cell.tolist())

    def __len__(self) -> int:
        return len(self._cell)


def is_current(record: Record) -> bool:
    """Whether `results.h5` has the cells of all chunks that are there, and is no older than they are."""
    merged = record.path / "results.h5"
    newest = max((path.stat().st_mtime_ns for path in record.chunk_paths), default=0)
    if not merged.exists() or merged.stat().st_mtime_ns < newest:
        return False
    computed = {int(cell) for outline in record.outlines() for cell in outline.cell}
    with open_results(record) as where:
        return {*where} == computed


@contextlib.contextmanager
def open_results(record: Record) -> Iterator[CellIndex]:
    """Open `results.h5` and give the group and the index of every cell in it."""
    with open_h5(record.path / "results.h5") as file:
        yield CellIndex(file)
