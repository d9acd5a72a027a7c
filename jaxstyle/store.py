"""A run on disk: its lock, its chunk files, and the tables merged from them.

A chunk file is whole or absent: its bytes are made in memory, written to a temporary file, flushed to
the disk and renamed. HDF5 itself never writes a chunk to disk, for it leaves unreadable files behind
when it is killed and brings down the interpreter when the disk fills. Chunks and `results.*` hold no
time, host or device: the same cells give the same bytes.

Nothing here needs JAX.
"""

from __future__ import annotations

import csv
import fcntl
import functools
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxstyle import config, grid, images
from jaxstyle.config import JaxstyleError, Sweep
from jaxstyle.grid import Cell

SCHEMA = 3
"""Of chunk files, `results.*` and `manifest.json`."""
LIBVER = ("v110", "v110")
LOSSES = ("loss_total", "loss_content", "loss_style")
PER_CELL = ("diverged_step", "loss_best", "step_best", "evaluations", "steps")
"""Numbers of a cell that stand beside its image and curves."""


class DirectoryInUse(JaxstyleError):
    """Another process works in the run directory: exit code 3."""

    exit_code = 3


@dataclass(frozen=True)
class ChunkResult:
    """What was computed for the cells of one chunk that have one image shape."""

    cell: Int[np.ndarray, " cells"]
    image: UInt8[np.ndarray, "cells snapshots h w 3"]
    snapshot: tuple[int, ...]
    """The steps the images are of."""
    step: tuple[int, ...]
    """The steps the losses are of."""
    layer: tuple[str, ...]
    """The layers of `style_layer_loss`."""
    loss_total: Float[np.ndarray, "cells steps"]
    loss_content: Float[np.ndarray, "cells steps"]
    loss_style: Float[np.ndarray, "cells steps"]
    style_layer_loss: Float[np.ndarray, "cells steps layers"]
    """E_l, NaN for layers outside a cell's own set."""
    diverged_step: Int[np.ndarray, " cells"]
    """-1 for a cell that did not diverge."""
    loss_best: Float[np.ndarray, " cells"]
    """The smallest total over every step, kept in the curves or not."""
    step_best: Int[np.ndarray, " cells"]
    evaluations: Float[np.ndarray, " cells"]
    """Of the loss and its gradient; those of coarser stages count by their share of pixels."""
    steps: Int[np.ndarray, " cells"]
    """The length of each cell's trajectory; its curves are NaN after that."""
    loss_final: Float[np.ndarray, "cells 3"]
    """Total, content and style loss of the image kept."""

    @property
    def shape(self) -> str:
        """`HxW`."""
        return f"{self.image.shape[2]}x{self.image.shape[3]}"


