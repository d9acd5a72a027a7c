"""Animations of the snapshots of a cell."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.hdf5 import dataset
from jaxstyle.rundir.records import Record
from jaxstyle.rundir.results_h5 import open_results
from jaxstyle.spec.errors import JaxstyleError

FRAME_MS = 120
"""The time for which an animation shows a snapshot."""
LAST_FRAMES = 10
"""The factor by which it shows the last snapshot longer."""


def check_animation(record: Record, kind: str, cells: Sequence[int], frame_ms: int) -> None:
    """Raise JaxstyleError unless snapshots of these cells can become animations."""
    if kind not in ("gif", "webp"):
        raise JaxstyleError("animate", f"{kind!r} is not known; use gif or webp")
    if not 20 <= frame_ms <= 60_000:
        raise JaxstyleError("frame-ms", f"{frame_ms} is out of range; it must be 20 to 60000")
    if len(record.sweep.steps) < 2:
        raise JaxstyleError(
            str(record.path), "has only one snapshot; a run with several --steps can be animated"
        )
    for cell in cells:
        if not 0 <= cell < len(record.cells):
            raise JaxstyleError("cell", f"{cell} is not in the run; cells are 0 to {len(record.cells) - 1}")


def animation(frames: UInt8[np.ndarray, "frames h w 3"], kind: str, frame_ms: int) -> bytes:
    """A GIF or WebP file that shows `frames` in an endless loop, the last one for longer."""
    pictures = [Image.fromarray(frame) for frame in frames]
    if kind == "gif":  # one palette of 256 colours for each frame
        pictures = [picture.quantize(256, dither=Image.Dither.FLOYDSTEINBERG) for picture in pictures]
    settings: dict[str, Any] = {"quality": 90, "method": 4} if kind == "webp" else {"disposal": 1}
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        kind,
        save_all=True,
        append_images=pictures[1:],
        duration=[frame_ms] * (len(pictures) - 1) + [LAST_FRAMES * frame_ms],
        loop=0,
        **settings,
    )
    return buffer.getvalue()


def write_animations(
    run: RunDirectory, record: Record, kind: str, *, cells: Sequence[int] = (), frame_ms: int = FRAME_MS
) -> list[Path]:
    """Write the snapshots of cells of a merged run as `animations/NNNNNN.gif` or `.webp`.

    Args:
        cells: the ids of the cells; if empty, all that have been computed.

    Raises:
        JaxstyleError: if a cell has not been computed.
    """
    written = []
    with open_results(record) as where:
        for cell in cells or sorted(where):
            if cell not in where:
                raise JaxstyleError("cell", f"{cell} has not been computed yet; --resume the run")
            group, index = where[cell]
            frames = dataset(group, "image")[index]
            name = f"animations/{cell:06d}.{kind}"
            written.append(run.write(name, animation(frames, kind, frame_ms), durable=False))
    return written
