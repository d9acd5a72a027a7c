"""`python -m jaxstyle.score RUN`: held-out scores of a finished run, and its pictures worth picking."""

from __future__ import annotations

if __name__ == "__main__":
    from jaxstyle.console import early

    early.catch()

import os

# Matrices of a few hundred rows are decomposed for every picture. OpenBLAS's threads wait for each other
# busily: with two of them on two cores that others use, one took up to 100 times as long. NumPy reads
# this when it starts.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxstyle.console import allocator, parsing
from jaxstyle.console.command import run_command
from jaxstyle.console.progress import Display, counted
from jaxstyle.console.stderr import say_diverged
from jaxstyle.rundir import directory
from jaxstyle.rundir.records import open_record
from jaxstyle.spec import paths
from jaxstyle.spec.errors import JaxstyleError

MOST = 500
"""The most cells that one sheet shows."""


@dataclass(frozen=True)
class Score:
    """Score every picture of a finished run by measures that it was not optimised for: a held-out network's
    distances to content and style, noise, periodicity (grids of dots) and copied pieces of the style.

    Writes scores.csv and sheets/best.png into the run, and a section of its page.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory; the run must be finished."""
    best: int = 8
    """Number of cells to print and to draw, those with the best ranks first; 0 draws none."""
    no_lock: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take no lock, for a run on a file system without locks; make sure that nobody else works there."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m jaxstyle.score RUN`; always raises SystemExit, with the exit code."""

    def command() -> int:
        parsed = parsing.parse(Score, sys.argv[1:] if arguments is None else arguments, "jaxstyle.score")
        asked = parsed.value
        if not 0 <= asked.best <= MOST:
            raise JaxstyleError("--best", f"{asked.best} is out of range; it must be from 0 to {MOST}")
        path = Path(paths.at_home(asked.run))
        record = open_record(path)  # before the lock, whose file would make any directory look like a run
        directory.check_writable(path)

        from jaxstyle.derived.picks import SHEET
        from jaxstyle.derived.scores import FILE
        from jaxstyle.metrics.build import best_lines, check_finished, score_run

        check_finished(record)
        allocator.keep_freed_memory()
        with directory.RunDirectory(path, no_lock=asked.no_lock) as run, Display() as display:
            told = functools.partial(display.count, noun="cell")
            found = score_run(run, best_cells=asked.best, on_progress=told)
        for line in (*found.notes, *best_lines(found)):
            print(line)
        print(f"scores: {path / FILE}")
        if found.best:
            print(f"best cells: {path / SHEET}")
        print(f"page: {path / 'report.html'}")
        lost = f"{counted(found.diverged, 'cell')} diverged and {'have' if found.diverged > 1 else 'has'}"
        which = f"{lost} no scores; {path / 'results.csv'} names them"
        return say_diverged(which) if found.diverged else 0

    run_command(command)


if __name__ == "__main__":
    main()
