"""The composition root: plan, targets, engine, store and report, wired once.

Also the Python API. Modules that need JAX are imported inside the functions that use them, after the
settings and the images have been checked.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import h5py
import numpy as np
from jaxtyping import UInt8

from jaxstyle import launches, planning, worker
from jaxstyle.console import signals
from jaxstyle.console.progress import Display, counted, duration
from jaxstyle.derived.build import Built, build_derived, finish, write_page
from jaxstyle.derived.sheets import sheet_paths
from jaxstyle.inputs import decode
from jaxstyle.launches import Inputs, timed
from jaxstyle.plan.chunks import Plan, to_record
from jaxstyle.plan.costs import nominal_platform, uses_winograd
from jaxstyle.plan.programs import Program
from jaxstyle.planning import Planned, describe, describe_text, devices, share_of, start_jax
from jaxstyle.rundir import chunks, directory, locks, manifest, resume
from jaxstyle.rundir.checkpoints import Checkpoint
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.files import check_space, dataset, lacks_locks, open_h5
from jaxstyle.rundir.fingerprints import SCHEMA
from jaxstyle.rundir.image_files import image_name, image_step, write_images
from jaxstyle.rundir.locks import DirectoryInUse
from jaxstyle.rundir.records import Record, open_record
from jaxstyle.rundir.results_csv import Rows, read_rows
from jaxstyle.spec import paths, plugins
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.moved import files
from jaxstyle.spec.options import Share, asked_share, check_options, run_share
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import RunOptions, Sweep
from jaxstyle.spec.toml import to_toml
from jaxstyle.spec.values import style_set
from jaxstyle.worker import Committed, Work

if TYPE_CHECKING:
    import xarray

TIMERS = (
    "compile_s",
    "targets_s",
    "compute_s",
    "lost_s",
    "host_s",
    "checkpoint_s",
    "store_s",
    "wait_s",
    "report_s",
)
"""Timers of the stages of a run. `store_s` runs beside the computation, and `wait_s` is the time that waits
for it; `lost_s` is the computing that was lost because memory ran out."""
HOST_WORK = ("host_s", "checkpoint_s", "store_s", "report_s")
"""Timers of work on the host: putting launches together, writing states and chunks, tables and sheets."""


@dataclass(frozen=True)
class Run:
    """A finished run, or one that was opened."""

    path: Path
    rows: Rows
    """The rows of `results.csv`: like a list, with a dictionary per cell."""
    sheets: list[Path]
    """Its contact sheets."""

    @property
    def diverged(self) -> int:
        """Number of cells that diverged."""
        return int(self.rows.diverged.sum())

    @property
    def exit_code(self) -> int:
        """0 if every cell is done, 1 if some diverged."""
        return 1 if self.diverged else 0

    @functools.cached_property
    def _losses(self) -> tuple[str, ...]:
        """The names of its loss curves."""
        return tuple(open_record(self.path).losses)

    def _row(self, cell: int) -> dict[str, Any]:
        found = self.rows.find(cell)
        if found is None:
            raise JaxstyleError(
                str(self.path), f"has no cell {cell}; it has {counted(len(self.rows), 'cell')}"
            )
        return found

    def image(self, cell: int, step: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
        """A picture of a cell, RGB.

        Args:
            cell: its number.
            step: the snapshot to take, one of the `steps` of the sweep; None for the final picture.

        Raises:
            JaxstyleError: if there is no such cell or snapshot.
        """
        row = self._row(cell)
        last = int(row["steps"])
        path = self.path / (row["image"] if step is None else image_name(cell, step, last))
        if step is not None and not path.exists():
            named = (image_step(p.name) for p in path.parent.glob(f"{cell:06d}-step*.png"))
            steps = [*sorted(n for n in named if n is not None), last]
            raise JaxstyleError(
                str(self.path),
                f"cell {cell} has no picture after {step} steps; it has {' and '.join(map(str, steps))}",
            )
        return decode.read(str(path)).pixels

    def losses(self, cell: int) -> dict[str, np.ndarray]:
        """The loss curves of a cell: float32 arrays over the steps that are in `step`.

        `loss_total`, `loss_content`, `loss_style` and those of plugins, and E_l of each of its own style
        layers under the layer's name. Where the cell had diverged they are NaN.

        Raises:
            JaxstyleError: if there is no such cell, or no `results.h5` yet.
        """
        row = self._row(cell)
        own = [name for name, _ in style_set(row["style_layers"])]
        with self._results() as file:
            group = file[f"{row['height']}x{row['width']}"]
            assert isinstance(group, h5py.Group)
            (at,) = np.flatnonzero(dataset(group, "cell")[()] == cell)
            names = [name.decode() for name in dataset(group, "layer")[()]]
            layers = dataset(group, "style_layer_loss")[at]
            found = {"step": dataset(group, "step")[()]}
            found |= {name: dataset(group, name)[at] for name in self._losses}
            return found | {name: layers[:, names.index(name)] for name in own}

    def dataset(self, shape: str | None = None) -> xarray.Dataset:
        """All cells of one image shape, read from `results.h5` as they are used; close it after use.

        Its axes are coordinates of the dimension `cell`: `data["loss_total"].groupby("alpha_beta")`.

        Args:
            shape: `HxW`, such as `192x256`; needed only where a run has several.

        Raises:
            JaxstyleError: without xarray, for a shape that the run does not have, or without `results.h5`.
        """
        try:
            import xarray
        except ImportError:
            raise JaxstyleError(
                "xarray", "is not installed; pip install 'jaxstyle[analysis]', or read results.h5 with h5py"
            ) from None
        with self._results() as file:
            shapes = sorted(map(str, file))
        if shape is None and len(shapes) > 1:
            raise JaxstyleError(str(self.path), f"has pictures of {' and '.join(shapes)}; name one of them")
        if shape is not None and shape not in shapes:
            raise JaxstyleError(
                str(self.path), f"has no pictures of {shape}; it has {' and '.join(shapes)}"
            )
        path, group = self.path / "results.h5", shape or shapes[0]
        try:
            return xarray.open_dataset(path, group=group, engine="h5netcdf")
        except OSError as error:  # as in `files.open_h5`
            if not lacks_locks(error):
                raise
            without = {"locking": False}
            return xarray.open_dataset(path, group=group, engine="h5netcdf", driver_kwds=without)

    def _results(self) -> h5py.File:
        path = self.path / "results.h5"
        if not path.is_file():
            mend = f"python -m jaxstyle.report {shlex.quote(str(self.path))} makes it from the chunks there"
            raise JaxstyleError(str(path), f"is not there yet; {mend}")
        return open_h5(path)


# --- before a run ---------------------------------------------------------------------------------


def dry_run(sweep: Sweep, options: RunOptions, *, name: str = "sweep") -> None:
    """Print the plan of a sweep, as text or with `options.json` as JSON, and write nothing.

    For a run that is continued, it is the plan of what is left.
    """
    options = check_options(options)
    plugins.load(options.plugin)
    checked = _check(sweep, options, name)
    earlier, share = checked.earlier, asked_share(options)
    device = start_jax(checked.sweep, options, earlier and earlier.manifest)
    before = earlier and earlier.plan
    # A cluster is not asked: its workers are assumed to be like this process's first device.
    several = (options.devices or 1) if options.cluster is not None else len(devices(options))
    sharing = several * (share.count if share is not None else 1)
    planned = replace(planning.plan_of(checked, device, before, devices=sharing), devices=several)
    todo = [chunk.number for chunk in planned.plan.chunks]
    if earlier is not None:
        there = {int(path.stem) for path in earlier.chunk_paths if _is_sound(earlier, path)}
        todo = [number for number in todo if number not in there]
    if share is not None:
        own = set(share_of(planned.plan, share, device.platform))
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
class _Checked(Inputs):
    """The inputs of a run that has passed all checks."""

    path: Path
    earlier: Record | None
    """The record of the run so far, if it is continued or extended."""


def _check(sweep: Sweep, options: RunOptions, name: str) -> _Checked:
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
    among = files(sweep)
    earlier = resume.find(path, beside=beside, no_lock=options.no_lock, among=among) if goes_on else None
    if earlier is None:
        directory.check_free(path, beside=beside, no_lock=options.no_lock)
    else:
        directory.check_writable(path, *(() if beside else ("events.jsonl",)))
    return _read(sweep, path, earlier, extend=options.extend)


def _read(sweep: Sweep, path: Path, earlier: Record | None, *, extend: bool = False) -> _Checked:
    """The checked inputs of a run, joined with the sweep of `earlier` if there is one."""
    if earlier is not None:
        sweep = resume.continued_sweep(earlier, sweep, extend=extend)
    inputs = launches.read_inputs(sweep)
    loaded = inputs.weights
    if earlier is not None and loaded.sha256 != (had := earlier.manifest["weights"].get("sha256")):
        raise JaxstyleError(
            "weights",
            f"{loaded.path} has sha256 {loaded.sha256} and {path} was begun with {had}; restore it",
        )
    return _Checked(sweep, inputs.cells, inputs.pictures, loaded, path, earlier)


# --- sites ----------------------------------------------------------------------------------------


@runtime_checkable
class Site(Protocol):
    """A place to plan and compute a run: the devices of this process, or a cluster."""

    def start(self, sweep: Sweep, before: Mapping[str, Any]) -> dict[str, Any]:
        """Get ready for a sweep, as the manifest `before` says if not empty; return `manifest.machine`."""
        ...

    def plan(self, inputs: Inputs, before: Plan | None, width: int | None = None) -> tuple[Sweep, Planned]:
        """The sweep with everything measured, and its plan. Raises JaxstyleError if it cannot be run."""
        ...

    def compute(self, work: Work) -> None:
        """Compute all of the work."""
        ...


class _Here:
    """The devices of this process, as a `Site`.

    Args:
        options: options of the run.
        shares: number of processes like this one that share the run.
    """

    def __init__(self, options: RunOptions, shares: int = 1):
        self._options, self._shares = options, shares
        self._devices: tuple[Any, ...] = ()

    def start(self, sweep: Sweep, before: Mapping[str, Any]) -> dict[str, Any]:
        """Start JAX."""
        start_jax(sweep, self._options, before)
        self._devices = devices(self._options)
        return manifest.machine(self._devices)

    def plan(self, inputs: Inputs, before: Plan | None, width: int | None = None) -> tuple[Sweep, Planned]:
        """Plan on the first device."""
        return planning.measured_plan(inputs, self._devices, before, width=width, shares=self._shares)

    def compute(self, work: Work) -> None:
        """Compute on all devices."""
        worker.compute(work, self._devices)


# --- a run ----------------------------------------------------------------------------------------


def run_sweep(
    sweep: Sweep, options: RunOptions | None = None, *, name: str = "sweep", width: int | None = None
) -> Run:
    """Compute every cell of a sweep, or a share of it, and leave a run directory.

    Args:
        sweep: the grid and its settings.
        options: where to write and what to print.
        name: name of a fresh directory under `runs/`, without its number.
        width: cells per launch of a new run; None to plan them by the device's memory.

    Returns:
        The run, or for a share its own cells; `Run.exit_code` is 1 if some of them diverged.

    Raises:
        JaxstyleError: for bad settings or input, before anything is written, or a full disk.
        signals.Interrupted: in a command, for a signal; what was computed has been kept.
    """
    options = check_options(options or RunOptions())
    plugins.load(options.plugin)
    checked, share = _check(sweep, options, name), asked_share(options)
    path, earlier = checked.path, checked.earlier
    try:
        if share is not None:
            return _run_share(checked, options, share, width)
        with _site(options) as site:
            if earlier is None:
                machine = site.start(checked.sweep, {})
                checked, planned = _planned(site, checked, None, width)
                check_space(path, planned.plan.result_bytes())
                with RunDirectory(path, create=True, no_lock=options.no_lock, fresh=not options.out) as run:
                    path = run.path  # a new one, if another process has taken its number meanwhile
                    checked = replace(checked, path=path)
                    with _display(options, path) as display:
                        return _Job(checked, planned, machine, run, display).execute(site)
            with RunDirectory(path, no_lock=options.no_lock) as run, _display(options, path) as display:
                # Read it again, now that nobody else works in it.
                now = open_record(path, among=files(checked.sweep))
                if now.cells != earlier.cells:
                    raise JaxstyleError(str(path), "has been extended meanwhile; give the command again")
                return _go_on(replace(checked, earlier=now), options, site, run, display)
    except signals.Interrupted as stop:
        begun = (path / "manifest.json").exists()
        mend = f"go on with --resume --out {shlex.quote(str(path))}" if begun else ""
        if share is not None:
            mend = "give the same command again"
        raise signals.Interrupted(stop.number, mend) from None


@contextlib.contextmanager
def _site(options: RunOptions) -> Iterator[Site]:
    if options.cluster is None:
        yield _Here(options)
        return
    try:
        from jaxstyle import cluster
    except ImportError as error:
        if error.name != "ray":
            raise
        raise JaxstyleError("cluster", "Ray is not installed; pip install 'jaxstyle[cluster]'") from None
    with cluster.Cluster(options) as site:
        yield site


def _planned(
    site: Site, checked: _Checked, before: Plan | None, width: int | None = None
) -> tuple[_Checked, Planned]:
    """The run with every relative number measured, and its plan."""
    sweep, planned = site.plan(checked, before, width)
    if sweep is not checked.sweep:
        checked = replace(checked, sweep=sweep, cells=planned.plan.cells)
    return checked, planned


def _display(options: RunOptions, path: Path, events: str = "events.jsonl") -> Display:
    return Display(quiet=options.quiet, log_format=options.log_format, events=path / events)


def _go_on(checked: _Checked, options: RunOptions, site: Site, run: RunDirectory, display: Display) -> Run:
    """Compute what a run lacks, and rebuild its derived files; JAX starts only if a chunk is missing."""
    assert checked.earlier is not None
    before, was = checked.earlier.plan, checked.earlier.manifest
    extended = len(checked.cells) > len(before.cells)
    there, before = _whole_chunks(checked, before, run, display)
    if len(there) == len(before.chunks) and not extended:
        display.event("resume", f"every cell of {run.path} is done", finished=len(there), left=0)
        _keep_places(checked, run)
        return _say_sheets(finish(run), display)
    if options.extend and len(there) < len(before.chunks):
        raise JaxstyleError(str(run.path), "is not done; --resume it before you extend it")
    machine = site.start(checked.sweep, was)
    _check_platform(run.path, was, machine)
    checked, planned = _planned(site, checked, before)
    todo = planned.plan.only(set(range(len(planned.plan.chunks))) - there)
    check_space(run.path, todo.result_bytes())
    display.event(
        "resume",
        f"going on with {run.path}: {counted(len(there), 'chunk')} of {len(planned.plan.chunks)} done",
        finished=len(there),
        left=len(todo.chunks),
    )
    _say_changes(was, machine, display)
    return _Job(checked, planned, machine, run, display, finished=there).execute(site)


def _keep_places(checked: _Checked, run: RunDirectory) -> None:
    """Record the new places of a run's files that have moved, though nothing is left to compute."""
    record = checked.earlier
    if record is None or not record.moved:
        return
    images = {
        record.file(path): {**about, "place": paths.spelled(record.file(path), run.path)}
        for path, about in record.manifest["images"].items()
    }
    given: dict[str, dict[str, str]] = {}
    for (axis, path), text in record.texts.items():
        given.setdefault(axis, {})[path] = text
    about = {"images": images, "given": given, "directory": os.path.abspath(run.path)}
    run.write("manifest.json", manifest.text({**record.manifest, **about}))
    digests = dict(checked.pictures.sha256)
    if checked.sweep.weights is not None:
        digests[checked.weights.path] = checked.weights.sha256
    run.write("spec.toml", to_toml(checked.sweep, digests, run=run.path))


