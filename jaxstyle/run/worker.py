"""Workers: they compute the chunks of a plan and commit them to the disk, in the order they are told to.

A `Worker` belongs to a process that has JAX. A run has one; a share of a run has one; a cluster has one
for every device. It takes no lock: whoever holds the run directory, or a share of it, hands out chunks.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxstyle.console import signals
from jaxstyle.console.progress import Teller
from jaxstyle.plan.cells import Cell
from jaxstyle.plan.chunks import Plan
from jaxstyle.plan.programs import Program
from jaxstyle.plan.stages import COARSE_EVALUATIONS
from jaxstyle.run.inputs import Inputs, picture_names
from jaxstyle.run.launcher import Launcher, LaunchResult, full_size_steps, target_keys, timed
from jaxstyle.run.results import chunk_results
from jaxstyle.run.unfinished import ELSEWHERE, Unfinished, begun_blocks, checkpoint_of, tell_aside
from jaxstyle.run.work import Block, Committed, OnProgram, Work, blocks
from jaxstyle.rundir import chunks, fingerprints
from jaxstyle.rundir.checkpoints import OTHER, Checkpoint
from jaxstyle.rundir.chunks import ChunkResult
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.image_files import write_images
from jaxstyle.rundir.picture_names import PictureNames
from jaxstyle.spec.errors import JaxstyleError

TARGETS_KEPT = 200
"""Number of targets above which a worker of a cluster keeps none for later blocks."""


class Worker:
    """Computes chunks of a plan on some devices, and puts them into a run directory.

    Args:
        inputs: the checked inputs of the run.
        plan: the plan of the run.
        devices: the devices to compute on.
        run: the run directory.
        display: is told of progress and events.
        seconds: sums by name that the time of every stage is added to.
        finished: numbers of the chunks that this worker is never given.
        on_program: see `OnProgram`.
        checkpoints: whether states of unfinished chunks are kept in the directory.
        beside: launches that a device advances at the same time (`planning.side_by_side`).
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
        beside: int = 1,
    ):
        self._inputs, self._run, self._display = inputs, run, display
        self._seconds, self._on_program, self._checkpoints = seconds, on_program, checkpoints
        self._left = {chunk.number for chunk in plan.chunks} - set(finished)
        self._names = picture_names(inputs)
        self.places, self._devices = len(devices) * beside, len(devices)
        """Number of launches that are computed together."""
        self.launcher = Launcher(inputs, plan, devices, seconds)
        self._steps_done = self._cost_done = 0.0
        """Image-steps done since the worker began, and their cost (`launcher.Advance`)."""

    @property
    def plan(self) -> Plan:
        """The plan, at the widths for which there is memory."""
        return self.launcher.plan

    # --- computing --------------------------------------------------------------------------------

    def make_ready(self, block: Block) -> Program:
        """Compile the program of a block, narrowed until it fits the device's memory, and return it."""
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
        """Halve the width of a chunk's program, for all chunks left, if `error` says that memory ran out.

        Raises:
            JaxstyleError: if one cell alone does not fit.
            RuntimeError: `error`, if it says something else.
        """
        program = self.launcher.program(number)
        self.launcher.narrow({n for n in self._left if self.launcher.program(n) == program}, error)
        self._display.event(
            "back-off",
            f"out of memory at batch width {program.width}: going on with {program.narrower.width}",
            shape=program.shape,
            width=program.narrower.width,
        )

    def _places(self, block: Block) -> int:
        """Number of launches of a block that are computed together."""
        return min(block.places or self.places, self.places)

    def _one_at_a_time(self, block: Block, program: Program, error: RuntimeError) -> bool:
        """Whether launches no longer run side by side on a CPU, because memory ran out when they did."""
        from jaxstyle.device.memory import is_out_of_memory

        if self._places(block) == self._devices or not is_out_of_memory(error):
            return False
        self.places = self._devices
        self._display.event(
            "back-off",
            "out of memory with launches side by side: going on with one at a time",
            shape=program.shape,
            width=program.width,
        )
        return True

    def compute(
        self, block: Block, *, asked_to_end: Callable[[], BaseException | None] = lambda: None
    ) -> list[LaunchResult]:
        """Compute the cells of a block; if memory runs out, begin it again with half the width.

        Args:
            block: what to compute.
            asked_to_end: called after every segment. An exception that it returns ends the computation
                once the state has been saved; one that it raises ends it at once.

        Returns:
            The launches of its chunks, with those that an earlier process finished but did not commit.

        Raises:
            signals.Interrupted: in a command, for a signal.
        """
        import jax

        seconds = self._seconds
        self._left -= {*block.numbers} - {*block.left}  # they keep their width
        needed = {cell for number in block.left for cell in self.plan.chunks[number].cells}
        while True:
            program = self.make_ready(block)
            spent, steps_before, cost_before = seconds["compute_s"], self._steps_done, self._cost_done
            kept = self._kept(block, program, needed)
            skipped = self._steps_kept(kept, program, needed)
            self._display.skip(skipped, skipped * program.step_cost)
            try:
                while len(kept.done) < len(kept.launches):
                    kept.finish(self._round(program, kept, needed, asked_to_end))
                    kept.pass_over(needed)
                self._left -= set(block.numbers)
                traced = self.launcher.made[program]
                self._on_program(program, traced)  # again, for the target programs are only counted now
                return kept.done
            except jax.errors.JaxRuntimeError as error:
                if not self._one_at_a_time(block, program, error):
                    self._narrow(block.left[0], error)
            # The failed launch is gone only here: until now the error's traceback held its memory.
            seconds["lost_s"] += seconds["compute_s"] - spent
            seconds["compute_s"] = spent
            self._display.advance(steps_before - self._steps_done, cost_before - self._cost_done)
            self._display.skip(-skipped, -skipped * program.step_cost)

    def forget(self, block: Block) -> None:
        """Drop targets that are unlikely to be used again, where the next block is not known."""
        own = {key for number in block.numbers for key in target_keys(self.plan, number)}
        many = self.launcher.targets_held > TARGETS_KEPT
        # Styles are small, and in a grid the same ones come again and again.
        self.launcher.drop_targets(lambda key: key not in own and (many or key[0] == "content"))

    def _rounds(self, numbers: Sequence[int], program: Program, places: int) -> list[list[list[Cell]]]:
        """The launches of chunks, in rounds of those that are computed together."""
        plan, width, n = self.plan, program.width, places
        every = [
            [plan.cells[i] for i in own[start : start + width]]
            for own in (plan.computed(plan.chunks[number]) for number in numbers)
            for start in range(0, len(own), width)
        ]
        return [every[start : start + n] for start in range(0, len(every), n)]

    def _kept(self, block: Block, program: Program, needed: Collection[int]) -> Unfinished:
        """State of a block as an earlier process left it, or of its start if nothing usable was kept."""
        every_s = program.checkpoint_s(self._inputs.sweep.checkpoint_every)
        places = self._places(block)
        of = checkpoint_of(self._run, self._inputs.sources, self.plan, block.numbers, places)
        kept = Unfinished(of, self._rounds(block.numbers, program, places), every_s)
        if self._checkpoints:
            try:
                kept.load(needed)
            except JaxstyleError as error:
                aside = kept.checkpoint.set_aside()
                self._display.event("set-aside", f"{error}; set aside as {aside.name}", aside=str(aside))
            if of.of_another:  # of a worker with other devices or code, or before memory ran out
                with contextlib.suppress(FileNotFoundError):  # another worker may have set it aside
                    tell_aside(self._display, of.set_aside(OTHER), ELSEWHERE)
        kept.pass_over(needed)
        if kept.progress is not None:
            ids = [cell.id for cells in kept.current for cell in cells if cell.id in needed]
            passes = kept.progress.passes
            self._display.event("continue", chunk=block.left[0], cells=ids, passes=passes)
        return kept

    def _steps_kept(self, kept: Unfinished, program: Program, needed: Collection[int]) -> float:
        """Image-steps of the full size that need not be done again, of the cells of some ids."""
        before = kept.launches[: len(kept.done)]
        done = sum(cell.id in needed for cells in before for cell in cells)
        steps = done * (program.coarse_image_steps + self.plan.steps[-1])
        if (progress := kept.progress) is not None:
            own = full_size_steps(program, progress.coarser, progress.passes)
            for coarser in range(progress.coarser + 1, program.coarser + 1):
                own += full_size_steps(program, coarser, COARSE_EVALUATIONS)
            steps += sum(cell.id in needed for cells in kept.current for cell in cells) * own
        return steps

    def _round(
        self,
        program: Program,
        kept: Unfinished,
        needed: Collection[int],
        asked_to_end: Callable[[], BaseException | None],
    ) -> list[LaunchResult]:
        """Compute the next round of launches; see `compute`.

        Only this frame holds their memory on the devices, so that it is freed with the error if memory
        runs out.
        """
        course = self.launcher.launch(kept.current, program, begin=kept.progress)
        cells = [cell.id for own in kept.current for cell in own]
        share = sum(cell in needed for cell in cells) / len(cells)  # the others are on the disk already
        with timed(self._seconds, "compute_s"), signals.signals_held() as asked:
            for image_steps, cost, progress in course:
                self._steps_done += image_steps * share
                self._cost_done += cost * share
                self._display.advance(image_steps * share, cost * share, image_steps / len(cells))
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

    # --- committing --------------------------------------------------------------------------------

    def commit(
        self,
        block: Block,
        parts: Sequence[LaunchResult],
        *,
        collect: bool = False,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Committed]:
        """Write the chunks of a block and their pictures to the disk; may run beside the next computation.

        Args:
            block: a block that has been computed.
            parts: its launches, as `compute` returned them.
            collect: return the bytes of the chunks' files instead of writing them.
            stop: asked before each picture whether to write no more: pictures can be rebuilt.
        """
        plan, inputs, found = self.plan, self._inputs, []
        for number in block.left:
            program = self.launcher.program(number)
            chunk = plan.chunks[number]
            own = [part for part in parts if part.cells[0].id in chunk.cells]  # a launch is of one chunk
            made = chunk_results(plan, chunk, inputs.sweep.keep, inputs.pictures, own)
            mark = fingerprints.fingerprint(inputs.sources, plan, number)
            data = chunks.chunk_bytes(made, width=program.width, fingerprint=mark)
            digest, diverged = hashlib.sha256(data).hexdigest(), list(_diverged(made))
            found.append(Committed(number, program, digest, diverged, data if collect else b""))
            if not collect:
                write_chunk(self._run, number, data, made, self._names, stop=stop)
                if self._checkpoints:
                    Checkpoint(self._run, number, "").clear()
        return found


