"""A run that nothing was found wrong with: its inputs, its place, and what is there already.

All this happens before JAX is started and before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxstyle.run.inputs import Inputs, read_inputs
from jaxstyle.rundir import directory, resume
from jaxstyle.rundir.records import Record
from jaxstyle.spec import paths
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.moved_files import named_files
from jaxstyle.spec.options import run_share
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import RunOptions, Sweep


@dataclass(frozen=True)
class CheckedRun(Inputs):
    """The inputs of a run that has passed all checks."""

    path: Path
    earlier: Record | None
    """The record of the run so far, if it is continued or extended."""


def check_run(sweep: Sweep, options: RunOptions, name: str) -> CheckedRun:
    """Check all that can be checked before a run starts, without JAX and without writing.

    Args:
        sweep: sweep of the run.
        options: options that have been checked.
        name: name of a fresh directory, without its number.
    """
    sweep = resolve(sweep)
    path = (
        Path(paths.at_home(options.out)) if options.out else directory.fresh_path(name, root=Path("runs"))
    )
    beside = run_share(options) is not None
    goes_on = options.resume or options.extend or beside
    among = named_files(sweep)
    earlier = resume.find(path, beside=beside, no_lock=options.no_lock, among=among) if goes_on else None
    if earlier is None:
        directory.check_free(path, beside=beside, no_lock=options.no_lock)
    else:
        directory.check_writable(path, *(() if beside else ("events.jsonl",)))
    return read_run(sweep, path, earlier, extend=options.extend)


def read_run(sweep: Sweep, path: Path, earlier: Record | None, *, extend: bool = False) -> CheckedRun:
    """The checked inputs of a run, joined with the sweep of `earlier` if there is one."""
    if earlier is not None:
        sweep = resume.continued_sweep(earlier, sweep, extend=extend)
    inputs = read_inputs(sweep)
    loaded = inputs.weights
    if earlier is not None and loaded.sha256 != (had := earlier.manifest["weights"].get("sha256")):
        raise JaxstyleError(
            "weights",
            f"{loaded.path} has sha256 {loaded.sha256} and {path} was begun with {had}; restore it",
        )
    return CheckedRun(sweep, inputs.cells, inputs.pictures, loaded, path, earlier)
