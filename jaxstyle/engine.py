"""Computation of cells on a device: the only place that compiles, batches, donates and chooses a width.

One launch advances `program.width` cells together: a `fori_loop` over passes with *traced* bounds,
around the one `vmap` over cells, on donated state. A launch is driven in segments of about a second;
snapshots and the last step fall on segment ends. Neither the number of steps nor the ends of segments
change the compiled program or a byte of the result.

With several devices, a launch has that many cells for each of them: the same `vmap` runs inside a
`shard_map` over a mesh whose one axis is `cell`. Cells are independent of each other, so that no device
ever waits for data of another one, and each computes exactly what it would compute alone.

Weights are arguments of every program. Compiled programs are kept for the life of the process.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxstyle.ambient import settled
from jaxstyle.cell import objective, step
from jaxstyle.cell.knobs import blank_knobs
from jaxstyle.cell.poolings import pooling
from jaxstyle.cell.start import init_state, refined_state
from jaxstyle.cell.state import Info, Knobs, State, Targets
from jaxstyle.console import limits
from jaxstyle.course import Course
from jaxstyle.plan.canvases import canvas_of
from jaxstyle.plan.costs import (
    COARSE_EVALUATIONS,
    NOMINAL_FLOPS,
    WINOGRAD_PLATFORMS,
    halved_shape,
    nominal_platform,
)
from jaxstyle.plan.programs import Memory, Program
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.tables import OPTIMIZERS, POOLINGS, TERMS
from jaxstyle.vgg import layers
from jaxstyle.vgg.convolution import ARITHMETIC
from jaxstyle.vgg.network import Bound, Features, Params, bind

Device = Any
"""A `jax.Device`; type checkers take that name for a variable."""
Layers = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""(kernel, bias) of each layer by name, kernels in HWIO, float32."""
SEGMENT_PASSES = 1024
"""Passes that fit into the buffer for a segment's losses: the greatest length of a segment."""
SEGMENT_SECONDS = 1.0
MAX_WIDTH = 64
CELL = P("cell")
"""The sharding of arrays whose leading axis is that of cells."""
INDEXABLE = 2**31
"""Number of elements that every tensor must stay below: cuDNN gets far slower past 32-bit indices."""
MEMORY_SHARE = 0.5
"""The part of a device's memory that a launch is planned to use."""
TARGET_CANVAS_PX = 64
"""The edges of the canvases that styles share are multiples of this."""
UNKNOWN_MEMORY = 8 * 2**30
"""Bytes that are assumed for a device that does not report its memory."""


class Stage(NamedTuple):
    """The inputs of a launch's cells in one stage, as host arrays with a leading axis of cells."""

    knobs: Knobs
    targets: Targets


class Launch(NamedTuple):
    """The cells of one launch, as host arrays with a leading axis of at most `program.width`.

    With several devices, the axis has at most `program.width` cells for each of them (see `abreast`).
    """

    knobs: Knobs
    start: Float[np.ndarray, "cells h w 3"]
    """The RGB images that the cells start from, without their noise, on the canvas of their first stage."""
    targets: Targets
    coarser: tuple[Stage, ...] = ()
    """The stages before the full size, coarsest first."""


class Progress(NamedTuple):
    """The progress of a launch: together with the launch, all that is needed to go on to the same bytes."""

    coarser: int
    """Number of halvings by which the current stage is coarser than the full size."""
    passes: int
    """Passes done in that stage."""
    state: tuple[np.ndarray, ...]
    """The leaves of the `State` of its cells."""
    images: tuple[np.ndarray, ...]
    """The snapshots already taken: arrays (cells, h, w, 3)."""
    infos: tuple[Info, ...]
    """The losses at full size: arrays (passes, cells) and (passes, cells, style taps)."""


class Segment(NamedTuple):
    """A segment that a launch has completed."""

    coarser: int
    """Number of halvings by which its stage is coarser than the full size."""
    passes: int
    """Passes done in this segment."""
    progress: Callable[[], Progress]
    """Function that fetches the progress of the launch; to be called before the launch continues."""


