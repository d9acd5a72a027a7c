"""Chunk files: the pictures, curves and numbers of cells that were computed together.

HDF5 itself never writes a chunk to disk, for it leaves unreadable files behind when it is killed and brings
down the interpreter when the disk fills. Chunks hold no time, host or device: the same cells give the same
bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxstyle.rundir.files import opened, raise_of_the_machine
from jaxstyle.rundir.fingerprints import SCHEMA
from jaxstyle.rundir.hdf5 import LIBVER, attribute, checked_dataset, dataset, members
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.tables import LAYER_CURVE, LOSSES

OF_ANOTHER_RUN = "belongs to another run; --resume sets it aside and computes it again"
PER_CELL = ("diverged_step", "loss_best", "step_best", "evaluations", "steps")
"""Numbers that are stored once for each cell, beside its images and curves."""

FURTHER = ("loss_finished",)
"""Numbers that are stored once for each cell in runs that have them; see `Numbers.further`."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers and coordinates of those cells of one chunk that share an image shape."""

    cell: Int[np.ndarray, " cells"]
    snapshot: tuple[int, ...]
    """The steps at which images were kept."""
    step: tuple[int, ...]
    """The steps at which losses were kept."""
    layer: tuple[str, ...]
    """The layers of `style_layer_loss`."""
    losses: tuple[str, ...] = LOSSES
    """The names of the loss curves: first those that every run has, then those of optional terms."""
    diverged_step: Int[np.ndarray, " cells"]
    """The step at which a cell diverged, or -1 if it did not."""
    loss_best: Float[np.ndarray, " cells"]
    """The smallest total loss over all steps, including those that the curves do not keep."""
    step_best: Int[np.ndarray, " cells"]
    """The step of `loss_best`, or -1 if there is none."""
    evaluations: Float[np.ndarray, " cells"]
    """Evaluations of the loss and its gradient; those of coarser stages count by their share of pixels."""
    steps: Int[np.ndarray, " cells"]
    """The length of each cell's trajectory; its curves are NaN after that."""
    loss_final: Float[np.ndarray, "cells losses"]
    """The values of all `losses` for the last image kept."""
    further: Mapping[str, Float[np.ndarray, " cells"]] = dataclasses.field(default_factory=dict)
    """Numbers of runs with settings of their own, by name: `loss_finished`, the total loss of the picture
    as it is saved, where that is finished."""


@dataclass(frozen=True, kw_only=True)
class ChunkResult(Numbers):
    """All results for those cells of one chunk that share an image shape."""

    image: UInt8[np.ndarray, "cells snapshots h w 3"]
    curves: Mapping[str, Float[np.ndarray, "cells steps"]]
    """The curves of all `losses`, by name."""
    style_layer_loss: Float[np.ndarray, "cells steps layers"]
    """E_l of every layer; NaN for layers that a cell does not use."""
    image_float: Float[np.ndarray, "cells snapshots h w 3"] | None = None
    """The pictures before they were rounded, float32, where they are kept."""
    image_format: str = ""
    """The format of their files; see `encode_high_bit_depth.FORMATS`."""

    @property
    def shape(self) -> str:
        """`HxW`."""
        return f"{self.image.shape[2]}x{self.image.shape[3]}"


@dataclass(frozen=True, kw_only=True)
class ChunkSummary(Numbers):
    """The same as `ChunkResult` but for pictures and curves, which stay on the disk."""

    height_px: int
    width_px: int

    @property
    def shape(self) -> str:
        """`HxW`."""
        return f"{self.height_px}x{self.width_px}"


def chunk_name(number: int) -> str:
    """The file of a chunk, relative to its run."""
    return f"chunks/{number:06d}.h5"


