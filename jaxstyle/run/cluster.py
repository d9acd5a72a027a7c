"""A Ray cluster as the place where a run is computed: a worker for every device, one chunk after another.

Ray places workers, reports when one has died, and carries the messages to and from them. The process that
the user started, the driver, needs no JAX: it holds the run directory, hands out chunks, writes events and
shows the progress. A worker keeps weights, targets and compiled programs, and commits whole chunks into the
run directory, or ships them to the driver if it does not see that directory.

A chunk's bytes follow from the plan alone. So whatever happens to a worker, to its machine or to the
network, its chunk is given to another one; that two may work on it for a while does no harm.

Imported only when a cluster is asked for.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import ray  # pyright: ignore[reportMissingImports]
import ray.exceptions  # pyright: ignore[reportMissingImports]

from jaxstyle.console import early, signals
from jaxstyle.console.progress import Display, counted
from jaxstyle.plan.chunks import Plan
from jaxstyle.plan.programs import Program
from jaxstyle.run import worker
from jaxstyle.run.inputs import Inputs, picture_names
from jaxstyle.run.planning import Planned
from jaxstyle.run.ray_nodes import (
    WorkerHandle,
    WorkerNeeds,
    as_begun,
    error_cause,
    error_text,
    join,
    plain_inputs,
    print_worker_logs,
    worker_needs,
)
from jaxstyle.run.ray_worker import FinishedBlock, RemoteWorker, TellerCall
from jaxstyle.run.unfinished import begun_blocks
from jaxstyle.run.work import Block, Committed, Work, blocks
from jaxstyle.rundir import manifest
from jaxstyle.rundir.checkpoints import Checkpoint
from jaxstyle.rundir.chunks import chunk_name, chunk_parts
from jaxstyle.spec import plugins
from jaxstyle.spec.errors import JaxstyleError, UnfitEnvironment
from jaxstyle.spec.settings import RunOptions, Sweep

POLL_S = 0.5
"""Seconds between looks around: workers are asked for progress, and the cluster for room for more."""
ASK_S = 0.01
"""Least time between looks around for each worker, in seconds: an answer costs the driver a few ms."""
STOP_S = 3.0
"""Seconds that workers may take to save their states when the run is to end."""
PATIENCE_S = 15.0
"""Seconds without an answer of a first worker after which a note says so."""
MAX_TRIES = 8
"""Number of deaths of workers in a row, at one chunk or while they start, that end the run."""
WRITERS, BACKLOG = 4, 16
"""Threads that write chunks that workers have shipped, and chunks from which no more are handed out."""
AHEAD = 2
"""Number of blocks that a worker has at a time: one is written while the next one is computed."""


class Cluster:
    """A Ray cluster that this process is connected to, or has started for itself. A `site.Site`.

    Args:
        options: options of the run: the cluster, the number of workers, whether chunks are shipped.

    Raises:
        JaxstyleError: on entering it, if there is no such cluster or Ray fails to start one.
    """

    def __init__(self, options: RunOptions):
        self.options = options
        self._note = functools.partial(
            Display(quiet=options.quiet, log_format=options.log_format).event, "note"
        )
        self.first: WorkerHandle | None = None
        """The worker that has planned the run."""
        self._made, self._needs = 0, WorkerNeeds("CPU", 1)
        self._environment: dict[str, str] = {}
        self._sweep, self._before = Sweep(), {}
        self._files: dict[str, bytes] = {}
        self.devices = self.places = 1
        """Number of devices of each worker, and of launches that the first one computes together."""
        self.machine: dict[str, Any] = {}  # of the first worker that answered

    def __enter__(self) -> Cluster:
        address, handlers = str(self.options.cluster), {n: signal.getsignal(n) for n in early.SIGNALS}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray's next default; without it Ray warns of the change.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Otherwise a raylet's complaints would still be printed between the lines of the run.
        if not print_worker_logs(False):
            self._note(f"Ray {ray.__version__} lets nobody silence its workers; it may print between lines")
        try:
            join(address)
        except JaxstyleError:
            print_worker_logs(True)
            raise
        except (signals.Interrupted, SystemExit) as stop:  # the latter of Ray's own handler of SIGTERM
            ray.shutdown()
            raise signals.Interrupted(getattr(stop, "number", signal.SIGTERM)) from None
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():  # Ray replaces one of them
                    signal.signal(number, handler)
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        ray.shutdown()
        print_worker_logs(True)
        if error is not None and isinstance(error, ray.exceptions.RayError):
            raise JaxstyleError("cluster", error_text(error)) from error

    def room(self) -> int:
        """Number of workers to ask for: the user's number, or as many as there is room for."""
        return self.options.devices or self._needs.room()

    def new_worker(self) -> WorkerHandle:
        """Ask Ray for one more worker; it starts as soon as there is room for it."""
        self._made += 1
        actor = ray.remote(RemoteWorker).options(
            **self._needs.options,
            max_concurrency=AHEAD + 3,
            max_restarts=0,  # a chunk must not wait for room for the worker that had it
            runtime_env={"env_vars": self._environment},
        )
        options = RunOptions(no_compile_cache=self.options.no_compile_cache)
        return WorkerHandle(
            f"worker {self._made}", actor.remote(options, self._sweep, self._before, self._files)
        )

    # --- planning ---------------------------------------------------------------------------------

    def start(self, sweep: Sweep, before: Mapping[str, Any]) -> dict[str, Any]:
        """Start a first worker; return the facts of `manifest.machine` about it."""
        self._sweep, self._before = sweep, {key: before[key] for key in before if key == "threads"}
        self._files = plugins.sources(sweep)
        self._needs, threads = worker_needs(self.options.devices, before.get("threads"))
        self._environment = manifest.environment()
        if "XDG_CACHE_HOME" in os.environ:
            self._environment["XDG_CACHE_HOME"] = os.environ["XDG_CACHE_HOME"]
        if self._needs.resource == "CPU":
            self._environment |= {"NPROC": str(threads), "JAX_PLATFORMS": "cpu"}
        # Nodes may join any cluster but this machine's own, for as many workers as `--devices` asks for.
        local = self.options.cluster == "local"
        if not (self._needs.room() if local else self.room()):
            mend = f"set NPROC={threads}" if local else "add one"
            raise JaxstyleError("cluster", f"no node has the {self._needs} that a worker needs; {mend}")
        machine = self._call(lambda hand: hand.actor.machine.remote())
        if self._needs.resource != "CPU" and machine["device"]["platform"] == "cpu":
            raise UnfitEnvironment(
                "cluster",
                f"a worker holds {self._needs} and computes on a CPU; install jaxstyle on its node with the"
                " extra for its devices, or set JAX_PLATFORMS=cpu",
            )
        self.devices, self.machine = machine["device"]["used"], as_begun(machine)
        return self.machine

    def _call(self, call: Callable[[WorkerHandle], Any]) -> Any:
        """Result of a call of the first worker, or of another one if that dies."""
        patience = math.inf if self.machine else time.monotonic() + PATIENCE_S
        with signals.signals_held() as asked:
            for left in range(MAX_TRIES - 1, -1, -1):
                self.first = self.first or self.new_worker()
                try:
                    ref = call(self.first)
                    while not ray.wait([ref], timeout=POLL_S)[0]:
                        if (stop := asked()) is not None:
                            raise stop
                        if time.monotonic() > patience:
                            self._note(f"no worker yet: no node has {self._needs} free, or it is starting")
                            patience = math.inf
                    return ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(cause := error_cause(error), JaxstyleError):
                        raise cause from None
                    raise JaxstyleError("cluster", f"a worker failed: {error_text(error)}") from error
                except ray.exceptions.RayError as error:
                    ray.kill(self.first.actor)
                    self.first = None
                    if not left:
                        raise JaxstyleError("cluster", f"no worker starts: {error_text(error)}") from error
        raise AssertionError

    def plan(self, inputs: Inputs, before: Plan | None, width: int | None = None) -> tuple[Sweep, Planned]:
        """The measured sweep and its plan, made by the first worker for as many as there may be."""
        sent, workers = ray.put(plain_inputs(inputs)), max(1, self.room())
        sweep, planned = self._call(lambda hand: hand.actor.plan.remote(sent, before, width, workers))
        self.places = planned.devices * planned.beside
        return sweep, replace(planned, devices=workers * planned.devices)

    def compute(self, work: Work) -> None:
        """Hand out chunks until all are done."""
        _ClusterRun(self, work).compute()


