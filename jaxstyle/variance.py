"""`python -m jaxstyle.variance RUN`: how much the seed matters in a finished run."""

from __future__ import annotations

if __name__ == "__main__":
    from jaxstyle import early

    early.catch()

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxstyle import cli, paths, plugins, store
from jaxstyle.errors import JaxstyleError


@dataclass(frozen=True)
class Variance:
    """Say how much the seed matters: spreads and distances over the seeds of every setting of a run, beside
    those between settings and beside the numerical floor.

    Writes variance.csv, variance.h5, variance.json and maps/ into the run. For the floor a few cells are
    computed again.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run directory; its settings need two seeds each, better eight."""
    no_floor: bool = False
    """Compute no cell again; the spreads then stand without a numerical floor."""
    floor_cells: int = 2
    """Seeds of one setting that are computed again, five times each."""
    floor_steps: int = 500
    """Steps that they are computed for at most."""
    plugin: tuple[str, ...] = ()
    """The plugins that the run was made with, for the floor."""
    no_lock: bool = False
    """Take no lock, where the file system of the run has none; see to it that nobody else works there."""


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m jaxstyle.variance RUN`; leaves by SystemExit with the exit code."""

    def command() -> int:
        parsed = cli.parse(Variance, sys.argv[1:] if arguments is None else arguments, "jaxstyle.variance")
        asked = parsed.value
        for name, least in (("floor_cells", 2), ("floor_steps", 1)):
            if (value := getattr(asked, name)) < least:
                flag = "--" + name.replace("_", "-")
                raise JaxstyleError(flag, f"{value} is out of range; it must be at least {least}")
        path = Path(paths.at_home(asked.run))
        plugins.load(asked.plugin)
        record = store.open_record(path)  # before the lock, which would make the directory look like a run
        if asked.plugin:
            plugins.check(record.sweep)
        store.check_writable(path)

        from jaxstyle import seedpage, seedstudy

        cli.keep_freed_memory()
        options = seedstudy.Options(not asked.no_floor, asked.floor_cells, asked.floor_steps)
        with store.RunDirectory(path, no_lock=asked.no_lock) as run:
            found = seedpage.build(run, options)
        for line in seedpage.summary(found):
            print(line)
        print(f"tables: {path / 'variance.csv'}, {path / 'variance.h5'}; maps and curves: {path / 'maps'}")
        which = f"{found.diverged} cells diverged and are left out; {path / 'results.csv'} names them"
        return cli.say_diverged(which) if found.diverged else 0

    cli.run(command)


if __name__ == "__main__":
    main()