def chunk_bytes(parts: Sequence[ChunkResult], *, width: int, fingerprint: str = "") -> bytes:
    """The HDF5 file of a chunk; the same results give the same bytes.

    Args:
        parts: the results; each becomes a group of the file, named by its image shape.
        width: the cells advanced together when they were computed; kept as an attribute.
        fingerprint: the digest of everything that decides the results; kept as an attribute too.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=LIBVER) as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["width"] = width
        file.attrs["fingerprint"] = np.bytes_(fingerprint.encode())
        for result in parts:
            group = file.create_group(result.shape)
            group.attrs["layer"] = np.bytes_(",".join(result.layer).encode())
            if added := result.losses[len(LOSSES) :]:
                group.attrs["losses"] = np.bytes_(",".join(added).encode())
            floats = {} if result.image_float is None else {"image_float": result.image_float}
            if floats:
                group.attrs["image_format"] = np.bytes_(result.image_format.encode())
            own = ("snapshot", "step", "cell", "image"), (LAYER_CURVE, *PER_CELL, "loss_final")
            before, after = ({name: getattr(result, name) for name in names} for names in own)
            for name, of in {**before, **floats, **result.curves, **after, **result.further}.items():
                values = np.asarray(of)
                # A checksum needs chunked storage, and an HDF5 chunk must stay under 4 GiB. HDF5's own
                # structures carry checksums (libver v110), except for the heap, where texts of variable
                # length go. Texts here have a fixed length, so that no bit can change unnoticed.
                shape = values.shape if values.ndim == 1 else (1, *values.shape[1:])
                if not values.size:  # losses of style layers, where no cell has a style
                    group.create_dataset(name, data=values)
                    continue
                group.create_dataset(name, data=values, chunks=shape, fletcher32=True)
    return buffer.getvalue()


def read_chunk(path: Path, *, fingerprint: str | None = None) -> list[ChunkResult]:
    """The contents of a chunk file.

    Args:
        path: the file.
        fingerprint: the fingerprint that the file must carry, if given.

    Raises:
        JaxstyleError: if the file is damaged, was written by another version, or belongs to another run.
    """
    with open_chunk(path, fingerprint) as file:
        return [_read_part(group) for group in members(file)]


def read_outlines(path: Path) -> list[ChunkSummary]:
    """The contents of a chunk file but for pictures and curves, which are neither read nor checked.

    Raises:
        JaxstyleError: if it is damaged or was written by another version.
    """
    with open_chunk(path) as file:
        return [_read_outline(group) for group in members(file)]


def chunk_parts(data: bytes, path: Path) -> list[ChunkResult]:
    """The results from which `chunk_bytes` made `data`, the contents of the file at `path`."""
    with open_chunk(path, data=data) as file:
        return [_read_part(group) for group in members(file)]


def check_listed(path: Path, sha256: str | None) -> None:
    """Raise JaxstyleError unless a chunk file has the digest that the manifest lists for it, if any.

    A different file may be whole and belong to this run: made on another machine, by another version of the
    package, or by hand.
    """
    if sha256 is None:
        return
    try:
        with opened(path) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise_of_the_machine(error, path)
        raise JaxstyleError(str(path), f"cannot be read: {error.strerror or error}") from None
    if found != sha256:
        read_chunk(path)  # reports damage, if that is the reason
        why = f"is not the file that manifest.json lists (sha256 {found[:12]}..., not {sha256[:12]}...)"
        raise JaxstyleError(str(path), f"{why}; --resume sets it aside and computes it again")


def chunk_width(path: Path) -> int:
    """The width that a chunk was computed with. Raises JaxstyleError if its file is damaged."""
    with open_chunk(path) as file:
        width: Any = file.attrs["width"]
        return int(width)


@contextlib.contextmanager
def open_chunk(
    path: Path, fingerprint: str | None = None, *, data: bytes | None = None
) -> Iterator[h5py.File]:
    """A chunk file opened for reading, only as much as is asked for; errors name the file."""
    try:
        if data is None and not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would block
            raise OSError("it is not a regular file")
        with opened(path) if data is None else io.BytesIO(data) as raw, h5py.File(raw, "r") as file:
            if (schema := str(file.attrs["schema"])) != str(SCHEMA):
                raise JaxstyleError(
                    str(path), f"has schema {schema}, this version needs {SCHEMA}; run it again"
                )
            if fingerprint is not None and attribute(file, "fingerprint") != fingerprint:
                raise JaxstyleError(str(path), OF_ANOTHER_RUN)
            if any(not isinstance(file.get(name, getlink=True), h5py.HardLink) for name in list(file)):
                raise KeyError("it holds a link")
            yield file
    except JaxstyleError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError, OverflowError) as error:
        raise_of_the_machine(error, path)
        raise JaxstyleError(
            str(path), f"is damaged: {error}; --resume sets it aside and computes it again"
        ) from None


def _read_outline(group: Any) -> ChunkSummary:
    if not isinstance(group, h5py.Group):
        raise KeyError("it holds no group")
    cell, image = dataset(group, "cell")[()], dataset(group, "image")
    snapshot, step = (tuple(int(n) for n in dataset(group, name)[()]) for name in ("snapshot", "step"))
    checked_dataset(group, "cell", cell, (len(cell),))
    checked_dataset(group, "image", image, (len(cell), len(snapshot), *image.shape[2:4], 3))
    if image.dtype != np.uint8:
        raise ValueError(f"{group.name}/image has type {image.dtype}")
    added = attribute(group, "losses").split(",") if "losses" in group.attrs else ()
    losses = (*LOSSES, *added)
    shapes = {**dict.fromkeys(PER_CELL, cell.shape), "loss_final": (len(cell), len(losses))}
    numbers = {
        name: checked_dataset(group, name, dataset(group, name)[()], shape)
        for name, shape in shapes.items()
    }
    further = {
        name: checked_dataset(group, name, dataset(group, name)[()], cell.shape)
        for name in FURTHER
        if name in group
    }
    layer = tuple(name for name in attribute(group, "layer").split(",") if name)
    height, width = image.shape[2:4]
    return ChunkSummary(
        height_px=height,
        width_px=width,
        snapshot=snapshot,
        step=step,
        layer=layer,
        losses=losses,
        cell=cell,
        further=further,
        **numbers,
    )


def _read_part(group: Any) -> ChunkResult:
    outline = _read_outline(group)
    steps = (len(outline.cell), len(outline.step))
    shapes = {**dict.fromkeys(outline.losses, steps), LAYER_CURVE: (*steps, len(outline.layer))}
    curves = {
        name: checked_dataset(group, name, dataset(group, name)[()], shape)
        for name, shape in shapes.items()
    }
    values = {f.name: getattr(outline, f.name) for f in dataclasses.fields(Numbers)}
    per_layer = curves.pop(LAYER_CURVE)
    image, floats, form = dataset(group, "image")[()], None, ""
    if "image_float" in group:
        floats = checked_dataset(group, "image_float", dataset(group, "image_float")[()], image.shape)
        form = attribute(group, "image_format")
    return ChunkResult(
        image=image,
        image_float=floats,
        image_format=form,
        curves=curves,
        style_layer_loss=per_layer,
        **values,
    )
