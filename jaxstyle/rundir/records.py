"""The record of a run: its spec, its manifest and its chunks, as a run directory has them."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxstyle.plan.cells import Cell, axes_of, sweep_cells, terms_of
from jaxstyle.plan.chunks import Plan, plan_from_record
from jaxstyle.rundir.chunks import (
    FURTHER,
    OF_ANOTHER_RUN,
    ChunkResult,
    ChunkSummary,
    check_listed,
    chunk_name,
    open_chunk,
    read_chunk,
    read_outlines,
)
from jaxstyle.rundir.directory import list_folder
from jaxstyle.rundir.fingerprints import Sources, fingerprint, narrowed_to
from jaxstyle.rundir.hdf5 import attribute
from jaxstyle.spec import blends, paths, plugins, tables
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import Sweep
from jaxstyle.spec.values import AUTO, longest_edge


@dataclass(frozen=True)
class Record:
    """A run directory as it stands: its settings, its manifest and the chunks that there are."""

    path: Path
    sweep: Sweep
    cells: tuple[Cell, ...]
    manifest: Mapping[str, Any]
    chunk_paths: tuple[Path, ...]
    """The chunk files that the plan names and that exist; other files are ignored."""
    moved: Mapping[str, str] = field(default_factory=dict)
    """The present paths of images and weights that have moved, by the path that the run's files name."""
    rows: tuple[Any, ...] = ()
    """The rows of the plugins that the run was made with, without their functions."""
    sound: set[Path] = field(default_factory=set, repr=False, compare=False)
    """The chunk files that have been verified to belong to this run."""

    @functools.cached_property
    def plan(self) -> Plan:
        """The plan that the run was begun with. Raises JaxstyleError if its manifest has none."""
        try:
            return plan_from_record(self.sweep, self.cells, self.manifest["plan"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise no_plan_error(self.path, str(error)) from None

    @functools.cached_property
    def sources(self) -> Sources:
        """The inputs that the run computes from, with the digests in its manifest."""
        try:
            listed = self.manifest["images"].items()
            images = {self.file(path): str(about["sha256"]) for path, about in listed}
            weights = str(self.manifest["weights"]["sha256"])
        except (KeyError, TypeError, AttributeError) as error:
            raise no_plan_error(self.path, f"it has no digests: {error}") from None
        return Sources(self.sweep, {**images, **self.sweep.digests}, weights)

    def file(self, path: str) -> str:
        """The present path of an image, given the path by which the manifest names it."""
        about = self.manifest.get("images", {}).get(path, {})
        path = paths.taken_from(self.path, about.get("place", path))
        return self.moved.get(path, path)

    @functools.cached_property
    def texts(self) -> dict[tuple[str, str], str]:
        """The text by which the user named each image, by axis and absolute path."""
        given = self.manifest.get("given", {})
        return {
            (axis, blends.renamed(path, self.file)): text
            for axis, own in given.items()
            for path, text in own.items()
        }

    @property
    def skipped(self) -> Mapping[str, str]:
        """Why images were left out when the run was planned, by their paths."""
        found = self.manifest.get("skipped", {})
        return {str(path): str(why) for path, why in found.items()} if isinstance(found, dict) else {}

    def check(self, path: Path) -> None:
        """Raise JaxstyleError unless a chunk file is the one that this run wrote."""
        if path in self.sound:
            return
        number, listed = int(path.stem), self.manifest.get("chunks_sha256")
        with open_chunk(path) as file:
            width: Any = file.attrs["width"]
            mark = attribute(file, "fingerprint")
        if mark != fingerprint(self.sources, narrowed_to(self.plan, number, int(width)), number):
            raise JaxstyleError(str(path), OF_ANOTHER_RUN)
        check_listed(path, (listed or {}).get(chunk_name(number)))
        self.sound.add(path)

    def chunks(self) -> Iterator[ChunkResult]:
        """The results of all chunks in order, with one chunk file in memory at a time."""
        return (part for path in self._checked_paths() for part in read_chunk(path))

    def outlines(self) -> Iterator[ChunkSummary]:
        """The results of all chunks in order, without pictures and curves."""
        return (outline for path in self._checked_paths() for outline in read_outlines(path))

    def _checked_paths(self) -> Iterator[Path]:
        for path in self.chunk_paths:
            self.check(path)
            yield path

    @functools.cached_property
    def axes(self) -> tuple[str, ...]:
        """The axes of its cells: those of every run, then the weights of the optional terms in use."""
        return axes_of(self.cells)

    @functools.cached_property
    def losses(self) -> dict[str, str]:
        """The titles of its loss curves, by name, as the run has them, whatever is registered now."""
        told = {row.name: row for row in self.rows if isinstance(row, tables.LossTerm)}
        names = terms_of(self.cells)
        return tables.curves(told.get(name) or tables.TERMS[name] for name in names)

    @property
    def further(self) -> tuple[str, ...]:
        """Names of the numbers of its cells that only some runs have; see `chunks.FURTHER`."""
        return FURTHER if self.sweep.finish != Sweep.finish else ()

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the datasets of its pictures."""
        return ("image",) if self.sweep.image_format == Sweep.image_format else ("image", "image_float")

    @functools.cached_property
    def values(self) -> dict[str, tuple[Any, ...]]:
        """The distinct values of each axis as the user gave them, in the order of the cells."""
        return {axis: tuple(dict.fromkeys(c.label(axis) for c in self.cells)) for axis in self.axes}

    def number(self, cell: Cell, axis: str) -> Any:
        """A cell's value on an axis as tables have it: the size of a style in px, never `auto`."""
        value = getattr(cell, axis)
        return longest_edge(self.sweep.size) if axis == "style_size" and value == AUTO else value

    def given(self, axis: str, path: str) -> str:
        """The text by which the user named an image of `axis`."""
        return self.texts.get((axis, path), path)


def open_record(path: Path, *, among: Iterable[str] = ()) -> Record:
    """The run at `path`. Raises JaxstyleError if there is none.

    Args:
        path: its directory.
        among: files among which to look for images and weights of the run that have moved.
    """
    spec, manifest = path / "spec.toml", path / "manifest.json"
    if not spec.is_file() or not manifest.is_file():
        raise JaxstyleError(str(path), "is not a run directory; it has no spec.toml and manifest.json")
    try:
        values = json.loads(manifest.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise JaxstyleError(str(manifest), f"cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise JaxstyleError(str(manifest), "is not a manifest")
    begun_at = _directory(values)  # the run may have been moved away from there without its images
    places = () if begun_at is None else (begun_at,)
    rows = plugins.recorded_rows(values.get("plugins", ()))
    plugins.add_recorded(rows)
    assembled = assemble({"spec": str(spec.absolute())}, places=places, among=among)
    sweep = assembled.sweep
    chunk_paths = _chunk_paths(path, values)
    return Record(path, sweep, sweep_cells(sweep), values, chunk_paths, assembled.moved, rows)


def _directory(manifest: Mapping[str, Any]) -> Path | None:
    """The directory that a run was in when it was last at work; None for older runs, which do not say."""
    directory = manifest.get("directory")
    return Path(directory) if isinstance(directory, str) and os.path.isabs(directory) else None


def no_plan_error(path: Path, why: str) -> JaxstyleError:
    """The error for a run whose manifest is not as a run of this version writes it."""
    return JaxstyleError(str(path / "manifest.json"), f"has no plan to continue: {why}; start a new run")


def _chunk_paths(path: Path, manifest: Mapping[str, Any]) -> tuple[Path, ...]:
    """The chunk files of a run, by the exact names that its plan gives them.

    Other files may lie beside them: files set aside, copies, or those a synchroniser made of a conflict.
    """
    plan = manifest.get("plan")
    chunks = plan.get("chunks") if isinstance(plan, dict) else None
    if not isinstance(chunks, list):
        raise no_plan_error(path, "it lists no chunks")
    there = {entry.name for entry in list_folder(path / "chunks")}
    names = (path / chunk_name(number) for number in range(len(chunks)))
    return tuple(name for name in names if name.name in there)
