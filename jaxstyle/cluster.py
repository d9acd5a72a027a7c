"""A Ray cluster as the place where a run is computed: a worker for every device, one chunk after another.

Ray places workers, tells when one has died, and carries what they are told and tell. The process that
began it, the driver, needs no JAX: it holds the run directory, hands out chunks, writes events and shows
how all of it comes along. A worker keeps weights, targets and compiled programs, and commits whole chunks
into the run directory, or ships them to the driver where it does not see that.

A chunk's bytes follow from the plan alone. So whatever happens to a worker, to its machine or to the
network, its chunk is given to another one; that two may be at it for a while harms nothing.

Imported only when a cluster is asked for.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray  # pyright: ignore[reportMissingImports]
import ray.exceptions  # pyright: ignore[reportMissingImports]

from jaxstyle import cli, manifest, planning, store, worker
from jaxstyle.config import JaxstyleError, RunOptions, Sweep
from jaxstyle.grid import Plan, Program
from jaxstyle.launches import Inputs, timed
from jaxstyle.planning import Planned
from jaxstyle.progress import counted
from jaxstyle.store import RunDirectory
from jaxstyle.worker import Block, Committed, Work, Worker

POLL_S = 0.5
"""How often workers are asked how they come along, and the cluster for more of them."""
STOP_S = 4.0
"""How long workers may take to save their states when the run is to end."""
MAX_TRIES = 8
"""How many workers may die at a chunk, or while they start, one after another."""
AHEAD = 2
"""Blocks that a worker has at a time: one is written while the next one is computed."""


# --- in a worker ----------------------------------------------------------------------------------


Told = tuple[str, tuple, dict[str, Any]]
"""A call of a `Teller`: its name and its arguments."""


class _Relay:
    """A `progress.Teller` that keeps what it is told until the driver asks for it."""

    def __init__(self) -> None:
        self._told: list[Told] = []
        self._lock = threading.Lock()

    def _add(self, what: str, *arguments: Any, **values: Any) -> None:
        with self._lock:
            self._told.append((what, arguments, values))

    def event(self, name: str, line: str | None = None, **values: Any) -> None:
        """Something happened."""
        self._add("event", name, line, **values)

    def advance(self, image_steps: float) -> None:
        """Image-steps have been done."""
        self._add("advance", image_steps)

    def skip(self, image_steps: float) -> None:
        """Image-steps need not be done."""
        self._add("skip", image_steps)

    def program(self, program: Program, stages: Sequence[dict[str, Any]]) -> None:
        """A program is ready."""
        self._add("program", program, [dict(stage) for stage in stages])

    def drain(self) -> list[Told]:
        """Everything that was told since the last call."""
        with self._lock:
            told, self._told = self._told, []
        return told


@dataclass(frozen=True)
class _Done:
    """What a worker says of a block that it has finished."""

    chunks: list[Committed]
    seconds: dict[str, float]
    """What it has spent since it began, all blocks together."""
    told: list[Told]


class _Remote:
    """The process of a worker: what Ray makes an actor of.

    Its methods run in threads of their own, so that it answers while it computes.

    Args:
        options: of the run.
        sweep: of the run, to start JAX for.
        before: see `planning.start_jax`.
    """

    def __init__(self, options: RunOptions, sweep: Sweep, before: Mapping[str, Any]):
        self._relay = _Relay()
        self._seconds: dict[str, float] = collections.defaultdict(float)
        self._device, self._stop = threading.Lock(), threading.Event()
        self._worker: Worker | None = None
        self._collect = False
        cli.keep_freed_memory()
        planning.start_jax(sweep, options, before)
        self._devices = planning.devices(RunOptions())

    def machine(self) -> dict[str, Any]:
        """See `manifest.machine`."""
        return manifest.machine(self._devices)

    def plan(
        self, inputs: Inputs, before: Plan | None, width: int | None, workers: int
    ) -> tuple[Sweep, Planned]:
        """See `planning.measured_plan`."""
        return planning.measured_plan(inputs, self._devices, before, width=width, shares=workers)

    def prepare(self, inputs: Inputs, plan: Plan, run: Path, run_id: str, collect: bool) -> dict[str, Any]:
        """Get ready to compute blocks of a run; where that is."""
        if not collect and _run_id(run) != run_id:
            mend = "put it where all machines see it, or give --collect"
            raise JaxstyleError(str(run), f"is not seen by a worker on {socket.gethostname()}; {mend}")
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
        )
        self._worker.launcher.asked_to_end = self._asked_to_end
        kind, count = self._devices[0].device_kind, len(self._devices)
        return {"where": manifest.whereabouts(), "device": kind, "devices": count}

    def _asked_to_end(self) -> cli.Interrupted | None:
        return cli.Interrupted(signal.SIGTERM) if self._stop.is_set() else None

    def block(self, block: Block) -> _Done | None:
        """Compute a block and commit its chunks; None if the run is to end."""
        assert self._worker is not None
        try:
            with self._device:
                if self._stop.is_set():
                    return None
                parts = self._worker.compute(block)
        except cli.Interrupted:
            return None
        with timed(self._seconds, "store_s"):
            chunks = self._worker.commit(block, parts, collect=self._collect)
        return _Done(chunks, dict(self._seconds), self._relay.drain())

    def told(self) -> list[Told]:
        """What happened since the last call."""
        return self._relay.drain()

    def stop(self) -> None:
        """Save the state of what is being computed, and compute no more."""
        self._stop.set()


def _run_id(path: Path) -> str | None:
    try:
        return json.loads((path / "manifest.json").read_text("utf-8")).get("id")
    except (OSError, ValueError):
        return None


# --- the cluster ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Needs:
    """What Ray is to keep for a worker."""

    resource: str
    """`GPU`, `TPU` or `CPU`."""
    amount: float

    def room(self) -> int:
        """How many workers the nodes that are alive can hold."""
        return sum(int(node.get(self.resource, 0.0) / self.amount) for node in _nodes())

    @property
    def options(self) -> dict[str, Any]:
        """For Ray."""
        if self.resource == "GPU":
            return {"num_cpus": 0, "num_gpus": self.amount}
        if self.resource == "TPU":
            return {"num_cpus": 0, "resources": {"TPU": self.amount}}
        return {"num_cpus": self.amount}


def _nodes() -> list[dict[str, float]]:
    """The resources of every node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _plain(inputs: Inputs) -> Inputs:
    """What cells are computed from, without what only the driver has."""
    return Inputs(inputs.sweep, inputs.cells, inputs.pictures, inputs.weights)


