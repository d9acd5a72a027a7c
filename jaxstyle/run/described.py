"""A plan and its cost, as `--dry-run` tells it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxstyle.console.progress import counted, duration
from jaxstyle.plan.costs import COMPILE_SECONDS, NOMINAL_FLOPS
from jaxstyle.run.planning import Planned
from jaxstyle.spec.tables import TERMS


def describe(planned: Planned, platform: str, checkpoint_every: float, device: str) -> dict[str, Any]:
    """Values that `--dry-run` prints: the plan and its estimated cost, before anything has been measured.

    Args:
        planned: the plan; without chunks, all values are zero.
        platform: the platform whose nominal rate is assumed.
        checkpoint_every: the sweep's setting, in seconds.
        device: name of the devices, from `manifest.device_text`.
    """
    plan = planned.plan
    rate, compile_s = planned.devices * NOMINAL_FLOPS[platform], COMPILE_SECONDS[platform]
    programs = [
        {
            "shape": program.shape,
            "canvas": program.canvas,
            "pool": program.pool,
            "optimizer": program.optimizer,
            "coarser": [program.stage(times).shape for times in range(program.coarser, 0, -1)],
            "precision": program.precision,
            "taps": list(program.taps),
            **({"terms": list(program.terms)} if program.terms else {}),
            "width": program.width,
            "cells": plan.program_cells(i),
            "memory_bytes": memory.fixed + program.width * memory.per_cell,
            "memory_bytes_per_cell": memory.per_cell,
            "checkpoint_s": round(program.checkpoint_s(checkpoint_every), 1),
            "flops_per_step": program.step_flops,
        }
        for i, (program, memory) in enumerate(zip(plan.programs, planned.memory, strict=True))
        if plan.program_cells(i)
    ]
    return {
        "cells": sum(len(chunk.cells) for chunk in plan.chunks),
        "computed": sum(len(plan.computed(chunk)) for chunk in plan.chunks),
        "image_steps": plan.image_steps,
        "chunks": len(plan.chunks),
        "device": device,
        "devices": planned.devices,
        "programs": programs,
        "batch_width": max((program["width"] for program in programs), default=0),
        "memory_bytes": max((program["memory_bytes"] for program in programs), default=0),
        "flops": plan.flops,
        "disk_bytes": plan.result_bytes(),
        "time_s": round(plan.flops / rate + compile_s * sum(1 + len(p["coarser"]) for p in programs), 1),
    }


def describe_text(values: dict[str, Any]) -> Iterator[str]:
    """Lines for people with the values of `describe`."""
    counts = (values["cells"], "cell"), (values["image_steps"], "image-step"), (values["chunks"], "chunk")
    several = f" on {values['devices']} devices" if values["devices"] > 1 else ""
    yield ", ".join(counted(*count) for count in counts) + f" on {values['device']}"
    if copies := values["cells"] - values["computed"]:
        yield f"{counted(copies, 'cell')} copied from others that differ only in an unused seed"
    for p in values["programs"]:
        yield (
            f"program {p['shape']}{' (canvas)' if p['canvas'] else ''}:"
            f" {counted(p['cells'], 'cell')}, batch width {p['width']},"
            f" about {p['memory_bytes'] / 1e6:.0f} MB, {p['flops_per_step'] / 1e9:.1f} GFLOP per"
            f" image-step, {p['optimizer']}{''.join(f', from {shape}' for shape in p['coarser'][:1])},"
            f" {p['precision']}, {p['pool']} pooling,"
            f" taps {' '.join(p['taps'])}"
            + "".join(f", and the {TERMS[name].words}" for name in p.get("terms", ()))
        )
    every = max(p["checkpoint_s"] for p in values["programs"])
    yield f"{values['flops'] / 1e12:.2f} TFLOP in all, about {values['disk_bytes'] / 1e6:.0f} MB on disk"
    yield f"a killed run repeats at most {duration(every)} of its work"
    yield f"about {duration(values['time_s'])}{several} at this kind of device's nominal rate"