class _ClusterRun:
    """A run while a cluster computes it.

    Args:
        cluster: the cluster.
        work: the work of the run.
    """

    def __init__(self, cluster: Cluster, work: Work):
        kept = () if cluster.options.collect else work.todo
        about = {"devices": cluster.devices, "places": cluster.places}
        begun, plan = begun_blocks(work.run, work.inputs.sources, work.plan, kept, work.display, **about)
        self._cluster, self._work = cluster, replace(work, plan=plan)
        work.on_plan(plan)
        self._hands: list[WorkerHandle] = []
        self._refs: dict[Any, tuple[str, WorkerHandle, Block | None]] = {}
        """Awaited answers: what each says (`ready`, `done` or `told`), its worker and its block."""
        self._inputs, self._plan = ray.put(plain_inputs(work.inputs)), ray.put(plan)
        self._names = picture_names(work.inputs)
        self._tries: collections.Counter[int] = collections.Counter()
        """Number of workers that have died since a block was last done, by the first chunk of their block;
        under -1 those that died when they started, since one last started."""
        self._left: dict[int, collections.deque[Block]] = {}
        """Blocks that no worker has been given yet, by their program."""
        for own in blocks(plan, work.todo, cluster.devices, begun):
            self._left.setdefault(self._program(own), collections.deque()).append(own)
        self._flops = {number: work.plan.chunk_flops(number) for number in work.todo}
        self._limit = 2**31
        """Limit of the number of workers, lowered where nodes run out of memory or start none."""
        self._compiling: set[str] = set()
        self._programs: dict[Program, list[dict[str, Any]]] = {}
        self._began, self._asked, self._waits, self._machine = False, -POLL_S, False, cluster.machine
        self._seconds: dict[str, dict[str, float]] = {}
        """Seconds by stage that each worker reported last."""
        self._committed: set[int] = set()
        self._writer = ThreadPoolExecutor(WRITERS, thread_name_prefix="jaxstyle-store")
        self._news = threading.Event()  # set when a shipped chunk has been written
        self._writing: list[tuple[Future[None], Committed]] = []
        """Chunks that were shipped and are not on the disk yet."""

    def _program(self, block: Block) -> int:
        return self._work.plan.chunks[block.numbers[0]].program

    def compute(self) -> None:
        """Hand out blocks and take their results until every block is done."""
        if self._cluster.first is not None:
            self._prepare(self._cluster.first)
        try:
            with signals.signals_held() as asked:
                while self._todo or self._writing or any(hand.blocks for hand in self._hands):
                    if (stop := asked()) is not None:
                        raise stop
                    self._look_around()
                    self._hand_out()
                    if self._refs:
                        for ref in ray.wait(list(self._refs), timeout=POLL_S)[0]:
                            self._take(ref)
                    else:  # wait until a chunk is written, or it is time to look for room
                        self._news.wait(POLL_S)
                        self._news.clear()
                    self._written()
            assert self._committed >= set(self._work.todo)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to report
                self._save()
            raise
        finally:
            self._writer.shutdown(cancel_futures=True)
            for hand in self._hands:
                with contextlib.suppress(Exception):
                    ray.kill(hand.actor)

    @property
    def _todo(self) -> int:
        return sum(map(len, self._left.values()))

    # --- workers ----------------------------------------------------------------------------------

    def _prepare(self, hand: WorkerHandle) -> None:
        self._hands.append(hand)
        run, collect = self._work.run.path.absolute(), self._cluster.options.collect
        ref = hand.actor.prepare.remote(self._inputs, self._plan, run, self._work.run_id, collect)
        self._refs[ref] = "ready", hand, None

    def _look_around(self) -> None:
        """At intervals, ask workers for their reports, and take on more workers where there is room."""
        if time.monotonic() - self._asked < max(POLL_S, ASK_S * len(self._hands)):
            return
        self._asked = time.monotonic()
        for hand in self._hands:
            if hand.blocks and not hand.telling:
                hand.telling = True
                self._refs[hand.actor.told.remote()] = "told", hand, None
        room = self._cluster.room()
        most = min(self._limit, room, self._todo + sum(bool(hand.blocks) for hand in self._hands))
        while len(self._hands) < most:
            self._prepare(self._cluster.new_worker())
        if self._todo and not self._hands and not self._waits:
            self._work.display.event("note", "no node has room for a worker; waiting for one that has")
        self._waits = not self._hands

    def _hand_out(self) -> None:
        """Give a block to each idle worker and, while many are left, a second one to busy workers."""
        if len(self._writing) >= BACKLOG:
            return
        idle = [hand for hand in self._hands if hand.ready and not hand.blocks]
        busy = [hand for hand in self._hands if hand.ready and len(hand.blocks) == 1]
        for hand in [*idle, *(busy if self._todo > 2 * len(self._hands) else ())]:
            if (block := self._next(hand)) is None:
                return
            hand.blocks.append(block)
            self._refs[hand.actor.block.remote(block)] = "done", hand, block

    def _next(self, hand: WorkerHandle) -> Block | None:
        """The next block of a worker: of its last program, or of the one with the most work per worker."""
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

    # --- answers of workers -----------------------------------------------------------------------

    def _take(self, ref: Any) -> None:
        what, hand, block = self._refs.pop(ref)
        if hand not in self._hands:
            return
        try:
            value: Any = ray.get(ref)
        except ray.exceptions.RayError as error:
            cause = error_cause(error)
            alone = not any(other.ready for other in self._hands)
            if isinstance(cause, JaxstyleError) and (what != "ready" or alone):
                where = self._work.workers.get(hand.name, {}).get("where")
                raise (cause.with_mend(f"that was process {where}") if where else cause) from None
            self._lose(hand, error)
            return
        if what == "ready":
            self._welcome(hand, value)
        elif what == "told":
            hand.telling = False
            self._relay(hand, value)
        elif value is not None:
            assert block is not None
            self._finish(hand, block, value)

    def _welcome(self, hand: WorkerHandle, machine: dict[str, Any]) -> None:
        """Take on a worker that is ready, if it computes on the same platform as the first one."""
        machine, display = as_begun(machine), self._work.display
        had, has = self._machine["device"]["platform"], machine["device"]["platform"]
        if had != has:
            self._lose(hand, RuntimeError(f"it computes on a {has}, the run on a {had}"))
            return
        about = {"where": machine["where"], "device": machine["device"]["kind"]}
        about |= {"devices": machine["device"]["used"], "threads": machine["threads"]}
        hand.ready, self._tries[-1] = True, 0
        self._work.workers[hand.name] = {**about, "chunks": 0, "cells": 0, "seconds": {}}
        display.event("worker", worker=hand.name, **about)
        for change in manifest.changes(self._machine, machine):
            display.event("note", f"{hand.name}: {change}: its last bits may differ", worker=hand.name)
        if not self._began:
            self._began = True
            self._work.start()

    def _relay(self, hand: WorkerHandle, told: Iterable[TellerCall]) -> None:
        """Pass a worker's reports on to the display of the run."""
        display = self._work.display
        for name, arguments, values in told:
            if name == "program":
                self._on_program(*arguments)
            elif name == "advance":
                hand.steps += arguments[0]
                display.advance(*arguments)
            elif name == "skip":
                hand.skipped += arguments[0]
                display.skip(*arguments)
            else:
                event, line = arguments
                if event == "compile":  # every worker compiles: print the line once
                    line = None if values["shape"] in self._compiling else line
                    self._compiling.add(values["shape"])
                elif line is not None:
                    line = f"{hand.name}: {line}"
                display.event(event, line, worker=hand.name, **values)

    def _on_program(self, program: Program, stages: Sequence[dict[str, Any]]) -> None:
        """Report a program once, and again when one worker took more for it than the others did."""
        most = [dict(stage) for stage in self._programs.get(program, stages)]
        for one, told in zip(most, stages, strict=True):
            one |= {k: max(one[k], v) for k, v in told.items() if isinstance(v, int) and k != "shape"}
        if most != self._programs.get(program):
            self._programs[program] = most
            self._work.on_program(program, most)

    def _finish(self, hand: WorkerHandle, block: Block, done: FinishedBlock) -> None:
        """Take note of a block that is done, and commit its chunks."""
        work = self._work
        self._relay(hand, done.told)
        hand.blocks.remove(block)
        hand.steps, hand.skipped = hand.steps - done.steps, hand.skipped - done.skipped
        self._tries = collections.Counter({-1: self._tries[-1]})
        about, before = work.workers[hand.name], self._seconds.get(hand.name, {})
        for name, spent in done.seconds.items():
            work.seconds[name] = work.seconds.get(name, 0.0) + spent - before.get(name, 0.0)
        self._seconds[hand.name] = done.seconds
        about["seconds"] = {name: round(spent, 3) for name, spent in done.seconds.items()}
        for chunk in done.chunks:
            about["chunks"] += 1
            about["cells"] += len(work.plan.chunks[chunk.number].cells)
            if chunk.data:
                written = self._writer.submit(self._write, chunk)
                written.add_done_callback(lambda _: self._news.set())
                self._writing.append((written, chunk))
            else:
                self._commit(chunk)

    def _write(self, chunk: Committed) -> None:
        """Write a shipped chunk to the disk; runs in a thread."""
        run = self._work.run
        results = chunk_parts(chunk.data, run.path / chunk_name(chunk.number))
        worker.write_chunk(run, chunk.number, chunk.data, results, self._names)
        Checkpoint(run, chunk.number, "").clear()  # if the run was begun without shipping

    def _written(self) -> None:
        """Commit the shipped chunks that are on the disk now."""
        there = [pair for pair in self._writing if pair[0].done()]
        self._writing = [pair for pair in self._writing if pair not in there]
        for future, chunk in there:
            future.result()
            self._commit(chunk)

    def _commit(self, chunk: Committed) -> None:
        self._committed.add(chunk.number)
        self._work.on_commit(replace(chunk, data=b""))

    def _lose(self, hand: WorkerHandle, error: Exception) -> None:
        """Drop a worker that has died, or whose machine has, and leave its blocks to others.

        Raises:
            JaxstyleError: if workers die at one block, or while they start, and nothing else is done.
        """
        self._hands.remove(hand)
        ray.kill(hand.actor)
        display, ready = self._work.display, sum(other.ready for other in self._hands)
        display.advance(-hand.steps)
        display.skip(-hand.skipped)
        numbers, why = [number for block in hand.blocks for number in block.left], error_text(error)
        what = f"; others take over {counted(len(numbers), 'chunk')} of its work" if numbers else ""
        display.event(
            "worker-lost", f"{hand.name} is lost{what} ({why})", worker=hand.name, chunks=numbers, why=why
        )
        for block in reversed(hand.blocks):
            self._left.setdefault(self._program(block), collections.deque()).appendleft(block)
        if isinstance(error, ray.exceptions.OutOfMemoryError):  # its node has no memory for so many
            self._limit = max(1, len(self._hands))
        at = hand.blocks[0].left[0] if hand.blocks else -1
        self._tries[at] += not hand.ready or bool(hand.blocks)
        if self._tries[at] < MAX_TRIES:
            return
        if at < 0 and ready:  # no worker can start on some node: go on with those that work
            self._limit, self._tries[at] = ready, 0
            display.event("note", f"workers do not start: {why}; going on with {ready}")
            return
        what = f"at chunk {at}" if at >= 0 else "when they started"
        raise JaxstyleError("cluster", f"{MAX_TRIES} workers died {what}, the last one of {why}")

    def _save(self) -> None:
        """Have workers save their states, and take the blocks that they finish until then."""
        until = time.monotonic() + STOP_S
        for hand in self._hands:
            hand.actor.stop.remote()
        waiting = {ref for ref, (what, _, _) in self._refs.items() if what == "done"}
        while waiting and (left := until - time.monotonic()) > 0:
            for ref in ray.wait(list(waiting), timeout=left)[0]:
                waiting.remove(ref)
                with contextlib.suppress(Exception):
                    self._take(ref)
        for future, _ in self._writing:
            with contextlib.suppress(Exception):
                future.result(timeout=max(0.0, until - time.monotonic()))
        self._written()
