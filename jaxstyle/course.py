"""Work that is done while somebody goes through its parts: who wants it done says when it goes on.

Between two parts whoever goes through them shows how it comes along, saves what there is, or ends it.
Nothing is open then: no context of the work outlives the part that needed it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


class Course(Generic[Part, Result]):
    """Work in parts: an iterable, to be gone through once, of what there is to say of each that is done.

    Args:
        parts: does a part before it yields, and returns what all of them came to.
    """

    outcome: Result
    """What all parts came to, there when they have been gone through."""

    def __init__(self, parts: Generator[Part, None, Result]):
        self._parts = parts

    def __iter__(self) -> Iterator[Part]:
        self.outcome = yield from self._parts

    def finish(self) -> Result:
        """The outcome, when every part has been done without a stop."""
        for _ in self:
            pass
        return self.outcome