class Outcome(NamedTuple):
    """The results of one launch, in the order of its cells."""

    images: Float[np.ndarray, "cells snapshots h w 3"]
    """Images on the program's canvas; pixels outside a cell's own extent are meaningless."""
    info: Info
    """Losses of steps 0 to N: arrays (cells, N+1) and (cells, N+1, style taps)."""
    diverged_step: Int[np.ndarray, " cells"]
    """The first step without a finite loss, or -1."""


@dataclass
class Compiled:
    """The compiled functions of one `Program` on the devices of an engine."""

    init: Any
    segment: Any
    state: Any
    """The tree structure of a `State`, to rebuild one from its leaves."""
    step_traces: int
    """Number of times that the per-cell step was traced for them."""
    compile_s: float
    device_bytes: int
    """The compiler's count for a launch on one device: temporaries + arguments + outputs - reused bytes."""


_compiled: dict[Any, Compiled] = {}
_target_programs: dict[Any, Any] = {}
_refine_programs: dict[Any, Any] = {}
_gradient_programs: dict[Any, Any] = {}


def device_memory(device: Device) -> int:
    """Bytes that programs may use on a device; on a CPU, the part of main memory open to this process."""
    if device.platform == "cpu":
        return limits.memory().bytes
    return (device.memory_stats() or {}).get("bytes_limit", UNKNOWN_MEMORY)


def choose_width(
    program: Program, cells: int, *, platform: str, memory: Memory, available: int, devices: int = 1
) -> int:
    """Cells per launch and device: 1 on a CPU, elsewhere the largest power of two within the limits.

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
    widest = max(h * w * c for h, w, c in _activation_shapes(program))
    limit = min(
        (available * MEMORY_SHARE - memory.fixed) / memory.per_cell,
        (INDEXABLE - 1) / widest,
        MAX_WIDTH,
        2 ** (-(-cells // devices) - 1).bit_length(),
    )
    return 2 ** (max(1, int(limit)).bit_length() - 1)


def _activation_shapes(program: Program) -> list[tuple[int, int, int]]:
    rows = layers.up_to(program.taps)
    return [layers.feature_shape(row.name, program.height_px, program.width_px) for row in rows]


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
        for p in programs:  # forgotten, so that a run at one of these widths reports its compilation
            _compiled.pop(engine._key(p, p, engine.winograd), None)
    if not 0 < one < two:
        return planned
    return Memory(fixed=max(0, 2 * one - two), per_cell=two - one)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device ran out of memory, which a run can remedy by narrower launches."""
    return "RESOURCE_EXHAUSTED" in str(error)


def compiler_options(program: Program) -> dict[str, str | bool]:
    """Options that XLA needs to compile a program.

    By default XLA omits the rounding to bfloat16 between operations that it fuses, and it fuses different
    operations for targets than for steps: an image would then have a loss against itself.
    """
    return {"xla_allow_excess_precision": False} if program.precision == "bf16" else {}


def planned_memory(program: Program, *, winograd: bool) -> Memory:
    """Memory of a program's launches on a CPU, estimated without compiling (`Program.bytes_per_cell`)."""
    operand_bytes = np.dtype(ARITHMETIC[program.precision].dtype).itemsize
    weights = layers.parameter_bytes(program.taps, winograd=winograd, operand_bytes=operand_bytes)
    # Winograd's kernels are accompanied by plain ones, for styles whose shape is not that of any cell.
    targets = layers.parameter_bytes(program.taps, winograd=False) if winograd else 0
    return Memory(weights + targets, program.bytes_per_cell())


def can_tf32(device: Device) -> bool:
    """Whether a device multiplies in TF32: an NVIDIA GPU of compute capability 8.0 or later."""
    capability = getattr(device, "compute_capability", "")
    return (
        device.platform in ("gpu", "cuda") and capability.split(".")[0].isdigit() and float(capability) >= 8
    )


