"""The memory that launches take, measured by compiling them."""

from __future__ import annotations

from dataclasses import replace

import jax

from jaxstyle.device.batch import Device, Layers
from jaxstyle.device.engine import Engine
from jaxstyle.device.memory import is_out_of_memory, planned_memory
from jaxstyle.plan.programs import Memory, Program


def measure_memory(
    program: Program, weights: Layers, *, device: Device, winograd: bool | None = None
) -> Memory:
    """Memory of a program's launches on a device, from the compiler's reports for widths 1 and 2.

    If there is no usable report, or no memory to compile them, the result is that of `planned_memory`.
    """
    engine = Engine(weights, device=device, winograd=winograd)
    planned = planned_memory(program, winograd=engine.winograd)
    programs = [replace(program, width=width, coarser=0) for width in (1, 2)]
    try:
        one, two = (engine.compile(p)[0].device_bytes for p in programs)
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return planned
    finally:
        for p in programs:
            engine.forget(p)
    if not 0 < one < two:
        return planned
    return Memory(fixed=max(0, 2 * one - two), per_cell=two - one)
