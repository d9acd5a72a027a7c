"""A chunk in progress: launches that are done, and how far the next ones are, kept on the disk."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxstyle.console.progress import Teller
from jaxstyle.plan.cells import Cell
from jaxstyle.plan.chunks import Plan
from jaxstyle.plan.costs import CHECKPOINT_SHARE
from jaxstyle.run.launcher import LaunchResult
from jaxstyle.rundir.checkpoints import OTHER, Arrays, Checkpoint, saved_mark
from jaxstyle.rundir.directory import CHECKPOINTS, RunDirectory
from jaxstyle.rundir.fingerprints import Sources, fingerprint
from jaxstyle.rundir.manifest import code_digest

if TYPE_CHECKING:
    from jaxstyle.device.drive import Progress


DIGEST = 64
"""Characters of a SHA-256."""


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

    def load(self) -> None:
        """Restore the progress that an earlier process saved of the same chunk, if any.

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
    return Checkpoint(run, numbers[-1], marks + code_digest() + _on(places))


def _on(places: int) -> str:
    return f" on {places}" if places > 1 else ""


def begun_blocks(
    run: RunDirectory,
    sources: Sources,
    plan: Plan,
    todo: Collection[int],
    places: int | None,
    display: Teller,
) -> tuple[list[tuple[int, ...]], Plan]:
    """The blocks that an earlier process began and kept a state of, and the plan with their widths.

    States that are damaged, or that cannot be gone on with because other code or a process with other
    places saved them, are set aside with a message.

    Args:
        run: the run directory, or the one of a run of which this process holds a share.
        sources: the inputs of the run.
        plan: the plan of the run.
        todo: the chunks that this process is to compute; states of others are left alone.
        places: the number of launches that this process computes together; None to leave it to workers.
        display: is told of states that are set aside.
    """
    found, folder = [], run.path / CHECKPOINTS
    for number in sorted(n for n in todo if (folder / f"{n:06d}" / "state.npz").exists()):
        ending = OTHER
        if (mark := saved_mark(run, number)) is None:
            why, ending = "is damaged", "bad"
        else:
            digests, _, on = mark.partition(" on ")
            *marks, code = (digests[i : i + DIGEST] for i in range(0, len(digests), DIGEST))
            why = "was saved by other code of jaxstyle, which alone can go on from it, under its old name"
            if code == code_digest():
                why = "was saved for other devices, another batch width or other cells side by side"
                placed = places is None or on == _on(places).removeprefix(" on ")
                if placed and (match := _matching(sources, plan, number, marks)) is not None:
                    numbers, plan = match
                    found.append(numbers)
                    continue
        aside = Checkpoint(run, number, "").set_aside(ending)
        text = f"{aside.with_suffix('')}: {why}; its cells begin anew; set aside as {aside.name}"
        text += " until they are done" if ending == OTHER else ""
        display.event("set-aside", text, aside=str(aside))
    return found, plan


def _matching(
    sources: Sources, plan: Plan, last: int, marks: Sequence[str]
) -> tuple[tuple[int, ...], Plan] | None:
    """The chunks of these fingerprints, of which `last` is the last, and the plan with the width they had.

    A process that ran out of memory goes on with half the width, which the manifest may not know.
    """
    program = plan.chunks[last].program
    own = [chunk.number for chunk in plan.chunks[: last + 1] if chunk.program == program]
    halvings, narrower = 0, plan
    while fingerprint(sources, narrower, last) != marks[-1]:
        if narrower.programs[narrower.chunks[last].program].width == 1:
            return None
        halvings, narrower = halvings + 1, narrower.narrowed(own)
    by_mark = {fingerprint(sources, narrower, number): number for number in own}
    if not {*marks} <= by_mark.keys():
        return None
    numbers = tuple(by_mark[mark] for mark in marks)
    for _ in range(halvings):
        plan = plan.narrowed(numbers)
    return numbers, plan


def _named_in(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): of for name, of in arrays.items() if name.startswith(prefix)}
