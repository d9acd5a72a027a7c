"""Nominal rates and costs that plans are made with: fixed, never measured."""

from __future__ import annotations

from jaxstyle.spec.settings import Sweep

NOMINAL_FLOPS = {"cpu": 2e11, "gpu": 1e14, "tpu": 1e14}
"""Rates in FLOP/s that plans assume: fixed numbers, so that a plan never depends on a timing."""
WINOGRAD_PLATFORMS = ("cpu",)
"""Platforms on which convolutions use Winograd's algorithm (`vgg.winograd`) by default."""
PASS_FLOPS = 1.4e10
"""FLOPs in whose time a pass reads the network's weights, whatever the size of its pictures. For the time
that is left of a run only: on two cores a step of 128, 192 and 256 px takes 99, 157 and 282 ms in f32,
which is 36 ms and 2.5 ms for every GFLOP (bench/results/throughput-cpu.json). Wide launches share it."""
PLANE_PLATFORMS = ("tpu",)
"""Platforms whose programs keep the three channels of an image apart, as planes (`Program.planes`)."""
TILE_ROWS = 8
"""Rows of a tile of a TPU's memory. The compiler lays the cells of a launch along them: fewer leave part of
every tile empty, and one cell alone is cut into strips that fill them (docs/tpu.md)."""
COMPILE_SECONDS = {"cpu": 8.0, "gpu": 20.0, "tpu": 45.0}
"""Seconds that a plan assumes for compiling a step program."""
CHECKPOINT_SHARE = 0.02
"""The part of a run's time that writing checkpoints may take."""
NOMINAL_WRITE = 2e8
"""Bytes per second that plans assume for writing checkpoints."""


def uses_winograd(sweep: Sweep, platform: str) -> bool:
    """Whether the convolutions of a sweep's cells use Winograd's algorithm."""
    return sweep.conv == "auto" and platform in WINOGRAD_PLATFORMS


def nominal_platform(platform: str) -> str:
    """The kind of device that plans take `platform` for: anything but a CPU or a TPU is a GPU."""
    return platform if platform in NOMINAL_FLOPS else "gpu"