class Engine:
    """One device, or several of one kind, with VGG19 loaded.

    Args:
        weights: (kernel, bias) by layer name, HWIO.
        cell_shapes: (height, width) in px of the cells whose program has no canvas.
        cell_canvases: (height, width) in px of the canvases of all other cells.
        canvases: whether styles of other shapes may share target programs.
        device: the device to run on, or the devices that share every launch; JAX's first by default.
        winograd: whether the cells' convolutions use Winograd's algorithm; by default they do on
            `WINOGRAD_PLATFORMS`.
    """

    def __init__(
        self,
        weights: Layers,
        *,
        cell_shapes: Iterable[tuple[int, int]] = (),
        cell_canvases: Iterable[tuple[int, int]] = (),
        canvases: bool = True,
        device: Device | Sequence[Device] | None = None,
        winograd: bool | None = None,
    ):
        self._cell_shapes = frozenset(cell_shapes)
        self._cell_canvases = sorted(cell_canvases, key=lambda c: (c[0] * c[1], c))
        self._canvases = canvases
        several = device if isinstance(device, Sequence) else [device or jax.devices()[0]]
        self.devices: tuple[Device, ...] = tuple(several)
        self.device = self.devices[0]
        """The first device, on which targets are computed."""
        mesh = Mesh(np.array(self.devices), ("cell",), axis_types=(AxisType.Auto,))
        self._mesh = mesh if len(self.devices) > 1 else None
        self.winograd = self.device.platform in WINOGRAD_PLATFORMS if winograd is None else winograd
        self._weights = weights
        self._networks: dict[Any, Bound] = {}
        self.target_traces = 0
        """Number of target programs that this engine has traced."""

    @settled()
    def network(self, program: Program, *, winograd: bool | None = None) -> Bound:
        """The network of a program, with its parameters on the devices; equal networks are shared.

        Args:
            program: gives the taps, the pooling and the precision.
            winograd: whether to use Winograd's algorithm; by default the choice for cells.
        """
        winograd = self.winograd if winograd is None else winograd
        key = (program.taps, program.pool, program.precision, winograd)
        if key not in self._networks:
            bound = bind(
                self._weights,
                taps=program.taps,
                pool=pooling(program.pool),
                winograd=winograd,
                precision=program.precision,
            )
            self._networks[key] = Bound(self._put(bound.params, P()), bound.features)
        return self._networks[key]

    def _first_params(self, network: Bound) -> Params:
        """The copy of a network's parameters on the first device."""
        if self._mesh is None:
            return network.params

        def first(array: jax.Array) -> jax.Array:
            return next(shard.data for shard in array.addressable_shards if shard.device == self.device)

        return jax.tree.map(first, network.params)

    def _put(self, tree: Any, of: P) -> Any:
        """`tree` on the device, or on all: the same on each (`P()`), or split by leading axis (`CELL`)."""
        return jax.device_put(tree, self.device if self._mesh is None else NamedSharding(self._mesh, of))

    def _key(self, program: Program, more: Any, winograd: bool) -> Any:
        """The key of a compilation: `more`, and the functions, kernel shapes and devices that it is for."""
        shapes = tuple(kernel.shape for kernel, _ in self._weights.values())
        return more, _functions(program), winograd, shapes, self.devices

    @settled()
    def compile(self, program: Program) -> tuple[Compiled, bool]:
        """The compiled functions of one stage, and whether this call compiled them."""
        program = replace(program, coarser=0)
        key = self._key(program, program, self.winograd)
        if fresh := key not in _compiled:
            network = self.network(program)
            _compiled[key] = _compile(program, network.features, network.params, self.device, self._mesh)
        return _compiled[key], fresh

    @settled()
    def target_rows(
        self,
        program: Program,
        pixels: np.ndarray,
        *,
        of_cells: bool = False,
        canvas: tuple[int, int] | None = None,
        role: str | None = None,
    ) -> Targets:
        """The targets P and A of one image, as host arrays.

        Args:
            program: the program that compares cells with these targets.
            pixels: RGB, 0 to 255, (h, w, 3), of any size the network can take.
            of_cells: whether this is a content of the program's cells. It is then computed as they are, on
                their canvas if they have one, so that a cell that starts from it has no content loss.
            canvas: (height, width) in px of another canvas to use instead; P is cut to the shape of the
                cells.
            role: see `step.target_rows`.
        """
        shape = (pixels.shape[0], pixels.shape[1])
        cut, like_cells = canvas is not None, False
        if canvas is None:
            canvas, like_cells = self._target_canvas(program, shape, of_cells)
        winograd = self.winograd and like_cells
        if self.winograd and not like_cells:
            program = replace(program, precision="f32")  # Winograd's cells have float32 activations, too
        network = self.network(program, winograd=winograd)
        taps = program.content_taps, program.style_taps, program.pool, program.precision
        role = role if program.terms else None
        key = self._key(program, (canvas or shape, canvas is None, *taps, role), winograd)
        if key not in _target_programs:
            self.target_traces += 1
            features = network.features  # not the network, whose parameters the function would keep alive
            _target_programs[key] = jax.jit(
                lambda params, image, extent: objective.target_rows(
                    features, params, program, image, extent, role
                ),
                compiler_options=compiler_options(program),
            )
        extent = None if canvas is None else np.array(shape, np.int32)
        image = jax.device_put(on_canvas(np.asarray(pixels, np.float32), canvas), self.device)
        rows = jax.tree.map(np.array, _target_programs[key](self._first_params(network), image, extent))
        if not cut:
            return rows
        ends = [layers.feature_shape(t, program.height_px, program.width_px) for t in program.content_taps]
        content = (p[:h, :w].copy() for p, (h, w, _) in zip(rows.content, ends, strict=True))
        return rows._replace(content=tuple(content))

    @settled()
    def gradient(
        self, program: Program, knobs: Knobs, targets: Targets, image: np.ndarray
    ) -> Float[np.ndarray, "h w 3"]:
        """Gradient dL/dx of one cell's total loss at `image`.

        Args:
            program: a program of any width, without a canvas.
            knobs: knobs of the cell.
            targets: targets with a leading axis of rows.
            image: RGB, 0 to 255, (h, w, 3).
        """
        network = self.network(program)
        key = self._key(program, ("gradient", replace(program, width=1, coarser=0)), self.winograd)
        if key not in _gradient_programs:
            features = network.features

            def gradient(params, knobs, targets, image):
                return jax.grad(lambda x: objective.loss(features, params, program, knobs, targets, x)[0])(
                    image
                )

            _gradient_programs[key] = jax.jit(gradient, compiler_options=compiler_options(program))
        start = jax.device_put(np.asarray(image, np.float32), self.device)
        return np.asarray(_gradient_programs[key](self._first_params(network), knobs, targets, start))

    def _target_canvas(
        self, program: Program, shape: tuple[int, int], of_cells: bool
    ) -> tuple[tuple[int, int] | None, bool]:
        """The canvas on which a target of `shape` is computed, and whether cells are computed on it too.

        There are never more target programs than shapes: a style uses the program for a shape or a canvas
        of cells if one holds it, and otherwise a canvas that it shares with styles of similar shape.
        """
        if of_cells:
            return (program.height_px, program.width_px) if program.canvas else None, True
        if shape in self._cell_shapes:
            return None, True
        if not (self._canvases and program.knows_canvases):
            return None, False
        for canvas in self._cell_canvases:
            if shape[0] <= canvas[0] and shape[1] <= canvas[1]:
                return canvas, True
        return canvas_of([shape], TARGET_CANVAS_PX), False

    def course(
        self,
        program: Program,
        launch: Launch,
        steps: Sequence[int],
        *,
        keep: str = "last",
        begin: Progress | None = None,
    ) -> Course[Segment, Outcome]:
        """The computation of the cells of `launch` from step 0 to the last of `steps`, an image at each.

        Args:
            program: the program of the full size; its coarser stages run first.
            launch: at most `program.width` cells per device; fewer are padded with copies of the last.
            steps: the steps of the snapshots, ascending; the last is the length of the trajectory.
            keep: the image taken at a snapshot: the `last`, or the `best` so far.
            begin: progress of an earlier call for the same launch, to continue from.
        """
        return Course(_settled(self._segments(program, launch, steps, keep, begin)))

    def _segments(
        self, program: Program, launch: Launch, steps: Sequence[int], keep: str, begin: Progress | None
    ) -> Generator[Segment, None, Outcome]:
        count, drive = len(launch.start), None
        images: list[np.ndarray] = [] if begin is None else list(begin.images)
        stages = (*launch.coarser, Stage(launch.knobs, launch.targets))
        for coarser, stage in zip(range(program.coarser, -1, -1), stages, strict=True):
            if begin is not None and coarser > begin.coarser:
                continue
            if begin is not None and coarser == begin.coarser:
                before = begin
            else:
                before = launch.start if drive is None else drive
            drive = self._begin(program.stage(coarser), coarser, stage, before, images)
            if coarser:
                yield from drive.to(COARSE_EVALUATIONS)
        assert drive is not None
        for snapshot in steps[len(images) :]:
            # Pass k settles x_k and its loss, so both are known once pass k is done.
            yield from drive.to(snapshot + 1)
            images.append(np.array(drive.state.best if keep == "best" else drive.state.evaluated))
        info = jax.tree.map(lambda *parts: np.swapaxes(np.concatenate(parts), 0, 1)[:count], *drive.infos)
        diverged = np.array(drive.state.diverged_step)[:count]
        return Outcome(
            images=np.stack(images, axis=1)[:count],
            info=info,
            # A step past the last one is not wanted, so failing to reach it is no divergence.
            diverged_step=np.where(diverged > steps[-1], -1, diverged),
        )

    def _begin(
        self,
        program: Program,
        coarser: int,
        stage: Stage,
        before: np.ndarray | _Drive | Progress,
        images: Sequence[np.ndarray],
    ) -> _Drive:
        """A stage ready to start from images or from the stage before it, or to go on from `Progress`."""
        compiled, _ = self.compile(program)
        knobs, targets = self._padded(stage.knobs, program), self._padded(stage.targets, program)
        infos, done = (), 0
        if isinstance(before, Progress):
            state = self._put(jax.tree.unflatten(compiled.state, before.state), CELL)
            infos, done = before.infos, before.passes
        elif isinstance(before, np.ndarray):
            state = compiled.init(knobs, self._padded(before, program))
        else:
            key = before.program, self._key(program, program, self.winograd)
            if key not in _refine_programs:
                refine = jax.vmap(functools.partial(refined_state, program))
                _refine_programs[key] = jax.jit(_on_each(refine, self._mesh, (CELL,) * 3, CELL))
            state = _refine_programs[key](knobs, before.state.best, before.knobs.extent)
        advance = functools.partial(compiled.segment, self.network(program).params, knobs, targets)
        rate = NOMINAL_FLOPS[nominal_platform(self.device.platform)]
        return _Drive(program, coarser, knobs, state, advance, rate, images, infos, done)

    def _padded(self, tree: Any, program: Program) -> Any:
        """The rows of a launch on the devices, padded to `program.width` on each."""
        return self._put(_pad(tree, program.width * len(self.devices)), CELL)