def _whole_chunks(
    checked: _Checked, plan: Plan, run: RunDirectory, display: Display, own: Collection[int] | None = None
) -> tuple[set[int], Plan]:
    """Numbers of the whole chunks of a run, or of those in `own`, and the plan with their widths.

    Pictures of theirs that are missing are written.
    """
    assert checked.earlier is not None
    there: dict[int, Program] = {}
    listed = checked.earlier.manifest.get("chunks_sha256")
    for number, program, results in resume.whole_chunks(checked.sources, plan, run, display, own, listed):
        there[number] = program
        Checkpoint(run, number, "").clear()  # left by a process that was killed before it could do so
        for result in results:
            write_images(run, result, missing=True)
    return set(there), plan.assigned(there)


def _check_platform(path: Path, was: Mapping[str, Any], machine: Mapping[str, Any]) -> None:
    had, has = was["device"].get("platform", "?"), machine["device"]["platform"]
    if had != has:
        raise JaxstyleError(str(path), f"was begun on a {had} and this is a {has}; start a new run")


def _say_changes(was: Mapping[str, Any], machine: Mapping[str, Any], display: Display) -> None:
    for change in manifest.changes(was, machine):
        display.event("note", f"{change}: the last bits of what is left may differ")


def _say_sheets(built: Built, display: Display) -> Run:
    for sheet in built.sheets:
        display.event("sheet", f"contact sheet: {sheet}", path=str(sheet))
    return Run(built.record.path, built.rows, built.sheets)


