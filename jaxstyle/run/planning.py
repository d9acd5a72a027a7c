"""The plan of a run: its work, its devices and its cost; made before it, in a cluster by a worker.

JAX is started here, inside the functions that need it, once settings and images have been checked.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxstyle.console import limits
from jaxstyle.console.progress import counted
from jaxstyle.inputs.region_maps import RegionMaps
from jaxstyle.plan.cells import needs_balance
from jaxstyle.plan.chunks import Plan
from jaxstyle.plan.nominal_rates import COMPILE_SECONDS, NOMINAL_FLOPS, nominal_platform, uses_winograd
from jaxstyle.plan.planner import make_plan
from jaxstyle.plan.programs import Memory, Program
from jaxstyle.run.inputs import Inputs, calibrated
from jaxstyle.run.launcher import Launcher
from jaxstyle.run.start_jax import start_jax
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import rows_used
from jaxstyle.spec.settings import RunOptions, Sweep
from jaxstyle.spec.shares import Share
from jaxstyle.vgg import layers

COMPILER_BYTES = 1_600_000_000
"""Memory that compiling a run's programs takes at most, roughly, beyond what is planned for. With an empty
cache the peak of the process was 0.5 (Adam, 1024 px) to 1.6 GB (L-BFGS, two coarser stages, 512 px) above
that (VmHWM of `/proc/self/status` after `--steps 3`, two cores)."""


ACTIVATIONS_HELD = 1.8
"""Memory of a pass over an image, as a multiple of its float32 activations."""


@dataclass(frozen=True)
class Planned:
    """A plan and what its launches take on the devices it was made for."""

    plan: Plan
    memory: tuple[Memory, ...]
    """Memory of each program, on one device."""
    devices: int = 1
    """Number of devices that compute side by side."""
    beside: int = 1
    """Launches that each of them advances at the same time."""
    note: str = ""
    """A warning about their memory, for people; empty if there is none."""
    hint: str = ""
    """A faster precision that they have, for people; empty if there is none."""
    style: str = ""
    """Size of the largest style, as `512x384`; empty if there is no image."""
    target_bytes: int = 0
    """Memory that the targets of that style take on one device, while they are computed."""

    @property
    def state_bytes(self) -> int:
        """Most bytes of disk that states of unfinished pictures take, while new ones replace the last."""
        plan, at_once = self.plan, self.devices * self.beside
        largest = 0
        for index in {chunk.program for chunk in plan.chunks}:
            program = plan.programs[index]
            cells = min(at_once * program.width, plan.program_cells(index))
            largest = max(largest, cells * program.state_bytes() // program.width)
        return 2 * largest


def plan_for(
    inputs: Inputs,
    device: Any,
    before: Plan | None = None,
    *,
    measure: bool = True,
    tries: bool = True,
    width: int | None = None,
    devices: int = 1,
) -> Planned:
    """The plan of a run on devices, with the memory that its launches take.

    Args:
        inputs: the inputs of the run.
        device: the device that it is to run on, the first one of several.
        before: the plan of the cells that are there already, if a run is continued or extended.
        measure: whether the memory of a launch is measured, by compiling it twice; only on a GPU.
        tries: whether rows of plugins are tried out.
        width: cells per launch; None to choose them by the device's memory.
        devices: number of devices that share the work.

    Raises:
        JaxstyleError: if the device cannot compute in the sweep's precision.
    """
    from jaxstyle.device.memory import can_tf32, choose_width, device_memory, planned_memory
    from jaxstyle.device.try_out import try_out

    sweep, platform = inputs.sweep, nominal_platform(device.platform)
    if sweep.precision == "tf32" and not can_tf32(device):
        raise JaxstyleError(
            "precision", f"tf32 is not available on this {device.device_kind}; use f32 or bf16"
        )
    available = device_memory(device)
    winograd, hint = uses_winograd(sweep, platform), precision_hint(sweep, device)
    memory = functools.partial(planned_memory, winograd=winograd)
    if before is not None and len(before.cells) == len(inputs.cells):
        return _with_targets(
            Planned(before, tuple(map(memory, before.programs)), devices, hint=hint), inputs
        )

    find = functools.partial(_find_plan, inputs, platform=platform, available=available, before=before)
    if measure and platform == "gpu":  # on a TPU each takes as long to compile as the step itself
        # Only the largest program is measured; the others are taken to need memory in proportion to their
        # activations.
        alone = find(lambda *_: 1, memory, canvas="off").programs
        largest = max(alone, key=lambda program: (program.bytes_per_cell(), program.shape))
        memory = _measured_memory(largest, inputs, device)

    def width_for(program: Program, count: int) -> int:
        about = {"platform": platform, "memory": memory(program), "available": available}
        return width or choose_width(program, count, devices=devices, **about)

    found = find(width_for, memory)
    if tries and any(row.origin is not None for row in rows_used(sweep)):
        styles = {(pixels.shape[0], pixels.shape[1]) for pixels in inputs.pictures.style.values()}
        for program in found.programs:
            try_out(program, inputs.weights.layers, styles)
    return _with_targets(Planned(found, tuple(map(memory, found.programs)), devices, hint=hint), inputs)


def _with_targets(planned: Planned, inputs: Inputs) -> Planned:
    """`planned` with the memory of the targets of its largest style.

    # Measured are 1.9, 1.7 and 1.4 times activations of 0.24, 0.97 and 2.19 GB, at 512, 1024 and 1536 px
    # (peak of the process on two cores, less that with a style of 64 px). Winograd's algorithm takes an
    # eighth more: 1.05 and 3.43 GB instead of 0.93 and 3.08 for 768x1024 and 1152x1536 px.
    """
    shapes = {(pixels.shape[0], pixels.shape[1]) for pixels in inputs.pictures.style.values()}
    if not shapes:
        return planned
    taps = {tap for cell in inputs.cells for tap in cell.layer_weights}
    takes = {shape: ACTIVATIONS_HELD * 4 * layers.activation_floats(*shape, taps) for shape in shapes}
    height, width = max(takes, key=takes.__getitem__)
    fixed = max((memory.fixed for memory in planned.memory), default=0)
    return replace(planned, style=f"{width}x{height}", target_bytes=fixed + int(takes[height, width]))


def precision_hint(sweep: Sweep, device: Any) -> str:
    """A line for people about what computes faster on a GPU than the sweep's f32; else an empty string."""
    from jaxstyle.device.memory import can_tf32

    if sweep.precision != "f32" or not can_tf32(device):
        return ""
    # An H200 does 16 cells of 512 px in at least 6.15 ms a step in f32, by its rate of products, and was
    # measured at 1.61 in tf32 and 0.83 in bf16 (docs/gpu.md); the losses are those of docs/precision.md.
    return (
        "f32 does not use this GPU's matrix units: --precision tf32 takes about a quarter of the time, bf16"
        " about an eighth; products are rounded, so details differ and losses end 8 % lower to 12 % higher"
    )


