"""Runs cells on a device: the only place that compiles, batches, donates and chooses a width.

One launch advances `program.width` cells together: a `fori_loop` over passes with *traced* bounds,
around the one `vmap` over cells, on donated state. A launch is driven in segments of about a second;
snapshots and the last step fall on segment ends. Neither the number of steps nor where segments end
changes the compiled program or a byte of the result.

With several devices a launch has so many cells for each of them: the same `vmap` inside a `shard_map` over
a mesh whose one axis is `cell`. Cells know nothing of each other, so that no device ever waits for another
one's data, and on each of them stands what one device alone would compute.

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

from jaxstyle import layers, limits, vgg19
from jaxstyle.ambient import settled
from jaxstyle.cell import step
from jaxstyle.cell.poolings import pooling
from jaxstyle.cell.step import Info, Knobs, State, Targets
from jaxstyle.conv import ARITHMETIC
from jaxstyle.course import Course
from jaxstyle.errors import JaxstyleError
from jaxstyle.grid import (
    COARSE_EVALUATIONS,
    NOMINAL_FLOPS,
    WINOGRAD_PLATFORMS,
    Memory,
    Program,
    canvas_of,
    device_kind,
    halved,
)
from jaxstyle.tables import OPTIMIZERS, POOLINGS, TERMS

Device = Any
"""A `jax.Device`, which is a variable to type checkers."""
Layers = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""(kernel, bias) of each layer by name, kernels in HWIO, float32."""
SEGMENT_PASSES = 1024
"""The length of the buffer that a segment writes its losses into: the longest a segment can be."""
SEGMENT_SECONDS = 1.0
MAX_WIDTH = 64
CELL = P("cell")
"""The sharding of arrays whose leading axis is that of cells."""
INDEXABLE = 2**31
"""Elements a tensor may have: cuDNN falls off a cliff past 32-bit indices."""
MEMORY_SHARE = 0.5
"""The part of a device's memory that the cells of a launch may plan to take."""
TARGET_CANVAS_PX = 64
"""What the edges of the canvases that styles share are multiples of."""
UNKNOWN_MEMORY = 8 * 2**30
"""What a device that does not tell its memory is taken to have."""


class Stage(NamedTuple):
    """What the cells of a launch need in one stage, as host arrays with a leading axis of cells."""

    knobs: Knobs
    targets: Targets


class Launch(NamedTuple):
    """The cells of one launch, as host arrays with a leading axis of at most `program.width`.

    With several devices: of at most `program.width` for each of them, see `abreast`.
    """

    knobs: Knobs
    start: Float[np.ndarray, "cells h w 3"]
    """The images the cells start from, before their noise, on the canvas of their first stage. RGB."""
    targets: Targets
    coarser: tuple[Stage, ...] = ()
    """The stages before the full size, the coarsest first."""


class Progress(NamedTuple):
    """How far a launch has come: beside the launch, all that it takes to go on to the same bytes."""

    coarser: int
    """By how many halvings its stage is coarser than the full size."""
    passes: int
    """Done in that stage."""
    state: tuple[np.ndarray, ...]
    """The leaves of the `State` of its cells."""
    images: tuple[np.ndarray, ...]
    """The snapshots it has gone past: arrays (cells, h, w, 3)."""
    infos: tuple[Info, ...]
    """The losses of the full size: arrays (passes, cells) and (passes, cells, style taps)."""


class Segment(NamedTuple):
    """One that a launch has come to the end of."""

    coarser: int
    """By how many halvings its stage is coarser than the full size."""
    passes: int
    """Done in it."""
    progress: Callable[[], Progress]
    """Fetches how far the launch has come, before it goes on."""


class Outcome(NamedTuple):
    """What one launch came to, in the order of its cells."""

    images: Float[np.ndarray, "cells snapshots h w 3"]
    """On the program's canvas; what lies outside a cell's own extent means nothing."""
    info: Info
    """Losses of steps 0 to N: arrays (cells, N+1) and (cells, N+1, style taps)."""
    diverged_step: Int[np.ndarray, " cells"]
    """The first step without a finite loss, or -1."""