def _run_share(checked: _Checked, options: RunOptions, share: Share, width: int | None) -> Run:
    """Compute a share of a run; the first process plans the run, and the last one merges it."""
    path, site, machine = checked.path, _Here(options, shares=share.count), None
    say = Display(quiet=options.quiet, log_format=options.log_format)
    with contextlib.ExitStack() as stack:
        with RunDirectory(
            path, create=True, briefly=True, on_wait=_say_wait(say), no_lock=options.no_lock
        ) as run:
            stack.enter_context(locks.share_held(path, share, no_lock=run.no_lock))
            among = files(checked.sweep)
            if checked.earlier is None and (now := resume.find(path, beside=True, among=among)) is not None:
                checked = _read(checked.sweep, path, now)  # another process has planned it meanwhile
            if checked.earlier is None:
                say.event("planning", f"planning {path}", path=str(path))
                machine = site.start(checked.sweep, {})
                checked, planned = _planned(site, checked, None, width)
                try:
                    _check_share(planned.plan, share, machine["device"]["platform"])
                except JaxstyleError:
                    run.discard(share)
                    raise
                check_space(path, planned.plan.result_bytes())
                _Job(checked, planned, machine, run, Display(quiet=True)).begin()
            checked = replace(checked, earlier=open_record(path, among=among))
        assert checked.earlier is not None
        if len(checked.earlier.cells) != len(checked.cells):
            raise JaxstyleError(str(path), "has been extended meanwhile; give the command again")
        was, before = checked.earlier.manifest, checked.earlier.plan
        display = stack.enter_context(_display(options, path, locks.share_events(share)))
        if len(before.cells) != len(checked.cells):
            raise JaxstyleError(
                str(path), "was being extended and has no plan for the new cells; --resume the whole run"
            )
        own = share_of(before, share, was["device"]["platform"])
        there, before = _whole_chunks(checked, before, run, display, own)
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
                _check_platform(path, was, machine)
            _say_changes(was, machine, display)
            checked, planned = _planned(site, checked, before)
            others = set(range(len(before.chunks))) - set(own)
            job = _Job(checked, planned, machine, run, display, finished=others | there, share=share)
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


