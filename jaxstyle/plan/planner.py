"""From cells to the programs they need and the chunks they are computed in.

Programs and chunks follow from the settings, the images' sizes and the device's memory, never from a
timing, so that the same spec gives the same files on the same kind of machine.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxstyle.plan.canvases import Frame, find_frames
from jaxstyle.plan.cells import Cell, find_twins, terms_of
from jaxstyle.plan.chunks import Chunk, Plan, with_twins
from jaxstyle.plan.nominal_rates import COMPILE_SECONDS, NOMINAL_FLOPS, PLANE_PLATFORMS
from jaxstyle.plan.programs import Program
from jaxstyle.plan.region_grids import tile_count
from jaxstyle.plan.stages import coarser_stages
from jaxstyle.spec.colours import COLOURS
from jaxstyle.spec.regions import MASKS
from jaxstyle.spec.settings import Sweep
from jaxstyle.spec.tables import NETWORK_AXES, OPTIMIZERS
from jaxstyle.vgg import layers

CHUNK_BYTES = 256 * 2**20
"""The most bytes that a chunk's images and curves may take on the host."""
MIN_CHUNK_S = 2.0
"""Seconds that the smallest chunks should take, so that writing them to disk costs next to nothing."""
CHUNK_SHARE = 32
"""A chunk is at most one part in this many of the cells left of its program. All workers, on one machine or
many, therefore end at about the same time, and the plan does not depend on their number."""


def make_plan(
    sweep: Sweep,
    cells: Sequence[Cell],
    shapes: Mapping[str, tuple[int, int]],
    *,
    platform: str,
    choose_width: Callable[[Program, int], int],
    fits: Callable[[Program], bool] = lambda program: True,
    before: Plan | None = None,
    regions: Callable[[Cell], int] = tile_count,
) -> Plan:
    """The programs and chunks for `cells`.

    Args:
        sweep: a resolved sweep.
        cells: its cells.
        shapes: (height, width) in px of the cells' pictures, by the path in `Cell.shaped_by`.
        platform: `cpu`, `gpu` or `tpu`; decides the nominal rate for cutting chunks.
        choose_width: cells per launch, from a program of width 1 and the number of its cells.
        fits: whether the device has the memory for one cell of a program; canvases that do not fit are
            never made.
        before: the plan of the first of `cells`, which is kept; the others are planned after it.
        regions: number of regions of a cell; one region is the whole picture, as if there were none.
    """
    programs: list[Program] = list(before.programs) if before else []
    chunks: list[Chunk] = list(before.chunks) if before else []
    planned = len(before.cells) if before else 0
    for template, every in _templates(sweep, cells, regions, platform):
        left = [cell for cell in every if cell.id >= planned]
        counts = collections.Counter(shapes[cell.shaped_by] for cell in left)
        frames = _frames_of(template, counts, sweep, platform, choose_width, fits)
        by_frame: dict[Frame, list[Cell]] = {}
        for cell in left:
            by_frame.setdefault(frames[shapes[cell.shaped_by]], []).append(cell)
        for frame, members in by_frame.items():
            shared = find_twins(sweep, members)
            program = _framed(template, frame, len(members) - len(shared), choose_width)
            if program not in programs:
                programs.append(program)
            for part in _parts(program, members, shared, sweep, platform):
                chunks.append(Chunk(number=len(chunks), program=programs.index(program), cells=part))
    return with_twins(sweep, cells, programs, chunks)


def _templates(
    sweep: Sweep, cells: Iterable[Cell], regions: Callable[[Cell], int], platform: str
) -> Iterator[tuple[Program, list[Cell]]]:
    """Programs of no shape yet and of width 1, each with its cells: one, or one for every depth.

    The taps and the optional terms are those of the whole run, so that a cell's program does not depend
    on which of its neighbours have its shape. There is one of them for every pooling, padding and style
    loss, for every number of tiles, and for every number of regions that masks have: with one for all,
    every cell would pay for the most regions.
    """
    by_depth: dict[str, list[Cell]] = {}
    for cell in cells:
        by_depth.setdefault(cell.taps[-1] if sweep.split_depth else "", []).append(cell)
    settings = OPTIMIZERS[sweep.optimizer].own
    for members in by_depth.values():
        template = Program(
            height_px=0,
            width_px=0,
            pool="",
            optimizer=sweep.optimizer,
            precision=sweep.precision,
            content_taps=layers.in_order(name for cell in members for name in cell.content_taps),
            style_taps=layers.in_order(name for cell in members for name in cell.layer_weights),
            width=1,
            lbfgs_memory=sweep.lbfgs_memory or 0,
            terms=terms_of(members),
            own=tuple((name, sweep.extra[name]) for name in settings if name in sweep.extra),
            colour=COLOURS[sweep.colour].program,
            planes=platform in PLANE_PLATFORMS,
        )
        for values, own in _by_kinds(members).items():
            kinds: Any = dict(zip(NETWORK_AXES, values, strict=True))
            for about, alike in _by_regions(own, regions).items():
                holds = bool(sweep.hold) and about[0] > 0 and not about[1]
                yield replace(template, **kinds, regions=about[0], grids=about[1], holds=holds), alike


def _by_kinds(cells: Iterable[Cell]) -> dict[tuple[str, ...], list[Cell]]:
    """Cells by their values on the axes that programs differ in."""
    found: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        found.setdefault(tuple(getattr(cell, axis) for axis in NETWORK_AXES), []).append(cell)
    return found


def _by_regions(
    cells: Iterable[Cell], regions: Callable[[Cell], int]
) -> dict[tuple[int, tuple[str, ...]], list[Cell]]:
    """Cells by the number of regions and the grids of their program."""
    counts = {cell.id: regions(cell) for cell in cells}
    grids: dict[int, set[str]] = {}
    for cell in cells:
        if counts[cell.id] > 1 and cell.regions != MASKS:
            grids.setdefault(counts[cell.id], set()).add(cell.regions)
    found: dict[tuple[int, tuple[str, ...]], list[Cell]] = {}
    for cell in cells:
        count = counts[cell.id]
        own = () if cell.regions == MASKS else tuple(sorted(grids.get(count, ())))
        found.setdefault((count, own) if count > 1 else (0, ()), []).append(cell)
    return found


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

    least_px = layers.least_edge_px(template.taps)
    stages = {shape: coarser_stages(shape, sweep.pyramid or 0, least_px) for shape in counts}
    canvases = sweep.canvas == "auto" and template.knows_canvases
    frames: dict[tuple[int, int], Frame] = {}
    for coarser in dict.fromkeys(stages.values()):
        alike = {shape: count for shape, count in counts.items() if stages[shape] == coarser}
        frames |= find_frames(alike, seconds, coarser=coarser, canvases=canvases)
    return frames


def _framed(
    template: Program, frame: Frame, cells: int, choose_width: Callable[[Program, int], int]
) -> Program:
    """`template` in a frame, with its width chosen for `cells` cells."""
    program = replace(template, **frame._asdict())
    return replace(program, width=choose_width(program, cells))


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
    kept = 1 if sweep.image_format == Sweep.image_format else 1 + 4
    pixels = program.height_px * program.width_px * 3 * (kept + 4) * len(sweep.steps)
    return pixels + 4 * (sweep.steps[-1] + 1) * program.curves
