"""From a plan to chunks on the disk: what computes and commits, whoever says which chunk is next.

A `Worker` belongs to a process that has JAX. A run has one; a share of a run has one; a cluster has one
for every device. It takes no lock: whoever holds the run directory, or a share of it, hands out chunks.

With several devices so many chunks are computed together, a launch on each device: a *block*. What is in a
launch and in a chunk does not depend on how many devices there are.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxstyle import cli, fingerprints, grid, launches, store
from jaxstyle.errors import JaxstyleError
from jaxstyle.grid import Cell, Plan, Program
from jaxstyle.launches import Inputs, Launcher, target_keys, timed
from jaxstyle.manifest import code_digest
from jaxstyle.progress import Display, Teller
from jaxstyle.resume import Kept, Launched
from jaxstyle.store import Checkpoint, ChunkResult, RunDirectory

TARGETS_KEPT = 200
"""Targets that a worker of a cluster keeps for blocks to come."""
OnProgram = Callable[[Program, "list[dict[str, Any]]"], None]
"""Called with a program that is ready and what there is to say of its stages (`Launcher.made`)."""


@dataclass(frozen=True)
class Block:
    """Chunks of one program that are computed together."""

    numbers: tuple[int, ...]
    """All of them, by where they stand in the plan: the same after an interruption."""
    left: tuple[int, ...]
    """Those that are not on the disk yet."""


@dataclass(frozen=True)
class Committed:
    """A chunk that is done."""

    number: int
    program: Program
    """What it was computed by."""
    sha256: str
    """Of its file."""
    diverged: list[tuple[int, int]]
    """Cells that diverged, and at which step."""
    data: bytes = b""
    """Its file, where that is not on the disk yet."""


def blocks(plan: Plan, todo: Iterable[int], devices: int) -> list[Block]:
    """What is to be done of a plan, in order: of a program as many chunks at a time as devices."""
    found: dict[tuple[int, int], list[int]] = {}
    seen: dict[int, int] = {}
    for chunk in plan.chunks:
        rank = seen[chunk.program] = seen.get(chunk.program, -1) + 1
        found.setdefault((chunk.program, rank // devices), []).append(chunk.number)
    wanted = set(todo)
    every = (Block(tuple(n), tuple(number for number in n if number in wanted)) for n in found.values())
    return [block for block in every if block.left]


class Worker:
    """Computes chunks of a plan on some devices, and puts them into a run directory.

    Args:
        inputs: what cells are computed from.
        plan: of the run.
        devices: where.
        run: the directory.
        display: what is told how it comes along.
        seconds: sums by name that the time of every stage is added to.
        finished: numbers of chunks that are no concern of it.
        on_program: see `OnProgram`.
        checkpoints: whether states of unfinished chunks are kept in the directory.
    """

    def __init__(
        self,
        inputs: Inputs,
        plan: Plan,
        devices: Sequence[Any],
        run: RunDirectory,
        display: Teller,
        *,
        seconds: dict[str, float],
        finished: Collection[int] = (),
        on_program: OnProgram = lambda program, stages: None,
        checkpoints: bool = True,
    ):
        self._inputs, self._run, self._display = inputs, run, display
        self._seconds, self._on_program, self._checkpoints = seconds, on_program, checkpoints
        self._left = {chunk.number for chunk in plan.chunks} - set(finished)
        self.devices = tuple(devices)
        self.launcher = Launcher(inputs, plan, self.devices, seconds)
        self._steps_done = 0.0
        """Image-steps since it began."""

    @property
    def plan(self) -> Plan:
        """What is being done, at the widths that there is memory for."""
        return self.launcher.plan

    # --- computing --------------------------------------------------------------------------------

    def make_ready(self, block: Block) -> Program:
        """The program of a block, compiled: narrower if the device has no memory for it."""
        import jax

        number = block.left[0]
        while (program := self.launcher.program(number)) not in self.launcher.made:
            self._display.event("compile", f"compiling the {program.shape} step", shape=program.shape)
            try:
                self.launcher.compile(program)
            except jax.errors.JaxRuntimeError as error:
                self._narrow(number, error)
            else:
                self._on_program(program, self.launcher.made[program])
        return program

    def _narrow(self, number: int, error: RuntimeError) -> None:
        """Halve the width of a chunk and of those not begun, if `error` says that memory ran out.

        Raises:
            JaxstyleError: if one cell alone does not fit.
            RuntimeError: `error`, if it says something else.
        """
        program = self.launcher.program(number)
        self.launcher.narrow({n for n in self._left if self.launcher.program(n) == program}, error)
        self._display.event(
            "back-off",
            f"out of memory at batch width {program.width}: going on with {program.width // 2}",
            shape=program.shape,
            width=program.width // 2,
        )

    def compute(
        self, block: Block, *, asked_to_end: Callable[[], BaseException | None] = lambda: None
    ) -> list[Launched]:
        """Compute the cells of a block, from its start again with half the width if memory runs out.

        Args:
            block: what to compute.
            asked_to_end: asked after every segment for an exception that ends the computation when its
                state has been saved; what it raises itself ends it at once.

        Returns:
            The launches of its chunks, and of those that an earlier process finished but did not commit.

        Raises:
            cli.Interrupted: in a command, for a signal.
        """
        import jax

        seconds = self._seconds
        while True:
            program = self.make_ready(block)
            spent, steps_before = seconds["compute_s"], self._steps_done
            kept = self._kept(block, program)
            skipped = self._steps_kept(kept, program)
            self._display.skip(skipped)
            try:
                while len(kept.done) < len(kept.launches):
                    kept.finish(self._round(program, kept, asked_to_end))
                self._left -= set(block.numbers)
                traced = self.launcher.made[program]
                self._on_program(program, traced)  # which knows now how many target programs it took
                return kept.done
            except jax.errors.JaxRuntimeError as error:
                self._narrow(block.left[0], error)
            # Only here is the failed launch gone: the error's traceback held what it had allocated.
            seconds["lost_s"] += seconds["compute_s"] - spent
            seconds["compute_s"] = spent
            self._display.advance(steps_before - self._steps_done)
            self._display.skip(-skipped)

    def forget(self, block: Block) -> None:
        """Drop targets that a worker which does not know its next block had better not keep."""
        own = {key for number in block.numbers for key in target_keys(self.plan, number)}
        many = self.launcher.targets_held > TARGETS_KEPT
        # Styles are small, and in a grid the same ones come again and again.
        self.launcher.drop_targets(lambda key: key not in own and (many or key[0] == "content"))

    def _rounds(self, numbers: Sequence[int], program: Program) -> list[list[list[Cell]]]:
        """The launches of chunks, one a device at a time."""
        plan, width, n = self.plan, program.width, len(self.devices)
        every = [
            [plan.cells[i] for i in own[start : start + width]]
            for own in (plan.computed(plan.chunks[number]) for number in numbers)
            for start in range(0, len(own), width)
        ]
        return [every[start : start + n] for start in range(0, len(every), n)]

    def _checkpoint(self, numbers: Sequence[int]) -> Checkpoint:
        marks = [fingerprints.fingerprint(self._inputs.sources, self.plan, number) for number in numbers]
        several = f" on {len(self.devices)}" if len(self.devices) > 1 else ""
        # Another version of the code may keep other things.
        # The last chunk of a block is the last to be on the disk, and takes its checkpoint away.
        return Checkpoint(self._run, numbers[-1], "".join(marks) + code_digest() + several)

    def _kept(self, block: Block, program: Program) -> Kept:
        """A block as an earlier process left it; from its start where there is nothing that can be used."""
        every_s = program.checkpoint_s(self._inputs.sweep.checkpoint_every)
        kept = None
        for numbers in dict.fromkeys((block.numbers, block.left)):
            kept = Kept(self._checkpoint(numbers), self._rounds(numbers, program), every_s)
            if not self._checkpoints:
                continue
            try:
                kept.load()
            except JaxstyleError as error:
                aside = kept.checkpoint.set_aside()
                self._display.event("set-aside", f"{error}; set aside as {aside.name}", aside=str(aside))
            if kept.done or kept.progress is not None:
                break
        assert kept is not None
        if kept.progress is not None:
            ids, passes = [cell.id for cells in kept.current for cell in cells], kept.progress.passes
            self._display.event("continue", chunk=block.left[0], cells=ids, passes=passes)
        return kept

    def _steps_kept(self, kept: Kept, program: Program) -> float:
        """Image-steps, of the full size, that need not be done again."""
        done = sum(map(len, kept.launches[: len(kept.done)]))
        steps = done * (program.coarse_image_steps + self.plan.steps[-1])
        if (progress := kept.progress) is not None:
            own = launches.worth(program, progress.coarser, progress.passes)
            for coarser in range(progress.coarser + 1, program.coarser + 1):
                own += launches.worth(program, coarser, grid.COARSE_EVALUATIONS)
            steps += sum(map(len, kept.current)) * own
        return steps

    def _round(
        self, program: Program, kept: Kept, asked_to_end: Callable[[], BaseException | None]
    ) -> list[Launched]:
        """Compute the launches that are next; see `compute`.

        What holds their memory on the devices is here alone, and goes with the error if that runs out.
        """
        course = self.launcher.launch(kept.current, program, begin=kept.progress)
        with timed(self._seconds, "compute_s"), cli.signals_held() as asked:
            for image_steps, progress in course:
                self._steps_done += image_steps
                self._display.advance(image_steps)
                stop = asked_to_end() or asked()
                if self._checkpoints and (kept.is_due() or stop is not None):
                    seconds = kept.save(progress())
                    self._seconds["checkpoint_s"] += seconds
                    self._seconds["compute_s"] -= seconds
                    ids = [cell.id for cells in kept.current for cell in cells]
                    self._display.event("checkpoint", cells=ids, seconds=seconds)
                if stop is not None:
                    raise stop
        return course.outcome

    # --- what has been computed --------------------------------------------------------------------

    def commit(
        self,
        block: Block,
        parts: Sequence[Launched],
        *,
        collect: bool = False,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Committed]:
        """Put the chunks of a block and their pictures on the disk; may run beside the next computation.

        Args:
            block: which has been computed.
            parts: what it came to.
            collect: give the chunks' files back instead.
            stop: asked before each picture; they can be rebuilt.
        """
        plan, inputs, found = self.plan, self._inputs, []
        for number in block.left:
            program = self.launcher.program(number)
            chunk = plan.chunks[number]
            own = [part for part in parts if part.cells[0].id in chunk.cells]  # no launch is of two chunks
            made = launches.chunk_results(plan, chunk, inputs.sweep.keep, inputs.pictures, own)
            mark = fingerprints.fingerprint(inputs.sources, plan, number)
            data = store.chunk_bytes(made, width=program.width, fingerprint=mark)
            digest, diverged = hashlib.sha256(data).hexdigest(), list(_diverged(made))
            found.append(Committed(number, program, digest, diverged, data if collect else b""))
            if not collect:
                put(self._run, number, data, made, stop=stop)
                if self._checkpoints:
                    Checkpoint(self._run, number, "").clear()
        return found


def _diverged(results: Iterable[ChunkResult]) -> Iterator[tuple[int, int]]:
    for result in results:
        for index in np.flatnonzero(result.diverged_step >= 0):
            yield int(result.cell[index]), int(result.diverged_step[index])


def put(
    run: RunDirectory,
    number: int,
    data: bytes,
    results: Iterable[ChunkResult],
    *,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Put a chunk's file and its pictures into a run directory."""
    run.write(store.chunk_name(number), data)
    for result in results:
        store.write_images(run, result, stop=stop)


