"""Work in parts, which its caller drives by iterating over it.

Between two parts the caller can show progress, save what is done so far, or stop. Nothing is open at that
point: no context of the work outlives the part that needed it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


class Course(Generic[Part, Result]):
    """Work in parts: an iterable, to be iterated once, of a report on every part that has been done.

    Args:
        parts: does a part before each yield, and returns the outcome of them all.
    """

    outcome: Result
    """The result of all parts, set at the end of the iteration."""

    def __init__(self, parts: Generator[Part, None, Result]):
        self._parts = parts

    def __iter__(self) -> Iterator[Part]:
        self.outcome = yield from self._parts

    def finish(self) -> Result:
        """Do all parts without a stop and return the outcome."""
        for _ in self:
            pass
        return self.outcome
