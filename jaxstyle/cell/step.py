"""One cell of a sweep: its data, its start, and one step of it.

Each value is defined in one place (see the classes), and everything here concerns a single image. The batch
axis is added by the one `vmap` in `device/compilation.py`.
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

from jaxstyle.cell import losses, solvers
from jaxstyle.inputs.preprocess import to_network
from jaxstyle.plan.cells import Cell
from jaxstyle.plan.programs import Program
from jaxstyle.spec import tables
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import Sweep
from jaxstyle.spec.tables import TERMS, LossTerm
from jaxstyle.spec.values import FLOAT32_MAX
from jaxstyle.vgg import layers
from jaxstyle.vgg.convolution import ARITHMETIC
from jaxstyle.vgg.network import Extent, Features, Params, within

Value = Array | np.ndarray
"""An array on its way to the device, or already there."""
DECAY_SHARE = 0.3
"""The part of a trajectory over which a decaying learning rate falls to 0."""


class Knobs(NamedTuple):
    """The values that may differ between the cells of one program; made only by `knobs`."""

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
    """The step at which the learning rate would reach 0; infinite for a constant one."""
    decay_steps: Float[Value, ""]
    """The number of steps before `decay_end` over which it falls from its full value."""
    seed: UInt[Value, ""]
    noise_std: Float[Value, ""]
    """Standard deviation of the noise in grey levels; 0 for a start that is an image."""
    pixel_range: Float[Value, " 2"]
    """The least and the largest value that a pixel may take; infinite where pixels are free."""
    content_row: Int[Value, ""]
    """The cell's row in `Targets.content`."""
    style_row: Int[Value, ""]
    """The cell's row in `Targets.style`."""
    extent: Int[Value, " 2"]
    """(height, width) in px of the image, which may be smaller than the program's canvas."""
    term_weights: dict[str, Float[Value, ""]]
    """The weight of every optional loss term, by name."""


class Targets(NamedTuple):
    """The features that the images of a launch are compared with: a row per distinct content and style."""

    content: tuple[Float[Value, "rows _h _w _c"], ...]
    """P at every content tap."""
    style: tuple[Float[Value, "rows _c _c"], ...]
    """A, divided by its own pixel count, at every style tap."""
    terms: dict[str, Any] = {}  # noqa: RUF012 - never modified
    """The values that each optional loss term keeps, by name: a pytree of arrays with a row for every
    content or every style."""


class View(NamedTuple):
    """An image as an optional loss term sees it."""

    image: Float[Array, "h w 3"]
    """RGB, 0 to 255; a picture that is being optimised may leave that range."""
    features: dict[str, Float[Array, "_h _w _c"]]
    """Activations after the ReLU at the term's own taps, by layer, float32."""
    inside: Bool[Array, "h w 1"] | None
    """The positions of the image on a canvas larger than it; None without a canvas."""


class Info(NamedTuple):
    """Losses that one pass reports of x_k, its result; NaN from the step at which a cell diverged."""

    loss_total: Float[Array, ""]
    """alpha L_content + beta L_style + tv_weight TV, plus weight times loss of every optional term."""
    loss_content: Float[Array, ""]
    """L_content, without alpha."""
    loss_style: Float[Array, ""]
    """sum_l w_l E_l, without beta."""
    style_layer_loss: Float[Array, " style_taps"]
    """E_l, without w_l, at every style tap of the program."""
    terms: dict[str, Float[Array, ""]]
    """The loss of every optional term, by name, without its weight."""


def curves(info: Info) -> dict[str, Any]:
    """An `Info` of any arrays as curves, keyed by the names that tables use."""
    fixed = info._asdict()
    terms = {TERMS[name].loss_name: values for name, values in fixed.pop("terms").items()}
    return fixed | terms


def from_curves(values: Mapping[str, Any]) -> Info:
    """The `Info` that `curves` turned into `values`."""
    fixed = [name for name in Info._fields if name != "terms"]
    terms = {row.name: values[row.loss_name] for row in tables.optional_terms() if row.loss_name in values}
    return Info(**{name: values[name] for name in fixed}, terms=terms)


class State(NamedTuple):
    """The values that a cell carries from one pass to the next."""

    image: Float[Array, "h w 3"]
    """The RGB image to evaluate next."""
    evaluated: Float[Array, "h w 3"]
    """x_k: the last image whose loss was evaluated, finite and accepted. It is the result so far."""
    info: Info
    """The losses of `evaluated`."""
    best: Float[Array, "h w 3"]
    """The image with the lowest loss so far."""
    loss_best: Float[Array, ""]
    optimizer: solvers.OptimizerState
    diverged_step: Int[Array, ""]
    """The first step without a finite loss; -1 while there is none."""


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
    """The knobs of `cell`, as NumPy arrays of the types that the program was compiled for.

    Args:
        cell: the cell.
        program: the program of the stage.
        sweep: a resolved sweep.
        content_row: row of its content among the targets of the launch.
        style_row: row of its style among them.
        extent: (height, width) in px of the image in this stage.
        full_extent: (height, width) in px of the full-size image, given in a coarser stage. A content loss
            is a sum over positions, so its weight grows by (S/S_k)^2 to keep its full-size balance with
            the style loss.
        steps: length of its trajectory, if that is not the sweep's.
    """
    layer_weights = cell.layer_weights
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
            [layer_weights.get(name, 0.0) for name in program.style_taps], np.float32
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
    """Placeholder knobs with the shapes and types that `program` is compiled for."""
    cell = Cell(0, "", "", "", "+".join(layers.STYLE_LAYERS), "noise", 0.0, 0.0, 0)
    return knobs(cell, program, Sweep(), content_row=0, style_row=0, extent=(0, 0), steps=1)


