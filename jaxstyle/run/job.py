"""A run in progress: its plan, its manifest and its events, from the first chunk to the last sheet."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxstyle.console.progress import Display, counted, duration
from jaxstyle.console.time_left import Estimate
from jaxstyle.derived.build import Built, build_derived, write_page
from jaxstyle.inputs.region_maps import RegionMaps
from jaxstyle.plan.chunks import Plan, plan_record
from jaxstyle.plan.nominal_rates import nominal_platform, uses_winograd
from jaxstyle.plan.programs import Program
from jaxstyle.run.checked import CheckedRun
from jaxstyle.run.dry_run import describe, describe_text, space_note
from jaxstyle.run.finished import Run
from jaxstyle.run.inputs import unused_words
from jaxstyle.run.launcher import timed
from jaxstyle.run.planning import Planned
from jaxstyle.run.site import LocalSite, Site
from jaxstyle.run.work import Committed, Work
from jaxstyle.rundir import chunks, manifest
from jaxstyle.rundir.checkpoints import clear_others
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.fingerprints import SCHEMA
from jaxstyle.rundir.regions_h5 import FILE, regions_bytes
from jaxstyle.rundir.results_csv import Rows
from jaxstyle.spec import paths, plugins
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import RunOptions
from jaxstyle.spec.shares import Share
from jaxstyle.spec.toml import to_toml
from jaxstyle.spec.values import NONE

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
BURST = 1.5
"""Ratio of the loss of a picture to the lowest of its steps from which it is reported."""
MAX_NAMED = 20
"""The most images that the last line of a run names."""
HOST_WORK = ("host_s", "checkpoint_s", "store_s", "report_s")
"""Timers of work on the host: putting launches together, writing states and chunks, tables and sheets."""


def plan_at(
    site: Site, checked: CheckedRun, before: Plan | None, width: int | None = None
) -> tuple[CheckedRun, Planned]:
    """The run with every relative number measured, and its plan."""
    sweep, planned = site.plan(checked, before, width)
    if sweep is not checked.sweep:
        checked = replace(checked, sweep=sweep, cells=planned.plan.cells)
    return checked, planned


def display_of(options: RunOptions, path: Path, events: str = "events.jsonl") -> Display:
    """The display of a run, which writes its events into the file `events`."""
    also = [Path(paths.at_home(options.events))] if options.events else []
    try:
        return Display(quiet=options.quiet, log_format=options.log_format, events=[path / events, *also])
    except OSError as error:
        if not also or error.filename != str(also[0]):
            raise
        raise JaxstyleError("events", f"{also[0]} cannot be written: {error.strerror}") from None


def check_platform(path: Path, was: Mapping[str, Any], machine: Mapping[str, Any]) -> None:
    """Raise JaxstyleError if a run was begun on devices of another kind."""
    had, has = was["device"].get("platform", "?"), machine["device"]["platform"]
    if had != has:
        raise JaxstyleError(str(path), f"was begun on a {had} and this is a {has}; start a new run")


def say_changes(was: Mapping[str, Any], machine: Mapping[str, Any], display: Display) -> None:
    """Report each difference of the machine that may change last bits."""
    for change in manifest.changes(was, machine):
        display.event("note", f"{change}: the last bits of what is left may differ")


def say_sheets(sheets: Sequence[Path], display: Display) -> None:
    """Report the contact sheets of a run that was built."""
    for sheet in sheets:
        display.event("sheet", f"contact sheet: {sheet}", path=str(sheet))


def say_bursts(rows: Rows, display: Display) -> None:
    """Report cells whose loss had been much lower: Adam at a constant rate has bursts, some at the end."""
    above = np.where(rows.diverged, 1.0, rows.above_best)
    ended = np.flatnonzero(above >= BURST)
    if len(ended):
        worst = int(ended[np.argmax(above[ended])])
        line = (
            f"{counted(len(ended), 'cell')} ended at {BURST:g} times the lowest loss of its steps or more,"
            f" cell {rows.cell[worst]} at {above[worst]:.3g} times;"
            " --keep best saves the picture of the lowest"
        )
        display.event("note", line, cells=rows.cell[ended].tolist())


def say_ignored(checked: CheckedRun, display: Display) -> None:
    """Report the images of folders that a run does not have, as it is of the images that it began with."""
    if checked.ignored:
        first, count = checked.ignored[0], len(checked.ignored)
        are = "is" if count == 1 else "are"
        line = f"{counted(count, 'image')} of its folders {are} not in this run, such as {first}"
        display.event("note", f"{line}; --extend adds them", images=list(checked.ignored))


def say_left_out(skipped: Mapping[str, str], display: Display) -> None:
    """Name the images that were left out, with the reasons, on the last line of a run."""
    if skipped:
        named = [f"{path} ({why})" for path, why in skipped.items()]
        more = (
            f" and {len(named) - MAX_NAMED} more, which manifest.json names"
            if len(named) > MAX_NAMED
            else ""
        )
        line = f"left out: {', '.join(named[:MAX_NAMED])}{more}"
        display.event("left-out", line, images=dict(skipped))


def run_of(built: Built) -> Run:
    """The run whose derived files were built."""
    return Run(built.record.path, built.rows, built.sheets)


def spec_text(checked: CheckedRun, run: RunDirectory) -> str:
    """The text of a run's `spec.toml`, with the digests of its images and of weights that it names."""
    digests = dict(checked.pictures.sha256)
    if checked.sweep.weights is not None:
        digests[checked.weights.path] = checked.weights.sha256
    return to_toml(checked.sweep, digests, run=run.path)


