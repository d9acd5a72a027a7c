"""L-BFGS (Nocedal 1980) with one evaluation per step and no line search inside it.

A trial image with a higher loss is rejected, and the next one lies half as far along the direction. All
cells of a batch therefore stay in step.

Symbols:
    g  gradient at the result so far, in units of the first one's largest entry
    s  step from one image to the next
    y  change of the gradient along s; the two are a pair
    S  matrix whose columns are the s of the last m pairs, the oldest first
    Y  the same for y
    H  approximation of the inverse Hessian; the direction is -H g
    R  upper triangle of S'Y
    D  its diagonal
    t  factor of the direction, halved when an image is rejected
    n  the axes of a vector: one, of all numbers of an image, or two, of whole `TILE`s (`Program.planes`)
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental.layout import Layout, with_layout_constraint
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Int

from jaxstyle.cell.solvers import Evaluation, Move, Solver, all_finite

MIN_CURVATURE = 1e-10
"""The smallest s.y worth remembering, with gradients in units of the first one's largest entry."""
TILE = (8, 128)
"""The tiles in which a TPU's memory holds the two innermost axes of float32 arrays. With vectors in whole
tiles the axes of cells and pairs are outside them, and a pair is written without moving the others."""
FAR_PX = 10.0
"""Grey levels that a short first step is doubled to while no pair is known."""
LONGEST = 2.0**64
"""The largest t; an infinite one would make NaN of a gradient of 0."""
TINY = float(jnp.finfo(jnp.float32).tiny)
"""Lower bound of divisors, in place of 0."""


def lbfgs(lbfgs_memory: int) -> Solver:
    """L-BFGS (Nocedal 1980) with a memory of the last `lbfgs_memory` steps."""
    return Solver(
        lambda image: _init(image.reshape(-1), lbfgs_memory),
        _update,
        lambda image: _init(_tiles(image), lbfgs_memory),
    )


class History(NamedTuple):
    """The memory of L-BFGS: its last m steps. Images are vectors; gradients are in `unit`s.

    Every step fills the next slot, the same one in all cells, so that no cell needs an index of its own.
    The pair of a step without positive curvature is stored as zero, which has no effect.
    """

    pairs: Float[Array, "rows ..."]
    """s_i, steps between images, and y_i, changes of the gradient: rows 2i and 2i + 1 of 2m.

    # With a separate axis for s and y, XLA puts it outside the axis of cells and copies everything in
    # every step.
    """
    sy: Float[Array, "m m"]
    """s_i . y_j; valid only where i is not newer than j."""
    yy: Float[Array, "m m"]
    """y_i . y_j."""
    gamma: Float[Array, ""]
    """s.y / y.y of the newest pair, the scale of the inverse Hessian; 0 while there is none."""
    gradient: Float[Array, "*n"]
    """The gradient at the result."""
    loss: Float[Array, ""]
    """The loss of the result; infinite while there is none."""
    length: Float[Array, ""]
    """t, the factor that the next direction is multiplied by."""
    unit: Float[Array, ""]
    """The largest entry of the first gradient; without it squares of gradients leave float32's range."""


def _init(vector: Float[Array, "*n"], memory: int) -> History:
    zero = jnp.float32(0)
    return History(
        pairs=jnp.zeros((2 * memory, *vector.shape), jnp.float32),
        sy=jnp.zeros((memory, memory), jnp.float32),
        yy=jnp.zeros((memory, memory), jnp.float32),
        gamma=zero,
        gradient=jnp.zeros(vector.shape, jnp.float32),
        loss=jnp.float32(jnp.inf),
        length=jnp.float32(1),
        unit=zero,
    )


def _tiles(image: Float[Array, "h w 3"]) -> Float[Array, "_rows _columns"]:
    """The planes of an image one after another, with zeros to the end of the last tile."""
    flat = image.transpose(2, 0, 1).reshape(-1)
    return jnp.pad(flat, (0, -flat.size % math.prod(TILE))).reshape(-1, TILE[1])


