"""Planning of a `Sweep`: its cells, the programs they need and the chunks they are computed in.

A *cell* is one style transfer. A *program* is a unit of compilation: an image shape, pooling, optimizer,
precision, taps and width. A *chunk* is a series of cells of one program that are computed and committed
together. All three follow from the settings, the images' sizes and the device's memory, never from a
timing, so that the same spec gives the same files on the same kind of machine.

Nothing here needs JAX.
"""

from __future__ import annotations

import collections
import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxstyle.spec import settings
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.fields import MIN_EDGE_PX
from jaxstyle.spec.settings import BALANCED_AXES, Sweep
from jaxstyle.spec.tables import LOSSES, OPTIMIZERS, POOLINGS, TERMS, optional_terms
from jaxstyle.spec.values import FLOAT32_MAX, multiple, style_set
from jaxstyle.vgg import layers

NOMINAL_FLOPS = {"cpu": 2e11, "gpu": 1e14, "tpu": 1e14}
"""Rates in FLOP/s that plans assume: fixed numbers, so that a plan never depends on a timing."""
WINOGRAD_PLATFORMS = ("cpu",)
"""Platforms on which convolutions use Winograd's algorithm (`conv`) by default."""
COMPILE_SECONDS = {"cpu": 8.0, "gpu": 20.0, "tpu": 20.0}
"""Seconds that a plan assumes for compiling a step program."""
CANVAS_PX = 32
"""The edges of a canvas for cells of several shapes are multiples of this."""
MERGED_ONE_BY_ONE = 48
"""Limit on shapes for weighing every pair; of more shapes, those that round to one canvas merge first."""
CHUNK_BYTES = 256 * 2**20
"""The most bytes that a chunk's images and curves may take on the host."""
COARSE_EVALUATIONS = 60
"""Number of evaluations that each coarser stage of a pyramid gets."""
CHECKPOINT_SHARE = 0.02
"""The part of a run's time that writing checkpoints may take."""
NOMINAL_WRITE = 2e8
"""Bytes per second that plans assume for writing checkpoints."""
MIN_CHUNK_S = 2.0
"""Seconds that the smallest chunks should take, so that writing them to disk costs next to nothing."""
CHUNK_SHARE = 32
"""A chunk is at most one part in this many of the cells left of its program. All workers, on one machine or
many, therefore end at about the same time, and the plan does not depend on their number."""
MIN_STAGE_PX = 32
"""The least length of a coarser stage's longest edge."""


def halved(shape: tuple[int, int], times: int) -> tuple[int, int]:
    """(height, width) in px of the stage that is `times` halvings coarser; odd edges lose a pixel."""
    return shape[0] >> times, shape[1] >> times


def coarser_stages(shape: tuple[int, int], pyramid: int) -> int:
    """Number of coarser stages that a pyramid gives an image of `shape`: stages too small are skipped."""
    worth = [
        times
        for times in range(1, pyramid + 1)
        if max(halved(shape, times)) >= MIN_STAGE_PX and min(halved(shape, times)) >= MIN_EDGE_PX
    ]
    return len(worth)


def evaluations(shape: tuple[int, int], coarser: int, steps: int) -> float:
    """Evaluations for `steps` steps, with those of coarser stages weighted by their share of the pixels."""
    pixels = shape[0] * shape[1]
    shares = (math.prod(halved(shape, times)) / pixels for times in range(1, coarser + 1))
    return steps + 1 + COARSE_EVALUATIONS * sum(shares)


def uses_winograd(sweep: Sweep, platform: str) -> bool:
    """Whether the convolutions of a sweep's cells use Winograd's algorithm."""
    return sweep.conv == "auto" and platform in WINOGRAD_PLATFORMS


def uses_canvases(sweep: Sweep, program: Program) -> bool:
    """Whether images of several shapes may share a canvas, which terms and pooling must support."""
    return sweep.canvas == "auto" and program.knows_canvases


def device_kind(platform: str) -> str:
    """The kind of device that plans take `platform` for: anything but a CPU or a TPU is a GPU."""
    return platform if platform in NOMINAL_FLOPS else "gpu"