def _check_share(plan: Plan, share: Share, platform: str) -> None:
    """Raise JaxstyleError if the first process of a run has nothing to compute.

    Nobody else is at work in the run, and others may never come: for example, if every task of an array
    has a run of its own.
    """
    if not share_of(plan, share, platform):
        there = counted(len(plan.chunks), "chunk")
        raise JaxstyleError(
            "shard",
            f"{share} has nothing to do: the run has {there}, and nobody else is at work in it; give at"
            f" most {counted(len(plan.chunks), 'share')}, or leave --shard out for a run of its own",
        )


def _end_share(checked: _Checked, options: RunOptions, share: Share, own: Collection[int]) -> Run:
    """End a share that is done, merging the run if it is the last one; return the share's cells."""
    path, say = checked.path, Display(quiet=options.quiet, log_format=options.log_format)
    try:
        with (
            RunDirectory(path, briefly=True, on_wait=_say_wait(say), no_lock=options.no_lock) as run,
            _display(options, path) as display,
        ):
            _merge_if_last(run, display, share)
    except DirectoryInUse as error:
        line = f"share {share} is done; {error}: whoever is at work there merges"
        say.event("share-done", line.replace("; wait, or give another --out", ""), share=str(share))
    record = open_record(path)
    names = {chunks.chunk_name(number) for number in own}
    done = tuple(p for p in record.chunk_paths if str(p.relative_to(path)) in names)
    return Run(path, read_rows(replace(record, chunk_paths=done)), sheet_paths(path))


