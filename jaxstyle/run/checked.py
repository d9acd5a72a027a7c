"""A run that nothing was found wrong with, and its plan without a run."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from jaxstyle.plan.costs import nominal_platform
from jaxstyle.run import planning
from jaxstyle.run.described import describe, describe_text
from jaxstyle.run.inputs import Inputs, read_inputs
from jaxstyle.run.planning import chunks_of_share
from jaxstyle.run.start import start_jax, usable_devices
from jaxstyle.rundir import directory, manifest, resume
from jaxstyle.rundir.records import Record
from jaxstyle.spec import paths, plugins
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.moved import named_files
from jaxstyle.spec.options import asked_share, check_options, run_share
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import RunOptions, Sweep


def dry_run(sweep: Sweep, options: RunOptions, *, name: str = "sweep") -> None:
    """Print the plan of a sweep, as text or with `options.json` as JSON, and write nothing.

    For a run that is continued, it is the plan of what is left.
    """
    options = check_options(options)
    plugins.load(options.plugin)
    checked = check(sweep, options, name)
    earlier, share = checked.earlier, asked_share(options)
    device = start_jax(checked.sweep, options, earlier and earlier.manifest)
    before = earlier and earlier.plan
    # A cluster is not asked: its workers are assumed to be like this process's first device.
    several = (options.devices or 1) if options.cluster is not None else len(usable_devices(options))
    sharing = several * (share.count if share is not None else 1)
    planned = replace(planning.plan_for(checked, device, before, devices=sharing), devices=several)
    todo = [chunk.number for chunk in planned.plan.chunks]
    if earlier is not None:
        there = {int(path.stem) for path in earlier.chunk_paths if _is_sound(earlier, path)}
        todo = [number for number in todo if number not in there]
    if share is not None:
        own = set(chunks_of_share(planned.plan, share, device.platform))
        todo = [number for number in todo if number in own]
    planned = replace(planned, plan=planned.plan.only(todo))
    note = planning.check_memory(planned, device)
    about = manifest.device_text(device.platform, device.device_kind, several, manifest.thread_count())
    kind = nominal_platform(device.platform)
    values = describe(planned, kind, checked.sweep.checkpoint_every, about)
    if options.json:
        print(json.dumps(values))
        return
    if not planned.plan.chunks:
        print(f"every cell of {checked.path} is done")
        return
    for line in describe_text(values):
        print(line)
    if note:
        print(note)
    print(f"would write {checked.path}")


def _is_sound(record: Record, path: Path) -> bool:
    """Whether a chunk file is sound, so that the run keeps it."""
    try:
        record.check(path)
    except JaxstyleError:
        return False
    return True


@dataclass(frozen=True)
class CheckedRun(Inputs):
    """The inputs of a run that has passed all checks."""

    path: Path
    earlier: Record | None
    """The record of the run so far, if it is continued or extended."""


def check(sweep: Sweep, options: RunOptions, name: str) -> CheckedRun:
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
    return read(sweep, path, earlier, extend=options.extend)


def read(sweep: Sweep, path: Path, earlier: Record | None, *, extend: bool = False) -> CheckedRun:
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