def _diverged(results: Iterable[ChunkResult]) -> Iterator[tuple[int, int]]:
    for result in results:
        for index in np.flatnonzero(result.diverged_step >= 0):
            yield int(result.cell[index]), int(result.diverged_step[index])


def write_chunk(
    run: RunDirectory,
    number: int,
    data: bytes,
    results: Iterable[ChunkResult],
    names: PictureNames,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Write a chunk's file and its pictures into a run directory."""
    run.write(chunks.chunk_name(number), data)
    for result in results:
        write_images(run, result, names, stop=stop)


def compute(work: Work, devices: Sequence[Any], beside: int = 1) -> None:
    """Compute all of it on the devices of this process, writing a block while the next one is computed."""
    finished = {chunk.number for chunk in work.plan.chunks} - set(work.todo)
    sources, places = work.inputs.sources, len(devices) * beside
    about = {"devices": len(devices), "places": places}
    begun, plan = begun_blocks(work.run, sources, work.plan, work.todo, work.display, **about)

    def on_program(program: Program, stages: list[dict[str, Any]]) -> None:
        work.on_plan(worker.plan)
        work.on_program(program, stages)

    worker = Worker(
        work.inputs,
        plan,
        devices,
        work.run,
        work.display,
        seconds=work.seconds,
        finished=finished,
        on_program=on_program,
        beside=beside,
    )
    every = blocks(plan, work.todo, worker.places, begun)
    last_use = {key: i for i, b in enumerate(every) for n in b.numbers for key in target_keys(plan, n)}
    leaving = threading.Event()  # once set, pictures are no longer written: they can be rebuilt
    pending: Future[list[Committed]] | None = None

    def committed(before: Future[list[Committed]] | None) -> None:
        if before is not None:
            with timed(work.seconds, "wait_s"):
                done = before.result()
            for chunk in done:
                work.on_commit(chunk)

    def told() -> None:
        """Report the block before as soon as it is on the disk, and a full disk when it is full."""
        nonlocal pending
        if pending is not None and pending.done():
            before, pending = pending, None
            committed(before)

    def write(block: Block, parts: Sequence[LaunchResult]) -> list[Committed]:
        with timed(work.seconds, "store_s"):
            return worker.commit(block, parts, stop=leaving.is_set)

    with ThreadPoolExecutor(1, thread_name_prefix="jaxstyle-store") as writer:
        try:
            for position, block in enumerate(every):
                worker.make_ready(block)
                if not position:
                    work.start()
                parts = worker.compute(block, asked_to_end=told)
                before, pending = pending, writer.submit(write, block, parts)
                del parts
                committed(before)
                worker.launcher.drop_targets(lambda key, position=position: last_use[key] <= position)
            committed(pending)
        except BaseException:
            leaving.set()
            raise