def given_entry(given: Mapping[tuple[str, str], str]) -> dict[str, dict[str, str]]:
    """The manifest's entry on the texts by which the user named images, by axis and path."""
    found: dict[str, dict[str, str]] = {}
    for (axis, path), text in given.items():
        found.setdefault(axis, {})[path] = text
    return found


class Job:
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
        checked: CheckedRun,
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
        earlier, spec = self.checked.earlier, spec_text(self.checked, self.run)
        if earlier is None or earlier.cells != self.checked.cells:
            self.run.write("spec.toml", spec)
        self._write_manifest("running")
        if any(cell.regions != NONE for cell in self.checked.cells):
            given = self.sweep.given
            text = lambda axis, path: given.get((axis, path), path)  # noqa: E731
            self.run.write(FILE, regions_bytes(self.checked.cells, RegionMaps(self.pictures), text))
        if earlier is not None and earlier.moved:  # last: the manifest serves the old spec too
            self.run.write("spec.toml", spec)

    def execute(self, site: Site) -> Run:
        """Compute all chunks, then build the files that are derived from them."""
        clock = time.perf_counter()
        self.begin()
        with contextlib.ExitStack() as unless_done:
            unless_done.callback(self._say_interrupted)
            self.compute(site)
            with timed(self.seconds, "report_s"):
                built = build_derived(self.run, pictures=False, with_page=False)
                self.chunks_sha256 = manifest.chunk_digests(built.record, self.chunks_sha256)
            unless_done.pop_all()
        clear_others(self.run)
        result = run_of(built)
        self.seconds["wall_s"] = time.perf_counter() - clock
        self._write_manifest("done")
        write_page(self.run, built.rows)  # after the manifest, which it shows
        self._say_done(result)
        return result

    def _say_interrupted(self) -> None:
        """Write that the run was interrupted, by a signal or an error, which a second one must not hide."""
        with contextlib.suppress(OSError, JaxstyleError):
            self._write_manifest("interrupted")

    def compute(self, site: Site) -> None:
        """Announce what is to be done, and do it."""
        left, alone = self.plan.only(self.todo), isinstance(site, LocalSite)
        assumed_s = self._announce(alone=alone)

        def start() -> None:
            self.display.start(
                image_steps=left.image_steps + left.coarse_image_steps,
                cells=sum(len(chunk.cells) for chunk in left.chunks),
                estimate=Estimate(left.trajectory_cost, self._compiling(left, alone=alone)),
                assumed=duration(assumed_s),
            )

        try:
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
            self.display.finish()
        finally:
            if self.share is not None:  # the time of a process that is interrupted counts too
                spent = {name: round(value, 3) for name, value in self.seconds.items()}
                self.display.event("share-timings", timings=spent, machine=self.machine)

    def _compiling(self, left: Plan, *, alone: bool) -> Callable[[], tuple[float, float]]:
        """Function that tells the seconds of compiling since now, and those to come in this process.

        Targets count with it, for most of their time is compiling. Workers of a cluster compile beside each
        other's computing; there, both are 0.
        """
        if not alone:
            return lambda: (0.0, 0.0)
        wanted = {replace(left.programs[chunk.program], width=1) for chunk in left.chunks}
        seconds = self.seconds
        before = seconds["compile_s"] + seconds["targets_s"]

        def compiling() -> tuple[float, float]:
            made = {replace(program, width=1) for program in self.programs}
            spent = seconds["compile_s"] + seconds["targets_s"]
            return spent - before, len(wanted - made) * spent / len(made) if made else 0.0

        return compiling

    def _announce(self, *, alone: bool) -> float:
        """Report what is to be done, `alone` or on a cluster; return the seconds that it should take."""
        say = self.display
        left = replace(self.planned, plan=self.plan.only(self.todo))
        every, precision = self.sweep.checkpoint_every, self.sweep.precision
        values = describe(left, self.platform, every, self._device, precision, self.sweep.crops)
        say.event("plan", "\n".join(describe_text(values)), **values)
        space = space_note(self.run.path, values) if alone else ""
        for note in filter(None, (self.planned.note, self.planned.hint, space)):
            say.event("note", note)
        for path, why in self.checked.skipped.items():
            say.event("skipped", f"{path}: left out: {why}", path=path, why=why)
        say_ignored(self.checked, say)
        for path, notes in self.pictures.notes.items():
            say.event("note", f"{path}: {', '.join(notes)}", path=path, notes=notes)
        for line in unused_words(self.checked):
            say.event("note", line)
        if self.loaded.origin == "unknown":
            say.event("note", f"{self.loaded.path}: weights with a digest that jaxstyle does not know")
        if self.sweep.network == "normalised" and self.sweep.optimizer == "adam" and self.sweep.beta < 1e4:
            # Their root mean square is 5e-9 to 7e-7 at beta 1, and falls while a picture is optimised.
            say.event(
                "note", "the normalised network's gradients come near Adam's epsilon, 1e-8; try --beta 1e6"
            )
        return values["time_s"]

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
        file = self.run.path / chunks.chunk_name(number)
        self.display.event("chunk", chunk=number, cells=list(cells), path=str(file.absolute()))
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
            "threads": self.earlier.get("threads") or self.machine["threads"],  # those of the plan
            "side_by_side": self.planned.beside,
            "precision": self.sweep.precision,
            "deterministic": self.sweep.deterministic,
            "convolution": "winograd" if uses_winograd(self.sweep, self.platform) else "xla",
            "prng": "threefry2x32",
            "resampling": "Pillow LANCZOS in uint8 sRGB",
            "weights": {name: getattr(self.loaded, name) for name in ("path", "sha256", "origin")},
            "images": {
                path: {
                    "place": paths.spelled(path, self.run.path),
                    "sha256": digest,
                    "pixels_sha256": self.pictures.pixels_sha256[path],
                    "notes": self.pictures.notes.get(path, ()),
                }
                for path, digest in self.pictures.sha256.items()
            },
            "given": given_entry(self.sweep.given),
            **manifest.measured(self.sweep),
            **({"skipped": dict(self.checked.skipped)} if self.checked.skipped else {}),
            **({"plugins": plugins.record(self.sweep)} if self.sweep.plugins else {}),
            "plan": {
                "cells": len(plan.cells),
                "image_steps": plan.image_steps,
                "coarse_image_steps": round(plan.coarse_image_steps, 3),
                "flops": plan.flops,
                "twins": _twins(plan),
                **plan_record(plan),
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
        say_bursts(result.rows, self.display)
        spent, rate = self.seconds, self._rate
        own = sum(len(self.plan.chunks[number].cells) for number in self.todo)
        of = f"{own} of " if own < len(result.rows) else ""
        self.display.event(
            "done",
            f"{of}{counted(len(result.rows), 'cell')} in {duration(spent['wall_s'])}"
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
        say_sheets(result.sheets, self.display)
        say_left_out(self.checked.skipped, self.display)


def _twins(plan: Plan) -> dict[str, list[int]]:
    """Cells that get another one's result, by the number of the cell that is computed."""
    found: dict[str, list[int]] = {}
    for cell, of in sorted(plan.twins.items()):
        found.setdefault(str(of), []).append(cell)
    return found
