"""The plan of a run: its work, its devices and its cost; made before it, in a cluster by a worker.

JAX is started here, inside the functions that need it, once settings and images have been checked.
"""

from __future__ import annotations

import collections
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxstyle import launches
from jaxstyle.console import limits
from jaxstyle.console.progress import counted, duration
from jaxstyle.device import jax_settings
from jaxstyle.launches import Inputs, Launcher
from jaxstyle.plan.chunks import Plan
from jaxstyle.plan.costs import COMPILE_SECONDS, NOMINAL_FLOPS, nominal_platform, uses_winograd
from jaxstyle.plan.planner import make_plan
from jaxstyle.plan.programs import Memory, Program
from jaxstyle.spec.errors import JaxstyleError, UnfitEnvironment
from jaxstyle.spec.jax_state import is_jax_running
from jaxstyle.spec.options import Share
from jaxstyle.spec.resolve import rows_used
from jaxstyle.spec.settings import RunOptions, Sweep
from jaxstyle.spec.tables import TERMS

COMPILER_BYTES = 1_600_000_000
"""Memory that compiling a run's programs takes at most, roughly, beyond what is planned for. With an empty
cache the peak of the process was 0.5 (Adam, 1024 px) to 1.6 GB (L-BFGS, two coarser stages, 512 px) above
that (VmHWM of `/proc/self/status` after `--steps 3`, two cores)."""
DETERMINISTIC_FLAGS = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"


def start_jax(sweep: Sweep, options: RunOptions, before: Mapping[str, Any] | None = None) -> Any:
    """Import JAX with the settings a run needs and return its first device.

    A cache directory that the user chose for JAX is left alone. On a CPU, JAX gets a thread for every core
    that this process may keep busy, unless NPROC gives their number.

    Args:
        sweep: the resolved sweep.
        options: options of the run.
        before: manifest of the run that is continued; its number of threads is used again.

    Raises:
        UnfitEnvironment: if JAX does not start.
    """
    threads = before and before.get("threads")
    threads = threads if isinstance(threads, int) else limits.threads()
    if not is_jax_running() and threads != limits.xla_threads():
        os.environ["NPROC"] = str(threads)
    if not is_jax_running():
        jax_settings.check_xla_flags()
        if sweep.deterministic:
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC_FLAGS}".strip()
    limits.check_start()
    device = _first_device()
    jax_settings.check_settings()
    import jax

    if (
        not options.no_compile_cache
        and jax.config.jax_compilation_cache_dir is None  # pyright: ignore
        and (cache := cache_directory()) is not None
    ):
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    asked = "--xla_gpu_deterministic_ops=true" in os.environ.get("XLA_FLAGS", "")
    if sweep.deterministic and device.platform == "gpu" and not asked:
        raise JaxstyleError(
            "deterministic",
            f"JAX is already running; set XLA_FLAGS='{DETERMINISTIC_FLAGS}' before it starts",
        )
    return device