@dataclass(frozen=True)
class Work:
    """What there is to compute of a run, and who is told what comes of it."""

    inputs: Inputs
    plan: Plan
    todo: Sequence[int]
    """Numbers of chunks."""
    run: RunDirectory
    run_id: str
    display: Display
    seconds: dict[str, float]
    """Sums by name that the time of every stage is added to."""
    start: Callable[[], None]
    """Called when the first program is compiled."""
    on_plan: Callable[[Plan], None]
    """Called when widths have changed for want of memory."""
    on_program: OnProgram
    on_commit: Callable[[Committed], None]
    """Called when a chunk is on the disk."""
    workers: dict[str, dict[str, Any]]
    """What each worker of a cluster has done, by its name, to be filled in."""


def compute(work: Work, devices: Sequence[Any]) -> None:
    """All of it on the devices of this process, a chunk being written while the next one is computed."""
    finished = {chunk.number for chunk in work.plan.chunks} - set(work.todo)

    def on_program(program: Program, stages: list[dict[str, Any]]) -> None:
        work.on_plan(worker.plan)
        work.on_program(program, stages)

    worker = Worker(
        work.inputs,
        work.plan,
        devices,
        work.run,
        work.display,
        seconds=work.seconds,
        finished=finished,
        on_program=on_program,
    )
    every = blocks(work.plan, work.todo, len(devices))
    keys = ((key, i) for i, b in enumerate(every) for n in b.left for key in target_keys(work.plan, n))
    last_use = dict(keys)
    leaving = threading.Event()  # what can be rebuilt is no longer written then
    pending: Future[list[Committed]] | None = None

    def committed(before: Future[list[Committed]] | None) -> None:
        if before is not None:
            with timed(work.seconds, "wait_s"):
                done = before.result()
            for chunk in done:
                work.on_commit(chunk)

    def not_written() -> None:
        if pending is not None and pending.done():
            pending.result()  # a full disk is told of now and not when this chunk is done

    def write(block: Block, parts: Sequence[Launched]) -> list[Committed]:
        with timed(work.seconds, "store_s"):
            return worker.commit(block, parts, stop=leaving.is_set)

    with ThreadPoolExecutor(1, thread_name_prefix="jaxstyle-store") as writer:
        try:
            for position, block in enumerate(every):
                worker.make_ready(block)
                if not position:
                    work.start()
                parts = worker.compute(block, asked_to_end=not_written)
                before, pending = pending, writer.submit(write, block, parts)
                del parts
                committed(before)
                worker.launcher.drop_targets(lambda key, position=position: last_use[key] <= position)
            committed(pending)
        except BaseException:
            leaving.set()
            raise