@dataclass
class Compiled:
    """The programs of one `Program` on one device."""

    init: Any
    segment: Any
    state: Any
    """The tree of a `State`, to put one together from its leaves."""
    step_traces: int
    """How often the body of the per-cell step was traced to make them."""
    compile_s: float
    device_bytes: int
    """Of a launch, on one device, by the compiler's account: temporaries + arguments + outputs - reused."""


_compiled: dict[Any, Compiled] = {}
_target_programs: dict[Any, Any] = {}
_refine_programs: dict[Any, Any] = {}
_gradient_programs: dict[Any, Any] = {}


def device_memory(device: Device) -> int:
    """Bytes that programs may use on a device; on a CPU, what this process may of the machine's."""
    if device.platform == "cpu":
        return limits.memory().bytes
    return (device.memory_stats() or {}).get("bytes_limit", UNKNOWN_MEMORY)


def choose_width(
    program: Program, cells: int, *, platform: str, memory: Memory, available: int, devices: int = 1
) -> int:
    """Cells per launch and device: 1 on a CPU, elsewhere the power of two that memory and use allow.

    On a CPU a width of 1 is the fastest, needs the least memory and makes a cell's bytes independent
    of every other. Elsewhere: what fits beside the weights in `MEMORY_SHARE` of the device, no tensor
    past 2^31 elements, at most `MAX_WIDTH`, and no wider than the cells there are for each device.

    Args:
        program: of any width.
        cells: how many it has to compute.
        platform: `cpu`, `gpu` or `tpu`.
        memory: what a launch of `program` takes.
        available: bytes that a device has.
        devices: how many there are.
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
    """What launches of a program take on a device, by the compiler's account of widths 1 and 2.

    A device that gives none, or has no memory to compile them, is planned for as a CPU is.
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
        for p in programs:  # a run that takes one of these widths says what it costs to compile
            _compiled.pop(engine._key(p, p, engine.winograd), None)
    if not 0 < one < two:
        return planned
    return Memory(fixed=max(0, 2 * one - two), per_cell=two - one)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device ran out of memory: what the run can mend by a narrower launch."""
    return "RESOURCE_EXHAUSTED" in str(error)


def compiler_options(program: Program) -> dict[str, str | bool]:
    """What XLA must be told for a program.

    Left alone it drops roundings to bfloat16 between operations that it fuses, and it fuses other ones for
    targets than for steps: an image would have a loss against itself.
    """
    return {"xla_allow_excess_precision": False} if program.precision == "bf16" else {}


def planned_memory(program: Program, *, winograd: bool) -> Memory:
    """What launches of a program take on a CPU, without compiling it; see `Program.bytes_per_cell`."""
    operand_bytes = np.dtype(ARITHMETIC[program.precision].dtype).itemsize
    weights = layers.parameter_bytes(program.taps, winograd=winograd, operand_bytes=operand_bytes)
    # Beside Winograd's kernels stand plain ones, for styles that have no cell's shape.
    targets = layers.parameter_bytes(program.taps, winograd=False) if winograd else 0
    return Memory(weights + targets, program.bytes_per_cell())


def can_tf32(device: Device) -> bool:
    """Whether a device multiplies in TF32: an NVIDIA GPU of compute capability 8.0 or later."""
    capability = getattr(device, "compute_capability", "")
    return (
        device.platform in ("gpu", "cuda") and capability.split(".")[0].isdigit() and float(capability) >= 8
    )


class Engine:
    """A device, or several of one kind, with VGG19 on them.

    Args:
        weights: (kernel, bias) by layer name, HWIO.
        cell_shapes: the (height, width) in px that cells have whose program is no canvas.
        cell_canvases: those of the canvases of the others.
        canvases: whether styles of other shapes may share target programs.
        device: where to run, or the devices that share every launch; JAX's first if not given.
        winograd: whether the cells' convolutions run by Winograd's algorithm; if not given, on
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
        """The first, on which targets are computed."""
        mesh = Mesh(np.array(self.devices), ("cell",), axis_types=(AxisType.Auto,))
        self._mesh = mesh if len(self.devices) > 1 else None
        self.winograd = self.device.platform in WINOGRAD_PLATFORMS if winograd is None else winograd
        self._weights = weights
        self._networks: dict[Any, vgg19.Bound] = {}
        self.target_traces = 0
        """How many target programs this engine had to trace."""

    @settled()
    def network(self, program: Program, *, winograd: bool | None = None) -> vgg19.Bound:
        """The network of a program, its parameters on the device; shared by programs of equal taps.

        Args:
            program: whose taps, pooling and precision.
            winograd: which form of convolution; if not given, that of the cells.
        """
        winograd = self.winograd if winograd is None else winograd
        key = (program.taps, program.pool, program.precision, winograd)
        if key not in self._networks:
            bound = vgg19.bind(
                self._weights,
                taps=program.taps,
                pool=pooling(program.pool),
                winograd=winograd,
                precision=program.precision,
            )
            self._networks[key] = vgg19.Bound(self._put(bound.params, P()), bound.features)
        return self._networks[key]

    def _first_params(self, network: vgg19.Bound) -> vgg19.Params:
        """The parameters of a network as the first device has them."""
        if self._mesh is None:
            return network.params

        def first(array: jax.Array) -> jax.Array:
            return next(shard.data for shard in array.addressable_shards if shard.device == self.device)

        return jax.tree.map(first, network.params)

    def _put(self, tree: Any, of: P) -> Any:
        """`tree` on the device, or on all of them: the same on each (`P()`), or by their leading axis."""
        return jax.device_put(tree, self.device if self._mesh is None else NamedSharding(self._mesh, of))

    def _key(self, program: Program, more: Any, winograd: bool) -> Any:
        """What one compilation serves: a program as far as `more` says, and the functions of plugins."""
        shapes = tuple(kernel.shape for kernel, _ in self._weights.values())
        return more, _functions(program), winograd, shapes, self.devices

    @settled()
    def compile(self, program: Program) -> tuple[Compiled, bool]:
        """The programs for one stage, and whether they had to be made now."""
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
        """P and A of one image, as host arrays.

        Args:
            program: what the targets are for.
            pixels: RGB, 0 to 255, (h, w, 3), of any size the network can take.
            of_cells: whether it is a content of the program's cells: it is computed as they are, on
                their canvas if they have one, so that a cell that starts from it has no content loss.
            canvas: (height, width) of one to compute it on instead; P is cut to the shape of the cells.
            role: see `step.target_rows`.
        """
        shape = (pixels.shape[0], pixels.shape[1])
        cut, like_cells = canvas is not None, False
        if canvas is None:
            canvas, like_cells = self._target_canvas(program, shape, of_cells)
        winograd = self.winograd and like_cells
        if self.winograd and not like_cells:
            program = replace(program, precision="f32")  # exact beside cells whose activations are float32
        network = self.network(program, winograd=winograd)
        taps = program.content_taps, program.style_taps, program.pool, program.precision
        role = role if program.terms else None
        key = self._key(program, (canvas or shape, canvas is None, *taps, role), winograd)
        if key not in _target_programs:
            self.target_traces += 1
            features = network.features  # and not the network: its parameters would live as long as this
            _target_programs[key] = jax.jit(
                lambda params, image, extent: step.target_rows(
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
        """dL/dx of one cell's total loss at `image`: what a step moves along.

        Args:
            program: of any width and no canvas.
            knobs: of the cell.
            targets: with a leading axis of rows.
            image: RGB, 0 to 255, (h, w, 3).
        """
        network = self.network(program)
        key = self._key(program, ("gradient", replace(program, width=1, coarser=0)), self.winograd)
        if key not in _gradient_programs:
            features = network.features

            def gradient(params, knobs, targets, image):
                return jax.grad(lambda x: step.loss(features, params, program, knobs, targets, x)[0])(image)

            _gradient_programs[key] = jax.jit(gradient, compiler_options=compiler_options(program))
        start = jax.device_put(np.asarray(image, np.float32), self.device)
        return np.asarray(_gradient_programs[key](self._first_params(network), knobs, targets, start))

    def _target_canvas(
        self, program: Program, shape: tuple[int, int], of_cells: bool
    ) -> tuple[tuple[int, int] | None, bool]:
        """The canvas that a target of `shape` is computed on, and whether that is what cells go through.

        A target program for every shape is never exceeded: a style takes the program of a shape or a
        canvas of cells if one holds it, and otherwise a canvas that it shares with styles of about its
        shape.
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

    def run(
        self,
        program: Program,
        launch: Launch,
        steps: Sequence[int],
        *,
        keep: str = "last",
        begin: Progress | None = None,
    ) -> Course[Segment, Outcome]:
        """The computation of the cells of `launch`: step 0 to the last of `steps`, an image at each.

        Args:
            program: of the full size; its coarser stages go before it.
            launch: at most `program.width` cells a device; fewer are padded with copies of the last.
            steps: snapshots, ascending; the last is the length of the trajectory.
            keep: which image is taken at a snapshot, the `last` or the `best` until then.
            begin: where an earlier call for the same launch had come to, to go on from there.
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
            # Pass k evaluates x_k, so x_k and its loss are both known once pass k is done.
            yield from drive.to(snapshot + 1)
            images.append(np.array(drive.state.best if keep == "best" else drive.state.evaluated))
        info = jax.tree.map(lambda *parts: np.swapaxes(np.concatenate(parts), 0, 1)[:count], *drive.infos)
        diverged = np.array(drive.state.diverged_step)[:count]
        return Outcome(
            images=np.stack(images, axis=1)[:count],
            info=info,
            # A step past the last one was never asked for: failing to reach it is no divergence.
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
        """A stage about to start from given images or the stage before it, or to go on."""
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
                refine = jax.vmap(functools.partial(step.refine, program))
                _refine_programs[key] = jax.jit(_on_each(refine, self._mesh, (CELL,) * 3, CELL))
            state = _refine_programs[key](knobs, before.state.best, before.knobs.extent)
        advance = functools.partial(compiled.segment, self.network(program).params, knobs, targets)
        rate = NOMINAL_FLOPS[device_kind(self.device.platform)]
        return _Drive(program, coarser, knobs, state, advance, rate, images, infos, done)

    def _padded(self, tree: Any, program: Program) -> Any:
        """Rows of a launch on the devices, every one of which has its width of them."""
        return self._put(_pad(tree, program.width * len(self.devices)), CELL)


class _Drive:
    """One stage of a launch, driven in segments.

    Args:
        program: of the stage.
        coarser: by how many halvings it is coarser than the full size.
        knobs: of its cells, on the device.
        state: of its cells, there too.
        advance: from a state, a first and a past-the-last pass to the state after them and their losses.
        rate: FLOP/s to choose the length of the first segment by.
        images: the snapshots that the launch has gone past, as far as it has come.
        infos: the losses of segments that were driven before.
        done: the passes done before.
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
        """How far the launch has come whose stage this is; the curves of a coarser one are not kept."""
        state = tuple(np.array(leaf) for leaf in jax.tree.leaves(jax.device_get(self.state)))
        infos = () if self._coarser else tuple(self.infos)
        return Progress(self._coarser, self._done, state, tuple(self._images), infos)

    def to(self, passes: int) -> Iterator[Segment]:
        """The segments from here until so many passes have been done since the stage began."""
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
    """`segments`, each computed under JAX's default settings; those of the caller hold in between."""
    while True:
        with settled():
            try:
                segment = next(segments)
            except StopIteration as end:
                return end.value
        yield segment


def on_canvas(image: np.ndarray, canvas: tuple[int, int] | None) -> np.ndarray:
    """`image` (h, w, 3) in the upper left corner of a canvas of zeros, or as it is without one."""
    if canvas is None:
        return image
    down, across = canvas[0] - image.shape[0], canvas[1] - image.shape[1]
    return np.pad(image, ((0, down), (0, across), (0, 0)))


def abreast(launches: Sequence[Launch], width: int) -> Launch:
    """Launches for a device each as one: row i of a table is that of device i // `width`."""
    if len(launches) == 1:
        return launches[0]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *(_pad(one, width) for one in launches))


@settled()
def try_out(program: Program, weights: Layers, styles: Iterable[tuple[int, int]]) -> None:
    """Trace a program as it is to be compiled: what is wrong with a plugin is told before a run begins.

    Args:
        program: of any width.
        weights: (kernel, bias) by layer name.
        styles: (height, width) in px of style images.

    Raises:
        JaxstyleError: for functions that fail, or come to something else than they must.
    """
    bound = vgg19.bind(weights, taps=program.taps, pool=pooling(program.pool), precision=program.precision)
    features, params = bound.features, jax.eval_shape(lambda params: params, bound.params)
    for coarser in range(program.coarser + 1):
        stage = replace(program.stage(coarser), width=1)
        lower(stage, features, params)
        needed = _kept_shapes(_shapes(stage, 1, features, params)[2].terms, rows=True)
        for shape in {halved(style, coarser) for style in styles}:
            image = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
            found = jax.eval_shape(
                functools.partial(step.target_rows, features, program=stage, role="style"),
                params=params,
                image=image,
            )
            for name, own in _kept_shapes(found.terms).items():
                if own != needed[name]:
                    why = "what it keeps of a style depends on the size of the image; it must not"
                    raise JaxstyleError(TERMS[name].where, why)


def _kept_shapes(terms: Any, *, rows: bool = False) -> dict[str, list[Any]]:
    """The shapes and types of what terms keep, by name; without an axis of rows."""
    leaves = {name: jax.tree.leaves(of) for name, of in terms.items()}
    return {name: [(leaf.shape[rows:], leaf.dtype) for leaf in own] for name, own in leaves.items()}


def _functions(program: Program) -> tuple[Any, ...]:
    """What a program has of rows that a plugin may change while a process runs."""
    rows = [TERMS[name] for name in program.terms]
    terms = [(row.name, row.of, row.taps, row.loss, row.keep) for row in rows]
    return OPTIMIZERS[program.optimizer].make, POOLINGS[program.pool].pool, *terms


def _pad(tree: Any, width: int) -> Any:
    """Every array of `tree` with its leading axis filled up to `width` by its last row."""
    return jax.tree.map(lambda a: np.concatenate([a, np.repeat(a[-1:], width - len(a), axis=0)]), tree)


def _on_each(function: Callable[..., Any], mesh: Mesh | None, takes: Any, gives: Any) -> Callable[..., Any]:
    """`function` on every device of a mesh, with its part of each array; itself where there is none."""
    if mesh is None:
        return function
    # Nothing is the same on all devices but what is passed so: there is nothing to check.
    return jax.shard_map(function, mesh=mesh, in_specs=takes, out_specs=gives, check_vma=False)


class Lowered(NamedTuple):
    """The programs of one `Program` before they are compiled."""

    init: Any
    segment: Any
    state: Any
    """As `Compiled` has it."""
    step_traces: int


def lower(
    program: Program,
    features: vgg19.Features,
    params: vgg19.Params,
    *,
    mesh: Mesh | None = None,
    placed: Callable[[Any, P], Any] = lambda shapes, of: shapes,
) -> Lowered:
    """The programs of a network for one device, or for each of a mesh.

    Args:
        program: for cells of its own stage.
        features: of the network.
        params: of the network, as arrays or their shapes.
        mesh: of several devices.
        placed: from shapes, and from what they are partitioned by, to shapes that say where they lie.
    """
    traces = 0

    def segment(
        params: vgg19.Params,
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
    start_cells = _on_each(jax.vmap(functools.partial(step.init, program)), mesh, (CELL, CELL), CELL)
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
    program: Program, features: vgg19.Features, params: vgg19.Params, device: Device, mesh: Mesh | None
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
    program: Program, width: int, features: vgg19.Features, params: vgg19.Params
) -> tuple[Knobs, jax.ShapeDtypeStruct, Targets]:
    """The shapes of the arguments of `width` cells; the channel counts are those of the network at hand."""
    image = jax.ShapeDtypeStruct((program.height_px, program.width_px, 3), jnp.float32)
    rows = jax.eval_shape(
        lambda params, image: step.target_rows(features, params, program, image), params, image
    )
    stack = lambda leaf: jax.ShapeDtypeStruct((width, *leaf.shape), leaf.dtype)  # noqa: E731
    return jax.tree.map(stack, step.blank_knobs(program)), stack(image), jax.tree.map(stack, rows)
