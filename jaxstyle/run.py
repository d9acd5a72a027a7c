"""The composition root: plan, targets, engine, store and report, wired once.

Also the Python API. What needs JAX is imported inside the functions that need it, after the settings
and the images have been found right.
"""

from __future__ import annotations

import collections
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform as host
import shlex
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from jaxtyping import UInt8

from jaxstyle import cli, config, grid, images, launches, report, resume, store
from jaxstyle.config import JaxstyleError, RunOptions, Sweep
from jaxstyle.grid import Cell, Chunk, Plan, Program
from jaxstyle.launches import Inputs, Launcher, timed
from jaxstyle.progress import Display, counted, duration
from jaxstyle.resume import Kept, Launched, Sources
from jaxstyle.store import Checkpoint, ChunkResult, Record, RunDirectory

if TYPE_CHECKING:
    import xarray

    from jaxstyle.engine import Memory, Progress

ChunkParts = tuple[Chunk, list[ChunkResult]]
"""A chunk and what was stored of it."""
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
"""What a run spends its time on. Chunks are stored beside the computation, and waited for at times; lost is
what ran out of memory."""
HOST_WORK = ("host_s", "checkpoint_s", "store_s", "report_s")
"""Timers of what is no device's work: launches put together, states and chunks written, tables, sheets."""
DETERMINISTIC_FLAGS = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
ENVIRONMENT = ("XLA_", "JAX_", "TF_", "NVIDIA_TF32", "CUBLAS_", "CUDNN_", "OMP_", "NPROC")
"""What begins the names of environment variables that can change a result."""
VERSIONED = ("jaxstyle", "jax", "jaxlib", "flax", "optax", "numpy", "h5py", "pillow", "tyro")


@dataclass(frozen=True)
class Run:
    """A finished run, or one that was opened."""

    path: Path
    rows: list[dict[str, Any]]
    """The lines of `results.csv`, a dictionary per cell."""
    sheets: list[Path]
    """Its contact sheets."""

    @property
    def diverged(self) -> int:
        """How many cells diverged."""
        return sum(row["status"] == "diverged" for row in self.rows)

    @property
    def exit_code(self) -> int:
        """0 if every cell is done, 1 if some diverged."""
        return 1 if self.diverged else 0

    def _row(self, cell: int) -> dict[str, Any]:
        found = [row for row in self.rows if row["cell"] == cell]
        if not found:
            raise JaxstyleError(
                str(self.path), f"has no cell {cell}; it has {counted(len(self.rows), 'cell')}"
            )
        return found[0]

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
        path = self.path / (row["image"] if step is None else store.image_name(cell, step, last))
        if step is not None and not path.exists():
            earlier = sorted(path.parent.glob(f"{cell:06d}-step*.png"))
            steps = [*(int(p.stem.partition("-step")[2]) for p in earlier), last]
            raise JaxstyleError(
                str(self.path),
                f"cell {cell} has no picture after {step} steps; it has {' and '.join(map(str, steps))}",
            )
        return images.read(str(path)).pixels

    def losses(self, cell: int) -> dict[str, np.ndarray]:
        """The loss curves of a cell: float32 arrays over the steps that are in `step`.

        `loss_total`, `loss_content` and `loss_style`, and E_l of each of its own style layers under the
        layer's name. Where the cell had diverged they are NaN.

        Raises:
            JaxstyleError: if there is no such cell, or no `results.h5` yet.
        """
        row = self._row(cell)
        own = [name for name, _ in config.style_set(row["style_layers"])]
        with self._results() as file:
            group = file[f"{row['height']}x{row['width']}"]
            assert isinstance(group, h5py.Group)
            (at,) = np.flatnonzero(store.dataset(group, "cell")[()] == cell)
            names = [name.decode() for name in store.dataset(group, "layer")[()]]
            layers = store.dataset(group, "style_layer_loss")[at]
            found = {"step": store.dataset(group, "step")[()]}
            found |= {name: store.dataset(group, name)[at] for name in store.LOSSES}
            return found | {name: layers[:, names.index(name)] for name in own}

    def dataset(self, shape: str | None = None) -> xarray.Dataset:
        """All cells of one image shape, read from `results.h5` as they are used; close it after use.

        Its axes are coordinates of the dimension `cell`: `data["loss_total"].groupby("alpha_beta")`.

        Args:
            shape: `HxW`, such as `192x256`; needed only where a run has several.

        Raises:
            JaxstyleError: without xarray, for a shape that the run has not, or without `results.h5`.
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
        path = self.path / "results.h5"
        return xarray.open_dataset(path, group=shape or shapes[0], engine="h5netcdf")

    def _results(self) -> h5py.File:
        path = self.path / "results.h5"
        if not path.is_file():
            mend = f"python -m jaxstyle.report {shlex.quote(str(self.path))} makes it of what there is"
            raise JaxstyleError(str(path), f"is not there yet; {mend}")
        return h5py.File(path, "r")


# --- before a run ---------------------------------------------------------------------------------


def thread_count() -> int:
    """How many threads XLA's CPU runtime has, or will have when JAX starts."""
    if (asked := os.environ.get("NPROC", "")).isdecimal():  # as XLA reads it
        count = max(1, int(asked))
    else:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if (jax := sys.modules.get("jax")) is None or jax.default_backend() != "cpu":
        return count
    return max(count, jax.local_device_count())