@dataclass(frozen=True)
class Cell:
    """One style transfer of a sweep. `id` counts from 0 in grid order."""

    id: int
    content: str
    style: str
    content_layer: str
    style_layers: str
    init: str
    alpha_beta: float
    """alpha/beta; NaN for a relative ratio that has not been measured yet."""
    learning_rate: float
    seed: int
    alpha_beta_given: str = ""
    """A relative ratio as the user gave it, such as `0.1x`; empty for a number."""
    balanced: tuple[tuple[str, float], ...] = ()
    """Measured `(name, w_l)`, where style weights are balanced."""
    extra: tuple[tuple[str, float], ...] = ()
    """`(axis, weight)` of every optional loss term whose weight is not 0."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            extra = dict(self.__dict__.get("extra", ()))
            return extra[name] if name in extra else settings.default_of(name)[0]

    @property
    def terms(self) -> tuple[str, ...]:
        """The optional loss terms that the cell has a weight for."""
        return terms_of([self]) if self.extra else ()

    @property
    def layer_weights(self) -> dict[str, float]:
        """w_l of the cell's own style layers, by name."""
        return dict(self.balanced or style_set(self.style_layers))

    def label(self, axis: str) -> Any:
        """The cell's value on an axis as the user gave it: `0.1x`, not the number that it came to."""
        return (axis == "alpha_beta" and self.alpha_beta_given) or getattr(self, axis)

    @property
    def taps(self) -> tuple[str, ...]:
        """The layers that the cell needs, from the image downwards."""
        own = (tap for name in self.terms for tap in TERMS[name].taps)
        return layers.in_order((self.content_layer, *self.layer_weights, *own))