# --- files ----------------------------------------------------------------------------------------


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Put `data` at `path` so that a reader, or a killed process, leaves all of it or nothing.

    Args:
        durable: also wait until the disk has it, so that a crash of the machine does the same.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
            if durable:
                os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if not durable:
        return
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class RunDirectory:
    """A run directory, held by one process at a time.

    Used as a context manager: entering takes `run.lock`, leaving (or dying) gives it back.

    Args:
        path: the directory.
        create: make it and its parents; otherwise it must hold a run.
    """

    def __init__(self, path: Path, *, create: bool = False):
        self.path = path
        self._create = create
        self._lock: int | None = None

    def __enter__(self) -> RunDirectory:
        if self._create:
            self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 64, 0).decode("ascii", "replace").strip()
            os.close(self._lock)
            who = f"process {holder}" if holder else "another process"
            raise DirectoryInUse(str(self.path), f"is in use by {who}; wait, or give --out") from None
        if self._create and any(p.name != "run.lock" for p in self.path.iterdir()):
            os.close(self._lock)  # another run came and went since the directory was found free
            raise JaxstyleError(str(self.path), "is not empty; give a new or an empty directory")
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, name: str, data: bytes | str, *, durable: bool = True) -> Path:
        """Write a file of the run, whole or not at all (see `write_atomic`)."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, data.encode() if isinstance(data, str) else data, durable=durable)
        return path


def check_free(path: Path) -> None:
    """Raise unless `path` can become a run directory: absent or empty, its parent writable.

    Raises:
        DirectoryInUse: if a run is at work in it.
        JaxstyleError: if it holds anything or cannot be made.
    """
    what = str(path)
    try:
        if path.exists() or path.is_symlink():
            if not path.is_dir():
                raise JaxstyleError(what, "is a file; give a new or an empty directory")
            if (path / "run.lock").is_file():
                with open(path / "run.lock", "rb") as lock:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        raise DirectoryInUse(what, "another run is at work in it") from None
            if any(path.iterdir()):
                raise JaxstyleError(what, "is not empty; give a new or an empty directory")
        parent = next(p for p in (path, *path.parents) if p.exists())
        if not parent.is_dir():
            raise JaxstyleError(what, f"{parent} is a file; give a new or an empty directory")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise JaxstyleError(what, f"{parent} is not writable; give --out elsewhere")
    except OSError as error:
        raise JaxstyleError(what, f"cannot be used: {error.strerror or error}") from None


def check_space(path: Path, needed: int) -> None:
    """Raise JaxstyleError if the disk under `path` has less than `needed` bytes free."""
    existing = next(p for p in (path, *path.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise JaxstyleError(
            str(path), f"{needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB free; make space"
        )


def fresh_path(name: str, *, root: Path) -> Path:
    """The next `runs/NNNN-name` that does not exist."""
    taken = [
        int(p.name[:4])
        for p in (root.iterdir() if root.is_dir() else ())
        if p.name[:4].isdigit() and p.name[4:5] == "-"
    ]
    return root / f"{max(taken, default=0) + 1:04d}-{name}"


# --- chunks ---------------------------------------------------------------------------------------


def dataset(node: h5py.File | h5py.Group, name: str) -> h5py.Dataset:
    """The dataset `name` of `node`. Raises KeyError if there is none."""
    found = node[name]
    if not isinstance(found, h5py.Dataset):
        raise KeyError(name)
    return found


def chunk_name(number: int) -> str:
    """The file of a chunk, relative to its run."""
    return f"chunks/{number:06d}.h5"


def chunk_bytes(parts: Sequence[ChunkResult], *, width: int) -> bytes:
    """The HDF5 file of a chunk; the same results give the same bytes.

    Args:
        parts: a group of the file each, named by its image shape.
        width: cells per launch that they were computed with, kept as an attribute.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=LIBVER) as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["width"] = width
        for result in parts:
            group = file.create_group(result.shape)
            group.attrs["layer"] = ",".join(result.layer)
            for name in ("snapshot", "step"):
                group.create_dataset(name, data=np.array(getattr(result, name), np.int64))
            for name in (
                "cell",
                "image",
                *LOSSES,
                "style_layer_loss",
                *PER_CELL,
                "loss_final",
            ):
                values = getattr(result, name)
                # A checksum needs chunked storage, and an HDF5 chunk must stay under 4 GiB.
                shape = values.shape if values.ndim == 1 else (1, *values.shape[1:])
                group.create_dataset(name, data=values, chunks=shape, fletcher32=True)
    return buffer.getvalue()


def read_chunk(path: Path) -> list[ChunkResult]:
    """The contents of a chunk file. Raises JaxstyleError if it is damaged."""
    try:
        with h5py.File(io.BytesIO(path.read_bytes()), "r") as file:
            if (schema := str(file.attrs["schema"])) != str(SCHEMA):
                raise JaxstyleError(
                    str(path), f"has schema {schema} and this version {SCHEMA}; run it again"
                )
            return [_read_part(group) for group in file.values()]
    except JaxstyleError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise JaxstyleError(str(path), f"is damaged: {error}") from None


def _read_part(group: Any) -> ChunkResult:
    values = {
        name: dataset(group, name)[()]
        for name in ChunkResult.__dataclass_fields__
        if name not in ("snapshot", "step", "layer")
    }
    return ChunkResult(
        snapshot=tuple(int(n) for n in dataset(group, "snapshot")),
        step=tuple(int(n) for n in dataset(group, "step")),
        layer=tuple(str(group.attrs["layer"]).split(",")),
        **values,
    )


# --- reading a run back ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """A run directory as it stands: what was asked for, and the chunks there are."""

    path: Path
    sweep: Sweep
    cells: tuple[Cell, ...]
    manifest: Mapping[str, Any]
    chunk_paths: tuple[Path, ...]

    @functools.cached_property
    def previous(self) -> dict[int, int]:
        """By id, the cell from whose finished picture a cell with a warm start began."""
        return grid.predecessors(self.sweep, self.cells)

    def chunks(self) -> Iterator[ChunkResult]:
        """What the chunks of the run hold, one chunk file in memory at a time, in order."""
        return (part for path in self.chunk_paths for part in read_chunk(path))

    def given(self, axis: str, path: str) -> str:
        """The text that the user gave for an image of `axis`."""
        return self.manifest.get("given", {}).get(axis, {}).get(path, path)