def start_jax(sweep: Sweep, options: RunOptions, before: Mapping[str, Any] | None = None) -> Any:
    """Import JAX with the settings a run needs and return its first device.

    A cache directory that the user chose for JAX is left alone.

    Args:
        sweep: resolved.
        options: of the run.
        before: the manifest of the run that is gone on with, whose threads it gets again.
    """
    threads = before and before.get("threads")
    if isinstance(threads, int) and "jax" not in sys.modules and threads != thread_count():
        os.environ["NPROC"] = str(threads)
    if sweep.deterministic and "jax" not in sys.modules:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC_FLAGS}".strip()
    import jax

    if not options.no_compile_cache and jax.config.jax_compilation_cache_dir is None:  # pyright: ignore
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(base, "jaxstyle", "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    device = jax.devices()[0]
    asked = "--xla_gpu_deterministic_ops=true" in os.environ.get("XLA_FLAGS", "")
    if sweep.deterministic and device.platform == "gpu" and not asked:
        raise JaxstyleError(
            "deterministic",
            f"JAX is already running; set XLA_FLAGS='{DETERMINISTIC_FLAGS}' before",
        )
    return device


@dataclass(frozen=True)
class _Planned:
    """A plan and what its launches take on the device it was made for."""

    plan: Plan
    memory: tuple[Memory, ...]
    """Of each program."""


def _plan(
    checked: Inputs,
    device: Any,
    before: Plan | None = None,
    *,
    measure: bool = True,
    width: int | None = None,
) -> _Planned:
    """The plan of a run on a device, and what its launches take.

    Args:
        checked: what it computes from.
        device: where it is to run.
        before: the plan of the cells that were there already, if it is gone on with or extended.
        measure: whether a device other than a CPU is asked what a launch takes, by compiling it twice.
        width: cells per launch, if it is not to be chosen.
    """
    from jaxstyle import engine

    sweep, platform = checked.sweep, grid.device_kind(device.platform)
    if sweep.precision == "tf32" and not engine.can_tf32(device):
        raise JaxstyleError(
            "precision", f"tf32 is not to be had on this {device.device_kind}; use f32 or bf16"
        )
    available = engine.device_memory(device)
    winograd = grid.uses_winograd(sweep, platform)
    memory = functools.partial(engine.planned_memory, winograd=winograd)
    if before is not None and len(before.cells) == len(checked.cells):
        return _Planned(before, tuple(memory(program) for program in before.programs))

    def plan(
        choose_width: Callable[[Program, int], int], memory: Callable[[Program], Memory], **changes: Any
    ) -> Plan:
        def fits(program: Program) -> bool:
            one = memory(program)
            return one.fixed + one.per_cell <= available * engine.MEMORY_SHARE

        return grid.plan(
            replace(sweep, **changes),
            checked.cells,
            {cell.content: checked.pictures.shape(cell) for cell in checked.cells},
            platform=platform,
            choose_width=choose_width,
            fits=fits,
            before=before,
        )

    if measure and platform != "cpu":
        # The largest program is measured, the others are taken to need as much by their activations.
        largest = max(
            plan(lambda *_: 1, memory, canvas="off").programs, key=lambda p: (p.bytes_per_cell(), p.shape)
        )
        measured = engine.measure_memory(largest, checked.weights.layers, device=device, winograd=winograd)

        def memory(program: Program) -> Memory:
            share = program.bytes_per_cell() / largest.bytes_per_cell()
            return engine.Memory(measured.fixed, int(measured.per_cell * share))

    found = plan(
        lambda program, count: (
            width
            or engine.choose_width(
                program, count, platform=platform, memory=memory(program), available=available
            )
        ),
        memory,
    )
    return _Planned(found, tuple(memory(program) for program in found.programs))


def describe(planned: _Planned, platform: str, checkpoint_every: float) -> dict[str, Any]:
    """What `--dry-run` says: the plan and its cost, before anything has been measured."""
    plan = planned.plan
    rate, compile_s = grid.NOMINAL_FLOPS[platform], grid.COMPILE_SECONDS[platform]
    programs = [
        {
            "shape": program.shape,
            "canvas": program.canvas,
            "pool": program.pool,
            "optimizer": program.optimizer,
            "coarser": [program.stage(times).shape for times in range(program.coarser, 0, -1)],
            "precision": program.precision,
            "taps": list(program.taps),
            "width": program.width,
            "cells": plan.program_cells(i),
            "memory_bytes": memory.fixed + program.width * memory.per_cell,
            "memory_bytes_per_cell": memory.per_cell,
            "checkpoint_s": round(program.checkpoint_s(checkpoint_every), 1),
            "flops_per_step": program.step_flops,
        }
        for i, (program, memory) in enumerate(zip(plan.programs, planned.memory, strict=True))
        if plan.program_cells(i)
    ]
    return {
        "cells": sum(len(chunk.cells) for chunk in plan.chunks),
        "computed": sum(len(plan.computed(chunk)) for chunk in plan.chunks),
        "image_steps": plan.image_steps,
        "chunks": len(plan.chunks),
        "programs": programs,
        "batch_width": max(program["width"] for program in programs),
        "memory_bytes": max(program["memory_bytes"] for program in programs),
        "flops": plan.flops,
        "disk_bytes": plan.result_bytes(),
        "time_s": round(plan.flops / rate + compile_s * sum(1 + len(p["coarser"]) for p in programs), 1),
    }


def _check_memory(planned: _Planned, device: Any) -> None:
    """Raise JaxstyleError if one launch cannot fit: a CPU would be killed for it, not told."""
    from jaxstyle import engine

    plan, there = planned.plan, engine.device_memory(device)
    if not plan.chunks:
        return
    used = {chunk.program for chunk in plan.chunks}
    takes = {i: planned.memory[i].fixed + plan.programs[i].width * planned.memory[i].per_cell for i in used}
    needed = max(takes.values())
    if needed > there:
        largest = plan.programs[max(takes, key=takes.__getitem__)]
        raise JaxstyleError(
            "size",
            f"a {largest.shape} image needs about {needed / 1e9:.0f} GB of memory and there are"
            f" {there / 1e9:.0f} GB; give a smaller --size",
        )


def _describe_text(values: dict[str, Any]) -> Iterator[str]:
    counts = (values["cells"], "cell"), (values["image_steps"], "image-step"), (values["chunks"], "chunk")
    yield ", ".join(counted(*count) for count in counts)
    if copies := values["cells"] - values["computed"]:
        yield f"{counted(copies, 'cell')} copied from others: all that differs is a seed without noise"
    for p in values["programs"]:
        yield (
            f"program {p['shape']}{' (canvas)' if p['canvas'] else ''}:"
            f" {counted(p['cells'], 'cell')}, batch width {p['width']},"
            f" about {p['memory_bytes'] / 1e6:.0f} MB, {p['flops_per_step'] / 1e9:.1f} GFLOP per"
            f" image-step, {p['optimizer']}{''.join(f', from {shape}' for shape in p['coarser'][:1])},"
            f" {p['precision']}, {p['pool']} pooling,"
            f" taps {' '.join(p['taps'])}"
        )
    every = max(p["checkpoint_s"] for p in values["programs"])
    yield f"{values['flops'] / 1e12:.2f} TFLOP in all, about {values['disk_bytes'] / 1e6:.0f} MB on disk"
    yield f"a killed run repeats at most {duration(every)} of its work"
    yield f"about {duration(values['time_s'])} at this kind of device's nominal rate"


def dry_run(sweep: Sweep, options: RunOptions, *, name: str = "sweep") -> None:
    """Print the plan of a sweep, as text or with `options.json` as JSON, and write nothing.

    Of a run that is gone on with it is the plan of what is left.
    """
    checked = _check(sweep, options, name)
    earlier = checked.earlier
    device = start_jax(checked.sweep, options, earlier and earlier.manifest)
    planned = _plan(checked, device, earlier and resume.plan_of(earlier))
    if earlier is not None:
        there = {int(path.stem) for path in earlier.chunk_paths if path.stem.isdecimal()}
        todo = [chunk.number for chunk in planned.plan.chunks if chunk.number not in there]
        planned = replace(planned, plan=planned.plan.only(todo))
    _check_memory(planned, device)
    if not planned.plan.chunks:
        print(f"every cell of {checked.path} is done")
        return
    values = describe(planned, grid.device_kind(device.platform), checked.sweep.checkpoint_every)
    if options.json:
        print(json.dumps(values))
        return
    for line in _describe_text(values):
        print(line)
    print(f"would write {checked.path}")


@dataclass(frozen=True)
class _Checked(Inputs):
    """A run that nothing was found wrong with."""

    path: Path
    earlier: Record | None
    """What there is of the run already, if it is gone on with or extended."""

    @property
    def sources(self) -> Sources:
        """What its numbers come from."""
        return Sources(self.sweep, self.pictures.sha256, self.weights.sha256)


def _check(sweep: Sweep, options: RunOptions, name: str) -> _Checked:
    """Everything that can be found wrong before a run starts, without JAX and without writing."""
    sweep, options = config.resolve(sweep), config.check_options(options)
    path = Path(options.out) if options.out else store.fresh_path(name, root=Path("runs"))
    earlier = resume.find(path) if options.resume or options.extend else None
    if earlier is None:
        store.check_free(path)
    else:
        store.check_writable(path)
        sweep = resume.joined(earlier, sweep, extend=options.extend)
    inputs = launches.read_inputs(sweep)
    loaded = inputs.weights
    if earlier is not None and loaded.sha256 != (had := earlier.manifest["weights"].get("sha256")):
        raise JaxstyleError(
            "weights",
            f"{loaded.path} has sha256 {loaded.sha256} and {path} was begun with {had}; restore it",
        )
    return _Checked(sweep, inputs.cells, inputs.pictures, loaded, path, earlier)


# --- a run ----------------------------------------------------------------------------------------


def run_sweep(
    sweep: Sweep, options: RunOptions | None = None, *, name: str = "sweep", width: int | None = None
) -> Run:
    """Compute every cell of a sweep and leave a run directory.

    Args:
        sweep: the grid and its settings.
        options: where to write and what to print.
        name: what a fresh directory under `runs/` is called after.
        width: cells per launch of a new run, where it is not to be planned from the device's memory.

    Returns:
        The run; `Run.exit_code` is 1 if some cells diverged.

    Raises:
        JaxstyleError: for bad settings or input, before anything is written, or a full disk.
        cli.Interrupted: in a command, for a signal; what was computed has been kept.
    """
    options = options or RunOptions()
    checked = _check(sweep, options, name)
    path, earlier = checked.path, checked.earlier
    try:
        if earlier is None:
            device = start_jax(checked.sweep, options)
            checked = launches.calibrated(checked, device)
            planned = _plan(checked, device, width=width)
            _check_memory(planned, device)
            store.check_space(path, planned.plan.result_bytes())
            with RunDirectory(path, create=True) as run, _display(options, path) as display:
                return _Job(checked, planned, device, run, display).execute()
        with RunDirectory(path) as run, _display(options, path) as display:
            # Now that nobody else works in it, as it stands.
            if (now := store.open_record(path)).cells != earlier.cells:
                raise JaxstyleError(str(path), "has been extended meanwhile; give the command again")
            return _go_on(replace(checked, earlier=now), options, run, display)
    except cli.Interrupted as stop:
        begun = (path / "manifest.json").exists()
        mend = f"go on with --resume --out {shlex.quote(str(path))}" if begun else ""
        raise cli.Interrupted(stop.number, mend) from None


def _display(options: RunOptions, path: Path) -> Display:
    events = path / "events.jsonl"
    return Display(quiet=options.quiet, log_format=options.log_format, events=events)


def _go_on(checked: _Checked, options: RunOptions, run: RunDirectory, display: Display) -> Run:
    """Compute what is missing of a run, and rebuild what is derived. JAX starts only if something is."""
    assert checked.earlier is not None
    before, manifest = resume.plan_of(checked.earlier), checked.earlier.manifest
    extended, there = len(checked.cells) > len(before.cells), set()
    for number, results in resume.whole_chunks(checked.sources, before, run, display):
        there.add(number)
        Checkpoint(run, number, "").clear()  # of a process that was killed before it could
        for result in results:
            store.write_images(run, result, missing=True)
    if len(there) == len(before.chunks) and not extended:
        display.event("resume", f"every cell of {run.path} is done", finished=len(there), left=0)
        built = report.build(run, pictures=False, with_page=False)
        ended = {**manifest, "status": "done", "chunks_sha256": _chunk_digests(built.record)}
        if ended != manifest:
            run.write("manifest.json", _json(ended))
        report.write_page(run, built.rows)  # which shows the manifest
        for sheet in built.sheets:
            display.event("sheet", f"contact sheet: {sheet}", path=str(sheet))
        return Run(run.path, built.rows, built.sheets)
    if options.extend and len(there) < len(before.chunks):
        raise JaxstyleError(str(run.path), "is not done; --resume it before you extend it")
    device = start_jax(checked.sweep, options, manifest)
    was = {"platform": "?", "kind": "?", **manifest["device"]}
    if was["platform"] != device.platform:
        raise JaxstyleError(
            str(run.path),
            f"was begun on a {was['platform']} and this is a {device.platform}; start a new run",
        )
    checked = launches.calibrated(checked, device)
    planned = _plan(checked, device, before)
    todo = planned.plan.only(set(range(len(planned.plan.chunks))) - there)
    if device.platform == "cpu":  # another device has been measured, and backs off
        _check_memory(replace(planned, plan=todo), device)
    store.check_space(run.path, todo.result_bytes())
    display.event(
        "resume",
        f"going on with {run.path}: {counted(len(there), 'chunk')} of {len(planned.plan.chunks)} done",
        finished=len(there),
        left=len(todo.chunks),
    )
    changed = {name: (manifest["versions"].get(name), v) for name, v in versions(*VERSIONED).items()}
    changed |= {
        "device": (was["kind"], device.device_kind),
        "threads": (manifest.get("threads"), thread_count()),
    }
    changed["jaxstyle's code"] = manifest.get("code_sha256"), code_digest()
    changed["environment"] = manifest.get("environment"), _environment()
    for name, (old, new) in changed.items():
        if old != new:
            display.event(
                "note", f"{name} was {old} and is {new}: the last bits of what is left may differ"
            )
    return _Job(checked, planned, device, run, display, finished=there).execute()


def open_run(path: str | os.PathLike[str]) -> Run:
    """The run in a directory: the cells that have been computed, and its contact sheets.

    Raises:
        JaxstyleError: if it holds no run.
    """
    record = store.open_record(Path(path))
    sheets = sorted((record.path / "sheets").glob("*.png"))
    return Run(record.path, store.rows(record), sheets)


def launcher(inputs: Inputs, options: RunOptions) -> Launcher:
    """What computes a few cells without a run directory, on a device that has the memory for one."""
    device = start_jax(inputs.sweep, options)
    inputs = launches.calibrated(inputs, device)
    planned = _plan(inputs, device, measure=False)
    _check_memory(planned, device)
    return Launcher(inputs, planned.plan, device, collections.defaultdict(float))


class _Job:
    """One run in progress: what it works on, and how long each stage took.

    Args:
        checked: the run.
        planned: everything it will do.
        device: where.
        run: the directory, held.
        display: what tells of it.
        finished: the numbers of chunks that were there already.
    """

    def __init__(
        self,
        checked: _Checked,
        planned: _Planned,
        device: Any,
        run: RunDirectory,
        display: Display,
        finished: Collection[int] = (),
    ):
        self.checked = checked
        self.sweep, self.pictures, self.loaded = checked.sweep, checked.pictures, checked.weights
        self.planned = planned
        self.device, self.run, self.display = device, run, display
        self.platform = grid.device_kind(device.platform)
        self.todo = [chunk.number for chunk in planned.plan.chunks if chunk.number not in finished]
        self.seconds: dict[str, float] = dict.fromkeys(map(str, TIMERS), 0.0)
        self.launcher = Launcher(checked, planned.plan, device, self.seconds)
        self.leaving = threading.Event()
        """Set when the run ends before its time: what can be rebuilt is no longer written."""
        self.pending: Future[ChunkParts] | None = None
        self.began = datetime.datetime.now(datetime.UTC)
        self.earlier = checked.earlier.manifest if checked.earlier else {}
        self.id: str = self.earlier.get("id") or uuid.uuid4().hex
        self.chunks_sha256: dict[str, str] = {}
        """Of the chunks that this process wrote or, at the end, found there."""

    @property
    def plan(self) -> Plan:
        """What is being done, at the widths that there is memory for."""
        return self.launcher.plan

    def execute(self) -> Run:
        """All chunks, then everything that is derived from them."""
        clock = time.perf_counter()
        digests = dict(self.pictures.sha256)
        if self.sweep.weights is not None:
            digests[self.loaded.path] = self.loaded.sha256
        if self.checked.earlier is None or self.checked.earlier.cells != self.checked.cells:
            self.run.write("spec.toml", config.to_toml(self.sweep, digests))
        self._write_manifest("running")
        say = self.display
        left = replace(self.planned, plan=self.plan.only(self.todo))
        values = describe(left, self.platform, self.sweep.checkpoint_every)
        say.event("plan", "\n".join(_describe_text(values)), **values)
        for path, notes in self.pictures.notes.items():
            say.event("note", f"{path}: {', '.join(notes)}", path=path, notes=notes)
        if self.loaded.origin == "unknown":
            say.event("note", f"{self.loaded.path}: weights of a digest that is not known here")
        if self.sweep.network == "normalised" and self.sweep.optimizer == "adam" and self.sweep.beta < 1e4:
            # Their root mean square is 5e-9 to 7e-7 at beta 1, and falls while a picture is optimised.
            say.event(
                "note", "the normalised network's gradients come near Adam's epsilon, 1e-8; try --beta 1e6"
            )
        try:
            self._compute()
            say.finish()
            with timed(self.seconds, "report_s"):
                built = report.build(self.run, pictures=False, with_page=False)
                self.chunks_sha256 = _chunk_digests(built.record, self.chunks_sha256)
        except cli.Interrupted:
            self._write_manifest("interrupted")
            raise
        result = Run(self.run.path, built.rows, built.sheets)
        self.seconds["wall_s"] = time.perf_counter() - clock
        self._write_manifest("done")
        report.write_page(self.run, built.rows)  # which shows the manifest
        self._say_done(result)
        return result

    def _compute(self) -> None:
        """All chunks that are not done, in order."""
        plan = self.plan
        last_use = {key: number for number in self.todo for key in launches.target_keys(plan, number)}
        left = plan.only(self.todo)
        # While a chunk is written the next one is computed.
        with ThreadPoolExecutor(1, thread_name_prefix="jaxstyle-store") as writer:
            try:
                for number in self.todo:
                    self._compile(number)
                    if number == self.todo[0]:
                        steps = left.image_steps + left.coarse_image_steps
                        cells = sum(len(chunk.cells) for chunk in left.chunks)
                        self.display.start(image_steps=steps, cells=cells)
                    done = self._chunk(number)
                    before, self.pending = self.pending, writer.submit(self._store, number, done)
                    del done
                    self._written(before)
                    self.launcher.drop_targets(lambda key, number=number: last_use[key] <= number)
                self._written(self.pending)
            except BaseException:
                self.leaving.set()
                raise

    def _compile(self, number: int) -> Program:
        """The program of a chunk, ready to run: narrower if the device has no memory for it."""
        import jax

        while (program := self.launcher.program(number)) not in self.launcher.made:
            self.display.event("compile", f"compiling the {program.shape} step", shape=program.shape)
            try:
                self.launcher.compile(program)
            except jax.errors.JaxRuntimeError as error:
                self._narrow(number, error)
            self._write_manifest("running")
        return program

    def _narrow(self, number: int, error: RuntimeError) -> None:
        """Halve the width of a chunk and of those after it, if `error` says that memory ran out.

        Raises:
            JaxstyleError: if one cell alone does not fit.
            RuntimeError: `error`, if it says something else.
        """
        program = self.launcher.program(number)
        alike = {n for n in self.todo if n >= number and self.launcher.program(n) == program}
        self.launcher.narrow(alike, error)
        self.display.event(
            "back-off",
            f"out of memory at batch width {program.width}: going on with {program.width // 2}",
            shape=program.shape,
            width=program.width // 2,
        )

    def _chunk(self, number: int) -> list[Launched]:
        """Compute the cells of a chunk, from its start again with half the width if memory runs out.

        Returns:
            Its launches.
        """
        import jax

        while True:
            program, chunk = self._compile(number), self.plan.chunks[number]
            spent, steps_before = self.seconds["compute_s"], self.display.steps_done
            launches = [
                [self.plan.cells[i] for i in wave[start : start + program.width]]
                for wave in self.plan.waves(chunk)
                for start in range(0, len(wave), program.width)
            ]
            kept = self._kept(number, launches)
            try:
                while len(kept.done) < len(launches):
                    kept.finish(self._launch(launches[len(kept.done)], program, kept))
                return kept.done
            except jax.errors.JaxRuntimeError as error:
                self._narrow(number, error)
            # Only here is the failed launch gone: the error's traceback held what it had allocated.
            self.seconds["lost_s"] += self.seconds["compute_s"] - spent
            self.seconds["compute_s"] = spent
            self.display.advance(steps_before - self.display.steps_done)
            self._write_manifest("running")

    def _checkpoint(self, number: int) -> Checkpoint:
        # Another version of the code may keep other things.
        mark = resume.fingerprint(self.checked.sources, self.plan, number) + code_digest()
        return Checkpoint(self.run, number, mark)

    def _kept(self, number: int, launches: list[list[Cell]]) -> Kept:
        """A chunk as an earlier process left it; from its start where there is nothing that can be used."""
        program = self.launcher.program(number)
        kept = Kept(self._checkpoint(number), launches, program.checkpoint_s(self.sweep.checkpoint_every))
        try:
            kept.load()
        except JaxstyleError as error:
            aside = kept.checkpoint.set_aside()
            self.display.event("set-aside", f"{error}; set aside as {aside.name}", aside=str(aside))
        if kept.progress is not None:
            ids, passes = [cell.id for cell in kept.current], kept.progress.passes
            self.display.event("continue", chunk=number, cells=ids, passes=passes)
        self.display.skip(self._steps_kept(kept, program))
        return kept

    def _steps_kept(self, kept: Kept, program: Program) -> float:
        """Image-steps, of the full size, that need not be done again."""
        steps = 0.0
        for cells in kept.launches[: len(kept.done)]:
            coarse = 0.0 if cells[0].id in self.plan.previous else program.coarse_image_steps
            steps += len(cells) * (coarse + self.plan.cell_steps(cells[0].id))
        if (progress := kept.progress) is not None:
            own = launches.worth(program, progress.coarser, progress.passes)
            for coarser in range(progress.coarser + 1, program.coarser + 1):
                own += launches.worth(program, coarser, grid.COARSE_EVALUATIONS)
            steps += len(kept.current) * own
        return steps

    def _launch(self, cells: list[Cell], program: Program, kept: Kept) -> Launched:
        """Compute the cells of one launch; those with a warm start from pictures that are `kept`."""

        def on_segment(image_steps: float, progress: Callable[[], Progress], ending: bool) -> None:
            self.display.advance(image_steps)
            if self.pending is not None and self.pending.done():
                self.pending.result()  # a full disk is told of now and not when this chunk is done
            if kept.is_due() or ending:
                seconds = kept.save(progress())
                self.seconds["checkpoint_s"] += seconds
                self.seconds["compute_s"] -= seconds
                self.display.event("checkpoint", cells=[cell.id for cell in kept.current], seconds=seconds)

        return self.launcher.launch(
            cells, program, done=kept.done, begin=kept.progress, on_segment=on_segment
        )

    def _store(self, number: int, parts: Sequence[Launched]) -> ChunkParts:
        """Commit a chunk and write its pictures; runs beside the computation of the next one."""
        chunk, program = self.plan.chunks[number], self.launcher.program(number)
        with timed(self.seconds, "store_s"):
            results = launches.chunk_results(self.plan, chunk, self.sweep.keep, self.pictures, parts)
            mark = resume.fingerprint(self.checked.sources, self.plan, number)
            data = store.chunk_bytes(results, width=program.width, fingerprint=mark)
            self.run.write(store.chunk_name(number), data)
            self.chunks_sha256[store.chunk_name(number)] = hashlib.sha256(data).hexdigest()
            self._checkpoint(number).clear()
            for result in results:
                store.write_images(self.run, result, stop=self.leaving.is_set)
        return chunk, results

    def _written(self, pending: Future[ChunkParts] | None) -> None:
        """Wait for a chunk to be on the disk, and tell of it."""
        if pending is None:
            return
        with timed(self.seconds, "wait_s"):
            chunk, results = pending.result()
        self.display.cells_done(len(chunk.cells))
        self.display.event("chunk", chunk=chunk.number, cells=list(chunk.cells))
        for result in results:
            for index in np.flatnonzero(result.diverged_step >= 0):
                cell, step = int(result.cell[index]), int(result.diverged_step[index])
                self.display.event("diverged", f"cell {cell} diverged at step {step}", cell=cell, step=step)

    def _write_manifest(self, status: str) -> None:
        import jax

        plan = self.plan
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        if "wall_s" in seconds:
            host_s = sum(seconds.get(name, 0.0) for name in HOST_WORK)
            seconds["host_share"] = round(host_s / seconds["wall_s"], 4)
        if self.seconds["compute_s"]:
            steps = self.display.steps_done
            seconds["image_steps_per_s"] = round(steps / self.seconds["compute_s"], 3)
        programs: dict[int, dict[str, Any]] = {p["index"]: p for p in self.earlier.get("programs", ())}
        for index, program in enumerate(plan.programs):
            if program in self.launcher.made:
                programs[index] = self._about(index, program)
        values = {
            "schema": store.SCHEMA,
            "id": self.id,
            "status": status,
            "began": self.began.isoformat(timespec="seconds"),
            "command": sys.argv,
            "versions": {**versions(*VERSIONED), "hdf5": h5py.version.hdf5_version},
            "code_sha256": code_digest(),
            "device": {
                "platform": self.device.platform,
                "kind": self.device.device_kind,
                "runtime": self.device.client.platform_version,
                "used": 1,
            },
            "host": {
                "machine": host.machine(),
                "system": host.platform(),
                "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            },
            "threads": thread_count(),
            "environment": _environment(),
            "precision": self.sweep.precision,
            "x64": bool(jax.config.read("jax_enable_x64")),
            "deterministic": self.sweep.deterministic,
            "convolution": "winograd" if self.launcher.engine.winograd else "xla",
            "prng": "threefry2x32",
            "resampling": "Pillow LANCZOS in uint8 sRGB",
            "weights": {
                "path": self.loaded.path,
                "sha256": self.loaded.sha256,
                "origin": self.loaded.origin,
            },
            "images": {
                path: {
                    "sha256": digest,
                    "pixels_sha256": self.pictures.pixels_sha256[path],
                    "notes": self.pictures.notes.get(path, ()),
                }
                for path, digest in self.pictures.sha256.items()
            },
            "given": _given(self.sweep),
            "plan": {
                "cells": len(plan.cells),
                "image_steps": plan.image_steps,
                "coarse_image_steps": round(plan.coarse_image_steps, 3),
                "flops": plan.flops,
                "twins": _twins(plan),
                **grid.to_record(plan),
            },
            "programs": [
                programs[index] | {"cells": plan.program_cells(index)} for index in sorted(programs)
            ],
            "chunks_sha256": dict(sorted(self.chunks_sha256.items())),
            "timings": seconds,
            "before": _before(self.earlier),
        }
        self.run.write("manifest.json", _json(values))

    def _about(self, index: int, program: Program) -> dict[str, Any]:
        """The manifest's words on a program that is ready."""
        made = self.launcher.made[program]
        return {
            "index": index,
            "shape": program.shape,
            "canvas": program.canvas,
            "pool": program.pool,
            "optimizer": program.optimizer,
            "lbfgs_memory": program.lbfgs_memory,
            "precision": program.precision,
            "taps": list(program.taps),
            "content_taps": list(program.content_taps),
            "style_taps": list(program.style_taps),
            "width": program.width,
            **made[-1],
            "cells": self.plan.program_cells(index),
            "coarser": made[:-1],
        }

    def _say_done(self, result: Run) -> None:
        spent = self.seconds
        rate = self.display.steps_done / max(spent["compute_s"], 1e-9)
        self.display.event(
            "done",
            f"{counted(len(result.rows), 'cell')} in {duration(spent['wall_s'])}"
            f" (compiling {duration(spent['compile_s'])}): {rate:.2f} image-steps/s"
            + (f", {result.diverged} diverged" if result.diverged else "")
            + f"\nresults: {self.run.path / 'results.csv'}"
            + f"\nthe run as a page: {self.run.path / 'report.html'}",
            cells=len(result.rows),
            diverged=result.diverged,
            path=str(self.run.path),
            **{name: round(value, 3) for name, value in spent.items()},
        )
        for sheet in result.sheets:
            self.display.event("sheet", f"contact sheet: {sheet}", path=str(sheet))


def _twins(plan: Plan) -> dict[str, list[int]]:
    """By the cell that is computed, those that get its result."""
    found: dict[str, list[int]] = {}
    for cell, of in sorted(plan.twins.items()):
        found.setdefault(str(of), []).append(cell)
    return found


def versions(*names: str) -> dict[str, str]:
    """The version of Python and of each package in `names`, "unknown" for what is not installed."""
    found = {"python": host.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


@functools.cache
def code_digest() -> str:
    """The SHA-256 of the package's own source files, whatever its version says."""
    files = sorted(config.PACKAGE.glob("*.py"))
    return hashlib.sha256(b"\0".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


def _environment() -> dict[str, str]:
    return {k: v for k, v in sorted(os.environ.items()) if k.startswith(ENVIRONMENT) and k != "NPROC"}


def _chunk_digests(record: Record, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """The SHA-256 of every chunk file, by its path in the run."""
    names = {str(path.relative_to(record.path)): path for path in record.chunk_paths}
    return {
        name: (known or {}).get(name) or hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
    }


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1) + "\n"


def _before(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What earlier processes of a run said of themselves, the first one first."""
    if not manifest:
        return []
    kept = ("began", "status", "command", "versions", "code_sha256", "device", "host", "threads")
    kept = (*kept, "environment", "timings")
    return [*manifest.get("before", []), {key: manifest[key] for key in kept if key in manifest}]


def _given(sweep: Sweep) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for (axis, path), text in sweep.given.items():
        found.setdefault(axis, {})[path] = text
    return found
