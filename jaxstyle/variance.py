"""`python -m jaxstyle.variance RUN`: how much the seed matters in a finished run."""

from __future__ import annotations

if __name__ == "__main__":
    from jaxstyle.console import early

    early.catch()

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
from jaxstyle.spec import paths, plugins
from jaxstyle.spec.errors import JaxstyleError


@dataclass(frozen=True)
class Variance:
    """Measure how much the seed matters: spreads and distances over the seeds of every setting of a run,
    compared with those between settings and with the numerical floor.

    Writes variance.csv, variance.h5, variance.json and maps/ into the run. A few cells are computed again
    for the floor.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory; every setting needs at least two seeds, better eight."""
    no_floor: bool = False
    """Do not compute any cell again; the spreads then have no numerical floor to be compared with."""
    floor_cells: int = 2
    """Number of seeds of one setting to compute again, five times each."""
    floor_steps: int = 500
    """Maximum steps for each of them."""
    plugin: tuple[str, ...] = ()
    """Plugins that the run was made with, for the floor and where its pooling is one of theirs."""
    no_lock: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take no lock, for a run on a file system without locks; make sure that nobody else works there."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m jaxstyle.variance RUN`; always raises SystemExit, with the exit code."""

    def command() -> int:
        parsed = parsing.parse(
            Variance, sys.argv[1:] if arguments is None else arguments, "jaxstyle.variance"
        )
        asked = parsed.value
        for name, least in (("floor_cells", 2), ("floor_steps", 1)):
            if (value := getattr(asked, name)) < least:
                flag = "--" + name.replace("_", "-")
                raise JaxstyleError(flag, f"{value} is out of range; it must be at least {least}")
        path = Path(paths.at_home(asked.run))
        plugins.load(asked.plugin)
        record = open_record(path)  # before the lock, whose file would make any directory look like a run
        if asked.plugin:
            plugins.check(record.sweep)
        directory.check_writable(path)

        from jaxstyle.study.build import build_study
        from jaxstyle.study.model import Options
        from jaxstyle.study.page_blocks import summary

        allocator.keep_freed_memory()
        options = Options(not asked.no_floor, asked.floor_cells, asked.floor_steps)
        with directory.RunDirectory(path, no_lock=asked.no_lock) as run, Display() as display:
            found = build_study(run, options, display)
        for line in (*summary(found), *found.notes):
            print(line)
        print(f"tables: {path / 'variance.csv'}, {path / 'variance.h5'}; maps and curves: {path / 'maps'}")
        print(f"page: {path / 'report.html'}")
        lost = f"{counted(found.diverged, 'cell')} diverged and {'are' if found.diverged > 1 else 'is'}"
        which = f"{lost} left out; {path / 'results.csv'} names them"
        return say_diverged(which) if found.diverged else 0

    run_command(command)


if __name__ == "__main__":
    main()
