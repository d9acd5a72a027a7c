"""A chunk in progress: launches that are done, and how far the next ones are, kept on the disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxstyle.plan.cells import Cell
from jaxstyle.plan.costs import CHECKPOINT_SHARE
from jaxstyle.run.launcher import LaunchResult
from jaxstyle.rundir.checkpoints import Arrays, Checkpoint

if TYPE_CHECKING:
    from jaxstyle.device.drive import Progress


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


def _named_in(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): of for name, of in arrays.items() if name.startswith(prefix)}
