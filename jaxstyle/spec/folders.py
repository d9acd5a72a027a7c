"""Folders as values of an axis of images: they stand for the images in them.

An image is a file whose name ends as an image's does, which `IMAGE_SUFFIXES` lists. Hidden files and all
others, such as sidecars, are left out, and so are folders that hold a run. What a folder stands for is
decided once, before a run is planned: the run's own spec lists the images.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxstyle.spec.blends import files_of
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.paths import taken_from
from jaxstyle.spec.settings import Sweep
from jaxstyle.spec.values import WORDS, plain_value

FOLDER_AXES = ("content", "style")
"""The axes whose values may be folders."""
RAW_SUFFIXES = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".kdc", ".mef",
    ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw",
    ".x3f",
)  # fmt: skip
"""Ends of the names of cameras' raw files."""
IMAGE_SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib", ".tif", ".tiff",
    ".gif", ".avif", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".psd", ".exr", *RAW_SUFFIXES,
)  # fmt: skip
"""Ends of the names of images. Some of these kinds cannot be read; they are listed so that such a file is
named as one, not passed over."""
RUN_FILES = ("spec.toml", "manifest.json")
"""Files that a folder holds if it is a run."""


def natural_key(name: str) -> tuple[list[Any], str]:
    """The key that sorts names as people do: img2 before img10, whatever their case."""
    parts = re.split(r"(\d+)", name.casefold(), flags=re.ASCII)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def images_in(folder: str, *, recursive: bool = False) -> list[str]:
    """The images in a folder, in natural order, as paths relative to it.

    Args:
        folder: its absolute path.
        recursive: also look in its subfolders, other than hidden ones and runs.

    Raises:
        JaxstyleError: if the folder cannot be read, or there is no image.
    """
    found = [name for name in _files(folder, recursive) if name.lower().endswith(IMAGE_SUFFIXES)]
    if not found:
        deeper = "" if recursive else ", apart from its subfolders; --recursive looks there too"
        raise JaxstyleError(folder, f"there is no image in this folder{deeper}")
    return sorted(found, key=lambda name: [natural_key(part) for part in name.split(os.sep)])


def _files(folder: str, recursive: bool) -> Iterator[str]:
    """The files in a folder that are not hidden, relative to it."""

    def fail(error: OSError) -> None:
        raise JaxstyleError(str(error.filename), f"cannot be read: {error.strerror or error}")

    for place, inner, files in os.walk(folder, onerror=fail):
        if place != folder and all(os.path.isfile(os.path.join(place, name)) for name in RUN_FILES):
            inner.clear()
            continue
        inner[:] = [name for name in inner if recursive and not name.startswith(".")]
        within = os.path.relpath(place, folder)
        yield from (os.path.normpath(os.path.join(within, n)) for n in files if not n.startswith("."))


def with_images(
    table: Mapping[str, Any], base: Path | str, *, recursive: bool, files: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """A table of settings with the images of every folder in its place.

    Args:
        table: names and values, as a user gives them.
        base: the folder that its paths start from.
        recursive: see `images_in`.
        files: absolute paths that are known to be files.

    Returns:
        The table, and the absolute paths of the folders that it had, by axis.
    """
    out, found = dict(table), dict[str, tuple[str, ...]]()
    for axis in FOLDER_AXES:
        given = plain_value(table.get(axis, ()))
        values: list[Any] = []
        for value in given if isinstance(given, list | tuple) else [given]:
            path = taken_from(base, os.fspath(value)) if isinstance(value, str | os.PathLike) else ""
            if not path or value in ("", *WORDS[axis]) or path in files or not os.path.isdir(path):
                values.append(value)
                continue
            found[axis] = (*found.get(axis, ()), path)
            images = images_in(path, recursive=recursive)
            values += [os.path.join(os.fspath(value), name) for name in images]
        if axis in found:
            out[axis] = values
    return out, found


def sweep_with_images(sweep: Sweep, *, recursive: bool) -> Sweep:
    """A sweep that need not be resolved, with the images of every folder that it names in its place."""
    top, found = with_images({axis: getattr(sweep, axis) for axis in FOLDER_AXES}, "", recursive=recursive)
    grids: Any = sweep.grid
    if isinstance(grids, list | tuple) and all(isinstance(table, Mapping) for table in grids):
        made = [with_images(table, "", recursive=recursive) for table in grids]
        grids = tuple(table for table, _ in made)
        for _, own in made:
            found = joined(found, own)
    if not found:
        return sweep
    return dataclasses.replace(sweep, **top, grid=grids, folders=joined(sweep.folders, found))


def joined(
    some: Mapping[str, tuple[str, ...]], more: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Folders by axis, from two sources."""
    names = dict.fromkeys((*some, *more))
    return {axis: tuple(dict.fromkeys((*some.get(axis, ()), *more.get(axis, ())))) for axis in names}


def is_in(path: str, folders: Collection[str]) -> bool:
    """Whether an absolute path lies in one of some folders, at any depth."""
    return any(path.startswith(os.path.join(folder, "")) for folder in folders)


def without(sweep: Sweep, gone: Mapping[str, str]) -> Sweep:
    """A resolved sweep without some images; of zipped axes, all values at their places go with them.

    Args:
        gone: why they cannot be read, by path.

    Raises:
        JaxstyleError: if nothing is left.
    """

    def is_gone(value: str) -> bool:
        return any(path in gone for path in files_of(value))

    def left(axis: str, values: Any) -> Any:
        return tuple(v for v in values if not is_gone(v)) if axis in FOLDER_AXES else values

    top = {axis: left(axis, getattr(sweep, axis)) for axis in FOLDER_AXES}
    grids = []
    for table in sweep.grid:
        zipped = table.get("zip", ())
        every = {axis: table.get(axis, getattr(sweep, axis)) for axis in (*FOLDER_AXES, *zipped)}
        own = {axis: left(axis, value) for axis, value in table.items()}
        places = range(len(every[zipped[0]]) if zipped else 0)
        kept = [i for i in places if not any(is_gone(every[a][i]) for a in zipped if a in FOLDER_AXES)]
        own |= {axis: tuple(every[axis][i] for i in kept) for axis in zipped}
        if all((own | {a: top[a] for a in FOLDER_AXES if a not in own})[axis] for axis in FOLDER_AXES):
            grids.append(own)
    empty = next((axis for axis in FOLDER_AXES if not top[axis]), "")
    if (not grids) if sweep.grid else empty:
        path, why = next(iter(gone.items()))
        raise JaxstyleError(empty or "grid", f"none of its images can be read; {path}: {why}")
    given = {(axis, path): text for (axis, path), text in sweep.given.items() if not is_gone(path)}
    return dataclasses.replace(sweep, **top, grid=tuple(grids), given=given)
