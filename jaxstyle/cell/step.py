"""One cell of a sweep: what it is made of, how it starts, and one step of it.

Every value has one home (see the classes); everything here is about a single image. The batch axis
is added by the one `vmap` in `engine.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from jaxstyle import images, layers, tables
from jaxstyle.cell import losses, solvers
from jaxstyle.conv import ARITHMETIC
from jaxstyle.errors import JaxstyleError
from jaxstyle.grid import Cell, Program
from jaxstyle.settings import Sweep
from jaxstyle.tables import TERMS, LossTerm
from jaxstyle.values import FLOAT32_MAX
from jaxstyle.vgg19 import Extent, Features, Params, within

Value = Array | np.ndarray
"""On its way to the device or there."""
DECAY_SHARE = 0.3
"""The part of a trajectory over which a decaying learning rate falls to 0."""


class Knobs(NamedTuple):
    """What may differ between the cells of one program. Made by `knobs` alone."""

    content_weight: Float[Value, ""]
    """alpha."""
    style_weight: Float[Value, ""]
    """beta."""
    tv_weight: Float[Value, ""]
    content_layer_weights: Float[Value, " content_taps"]
    """1 at the cell's content layer, 0 elsewhere."""
    style_layer_weights: Float[Value, " style_taps"]
    """w_l; 0 for layers outside the cell's own set."""
    learning_rate: Float[Value, ""]
    decay_end: Float[Value, ""]
    """The step at which the learning rate would be 0; infinite for a constant one."""
    decay_steps: Float[Value, ""]
    """Over how many steps before that it falls from its full value."""
    seed: UInt[Value, ""]
    noise_std: Float[Value, ""]
    """Grey levels; 0 for a start that is an image."""
    pixel_range: Float[Value, " 2"]
    """The least and the largest value that a pixel may take; infinite where pixels are free."""
    content_row: Int[Value, ""]
    """The cell's row in `Targets.content`."""
    style_row: Int[Value, ""]
    """The cell's row in `Targets.style`."""
    extent: Int[Value, " 2"]
    """(height, width) in px of the image, which may be smaller than the program's canvas."""
    term_weights: dict[str, Float[Value, ""]]
    """Of every optional loss term, by name."""


class Targets(NamedTuple):
    """What the images of a launch are compared with: a row per distinct content and style."""

    content: tuple[Float[Value, "rows _h _w _c"], ...]
    """P at every content tap."""
    style: tuple[Float[Value, "rows _c _c"], ...]
    """A, over its own pixel count, at every style tap."""
    terms: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it
    """What each optional loss term keeps, by name: a pytree of arrays, a row of each for every content
    or every style."""


class View(NamedTuple):
    """What an optional loss term sees of an image."""

    image: Float[Array, "h w 3"]
    """RGB, 0 to 255; a picture that is being optimised may leave that range."""
    features: dict[str, Float[Array, "_h _w _c"]]
    """Activations after the ReLU at the term's own taps, by layer, float32."""
    inside: Bool[Array, "h w 1"] | None
    """Where the image is, on a canvas larger than it; None where there is no canvas."""


class Info(NamedTuple):
    """What one pass reports of x_k, the result after it; NaN from the step a cell diverged at."""

    loss_total: Float[Array, ""]
    """alpha L_content + beta L_style + tv_weight TV, and weight times loss of every optional term."""
    loss_content: Float[Array, ""]
    """Without alpha."""
    loss_style: Float[Array, ""]
    """sum_l w_l E_l, without beta."""
    style_layer_loss: Float[Array, " style_taps"]
    """E_l, without w_l, of every tap of the program."""
    terms: dict[str, Float[Array, ""]]
    """Of every optional loss term, by name, without its weight."""


def curves(info: Info) -> dict[str, Any]:
    """An `Info` of any arrays as curves, by the names that tables have."""
    fixed = info._asdict()
    terms = {TERMS[name].loss_name: values for name, values in fixed.pop("terms").items()}
    return fixed | terms


def from_curves(values: Mapping[str, Any]) -> Info:
    """What `curves` made `values` of."""
    fixed = [name for name in Info._fields if name != "terms"]
    terms = {row.name: values[row.loss_name] for row in tables.optional_terms() if row.loss_name in values}
    return Info(**{name: values[name] for name in fixed}, terms=terms)


class State(NamedTuple):
    """What a cell carries from one pass to the next."""

    image: Float[Array, "h w 3"]
    """x_k, to be evaluated next. RGB."""
    evaluated: Float[Array, "h w 3"]
    """The last image whose loss was seen, finite and accepted: the result, whenever one is asked for."""
    info: Info
    """What is known of `evaluated`."""
    best: Float[Array, "h w 3"]
    """The image of the lowest loss so far."""
    loss_best: Float[Array, ""]
    optimizer: solvers.OptimizerState
    diverged_step: Int[Array, ""]
    """The first step that has no finite loss; -1 while there is none."""