class _Drive:
    """One stage of a launch, driven in segments.

    Args:
        program: program of the stage.
        coarser: number of halvings by which the stage is coarser than the full size.
        knobs: knobs of its cells, on the device.
        state: state of its cells, on the device.
        advance: function of a state, a first pass and a pass to stop before, which returns the state after
            these passes and their losses.
        rate: FLOP/s assumed for the length of the first segment.
        images: snapshots that the launch has taken; the caller appends to them.
        infos: losses of the segments driven before.
        done: number of passes done before.
    """

    def __init__(
        self,
        program: Program,
        coarser: int,
        knobs: Knobs,
        state: State,
        advance: Callable[..., tuple[State, Info]],
        rate: float,
        images: Sequence[np.ndarray],
        infos: Iterable[Info] = (),
        done: int = 0,
    ):
        self.program, self.knobs, self.state = program, knobs, state
        self.infos: list[Info] = list(infos)
        """The losses of every segment: arrays (passes, cells) and (passes, cells, style taps)."""
        self._advance, self._coarser, self._images = advance, coarser, images
        self._passes = rate * SEGMENT_SECONDS / (program.width * program.step_flops)
        self._done = done

    @settled()
    def progress(self) -> Progress:
        """The progress of the launch in this stage; the curves of a coarser stage are not kept."""
        state = tuple(np.array(leaf) for leaf in jax.tree.leaves(jax.device_get(self.state)))
        infos = () if self._coarser else tuple(self.infos)
        return Progress(self._coarser, self._done, state, tuple(self._images), infos)

    def to(self, passes: int) -> Iterator[Segment]:
        """Drive the stage until it has done `passes` passes in all, and yield each segment."""
        while self._done < passes:
            start = self._done
            stop = min(passes, start + int(np.clip(self._passes, 1, SEGMENT_PASSES)))
            began = time.perf_counter()
            self.state, trace = self._advance(self.state, np.int32(start), np.int32(stop))
            self.infos.append(
                jax.tree.map(lambda t, n=stop - start: np.array(t[:n]), jax.device_get(trace))
            )
            seconds = time.perf_counter() - began
            self._passes = (stop - start) * SEGMENT_SECONDS / max(seconds, 1e-4)
            self._done = stop
            yield Segment(self._coarser, stop - start, self.progress)