def open_record(path: Path) -> Record:
    """The run at `path`. Raises JaxstyleError if there is none."""
    spec, manifest = path / "spec.toml", path / "manifest.json"
    if not spec.is_file() or not manifest.is_file():
        raise JaxstyleError(str(path), "is no run directory; it has no spec.toml and manifest.json")
    sweep = config.assemble({"spec": str(spec.absolute())}).sweep
    try:
        values = json.loads(manifest.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise JaxstyleError(str(manifest), f"cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise JaxstyleError(str(manifest), "is not a manifest")
    chunk_paths = tuple(sorted((path / "chunks").glob("[0-9]*.h5")))
    return Record(path, sweep, grid.cells(sweep), values, chunk_paths)


# --- results.csv ----------------------------------------------------------------------------------

COLUMNS = (
    "cell",
    *config.AXES,
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
)


def image_name(cell: int, step: int, last: int) -> str:
    """The PNG of a cell relative to its run; an image before the last step carries its step."""
    return f"images/{cell:06d}.png" if step == last else f"images/{cell:06d}-step{step:06d}.png"


def row(record: Record, chunk: ChunkResult, index: int) -> dict[str, Any]:
    """The line of `results.csv` for one cell of a chunk."""
    cell = record.cells[int(chunk.cell[index])]
    diverged = int(chunk.diverged_step[index])
    values: dict[str, Any] = {"cell": cell.id}
    for axis in config.AXES:
        value = getattr(cell, axis)
        values[axis] = record.given(axis, value) if axis in config.PATH_AXES else value
    values |= {
        "steps": int(chunk.steps[index]),
        "height": chunk.image.shape[2],
        "width": chunk.image.shape[3],
        "status": "done" if diverged < 0 else "diverged",
        **dict(zip(LOSSES, chunk.loss_final[index], strict=True)),
        "image": image_name(cell.id, chunk.snapshot[-1], chunk.snapshot[-1]),
        "diverged_step": "" if diverged < 0 else diverged,
        "loss_best": chunk.loss_best[index],
        "step_best": "" if chunk.step_best[index] < 0 else int(chunk.step_best[index]),
        "evaluations": chunk.evaluations[index],
        "start_cell": record.previous.get(cell.id, ""),
    }
    return values


def rows(record: Record) -> list[dict[str, Any]]:
    """The lines of `results.csv`, ascending by cell: only cells that have been computed."""
    found = [row(record, chunk, index) for chunk in record.chunks() for index in range(len(chunk.cell))]
    return sorted(found, key=lambda line: line["cell"])


def csv_text(lines: Sequence[Mapping[str, Any]]) -> str:
    """`results.csv`; float32 numbers in the shortest form that reads back as the same number."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({k: str(line[k]) if isinstance(line[k], np.floating) else line[k] for k in COLUMNS})
    return buffer.getvalue()


# --- results.h5 -----------------------------------------------------------------------------------


@dataclass
class _Group:
    """What `results.h5` needs to know of one image shape before it is filled."""

    cells: list[int]
    layers: tuple[str, ...]
    snapshot: tuple[int, ...]
    step: tuple[int, ...]


def _survey(record: Record) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    for chunk in record.chunks():
        group = groups.setdefault(chunk.shape, _Group([], (), chunk.snapshot, chunk.step))
        group.cells.extend(int(n) for n in chunk.cell)
        group.layers = tuple(sorted({*group.layers, *chunk.layer}))
    for group in groups.values():
        group.cells.sort()
    return groups


def _coordinate(group: h5py.Group, name: str, values: Any) -> None:
    group.create_dataset(name, data=values).make_scale(name)


def _texts(values: Sequence[str]) -> np.ndarray:
    return np.array(list(values), dtype=h5py.string_dtype())


def _variable(
    group: h5py.Group, name: str, shape: tuple[int, ...], dtype: Any, dims: str, *, fill: Any = None
) -> h5py.Dataset:
    data = group.create_dataset(name, shape, dtype, fillvalue=fill)
    for index, dim in enumerate(dims.split()):
        data.dims[index].attach_scale(group[dim])
    return data


def _create_group(file: h5py.File, shape: str, group: _Group, record: Record) -> h5py.Group:
    height, width = (int(n) for n in shape.split("x"))
    h5 = file.create_group(shape)
    n, s, t, k = len(group.cells), len(group.snapshot), len(group.step), len(group.layers)
    _coordinate(h5, "cell", np.array(group.cells, np.int64))
    _coordinate(h5, "snapshot", np.array(group.snapshot, np.int64))
    _coordinate(h5, "step", np.array(group.step, np.int64))
    _coordinate(h5, "layer", _texts(group.layers))
    _coordinate(h5, "y", np.arange(height, dtype=np.int64))
    _coordinate(h5, "x", np.arange(width, dtype=np.int64))
    _coordinate(h5, "channel", _texts("RGB"))
    cells = [record.cells[i] for i in group.cells]
    for axis in config.AXES:
        values: Any = [getattr(cell, axis) for cell in cells]
        if axis in config.PATH_AXES:
            values = [record.given(axis, value) for value in values]
        data = _texts(values) if isinstance(values[0], str) else np.array(values)
        h5.create_dataset(axis, data=data).dims[0].attach_scale(h5["cell"])
    _variable(h5, "image", (n, s, height, width, 3), np.uint8, "cell snapshot y x channel")
    for name in LOSSES:
        _variable(h5, name, (n, t), np.float32, "cell step")
    _variable(h5, "style_layer_loss", (n, t, k), np.float32, "cell step layer", fill=np.nan)
    _variable(h5, "diverged_step", (n,), np.int64, "cell")
    _variable(h5, "loss_best", (n,), np.float32, "cell")
    _variable(h5, "step_best", (n,), np.int64, "cell")
    _variable(h5, "evaluations", (n,), np.float32, "cell")
    _variable(h5, "steps", (n,), np.int64, "cell")
    # What makes per-cell axes coordinates in xarray and other readers of the CF conventions.
    for name in ("image", *LOSSES, "style_layer_loss", *PER_CELL):
        h5[name].attrs["coordinates"] = " ".join(config.AXES)
    return h5


def merge(record: Record) -> None:
    """Make `results.h5` from the chunks, one chunk in memory at a time.

    Raises:
        JaxstyleError: if the disk has not the space for it.
    """
    groups = _survey(record)
    size = sum(path.stat().st_size for path in record.chunk_paths)
    check_space(record.path, int(1.2 * size) + 16 * 2**20)
    temporary = record.path / f".results.h5.tmp-{os.getpid()}"
    try:
        with h5py.File(temporary, "w", libver=LIBVER) as file:
            file.attrs["schema"] = SCHEMA
            made = {shape: _create_group(file, shape, g, record) for shape, g in groups.items()}
            for chunk in record.chunks():
                h5, group = made[chunk.shape], groups[chunk.shape]
                where = np.searchsorted(group.cells, chunk.cell)
                for start, stop in _runs(where):
                    target = slice(int(where[start]), int(where[start]) + stop - start)
                    for name in ("image", *LOSSES, *PER_CELL):
                        dataset(h5, name)[target] = getattr(chunk, name)[start:stop]
                    for i, layer in enumerate(chunk.layer):
                        at = group.layers.index(layer)
                        dataset(h5, "style_layer_loss")[target, :, at] = chunk.style_layer_loss[
                            start:stop, :, i
                        ]
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, record.path / "results.h5")
    finally:
        temporary.unlink(missing_ok=True)


def _runs(positions: np.ndarray) -> Iterator[tuple[int, int]]:
    """The stretches [start, stop) of `positions` over which they rise by one."""
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    yield from itertools.pairwise([0, *breaks.tolist(), len(positions)])


def write_images(
    run: RunDirectory, chunk: ChunkResult, *, stop: Callable[[], bool] = lambda: False
) -> None:
    """The PNGs of a chunk's cells: the last image, and those of earlier snapshots beside it.

    Args:
        stop: asked before each; they can be rebuilt, and a run that is told to end does not wait for them.
    """
    last = chunk.snapshot[-1]
    for cell, snapshots in zip(chunk.cell, chunk.image, strict=True):
        for step, pixels in zip(chunk.snapshot, snapshots, strict=True):
            if stop():
                return
            name = image_name(int(cell), step, last)
            run.write(name, images.png_bytes(pixels), durable=False)
