"""A run that is resumed: what it has is kept, what it lacks computed."""

from __future__ import annotations

import os
from collections.abc import Collection

from jaxstyle.console.progress import Display, counted
from jaxstyle.derived.build import finish_run
from jaxstyle.plan.chunks import Plan
from jaxstyle.plan.programs import Program
from jaxstyle.run.checked import CheckedRun, check_extensible
from jaxstyle.run.finished import Run
from jaxstyle.run.inputs import picture_names
from jaxstyle.run.job import (
    Job,
    check_platform,
    given_entry,
    plan_at,
    run_of,
    say_changes,
    say_ignored,
    say_left_out,
    say_sheets,
    spec_text,
)
from jaxstyle.run.site import Site
from jaxstyle.rundir import manifest, resume
from jaxstyle.rundir.checkpoints import Checkpoint
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.files import check_space
from jaxstyle.rundir.image_files import write_images
from jaxstyle.spec import paths
from jaxstyle.spec.settings import RunOptions


def resume_run(
    checked: CheckedRun, options: RunOptions, site: Site, run: RunDirectory, display: Display
) -> Run:
    """Compute what a run lacks, and rebuild its derived files; JAX starts only if a chunk is missing."""
    assert checked.earlier is not None
    before, was = checked.earlier.plan, checked.earlier.manifest
    extended = len(checked.cells) > len(before.cells)
    there, before = keep_whole_chunks(checked, before, run, display)
    if len(there) == len(before.chunks) and not extended:
        display.event("resume", f"every cell of {run.path} is done", finished=len(there), left=0)
        _keep_places(checked, run)
        built = finish_run(run)
        say_ignored(checked, display)
        say_sheets(built.sheets, display)
        say_left_out(checked.skipped, display)
        return run_of(built)
    check_extensible(run.path, options, len(there), len(before.chunks))
    machine = site.start(checked.sweep, was)
    check_platform(run.path, was, machine)
    checked, planned = plan_at(site, checked, before)
    todo = planned.plan.only(set(range(len(planned.plan.chunks))) - there)
    check_space(run.path, todo.result_bytes(checked.sweep.crops))
    display.event(
        "resume",
        f"going on with {run.path}: {counted(len(there), 'chunk')} of {len(planned.plan.chunks)} done",
        finished=len(there),
        left=len(todo.chunks),
    )
    say_changes(was, machine, display)
    return Job(checked, planned, machine, run, display, finished=there).execute(site)


def _keep_places(checked: CheckedRun, run: RunDirectory) -> None:
    """Record the new places of a run's files that have moved, though nothing is left to compute."""
    record = checked.earlier
    if record is None or not record.moved:
        return
    images = {
        record.file(path): {**about, "place": paths.spelled(record.file(path), run.path)}
        for path, about in record.manifest["images"].items()
    }
    given, directory = given_entry(record.texts), os.path.abspath(run.path)
    about = {"images": images, "given": given, "directory": directory}
    run.write("manifest.json", manifest.text({**record.manifest, **about}))
    run.write("spec.toml", spec_text(checked, run))


def keep_whole_chunks(
    checked: CheckedRun, plan: Plan, run: RunDirectory, display: Display, own: Collection[int] | None = None
) -> tuple[set[int], Plan]:
    """Numbers of the whole chunks of a run, or of those in `own`, and the plan with their widths.

    Pictures of theirs that are missing are written.
    """
    assert checked.earlier is not None
    there: dict[int, Program] = {}
    listed = checked.earlier.manifest.get("chunks_sha256")
    names = picture_names(checked)
    for number, program, results in resume.whole_chunks(checked.sources, plan, run, display, own, listed):
        there[number] = program
        Checkpoint(run, number, "").clear()  # left by a process that was killed before it could do so
        for result in results:
            write_images(run, result, names, missing=True)
    return set(there), plan.assigned(there)