def _settled(segments: Generator[Segment, None, Outcome]) -> Generator[Segment, None, Outcome]:
    """`segments`, each computed under JAX's default settings; the caller's own settings hold in between."""
    while True:
        with settled():
            try:
                segment = next(segments)
            except StopIteration as end:
                return end.value
        yield segment


def on_canvas(image: np.ndarray, canvas: tuple[int, int] | None) -> np.ndarray:
    """`image` (h, w, 3) in the upper left corner of a canvas of zeros, or unchanged without a canvas."""
    if canvas is None:
        return image
    down, across = canvas[0] - image.shape[0], canvas[1] - image.shape[1]
    return np.pad(image, ((0, down), (0, across), (0, 0)))


def abreast(launches: Sequence[Launch], width: int) -> Launch:
    """Launches for one device each, joined into one for all: row i belongs to device i // `width`."""
    if len(launches) == 1:
        return launches[0]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *(_pad(one, width) for one in launches))


@settled()
def try_out(program: Program, weights: Layers, styles: Iterable[tuple[int, int]]) -> None:
    """Trace a program as it will be compiled, so that mistakes in plugins are reported before a run begins.

    Args:
        program: a program of any width.
        weights: (kernel, bias) by layer name.
        styles: (height, width) in px of the style images.

    Raises:
        JaxstyleError: for a plugin's function that fails or returns something unsuitable.
    """
    bound = bind(weights, taps=program.taps, pool=pooling(program.pool), precision=program.precision)
    features, params = bound.features, jax.eval_shape(lambda params: params, bound.params)
    for coarser in range(program.coarser + 1):
        stage = replace(program.stage(coarser), width=1)
        lower(stage, features, params)
        needed = _kept_shapes(_shapes(stage, 1, features, params)[2].terms, rows=True)
        for shape in {halved_shape(style, coarser) for style in styles}:
            image = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
            found = jax.eval_shape(
                functools.partial(objective.target_rows, features, program=stage, role="style"),
                params=params,
                image=image,
            )
            for name, own in _kept_shapes(found.terms).items():
                if own != needed[name]:
                    why = "the shape of what it keeps of a style must not depend on the size of the image"
                    raise JaxstyleError(TERMS[name].where, why)


