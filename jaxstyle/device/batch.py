"""The programs of a `Program`: lowered, compiled, batched.

The step's one `vmap` over cells is here, inside a `fori_loop` over passes with *traced* bounds, on donated
state. With several devices it runs inside a `shard_map` over a mesh whose one axis is `cell`: cells are
independent of each other, so that no device ever waits for data of another one, and each computes exactly
what it would compute alone. Neither the number of steps nor where segments end changes the compiled
program. Weights are arguments of every program.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxstyle.cell import objective, regions, step
from jaxstyle.cell.knobs import blank_knobs
from jaxstyle.cell.start import init_state, refined_state
from jaxstyle.cell.state import Held, Info, Knobs, State, Targets
from jaxstyle.device.drive import SEGMENT_PASSES
from jaxstyle.device.kept_programs import Source, compiled
from jaxstyle.plan.programs import Program
from jaxstyle.vgg.network import Features, Params

Device = Any
"""A `jax.Device`; type checkers take that name for a variable."""
Layers = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""(kernel, bias) of each layer by name, kernels in HWIO, float32."""
CELL = P("cell")
"""The sharding of arrays whose leading axis is that of cells."""


@dataclass
class Compiled:
    """The compiled functions of one `Program` on the devices of an engine."""

    init: Any
    """`init_state` of every cell; compiled when it is first called, because finer stages never need it."""
    segment: Any
    state: Any
    """The tree structure of a `State`, to rebuild one from its leaves."""
    step_traces: int
    """Number of times that the per-cell step was traced for them."""
    compile_s: float
    device_bytes: int
    """The compiler's count for a launch on one device: temporaries + arguments + outputs - reused bytes."""


def compiler_options(program: Program) -> dict[str, str | bool]:
    """Options that XLA needs to compile a program.

    By default XLA omits the rounding to bfloat16 between operations that it fuses, and it fuses different
    operations for targets than for steps: an image would then have a loss against itself.
    """
    return {"xla_allow_excess_precision": False} if program.precision == "bf16" else {}


def on_each_device(
    function: Callable[..., Any], mesh: Mesh | None, takes: Any, gives: Any
) -> Callable[..., Any]:
    """`function` run on every device of a mesh on its part of each array; unchanged without a mesh."""
    if mesh is None:
        return function
    # Nothing but arguments passed as such is the same on all devices, so there is nothing to check.
    return jax.shard_map(function, mesh=mesh, in_specs=takes, out_specs=gives, check_vma=False)


class Lowered(NamedTuple):
    """The functions of one `Program`, the step lowered but not compiled; fields are those of `Compiled`."""

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
    source = segment_source(program, features, params, mesh=mesh, placed=placed)
    spread = jax.jit(source.function, donate_argnums=source.donated)
    lowered = spread.lower(*source.arguments)
    like, traces = source.told()
    return Lowered(start_cells(program, mesh), lowered, jax.tree.structure(like), traces)


def start_cells(program: Program, mesh: Mesh | None) -> Any:
    """The start of the cells of a program from their knobs and images, compiled when it is called."""

    @functools.partial(jax.jit, static_argnums=2)
    def start_cells(knobs: Knobs, start: Float[Array, "cells h w 3"], noisy: bool) -> State:
        start_cell = jax.vmap(functools.partial(init_state, program, noisy=noisy))
        return on_each_device(start_cell, mesh, (CELL, CELL), CELL)(knobs, start)

    return start_cells


def refine_cells(finer: Program, mesh: Mesh | None) -> Any:
    """The start of the cells of a stage from their knobs, their best images in the coarser stage before it,
    and the extents of those; compiled when it is called."""
    refine = jax.vmap(functools.partial(refined_state, finer))
    return jax.jit(on_each_device(refine, mesh, (CELL,) * 3, CELL))


