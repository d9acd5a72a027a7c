"""`sheets/best.png`: the pictures of a run with the best ranks, the best first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxstyle.derived.scores import SCORES, Scored, number_text
from jaxstyle.derived.sheets import MAX_COLUMNS, Line, Sheet, draw_sheet, heading
from jaxstyle.derived.thumbnails import SourcePictures
from jaxstyle.derived.tiles import Tile, place_text, place_tiles
from jaxstyle.inputs import encode
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.hdf5 import dataset
from jaxstyle.rundir.records import Record
from jaxstyle.rundir.results_h5 import open_results

SHEET = "sheets/best.png"
CAPTIONED = ("content_distance", "style_distance", "periodicity")
"""The scores under a picture: those that its rank is made of."""


def write_best(
    run: RunDirectory, record: Record, scored: Mapping[int, Scored], cells: Sequence[int]
) -> Path | None:
    """Draw some cells in order with their scores; remove the sheet if there are none.

    Args:
        run: the directory, held.
        record: its record; `results.h5` must be there.
        scored: the scores of its cells.
        cells: the cells to draw.
    """
    if not cells:
        (run.path / SHEET).unlink(missing_ok=True)
        return None
    last = len(record.sweep.steps) - 1
    tiles = {tile.cell: tile for tile in place_tiles(record, cells, [last])}
    across = min(len(cells), MAX_COLUMNS, math.ceil(math.sqrt(1.6 * len(cells))))
    places = [divmod(i, across) for i in range(len(cells))]
    sheet = Sheet(
        rows=(Line(""),) * math.ceil(len(cells) / across),
        columns=(Line(""),) * across,
        tiles={at: tiles[cell] for at, cell in zip(places, cells, strict=True)},
        captions={at: _caption(scored[cell], tiles[cell]) for at, cell in zip(places, cells, strict=True)},
    )
    with open_results(record) as where:

        def pixels(tile: Tile) -> np.ndarray:
            group, index = where[tile.cell]
            return dataset(group, "image")[index, tile.snapshot]

        title = f"The {len(cells)} best of {len(scored)} cells by held-out scores\n{heading(record)}"
        drawn = draw_sheet(sheet, title=title, tile=pixels, picture=SourcePictures(record))
    return run.write(SHEET, encode.png_bytes(np.asarray(drawn)), durable=False)


def _caption(row: Scored, tile: Tile) -> str:
    place = place_text(tile.place, [axis for axis in tile.place if axis != "steps"])
    scores = [f"{SCORES[name]} {number_text(row.scores[name])}" for name in CAPTIONED]
    return "\n".join(filter(None, [f"cell {row.cell}, rank {row.rank}", place, *scores]))
