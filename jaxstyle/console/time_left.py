"""The time that a run takes, by what has been measured of it; for people only, never part of a plan.

    left = (elapsed - compiled) / done * (work - done) + compiling

`elapsed` are the seconds since the first program was ready, of which `compiled` went into others; `done`
and `work` are FLOPs by which pictures of several shapes, and coarser stages, count as they take time
(`plan.programs.Program.step_cost`); `compiling` are the seconds that the programs still to be compiled will
take. The first segment is left out of the rate, for what is done once is done there.
"""

from __future__ import annotations

from collections.abc import Callable

FIRST_S = 5.0
"""Seconds of computing after which the rate that was measured is believed."""
MOVED = 1.25
"""Factor by which an estimate must have moved to be told again."""


class Estimate:
    """The time left of a run in progress.

    Args:
        work: what is to be done, in FLOPs or in any other unit.
        compiling: function that returns the seconds that compiling has taken since the start, and those
            that it will still take.
    """

    def __init__(self, work: float, compiling: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0)):
        self.work, self.done = work, 0.0
        self._compiling = compiling
        self._first: tuple[float, float] | None = None  # when it was done without compiling, and its work
        self._told: tuple[float, float] | None = None  # when, and the total that was told

    def add(self, work: float, elapsed_s: float) -> None:
        """Count work that is done, `elapsed_s` after the start; negative work takes back what was lost."""
        self.done += work
        if self._first is None:
            self._first = elapsed_s - self._compiling()[0], self.done

    def left_s(self, elapsed_s: float) -> float | None:
        """Seconds left, `elapsed_s` after the start; None while nothing has been done."""
        compiled, compiling = self._compiling()
        if self.done <= 0:
            return None
        spent, done = elapsed_s - compiled, self.done
        if self._later:
            assert self._first is not None
            spent, done = spent - self._first[0], done - self._first[1]
        return max(spent, 0.0) / done * max(self.work - self.done, 0.0) + compiling

    @property
    def _later(self) -> bool:
        """Whether more than the first segment is done."""
        return self._first is not None and self.done > self._first[1]

    def news(self, elapsed_s: float) -> float | None:
        """Seconds left, if people should be told: after some seconds, and again where it was wrong.

        It is told again after twice the time at the earliest, and not in the last seconds.
        """
        compiled, _ = self._compiling()
        left = self.left_s(elapsed_s)
        if left is None or left < FIRST_S or elapsed_s - compiled < FIRST_S or not self._later:
            return None
        if self._told is not None:
            when, total = self._told
            if elapsed_s < 2 * when or total / MOVED < elapsed_s + left < total * MOVED:
                return None
        self._told = elapsed_s, elapsed_s + left
        return left
