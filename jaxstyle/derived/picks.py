"""`sheets/best.png`: the pictures of a run with the best ranks, the best first."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxstyle.derived.scores import SCORES, Scored, best, number_text, read_scores
from jaxstyle.derived.sheets import MAX_COLUMNS, Line, Sheet, draw_sheet, heading
from jaxstyle.derived.thumbnails import SourcePictures
from jaxstyle.derived.tiles import Tile, place_text, place_tiles
from jaxstyle.inputs import encode
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.hdf5 import dataset
from jaxstyle.rundir.records import Record
from jaxstyle.rundir.results_h5 import open_results
from jaxstyle.spec.errors import JaxstyleError

SHEET = "sheets/best.png"
ASKED = "scores.json"
"""The file with the number of cells that the sheet was asked for, as `best`; 0 is none."""
CAPTIONED = ("content_distance", "style_distance", "periodicity")
"""The scores under a picture: those that its rank is made of."""


def asked_text(count: int) -> str:
    """The text of `scores.json`, by which the sheet is drawn again."""
    return json.dumps({"best": count}) + "\n"


def _asked(record: Record) -> int | None:
    """The number of cells that the sheet was asked for; None for a run that earlier versions scored."""
    try:
        count = json.loads((record.path / ASKED).read_text("utf-8"))["best"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return count if type(count) is int and count >= 0 else None


def redraw_best(run: RunDirectory, record: Record) -> Path | None:
    """Draw the sheet of the best cells again, by the scores that are there; None where there is no sheet.

    Cells that a run got later have no scores and are left out, and its title says so. Nothing is changed
    where it is not known how many cells were asked for, or the scores cannot be read, which the page tells.

    Args:
        run: the directory, held.
        record: its record; `results.h5` must be there.
    """
    try:
        scored, count = read_scores(record), _asked(record)
    except JaxstyleError:
        return None
    if scored is None or count is None:
        return None
    with open_results(record) as where:
        there = {*where}
    return write_best(run, record, scored, best({i: scored[i] for i in scored if i in there}, count))


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

        later = len(record.cells) - len(scored)
        without = f"; {later} more have no scores" if later else ""
        title = f"The {len(cells)} best of {len(scored)} cells by held-out scores{without}"
        title += f"\n{heading(record)}"
        drawn = draw_sheet(sheet, title=title, tile=pixels, picture=SourcePictures(record))
    return run.write(SHEET, encode.png_bytes(np.asarray(drawn)), durable=False)


def _caption(row: Scored, tile: Tile) -> str:
    place = place_text(tile.place, [axis for axis in tile.place if axis != "steps"])
    scores = [f"{SCORES[name]} {number_text(row.scores[name])}" for name in CAPTIONED]
    return "\n".join(filter(None, [f"cell {row.cell}, rank {row.rank}", place, *scores]))