def _combinations(
    axes: Sequence[str], grid: Mapping[str, Sequence], zipped: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield every combination of one grid, with the last axis varying fastest; zipped axes move together.

    In the order of the product, the zipped group takes the place of its first axis.
    """
    groups: list[tuple[str, ...]] = []
    for axis in axes:
        if axis not in zipped:
            groups.append((axis,))
        elif not any(axis in group for group in groups):
            groups.append(tuple(a for a in axes if a in zipped))
    options = [list(zip(*(grid[axis] for axis in group), strict=True)) for group in groups]
    for choice in itertools.product(*options):
        yield {
            axis: value
            for group, values in zip(groups, choice, strict=True)
            for axis, value in zip(group, values, strict=True)
        }


def cells(sweep: Sweep) -> tuple[Cell, ...]:
    """The cells of a resolved sweep: the union of its grids in order, each combination once.

    Raises:
        JaxstyleError: if there are more than `sweep.max_cells` cells, or a ratio is beyond float32.
    """
    axes = sweep.axes
    rows = {axis: settings.axis_row(axis) for axis in axes}
    weights = [axis for axis in axes if axis in settings.added()]
    top = {axis: getattr(sweep, axis) for axis in axes}
    tables = [({**top, **grid}, grid.get("zip", ())) for grid in sweep.grid] or [(top, ())]

    def check(count: int) -> None:
        if count > sweep.max_cells:
            raise JaxstyleError(
                "grid",
                f"{count} cells are more than --max-cells {sweep.max_cells}; raise it or shorten an axis",
            )

    measured = {tuple(table[axis] for axis in BALANCED_AXES): table for table in sweep.balance}
    found: dict[tuple, Cell] = {}
    for table, zipped in tables:
        free = math.prod(len(table[axis]) for axis in axes if axis not in zipped)
        check(free * (len(table[zipped[0]]) if zipped else 1))
        for choice in _combinations(axes, table, zipped):
            identity = tuple(rows[axis].same(value) for axis, value in choice.items())
            if identity not in found:
                check(len(found) + 1)
                extra = tuple((axis, weight) for axis in weights if (weight := choice.pop(axis)))
                cell = Cell(id=len(found), **choice, extra=extra)
                found[identity] = _balanced(sweep, cell, measured)
    return tuple(found.values())


def axes_of(cells: Iterable[Cell]) -> tuple[str, ...]:
    """The axes of some cells: those of every run, and optional ones on which a cell leaves the default."""
    cells = tuple(cells)
    defaults = settings.optional_axes().items()
    return settings.axes_with(a for a, (own,) in defaults if any(getattr(c, a) != own for c in cells))


def terms_of(cells: Iterable[Cell]) -> tuple[str, ...]:
    """Names of the optional loss terms that at least one of `cells` has a weight for."""
    given = {name for cell in cells for name, _ in cell.extra}
    return tuple(row.name for row in optional_terms() if row.weight in given)


def balance_key(cell: Cell) -> tuple[str, ...]:
    """The cell's values on the axes that a balance is measured for."""
    return tuple(getattr(cell, axis) for axis in BALANCED_AXES)


def needs_balance(sweep: Sweep, cell: Cell) -> bool:
    """Whether a cell's weights depend on a measured balance."""
    return bool(cell.alpha_beta_given) or _wants_weights(sweep, cell)


def _wants_weights(sweep: Sweep, cell: Cell) -> bool:
    return sweep.style_scheme == "balanced" and ":" not in cell.style_layers


def _balanced(sweep: Sweep, cell: Cell, measured: Mapping[tuple[str, ...], Mapping[str, Any]]) -> Cell:
    """`cell` with its relative ratio and balanced weights as numbers, where they have been measured."""
    changes: dict[str, Any] = {}
    table = measured.get(balance_key(cell))
    if (factor := multiple(cell.alpha_beta)) is not None:
        ratio = math.nan if table is None else factor * table["alpha_beta"]
        if ratio * sweep.beta > FLOAT32_MAX:
            raise JaxstyleError("alpha_beta", f"{cell.alpha_beta} is {ratio:g} here, beyond float32")
        changes = {"alpha_beta": ratio, "alpha_beta_given": str(cell.alpha_beta)}
    if table is not None and _wants_weights(sweep, cell):
        changes["balanced"] = tuple((name, table["weights"][name]) for name in cell.layer_weights)
    return replace(cell, **changes) if changes else cell


def seed_matters(sweep: Sweep, cell: Cell) -> bool:
    """Whether a cell starts with noise: without noise every seed gives the same picture."""
    return cell.init == "noise" and sweep.noise_std > 0


def twins(sweep: Sweep, cells: Iterable[Cell]) -> dict[int, int]:
    """Ids of twins: each cell without noise, mapped to an earlier one that differs from it only by seed.

    Twins have the same result to the byte, so one of them is computed for all.
    """
    first: dict[Cell, int] = {}
    found: dict[int, int] = {}
    for cell in cells:
        if seed_matters(sweep, cell):
            continue
        of = first.setdefault(replace(cell, id=0, seed=0), cell.id)
        if cell.id != of:
            found[cell.id] = of
    return found


@dataclass(frozen=True)
class Program:
    """The properties of one compiled step. Hashable: two equal programs share one compilation."""

    height_px: int
    width_px: int
    pool: str
    optimizer: str
    precision: str
    content_taps: tuple[str, ...]
    """Layers that the content loss of at least one cell uses, from the image downwards."""
    style_taps: tuple[str, ...]
    """Layers that the style loss of at least one cell uses, from the image downwards."""
    width: int
    """Cells per launch and device."""
    canvas: bool = False
    """Whether cells may be smaller than (height_px, width_px), with zeros around them."""
    lbfgs_memory: int = 0
    """Pairs that L-BFGS remembers; 0 for other optimizers."""
    coarser: int = 0
    """Number of coarser stages that a cell goes through first."""
    terms: tuple[str, ...] = ()
    """The optional loss terms that at least one cell has a weight for."""
    own: tuple[tuple[str, float], ...] = ()
    """The optimizer's own settings as `(name, value)`, except `lbfgs_memory`."""

    @property
    def shape(self) -> str:
        """`HxW`, the name of the program's group in `results.h5`."""
        return f"{self.height_px}x{self.width_px}"

    @property
    def taps(self) -> tuple[str, ...]:
        """Every layer that its losses use, from the image downwards."""
        return layers.in_order((*self.content_taps, *self.style_taps, *self._term_taps))

    @property
    def _term_taps(self) -> tuple[str, ...]:
        return tuple(tap for name in self.terms for tap in TERMS[name].taps)

    @property
    def knows_canvases(self) -> bool:
        """Whether its pooling and its terms ignore the part of a canvas that is outside the image."""
        return POOLINGS[self.pool].canvas and all(TERMS[name].canvas for name in self.terms)

    @property
    def optimizer_settings(self) -> dict[str, float]:
        """All of its optimizer's own settings, by name."""
        own = {"lbfgs_memory": self.lbfgs_memory, **dict(self.own)}
        return {name: own[name] for name in OPTIMIZERS[self.optimizer].own}

    @property
    def _state_images(self) -> int:
        return OPTIMIZERS[self.optimizer].images(**self.optimizer_settings)

    @property
    def curves(self) -> int:
        """Number of values that are kept of every step."""
        terms = sum(TERMS[name].curve for name in self.terms)
        return len(LOSSES) + len(self.style_taps) + terms

    def record(self) -> dict[str, Any]:
        """The program for fingerprints and the manifest: fields added later appear only if not empty."""
        return {k: v for k, v in asdict(self).items() if v or k not in ("terms", "own")}

    def stage(self, coarser: int) -> Program:
        """The program of one stage: halved `coarser` times, with no stages of its own."""
        height, width = halved((self.height_px, self.width_px), coarser)
        return replace(self, height_px=height, width_px=width, coarser=0)

    @property
    def coarse_image_steps(self) -> float:
        """Cost of the coarser stages of one cell, in steps of the full size."""
        return COARSE_EVALUATIONS * self.coarse_flops / self.step_flops

    @property
    def coarse_flops(self) -> float:
        """FLOPs of one cell for one evaluation in each of its coarser stages, added up."""
        return sum(self.stage(times).step_flops for times in range(1, self.coarser + 1))

    def cell_flops(self, steps: int) -> float:
        """FLOPs of all stages of a cell, up to the evaluation of its image after `steps` steps."""
        return (steps + 1) * self.step_flops + COARSE_EVALUATIONS * self.coarse_flops

    @property
    def step_flops(self) -> float:
        """FLOPs of one step of one cell."""
        others = (*self.content_taps, *self._term_taps)
        return layers.evaluation_flops(self.height_px, self.width_px, others, self.style_taps)

    def state_bytes(self) -> int:
        """Bytes of the state that a launch carries from step to step, which a checkpoint holds."""
        return self.width * (3 + self._state_images) * 4 * 3 * self.height_px * self.width_px

    def checkpoint_s(self, every: float) -> float:
        """Seconds between checkpoints: `every`, or more if writing them would exceed `CHECKPOINT_SHARE`."""
        return max(every, self.state_bytes() / NOMINAL_WRITE / CHECKPOINT_SHARE)

    def bytes_per_cell(self) -> int:
        """Approximate bytes of device memory that one cell of a launch takes while it is optimised.

        # The estimate is 1.9 times the float32 activations. XLA reports on a CPU, down to conv5_1 and with
        # arguments and results included: 2.64, 2.03, 1.82 and 1.79 times at 64, 128, 256 and 512 px, and
        # 1.94 for the second cell of a launch at 256 px. These include the two images of Adam's state.
        """
        activations = 4 * layers.activation_floats(self.height_px, self.width_px, self.taps)
        images = self._state_images - 1 if self._state_images > 2 else 0
        history = images * 4 * 3 * self.height_px * self.width_px
        return int(1.9 * activations) + history + 4 * 2**20


class Memory(NamedTuple):
    """Bytes that a launch takes on a device, as a linear function of its width."""

    fixed: int
    """Bytes of the weights, and of the convolutions' working memory."""
    per_cell: int


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
        """The plan with half the width for the chunks of these numbers, which must share one program."""
        (index,) = {self.chunks[number].program for number in numbers}
        narrower = replace(self.programs[index], width=self.programs[index].width // 2)
        return self.assigned(dict.fromkeys(numbers, narrower))

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
    def flops(self) -> float:
        """FLOPs of all computed cells, including coarser stages and the evaluation of the last image."""
        return self._sum(lambda program: program.cell_flops(self.steps[-1]))

    def program_cells(self, index: int) -> int:
        """Number of cells of the program at `index`, including twins."""
        return sum(len(chunk.cells) for chunk in self.chunks if chunk.program == index)

    def result_bytes(self) -> int:
        """Approximate bytes that the chunks and `results.h5` take together."""
        total = 0
        for chunk in self.chunks:
            program = self.programs[chunk.program]
            image = program.height_px * program.width_px * 3 * len(self.steps)
            curve = 4 * len(self.trace_steps) * program.curves
            total += 2 * len(chunk.cells) * (image + curve)
        return total


def to_record(plan: Plan) -> dict[str, Any]:
    """The programs and chunks of `plan` as plain numbers and strings, for `from_record` to read."""
    return {
        "programs": [program.record() for program in plan.programs],
        "chunks": [{"program": chunk.program, "cells": _ranges(chunk.cells)} for chunk in plan.chunks],
    }


def from_record(sweep: Sweep, cells: Sequence[Cell], record: Mapping[str, Any]) -> Plan:
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
    return _plan(sweep, cells[: len(planned)], programs, chunks)


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


def _plan(
    sweep: Sweep, cells: Sequence[Cell], programs: Sequence[Program], chunks: Sequence[Chunk]
) -> Plan:
    return Plan(
        cells=tuple(cells),
        programs=tuple(programs),
        chunks=tuple(chunks),
        steps=sweep.steps,
        trace_steps=trace_steps(sweep.steps[-1], sweep.trace_every),
        # Twins are found within each chunk, because a chunk depends on no other. Even if an extension or an
        # earlier version cut the chunks, every cell is computed or has its twin in its own chunk.
        twins={i: of for c in chunks for i, of in twins(sweep, (cells[j] for j in c.cells)).items()},
    )


def trace_steps(last: int, every: int) -> tuple[int, ...]:
    """Every `every`-th step from 0, and always the last one."""
    return (*range(0, last, every), last)


def plan(
    sweep: Sweep,
    cells: Sequence[Cell],
    shapes: Mapping[str, tuple[int, int]],
    *,
    platform: str,
    choose_width: Callable[[Program, int], int],
    fits: Callable[[Program], bool] = lambda program: True,
    before: Plan | None = None,
) -> Plan:
    """The programs and chunks for `cells`.

    Args:
        sweep: a resolved sweep.
        cells: its cells.
        shapes: (height, width) in px of every content at its target size, by path.
        platform: `cpu`, `gpu` or `tpu`; decides the nominal rate for cutting chunks.
        choose_width: cells per launch, from a program of width 1 and the number of its cells.
        fits: whether the device has the memory for one cell of a program; canvases that do not fit are
            never made.
        before: the plan of the first of `cells`, which is kept; the others are planned after it.
    """
    programs: list[Program] = list(before.programs) if before else []
    chunks: list[Chunk] = list(before.chunks) if before else []
    planned = len(before.cells) if before else 0
    for template, every in _templates(sweep, cells):
        left = [cell for cell in every if cell.id >= planned]
        counts = collections.Counter(shapes[cell.content] for cell in left)
        frames = _frames_of(template, counts, sweep, platform, choose_width, fits)
        by_frame: dict[Frame, list[Cell]] = {}
        for cell in left:
            by_frame.setdefault(frames[shapes[cell.content]], []).append(cell)
        for frame, members in by_frame.items():
            shared = twins(sweep, members)
            program = _framed(template, frame, len(members) - len(shared), choose_width)
            if program not in programs:
                programs.append(program)
            for part in _parts(program, members, shared, sweep, platform):
                chunks.append(Chunk(number=len(chunks), program=programs.index(program), cells=part))
    return _plan(sweep, cells, programs, chunks)


def _templates(sweep: Sweep, cells: Iterable[Cell]) -> Iterator[tuple[Program, list[Cell]]]:
    """Programs of no shape yet and of width 1, each with its cells: one, or one for every depth.

    The taps and the optional terms are those of the whole run, so that a cell's program does not depend
    on which of its neighbours have its shape.
    """
    by_depth: dict[str, list[Cell]] = {}
    for cell in cells:
        by_depth.setdefault(cell.taps[-1] if sweep.split_depth else "", []).append(cell)
    own = OPTIMIZERS[sweep.optimizer].own
    for members in by_depth.values():
        template = Program(
            height_px=0,
            width_px=0,
            pool=sweep.pool,
            optimizer=sweep.optimizer,
            precision=sweep.precision,
            content_taps=layers.in_order(cell.content_layer for cell in members),
            style_taps=layers.in_order(name for cell in members for name in cell.layer_weights),
            width=1,
            lbfgs_memory=sweep.lbfgs_memory or 0,
            terms=terms_of(members),
            own=tuple((name, sweep.extra[name]) for name in own if name in sweep.extra),
        )
        yield template, members


def _frames_of(
    template: Program,
    counts: Mapping[tuple[int, int], int],
    sweep: Sweep,
    platform: str,
    choose_width: Callable[[Program, int], int],
    fits: Callable[[Program], bool],
) -> dict[tuple[int, int], Frame]:
    """The frame of every shape in `counts`; cells share a program only if they share its stages."""

    def seconds(frame: Frame, count: int) -> float:
        if frame.canvas and not fits(replace(template, **frame._asdict())):
            return math.inf
        program = _framed(template, frame, count, choose_width)
        return _program_seconds(program, count, sweep, platform)

    stages = {shape: coarser_stages(shape, sweep.pyramid or 0) for shape in counts}
    frames: dict[tuple[int, int], Frame] = {}
    for coarser in dict.fromkeys(stages.values()):
        alike = {shape: count for shape, count in counts.items() if stages[shape] == coarser}
        canvases = uses_canvases(sweep, template)
        frames |= _frames(alike, seconds, coarser=coarser, canvases=canvases)
    return frames


def _parts(
    program: Program, cells: Sequence[Cell], shared: Mapping[int, int], sweep: Sweep, platform: str
) -> Iterator[tuple[int, ...]]:
    """The ids of the cells of each chunk of a program, ascending; see `_cut`."""
    launch_s = _launch_seconds(program, sweep, platform)
    launches = min(sweep.checkpoint_every / launch_s, CHUNK_BYTES / _launch_bytes(program, sweep))
    most = program.width * max(1, int(launches))
    least = min(most, program.width * math.ceil(MIN_CHUNK_S / launch_s))
    together = max(most, _chunk_cells_by_size(program, sweep))
    ids = [cell.id for cell in cells]
    for part in _cut(ids, shared, program.width, least=least, most=most, together=together):
        yield tuple(sorted(part))


def _cut(
    cells: Sequence[int],
    shared: Mapping[int, int],
    width: int,
    *,
    least: int,
    most: int,
    together: int,
) -> Iterator[list[int]]:
    """Cells cut into chunks; twins go into the chunk of the cell that is computed for them.

    Args:
        cells: ids of the cells.
        shared: for each twin, the cell whose result it shares.
        width: the number of computed cells of a chunk is a multiple of this.
        least, most: bounds of that number, which otherwise is one in `CHUNK_SHARE` of the cells left.
        together: the most cells in a chunk; a cell with more twins is computed once more for the rest.
    """
    groups: dict[int, list[int]] = {}
    for cell in cells:
        groups.setdefault(shared.get(cell, cell), []).append(cell)
    left = sum(-(-len(group) // together) for group in groups.values())

    def size() -> int:
        return min(most, max(least, width * -(-left // (width * CHUNK_SHARE))))

    part, computed, limit = [], 0, size()
    for group in groups.values():
        for start in range(0, len(group), together):
            alike = group[start : start + together]
            if part and (computed == limit or len(part) + len(alike) > together):
                yield part
                left -= computed
                part, computed, limit = [], 0, size()
            part += alike
            computed += 1
    if part:
        yield part


Group = tuple[tuple[int, int], ...]
"""Image shapes that share a frame, ascending."""


class Frame(NamedTuple):
    """The common shape in which cells of one or several shapes are computed."""

    height_px: int
    width_px: int
    canvas: bool
    """Whether it may be larger than the images of some of its cells."""
    coarser: int = 0
    """Number of coarser stages that these cells go through first."""


def canvas_of(shapes: Iterable[tuple[int, int]], multiple_px: int) -> tuple[int, int]:
    """The smallest (height, width) in multiples of `multiple_px` that holds all of `shapes`."""
    heights, widths = zip(*shapes, strict=True)
    return -(-max(heights) // multiple_px) * multiple_px, -(-max(widths) // multiple_px) * multiple_px


def _frames(
    counts: Mapping[tuple[int, int], int],
    seconds: Callable[[Frame, int], float],
    *,
    coarser: int,
    canvases: bool,
) -> dict[tuple[int, int], Frame]:
    """The frame of every shape: its own, or a shared canvas where that is predicted to be faster.

    Every shape starts as a group of its own. The two groups whose merging saves the most time are merged,
    again and again while that saves any: merging saves a compilation and half-empty launches, and costs
    wasted pixels.

    Args:
        counts: number of cells of each shape.
        seconds: the predicted time of a frame with so many cells, including its compilation.
        coarser: number of coarser stages, which all shapes have in common.
        canvases: whether shapes may share a canvas at all.
    """

    def frame(group: Group) -> Frame:
        if len(group) == 1:
            return Frame(*group[0], canvas=False, coarser=coarser)
        return Frame(*canvas_of(group, CANVAS_PX), canvas=True, coarser=coarser)

    @functools.cache
    def cost(group: Group) -> float:
        return seconds(frame(group), sum(counts[shape] for shape in group))

    def merged(a: Group, b: Group) -> Group:
        return tuple(sorted((*a, *b)))

    groups: list[Group] = [(shape,) for shape in sorted(counts)]
    if canvases and len(groups) > MERGED_ONE_BY_ONE:
        rounded: dict[tuple[int, int], Group] = {}
        for group in groups:
            rounded.setdefault(canvas_of(group, CANVAS_PX), ())
            rounded[canvas_of(group, CANVAS_PX)] += group
        groups = [
            part
            for group in rounded.values()
            for part in ([group] if cost(group) < sum(cost((g,)) for g in group) else [(g,) for g in group])
        ]
    while canvases:
        saved = {
            (a, b): cost(a) + cost(b) - cost(merged(a, b)) for a, b in itertools.combinations(groups, 2)
        }
        best = max(saved, key=saved.__getitem__, default=None)
        if best is None or saved[best] <= 0:
            break
        groups = [group for group in groups if group not in best] + [merged(*best)]
    return {shape: frame(group) for group in groups for shape in group}


def _framed(
    template: Program, frame: Frame, cells: int, choose_width: Callable[[Program, int], int]
) -> Program:
    """`template` in a frame, with its width chosen for `cells` cells."""
    program = replace(template, **frame._asdict())
    return replace(program, width=choose_width(program, cells))


def _program_seconds(program: Program, cells: int, sweep: Sweep, platform: str) -> float:
    """Predicted seconds of a program and its cells; a partly filled launch takes as long as a full one."""
    launches = -(-cells // program.width)
    flops = launches * program.width * program.cell_flops(sweep.steps[-1])
    return COMPILE_SECONDS[platform] * (1 + program.coarser) + flops / NOMINAL_FLOPS[platform]


def _launch_seconds(program: Program, sweep: Sweep, platform: str) -> float:
    """Predicted seconds of one launch, without compilation."""
    return program.width * program.cell_flops(sweep.steps[-1]) / NOMINAL_FLOPS[platform]


def _launch_bytes(program: Program, sweep: Sweep) -> int:
    """Bytes on the host of the images and curves of a launch."""
    return program.width * _cell_bytes(program, sweep)


def _chunk_cells_by_size(program: Program, sweep: Sweep) -> int:
    """Number of cells whose images and curves fit into `CHUNK_BYTES`."""
    return max(1, CHUNK_BYTES // _cell_bytes(program, sweep))


def _cell_bytes(program: Program, sweep: Sweep) -> int:
    """Bytes on the host of the images and curves of one cell while its chunk is computed."""
    pixels = program.height_px * program.width_px * 3 * (1 + 4) * len(sweep.steps)
    return pixels + 4 * (sweep.steps[-1] + 1) * program.curves