def _kept_shapes(terms: Any, *, rows: bool = False) -> dict[str, list[Any]]:
    """Shapes and types of the values that terms keep, by name; `rows` drops a leading axis of rows."""
    leaves = {name: jax.tree.leaves(of) for name, of in terms.items()}
    return {name: [(leaf.shape[rows:], leaf.dtype) for leaf in own] for name, own in leaves.items()}


def _functions(program: Program) -> tuple[Any, ...]:
    """The functions and fields of a program's rows, which a plugin may replace while a process runs."""
    rows = [TERMS[name] for name in program.terms]
    terms = [(row.name, row.of, row.taps, row.loss, row.keep) for row in rows]
    return OPTIMIZERS[program.optimizer].make, POOLINGS[program.pool].pool, *terms


def _pad(tree: Any, width: int) -> Any:
    """Every array of `tree`, with its last row repeated until its leading axis has `width` rows."""
    return jax.tree.map(lambda a: np.concatenate([a, np.repeat(a[-1:], width - len(a), axis=0)]), tree)


def _on_each(function: Callable[..., Any], mesh: Mesh | None, takes: Any, gives: Any) -> Callable[..., Any]:
    """`function` run on every device of a mesh on its part of each array; unchanged without a mesh."""
    if mesh is None:
        return function
    # Nothing but arguments passed as such is the same on all devices, so there is nothing to check.
    return jax.shard_map(function, mesh=mesh, in_specs=takes, out_specs=gives, check_vma=False)


