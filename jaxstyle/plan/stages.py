"""The coarser stages of a pyramid, and what they cost.

An image may be solved at a half, a quarter and so on of its size first, the coarsest one before all others.
"""

from __future__ import annotations

import math

from jaxstyle.vgg.layers import MIN_EDGE_PX

COARSE_EVALUATIONS = 60
"""Number of evaluations that each coarser stage of a pyramid gets."""
MIN_STAGE_PX = 32
"""The least length of a coarser stage's longest edge."""


def halved_shape(shape: tuple[int, int], times: int) -> tuple[int, int]:
    """(height, width) in px of the stage that is `times` halvings coarser; odd edges lose a pixel."""
    return shape[0] >> times, shape[1] >> times


def coarser_stages(shape: tuple[int, int], pyramid: int, least_px: int = MIN_EDGE_PX) -> int:
    """Number of coarser stages that a pyramid gives an image of `shape`: stages too small are skipped.

    Args:
        shape: (height, width) in px.
        pyramid: the most stages.
        least_px: the shortest edge that the network can take (`layers.least_edge_px`).
    """
    worth = [
        times
        for times in range(1, pyramid + 1)
        if max(halved_shape(shape, times)) >= MIN_STAGE_PX and min(halved_shape(shape, times)) >= least_px
    ]
    return len(worth)


def wrapping_multiple(coarser: int, least_px: int = MIN_EDGE_PX) -> int:
    """The number of px that the sides of a picture that wraps are multiples of.

    In every stage they must be multiples of the shortest edge, 16 or with pool5 32, so that no pooling
    drops an edge.
    """
    return least_px << coarser


def wrapping_shape(shape: tuple[int, int], pyramid: int, least_px: int = MIN_EDGE_PX) -> tuple[int, int]:
    """A (height, width) near `shape` that can wrap in every stage that a pyramid gives it."""
    coarser = coarser_stages(shape, pyramid, least_px)
    while True:
        multiple = wrapping_multiple(coarser, least_px)
        height, width = (max(1, round(edge / multiple)) * multiple for edge in shape)
        if coarser_stages((height, width), pyramid, least_px) <= coarser:
            return height, width
        coarser += 1


def evaluation_count(shape: tuple[int, int], coarser: int, steps: int) -> float:
    """Evaluations for `steps` steps, with those of coarser stages weighted by their share of the pixels."""
    pixels = shape[0] * shape[1]
    shares = (math.prod(halved_shape(shape, times)) / pixels for times in range(1, coarser + 1))
    return steps + 1 + COARSE_EVALUATIONS * sum(shares)