def knobs(
    cell: Cell,
    program: Program,
    sweep: Sweep,
    *,
    content_row: int,
    style_row: int,
    extent: tuple[int, int],
    full_extent: tuple[int, int] | None = None,
    steps: int | None = None,
) -> Knobs:
    """The knobs of `cell`, as NumPy arrays of the types the program was compiled for.

    Args:
        cell: which one.
        program: of the stage.
        sweep: a resolved sweep.
        content_row: of its content in the launch.
        style_row: of its style.
        extent: (height, width) in px of the image in this stage.
        full_extent: of the full-size image, in a coarser stage. A content loss is a sum over positions: its
            weight grows by (S/S_k)^2, so that it weighs against the style what it weighs at full size.
        steps: of its trajectory, where that is not the sweep's.
    """
    style_weights = cell.style_weights
    scale = 1.0 if full_extent is None else (max(full_extent) / max(extent)) ** 2
    decays = sweep.schedule == "decay" and full_extent is None
    length = float(steps or sweep.steps[-1])

    def number(value: float) -> np.ndarray:
        return np.asarray(value, np.float32)

    return Knobs(
        content_weight=number(min(sweep.beta * cell.alpha_beta * scale, FLOAT32_MAX)),
        style_weight=number(sweep.beta),
        tv_weight=number(sweep.tv_weight),
        content_layer_weights=np.array(
            [name == cell.content_layer for name in program.content_taps], np.float32
        ),
        style_layer_weights=np.array(
            [style_weights.get(name, 0.0) for name in program.style_taps], np.float32
        ),
        learning_rate=number(cell.learning_rate),
        decay_end=number(length if decays else math.inf),
        decay_steps=number(DECAY_SHARE * length if decays else 1.0),
        seed=np.asarray(cell.seed, np.uint32),
        noise_std=number(sweep.noise_std if cell.init == "noise" else 0.0),
        pixel_range=np.array((0, 255) if sweep.clamp else (-np.inf, np.inf), np.float32),
        content_row=np.asarray(content_row, np.int32),
        style_row=np.asarray(style_row, np.int32),
        extent=np.asarray(extent, np.int32),
        term_weights={name: number(getattr(cell, TERMS[name].weight)) for name in program.terms},
    )


def blank_knobs(program: Program) -> Knobs:
    """Knobs of no cell, whose shapes are those that `program` is compiled for."""
    cell = Cell(0, "", "", "", "+".join(layers.STYLE_LAYERS), "noise", 0.0, 0.0, 0)
    return knobs(cell, program, Sweep(), content_row=0, style_row=0, extent=(0, 0), steps=1)


def noise(
    seed: UInt[Value, ""], shape: tuple[int, ...], extent: Extent | None = None
) -> Float[Array, "h w 3"]:
    """N(0, 1) for a seed: the same numbers wherever a cell stands in a batch, and for every setting.

    Args:
        seed: of the cell.
        shape: (h, w, 3) of the image, or of its canvas.
        extent: of the image on its canvas. It gets the numbers that it would get as an array of its own,
            to the last bits of their rounding.
    """
    # As jax.random.key makes it of a seed below 2^32, but for the offset that JAX_RANDOM_SEED_OFFSET adds.
    words = jnp.stack([jnp.zeros((), jnp.uint32), jnp.asarray(seed, jnp.uint32)])
    key = jax.random.wrap_key_data(words, impl="threefry2x32")
    # Partitionable Threefry draws the n-th number from n and the key alone: an array's numbers are the
    # first ones of every larger array.
    with jax.threefry_partitionable(True):
        drawn = jax.random.normal(key, shape, jnp.float32)
    if extent is None:
        return drawn
    down, across, channel = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(3))
    own = (down * jnp.asarray(extent)[1] + across) * 3 + channel
    return jnp.where(within(shape[:2], extent), jnp.take(drawn, own, mode="clip"), 0)


def init(program: Program, knobs: Knobs, start: Float[Array, "h w 3"]) -> State:
    """The state before the first pass: `start` plus noise of the cell's own strength, not rounded."""
    extent = knobs.extent if program.canvas else None
    return _begin(program, knobs, start + knobs.noise_std * noise(knobs.seed, start.shape, extent))


def refine(
    program: Program, knobs: Knobs, coarse: Float[Array, "h2 w2 3"], coarse_extent: Int[Value, " 2"]
) -> State:
    """The state before the first pass of a finer stage, from the image of the stage before it.

    Args:
        program: of the finer stage.
        knobs: of the cell in the finer stage.
        coarse: the image, on its canvas if it has one.
        coarse_extent: (height, width) in px of the image.
    """
    down, across = (
        _bicubic(coarse.shape[axis], coarse_extent[axis], size, knobs.extent[axis])
        for axis, size in enumerate((program.height_px, program.width_px))
    )
    image = jnp.einsum("ih,hwc,jw->ijc", down, coarse, across, precision=lax.Precision.HIGHEST)
    return _begin(program, knobs, image)