def _vector(image: Float[Array, "h w 3"], like: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """An image as a vector of the same form as `like`."""
    return image.reshape(-1) if like.ndim == 1 else _tiles(image)


def _image(vector: Float[Array, "*n"], like: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """The image that `_vector` made a vector of, with the shape of `like`."""
    if vector.ndim == 1:
        return vector.reshape(like.shape)
    h, w, channels = like.shape
    return vector.reshape(-1)[: like.size].reshape(channels, h, w).transpose(1, 2, 0)


def _update(
    seen: Evaluation,
    result: Float[Array, "h w 3"],
    state: History,
    learning_rate: Float[Array, ""],
    index: Int[Array, ""],
) -> Move:
    """Accept or reject the image, remember the step, and choose the next direction, -H g.

    With the compact form of H, two passes over the pairs are enough: one for their products with the newest
    gradient and gradient change, and one for the weighted sum that makes the direction. The two-loop
    recursion takes as many small steps as there are pairs. While there is no pair, the direction is -g,
    scaled so that the fastest pixel moves by `learning_rate` grey levels.
    """
    memory = len(state.sy)
    inner = functools.partial(_inner, axes=state.gradient.ndim)
    first = index == 0
    given = _vector(seen.gradient, state.gradient)
    unit = jnp.where(first, jnp.max(jnp.abs(given)), state.unit)
    given = given / jnp.maximum(unit, TINY)
    finite = jnp.isfinite(seen.loss) & jnp.isfinite(inner(given, given))
    accepted = finite & (first | (seen.loss <= state.loss))

    s, y = _vector(seen.image - result, given), given - state.gradient
    s_y, y_y = inner(s, y), inner(y, y)
    keep = finite & ~first & (s_y > MIN_CURVATURE) & jnp.isfinite(s_y) & jnp.isfinite(y_y)
    newest = jnp.where(keep, jnp.stack([s, y]), 0.0)
    gamma = jnp.where(keep, s_y / y_y, state.gamma)
    g = jnp.where(accepted, given, state.gradient)

    slot = index % memory
    sy, yy, s_g, y_g = _products(state, newest, g, slot)
    weights = _weights(sy, yy, s_g, y_g, gamma, (index + 1 + jnp.arange(memory, dtype=jnp.int32)) % memory)
    others = weights.at[slot].set(0.0).reshape(-1)
    h_g = gamma * g + _sum(others, state.pairs) + _sum(weights[slot], newest)
    slope = gamma * inner(g, g) + jnp.sum(weights * jnp.stack([s_g, y_g], axis=1))  # g . H g
    # Pixels that are held at a bound have no gradient here. They stay: H would move them against their own.
    h_g = jnp.where(g == 0, 0.0, h_g)
    descends = (slope > 0) & jnp.isfinite(slope)
    fastest = jnp.max(jnp.abs(g))
    # At an exact minimum g is 0, and the image stays: 10 / TINY would be infinite.
    steepest = g * jnp.where(fastest > 0, learning_rate / jnp.maximum(fastest, TINY), 0.0)
    uphill = jnp.where(gamma > 0, jnp.where(descends, h_g, gamma * g), steepest)
    length = _factor(state.length, accepted, first, gamma, learning_rate)
    origin = jnp.where(accepted, seen.image, result)
    following = origin - length * _image(uphill, origin)
    loss = jnp.where(accepted, seen.loss, state.loss)
    able = all_finite(following)
    # This write depends on what was computed from the old pairs and so comes after they are read; XLA
    # therefore need not copy them.
    pairs = _write(state.pairs, jnp.where(able, newest, 0.0), slot)
    return Move(
        following,
        History(pairs, sy, yy, gamma, g, loss, length, unit),
        accepted,
        jnp.isfinite(loss),
        able,
    )


def _factor(
    length: Float[Array, ""],
    accepted: Bool[Array, ""],
    first: Bool[Array, ""],
    gamma: Float[Array, ""],
    learning_rate: Float[Array, ""],
) -> Float[Array, ""]:
    """The next t: half of the last one after a rejected image, else twice as much, to at most 1.

    While there is no pair, a short first step may be doubled until it is `FAR_PX` long.
    """
    far = jnp.clip(FAR_PX / learning_rate, 1.0, LONGEST)
    longest = jnp.where((gamma > 0) | first, 1.0, far)
    return jnp.minimum(jnp.where(accepted, 2 * length, length / 2), longest)


def _products(
    state: History, newest: Float[Array, "2 ..."], g: Float[Array, "*n"], slot: Int[Array, ""]
) -> tuple[Float[Array, "m m"], Float[Array, "m m"], Float[Array, " m"], Float[Array, " m"]]:
    """`sy` and `yy` with the newest pair in its slot, s_i . g and y_i . g, all in one pass over the pairs.

    The pairs are read before the newest one is written among them, for the reason given in `_update`; its
    products are computed separately.
    """
    ours = jnp.arange(len(state.sy), dtype=jnp.int32) == slot
    beside = jnp.stack([newest[1], g])
    before = _inner(state.pairs, beside, axes=g.ndim).reshape(-1, 2, 2)
    # axes: pair; s or y; y or g
    found = jnp.where(ours[:, None, None], _inner(newest, beside, axes=g.ndim), before)
    s_y, y_y = found[:, 0, 0], found[:, 1, 0]
    yy = jnp.where(ours, y_y[:, None], jnp.where(ours[:, None], y_y, state.yy))
    return jnp.where(ours, s_y[:, None], state.sy), yy, found[:, 0, 1], found[:, 1, 1]


def _weights(
    sy: Float[Array, "m m"],
    yy: Float[Array, "m m"],
    s_g: Float[Array, " m"],
    y_g: Float[Array, " m"],
    gamma: Float[Array, ""],
    by_age: Int[Array, " m"],
) -> Float[Array, "m 2"]:
    """Weights of s_i and y_i in H g - gamma g, from inner products alone (Byrd et al. 1994, eq. 3.1).

    H g = gamma g + S b - gamma Y a with R a = S'g and R'b = (D + gamma Y'Y) a - gamma Y'g, where R is the
    upper triangle of S'Y and D its diagonal, the oldest pair first. A pair that is zero gets no weight.
    """
    r = jnp.triu(sy[by_age][:, by_age])
    d = jnp.diagonal(r)
    r = r + jnp.diag(jnp.where(d > 0, 0.0, 1.0).astype(jnp.float32))
    a = solve_triangular(r, s_g[by_age])
    b = solve_triangular(r, d * a + gamma * (_dot(yy[by_age][:, by_age], a) - y_g[by_age]), trans=1)
    return jnp.zeros((len(by_age), 2), jnp.float32).at[by_age].set(jnp.stack([b, -gamma * a], axis=1))


@custom_vmap
def _write(
    pairs: Float[Array, "rows ..."], newest: Float[Array, "2 ..."], slot: Int[Array, ""]
) -> Float[Array, "rows ..."]:
    """`pairs` with `newest` written to a slot, in place.

    The slot is the same for all cells. A plain `vmap` cannot use that: it makes a scatter, for which XLA
    copies all pairs in every step.
    """
    return lax.dynamic_update_slice(pairs, newest, (2 * slot, *[jnp.int32(0)] * (pairs.ndim - 1)))


@_write.def_vmap
def _(axis_size: int, batched: list[bool], pairs: Array, newest: Array, slot: Array) -> tuple[Array, bool]:
    assert batched == [True, True, False], batched
    zero = jnp.int32(0)
    written = lax.dynamic_update_slice(pairs, newest, (zero, 2 * slot, *[zero] * (pairs.ndim - 2)))
    if pairs.ndim > 3:
        # A TPU's compiler would put the axis of pairs outside that of cells, and copy the whole history
        # before and after a segment.
        written = with_layout_constraint(written, Layout(tuple(range(pairs.ndim))))
    return written, True


def _inner(a: Array, b: Array, *, axes: int) -> Array:
    """Products of every vector in `a` with every vector in `b`, whose last `axes` axes are a vector's.

    In tiles they are plain sums, in one pass over `a`: on matrix units, float32 would take six passes.
    """
    if axes == 1:
        return _dot(a, b)
    over = tuple(range(-axes, 0))
    if b.ndim == axes:
        return jnp.sum(a * b, over)
    return jnp.stack([jnp.sum(a * row, over) for row in b], axis=-1)


def _dot(a: Array, b: Array) -> Array:
    """Sums over the last axis of both, in full float32."""
    return lax.dot_general(
        a,
        b,
        (((a.ndim - 1,), (b.ndim - 1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _sum(weights: Float[Array, " rows"], pairs: Float[Array, "rows ..."]) -> Float[Array, "*n"]:
    if pairs.ndim > 2:
        return jnp.sum(weights[:, None, None] * pairs, 0)
    return jnp.einsum("r,rn->n", weights, pairs, precision=lax.Precision.HIGHEST)
