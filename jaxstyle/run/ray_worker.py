"""The process of a worker in a Ray cluster."""

from __future__ import annotations

import collections
import errno
import functools
import json
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxstyle.console import allocator, limits, signals
from jaxstyle.plan.chunks import Plan
from jaxstyle.plan.programs import Program
from jaxstyle.run import planning
from jaxstyle.run.inputs import Inputs
from jaxstyle.run.launcher import timed
from jaxstyle.run.planning import Planned
from jaxstyle.run.start_jax import start_jax, usable_devices
from jaxstyle.run.work import Block, Committed
from jaxstyle.run.worker import Worker
from jaxstyle.rundir import manifest
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.spec import plugins
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import RunOptions, Sweep

HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Error numbers of a directory that any other worker would meet there too."""
SEEN_TRIES = 6
"""Number of times that a worker tries to read a manifest that is being replaced."""
TellerCall = tuple[str, tuple, dict[str, Any]]
"""A call of a `Teller`: its name and its arguments."""


class _TellerBuffer:
    """A `progress.Teller` that keeps what it is told until the driver asks for it."""

    def __init__(self) -> None:
        self.steps = self.skipped = 0.0
        """Image-steps reported so far, as done and as skipped."""
        self._told: list[TellerCall] = []
        self._lock = threading.Lock()

    def _add(self, what: str, *arguments: Any, **values: Any) -> None:
        with self._lock:
            self._told.append((what, arguments, values))

    def event(self, name: str, line: str | None = None, **values: Any) -> None:
        """Report an event."""
        self._add("event", name, line, **values)

    def advance(self, image_steps: float, cost: float | None = None, steps: float | None = None) -> None:
        """Report image-steps that have been done, their cost, and the steps."""
        self.steps += image_steps
        self._add("advance", image_steps, cost, steps)

    def skip(self, image_steps: float, cost: float | None = None) -> None:
        """Report image-steps that need not be done, and their cost."""
        self.skipped += image_steps
        self._add("skip", image_steps, cost)

    def program(self, program: Program, stages: Sequence[dict[str, Any]]) -> None:
        """Report a program that is ready."""
        self._add("program", program, [dict(stage) for stage in stages])

    def drain(self) -> list[TellerCall]:
        """The reports since the last call."""
        with self._lock:
            told, self._told = self._told, []
        return told


@dataclass(frozen=True)
class FinishedBlock:
    """A worker's report of a block that it has finished."""

    chunks: list[Committed]
    seconds: dict[str, float]
    """Seconds by stage that the worker has spent since it began, all blocks together."""
    steps: float
    """Image-steps of the block that the worker has reported as done."""
    skipped: float
    """Image-steps of the block that it has reported as not to be done."""
    told: list[TellerCall]


class RemoteWorker:
    """The process of a worker: the class of its Ray actor.

    Its methods run in threads of their own, so that it answers while it computes.

    Args:
        options: options of the run.
        sweep: sweep of the run; JAX is started with its settings.
        before: see `start.start_jax`.
        files: files of the plugins that the run uses, see `plugins.sources`.
    """

    def __init__(
        self, options: RunOptions, sweep: Sweep, before: Mapping[str, Any], files: Mapping[str, bytes]
    ):
        self._begin_with = options, sweep, before, files
        self._relay = _TellerBuffer()
        self._seconds: dict[str, float] = collections.defaultdict(float)
        self._device, self._stop = threading.Lock(), threading.Event()
        self._worker: Worker | None = None
        self._collect = False

    @functools.cached_property
    def _devices(self) -> tuple[Any, ...]:
        """The devices of this process. JAX starts here, not in `__init__`, so that errors are reported."""
        options, sweep, before, files = self._begin_with
        allocator.keep_freed_memory()
        for file, data in files.items():
            plugins.load_bytes(file, data)
        start_jax(sweep, options, before)
        return usable_devices(RunOptions())

    def machine(self) -> dict[str, Any]:
        """See `manifest.machine`."""
        with self._device:
            return manifest.machine(self._devices)

    def plan(
        self, inputs: Inputs, before: Plan | None, width: int | None, workers: int
    ) -> tuple[Sweep, Planned]:
        """See `planning.measured_plan`."""
        with self._device:
            return planning.measured_plan(inputs, self._devices, before, width=width, shares=workers)

    def prepare(self, inputs: Inputs, plan: Plan, run: Path, run_id: str, collect: bool) -> dict[str, Any]:
        """Get ready to compute blocks of a run; return the facts about this machine and where it is."""
        if not collect and not _sees(run, run_id):
            mend = "put it where all machines see it, or give --collect"
            raise JaxstyleError(str(run), f"is not seen by a worker on {socket.gethostname()}; {mend}")
        machine = self.machine()
        self._collect = collect
        self._worker = Worker(
            inputs,
            plan,
            self._devices,
            RunDirectory(run),
            self._relay,
            seconds=self._seconds,
            on_program=self._relay.program,
            checkpoints=not collect,
            beside=planning.side_by_side(
                plan,
                inputs.sweep,
                self._devices,
                processes=max(1, limits.cores() // limits.xla_threads()),  # a node may be full of workers
            ),
        )
        return {**machine, "where": manifest.whereabouts()}

    def _asked_to_end(self) -> signals.Interrupted | None:
        return signals.Interrupted(signal.SIGTERM) if self._stop.is_set() else None

    def block(self, block: Block) -> FinishedBlock | None:
        """Compute a block and commit its chunks; None if the run is to end."""
        assert self._worker is not None
        try:
            with self._device:
                if self._stop.is_set():
                    return None
                steps, skipped = self._relay.steps, self._relay.skipped
                parts = self._worker.compute(block, asked_to_end=self._asked_to_end)
                self._worker.forget(block)
                steps, skipped = self._relay.steps - steps, self._relay.skipped - skipped
            with timed(self._seconds, "store_s"):
                chunks = self._worker.commit(block, parts, collect=self._collect)
        except signals.Interrupted:
            return None
        except OSError as error:
            if error.errno in HOPELESS:  # it fails for every other worker too
                what = str(error.filename or "a worker")
                raise JaxstyleError(what, f"{error.strerror} on {socket.gethostname()}") from None
            raise
        return FinishedBlock(chunks, dict(self._seconds), steps, skipped, self._relay.drain())

    def told(self) -> list[TellerCall]:
        """The reports since the last call."""
        return self._relay.drain()

    def stop(self) -> None:
        """Save the state of what is being computed, and compute no more."""
        self._stop.set()


def _sees(path: Path, run_id: str) -> bool:
    """Whether a run is in the directory at `path`.

    A manifest that is being replaced is read again: the handle of the old one is stale on a network file
    system.
    """
    for _ in range(SEEN_TRIES):
        try:
            return json.loads((path / "manifest.json").read_text("utf-8")).get("id") == run_id
        except OSError as error:
            if error.errno != errno.ESTALE:
                return False
        except ValueError:
            return False
    return False
