"""A plan and its cost in words and as values, for the start of a run and for `--dry-run`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxstyle.console.progress import counted, duration
from jaxstyle.plan.nominal_rates import COMPILE_SECONDS, NOMINAL_FLOPS, nominal_platform
from jaxstyle.run.checked import check_extensible, check_run
from jaxstyle.run.inputs import unused_words
from jaxstyle.run.planning import (
    Planned,
    check_memory,
    check_share,
    chunks_of_share,
    plan_for,
    side_by_side,
)
from jaxstyle.run.start_jax import nothing_kept, start_jax, usable_devices
from jaxstyle.rundir import manifest
from jaxstyle.rundir.directory import CHECKPOINTS
from jaxstyle.rundir.files import check_space, free_bytes
from jaxstyle.rundir.records import Record
from jaxstyle.spec import plugins
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.options import check_options
from jaxstyle.spec.settings import RunOptions, Sweep
from jaxstyle.spec.shares import asked_share
from jaxstyle.spec.tables import TERMS, network_words

NAMED_PROGRAMS = 3
"""Programs that are described, of a plan that has more."""


def describe(
    planned: Planned,
    platform: str,
    checkpoint_every: float,
    device: str,
    precision: str,
    crops: int | None = None,
) -> dict[str, Any]:
    """Values that `--dry-run` prints: the plan and its estimated cost, before anything has been measured.

    Args:
        planned: the plan; without chunks, all values are zero.
        platform: the platform whose nominal rate is assumed.
        checkpoint_every: the sweep's setting, in seconds.
        device: name of the devices, from `manifest.device_text`.
        precision: the sweep's setting.
        crops: the sweep's setting.
    """
    plan = planned.plan
    rate, compile_s = planned.devices * NOMINAL_FLOPS[platform], COMPILE_SECONDS[platform]
    beside = [min(planned.beside, plan.program_cells(i)) for i in range(len(plan.programs))]
    programs = [
        {
            **program.facts(),
            "coarser": [program.stage(times).shape for times in range(program.coarser, 0, -1)],
            "cells": plan.program_cells(i),
            "side_by_side": beside[i],
            "memory_bytes": memory.fixed + beside[i] * program.width * memory.per_cell,
            "memory_bytes_per_cell": memory.per_cell,
            "checkpoint_s": round(program.checkpoint_s(checkpoint_every), 1),
            "flops_per_step": program.step_flops,
        }
        for i, (program, memory) in enumerate(zip(plan.programs, planned.memory, strict=True))
        if plan.program_cells(i)
    ]
    target_bytes = planned.target_bytes if programs else 0
    compiling_s = compile_s * sum(1 + len(program["coarser"]) for program in programs)
    return {
        "cells": sum(len(chunk.cells) for chunk in plan.chunks),
        "computed": sum(len(plan.computed(chunk)) for chunk in plan.chunks),
        "image_steps": plan.image_steps,
        "chunks": len(plan.chunks),
        "device": device,
        "devices": planned.devices,
        "side_by_side": planned.beside,
        "precision": precision,
        "assumed_flops_per_s": rate,
        "programs": programs,
        "batch_width": max((program["width"] for program in programs), default=0),
        "memory_bytes": max((*(program["memory_bytes"] for program in programs), target_bytes), default=0),
        "target_bytes": target_bytes,
        "largest_style": planned.style,
        "flops": plan.flops,
        "disk_bytes": plan.result_bytes(crops),
        "state_bytes": planned.state_bytes,
        "compile_s": compiling_s,
        "time_s": round(plan.flops / rate + compiling_s, 1),
    }


def describe_text(values: dict[str, Any]) -> Iterator[str]:
    """Lines for people with the values of `describe`."""
    counts = (values["cells"], "cell"), (values["image_steps"], "image-step"), (values["chunks"], "chunk")
    several = f" on {values['devices']} devices" if values["devices"] > 1 else ""
    where = f" on {values['device']}, in {values['precision']}"
    yield ", ".join(counted(*count) for count in counts) + where
    if copies := values["cells"] - values["computed"]:
        yield f"{counted(copies, 'cell')} copied from others that differ only in an unused seed"
    programs = values["programs"]
    for p in programs[:NAMED_PROGRAMS]:
        beside = f", {p['side_by_side']} side by side" if p["side_by_side"] > 1 else ""
        yield (
            f"program {p['shape']}{' (canvas)' if p['canvas'] else ''}:"
            f" {counted(p['cells'], 'cell')}, batch width {p['width']}{beside},"
            f" about {p['memory_bytes'] / 1e6:.0f} MB, {p['flops_per_step'] / 1e9:.1f} GFLOP per"
            f" image-step, {p['optimizer']}{''.join(f', from {shape}' for shape in p['coarser'][:1])},"
            f" {p['precision']}, {network_words(p['pool'], p['padding'], p['style_loss'])},"
            f" taps {' '.join(p['taps'])}{', grey' if p.get('colour') == 'grey' else ''}"
            + (f", {p['regions']} regions" if p.get("regions") else "")
            + "".join(f", and the {TERMS[name].words}" for name in p.get("terms", ()))
        )
    if more := len(programs[NAMED_PROGRAMS:]):
        yield f"and {counted(more, 'program')} more, which --dry-run --json lists"
    if (shapes := len({p["shape"] for p in programs})) > NAMED_PROGRAMS:
        yield (
            f"{shapes} shapes are compiled apart, which takes about {duration(values['compile_s'])} of the"
            " time below; --size WxH gives all pictures one shape"
        )
    if values["target_bytes"] > max(p["memory_bytes"] for p in programs):
        mb = values["target_bytes"] / 1e6
        yield f"the targets of a style of {values['largest_style']} px: about {mb:.0f} MB, before the steps"
    every = max(p["checkpoint_s"] for p in programs)
    yield (
        f"{values['flops'] / 1e12:.2f} TFLOP in all, about {values['disk_bytes'] / 1e6:.0f} MB on disk,"
        f" and up to {values['state_bytes'] / 1e6:.0f} MB more while pictures are unfinished"
    )
    yield f"a killed run repeats at most {duration(every)} of its work"
    rate = values["assumed_flops_per_s"] / 1e12
    yield (
        f"about {duration(values['time_s'])}{several}, if it does {rate:g} TFLOP/s as plans assume;"
        " once it runs, it says what it measures"
    )


def space_note(path: Path, values: dict[str, Any]) -> str:
    """A warning if a run's results fit on its disk, but not with the states of unfinished pictures.

    Args:
        path: the directory of the run.
        values: those of `describe`.
    """
    there = sum(file.stat().st_size for file in (path / CHECKPOINTS).glob("*/state.npz"))
    needed, free = values["disk_bytes"] + values["state_bytes"] - there, free_bytes(path)
    if needed <= free:
        return ""
    return (
        f"{free / 1e6:.3g} MB of disk are free, and up to {needed / 1e6:.3g} MB are needed while pictures"
        " are unfinished; should the disk fill up, make space and --resume"
    )


def dry_run(sweep: Sweep, options: RunOptions, *, name: str = "sweep") -> None:
    """Print the plan of a sweep, as text or with `options.json` as JSON, and write nothing.

    For a run that is continued, it is the plan of what is left.
    """
    options = check_options(options)
    plugins.load(options.plugin)
    checked = check_run(sweep, options, name)
    earlier, share = checked.earlier, asked_share(options)
    device = start_jax(checked.sweep, options, earlier and earlier.manifest)
    before = earlier and earlier.plan
    # A cluster is not asked: its workers are assumed to be like this process's first device.
    several = (options.devices or 1) if options.cluster is not None else len(usable_devices(options))
    sharing = several * (share.count if share is not None else 1)
    with nothing_kept():
        planned = replace(plan_for(checked, device, before, devices=sharing), devices=several)
    todo = [chunk.number for chunk in planned.plan.chunks]
    if earlier is not None:
        there = {int(path.stem) for path in earlier.chunk_paths if _is_sound(earlier, path)}
        todo = [number for number in todo if number not in there]
        check_extensible(checked.path, options, len(there), len(earlier.plan.chunks))
    if share is not None:
        if earlier is None:
            check_share(planned.plan, share, device.platform)
        own = set(chunks_of_share(planned.plan, share, device.platform))
        todo = [number for number in todo if number in own]
    needed = planned.plan.result_bytes(checked.sweep.crops)  # of all shares
    planned = replace(planned, plan=planned.plan.only(todo))
    there = usable_devices(options) if options.cluster is None else (device,)
    beside = side_by_side(planned.plan, checked.sweep, there, options.side_by_side)
    planned = replace(planned, beside=beside)
    note = check_memory(planned, device)
    about = manifest.device_text(device.platform, device.device_kind, several, manifest.thread_count())
    kind = nominal_platform(device.platform)
    every, precision = checked.sweep.checkpoint_every, checked.sweep.precision
    values = describe(planned, kind, every, about, precision, checked.sweep.crops)
    if options.json:
        print(json.dumps(values | ({"skipped": dict(checked.skipped)} if checked.skipped else {})))
        return
    if not planned.plan.chunks:
        whose = "every cell" if share is None else f"every cell of share {share}"
        print(f"{whose} of {checked.path} is done")
        return
    for line in describe_text(values):
        print(line)
    space = "" if options.collect else space_note(checked.path, values)
    for line in filter(None, (note, planned.hint, *unused_words(checked), space)):
        print(line)
    for path, why in checked.skipped.items():
        print(f"{path}: left out: {why}")
    print(f"would write {checked.path}")
    if earlier is None:
        try:
            check_space(checked.path, needed)
        except JaxstyleError as error:
            print(f"started now, it would fail: {error}")


def _is_sound(record: Record, path: Path) -> bool:
    """Whether a chunk file is sound, so that the run keeps it."""
    try:
        record.check(path)
    except JaxstyleError:
        return False
    return True
