"""Frames of cells: their own shape, or a canvas that several shapes share."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

CANVAS_PX = 32
"""The edges of a canvas for cells of several shapes are multiples of this."""
MERGED_ONE_BY_ONE = 48
"""Limit on shapes for weighing every pair; of more shapes, those that round to one canvas merge first."""

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


def find_frames(
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
