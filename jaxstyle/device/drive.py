"""A launch: its inputs, its progress and its results, driven in segments of about a second.

Snapshots and the last step fall on segment ends. Neither the number of steps nor the ends of segments
change the compiled program or a byte of the result. Images are RGB, 0 to 255, float32, in the upper left
corner of their program's canvas if it has one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxstyle.cell.state import Info, Knobs, State, Targets
from jaxstyle.device.jax_settings import default_settings
from jaxstyle.plan.programs import Program

SEGMENT_PASSES = 1024
"""Passes that fit into the buffer for a segment's losses: the greatest length of a segment."""
SEGMENT_SECONDS = 1.0
"""Seconds that a segment is meant to take."""


class Stage(NamedTuple):
    """The inputs of a launch's cells in one stage, as host arrays with a leading axis of cells."""

    knobs: Knobs
    targets: Targets


class Launch(NamedTuple):
    """The cells of one launch, as host arrays with a leading axis of at most `program.width`.

    Launches that run side by side are joined into one, with `program.width` rows for each (`side_by_side`).
    """

    knobs: Knobs
    start: Float[np.ndarray, "cells h w 3"]
    """The RGB images that the cells start from, without their noise, on the canvas of their first stage."""
    targets: Targets
    coarser: tuple[Stage, ...] = ()
    """The stages before the full size, coarsest first."""


class Progress(NamedTuple):
    """The progress of a launch: together with the launch, all that is needed to go on to the same bytes."""

    coarser: int
    """Number of halvings by which the current stage is coarser than the full size."""
    passes: int
    """Passes done in that stage."""
    state: tuple[np.ndarray, ...]
    """The leaves of the `State` of its cells."""
    images: tuple[np.ndarray, ...]
    """The snapshots already taken: arrays (cells, h, w, 3)."""
    infos: tuple[Info, ...]
    """The losses at full size: arrays (passes, cells) and (passes, cells, style taps)."""


class Segment(NamedTuple):
    """A segment that a launch has completed."""

    coarser: int
    """Number of halvings by which its stage is coarser than the full size."""
    passes: int
    """Passes done in this segment."""
    progress: Callable[[], Progress]
    """Function that fetches the progress of the launch; to be called before the launch continues."""


class Outcome(NamedTuple):
    """The results of one launch, in the order of its cells."""

    images: Float[np.ndarray, "cells snapshots h w 3"]
    """Images on the program's canvas; pixels outside a cell's own extent are meaningless."""
    info: Info
    """Losses of steps 0 to N: arrays (cells, N+1) and (cells, N+1, style taps)."""
    diverged_step: Int[np.ndarray, " cells"]
    """The first step without a finite loss, or -1."""


class Part(NamedTuple):
    """The cells of a launch that one execution of the program advances, on one device or on a mesh."""

    knobs: Knobs
    state: State
    advance: Callable[..., tuple[State, Info]]
    """Function of a state, a first pass and a pass to stop before, which returns the state after these
    passes and their losses."""


class Drive:
    """One stage of a launch, driven in segments.

    Several parts are advanced at the same time, each by a thread of its own, because a CPU runs what one
    thread asks for one after the other. They share its cores: while one part is in an operation that cannot
    use all of them, or waits for its slowest thread, another goes on.

    Args:
        program: program of the stage.
        coarser: number of halvings by which the stage is coarser than the full size.
        parts: its cells, on the devices.
        rate: FLOP/s assumed for the length of the first segment.
        images: snapshots that the launch has taken; the caller appends to them.
        infos: losses of the segments driven before.
        done: number of passes done before.
    """

    def __init__(
        self,
        program: Program,
        coarser: int,
        parts: Sequence[Part],
        rate: float,
        images: Sequence[np.ndarray],
        infos: Iterable[Info] = (),
        done: int = 0,
    ):
        self.program, self.parts = program, list(parts)
        self.infos: list[Info] = list(infos)
        """The losses of every segment: arrays (passes, cells) and (passes, cells, style taps)."""
        self._coarser, self._images = coarser, images
        self._passes = rate * SEGMENT_SECONDS / (len(self.parts) * program.width * program.step_flops)
        self._done = done

    @default_settings()
    def progress(self) -> Progress:
        """The progress of the launch in this stage; the curves of a coarser stage are not kept."""
        infos = () if self._coarser else tuple(self.infos)
        state = tuple(jax.tree.leaves(self.rows(lambda state: state)))
        return Progress(self._coarser, self._done, state, tuple(self._images), infos)

    def rows(self, of: Callable[[State], Any]) -> Any:
        """`of` the state of each part, with the rows of all parts in one array on the host."""
        return jax.tree.map(
            lambda *rows: np.array(rows[0]) if len(rows) == 1 else np.concatenate(rows),
            *(jax.device_get(of(part.state)) for part in self.parts),
        )

    def to(self, passes: int) -> Iterator[Segment]:
        """Drive the stage until it has done `passes` passes in all, and yield each segment."""
        while self._done < passes:
            start = self._done
            stop = min(passes, start + int(np.clip(self._passes, 1, SEGMENT_PASSES)))
            began = time.perf_counter()
            self.infos.append(self._advance(start, stop))
            seconds = time.perf_counter() - began
            self._passes = (stop - start) * SEGMENT_SECONDS / max(seconds, 1e-4)
            self._done = stop
            yield Segment(self._coarser, stop - start, self.progress)

    def _advance(self, start: int, stop: int) -> Info:
        """Do the passes from `start` to before `stop`; their losses."""

        @default_settings()
        def one(index: int) -> Info:
            part = self.parts[index]
            state, trace = part.advance(part.state, np.int32(start), np.int32(stop))
            self.parts[index] = part._replace(state=state)
            return jax.tree.map(lambda t: np.array(t[: stop - start]), jax.device_get(trace))

        if len(self.parts) == 1:
            return one(0)
        with ThreadPoolExecutor(len(self.parts), thread_name_prefix="part") as threads:
            traces = list(threads.map(one, range(len(self.parts))))
        return jax.tree.map(lambda *of_parts: np.concatenate(of_parts, axis=1), *traces)


def in_settings(segments: Generator[Segment, None, Outcome]) -> Generator[Segment, None, Outcome]:
    """`segments`, each computed under JAX's default settings; the caller's own settings hold in between."""
    while True:
        with default_settings():
            try:
                segment = next(segments)
            except StopIteration as end:
                return end.value
        yield segment


def on_canvas(image: np.ndarray, canvas: tuple[int, int] | None) -> np.ndarray:
    """`image` (h, w, 3) in the upper left corner of a canvas of zeros, or unchanged without a canvas."""
    if canvas is None:
        return image
    down, across = canvas[0] - image.shape[0], canvas[1] - image.shape[1]
    return np.pad(image, ((0, down), (0, across), (0, 0)))


def side_by_side(launches: Sequence[Launch], width: int) -> Launch:
    """Launches that run side by side, joined into one: row i belongs to the launch i // `width`."""
    if len(launches) == 1:
        return launches[0]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *(pad(one, width) for one in launches))


def in_parts(tree: Any, rows: int) -> list[Any]:
    """`tree` in parts of `rows` rows of every array; the last part is padded."""
    count = len(jax.tree.leaves(tree)[0])
    return [
        pad(jax.tree.map(lambda a, at=at: a[at : at + rows], tree), rows) for at in range(0, count, rows)
    ]


def pad(tree: Any, width: int) -> Any:
    """Every array of `tree`, with its last row repeated until its leading axis has `width` rows."""
    return jax.tree.map(lambda a: np.concatenate([a, np.repeat(a[-1:], width - len(a), axis=0)]), tree)
