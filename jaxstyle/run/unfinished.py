"""A chunk in progress: launches that are done, and how far the next ones are, kept on the disk."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxstyle.console.progress import Teller
from jaxstyle.plan.cells import Cell
from jaxstyle.plan.chunks import Plan
from jaxstyle.plan.nominal_rates import CHECKPOINT_SHARE
from jaxstyle.run.launcher import LaunchResult
from jaxstyle.run.work import Begun
from jaxstyle.rundir.checkpoints import OTHER, Arrays, Checkpoint, Saved, saved
from jaxstyle.rundir.chunks import chunk_name
from jaxstyle.rundir.directory import CHECKPOINTS, RunDirectory
from jaxstyle.rundir.fingerprints import Sources, fingerprint
from jaxstyle.rundir.manifest import code_digest

if TYPE_CHECKING:
    from jaxstyle.device.drive import Progress


DIGEST = 64
"""Characters of a SHA-256."""
ON = " on "
"""Stands before the number of launches that are computed together, in the fingerprint of a state."""
DAMAGED = "is damaged"
FURTHER = "another state is further on, and of some of the same chunks"
ELSEWHERE = "was saved for other devices, another batch width, other cells side by side or other shares"
"""Why a state of this code cannot be used by this process."""


class Unfinished:
    """A chunk in progress: its finished launches and the progress of the next ones, kept on the disk.

    Args:
        checkpoint: the checkpoint that keeps them.
        rounds: the cells of every launch, grouped into rounds of launches that run side by side.
        every_s: the seconds of work that may be lost.
    """

    def __init__(self, checkpoint: Checkpoint, rounds: Sequence[list[list[Cell]]], every_s: float):
        self.checkpoint = checkpoint
        self.launches = [cells for abreast in rounds for cells in abreast]
        self._rounds = {}
        """The rounds, by the number of launches that precede each."""
        for abreast in rounds:
            self._rounds[sum(map(len, self._rounds.values()))] = abreast
        self.done: list[LaunchResult] = []
        self.progress: Progress | None = None
        """The progress from which to continue the next launches; None to begin them from the start."""
        self._every_s, self._cost_s = every_s, 0.0
        self._last = self._segment = time.monotonic()
        self._saved = [0, 0, 0]
        """The numbers of launches saved, and of images and infos saved of the current round."""

    @property
    def current(self) -> list[list[Cell]]:
        """The cells of the launches that are next or under way."""
        return self._rounds[len(self.done)]

    def finish(self, launched: Sequence[LaunchResult]) -> None:
        """Record the launches of a round that is done."""
        self.done += launched
        self.progress, self._saved[1:] = None, [0, 0]

    def pass_over(self, needed: Collection[int]) -> None:
        """Leave out the next rounds that have no cell of these ids: their chunks are on the disk."""
        while len(self.done) < len(self.launches):
            if any(cell.id in needed for cells in self.current for cell in cells):
                return
            nothing = np.zeros(0, np.uint8), {}, np.zeros(0, np.int32)
            self.finish([LaunchResult(cells, *nothing) for cells in self.current])

    def is_due(self) -> bool:
        """Whether to save now: with another segment like the last, more work could be lost than may be.

        Writing must not take more than its share of the time either, however slow the disk is.
        """
        now = time.monotonic()
        segment_s, self._segment = now - self._segment, now
        every_s = max(self._every_s, self._cost_s / CHECKPOINT_SHARE)
        return now - self._last + segment_s > every_s

    def save(self, progress: Progress) -> float:
        """Save everything that is new and return the seconds that this took."""
        from jaxstyle.cell.state import info_curves

        began = time.monotonic()
        launches, pictures, infos = self._saved
        part: Arrays = {"of": np.array(len(self.done))}
        for index, launched in enumerate(self.done[launches:], launches):
            named = {"pixels": launched.pixels, "diverged_step": launched.diverged_step, **launched.curves}
            named |= {} if launched.floats is None else {"floats": launched.floats}
            part |= {f"launch{index}/{name}": values for name, values in named.items()}
        for index, image in enumerate(progress.images[pictures:]):
            part[f"image{index}"] = image
        curves = [info_curves(info) for info in progress.infos[infos:]]
        for name in curves[0] if curves else ():
            part[f"info/{name}"] = np.concatenate([curve[name] for curve in curves])
        state: Arrays = {name: np.array(getattr(progress, name)) for name in ("coarser", "passes")}
        state["launch"] = np.array(len(self.done))
        state |= {f"leaf{index}": leaf for index, leaf in enumerate(progress.state)}
        self.checkpoint.save(part, state)
        self._saved = [len(self.done), len(progress.images), len(progress.infos)]
        self._last = self._segment = time.monotonic()
        cost_s = self._last - began
        # The smallest cost so far, so that one stall of the disk does not delay all later checkpoints.
        self._cost_s = min(self._cost_s or cost_s, cost_s)
        return cost_s

    def load(self, needed: Collection[int] = ()) -> None:
        """Restore the progress that an earlier process saved of the same chunk, if any.

        Args:
            needed: the ids of the cells that are to be computed. A state that has passed over one of them,
                because its chunk was on the disk then, is as if another process had saved it.

        Raises:
            JaxstyleError: if the checkpoint is damaged; nothing is restored then.
        """
        from jaxstyle.cell.state import info_from_curves
        from jaxstyle.device.drive import Progress

        found = self.checkpoint.load()
        if found is None:
            return
        parts, state = found
        launch = int(state["launch"])
        every = {name: values for part in parts for name, values in part.items() if "launch" in name}
        for index, cells in enumerate(self.launches[:launch]):
            own = _named_in(every, f"launch{index}/")
            pixels, diverged = own.pop("pixels"), own.pop("diverged_step")
            floats = own.pop("floats", None)
            if len(pixels) != len(cells) and any(cell.id in needed for cell in cells):
                self.checkpoint.of_another, self.done = True, []
                return
            self.done.append(LaunchResult(cells, pixels, own, diverged, floats))
        tail = [part for part in parts if int(part["of"]) == launch]
        pictures = [part[f"image{i}"] for part in tail for i in range(len(part)) if f"image{i}" in part]
        infos = [info_from_curves(curves) for part in tail if (curves := _named_in(part, "info/"))]
        leaves = [state[f"leaf{i}"] for i in range(sum(name.startswith("leaf") for name in state))]
        self.progress = Progress(
            int(state["coarser"]), int(state["passes"]), tuple(leaves), tuple(pictures), tuple(infos)
        )
        self._saved = [launch, len(pictures), len(infos)]


def checkpoint_of(
    run: RunDirectory, sources: Sources, plan: Plan, numbers: Sequence[int], places: int
) -> Checkpoint:
    """The checkpoint of a block of chunks that are computed together on some places.

    Its fingerprint has the code's digest, for another version may keep other things. It is kept under the
    number of the last chunk, which is the last to be on the disk and then removes it.
    """
    marks = "".join(fingerprint(sources, plan, number) for number in numbers)
    return Checkpoint(
        run, numbers[-1], marks + code_digest() + (f"{ON}{places}" if places > 1 else ""), numbers
    )


def tell_aside(display: Teller, aside: Path, why: str) -> None:
    """Report a state that was set aside."""
    anew = "" if why == FURTHER else "; its cells begin anew"
    text = f"{aside.with_suffix('')}: {why}{anew}; set aside as {aside.name}"
    text += "" if why == DAMAGED else " until the run is done"
    display.event("set-aside", text, aside=str(aside))


def begun_blocks(
    run: RunDirectory,
    sources: Sources,
    plan: Plan,
    todo: Collection[int],
    display: Teller,
    *,
    devices: int,
    places: int,
) -> tuple[list[Begun], Plan]:
    """The blocks that an earlier process began and kept a state of, and the plan with their widths.

    States that are damaged, or that this process cannot go on from, are set aside with a message. One that
    was set aside before is taken up again if this process can go on from it.

    Args:
        run: the run directory, or the one of a run of which this process holds a share.
        sources: the inputs of the run.
        plan: the plan of the run.
        todo: the chunks that this process is to compute; states of others are left alone.
        display: is told of states that are set aside.
        devices: the number of devices that compute a block.
        places: the number of launches that they can compute together.
    """
    checkpoints, wanted = run.path / CHECKPOINTS, {*todo}
    found: dict[Path, Begun] = {}
    states: dict[Path, Saved | None] = {}
    for path in sorted(checkpoints.glob("*/state.npz")):
        number, _, ending = path.parent.name.partition(".")
        if number.isdecimal() and int(number) in wanted and ending.partition("-")[0] in ("", OTHER):
            states[path.parent] = saved(path.parent)
    # The furthest first: another may be of some of the same chunks.
    for folder, state in sorted(states.items(), key=lambda of: _progress(of[1]), reverse=True):
        place, taken = folder.with_suffix(""), {n for begun in found.values() for n in begun.numbers}
        if state is None:
            use = DAMAGED
        elif taken & {*state.together}:
            use = FURTHER
        else:
            use = _usable(run, sources, plan, state, wanted - taken, devices, places)
        if not isinstance(use, str):
            found[place], plan = use
            if folder != place:
                _make_room(run, place, display)
                os.replace(folder, place)
        elif folder == place and place not in found:
            aside = Checkpoint(run, int(place.name), "").set_aside("bad" if use == DAMAGED else OTHER)
            tell_aside(display, aside, use)
    return [*found.values()], plan


def _progress(state: Saved | None) -> tuple[tuple[int, ...], int]:
    """The progress of a state, and its number of chunks."""
    return ((), 0) if state is None else (state.progress, len(state.together))


def _make_room(run: RunDirectory, place: Path, display: Teller) -> None:
    """Set aside the state in the folder that another one is to have, or remove parts without a state."""
    if (place / "state.npz").exists():
        aside = Checkpoint(run, int(place.name), "").set_aside(OTHER)
        tell_aside(display, aside, FURTHER)
    shutil.rmtree(place, ignore_errors=True)


def _usable(
    run: RunDirectory,
    sources: Sources,
    plan: Plan,
    state: Saved,
    free: Collection[int],
    devices: int,
    places: int,
) -> tuple[Begun, Plan] | str:
    """The block that a state is of, and the plan with the width that it had; or why it cannot be used.

    Args:
        state: the marks of the state.
        free: the chunks that are to be computed and belong to no other block.
        devices: see `begun_blocks`.
        places: see `begun_blocks`.
    """
    digests, _, on = state.fingerprint.partition(ON)
    *marks, code = (digests[i : i + DIGEST] for i in range(0, len(digests), DIGEST))
    if code != code_digest():
        return "was saved by other code of jaxstyle, which alone can go on from it"
    numbers, own = state.together, int(on or 1)
    others = [n for n in numbers if n not in free and not (run.path / chunk_name(n)).exists()]
    if len(marks) != len(numbers) or others or own > places or own % devices:
        return ELSEWHERE
    # A process that ran out of memory goes on with half the width, which the manifest may not know.
    while wrong := [
        n for n, mark in zip(numbers, marks, strict=True) if mark != fingerprint(sources, plan, n)
    ]:
        programs = {plan.programs[plan.chunks[n].program] for n in wrong}
        if not {*wrong} <= {*free} or len(programs) > 1 or programs.pop().width == 1:
            return ELSEWHERE
        plan = plan.narrowed(wrong)
    return Begun(numbers, own), plan


def _named_in(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): of for name, of in arrays.items() if name.startswith(prefix)}