def _bicubic(
    size: int, extent: Int[Value, ""], to_size: int, to_extent: Int[Value, ""]
) -> Float[Array, "to_size size"]:
    """The matrix that enlarges one axis of an image (Keys 1981, a = -1/2); 0 outside the two extents.

    At an edge the weights of what is there are scaled to sum to 1, as in `jax.image.resize`, which does not
    know where an image on a canvas ends.
    """
    scale = jnp.asarray(extent).astype(jnp.float32) / jnp.asarray(to_extent).astype(jnp.float32)
    at = (jnp.arange(to_size, dtype=jnp.float32) + 0.5) * scale - 0.5
    x = jnp.abs(at[:, None] - jnp.arange(size, dtype=jnp.float32))
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0)) * (
        jnp.arange(size, dtype=jnp.int32) < extent
    )
    weights = weights / jnp.sum(weights, axis=1, keepdims=True)
    return jnp.where((jnp.arange(to_size, dtype=jnp.int32) < to_extent)[:, None], weights, 0.0)


def _begin(program: Program, knobs: Knobs, image: Float[Array, "h w 3"]) -> State:
    nan, image = jnp.float32(jnp.nan), _within_range(knobs, image)
    per_layer = jnp.full(len(program.style_taps), nan, jnp.float32)
    terms: dict[str, Any] = dict.fromkeys(program.terms, nan)
    return State(
        image=image,
        evaluated=image,
        info=Info(nan, nan, nan, per_layer, terms),
        best=image,
        loss_best=jnp.float32(jnp.inf),
        optimizer=_optimizer(program).init(image),
        diverged_step=jnp.int32(-1),
    )


def _optimizer(program: Program) -> solvers.Solver:
    return solvers.make(program.optimizer, program.optimizer_settings)


def _positions(extent: Extent | None, name: str) -> Float[Array, ""] | None:
    """M of a layer of an image on a canvas."""
    if extent is None:
        return None
    height, width = jnp.asarray(extent) >> layers.conv(name).pools
    return (height * width).astype(jnp.float32)


def loss(
    features: Features,
    params: Params,
    program: Program,
    knobs: Knobs,
    targets: Targets,
    image: Float[Array, "h w 3"],
) -> tuple[Float[Array, ""], Info]:
    """L = alpha L_content + beta sum_l w_l E_l + tv_weight TV of one image (Gatys et al. 2016, eq. 7).

    # Differs from Gatys et al. (2016): total variation, and weight times loss of every optional term.
    """
    extent = knobs.extent if program.canvas else None
    arithmetic = ARITHMETIC[program.precision]
    found = features(params, images.to_network(image), extent)
    content = jnp.stack(
        [
            losses.content_loss(found[name], table[knobs.content_row])
            for name, table in zip(program.content_taps, targets.content, strict=True)
        ]
    )
    style = jnp.stack(
        [
            losses.style_layer_loss(
                found[name], table[knobs.style_row], _positions(extent, name), arithmetic
            )
            for name, table in zip(program.style_taps, targets.style, strict=True)
        ]
    )
    loss_content = jnp.sum(knobs.content_layer_weights * content)
    loss_style = jnp.sum(knobs.style_layer_weights * style)
    inside = None if extent is None else within(image.shape[:2], extent)
    total = jnp.asarray(
        knobs.content_weight * loss_content
        + knobs.style_weight * loss_style
        + knobs.tv_weight * losses.total_variation(image, inside)
    )
    terms = {}
    for name in program.terms:
        row = TERMS[name]
        at = knobs.content_row if row.of == "content" else knobs.style_row
        kept = jax.tree.map(lambda table, at=at: table[at], targets.terms[name])
        weight = knobs.term_weights[name]
        view = jax.tree.map(functools.partial(_gated, weight), _view(row, image, found, inside))
        terms[name] = _term_loss(row, view, kept)
        total = total + jnp.where(weight > 0, weight * terms[name], 0.0)
    return total, Info(total, loss_content, loss_style, style, terms)


def _gated(weight: Float[Value, ""], values: Array) -> Array:
    """`values`, which get no gradient where a term weighs nothing: not even one that is not finite."""
    return jnp.where(weight > 0, values, lax.stop_gradient(values))


def _view(
    row: LossTerm,
    image: Float[Array, "h w 3"],
    found: dict[str, Array],
    inside: Bool[Array, "h w 1"] | None,
) -> View:
    return View(image, {tap: found[tap].astype(jnp.float32) for tap in row.taps}, inside)