def segment_source(
    program: Program,
    features: Features,
    params: Params,
    *,
    mesh: Mesh | None = None,
    placed: Callable[[Any, P], Any] = lambda shapes, of: shapes,
) -> Source:
    """The passes of a program, which tell the structure of a `State` and how often a step was traced.

    For the arguments, see `lower`.
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
    knobs, images, targets = placed(argument_shapes(program, cells, features, params), CELL)
    begin = start_cells(program, mesh)
    state = placed(jax.eval_shape(lambda *of: begin(*of, False), knobs, images), CELL)
    bound = placed(jax.ShapeDtypeStruct((), jnp.int32), P())
    takes, gives = (P(), CELL, CELL, CELL, P(), P()), (CELL, P(None, "cell"))
    return Source(
        on_each_device(segment, mesh, takes, gives),
        (params, knobs, targets, state, bound, bound),
        donated=(3,),
        told=lambda: (jax.tree.map(lambda _: 0, state), traces),
    )


def compile_program(
    program: Program,
    features: Features,
    params: Params,
    device: Device,
    mesh: Mesh | None,
    *,
    key: str = "",
) -> Compiled:
    """The compiled functions of a program, with the time and the memory that they take.

    Args:
        program: the program of one stage.
        features: feature function of the network.
        params: parameters of the network.
        device: the device, or the first of several.
        mesh: the mesh, if there are several devices.
        key: everything that the functions follow from, if they may be kept for other processes.
    """

    def placed(tree: Any, of: P) -> Any:
        if mesh is None:
            return tree
        where = NamedSharding(mesh, of)
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), tree)

    began, options = time.perf_counter(), compiler_options(program)
    with jax.default_device(device):
        source = functools.partial(segment_source, program, features, params)
        kept = compiled(key, source, options, device) if key else None
        if kept is not None:
            init, call, segment = start_cells(program, mesh), kept.call, kept.compiled
            like, traces = kept.told
            state = jax.tree.structure(like)
        else:
            init, lowered, state, traces = lower(program, features, params, mesh=mesh, placed=placed)
            call = segment = lowered.compile(options)
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
    return Compiled(init, call, state, traces, seconds, used)


def target_program(
    program: Program,
    features: Features,
    arguments: tuple[Any, ...],
    device: Device,
    *,
    role: str | None,
    key: str,
) -> Callable[..., Targets]:
    """The function that computes the targets of one image: of parameters, an image, an extent and maps.

    Args:
        program: the program that compares cells with the targets.
        features: feature function of the network.
        arguments: arguments that it is to be called with.
        device: the device that they are on.
        role: see `objective.target_rows`.
        key: everything that it follows from.
    """

    def rows(params: Params, image: Any, extent: Any, maps: Any) -> Targets:
        return objective.target_rows(features, params, program, image, extent, role, maps)

    options = compiler_options(program)
    kept = compiled(key, lambda: Source(rows, arguments), options, device)
    return jax.jit(rows, compiler_options=options) if kept is None else kept.call


def argument_shapes(
    program: Program, width: int, features: Features, params: Params
) -> tuple[Knobs, jax.ShapeDtypeStruct, Targets]:
    """Shapes of the arguments for `width` cells, with the channel counts of the given network."""
    image = jax.ShapeDtypeStruct((program.height_px, program.width_px, 3), jnp.float32)

    def arrays(shapes: Iterable[tuple[int, ...]]) -> tuple[jax.ShapeDtypeStruct, ...]:
        return tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)

    maps = arrays(regions.map_shapes(program, program.height_px, program.width_px))
    rows = jax.eval_shape(
        lambda params, image, maps: objective.target_rows(features, params, program, image, maps=maps),
        params,
        image,
        maps,
    )
    rows = rows._replace(regions=arrays(regions.own_shapes(program)))
    if program.holds:
        held: Any = arrays(regions.held_shapes(program))
        rows = rows._replace(held=Held(*held))
    stack = lambda leaf: jax.ShapeDtypeStruct((width, *leaf.shape), leaf.dtype)  # noqa: E731
    return jax.tree.map(stack, blank_knobs(program)), stack(image), jax.tree.map(stack, rows)