def _merge_if_last(run: RunDirectory, display: Display, share: Share) -> None:
    path, record = run.path, open_record(run.path)
    if not manifest.is_complete(record):
        left = len(record.manifest["plan"]["chunks"]) - len(record.chunk_paths)
        mend = f"python -m jaxstyle.report {shlex.quote(str(path))}"
        line = (
            f"share {share} is done, {counted(left, 'chunk')} of others are not;"
            f" for a report of what there is: {mend}"
        )
        display.event("share-done", line, share=str(share), left=left)
    elif not run.no_lock and (at_work := locks.shares_at_work(path)):
        # that one merges, so that its own report is in the manifest
        line = f"share {share} is done; {at_work[0]}, merges"
        display.event("share-done", line, share=str(share), left=0)
    elif record.manifest["status"] != "done":
        result = _say_sheets(finish(run), display)
        line = f"all shares are done: {counted(len(result.rows), 'cell')}, {path / 'report.html'}"
        display.event("done", line, cells=len(result.rows), diverged=result.diverged, path=str(path))


def _say_wait(display: Display) -> Callable[[str], None]:
    def say(who: str) -> None:
        display.event("waiting", f"waiting for {who}, which plans or merges")

    return say


def open_run(path: str | os.PathLike[str]) -> Run:
    """The run in a directory: the cells that have been computed, and its contact sheets.

    Raises:
        JaxstyleError: if it holds no run.
    """
    record = open_record(Path(paths.at_home(os.fspath(path))))
    return Run(record.path, read_rows(record), sheet_paths(record.path))