def noise(
    seed: UInt[Value, ""], shape: tuple[int, ...], extent: Extent | None = None
) -> Float[Array, "h w 3"]:
    """N(0, 1) noise for a seed: the same numbers at any place in a batch and under any settings.

    Args:
        seed: seed of the cell.
        shape: (h, w, 3) of the image, or of its canvas.
        extent: (height, width) in px of the image on its canvas. The image gets the numbers that it would
            get as an array of its own, except perhaps for their last bits.
    """
    # The key that jax.random.key makes of a seed below 2^32, without the offset of JAX_RANDOM_SEED_OFFSET.
    words = jnp.stack([jnp.zeros((), jnp.uint32), jnp.asarray(seed, jnp.uint32)])
    key = jax.random.wrap_key_data(words, impl="threefry2x32")
    # Partitionable Threefry draws the n-th number from n and the key alone, so that the numbers of an array
    # are the first numbers of every larger array.
    with jax.threefry_partitionable(True):
        drawn = jax.random.normal(key, shape, jnp.float32)
    if extent is None:
        return drawn
    down, across, channel = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(3))
    own = (down * jnp.asarray(extent)[1] + across) * 3 + channel
    return jnp.where(within(shape[:2], extent), jnp.take(drawn, own, mode="clip"), 0)


def init(program: Program, knobs: Knobs, start: Float[Array, "h w 3"]) -> State:
    """The state before the first pass: `start` plus noise of the cell's own strength, unrounded."""
    extent = knobs.extent if program.canvas else None
    return _begin(program, knobs, start + knobs.noise_std * noise(knobs.seed, start.shape, extent))


def refine(
    program: Program, knobs: Knobs, coarse: Float[Array, "h2 w2 3"], coarse_extent: Int[Value, " 2"]
) -> State:
    """The state before the first pass of a finer stage, from the image of the stage before it.

    Args:
        program: the program of the finer stage.
        knobs: the cell's knobs in the finer stage.
        coarse: the image of the coarser stage, on its canvas if it has one.
        coarse_extent: (height, width) in px of that image.
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

    At an edge the weights of the existing pixels are scaled to sum to 1, as in `jax.image.resize`. That
    function itself cannot be used, because it does not know where an image on a canvas ends.
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
    """M, the number of positions at a layer, for an image on a canvas; None without a canvas."""
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

    # Differs from Gatys et al. (2016): adds total variation, and weight times loss of every optional term.
    """
    extent = knobs.extent if program.canvas else None
    arithmetic = ARITHMETIC[program.precision]
    found = features(params, to_network(image), extent)
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
    """`values`, without a gradient where the weight of a term is 0, so that not even NaN gets through."""
    return jnp.where(weight > 0, values, lax.stop_gradient(values))


def _view(
    row: LossTerm,
    image: Float[Array, "h w 3"],
    found: dict[str, Array],
    inside: Bool[Array, "h w 1"] | None,
) -> View:
    return View(image, {tap: found[tap].astype(jnp.float32) for tap in row.taps}, inside)


def _term_loss(row: LossTerm, view: View, kept: Any) -> Float[Array, ""]:
    """The loss of an optional term. Raises JaxstyleError if its function does not return one float."""
    with tables.blamed(row):
        given = tables.function(row.loss)(view, kept)
    if given is None:
        raise JaxstyleError(row.where, "its loss returns None; end the function with a return statement")
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
    """`gradient`, 0 where a step would only push a pixel out of its range (Bertsekas 1982, section 1)."""
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
    """Run pass k: evaluate the image asked for, report the loss of the result x_k, ask for the next image.

    With Adam, x_k is the evaluated image; L-BFGS may reject that image, and x_k is then the result before
    it. Where pixels have a range, the optimizer sees the gradient projected onto that range, and its images
    are clipped to it. A cell that has diverged stands still from then on, whatever its neighbours do:

    | the first case that holds                   | x_k       | loss | next image | diverged at |
    |---------------------------------------------|-----------|------|------------|-------------|
    | it diverged in an earlier pass              | as before | NaN  | as before  | as before   |
    | the loss of x_k is not finite               | as before | NaN  | as before  | k           |
    | gradient, next image or state is not finite | new       | its  | as before  | k + 1       |
    | the optimizer rejects the image             | as before | its  | new        | -1          |
    | otherwise                                   | new       | its  | new        | -1          |

    In the third case, too, x_k is as before where the optimizer rejects the image.
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
    table = {  # field: where this holds, the new value; elsewhere the old one
        "image": (able, _within_range(knobs, move.image), state.image),
        "evaluated": (accepted, state.image, state.evaluated),
        "best": (better, state.image, state.best),
        "loss_best": (better, total, state.loss_best),
    }
    chosen = {field: jnp.where(*row) for field, row in table.items()}
    state = State(info=info, optimizer=move.state, diverged_step=stopped.astype(jnp.int32), **chosen)
    return state, _choose(sound, info, jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), info))


def target_rows(
    features: Features,
    params: Params,
    program: Program,
    image: Float[Array, "h w 3"],
    extent: Extent | None = None,
    role: str | None = None,
) -> Targets:
    """Targets from one image, without an axis of rows: P at the content taps and A at the style taps.

    Args:
        extent: (height, width) in px of the image, if it lies on a canvas.
        role: `content` or `style`, to leave out the optional terms of the other role; None for both.
    """
    arithmetic = ARITHMETIC[program.precision]
    found = features(params, to_network(image), extent)
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
    """Values that an optional term keeps of an image; () if it keeps nothing."""
    if row.keep is None:
        return ()
    with tables.blamed(row):
        return jax.tree.map(jnp.asarray, tables.function(row.keep)(_view(row, image, found, inside)))
