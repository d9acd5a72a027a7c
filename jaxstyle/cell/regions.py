"""The style loss of regions: each has a Gram matrix and a target of its own (Gatys et al. 2017, section 4).

Symbols are those of `losses`; T_r is the map of region r at a layer, (h, w), 0 to 1:

    G_r = sum T_r^2 F^T F / sum T_r^2,   A_r likewise of the style image and its own regions,
    E_l = sum_r lambda_r sum (G_r - A_r)^2 / (4 N^2),   lambda_r = sum T_r / sum_s sum T_s at image size.

# Differs from Gatys et al. (2017): they divide (T_r F)^T (T_r F) by M and scale T_r so that its mean square
# is 1, which is the same G_r, and weigh every region as the user says.

Maps that overlap or have soft edges take a Gram matrix of the whole layer each. The tiles of grids do not
overlap: the products of each part of a layer that no grid of the program cuts are summed once, and the
Gram matrix of a tile is the mean over its parts. So all tiles together take the products of one Gram
matrix, and the tiles of a cell are data, the weights of the parts.
"""

from __future__ import annotations

from itertools import pairwise

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxstyle.cell import losses
from jaxstyle.plan.programs import Program
from jaxstyle.plan.tiles import cuts, part_count
from jaxstyle.vgg import layers
from jaxstyle.vgg.convolution import ARITHMETIC, Arithmetic


def grams(
    features: Float[Array, "h w c"],
    maps: Float[Array, "regions h w"],
    arithmetic: Arithmetic = ARITHMETIC["f32"],
) -> Float[Array, "regions c c"]:
    """G_r of every region.

    Args:
        maps: T_r / sqrt(sum T_r^2); 0 for a region that the layer leaves out, whose G_r is 0.
        arithmetic: that of the products.
    """
    one = jnp.float32(1.0)
    own = [losses.gram(features * t[..., None].astype(features.dtype), one, arithmetic) for t in maps]
    return jnp.stack([jnp.asarray(g) for g in own])


def tile_grams(
    features: Float[Array, "h w c"],
    means: Float[Array, "regions parts"],
    grids: tuple[str, ...],
    arithmetic: Arithmetic = ARITHMETIC["f32"],
) -> Float[Array, "regions c c"]:
    """G_r of every tile of a grid.

    Args:
        means: the weights of the parts of all `grids` in every tile (`tiles.tile_means`).
        grids: the grids of the program.
        arithmetic: that of the products.
    """
    rows, columns = cuts(grids, features.shape[0], features.shape[1])
    heights, widths = ([b - a for a, b in pairwise(at)] for at in (rows, columns))
    parts = [part for band in lax.split(features, heights, 0) for part in lax.split(band, widths, 1)]
    sums = jnp.stack([jnp.asarray(losses.gram(part, jnp.float32(1.0), arithmetic)) for part in parts])
    return jnp.tensordot(means, sums, 1, precision=lax.Precision.HIGHEST)


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
        own: the regions of the image at this layer: `maps` of `grams`, or `means` of `tile_grams`.
        weights: lambda_r; 0 for a region that this layer leaves out.
        program: tells how the regions are given, and the arithmetic.
    """
    arithmetic = ARITHMETIC[program.precision]
    if program.grids:
        g = tile_grams(features, own, program.grids, arithmetic)
    else:
        g = grams(features, own, arithmetic)
    of_each = jnp.sum(jnp.square(g - target), (1, 2)) / (4.0 * features.shape[-1] ** 2)
    return jnp.sum(weights * of_each)


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
