"""Crops of the styles, for comparison with pictures of their size: `crops/`, and `crops.csv`.

A style is seen as the run saw it: at its target size, as luma where pictures are grey or get the chroma of
their content, and in the colours of a content where it took those. The place of a crop follows from its
seed alone: a generator of NumPy draws its top and its left edge, uniformly. Crops are finished as pictures
are if that is asked for.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxstyle.derived.stimuli import number_text
from jaxstyle.inputs import decode, encode
from jaxstyle.inputs.finishing import rank_matched, with_contrast
from jaxstyle.inputs.light import Light, light_of
from jaxstyle.inputs.pictures import check_digest
from jaxstyle.inputs.preprocess import luma
from jaxstyle.inputs.recolour import matched
from jaxstyle.inputs.resize import resize
from jaxstyle.rundir.directory import RunDirectory, list_folder
from jaxstyle.rundir.files import write_together
from jaxstyle.rundir.picture_names import ENDING, MAX_STEM, safe
from jaxstyle.rundir.records import Record
from jaxstyle.spec import blends
from jaxstyle.spec.colours import COLOURS
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import Sweep
from jaxstyle.spec.values import longest_edge, parse_size

FILE, FOLDER = "crops.csv", "crops"
COLUMNS = ("crop", "style", "style_size", "seed", "top", "left", "height", "width", "image", *Light._fields)
COLOURS_OF = "content"
"""Column of the content whose colours a crop has, where styles take them."""


class Reference(NamedTuple):
    """A style image at a size, and the shape of pictures that are compared with it."""

    path: str
    colours: str
    """The content whose colours it took; empty for its own."""
    style_px: int
    height_px: int
    width_px: int


def place_of(seed: int, seen: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    """(top, left) in px of the crop of a seed, of a shape, out of an image that is seen at another."""
    random = np.random.default_rng(seed)
    top, left = (int(random.integers(0, seen[axis] - shape[axis] + 1)) for axis in range(2))
    return top, left


def write_crops(run: RunDirectory, record: Record) -> None:
    """Write the crops that a run asks for, and their table, unless a style has moved or is another now."""
    if record.sweep.crops is None:
        return
    try:
        images = {of: _seen(record, of) for of in _references(record)}
    except JaxstyleError:
        return  # the run is whole without them, and those of before stay
    rows, files = [], []
    for of, seen in images.items():
        shape, given = (of.height_px, of.width_px), record.given("style", of.path)
        for seed in range(record.sweep.crops):
            top, left = place_of(seed, seen.shape[:2], shape)
            pixels = seen[top : top + shape[0], left : left + shape[1]]
            if record.sweep.finish_crops:
                pixels = _finished(record.sweep, pixels, seen)
            stem = safe(Path(given).stem, MAX_STEM) or "style"
            by = f"__{safe(Path(of.colours).stem, MAX_STEM) or 'content'}" if of.colours else ""
            name = f"{stem}{by}__s{seed}__{len(rows):06d}.png"
            at = (of.style_px, seed, top, left, *shape, f"{FOLDER}/{name}")
            row = dict(zip(COLUMNS, (len(rows), given, *at, *light_of(pixels)), strict=True))
            rows.append(row | ({COLOURS_OF: record.given("content", of.colours)} if of.colours else {}))
            files.append((run.path / FOLDER / name, encode.png_bytes(pixels)))
    buffer = io.StringIO()
    moved = COLOURS[record.sweep.colour].moves_style
    writer = csv.DictWriter(buffer, (*COLUMNS, *((COLOURS_OF,) if moved else ())), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: number_text(value) for name, value in row.items()} for row in rows)
    if files:
        write_together(files)
    run.write(FILE, buffer.getvalue())
    for path in {*list_folder(run.path / FOLDER)} - {path for path, _ in files}:
        if ENDING.search(path.name):  # of when the run had fewer cells
            path.unlink(missing_ok=True)


def _finished(
    sweep: Sweep, pixels: UInt8[np.ndarray, "h w 3"], style: UInt8[np.ndarray, "_h _w 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """A crop with the histogram of its whole style, or with the contrast that pictures get."""
    if sweep.finish == "histogram":
        return encode.to_uint8(rank_matched(pixels, [style]))
    return encode.to_uint8(with_contrast(pixels, sweep.rms_contrast, sweep.mean_luminance))


def _references(record: Record) -> Iterator[Reference]:
    """Every style image of the computed cells at its size, with the shapes of its pictures, each once."""
    found: dict[Reference, None] = {}
    for outline in record.outlines():
        for number in outline.cell:
            cell = record.cells[int(number)]
            for (path, size, *colours), _ in cell.style_parts:
                if not blends.is_targets(path):
                    px = size if isinstance(size, int) else longest_edge(record.sweep.size)
                    shape = outline.height_px, outline.width_px
                    found[Reference(path, "".join(colours), px, *shape)] = None
    yield from found


def _seen(record: Record, of: Reference) -> UInt8[np.ndarray, "h w 3"]:
    pixels = _read(record, of.path)
    seen = resize(luma(pixels) if COLOURS[record.sweep.colour].grey else pixels, of.style_px)
    if not of.colours:
        return seen
    return matched(seen, resize(_read(record, of.colours), parse_size(record.sweep.size)))


def _read(record: Record, path: str) -> UInt8[np.ndarray, "h w 3"]:
    picture = decode.read(path)
    check_digest(path, picture.sha256, record.sweep.digests.get(path))
    return picture.pixels
