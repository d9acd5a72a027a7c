"""The PNG files of a run: their names, and their writing in batches."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

from jaxstyle.inputs import encode
from jaxstyle.rundir.chunks import ChunkResult
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.files import write_together

WRITE_BATCH = 256
"""Pictures that are written as one batch; see `files.SYNC_THREADS` for what that saves."""


def image_name(cell: int, step: int, last: int) -> str:
    """The path of a cell's PNG, relative to its run; images before the last step have the step in it."""
    return f"images/{cell:06d}.png" if step == last else f"images/{cell:06d}-step{step:06d}.png"


def image_step(name: str) -> int | None:
    """The step in the name of a PNG, or None if the name has none."""
    found = re.fullmatch(r"\d{6,}-step(\d{6,})\.png", name)
    return int(found[1]) if found else None


def write_images(
    run: RunDirectory,
    chunk: ChunkResult,
    *,
    missing: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Write the PNGs of a chunk's cells, one for every snapshot.

    Args:
        missing: write only those that do not exist.
        stop: asked before each one whether to stop; a run that is told to end need not wait for files that
            can be rebuilt.
    """
    last = chunk.snapshot[-1]
    named = (
        (image_name(int(cell), step, last), pixels)
        for cell, snapshots in zip(chunk.cell, chunk.image, strict=True)
        for step, pixels in zip(chunk.snapshot, snapshots, strict=True)
    )
    left = (
        (run.path / name, encode.png_bytes(pixels))
        for name, pixels in itertools.takewhile(lambda _: not stop(), named)
        if not (missing and (run.path / name).exists())
    )
    while batch := list(itertools.islice(left, WRITE_BATCH)):
        write_together(batch)
