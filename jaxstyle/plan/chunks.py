"""Chunks of cells that are committed together, and the plan that they make up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxstyle.plan.cells import Cell, find_twins
from jaxstyle.plan.programs import Program
from jaxstyle.spec.settings import Sweep


@dataclass(frozen=True)
class Chunk:
    """Cells of one program that are computed one launch after another and committed together."""

    number: int
    program: int
    """Index of the program in the plan."""
    cells: tuple[int, ...]
    """Ids of the cells, ascending."""


@dataclass(frozen=True)
class Plan:
    """The complete work of a run, in order."""

    cells: tuple[Cell, ...]
    programs: tuple[Program, ...]
    chunks: tuple[Chunk, ...]
    steps: tuple[int, ...]
    """Snapshots, ascending; the last one is the length of a trajectory."""
    trace_steps: tuple[int, ...]
    """The steps whose losses are kept."""
    twins: Mapping[int, int]
    """Ids of cells that are not computed, each mapped to the cell in its chunk whose result it shares."""
    image_format: str = Sweep.image_format
    """Setting of that name; unless it is the default, pictures are also kept as floats."""

    def computed(self, chunk: Chunk) -> tuple[int, ...]:
        """The cells of a chunk that are computed."""
        return tuple(cell for cell in chunk.cells if cell not in self.twins)

    def only(self, numbers: Iterable[int]) -> Plan:
        """The plan reduced to the chunks of these numbers."""
        return replace(self, chunks=tuple(self.chunks[number] for number in numbers))

    def assigned(self, programs: Mapping[int, Program]) -> Plan:
        """The plan with other programs for some chunks, by chunk number."""
        every = [*self.programs, *dict.fromkeys(p for p in programs.values() if p not in self.programs)]
        chunks = (
            replace(c, program=every.index(programs[c.number])) if c.number in programs else c
            for c in self.chunks
        )
        return replace(self, programs=tuple(every), chunks=tuple(chunks))

    def narrowed(self, numbers: Collection[int]) -> Plan:
        """The plan with narrower launches for the chunks of these numbers, which must share one program."""
        (index,) = {self.chunks[number].program for number in numbers}
        return self.assigned(dict.fromkeys(numbers, self.programs[index].narrower))

    def chunk_flops(self, number: int) -> float:
        """FLOPs of a chunk."""
        return self.only((number,)).flops

    def shares(self, count: int, *, compile_flops: float = 0.0) -> list[list[int]]:
        """Ascending chunk numbers of each of `count` shares; every chunk is in exactly one share.

        The largest chunks are dealt first, each to the share that would finish it first.

        Args:
            count: number of shares.
            compile_flops: cost of compiling a program, which a share pays with its first chunk of it.
        """
        costs = {chunk.number: self.chunk_flops(chunk.number) for chunk in self.chunks}
        shares: list[list[int]] = [[] for _ in range(count)]
        programs: list[set[Program]] = [set() for _ in range(count)]
        loads = [0.0] * count
        for number in sorted(costs, key=lambda n: (-costs[n], n)):
            # The width must not count: a process that starts after a back-off is to be dealt the same.
            program = replace(self.programs[self.chunks[number].program], width=1)
            extra = [0.0 if program in known else compile_flops for known in programs]
            first = min(range(count), key=lambda i: (loads[i] + extra[i], i))
            loads[first] += extra[first] + costs[number]
            programs[first].add(program)
            shares[first].append(number)
        return [sorted(share) for share in shares]

    @property
    def image_steps(self) -> int:
        """Total number of steps of all computed cells."""
        return self.steps[-1] * sum(len(self.computed(chunk)) for chunk in self.chunks)

    def _sum(self, of: Callable[[Program], float]) -> float:
        return sum(of(self.programs[chunk.program]) for chunk in self.chunks for _ in self.computed(chunk))

    @property
    def coarse_image_steps(self) -> float:
        """Cost of the coarser stages of all computed cells, in steps of the full size."""
        return self._sum(lambda program: program.coarse_image_steps)

    @property
    def trajectory_cost(self) -> float:
        """Time of all steps of all computed cells, in FLOPs: what a display counts as they are done."""
        return self._sum(lambda program: program.trajectory_cost(self.steps[-1]))

    @property
    def flops(self) -> float:
        """FLOPs of all computed cells, including coarser stages and the evaluation of the last image."""
        return self._sum(lambda program: program.cell_flops(self.steps[-1]))

    def program_cells(self, index: int) -> int:
        """Number of cells of the program at `index`, including twins."""
        return sum(len(chunk.cells) for chunk in self.chunks if chunk.program == index)

    def result_bytes(self, crops: int | None = None) -> int:
        """Approximate bytes that the chunks, `results.h5` and the PNGs take together.

        A PNG counts as its pixels, which it exceeds by little; its second name is a link and takes none.

        Args:
            crops: number of crops of every style for every shape of pictures; None for none.
        """
        total, cropped = 0, set[tuple[Any, ...]]()
        for chunk in self.chunks:
            program = self.programs[chunk.program]
            image = program.height_px * program.width_px * 3 * len(self.steps)
            image *= 5 if self.image_format != Sweep.image_format else 1  # with four bytes of a float
            curve = 4 * len(self.trace_steps) * program.curves
            total += len(chunk.cells) * (3 * image + 2 * curve)
            shape = program.height_px, program.width_px
            cropped |= {(part, shape) for i in chunk.cells for part, _ in self.cells[i].style_parts}
        return total + (crops or 0) * sum(3 * height * width for _, (height, width) in cropped)


def plan_record(plan: Plan) -> dict[str, Any]:
    """The programs and chunks of `plan` as plain numbers and strings, for `plan_from_record` to read."""
    return {
        "programs": [program.record() for program in plan.programs],
        "chunks": [{"program": chunk.program, "cells": _ranges(chunk.cells)} for chunk in plan.chunks],
    }


def plan_from_record(sweep: Sweep, cells: Sequence[Cell], record: Mapping[str, Any]) -> Plan:
    """The plan of an earlier run of `sweep`, for all of `cells` or for the first of them.

    Raises:
        KeyError, TypeError, ValueError: if `record` is not a record of a plan, or not of these cells.
    """
    rows: list[dict[str, Any]] = [
        {key: _tuples(value) for key, value in program.items()} for program in record["programs"]
    ]
    programs = tuple(Program(**row) for row in rows)
    chunks = tuple(
        Chunk(number, int(row["program"]), tuple(i for a, b in row["cells"] for i in range(a, b)))
        for number, row in enumerate(record["chunks"])
    )
    planned = sorted(i for chunk in chunks for i in chunk.cells)
    if not planned or planned != list(range(len(planned))) or len(planned) > len(cells):
        raise ValueError("its chunks do not match the cells of its spec")
    if any(not 0 <= chunk.program < len(programs) for chunk in chunks):
        raise ValueError("a chunk has no program")
    return with_twins(sweep, cells[: len(planned)], programs, chunks)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _ranges(numbers: Sequence[int]) -> list[list[int]]:
    """Ascending `numbers` as [start, stop) pairs."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1][1] = number + 1
        else:
            found.append([number, number + 1])
    return found


def with_twins(
    sweep: Sweep, cells: Sequence[Cell], programs: Sequence[Program], chunks: Sequence[Chunk]
) -> Plan:
    """The plan of chunks, with the twins of each and the steps of the sweep."""
    return Plan(
        cells=tuple(cells),
        programs=tuple(programs),
        chunks=tuple(chunks),
        steps=sweep.steps,
        trace_steps=trace_steps(sweep.steps[-1], sweep.trace_every),
        image_format=sweep.image_format,
        # Twins are found within each chunk, because a chunk depends on no other. Even if an extension or an
        # earlier version cut the chunks, every cell is computed or has its twin in its own chunk.
        twins={i: of for c in chunks for i, of in find_twins(sweep, (cells[j] for j in c.cells)).items()},
    )


def trace_steps(last: int, every: int) -> tuple[int, ...]:
    """Every `every`-th step from 0, and always the last one."""
    return (*range(0, last, every), last)