class Lowered(NamedTuple):
    """The functions of one `Program`, lowered but not yet compiled; the fields are those of `Compiled`."""

    init: Any
    segment: Any
    state: Any
    """The tree structure of a `State`."""
    step_traces: int


def lower(
    program: Program,
    features: Features,
    params: Params,
    *,
    mesh: Mesh | None = None,
    placed: Callable[[Any, P], Any] = lambda shapes, of: shapes,
) -> Lowered:
    """The functions of a program, lowered for one device or for a mesh of several.

    Args:
        program: the program of one stage.
        features: feature function of the network.
        params: parameters of the network, as arrays or their shapes.
        mesh: the mesh, if there are several devices.
        placed: adds a sharding to shapes, given the shapes and how they are partitioned.
    """
    traces = 0

    def segment(
        params: Params,
        knobs: Knobs,
        targets: Targets,
        state: State,
        start: Int[Array, ""],
        stop: Int[Array, ""],
    ) -> tuple[State, Info]:
        def one(knobs: Knobs, state: State, k: Int[Array, ""]) -> tuple[State, Info]:
            nonlocal traces
            traces += 1
            return step.step(features, params, program, knobs, targets, state, k)

        def body(k: Int[Array, ""], carry: tuple[State, Info]) -> tuple[State, Info]:
            state, trace = carry
            state, info = jax.vmap(one, in_axes=(0, 0, None))(knobs, state, k)
            return state, jax.tree.map(lambda t, v: t.at[k - start].set(v), trace, info)

        empty = jax.tree.map(
            lambda leaf: jnp.full((SEGMENT_PASSES, *leaf.shape), jnp.nan, leaf.dtype), state.info
        )
        return lax.fori_loop(start, stop, body, (state, empty))

    cells = program.width * (1 if mesh is None else mesh.size)
    knobs, start_images, targets = placed(_shapes(program, cells, features, params), CELL)
    start_cells = _on_each(jax.vmap(functools.partial(init_state, program)), mesh, (CELL, CELL), CELL)
    state = placed(jax.eval_shape(start_cells, knobs, start_images), CELL)
    bound = placed(jax.ShapeDtypeStruct((), jnp.int32), P())
    takes, gives = (P(), CELL, CELL, CELL, P(), P()), (CELL, P(None, "cell"))
    spread = jax.jit(_on_each(segment, mesh, takes, gives), donate_argnums=3)
    return Lowered(
        init=jax.jit(start_cells).lower(knobs, start_images),
        segment=spread.lower(params, knobs, targets, state, bound, bound),
        state=jax.tree.structure(state),
        step_traces=traces,
    )


def _compile(
    program: Program, features: Features, params: Params, device: Device, mesh: Mesh | None
) -> Compiled:
    def placed(tree: Any, of: P) -> Any:
        if mesh is None:
            return tree
        where = NamedSharding(mesh, of)
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), tree)

    began = time.perf_counter()
    with jax.default_device(device):
        lowered = lower(program, features, params, mesh=mesh, placed=placed)
        init = lowered.init.compile()
        segment = lowered.segment.compile(compiler_options(program))
    seconds = time.perf_counter() - began
    memory = segment.memory_analysis()
    used = 0
    if memory is not None:
        used = (
            memory.temp_size_in_bytes
            + memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
        )
    return Compiled(init, segment, lowered.state, lowered.step_traces, seconds, used)


def _shapes(
    program: Program, width: int, features: Features, params: Params
) -> tuple[Knobs, jax.ShapeDtypeStruct, Targets]:
    """Shapes of the arguments for `width` cells, with the channel counts of the given network."""
    image = jax.ShapeDtypeStruct((program.height_px, program.width_px, 3), jnp.float32)
    rows = jax.eval_shape(
        lambda params, image: objective.target_rows(features, params, program, image), params, image
    )
    stack = lambda leaf: jax.ShapeDtypeStruct((width, *leaf.shape), leaf.dtype)  # noqa: E731
    return jax.tree.map(stack, blank_knobs(program)), stack(image), jax.tree.map(stack, rows)
