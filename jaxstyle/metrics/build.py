"""The scores of a finished run: `scores.csv`, the sheet of the best cells, and the page that shows them.

Nothing of the run itself is changed, and the scores hold no time, host or device.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxstyle.derived.build import build_derived, write_page
from jaxstyle.derived.picks import ASKED, asked_text, write_best
from jaxstyle.derived.scores import SCORES, Scored, best, csv_text, number_text, pair_names
from jaxstyle.metrics import ranking
from jaxstyle.metrics.judge import Judge, Scores
from jaxstyle.run.start_jax import start_jax
from jaxstyle.rundir import manifest
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.hdf5 import dataset
from jaxstyle.rundir.image_files import image_name
from jaxstyle.rundir.records import Record, open_record
from jaxstyle.rundir.results_csv import read_rows
from jaxstyle.rundir.results_h5 import CellIndex, is_current, open_results
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import RunOptions


@dataclass(frozen=True)
class Judged:
    """The outcome of scoring a run."""

    record: Record
    scored: dict[int, Scored]
    """The rows of `scores.csv`, by cell."""
    best: list[int]
    """The cells that were drawn, the best first."""
    diverged: int
    """Number of cells that diverged; they have no scores."""
    notes: list[str]
    """Images that could not be used, each in a sentence."""


def score_run(
    run: RunDirectory,
    *,
    best_cells: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Judged:
    """Score the pictures of a finished run, and write `scores.csv`, `sheets/best.png` and the page.

    Args:
        run: the directory, held.
        best_cells: number of cells to draw; the sheet of an earlier time is removed if it is 0.
        on_progress: called with the number of cells scored so far, first 0, and of all to be scored.

    Raises:
        JaxstyleError: if it is no run, or not finished.
    """
    record = open_record(run.path)
    check_finished(record)
    if not is_current(record):
        build_derived(run, pictures=False)
    for path in record.chunk_paths:
        record.check(path)
    rows = read_rows(record)
    lost = {int(cell) for cell in rows.cell[rows.diverged]}
    judge = Judge(record.sweep, start_jax(record.sweep, RunOptions(), record.manifest))
    with open_results(record) as where:
        ids = [cell for cell in where if cell not in lost]
        found = _scores(judge, record, where, ids, on_progress)
    scored = _ranked(record, found, list(where))
    run.write("scores.csv", csv_text(scored.values()))
    run.write(ASKED, asked_text(best_cells))
    chosen = best(scored, best_cells)
    write_best(run, record, scored, chosen)
    write_page(run, rows)
    return Judged(record, scored, chosen, len(lost), list(judge.notes.values()))


def check_finished(record: Record) -> None:
    """Raise JaxstyleError unless every chunk of a run has been computed."""
    if not record.chunk_paths:
        raise JaxstyleError(str(record.path), "no chunk has been computed yet; there is nothing to score")
    if not manifest.is_complete(record):
        why = "is not finished, and ranks would change; continue it with"
        raise JaxstyleError(
            str(record.path),
            f"{why} python -m jaxstyle.sweep --resume --out {shlex.quote(str(record.path))}",
        )


def _scores(
    judge: Judge,
    record: Record,
    where: CellIndex,
    ids: Sequence[int],
    on_progress: Callable[[int, int], None],
) -> dict[int, Scores]:
    """The scores of some cells, several of one shape at a time."""
    found: dict[int, Scores] = {}
    on_progress(0, len(ids))
    for _, alike in itertools.groupby(ids, lambda cell: where[cell][0].name):
        left = list(alike)
        while left:
            now, left = left[: judge.width], left[judge.width :]
            pictures = [_picture(where, cell) for cell in now]
            found.update(zip(now, judge.scores([record.cells[i] for i in now], pictures), strict=True))
            on_progress(len(found), len(ids))
    return found


def _picture(where: CellIndex, cell: int) -> np.ndarray:
    group, index = where[cell]
    return dataset(group, "image")[index, -1]


def _ranked(record: Record, found: dict[int, Scores], every: Sequence[int]) -> dict[int, Scored]:
    """The rows of all cells, with the front and the ranks of each content and style."""
    pairs: dict[tuple[str, str], list[int]] = {}
    for cell in found:
        pairs.setdefault((record.cells[cell].content, record.cells[cell].style), []).append(cell)
    on_front: dict[int, bool] = {}
    rank: dict[int, int | None] = {}
    for cells in pairs.values():
        own = [found[cell] for cell in cells]
        scores = [(s.content_distance, s.style_distance, s.periodicity) for s in own]
        # A cell whose picture is too small for both distances has no rank.
        near = [any(distance is not None for distance in of[:2]) for of in scores]
        ordered = ranking.ranks([of if n else (None,) * 3 for of, n in zip(scores, near, strict=True)])
        rank.update(zip(cells, ordered, strict=True))
        points = {
            cell: (s.content_distance, s.style_distance)
            for cell, s in zip(cells, own, strict=True)
            if s.content_distance is not None and s.style_distance is not None
        }
        on_front.update(zip(points, ranking.front(list(points.values())), strict=True))
    return {
        cell: Scored(
            cell,
            {name: getattr(found.get(cell, Scores()), name) for name in SCORES},
            on_front.get(cell),
            rank.get(cell),
        )
        for cell in every
    }


def best_lines(judged: Judged) -> list[str]:
    """The cells that were drawn, a line each, with the scores that they have."""
    lines, pair = [], pair_names(judged.record)
    for cell in judged.best:
        own = judged.scored[cell]
        scores = [f"{SCORES[n]} {number_text(v)}" for n, v in own.scores.items() if v is not None]
        lines.append(
            f"cell {cell}: rank {own.rank} of {pair(cell)}, " + ", ".join((*scores, image_name(cell, 0, 0)))
        )
    return lines
