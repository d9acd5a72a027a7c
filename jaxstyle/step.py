"""One cell of a sweep: what it is made of, how it starts, and one step of it.

Every value has one home (see the classes); everything here is about a single image. The batch axis
is added by the one `vmap` in `engine.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt

from jaxstyle import images, layers, losses, optimizers
from jaxstyle.config import Sweep
from jaxstyle.conv import ARITHMETIC
from jaxstyle.grid import Cell, Program
from jaxstyle.vgg19 import Extent, Features, Params, within

Value = Array | np.ndarray
"""On its way to the device or there."""


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
    seed: UInt[Value, ""]
    noise_std: Float[Value, ""]
    """Grey levels; 0 for a start that is an image."""
    content_row: Int[Value, ""]
    """The cell's row in `Targets.content`."""
    style_row: Int[Value, ""]
    """The cell's row in `Targets.style`."""
    extent: Int[Value, " 2"]
    """(height, width) in px of the image, which may be smaller than the program's canvas."""


class Targets(NamedTuple):
    """What the images of a launch are compared with: a row per distinct content and style."""

    content: tuple[Float[Value, "rows _h _w _c"], ...]
    """P at every content tap."""
    style: tuple[Float[Value, "rows _c _c"], ...]
    """A, over its own pixel count, at every style tap."""


class State(NamedTuple):
    """What a cell carries from one pass to the next."""

    image: Float[Array, "h w 3"]
    """x_k, to be evaluated next. RGB."""
    evaluated: Float[Array, "h w 3"]
    """The last image whose loss was seen and finite: the result, whenever one is asked for."""
    optimizer: optimizers.OptimizerState
    diverged_step: Int[Array, ""]
    """The first step that has no finite loss; -1 while there is none."""


class Info(NamedTuple):
    """What one pass reports of x_k; NaN from the step a cell diverged at."""

    loss_total: Float[Array, ""]
    """alpha L_content + beta L_style + tv_weight TV."""
    loss_content: Float[Array, ""]
    """Without alpha."""
    loss_style: Float[Array, ""]
    """sum_l w_l E_l, without beta."""
    style_layer_loss: Float[Array, " style_taps"]
    """E_l, without w_l, of every tap of the program."""


def knobs(
    cell: Cell,
    program: Program,
    sweep: Sweep,
    *,
    content_row: int,
    style_row: int,
    extent: tuple[int, int],
) -> Knobs:
    """The knobs of `cell`, as NumPy arrays of the types the program was compiled for."""
    style_weights = cell.style_weights

    def number(value: float) -> np.ndarray:
        return np.asarray(value, np.float32)

    return Knobs(
        content_weight=number(sweep.beta * cell.alpha_beta),
        style_weight=number(sweep.beta),
        tv_weight=number(sweep.tv_weight),
        content_layer_weights=np.array(
            [name == cell.content_layer for name in program.content_taps], np.float32
        ),
        style_layer_weights=np.array(
            [style_weights.get(name, 0.0) for name in program.style_taps], np.float32
        ),
        learning_rate=number(cell.learning_rate),
        seed=np.asarray(cell.seed, np.uint32),
        noise_std=number(sweep.noise_std if cell.init == "noise" else 0.0),
        content_row=np.asarray(content_row, np.int32),
        style_row=np.asarray(style_row, np.int32),
        extent=np.asarray(extent, np.int32),
    )


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
    key = jax.random.key(seed, impl="threefry2x32")
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
    image = start + knobs.noise_std * noise(knobs.seed, start.shape, extent)
    return State(image, image, optimizers.init(image), jnp.int32(-1))


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
    """L = alpha L_content + beta sum_l w_l E_l + tv_weight TV of one image (Gatys et al. 2016, eq. 7)."""
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
    return total, Info(total, loss_content, loss_style, style)


def _all_finite(tree) -> jax.Array:
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))


def _choose(condition: jax.Array, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def step(
    features: Features,
    params: Params,
    program: Program,
    knobs: Knobs,
    targets: Targets,
    state: State,
    k: Int[Array, ""],
) -> tuple[State, Info]:
    """Pass k: evaluate x_k, report its loss, move to x_{k+1}.

    A cell whose loss is not finite keeps the image before it; one whose gradient, next image or
    optimizer state is not finite keeps x_k, and step k+1 is the first without a loss. From then on it
    stands still, whatever its neighbours do.
    """
    (total, info), gradient = jax.value_and_grad(
        lambda image: loss(features, params, program, knobs, targets, image), has_aux=True
    )(state.image)
    change, optimizer = optimizers.update(gradient, state.optimizer, jnp.asarray(knobs.learning_rate))
    following = state.image + change

    alive = state.diverged_step < 0
    seen = alive & jnp.isfinite(total)
    moved = seen & _all_finite((gradient, following, optimizer))
    stopped = jnp.where(alive & ~seen, k, jnp.where(seen & ~moved, k + 1, state.diverged_step))
    return (
        State(
            image=jnp.where(moved, following, state.image),
            evaluated=jnp.where(seen, state.image, state.evaluated),
            optimizer=_choose(moved, optimizer, state.optimizer),
            diverged_step=stopped.astype(jnp.int32),
        ),
        _choose(seen, info, jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), info)),
    )


def target_rows(
    features: Features,
    params: Params,
    program: Program,
    image: Float[Array, "h w 3"],
    extent: Extent | None = None,
) -> Targets:
    """P at the content taps and A at the style taps of one image, without the axis of rows.

    Args:
        extent: of the image, if it lies on a canvas.
    """
    arithmetic = ARITHMETIC[program.precision]
    found = features(params, images.to_network(image), extent)
    return Targets(
        content=tuple(found[name] for name in program.content_taps),
        style=tuple(
            losses.gram(found[name], _positions(extent, name), arithmetic) for name in program.style_taps
        ),
    )
