"""The style loss of regions: each has a Gram matrix and a target of its own (Gatys et al. 2017, section 4).

Symbols are those of `losses`; T_r is the map of region r at a layer, (h, w), 0 to 1:

    G_r = sum T_r^2 F^T F / sum T_r^2,   A_r likewise of the style image and its own regions,
    E_l = sum_r lambda_r sum (G_r - A_r)^2 / (4 N^2),   lambda_r = sum T_r / sum_s sum T_s at image size,
    dE_l/dF = sum_r lambda_r T_r^2 F (G_r - A_r) / (N^2 sum T_r^2).

# Differs from Gatys et al. (2017): they divide (T_r F)^T (T_r F) by M and scale T_r so that its mean square
# is 1, which is the same G_r, and weigh every region as the user says.

Maps that overlap or have soft edges take the products of a whole Gram matrix each. The tiles of a grid do
not overlap, and all together take those of one. In a program for several grids, which have equally many
tiles, the products of every part of a layer that no grid cuts are summed once, and the Gram matrix of a
tile is the mean over its parts, whose weights are data.

Gradients are written out, because G_r and A_r are symmetric: one product takes the place of two, and no
matrix is transposed.
"""

from __future__ import annotations

import functools
from itertools import pairwise
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxstyle.cell import gram_matrix
from jaxstyle.cell.state import Held, Knobs, RegionKnobs, Targets
from jaxstyle.plan.programs import Program
from jaxstyle.plan.region_grids import cuts, part_count
from jaxstyle.vgg import layers
from jaxstyle.vgg.precision import ARITHMETIC, Arithmetic

Parts = tuple[tuple[int, ...], tuple[int, ...]]
"""The places at which rows and columns are cut into parts."""


def grams(
    features: Float[Array, "h w c"],
    maps: Float[Array, "regions h w"],
    arithmetic: Arithmetic = ARITHMETIC["f32"],
) -> Float[Array, "regions c c"]:
    """G_r of every region.

    Args:
        maps: T_r^2 / sum T_r^2; 0 for a region that the layer leaves out, whose G_r is 0.
        arithmetic: that of the products.
    """
    return _masked_products(features, maps, arithmetic)[0]


def _masked_products(
    features: Float[Array, "h w c"], maps: Float[Array, "regions h w"], arithmetic: Arithmetic
) -> tuple[Float[Array, "regions c c"], Float[Array, "positions regions_c"]]:
    """G_r of every region, and the features times each map, side by side."""
    n, count = features.shape[-1], maps.shape[0]
    flat = features.reshape(-1, n)
    own = maps.reshape(count, -1).T.astype(features.dtype)
    weighed = (own[:, :, None] * flat[:, None, :]).reshape(len(flat), count * n)
    return gram_matrix.product(weighed, flat, (0, 0), arithmetic).reshape(count, n, n), weighed


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def mask_loss(
    features: Float[Array, "h w c"],
    target: Float[Array, "regions c c"],
    maps: Float[Array, "regions h w"],
    weights: Float[Array, " regions"],
    arithmetic: Arithmetic,
) -> Float[Array, ""]:
    """E_l of regions that have `maps`, as `grams` takes them; differentiable in the features only."""
    return _mask_forward(features, target, maps, weights, arithmetic)[0]


def _mask_forward(features, target, maps, weights, arithmetic):
    products, weighed = _masked_products(features, maps, arithmetic)
    gap = products - target
    n = features.shape[-1]
    loss = jnp.sum(weights * jnp.sum(jnp.square(gap), (1, 2))) / (4.0 * n**2)
    return loss, (weighed, gap * (weights / n**2)[:, None, None], jnp.zeros((0, *features.shape[1:])))


def _mask_backward(arithmetic, residuals, g):
    weighed, gap, like = residuals
    n, width = gap.shape[-1], like.shape[1]
    gradient = gram_matrix.product(weighed, gap.reshape(-1, n), (1, 0), arithmetic)
    return (g * gradient).reshape(-1, width, n).astype(weighed.dtype), None, None, None


mask_loss.defvjp(_mask_forward, _mask_backward)


def _split(features: Float[Array, "h w c"], parts: Parts) -> list[Float[Array, "_positions c"]]:
    """The features of every part, row by row."""
    heights, widths = ([b - a for a, b in pairwise(at)] for at in parts)
    bands = lax.split(features, heights, 0)
    return [part.reshape(-1, part.shape[-1]) for band in bands for part in lax.split(band, widths, 1)]


