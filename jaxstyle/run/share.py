"""A share of a run, beside others that compute the rest."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from jaxstyle.console.progress import Display, counted
from jaxstyle.derived.build import finish_run
from jaxstyle.derived.sheets import sheet_paths
from jaxstyle.run.checked import CheckedRun, read_run
from jaxstyle.run.continued import keep_whole_chunks
from jaxstyle.run.finished import Run
from jaxstyle.run.job import (
    Job,
    check_platform,
    display_of,
    plan_at,
    run_of,
    say_changes,
    say_left_out,
    say_sheets,
)
from jaxstyle.run.planning import check_share, chunks_of_share
from jaxstyle.run.site import LocalSite
from jaxstyle.rundir import chunks, locks, manifest, resume
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.files import check_space
from jaxstyle.rundir.locks import DirectoryInUse
from jaxstyle.rundir.records import Record, open_record
from jaxstyle.rundir.results_csv import read_rows
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.moved_files import named_files
from jaxstyle.spec.settings import RunOptions
from jaxstyle.spec.shares import Share


def compute_share(checked: CheckedRun, options: RunOptions, share: Share, width: int | None) -> Run:
    """Compute a share of a run; the first process plans the run, and the last one merges it."""
    path, site, machine = checked.path, LocalSite(options, shares=share.count), None
    now: Record | None = None
    say = Display(quiet=options.quiet, log_format=options.log_format)
    with contextlib.ExitStack() as stack:
        with RunDirectory(
            path, create=True, briefly=True, on_wait=_say_wait(say), no_lock=options.no_lock
        ) as run:
            stack.enter_context(locks.share_held(path, share, no_lock=run.no_lock))
            among = named_files(checked.sweep)
            if checked.earlier is None:
                now = resume.find(path, beside=True, among=among)
            if checked.earlier is None and now is None:
                say.event("planning", f"planning {path}", path=str(path))
                try:
                    machine = site.start(checked.sweep, {})
                    checked, planned = plan_at(site, checked, None, width)
                    check_share(planned.plan, share, machine["device"]["platform"])
                    check_space(path, planned.plan.result_bytes(checked.sweep.crops))
                except JaxstyleError:
                    run.discard(share)
                    raise
                Job(checked, planned, machine, run, Display(quiet=True)).begin()
        if (
            now is not None
        ):  # another process has planned it meanwhile; no lock is held while images are read
            checked = read_run(checked.sweep, path, now, options)
        checked = replace(checked, earlier=open_record(path, among=among))
        assert checked.earlier is not None
        if len(checked.earlier.cells) != len(checked.cells):
            raise JaxstyleError(str(path), "has been extended meanwhile; give the command again")
        was, before = checked.earlier.manifest, checked.earlier.plan
        display = stack.enter_context(display_of(options, path, locks.share_events(share)))
        if len(before.cells) != len(checked.cells):
            raise JaxstyleError(
                str(path), "was being extended and has no plan for the new cells; --resume the whole run"
            )
        own = chunks_of_share(before, share, was["device"]["platform"])
        there, before = keep_whole_chunks(checked, before, run, display, own)
        done = f"{counted(len(own), 'chunk')} of {len(before.chunks)}, {len(there)} done"
        display.event("share", f"share {share} of {path} (by {share.of}): {done}", share=str(share))
        if len(there) < len(own):
            _unlist(
                path,
                {chunks.chunk_name(number) for number in own} - {*map(chunks.chunk_name, there)},
                say,
                options.no_lock,
            )
            if machine is None:
                machine = site.start(checked.sweep, was)
                check_platform(path, was, machine)
            say_changes(was, machine, display)
            checked, planned = plan_at(site, checked, before)
            others = set(range(len(before.chunks))) - set(own)
            job = Job(checked, planned, machine, run, display, finished=others | there, share=share)
            job.compute(site)
        stack.pop_all().close()  # let go of the share and its events: the rest concerns the whole run
    return _end_share(checked, options, share, own)


def _unlist(path: Path, names: Collection[str], display: Display, no_lock: bool) -> None:
    """Take chunks that are to be computed again out of the manifest of a run that was done."""
    if not {*names} & open_record(path).manifest.get("chunks_sha256", {}).keys():
        return
    with RunDirectory(path, briefly=True, on_wait=_say_wait(display), no_lock=no_lock) as run:
        values = open_record(path).manifest
        left = {name: digest for name, digest in values["chunks_sha256"].items() if name not in names}
        run.write("manifest.json", manifest.text({**values, "status": "running", "chunks_sha256": left}))


def _end_share(checked: CheckedRun, options: RunOptions, share: Share, own: Collection[int]) -> Run:
    """End a share that is done, merging the run if it is the last one; return the share's cells."""
    path, say = checked.path, Display(quiet=options.quiet, log_format=options.log_format)
    try:
        with (
            RunDirectory(path, briefly=True, on_wait=_say_wait(say), no_lock=options.no_lock) as run,
            display_of(options, path) as display,
        ):
            _merge_if_last(run, display, share)
    except DirectoryInUse as error:
        line = f"share {share} is done; {error}: whoever is at work there merges"
        say.event("share-done", line.replace(locks.UNTIL_FREE, ""), share=str(share))
    record = open_record(path)
    names = {chunks.chunk_name(number) for number in own}
    done = tuple(p for p in record.chunk_paths if str(p.relative_to(path)) in names)
    return Run(path, read_rows(replace(record, chunk_paths=done)), sheet_paths(path))


def _merge_if_last(run: RunDirectory, display: Display, share: Share) -> None:
    path, record = run.path, open_record(run.path)
    if not manifest.is_complete(record):
        left = len(record.manifest["plan"]["chunks"]) - len(record.chunk_paths)
        mend = f"python -m jaxstyle.report {shlex.quote(str(path))}"
        are = "is" if left == 1 else "are"
        line = (
            f"share {share} is done, {counted(left, 'chunk')} of others {are} not;"
            f" for a report of what there is: {mend}"
        )
        display.event("share-done", line, share=str(share), left=left)
    elif not run.no_lock and (at_work := locks.shares_at_work(path)):
        # that one merges, so that its own report is in the manifest
        line = f"share {share} is done; {at_work[0]}, merges"
        display.event("share-done", line, share=str(share), left=0)
    elif record.manifest["status"] != "done":
        built = finish_run(run)
        say_sheets(built.sheets, display)
        result = run_of(built)
        line = f"all shares are done: {counted(len(result.rows), 'cell')}, {path / 'report.html'}"
        display.event("done", line, cells=len(result.rows), diverged=result.diverged, path=str(path))
        say_left_out(record.skipped, display)


def _say_wait(display: Display) -> Callable[[str], None]:
    def say(who: str) -> None:
        display.event("waiting", f"waiting for {who}, which plans or merges")

    return say
