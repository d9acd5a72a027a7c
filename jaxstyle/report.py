"""`python -m jaxstyle.report RUN`: the files of a run that are derived from its chunks, built again.

These are tables, PNGs, contact sheets and the page, and animations where they are asked for. Needs no JAX.
"""

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

from jaxstyle.console import parsing
from jaxstyle.console.command import run_command
from jaxstyle.console.stderr import say_diverged
from jaxstyle.derived.animations import FRAME_MS, check_animation, write_animations
from jaxstyle.derived.build import build_derived, finish_run
from jaxstyle.rundir import directory
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.records import open_record
from jaxstyle.spec import paths
from jaxstyle.spec.errors import JaxstyleError


@dataclass(frozen=True)
class Report:
    """Rebuild all files that are derived from a run's chunks: tables, pictures, sheets and the page."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run directory."""
    animate: Annotated[str | None, tyro.conf.arg(metavar="gif|webp")] = None
    """Also write the snapshots of cells as animations: gif or webp."""
    cell: tuple[int, ...] = ()
    """Cells to animate (default: all)."""
    frame_ms: int = FRAME_MS
    """The time for which an animation shows a snapshot, in ms; the last one is shown ten times as long."""
    no_lock: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take no lock, for a run on a file system without locks; make sure that nobody else works there."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m jaxstyle.report RUN`; leaves by SystemExit with the exit code."""

    def command() -> int:
        parsed = parsing.parse(Report, sys.argv[1:] if arguments is None else arguments, "jaxstyle.report")
        asked = parsed.value
        path = Path(paths.at_home(asked.run))
        record = open_record(path)  # before the lock, which would make the directory look like a run
        if asked.animate is not None:
            check_animation(record, asked.animate, asked.cell, asked.frame_ms)
        elif unused := [name for name in parsed.named if name in ("cell", "frame_ms")]:
            flag = unused[0].replace("_", "-")
            raise JaxstyleError(flag, "is for animations only; give it together with --animate gif or webp")
        directory.check_writable(path)
        with RunDirectory(path, briefly=True, no_lock=asked.no_lock) as run:
            done = record.manifest.get("status") == "done"
            built = build_derived(run) if done else finish_run(run, pictures=True)
            if asked.animate is not None:
                made = write_animations(
                    run, built.record, asked.animate, cells=asked.cell, frame_ms=asked.frame_ms
                )
                print(f"{len(made)} animation{'s' * (len(made) != 1)}: {path / 'animations'}")
        print(f"{len(built.rows)} of {len(built.record.cells)} cells: {path / 'results.csv'}")
        for sheet in built.sheets:
            print(f"contact sheet: {sheet}")
        if built.best is not None:
            print(f"best cells: {built.best}")
        print(f"page: {path / 'report.html'}")
        diverged = int(built.rows.diverged.sum())
        which = f"{diverged} of {len(built.rows)} cells diverged; {path / 'results.csv'} names them"
        return say_diverged(which) if diverged else 0

    run_command(command)


if __name__ == "__main__":
    main()