def _term_loss(row: LossTerm, view: View, kept: Any) -> Float[Array, ""]:
    """The loss of an optional term. Raises JaxstyleError if what comes of it is no number."""
    with tables.blamed(row):
        given = tables.function(row.loss)(view, kept)
    if given is None:
        raise JaxstyleError(row.where, "its loss gives None; end the function with return")
    with tables.blamed(row):
        value = jnp.asarray(given)
    if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
        shape = list(value.shape) if value.shape else ""
        raise JaxstyleError(row.where, f"its loss is {value.dtype}{shape}; it must be one float")
    return value.astype(jnp.float32)


def _choose(condition: jax.Array, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _within_range(knobs: Knobs, image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    return jnp.clip(image, knobs.pixel_range[0], knobs.pixel_range[1])


def _projected(
    knobs: Knobs, image: Float[Array, "h w 3"], gradient: Float[Array, "h w 3"]
) -> Float[Array, "h w 3"]:
    """`gradient` without what would only push pixels out of their range (Bertsekas 1982, section 1)."""
    low, high = knobs.pixel_range[0], knobs.pixel_range[1]
    held = ((image <= low) & (gradient > 0)) | ((image >= high) & (gradient < 0))
    return jnp.where(held, 0.0, gradient)


def _rate(knobs: Knobs, k: Int[Array, ""]) -> Float[Array, ""]:
    """The learning rate of the step from x_k to x_{k+1}."""
    left = (jnp.asarray(knobs.decay_end) - k.astype(jnp.float32)) / knobs.decay_steps
    return jnp.asarray(knobs.learning_rate) * jnp.clip(left, 0.0, 1.0)


def step(
    features: Features,
    params: Params,
    program: Program,
    knobs: Knobs,
    targets: Targets,
    state: State,
    k: Int[Array, ""],
) -> tuple[State, Info]:
    """Pass k: evaluate the image asked for, report the loss of the result x_k, ask for the next one.

    With Adam x_k is the image evaluated; L-BFGS may reject it, and x_k is the result before it. A cell
    whose x_k has no finite loss keeps the image before it; one whose gradient, next image or optimizer
    state is not finite keeps x_k, and step k+1 is the first without a loss. From then on it stands
    still, whatever its neighbours do. Where pixels have a range, the optimizer sees the gradient projected
    onto it and its images are clipped to it.
    """
    (total, info), gradient = jax.value_and_grad(
        lambda image: loss(features, params, program, knobs, targets, image), has_aux=True
    )(state.image)
    seen = solvers.Evaluation(state.image, total, _projected(knobs, state.image, gradient))
    move = _optimizer(program).update(seen, state.evaluated, state.optimizer, _rate(knobs, k), k)

    alive = state.diverged_step < 0
    accepted, sound = alive & move.accepted, alive & move.sound
    able = sound & move.able
    better = accepted & (total < state.loss_best)
    info = _choose(accepted, info, state.info)
    stopped = jnp.where(alive & ~sound, k, jnp.where(sound & ~able, k + 1, state.diverged_step))
    return (
        State(
            image=jnp.where(able, _within_range(knobs, move.image), state.image),
            evaluated=jnp.where(accepted, state.image, state.evaluated),
            info=info,
            best=jnp.where(better, state.image, state.best),
            loss_best=jnp.where(better, total, state.loss_best),
            optimizer=move.state,
            diverged_step=stopped.astype(jnp.int32),
        ),
        _choose(sound, info, jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), info)),
    )


def target_rows(
    features: Features,
    params: Params,
    program: Program,
    image: Float[Array, "h w 3"],
    extent: Extent | None = None,
    role: str | None = None,
) -> Targets:
    """What the losses keep of one image, P at the content taps and A at the style taps, without rows.

    Args:
        extent: of the image, if it lies on a canvas.
        role: `content` or `style`; optional terms keep nothing of the other one. None for both.
    """
    arithmetic = ARITHMETIC[program.precision]
    found = features(params, images.to_network(image), extent)
    inside = None if extent is None else within(image.shape[:2], extent)
    return Targets(
        content=tuple(found[name] for name in program.content_taps),
        style=tuple(
            losses.gram(found[name], _positions(extent, name), arithmetic) for name in program.style_taps
        ),
        terms={
            name: _kept(TERMS[name], image, found, inside)
            for name in program.terms
            if role in (None, TERMS[name].of)
        },
    )


def _kept(
    row: LossTerm,
    image: Float[Array, "h w 3"],
    found: dict[str, Array],
    inside: Bool[Array, "h w 1"] | None,
) -> Any:
    """What an optional term keeps of an image."""
    if row.keep is None:
        return ()
    with tables.blamed(row):
        return jax.tree.map(jnp.asarray, tables.function(row.keep)(_view(row, image, found, inside)))
