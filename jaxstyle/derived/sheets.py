"""Contact sheets: grids of pictures with a label for every row and column."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from jaxstyle.derived import drawing
from jaxstyle.derived.thumbnails import SourcePictures, scaled
from jaxstyle.derived.tiles import (
    Tile,
    group_axes,
    part_text,
    place_text,
    place_tiles,
    shared_words,
    shown_part,
)
from jaxstyle.inputs import encode
from jaxstyle.plan.cells import Cell
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.hdf5 import dataset
from jaxstyle.rundir.records import Record
from jaxstyle.rundir.results_h5 import open_results

THUMBNAIL_PX = 256
"""The longest edge of a picture on a sheet; smaller pictures are drawn pixel for pixel."""
HEADER_PX = 112
"""The longest edge of a content or style image beside its row or above its column."""
SHEET_PX = 12_000
"""The largest width and height of a sheet, but for long texts beside small pictures."""
TEXT_PX = 160
"""The width from which texts beside and under pictures are broken, where the pictures are smaller."""
MAX_ROWS, MAX_COLUMNS = 24, 40
SHEET_NAME = re.compile(r"contact(-\d{3,})?\.png")
PAD_PX = 8
PAPER, INK = (250, 249, 246), (32, 32, 36)


@dataclass(frozen=True)
class Line:
    """The head of a row or a column of a sheet."""

    label: str
    pictures: tuple[str, ...] = ()
    """The paths of the contents and styles that the line stands for."""


@dataclass(frozen=True)
class Sheet:
    """One contact sheet: pictures in rows and columns."""

    rows: tuple[Line, ...]
    columns: tuple[Line, ...]
    tiles: dict[tuple[int, int], Tile]
    """The pictures by (row, column); a place may be empty."""
    captions: dict[tuple[int, int], str]
    """The texts under pictures, by (row, column), on a sheet whose rows and columns stand for nothing."""


def _line(tile: Tile, cell: Cell, axes: Sequence[str]) -> Line:
    pictures = tuple(getattr(cell, axis) for axis in ("content", "style") if axis in axes)
    return Line(place_text(tile.place, axes), pictures)


def _pages(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def lay_out(record: Record, tiles: Sequence[Tile]) -> list[Sheet]:
    """Sheets for `tiles`, with faster axes across and slower ones down; a single axis wraps like text."""
    groups = group_axes(tiles) if tiles else []
    if len(groups) < 2:
        return _wrapped(tiles, groups)
    split = _split(tiles, groups)
    down = [axis for group in groups[:split] for axis in group]
    across = [axis for group in groups[split:] for axis in group]

    def key(tile: Tile, axes: Sequence[str]) -> tuple[str, ...]:
        return tuple(tile.place[axis] for axis in axes)

    cells = record.cells
    columns = {key(t, across): _line(t, cells[t.cell], across) for t in reversed(tiles)}
    rows = {key(t, down): _line(t, cells[t.cell], down) for t in reversed(tiles)}
    by_place = {(key(t, down), key(t, across)): t for t in tiles}
    # `reversed` made the first tile win; sorting by first appearance restores the grid's order.
    row_order = list(dict.fromkeys(key(t, down) for t in tiles))
    column_order = list(dict.fromkeys(key(t, across) for t in tiles))
    found = []
    for row_keys in _pages(row_order, MAX_ROWS):
        for column_keys in _pages(column_order, MAX_COLUMNS):
            placed = {
                (i, j): by_place[r, c]
                for i, r in enumerate(row_keys)
                for j, c in enumerate(column_keys)
                if (r, c) in by_place
            }
            heads = tuple(rows[r] for r in row_keys), tuple(columns[c] for c in column_keys)
            found += [Sheet(*heads, placed, {})] if placed else []  # two grids of one run can leave none
    return found


def _split(tiles: Sequence[Tile], groups: Sequence[tuple[str, ...]]) -> int:
    """The number of groups of axes that go down, for the squarest sheet; if in doubt, for the widest."""

    def count(part: Sequence[tuple[str, ...]]) -> int:
        return len({tuple(t.place[axis] for group in part for axis in group) for t in tiles})

    return min(
        range(1, len(groups)),
        key=lambda split: abs(math.log(count(groups[split:]) / count(groups[:split]))),
    )


def _wrapped(tiles: Sequence[Tile], groups: Sequence[tuple[str, ...]]) -> list[Sheet]:
    across = max(1, math.ceil(math.sqrt(1.6 * min(len(tiles), MAX_ROWS * MAX_COLUMNS))))
    across = min(across, len(tiles), MAX_COLUMNS)
    found = []
    for part in _pages(tiles, max(1, across * MAX_ROWS)):
        places = [divmod(i, across) for i in range(len(part))]
        captions = {
            at: place_text(tile.place, groups[0]) for at, tile in zip(places, part, strict=True) if groups
        }
        found.append(
            Sheet(
                rows=(Line(""),) * math.ceil(len(part) / across),
                columns=(Line(""),) * across,
                tiles=dict(zip(places, part, strict=True)),
                captions=captions,
            )
        )
    return found


def heading(record: Record) -> str:
    """The settings that all cells of a run have in common, on one line."""
    return "   ".join(shared_words(record))


def _head(
    line: Line, picture: Callable[[str], np.ndarray | None], longest: int, text_px: int
) -> Image.Image:
    """The head of a row or column: its label under small pictures of its contents and styles."""
    small = [scaled(p, longest) for path in line.pictures if (p := picture(path)) is not None]
    label = drawing.wrapped(line.label, text_px)
    text_w, text_h = drawing.extent(label)
    width = max([text_w, sum(s.width for s in small) + PAD_PX * max(0, len(small) - 1), 1])
    height = text_h + (max(s.height for s in small) + PAD_PX if small else 0)
    head = Image.new("RGB", (width, max(height, 1)), PAPER)
    x = 0
    for s in small:
        head.paste(s, (x, 0))
        x += s.width + PAD_PX
    drawing.write(ImageDraw.Draw(head), (0, height - text_h), label, fill=INK)
    return head


def draw_sheet(
    sheet: Sheet,
    *,
    title: str,
    tile: Callable[[Tile], UInt8[np.ndarray, "h w 3"]],
    picture: Callable[[str], np.ndarray | None],
) -> Image.Image:
    """The sheet as an image.

    Args:
        title: a line or two above everything else.
        tile: gives the pixels of a tile.
        picture: gives the pixels of the content or style at a path, or None if it is gone.
    """
    longest = min(
        THUMBNAIL_PX,
        SHEET_PX // (len(sheet.columns) + 1) - PAD_PX,
        SHEET_PX // (len(sheet.rows) + 1) - PAD_PX,
    )
    pictures = {place: scaled(tile(t), longest) for place, t in sheet.tiles.items()}
    # Heads are no larger than the largest picture, so that they do not dominate the sheet.
    head_px = min(HEADER_PX, max(max(image.size) for image in pictures.values()))
    text_px = max(TEXT_PX, longest)
    rows = [_head(line, picture, head_px, text_px) for line in sheet.rows]
    columns = [_head(line, picture, head_px, text_px) for line in sheet.columns]
    said = {place: drawing.wrapped(text, text_px) for place, text in sheet.captions.items()}
    captions = {place: drawing.extent(text) for place, text in said.items()}

    def widest(j: int) -> int:
        tiles = [p.width for (_, column), p in pictures.items() if column == j]
        texts = [w for (_, column), (w, _) in captions.items() if column == j]
        return max([columns[j].width, *tiles, *texts])

    def highest(i: int) -> int:
        both = [p.height + captions.get(at, (0, -4))[1] + 4 for at, p in pictures.items() if at[0] == i]
        return max([rows[i].height, *both])

    xs = [PAD_PX + (max(r.width for r in rows) + PAD_PX if any(s.label for s in sheet.rows) else 0)]
    for j in range(len(columns)):
        xs.append(xs[-1] + widest(j) + PAD_PX)
    title_w, title_h = drawing.extent(title)
    top = PAD_PX + title_h + PAD_PX
    ys = [top + (max(c.height for c in columns) + PAD_PX if any(s.label for s in sheet.columns) else 0)]
    for i in range(len(rows)):
        ys.append(ys[-1] + highest(i) + PAD_PX)

    page = Image.new("RGB", (max(xs[-1], title_w + 2 * PAD_PX), ys[-1]), PAPER)
    pen = ImageDraw.Draw(page)
    drawing.write(pen, (PAD_PX, PAD_PX), title, fill=INK)
    for j, head in enumerate(columns):
        page.paste(head, (xs[j], ys[0] - PAD_PX - head.height))
    for i, head in enumerate(rows):
        page.paste(head, (PAD_PX, ys[i]))
    for (i, j), image in pictures.items():
        page.paste(image, (xs[j], ys[i]))
        if text := said.get((i, j)):
            drawing.write(pen, (xs[j], ys[i] + image.height + 4), text, fill=INK)
    return page


def write_sheets(run: RunDirectory, record: Record) -> list[Path]:
    """Write the contact sheets of a merged run: `sheets/contact.png`, or numbered ones if several.

    They show the same pictures as the page: of a huge run, only a part. Older sheets that are not written
    again are removed.
    """
    written = []
    with open_results(record) as where:
        part = shown_part(record, where)
        pages = lay_out(record, place_tiles(record, part.cells, part.snapshots))
        source, title = SourcePictures(record), heading(record)
        if part.left_out:
            title += f"\n{part_text(part)}"
        for number, sheet in enumerate(pages, 1):

            def tile(t: Tile) -> np.ndarray:
                group, index = where[t.cell]
                return dataset(group, "image")[index, t.snapshot]

            drawn = draw_sheet(sheet, title=title, tile=tile, picture=source)
            name = "contact.png" if len(pages) == 1 else f"contact-{number:03d}.png"
            written.append(run.write(f"sheets/{name}", encode.png_bytes(np.asarray(drawn)), durable=False))
    for old in {*sheet_paths(run.path)} - {*written}:
        old.unlink()
    return written


def sheet_paths(path: Path) -> list[Path]:
    """The contact sheets of the run at `path`, in order, without copies that lie beside them."""
    return sorted(p for p in (path / "sheets").glob("contact*.png") if SHEET_NAME.fullmatch(p.name))