def _find_plan(
    inputs: Inputs,
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
        replace(inputs.sweep, **changes),
        inputs.cells,
        {cell.shaped_by: inputs.pictures.shape(cell) for cell in inputs.cells},
        platform=platform,
        choose_width=choose_width,
        fits=fits,
        before=before,
        regions=RegionMaps(inputs.pictures).count,
    )


def _measured_memory(largest: Program, inputs: Inputs, device: Any) -> Callable[[Program], Memory]:
    """The memory that launches of a program take: measured of `largest`, others by their activations."""
    from jaxstyle.device.measured_memory import measure_memory

    winograd = uses_winograd(inputs.sweep, nominal_platform(device.platform))
    measured = measure_memory(largest, inputs.weights.layers, device=device, winograd=winograd)

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
    beside: int | None = None,
) -> tuple[Sweep, Planned]:
    """The sweep with every relative number measured, and its plan on some devices.

    Args:
        inputs: the inputs of the run.
        devices: the devices of this process.
        before: see `plan_for`.
        width: see `plan_for`.
        shares: number of processes, each with as many devices, that share the run.
        beside: see `side_by_side`.

    Raises:
        JaxstyleError: for what the devices cannot do or have no memory for.
    """
    if before is None:
        _check_before_balance(inputs, devices, beside)
    inputs = calibrated(inputs, devices[0])
    planned = plan_for(inputs, devices[0], before, width=width, devices=shares * len(devices))
    beside = side_by_side(planned.plan, inputs.sweep, devices, beside)
    planned = replace(planned, devices=len(devices), beside=beside)
    if before is None or devices[0].platform == "cpu":  # an earlier plan was measured, and backs off
        planned = replace(planned, note=check_memory(planned, devices[0]))
    return inputs.sweep, planned


def _check_before_balance(inputs: Inputs, devices: Sequence[Any], beside: int | None) -> None:
    """Raise JaxstyleError if a launch, before which a balance is to be measured, lacks the memory."""
    if any(needs_balance(cell) for cell in inputs.cells):
        planned = plan_for(inputs, devices[0], measure=False, tries=False)
        beside = side_by_side(planned.plan, inputs.sweep, devices, beside)
        check_memory(replace(planned, beside=beside), devices[0])