def _cause(error: Exception) -> BaseException:
    """What was raised in a worker: Ray wraps it."""
    return error.cause if isinstance(getattr(error, "cause", None), JaxstyleError) else error  # pyright: ignore


@dataclass(eq=False)
class _Hand:
    """A worker as the driver sees it."""

    name: str
    actor: Any
    ready: bool = False
    telling: bool = False
    """Whether it has been asked how it comes along, and has not said yet."""
    blocks: list[Block] = field(default_factory=list)
    """What it has been given and has not finished, in order."""
    program: int = -1
    """Of the block that it was given last."""
    steps: float = 0.0
    """Image-steps that it has told of since it finished a block."""


class Cluster:
    """A Ray cluster that this process is connected to, or has started for itself. A `run.Site`.

    Args:
        options: of the run: which cluster, how many workers, whether chunks are shipped.

    Raises:
        JaxstyleError: if there is none.
    """

    def __init__(self, options: RunOptions):
        self.options = options
        self.first: _Hand | None = None
        """The worker that has planned the run."""
        self._made = 0
        self._needs = _Needs("CPU", 1)
        self._environment: dict[str, str] = {}
        self._sweep, self._before = Sweep(), {}
        self.devices = 1
        """Of each worker."""

    def __enter__(self) -> Cluster:
        address, handlers = str(self.options.cluster), {n: signal.getsignal(n) for n in cli.SIGNALS}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its next default, said aloud
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if address == "local":
                ray.init(address="local", num_cpus=_cores(), include_dashboard=False, **quiet)
            else:
                ray.init(address=address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise JaxstyleError("cluster", f"{address}: {error}") from None
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():  # Ray takes one of them
                    signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()

    def room(self) -> int:
        """How many workers to ask for: so many as there is room for, or as the user says there will be."""
        return self.options.devices or self._needs.room()

    def new_hand(self) -> _Hand:
        """One more worker, as soon as there is room for it."""
        self._made += 1
        actor = ray.remote(_Remote).options(
            **self._needs.options,
            max_concurrency=AHEAD + 3,
            max_restarts=0,  # a chunk must not wait for room for the worker that had it
            runtime_env={"env_vars": self._environment},
        )
        options = RunOptions(no_compile_cache=self.options.no_compile_cache)
        return _Hand(f"worker {self._made}", actor.remote(options, self._sweep, self._before))

    # --- planning ---------------------------------------------------------------------------------

    def start(self, sweep: Sweep, before: Mapping[str, Any]) -> dict[str, Any]:
        """A first worker; what `manifest.machine` says of it."""
        self._sweep, self._before = sweep, {key: before[key] for key in before if key == "threads"}
        self._needs, threads = self._worker_needs(before.get("threads"))
        self._environment = manifest.environment()
        if "XDG_CACHE_HOME" in os.environ:
            self._environment["XDG_CACHE_HOME"] = os.environ["XDG_CACHE_HOME"]
        if self._needs.resource == "CPU":
            self._environment |= {"NPROC": str(threads), "JAX_PLATFORMS": "cpu"}
        if not self.room():
            need = f"{self._needs.amount:g} {self._needs.resource}"
            raise JaxstyleError("cluster", f"no node has the {need} of a worker; add one")
        machine = self._call(lambda hand: hand.actor.machine.remote())
        self.devices = machine["device"]["used"]
        # Those of the driver are passed on to workers, for which Ray sets more.
        return {**machine, "environment": manifest.environment()}

    def _worker_needs(self, threads: Any) -> tuple[_Needs, int]:
        """What a worker needs, and on a CPU its threads: as before, by NPROC, or a fair part of a node."""
        nodes = _nodes()
        if not os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
            if any(node.get("GPU", 0) >= 1 for node in nodes):
                return _Needs("GPU", 1), 0
            if tpus := [node["TPU"] for node in nodes if node.get("TPU", 0) >= 1]:
                return _Needs("TPU", min(tpus)), 0
        cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
        if not cpus:
            raise JaxstyleError("cluster", "no node has a CPU or a GPU for a worker; add one")
        if not isinstance(threads, int):
            if (asked := os.environ.get("NPROC", "")).isdecimal():
                threads = max(1, int(asked))
            else:
                wanted = self.options.devices or 1
                fits = (n for n in range(min(cpus), 1, -1) if sum(cpu // n for cpu in cpus) >= wanted)
                threads = next(fits, 1)
        return _Needs("CPU", threads), threads

    def _call(self, call: Callable[[_Hand], Any]) -> Any:
        """What a call of the first worker comes to, or of another one if that dies."""
        for left in range(MAX_TRIES - 1, -1, -1):
            self.first = self.first or self.new_hand()
            ref = call(self.first)
            try:
                while not ray.wait([ref], timeout=POLL_S)[0]:  # signals are heard meanwhile
                    pass
                return ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise _cause(error) from None
            except ray.exceptions.RayError as error:
                ray.kill(self.first.actor)
                self.first = None
                if not left:
                    raise JaxstyleError("cluster", f"no worker starts: {error}") from None
        raise AssertionError

    def plan(self, inputs: Inputs, before: Plan | None, width: int | None = None) -> tuple[Sweep, Planned]:
        """By the first worker, for all that there may be."""
        sent, workers = ray.put(_plain(inputs)), max(1, self.room())
        sweep, planned = self._call(lambda hand: hand.actor.plan.remote(sent, before, width, workers))
        return sweep, replace(planned, devices=workers * planned.devices)

    def compute(self, work: Work) -> None:
        """Hand out chunks until all are done."""
        _Sweeping(self, work).run()


# --- a run on it ----------------------------------------------------------------------------------


class _Sweeping:
    """A run while a cluster computes it.

    Args:
        cluster: which.
        work: what there is to do.
    """

    def __init__(self, cluster: Cluster, work: Work):
        self._cluster, self._work = cluster, work
        self._hands: list[_Hand] = []
        self._refs: dict[Any, tuple[str, _Hand]] = {}
        """What is awaited, and of whom: that it is `ready`, has `done` a block or `told` something."""
        self._inputs, self._plan = ray.put(_plain(work.inputs)), ray.put(work.plan)
        self._tries: collections.Counter[int] = collections.Counter()
        """How many workers died at a block, by its first chunk; -1 for those that did when they started."""
        self._left: dict[int, collections.deque[Block]] = {}
        """Blocks that nobody has been given yet, by their program."""
        for block in worker.blocks(work.plan, work.todo, cluster.devices):
            program = work.plan.chunks[block.numbers[0]].program
            self._left.setdefault(program, collections.deque()).append(block)
        self._flops = {chunk.number: work.plan.chunk_flops(chunk.number) for chunk in work.plan.chunks}
        self._limit = 2**31
        """How many workers there may be, where nodes have run out of memory."""
        self._compiling: set[str] = set()
        self._began, self._asked = False, -POLL_S
        self._seconds: dict[str, dict[str, float]] = {}
        """Of each worker, what it last said."""

    def run(self) -> None:
        """Until every block is done."""
        if self._cluster.first is not None:
            self._prepare(self._cluster.first)
        try:
            while self._todo or any(hand.blocks for hand in self._hands):
                self._look_around()
                self._hand_out()
                for ref in ray.wait(list(self._refs), timeout=POLL_S)[0] if self._refs else ():
                    self._take(ref)
        except BaseException:
            self._save()
            raise

    @property
    def _todo(self) -> int:
        return sum(map(len, self._left.values()))

    # --- workers ----------------------------------------------------------------------------------

    def _prepare(self, hand: _Hand) -> None:
        self._hands.append(hand)
        work, collect = self._work, self._cluster.options.collect
        path = work.run.path.absolute()
        ref = hand.actor.prepare.remote(self._inputs, self._plan, path, work.run_id, collect)
        self._refs[ref] = "ready", hand

    def _look_around(self) -> None:
        """Now and then: ask workers how they come along, and take on more where there is room."""
        if time.monotonic() - self._asked < POLL_S:
            return
        self._asked = time.monotonic()
        for hand in self._hands:
            if hand.blocks and not hand.telling:
                hand.telling = True
                self._refs[hand.actor.told.remote()] = "told", hand
        most = min(self._limit, self._cluster.room(), self._todo + sum(bool(h.blocks) for h in self._hands))
        while len(self._hands) < most:
            self._prepare(self._cluster.new_hand())

    def _hand_out(self) -> None:
        """Give blocks to workers that have none, and while there are many, one more to those that have."""
        idle = [hand for hand in self._hands if hand.ready and not hand.blocks]
        busy = [hand for hand in self._hands if hand.ready and len(hand.blocks) == 1]
        for hand in [*idle, *(busy if self._todo > 2 * len(self._hands) else ())]:
            if (block := self._next(hand)) is None:
                return
            hand.blocks.append(block)
            self._refs[hand.actor.block.remote(block)] = "done", hand

    def _next(self, hand: _Hand) -> Block | None:
        """A block of the program that a worker has at hand, or of the one with the most to do for each."""
        self._left = {program: blocks for program, blocks in self._left.items() if blocks}
        if not self._left:
            return None
        if hand.program not in self._left:

            def for_each(program: int) -> float:
                others = sum(other.program == program for other in self._hands)
                flops = sum(self._flops[n] for block in self._left[program] for n in block.left)
                return flops / (1 + others)

            hand.program = max(self._left, key=for_each)
        return self._left[hand.program].popleft()

    # --- what they say ----------------------------------------------------------------------------

    def _take(self, ref: Any) -> None:
        what, hand = self._refs.pop(ref)
        if hand not in self._hands:
            return
        try:
            value: Any = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            if isinstance(cause := _cause(error), JaxstyleError):
                raise cause from None
            self._lose(hand, error)
        except ray.exceptions.RayError as error:
            self._lose(hand, error)
        else:
            if what == "ready":
                hand.ready = True
                self._tries[-1] = 0
                self._work.workers[hand.name] = {**value, "chunks": 0, "cells": 0, "seconds": {}}
                self._work.display.event("worker", worker=hand.name, **value)
                if not self._began:
                    self._began = True
                    self._work.start()
            elif what == "told":
                hand.telling = False
                self._relay(hand, value)
            elif value is not None:
                self._finish(hand, value)

    def _relay(self, hand: _Hand, told: Iterable[Told]) -> None:
        """Pass on what a worker has told, to the one display."""
        display = self._work.display
        for name, arguments, values in told:
            if name == "program":
                self._work.on_program(*arguments)
            elif name == "advance":
                hand.steps += arguments[0]
                display.advance(arguments[0])
            elif name == "skip":
                display.skip(arguments[0])
            else:
                event, line = arguments
                if event == "compile" and (values["shape"] in self._compiling):
                    line = None  # every worker does
                self._compiling.add(values.get("shape", ""))
                line = line if line is None or event == "compile" else f"{hand.name}: {line}"
                display.event(event, line, worker=hand.name, **values)

    def _finish(self, hand: _Hand, done: _Done) -> None:
        """Take a block that is done."""
        work = self._work
        self._relay(hand, done.told)
        hand.blocks.pop(0)
        hand.steps = 0.0 if not hand.blocks else hand.steps
        about, before = work.workers[hand.name], self._seconds.get(hand.name, {})
        for name, spent in done.seconds.items():
            work.seconds[name] = work.seconds.get(name, 0.0) + spent - before.get(name, 0.0)
        self._seconds[hand.name] = done.seconds
        about["seconds"] = {name: round(spent, 3) for name, spent in done.seconds.items()}
        for chunk in done.chunks:
            if chunk.data:
                with timed(work.seconds, "store_s"):
                    results = store.chunk_parts(chunk.data, work.run.path / store.chunk_name(chunk.number))
                    worker.put(work.run, chunk.number, chunk.data, results)
            about["chunks"] += 1
            about["cells"] += len(work.plan.chunks[chunk.number].cells)
            work.on_commit(chunk)

    def _lose(self, hand: _Hand, error: Exception) -> None:
        """A worker has died, or its machine has: what it had is done again by others.

        Raises:
            JaxstyleError: if workers die at one block, or while they start, again and again.
        """
        self._hands.remove(hand)
        ray.kill(hand.actor)
        self._work.display.advance(-hand.steps)
        if isinstance(error, ray.exceptions.OutOfMemoryError):  # its node has not the room for so many
            self._limit = max(1, len(self._hands))
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        numbers = [number for block in hand.blocks for number in block.left]
        self._work.display.event(
            "worker-lost",
            f"{hand.name} is lost; {counted(len(numbers), 'chunk')} of it go to others",
            worker=hand.name,
            chunks=numbers,
            why=why,
        )
        for block in reversed(hand.blocks):
            self._left.setdefault(self._work.plan.chunks[block.numbers[0]].program, collections.deque())
            self._left[self._work.plan.chunks[block.numbers[0]].program].appendleft(block)
        at = hand.blocks[0].left[0] if hand.blocks else -1
        if not hand.ready or hand.blocks:
            self._tries[at] += 1
        if self._tries[at] >= MAX_TRIES:
            what = f"at chunk {at}" if at >= 0 else "when they started"
            raise JaxstyleError("cluster", f"{MAX_TRIES} workers died {what}, the last one of {why}")

    def _save(self) -> None:
        """Have workers save their states, and take what they have done until then."""
        until = time.monotonic() + STOP_S
        for hand in self._hands:
            hand.actor.stop.remote()
        waiting = {ref for ref, (what, _) in self._refs.items() if what == "done"}
        while waiting and (left := until - time.monotonic()) > 0:
            for ref in ray.wait(list(waiting), timeout=left)[0]:
                waiting.remove(ref)
                with contextlib.suppress(Exception):  # what went wrong before is what is told of
                    self._take(ref)
