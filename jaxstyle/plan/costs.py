"""Nominal rates and costs that plans are made with, never measured, and the stages of a pyramid."""

from __future__ import annotations

import math

from jaxstyle.spec.settings import Sweep
from jaxstyle.vgg.layers import MIN_EDGE_PX

NOMINAL_FLOPS = {"cpu": 2e11, "gpu": 1e14, "tpu": 1e14}
"""Rates in FLOP/s that plans assume: fixed numbers, so that a plan never depends on a timing."""
WINOGRAD_PLATFORMS = ("cpu",)
"""Platforms on which convolutions use Winograd's algorithm (`conv`) by default."""
COMPILE_SECONDS = {"cpu": 8.0, "gpu": 20.0, "tpu": 20.0}
"""Seconds that a plan assumes for compiling a step program."""
COARSE_EVALUATIONS = 60
"""Number of evaluations that each coarser stage of a pyramid gets."""
CHECKPOINT_SHARE = 0.02
"""The part of a run's time that writing checkpoints may take."""
NOMINAL_WRITE = 2e8
"""Bytes per second that plans assume for writing checkpoints."""
MIN_STAGE_PX = 32
"""The least length of a coarser stage's longest edge."""


def halved_shape(shape: tuple[int, int], times: int) -> tuple[int, int]:
    """(height, width) in px of the stage that is `times` halvings coarser; odd edges lose a pixel."""
    return shape[0] >> times, shape[1] >> times


def coarser_stages(shape: tuple[int, int], pyramid: int) -> int:
    """Number of coarser stages that a pyramid gives an image of `shape`: stages too small are skipped."""
    worth = [
        times
        for times in range(1, pyramid + 1)
        if max(halved_shape(shape, times)) >= MIN_STAGE_PX
        and min(halved_shape(shape, times)) >= MIN_EDGE_PX
    ]
    return len(worth)


def evaluation_count(shape: tuple[int, int], coarser: int, steps: int) -> float:
    """Evaluations for `steps` steps, with those of coarser stages weighted by their share of the pixels."""
    pixels = shape[0] * shape[1]
    shares = (math.prod(halved_shape(shape, times)) / pixels for times in range(1, coarser + 1))
    return steps + 1 + COARSE_EVALUATIONS * sum(shares)


def uses_winograd(sweep: Sweep, platform: str) -> bool:
    """Whether the convolutions of a sweep's cells use Winograd's algorithm."""
    return sweep.conv == "auto" and platform in WINOGRAD_PLATFORMS


def nominal_platform(platform: str) -> str:
    """The kind of device that plans take `platform` for: anything but a CPU or a TPU is a GPU."""
    return platform if platform in NOMINAL_FLOPS else "gpu"
