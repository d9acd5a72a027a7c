"""Work of a run as it is handed out: chunks in blocks, what is reported of each, and who is told.

A *block* is as many chunks of one program as a worker has devices: they are computed together, one launch
on each device. The contents of launches and chunks do not depend on the number of devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxstyle.console.progress import Display
from jaxstyle.plan.chunks import Plan
from jaxstyle.plan.programs import Program
from jaxstyle.run.inputs import Inputs
from jaxstyle.rundir.directory import RunDirectory

OnProgram = Callable[[Program, "list[dict[str, Any]]"], None]
"""Called with a program that is ready and the facts about its stages (`Launcher.made`)."""


@dataclass(frozen=True)
class Block:
    """Chunks of one program that are computed together."""

    numbers: tuple[int, ...]
    """Its chunks, ascending; some are done if a process that began it was killed as it wrote them."""
    left: tuple[int, ...]
    """The chunks that are not on the disk yet."""
    places: int | None = None
    """Launches of it that are computed together; None for as many as the worker computes."""


class Begun(NamedTuple):
    """A block of which an earlier process kept a state."""

    numbers: tuple[int, ...]
    """Its chunks, ascending."""
    places: int
    """Launches that were computed together."""


@dataclass(frozen=True)
class Committed:
    """A chunk that is done."""

    number: int
    program: Program
    """The program that computed it."""
    sha256: str
    """Digest of its file."""
    diverged: list[tuple[int, int]]
    """(cell, step) of every cell that diverged."""
    data: bytes = b""
    """The bytes of its file, if that is not on the disk yet."""


@dataclass(frozen=True)
class Work:
    """The work of a run: its inputs, its chunks to compute, and the callbacks that get the results."""

    inputs: Inputs
    plan: Plan
    todo: Sequence[int]
    """Numbers of the chunks to compute."""
    run: RunDirectory
    run_id: str
    display: Display
    seconds: dict[str, float]
    """Sums by name that the time of every stage is added to."""
    start: Callable[[], None]
    """Called when the first program has been compiled, or the first worker of a cluster is ready."""
    on_plan: Callable[[Plan], None]
    """Called with the plan when its widths may have changed for want of memory."""
    on_program: OnProgram
    on_commit: Callable[[Committed], None]
    """Called when a chunk is on the disk."""
    workers: dict[str, dict[str, Any]]
    """Record of what each worker of a cluster has done, by its name; filled in by the cluster."""


def blocks(plan: Plan, todo: Iterable[int], places: int, begun: Iterable[Begun] = ()) -> list[Block]:
    """Blocks of the chunks `todo`, in the order of the plan: chunks of one program, one for each place.

    Args:
        plan: the plan.
        todo: the numbers of the chunks to compute.
        places: the number of launches that are computed together.
        begun: the blocks of which a state is kept; they stay together, and no two have a chunk in common.
    """
    wanted = set(todo)
    found = [Block(of.numbers, tuple(n for n in of.numbers if n in wanted), of.places) for of in begun]
    taken = {number for block in found for number in block.numbers}
    of: dict[int, list[int]] = {}
    for number in sorted(wanted - taken):
        of.setdefault(plan.chunks[number].program, []).append(number)
    for own in of.values():
        groups = (tuple(own[start : start + places]) for start in range(0, len(own), places))
        found += [Block(numbers, numbers) for numbers in groups]
    return sorted(found, key=lambda block: block.numbers)