def check_memory(planned: Planned, device: Any) -> str:
    """Raise JaxstyleError if there is too little memory for one launch, or on a GPU for one cell.

    On a CPU the system would kill the process; a GPU's wider launches are halved until they fit.

    Returns:
        A warning if it fits, but what else a CPU's memory is needed for may not; else an empty string.
    """
    from jaxstyle.device.memory import device_memory

    plan = planned.plan
    if not plan.chunks:
        return ""
    used = {chunk.program for chunk in plan.chunks}
    beside = planned.beside if device.platform == "cpu" else 1
    widths = {i: min(beside, plan.program_cells(i)) * plan.programs[i].width for i in used}
    cells = widths if device.platform == "cpu" else dict.fromkeys(used, 1)
    takes = {i: planned.memory[i].fixed + cells[i] * planned.memory[i].per_cell for i in used}
    largest = plan.programs[max(takes, key=takes.__getitem__)]
    what, setting = f"a {largest.shape} image", "size"
    if planned.target_bytes > max(takes.values()):  # a pass over a style, before the first launch
        takes, beside = {0: planned.target_bytes}, 1
        what, setting = f"a style of {planned.style} px", "style_size"
    needed, there, name, mend = max(takes.values()), device_memory(device), "", ""
    if device.platform == "cpu":  # all its devices share one memory, with the process itself
        needed *= planned.devices
        limit = min(limits.memory_limits(), key=lambda limit: limit.bytes - limit.overhead)
        needed, there, name, mend = needed + limit.overhead, limit.bytes, f" by {limit.name}", limit.mend
        if limit.name.startswith("ulimit"):  # going beyond it ends the process in mid-compilation
            needed += COMPILER_BYTES
    if needed > there:
        several = f" on each of {planned.devices} devices" if name and planned.devices > 1 else ""
        if beside > 1:  # by --side-by-side, for a number of our own fits
            several, mend = f", {beside} side by side,", f" or --side-by-side{mend}"
        raise JaxstyleError(
            setting,
            f"{what}{several} needs about {needed / 1e9:.2f} GB of memory and there are"
            f" {there / 1e9:.2f} GB{name}; give a smaller --{setting.replace('_', '-')}{mend}",
        )
    if device.platform != "cpu" or name.startswith(" by ulimit") or needed + COMPILER_BYTES <= there:
        return ""
    return (
        f"{what} needs {needed / 1e9:.2f} of the {there / 1e9:.2f} GB{name}, and compiling"
        f" up to {COMPILER_BYTES / 1e9:.1f} GB more; if the system ends the process, give a smaller"
        f" --{setting.replace('_', '-')}{mend}"
    )


def side_by_side(
    plan: Plan, sweep: Sweep, devices: Sequence[Any], asked: int | None = None, *, processes: int = 1
) -> int:
    """Number of launches that each device of this process advances at the same time, at most.

    It is more than one only where JAX has a single device, a CPU, and changes no byte of a result.

    Args:
        plan: the plan; the number is one that all of its programs have the memory for.
        sweep: the settings of the run.
        devices: the devices of this process.
        asked: the number that the user asks for.
        processes: how many such processes share the machine's memory.
    """
    from jaxstyle.device.memory import device_memory, launches_beside, planned_memory

    platform = nominal_platform(devices[0].platform)
    if len(devices) > 1 or platform != "cpu" or not plan.chunks:
        return 1
    launches = collections.Counter[int]()
    for chunk in plan.chunks:
        launches[chunk.program] += -(-len(plan.computed(chunk)) // plan.programs[chunk.program].width)
    if asked is None:
        winograd, available = uses_winograd(sweep, platform), device_memory(devices[0]) // processes
        programs = [plan.programs[index] for index in launches]
        asked = min(
            launches_beside(
                planned_memory(program, winograd=winograd), program.width, available, limits.xla_threads()
            )
            for program in programs
        )
    return min(asked, max(launches.values()))


def chunks_of_share(plan: Plan, share: Share, platform: str) -> list[int]:
    """Numbers of the chunks that make up a share of a plan."""
    kind = nominal_platform(platform)
    compile_flops = COMPILE_SECONDS[kind] * NOMINAL_FLOPS[kind]
    return plan.shares(share.count, compile_flops=compile_flops)[share.index]


def check_share(plan: Plan, share: Share, platform: str) -> None:
    """Raise JaxstyleError if the first process of a run has nothing to compute.

    Nobody else is at work in the run, and others may never come: for example, if every task of an array
    has a run of its own.
    """
    if not chunks_of_share(plan, share, platform):
        there = counted(len(plan.chunks), "chunk")
        raise JaxstyleError(
            "shard",
            f"{share} has nothing to do: the run has {there}, and nobody else is at work in it; give at"
            f" most {counted(len(plan.chunks), 'share')}, or leave --shard out for a run of its own",
        )


def make_launcher(
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
    _check_before_balance(inputs, [device], 1)
    inputs = calibrated(inputs, device)
    planned = plan_for(inputs, device, measure=False)
    for note in filter(None, (check_memory(planned, device), planned.hint)):
        on_note(note)
    return Launcher(inputs, planned.plan, (device,), collections.defaultdict(float))
