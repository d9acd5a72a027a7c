"""The PNG files of a run: their names, and their writing in batches.

A picture stands in `images/` under its cell's number, and again in `pictures/` under a readable name
(`picture_names`): as a hard link, or as a copy where the file system has no links.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from jaxstyle.inputs import encode
from jaxstyle.inputs.encode_high_bit_depth import FORMATS
from jaxstyle.rundir.chunks import ChunkResult
from jaxstyle.rundir.directory import RunDirectory, list_folder
from jaxstyle.rundir.files import link_together, write_together
from jaxstyle.rundir.picture_names import ENDING, FOLDER, PictureNames
from jaxstyle.rundir.records import Record

FLOATS = "images_float"
"""The folder of pictures that are not rounded to 8 bits."""
WRITE_BATCH = 256
"""Pictures that are written as one batch; see `files.SYNC_THREADS` for what that saves."""
FLOAT_BATCH = 64
"""The same for pictures that are not rounded, which are larger."""


def image_name(cell: int, step: int, last: int) -> str:
    """The path of a cell's PNG, relative to its run; images before the last step have the step in it."""
    return f"images/{cell:06d}.png" if step == last else f"images/{cell:06d}-step{step:06d}.png"


def image_step(name: str) -> int | None:
    """The step in the name of a PNG, or None if the name has none."""
    found = re.fullmatch(r"\d{6,}-step(\d{6,})\.png", name)
    return int(found[1]) if found else None


def names_of(record: Record) -> PictureNames:
    """The readable names of a run's pictures."""
    return PictureNames(record.cells, record.sweep.steps, record.texts)


def write_images(
    run: RunDirectory,
    chunk: ChunkResult,
    names: PictureNames,
    *,
    missing: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Write the PNGs of a chunk's cells, one for every snapshot, under both of their names.

    Args:
        names: the readable names.
        missing: write only those that do not exist.
        stop: asked before each one whether to stop; a run that is told to end need not wait for files that
            can be rebuilt.
    """
    _write_floats(run, chunk, missing=missing, stop=stop)
    last = chunk.snapshot[-1]
    named = (
        (int(cell), step, pixels)
        for cell, snapshots in zip(chunk.cell, chunk.image, strict=True)
        for step, pixels in zip(chunk.snapshot, snapshots, strict=True)
    )
    left = itertools.takewhile(lambda _: not stop(), named)
    while batch := list(itertools.islice(left, WRITE_BATCH)):
        places = [
            (run.path / image_name(cell, step, last), run.path / names.name(cell, step))
            for cell, step, _ in batch
        ]
        new = [
            (image, pixels)
            for (image, _), (_, _, pixels) in zip(places, batch, strict=True)
            if not (missing and image.exists())
        ]
        if new:
            write_together([(image, encode.png_bytes(pixels)) for image, pixels in new])
        written = {image for image, _ in new}
        link_together([pair for pair in places if pair[0] in written or not pair[1].exists()])


def float_name(cell: int, step: int, last: int, image_format: str) -> str:
    """The path, relative to its run, of a cell's picture that is not rounded to 8 bits."""
    name = Path(image_name(cell, step, last)).name
    return f"{FLOATS}/{Path(name).with_suffix(FORMATS[image_format][0])}"


def _write_floats(
    run: RunDirectory, chunk: ChunkResult, *, missing: bool, stop: Callable[[], bool]
) -> None:
    """Write the files of a chunk's pictures that are not rounded, if it has them; see `write_images`."""
    if chunk.image_float is None:
        return
    last, encoded = chunk.snapshot[-1], FORMATS[chunk.image_format][1]
    named = (
        (run.path / float_name(int(cell), step, last, chunk.image_format), pixels)
        for cell, snapshots in zip(chunk.cell, chunk.image_float, strict=True)
        for step, pixels in zip(chunk.snapshot, snapshots, strict=True)
    )
    new = (pair for pair in named if not (missing and pair[0].exists()))
    left = itertools.takewhile(lambda _: not stop(), new)
    while batch := list(itertools.islice(left, FLOAT_BATCH)):
        write_together([(path, encoded(pixels)) for path, pixels in batch])


def name_pictures(run: RunDirectory, record: Record, cells: Iterable[int]) -> None:
    """Bring `pictures/` up to date with the run's cells: every picture that is there, by its present name.

    Names change when cells are added that differ in one axis more. Files that are not named as pictures of
    these cells are left alone: a share may be writing others.
    """
    names, steps = names_of(record), record.sweep.steps
    cells = {*cells}
    wanted = {names.name(cell, step): image_name(cell, step, steps[-1]) for cell in cells for step in steps}
    folder = run.path / FOLDER
    there = {f"{FOLDER}/{path.name}": path for path in list_folder(folder)}
    images = {f"images/{path.name}" for path in list_folder(run.path / "images")}
    pairs: list[tuple[Path, Path]] = [
        (run.path / image, run.path / name)
        for name, image in wanted.items()
        if name not in there and image in images
    ]
    link_together(pairs)
    for name, path in there.items():
        own = (found := ENDING.search(name)) is not None and int(found[1]) in cells
        if own and name not in wanted and path.is_file():
            path.unlink(missing_ok=True)
