"""A run that passed all checks: its inputs, its place, and what is there already.

All this happens before JAX is started and before anything is written.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from jaxstyle.console.progress import Display
from jaxstyle.plan.cells import check_new
from jaxstyle.run.inputs import Inputs, read_inputs
from jaxstyle.rundir import directory, resume
from jaxstyle.rundir.records import Record
from jaxstyle.spec import paths
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.folders import sweep_with_images
from jaxstyle.spec.moved_files import named_files
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import RunOptions, Sweep
from jaxstyle.spec.shares import run_share
from jaxstyle.spec.values import as_place


@dataclass(frozen=True)
class CheckedRun(Inputs):
    """The inputs of a run that has passed all checks."""

    path: Path
    earlier: Record | None
    """The record of the run so far, if it is continued or extended."""
    ignored: tuple[str, ...] = field(default=(), kw_only=True)
    """Images of folders that a run does not have that is continued."""


def check_run(sweep: Sweep, options: RunOptions, name: str) -> CheckedRun:
    """Check all that can be checked before a run starts, without JAX and without writing.

    Args:
        sweep: sweep of the run.
        options: options that have been checked.
        name: name of a fresh directory, without its number.
    """
    sweep = resolve(sweep_with_images(sweep, recursive=options.recursive))
    path = (
        Path(paths.at_home(options.out)) if options.out else directory.fresh_path(name, root=Path("runs"))
    )
    as_place("out", str(path.absolute()))  # which is written into the manifest
    _check_events(options)
    beside = run_share(options) is not None
    whole = options.shard is not None and options.out is not None  # 0/1, which goes on as any share does
    goes_on = options.resume or options.extend or beside or whole
    among = named_files(sweep)
    earlier = resume.find(path, beside=beside, no_lock=options.no_lock, among=among) if goes_on else None
    if earlier is None:
        directory.check_free(path, beside=beside, no_lock=options.no_lock)
    else:
        directory.check_writable(path, *(() if beside else ("events.jsonl",)))
    return read_run(sweep, path, earlier, options)


def check_extensible(path: Path, options: RunOptions, done: int, chunks: int) -> None:
    """Raise JaxstyleError if a run is to be extended that has not done all of its chunks."""
    if options.extend and done < chunks:
        raise JaxstyleError(str(path), "is not done; --resume it before you extend it")


def _check_events(options: RunOptions) -> None:
    """Raise JaxstyleError if the file of events that is asked for can be seen not to be writable."""
    if options.events is None:
        return
    file = Path(paths.at_home(options.events))
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise JaxstyleError("events", f"{file} cannot be written; give a file in a folder that is yours")


def read_run(sweep: Sweep, path: Path, earlier: Record | None, options: RunOptions) -> CheckedRun:
    """The checked inputs of a run, joined with the sweep of `earlier` if there is one."""
    ignored: list[str] = []
    if earlier is not None:
        ignored = [] if options.extend else resume.new_in_folders(earlier, sweep)
        sweep = resume.continued_sweep(earlier, sweep, extend=options.extend)
    with Display(quiet=options.quiet or options.json, log_format=options.log_format) as say:
        needed = earlier.sources.images if earlier is not None else ()
        inputs = read_inputs(sweep, skip_bad=options.skip_bad, needed=needed, on_read=say.read)
    check_new(inputs.sweep, inputs.cells[0 if earlier is None else len(earlier.cells) :])
    loaded = inputs.weights
    if earlier is not None and loaded.sha256 != (had := earlier.manifest["weights"].get("sha256")):
        raise JaxstyleError(
            "weights",
            f"{loaded.path} has sha256 {loaded.sha256} and {path} was begun with {had}; restore it",
        )
    had_images = {} if earlier is None else earlier.sources.images
    for image, sha256 in inputs.pictures.sha256.items():
        if sha256 != had_images.get(image, sha256):
            why = f"has sha256 {sha256} and {path} was begun with {had_images[image]}; restore it"
            raise JaxstyleError(image, why)
    before = {} if earlier is None else earlier.skipped
    skipped = {p: why for p, why in before.items() if p not in inputs.pictures.sha256} | {**inputs.skipped}
    return CheckedRun(
        inputs.sweep,
        inputs.cells,
        inputs.pictures,
        loaded,
        path,
        earlier,
        skipped=skipped,
        ignored=tuple(ignored),
    )