def _joined(found: list[Float[Array, "_positions c"]], parts: Parts) -> Float[Array, "h w c"]:
    """The features of which `_split` makes `found`."""
    heights, widths = ([b - a for a, b in pairwise(at)] for at in parts)
    own, bands = iter(found), []
    for h in heights:
        bands.append(jnp.concatenate([next(own).reshape(h, w, -1) for w in widths], 1))
    return jnp.concatenate(bands, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def tile_loss(
    features: Float[Array, "h w c"],
    target: Float[Array, "regions c c"],
    means: Float[Array, "regions parts"],
    weights: Float[Array, " regions"],
    grids: tuple[str, ...],
    arithmetic: Arithmetic,
) -> Float[Array, ""]:
    """E_l of the tiles of a grid, differentiable in the features only.

    Args:
        features: F.
        target: A_r of every tile.
        means: the weights of the parts of all `grids` in every tile (`tiles.tile_means`).
        weights: lambda_r.
        grids: the grids of the program; of a single one, the parts are its tiles.
        arithmetic: that of the products.
    """
    return _tile_forward(features, target, means, weights, grids, arithmetic)[0]


def _tile_forward(features, target, means, weights, grids, arithmetic):
    n = features.shape[-1]
    own = _split(features, cuts(grids, features.shape[0], features.shape[1]))
    sums = [gram_matrix.product(part, part, (0, 0), arithmetic) for part in own]
    if len(grids) == 1 and len(sums) == len(target):
        gaps = [s / len(part) - a for s, part, a in zip(sums, own, target, strict=True)]
        loss = jnp.sum(weights * jnp.stack([jnp.sum(jnp.square(gap)) for gap in gaps]))
        slopes = [gap * (w / len(part)) for gap, w, part in zip(gaps, weights, own, strict=True)]
    else:
        gap = jnp.tensordot(means, jnp.stack(sums), 1, precision=lax.Precision.HIGHEST) - target
        loss = jnp.sum(weights * jnp.sum(jnp.square(gap), (1, 2)))
        mixed = jnp.tensordot((means * weights[:, None]).T, gap, 1, precision=lax.Precision.HIGHEST)
        slopes = list(mixed)
    return loss / (4.0 * n**2), (features, slopes)


def _tile_backward(grids, arithmetic, residuals, g):
    features, slopes = residuals
    parts = cuts(grids, features.shape[0], features.shape[1])
    scale = g / features.shape[-1] ** 2
    own = zip(_split(features, parts), slopes, strict=True)
    gradient = _joined([gram_matrix.product(part, slope, (1, 0), arithmetic) for part, slope in own], parts)
    return (scale * gradient).astype(features.dtype), None, None, None


tile_loss.defvjp(_tile_forward, _tile_backward)


def layer_loss(
    features: Float[Array, "h w c"],
    target: Float[Array, "regions c c"],
    own: Float[Array, "regions ..."],
    weights: Float[Array, " regions"],
    program: Program,
) -> Float[Array, ""]:
    """E_l of one image.

    Args:
        target: A_r of every region.
        own: the regions of the image at this layer: `maps` of `grams`, or `means` of `tile_loss`.
        weights: lambda_r; 0 for a region that this layer leaves out.
        program: tells how the regions are given, and the arithmetic.
    """
    arithmetic = ARITHMETIC[program.precision]
    if program.grids:
        return jnp.asarray(tile_loss(features, target, own, weights, program.grids, arithmetic))
    return jnp.asarray(mask_loss(features, target, own, weights, arithmetic))


def held_image(knobs: Knobs, targets: Targets, image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """`image` with the content's pixels where a cell holds them."""
    held, row = cast(Held, targets.held), cast(RegionKnobs, knobs.regions).row
    return jnp.where(jnp.asarray(held.where)[row][..., None] > 0, jnp.asarray(held.pixels)[row], image)


def free_part(knobs: Knobs, targets: Targets, change: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """A change of an image, 0 where a cell holds its pixels."""
    held, row = cast(Held, targets.held), cast(RegionKnobs, knobs.regions).row
    return change * (jnp.asarray(held.where)[row][..., None] == 0)


def held_shapes(program: Program) -> tuple[tuple[int, ...], ...]:
    """Shapes of a row of `Targets.held`, in the order of its fields."""
    shape = program.height_px, program.width_px
    return (shape, (*shape, 3)) if program.holds else ()


def map_shapes(program: Program, height: int, width: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of the `maps` of `grams` for an image of `height` x `width`, at every style tap."""
    if not program.regions:
        return ()
    found = (layers.feature_shape(tap, height, width) for tap in program.style_taps)
    return tuple((program.regions, h, w) for h, w, _ in found)


def own_shapes(program: Program) -> tuple[tuple[int, ...], ...]:
    """Shapes of a row of `Targets.regions`."""
    found = map_shapes(program, program.height_px, program.width_px)
    if not program.grids:
        return found
    return tuple((program.regions, part_count(program.grids, h, w)) for _, h, w in found)