def _first_device() -> Any:
    """JAX's first device. Raises UnfitEnvironment if JAX does not start, for whatever reason."""
    try:
        import jax

        return jax.local_devices()[0]
    except Exception as error:
        # JAX has no exception of its own for this: without a GPU, JAX_PLATFORMS=cuda raises an
        # AssertionError, an unknown platform to a RuntimeError, a wrong setting to a ValueError.
        text = str(error).strip()
        said = f"{type(error).__name__}: {text}".splitlines()[0] if text else "no such device"
        asked, mend = os.environ.get("JAX_PLATFORMS", ""), "fix that"
        if isinstance(error, RuntimeError | AssertionError):
            mend = f"JAX_PLATFORMS={asked} asks for it: unset that" if asked else mend
            mend += ", or set JAX_PLATFORMS=cpu"
        raise UnfitEnvironment("JAX", f"does not start here: {said}; {mend}") from error


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of compiled programs in the user's cache directory; None if there can be none.

    XDG_CACHE_HOME counts only if it is absolute, as its specification says. A user without a home, as in
    many containers, has no such folder.
    """
    home = os.path.expanduser("~") if os.environ.get("HOME") != "" else ""
    bases = environment.get("XDG_CACHE_HOME", ""), os.path.join(home, ".cache")
    base = next((base for base in bases if os.path.isabs(base)), None)
    if base is None:
        return None
    folder = Path(base) / "jaxstyle" / "xla"  # JAX makes it when there is something to keep
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return folder if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else None


def devices(options: RunOptions) -> tuple[Any, ...]:
    """The devices of this process that a run may use; JAX must have been started.

    Raises:
        JaxstyleError: if more are asked for than this process has.
    """
    import jax

    there = jax.local_devices()
    wanted = options.devices or len(there)
    if wanted > len(there):
        raise JaxstyleError("devices", f"{wanted}: there {_are(len(there))} here ({there[0].device_kind})")
    return tuple(there[:wanted])


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


@dataclass(frozen=True)
class Planned:
    """A plan and what its launches take on the devices it was made for."""

    plan: Plan
    memory: tuple[Memory, ...]
    """Memory of each program, on one device."""
    devices: int = 1
    """Number of devices that compute side by side."""
    note: str = ""
    """A warning about their memory, for people; empty if there is none."""


def plan_of(
    checked: Inputs,
    device: Any,
    before: Plan | None = None,
    *,
    measure: bool = True,
    width: int | None = None,
    devices: int = 1,
) -> Planned:
    """The plan of a run on devices, with the memory that its launches take.

    Args:
        checked: the inputs of the run.
        device: the device that it is to run on, the first one of several.
        before: the plan of the cells that are there already, if a run is continued or extended.
        measure: whether the memory of a launch is measured, by compiling it twice; never on a CPU.
        width: cells per launch; None to choose them by the device's memory.
        devices: number of devices that share the work.

    Raises:
        JaxstyleError: if the device cannot compute in the sweep's precision.
    """
    from jaxstyle.device.memory import can_tf32, choose_width, device_memory, planned_memory
    from jaxstyle.device.trial import try_out

    sweep, platform = checked.sweep, nominal_platform(device.platform)
    if sweep.precision == "tf32" and not can_tf32(device):
        raise JaxstyleError(
            "precision", f"tf32 is not available on this {device.device_kind}; use f32 or bf16"
        )
    available = device_memory(device)
    winograd = uses_winograd(sweep, platform)
    memory = functools.partial(planned_memory, winograd=winograd)
    if before is not None and len(before.cells) == len(checked.cells):
        return Planned(before, tuple(memory(program) for program in before.programs), devices)

    find = functools.partial(_find_plan, checked, platform=platform, available=available, before=before)
    if measure and platform != "cpu":
        # Only the largest program is measured; the others are taken to need memory in proportion to their
        # activations.
        alone = find(lambda *_: 1, memory, canvas="off").programs
        largest = max(alone, key=lambda program: (program.bytes_per_cell(), program.shape))
        memory = _measured_memory(largest, checked, device)

    def width_for(program: Program, count: int) -> int:
        about = {"platform": platform, "memory": memory(program), "available": available}
        return width or choose_width(program, count, devices=devices, **about)

    found = find(width_for, memory)
    if any(row.origin is not None for row in rows_used(sweep)):
        styles = {(pixels.shape[0], pixels.shape[1]) for pixels in checked.pictures.style.values()}
        for program in found.programs:
            try_out(program, checked.weights.layers, styles)
    return Planned(found, tuple(memory(program) for program in found.programs), devices)


def _find_plan(
    checked: Inputs,
    choose_width: Callable[[Program, int], int],
    memory: Callable[[Program], Memory],
    *,
    platform: str,
    available: int,
    before: Plan | None,
    **changes: Any,
) -> Plan:
    """The plan of `checked`, with `changes` to its sweep, where canvases must fit the memory there is."""
    from jaxstyle.device.memory import MEMORY_SHARE

    def fits(program: Program) -> bool:
        one = memory(program)
        return one.fixed + one.per_cell <= available * MEMORY_SHARE

    return make_plan(
        replace(checked.sweep, **changes),
        checked.cells,
        {cell.content: checked.pictures.shape(cell) for cell in checked.cells},
        platform=platform,
        choose_width=choose_width,
        fits=fits,
        before=before,
    )


def _measured_memory(largest: Program, checked: Inputs, device: Any) -> Callable[[Program], Memory]:
    """The memory that launches of a program take: measured of `largest`, others by their activations."""
    from jaxstyle.device.trial import measure_memory

    winograd = uses_winograd(checked.sweep, nominal_platform(device.platform))
    measured = measure_memory(largest, checked.weights.layers, device=device, winograd=winograd)

    def memory(program: Program) -> Memory:
        share = program.bytes_per_cell() / largest.bytes_per_cell()
        return Memory(measured.fixed, int(measured.per_cell * share))

    return memory


def measured_plan(
    inputs: Inputs,
    devices: tuple[Any, ...],
    before: Plan | None = None,
    *,
    width: int | None = None,
    shares: int = 1,
) -> tuple[Sweep, Planned]:
    """The sweep with every relative number measured, and its plan on some devices.

    Args:
        inputs: the inputs of the run.
        devices: the devices of this process.
        before: see `plan_of`.
        width: see `plan_of`.
        shares: number of processes, each with as many devices, that share the run.

    Raises:
        JaxstyleError: for what the devices cannot do or have no memory for.
    """
    inputs = launches.calibrated(inputs, devices[0])
    planned = plan_of(inputs, devices[0], before, width=width, devices=shares * len(devices))
    planned = replace(planned, devices=len(devices))
    if before is None or devices[0].platform == "cpu":  # an earlier plan was measured, and backs off
        planned = replace(planned, note=check_memory(planned, devices[0]))
    return inputs.sweep, planned


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


def check_memory(planned: Planned, device: Any) -> str:
    """Raise JaxstyleError if one launch cannot fit: on a CPU the system would kill the process instead.

    Returns:
        A warning if it fits, but what else a CPU's memory is needed for may not; else an empty string.
    """
    from jaxstyle.device.memory import device_memory

    plan = planned.plan
    if not plan.chunks:
        return ""
    used = {chunk.program for chunk in plan.chunks}
    takes = {i: planned.memory[i].fixed + plan.programs[i].width * planned.memory[i].per_cell for i in used}
    largest = plan.programs[max(takes, key=takes.__getitem__)]
    needed, there, name, mend = max(takes.values()), device_memory(device), "", ""
    if device.platform == "cpu":  # all its devices share one memory, with the process itself
        needed *= planned.devices
        limit = min(limits.memory_limits(), key=lambda limit: limit.bytes - limit.overhead)
        needed, there, name, mend = needed + limit.overhead, limit.bytes, f" by {limit.name}", limit.mend
        if limit.name.startswith("ulimit"):  # going beyond it ends the process in mid-compilation
            needed += COMPILER_BYTES
    if needed > there:
        several = f" on each of {planned.devices} devices" if name and planned.devices > 1 else ""
        raise JaxstyleError(
            "size",
            f"a {largest.shape} image{several} needs about {needed / 1e9:.2f} GB of memory and there are"
            f" {there / 1e9:.2f} GB{name}; give a smaller --size{mend}",
        )
    if device.platform != "cpu" or name.startswith(" by ulimit") or needed + COMPILER_BYTES <= there:
        return ""
    return (
        f"a {largest.shape} image needs {needed / 1e9:.2f} of the {there / 1e9:.2f} GB{name}, and compiling"
        f" up to {COMPILER_BYTES / 1e9:.1f} GB more; if the system ends the process, give a smaller"
        f" --size{mend}"
    )


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


def share_of(plan: Plan, share: Share, platform: str) -> list[int]:
    """Numbers of the chunks that make up a share of a plan."""
    kind = nominal_platform(platform)
    compile_flops = COMPILE_SECONDS[kind] * NOMINAL_FLOPS[kind]
    return plan.shares(share.count, compile_flops=compile_flops)[share.index]


def launcher(
    inputs: Inputs, options: RunOptions, *, on_note: Callable[[str], None] = lambda note: None
) -> Launcher:
    """A launcher for a few cells without a run directory, on JAX's first device.

    Args:
        inputs: the inputs of the cells.
        options: options of the run, of which only that for JAX's compiled programs counts.
        on_note: called with a warning about memory, if there is one.

    Raises:
        UnfitEnvironment: if JAX does not start.
        JaxstyleError: if the device lacks the memory for one launch or the precision of the sweep.
    """
    device = start_jax(inputs.sweep, options)
    inputs = launches.calibrated(inputs, device)
    planned = plan_of(inputs, device, measure=False)
    if note := check_memory(planned, device):
        on_note(note)
    return Launcher(inputs, planned.plan, (device,), collections.defaultdict(float))
