"""Memory of a device, and the width of launches that it allows."""

from __future__ import annotations

import numpy as np

from jaxstyle.console import limits
from jaxstyle.device.batch import Device
from jaxstyle.plan.nominal_rates import TILE_ROWS
from jaxstyle.plan.programs import Memory, Program
from jaxstyle.vgg import layers
from jaxstyle.vgg.precision import ARITHMETIC

MAX_WIDTH = 64
"""Cells that a launch advances on one device at most."""
INDEXABLE = 2**31
"""Number of elements that every tensor must stay below: cuDNN gets far slower past 32-bit indices."""
MEMORY_SHARE = 0.5
"""The part of a device's memory that a launch is planned to use."""
BESIDE_SHARE = 0.25
"""The part of main memory that a CPU's launches, when several run side by side, are planned to use."""
UNKNOWN_MEMORY = 8 * 2**30
"""Bytes that are assumed for a device that does not report its memory."""
SIGNS_OF_NO_MEMORY = (
    "RESOURCE_EXHAUSTED",
    "YNNPACK operation failed: error",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "_STATUS_ALLOC_FAILED",
)
"""Words of XLA's errors when memory ran out: its own status, or a library's words in an INTERNAL error.

YNNPACK, which computes some sums on a CPU, has one word for every failure while it runs; the only one to
expect of an operation that it accepted is that it could not allocate its buffers. The last is cuBLAS's and
cuDNN's.
"""


def device_memory(device: Device) -> int:
    """Bytes that programs may use on a device; on a CPU, the part of main memory open to this process."""
    if device.platform == "cpu":
        return limits.memory().bytes
    return (device.memory_stats() or {}).get("bytes_limit", UNKNOWN_MEMORY)


def choose_width(
    program: Program, cells: int, *, platform: str, memory: Memory, available: int, devices: int = 1
) -> int:
    """Cells per launch and device: 1 on a CPU, elsewhere the largest power of two within the limits.

    On a TPU it is 1 or at least `TILE_ROWS`, which are taken for more than half as many cells: XLA's own
    count of cycles of a step of 256 px is 4.0 million for one cell and 20.6 million for eight.

    On a CPU a width of 1 is the fastest, needs the least memory and makes a cell's bytes independent of
    all other cells. Elsewhere the limits are the cells that fit beside the weights in `MEMORY_SHARE` of the
    device, tensors of fewer than 2^31 elements, `MAX_WIDTH`, and the number of cells for each device,
    rounded up to a power of two.

    Args:
        program: a program of any width.
        cells: number of cells that it has to compute.
        platform: `cpu`, `gpu` or `tpu`.
        memory: memory that a launch of `program` takes.
        available: bytes of memory of each device.
        devices: number of devices.
    """
    if platform == "cpu":
        return 1
    masks = program.regions if not program.grids else 1  # features times every mask are one tensor
    widest = max(h * w * c * max(1, masks) for h, w, c in _activation_shapes(program))
    widest = max(widest, program.state_bytes() // (4 * program.width))  # L-BFGS keeps one of its history
    limit = min(
        (available * MEMORY_SHARE - memory.fixed) / memory.per_cell,
        (INDEXABLE - 1) / widest,
        MAX_WIDTH,
        2 ** (-(-cells // devices) - 1).bit_length(),
    )
    width = 2 ** (max(1, int(limit)).bit_length() - 1)
    return 1 if platform == "tpu" and width < TILE_ROWS else width


def launches_beside(memory: Memory, width: int, available: int, threads: int) -> int:
    """Number of launches that a CPU advances at the same time: one for each thread, if they fit.

    A step has many operations that two threads do hardly faster than one. On two cores, two launches of 64
    to 128 px at a time take 0.77 of the time that they take one after the other, of 256 px 0.95, of 512 px
    0.99.

    Args:
        memory: memory that a launch takes.
        width: cells of a launch.
        available: bytes of memory open to this process.
        threads: threads of XLA's CPU runtime.
    """
    fitting = (available * BESIDE_SHARE - memory.fixed) / (width * memory.per_cell)
    return max(1, min(threads, int(fitting)))


def _activation_shapes(program: Program) -> list[tuple[int, int, int]]:
    rows = layers.up_to(program.taps)
    return [layers.feature_shape(row.name, program.height_px, program.width_px) for row in rows]


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device ran out of memory, which a run can remedy by narrower launches."""
    return any(sign in str(error) for sign in SIGNS_OF_NO_MEMORY)


def planned_memory(program: Program, *, winograd: bool) -> Memory:
    """Memory of a program's launches on a CPU or a TPU, estimated without compiling.

    See `Program.bytes_per_cell`.
    """
    operand_bytes = np.dtype(ARITHMETIC[program.precision].dtype).itemsize
    weights = layers.parameter_bytes(program.taps, winograd=winograd, operand_bytes=operand_bytes)
    # Winograd's kernels are accompanied by plain ones, for styles on a canvas of their own.
    targets = layers.parameter_bytes(program.taps, winograd=False) if winograd else 0
    return Memory(weights + targets, program.bytes_per_cell())


def can_tf32(device: Device) -> bool:
    """Whether a device multiplies in TF32: an NVIDIA GPU of compute capability 8.0 or later."""
    capability = getattr(device, "compute_capability", "")
    return (
        device.platform in ("gpu", "cuda") and capability.split(".")[0].isdigit() and float(capability) >= 8
    )