class _Job:
    """A run in progress: its inputs, its plan and results, and how long each stage took.

    Args:
        checked: the inputs of the run.
        planned: its plan.
        machine: facts about the machine, from `manifest.machine`.
        run: its directory; the lock is held, except by a share.
        display: the display that reports it.
        finished: numbers of the chunks that are there already, or that others compute.
        share: the share of the run that is computed, if it is not all of it.
    """

    def __init__(
        self,
        checked: _Checked,
        planned: Planned,
        machine: dict[str, Any],
        run: RunDirectory,
        display: Display,
        *,
        finished: Collection[int] = (),
        share: Share | None = None,
    ):
        self.checked, self.planned, self.machine = checked, planned, machine
        self.sweep, self.pictures, self.loaded = checked.sweep, checked.pictures, checked.weights
        self.run, self.display, self.share = run, display, share
        self.platform = nominal_platform(machine["device"]["platform"])
        self.plan = planned.plan
        """The plan, at the widths for which there is memory."""
        self.todo = [chunk.number for chunk in planned.plan.chunks if chunk.number not in finished]
        self.seconds: dict[str, float] = dict.fromkeys(TIMERS, 0.0)
        self.programs: dict[Program, dict[str, Any]] = {}
        """Facts about each compiled program, for the manifest."""
        self.began = datetime.datetime.now(datetime.UTC)
        self.earlier = checked.earlier.manifest if checked.earlier else {}
        self.told = manifest.share_reports(run.path) if self.earlier and share is None else []
        """Reports of the shares that were at work in the run before."""
        self.id: str = self.earlier.get("id") or uuid.uuid4().hex
        listed = self.earlier.get("chunks_sha256", {})
        names = [chunks.chunk_name(number) for number in finished]
        self.chunks_sha256: dict[str, str] = {name: listed[name] for name in names if name in listed}
        """Digests of chunks: found whole, written by this process or, at the end, found there."""
        self.workers: dict[str, dict[str, Any]] = {}
        """Record of what each worker of a cluster has done, by its name."""

    def begin(self) -> None:
        """Write the spec and the manifest of what is to be done."""
        digests = dict(self.pictures.sha256)
        if self.sweep.weights is not None:
            digests[self.loaded.path] = self.loaded.sha256
        spec, earlier = to_toml(self.sweep, digests, run=self.run.path), self.checked.earlier
        if earlier is None or earlier.cells != self.checked.cells:
            self.run.write("spec.toml", spec)
        self._write_manifest("running")
        if earlier is not None and earlier.moved:  # last: the manifest serves the old spec too
            self.run.write("spec.toml", spec)

    def execute(self, site: Site) -> Run:
        """Compute all chunks, then build the files that are derived from them."""
        clock = time.perf_counter()
        self.begin()
        try:
            self.compute(site)
            with timed(self.seconds, "report_s"):
                built = build_derived(self.run, pictures=False, with_page=False)
                self.chunks_sha256 = manifest.chunk_digests(built.record, self.chunks_sha256)
        except signals.Interrupted:
            self._write_manifest("interrupted")
            raise
        result = Run(self.run.path, built.rows, built.sheets)
        self.seconds["wall_s"] = time.perf_counter() - clock
        self._write_manifest("done")
        write_page(self.run, built.rows)  # after the manifest, which it shows
        self._say_done(result)
        return result

    def compute(self, site: Site) -> None:
        """Announce what is to be done, and do it."""
        self._announce()
        left = self.plan.only(self.todo)

        def start() -> None:
            steps = left.image_steps + left.coarse_image_steps
            self.display.start(image_steps=steps, cells=sum(len(chunk.cells) for chunk in left.chunks))

        try:
            self._compute(site, start)
            self.display.finish()
        finally:
            if self.share is not None:  # the time of a process that is interrupted counts too
                spent = {name: round(value, 3) for name, value in self.seconds.items()}
                self.display.event("share-timings", timings=spent, machine=self.machine)

    def _compute(self, site: Site, start: Callable[[], None]) -> None:
        site.compute(
            Work(
                inputs=self.checked,
                plan=self.plan,
                todo=self.todo,
                run=self.run,
                run_id=self.id,
                display=self.display,
                seconds=self.seconds,
                start=start,
                on_plan=self._on_plan,
                on_program=self._on_program,
                on_commit=self._on_commit,
                workers=self.workers,
            )
        )

    def _announce(self) -> None:
        say = self.display
        left = replace(self.planned, plan=self.plan.only(self.todo))
        values = describe(left, self.platform, self.sweep.checkpoint_every, self._device)
        say.event("plan", "\n".join(describe_text(values)), **values)
        if self.planned.note:
            say.event("note", self.planned.note)
        for path, notes in self.pictures.notes.items():
            say.event("note", f"{path}: {', '.join(notes)}", path=path, notes=notes)
        if self.loaded.origin == "unknown":
            say.event("note", f"{self.loaded.path}: weights with a digest that jaxstyle does not know")
        if self.sweep.network == "normalised" and self.sweep.optimizer == "adam" and self.sweep.beta < 1e4:
            # Their root mean square is 5e-9 to 7e-7 at beta 1, and falls while a picture is optimised.
            say.event(
                "note", "the normalised network's gradients come near Adam's epsilon, 1e-8; try --beta 1e6"
            )

    def _on_plan(self, plan: Plan) -> None:
        self.plan = plan

    def _on_program(self, program: Program, stages: Sequence[Mapping[str, Any]]) -> None:
        about = manifest.program(program, stages)
        if self.programs.get(program) == about:
            return
        self.programs[program] = about
        self.display.event("program", **about)
        if self.share is None:
            self._write_manifest("running")

    def _on_commit(self, chunk: Committed) -> None:
        """Take note of a chunk that is on the disk, and report it."""
        number = chunk.number
        if chunk.program != self.plan.programs[self.plan.chunks[number].program]:
            self.plan = self.plan.assigned({number: chunk.program})
            if self.share is None:
                self._write_manifest("running")
        self.chunks_sha256[chunks.chunk_name(number)] = chunk.sha256
        cells = self.plan.chunks[number].cells
        self.display.cells_done(len(cells))
        self.display.event("chunk", chunk=number, cells=list(cells))
        for cell, step in chunk.diverged:
            self.display.event("diverged", f"cell {cell} diverged at step {step}", cell=cell, step=step)

    @property
    def _device(self) -> str:
        """The devices that compute, in words."""
        about, threads = self.machine["device"], self.machine["threads"]
        return manifest.device_text(about["platform"], about["kind"], self.planned.devices, threads)

    @property
    def _rate(self) -> float:
        """Image-steps per second of computing, of all workers of a cluster together."""
        return self.display.steps_done * max(1, len(self.workers)) / max(self.seconds["compute_s"], 1e-9)

    def _write_manifest(self, status: str) -> None:
        plan = self.plan
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        if "wall_s" in seconds:
            host_s = sum(seconds.get(name, 0.0) for name in HOST_WORK) / max(1, len(self.workers))
            seconds["host_share"] = round(host_s / seconds["wall_s"], 4)
        if self.seconds["compute_s"]:
            seconds["image_steps_per_s"] = round(self._rate, 3)
        programs: dict[int, dict[str, Any]] = {p["index"]: p for p in self.earlier.get("programs", ())}
        for index, program in enumerate(plan.programs):
            if program in self.programs:
                programs[index] = {"index": index, **self.programs[program]}
        values = {
            "schema": SCHEMA,
            "id": self.id,
            "status": status,
            "began": self.began.isoformat(timespec="seconds"),
            "command": sys.argv,
            "directory": os.path.abspath(self.run.path),
            "locking": "none" if self.run.no_lock else "flock",
            **self.machine,
            "precision": self.sweep.precision,
            "deterministic": self.sweep.deterministic,
            "convolution": "winograd" if uses_winograd(self.sweep, self.platform) else "xla",
            "prng": "threefry2x32",
            "resampling": "Pillow LANCZOS in uint8 sRGB",
            "weights": {
                "path": self.loaded.path,
                "sha256": self.loaded.sha256,
                "origin": self.loaded.origin,
            },
            "images": {
                path: {
                    "place": paths.spelled(path, self.run.path),
                    "sha256": digest,
                    "pixels_sha256": self.pictures.pixels_sha256[path],
                    "notes": self.pictures.notes.get(path, ()),
                }
                for path, digest in self.pictures.sha256.items()
            },
            "given": _given(self.sweep),
            **({"plugins": plugins.record(self.sweep)} if self.sweep.plugins else {}),
            "plan": {
                "cells": len(plan.cells),
                "image_steps": plan.image_steps,
                "coarse_image_steps": round(plan.coarse_image_steps, 3),
                "flops": plan.flops,
                "twins": _twins(plan),
                **to_record(plan),
            },
            "programs": [
                programs[index] | {"cells": plan.program_cells(index)} for index in sorted(programs)
            ],
            "chunks_sha256": dict(sorted(self.chunks_sha256.items())),
            "timings": seconds,
            **({"workers": self.workers} if self.workers else {}),
            "before": manifest.earlier_processes(self.earlier),
        }
        self.run.write("manifest.json", manifest.text(manifest.with_shares(values, self.told)))

    def _say_done(self, result: Run) -> None:
        spent, rate = self.seconds, self._rate
        self.display.event(
            "done",
            f"{counted(len(result.rows), 'cell')} in {duration(spent['wall_s'])}"
            f" (compiling {duration(spent['compile_s'])}) on {self._device}: {rate:.2f} image-steps/s"
            + (f", {result.diverged} diverged" if result.diverged else "")
            + f"\nresults: {self.run.path / 'results.csv'}"
            + f"\nthe run as a page: {self.run.path / 'report.html'}",
            cells=len(result.rows),
            diverged=result.diverged,
            device=self._device,
            path=str(self.run.path),
            **{name: round(value, 3) for name, value in spent.items()},
        )
        for sheet in result.sheets:
            self.display.event("sheet", f"contact sheet: {sheet}", path=str(sheet))


def _twins(plan: Plan) -> dict[str, list[int]]:
    """Cells that get another one's result, by the number of the cell that is computed."""
    found: dict[str, list[int]] = {}
    for cell, of in sorted(plan.twins.items()):
        found.setdefault(str(of), []).append(cell)
    return found


def _given(sweep: Sweep) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for (axis, path), text in sweep.given.items():
        found.setdefault(axis, {})[path] = text
    return found
