"""The state that a cell starts from: noise, an image, or the coarser stage before."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt

from jaxstyle.cell import colours, solvers
from jaxstyle.cell.state import Info, Knobs, State, Value
from jaxstyle.plan.programs import Program
from jaxstyle.vgg.network import Extent, inside_mask


def init_state(program: Program, knobs: Knobs, start: Float[Array, "h w 3"], noisy: bool = True) -> State:
    """The state before the first pass: `start` plus noise of the cell's own strength, unrounded.

    Args:
        program: the program of the cell.
        knobs: knobs of the cell.
        start: RGB, 0 to 255, on the program's canvas.
        noisy: whether its noise may have a strength that is not 0.
    """
    if not noisy:
        return _begin(program, knobs, start)
    extent = knobs.extent if program.canvas else None
    drawn = colours.noise_in(program.colour, noise(knobs.seed, start.shape, extent))
    return _begin(program, knobs, start + knobs.noise_std * drawn)


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
    return jnp.where(inside_mask(shape[:2], extent), jnp.take(drawn, own, mode="clip"), 0)


def refined_state(
    program: Program, knobs: Knobs, coarse: Float[Array, "h2 w2 3"], coarse_extent: Int[Value, " 2"]
) -> State:
    """The state before the first pass of a finer stage, from the image of the stage before it.

    Args:
        program: the program of the finer stage.
        knobs: the cell's knobs in the finer stage.
        coarse: the image of the coarser stage, on its canvas if it has one.
        coarse_extent: (height, width) in px of that image.
    """
    wraps = program.wraps
    down, across = (
        _bicubic(coarse.shape[axis], coarse_extent[axis], size, knobs.extent[axis], wraps)
        for axis, size in enumerate((program.height_px, program.width_px))
    )
    image = jnp.einsum("ih,hwc,jw->ijc", down, coarse, across, precision=lax.Precision.HIGHEST)
    return _begin(program, knobs, image)


def _bicubic(
    size: int, extent: Int[Value, ""], to_size: int, to_extent: Int[Value, ""], wraps: bool = False
) -> Float[Array, "to_size size"]:
    """The matrix that enlarges one axis of an image (Keys 1981, a = -1/2); 0 outside the two extents.

    At an edge the weights of the existing pixels are scaled to sum to 1, as in `jax.image.resize`. That
    function itself cannot be used, because it does not know where an image on a canvas ends.

    Args:
        wraps: whether an axis of pixels goes on at its other end.
    """
    scale = jnp.asarray(extent).astype(jnp.float32) / jnp.asarray(to_extent).astype(jnp.float32)
    at = (jnp.arange(to_size, dtype=jnp.float32) + 0.5) * scale - 0.5
    x = jnp.abs(at[:, None] - jnp.arange(size, dtype=jnp.float32))
    x = jnp.minimum(x, size - x) if wraps else x
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0)) * (
        jnp.arange(size, dtype=jnp.int32) < extent
    )
    weights = weights / jnp.sum(weights, axis=1, keepdims=True)
    return jnp.where((jnp.arange(to_size, dtype=jnp.int32) < to_extent)[:, None], weights, 0.0)


def _begin(program: Program, knobs: Knobs, image: Float[Array, "h w 3"]) -> State:
    nan, image = jnp.float32(jnp.nan), allowed(program, knobs, image)
    per_layer = jnp.full(len(program.style_taps), nan, jnp.float32)
    terms: dict[str, Any] = dict.fromkeys(program.terms, nan)
    return State(
        image=image,
        evaluated=image,
        info=Info(nan, nan, nan, per_layer, terms),
        best=image,
        loss_best=jnp.float32(jnp.inf),
        optimizer=solvers.solver_of(program).init(image),
        diverged_step=jnp.int32(-1),
    )


def allowed(program: Program, knobs: Knobs, image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """`image` clipped to the range that the pixels of a cell may have, in the colours of its program."""
    return colours.held(program.colour, jnp.clip(image, knobs.pixel_range[0], knobs.pixel_range[1]))
