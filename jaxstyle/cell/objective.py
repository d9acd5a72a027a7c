"""The loss of one image, L, and what it keeps of the images that it is held against.

An image is RGB, 0 to 255, (h, w, 3). Symbols are those of `losses`: P at a content layer, A at a style
layer, M positions, E_l the loss of style layer l and w_l its weight, alpha and beta the weights of the
content and the style loss, TV total variation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxstyle.cell import losses, regions
from jaxstyle.cell.state import Info, Knobs, Targets, Value, View
from jaxstyle.inputs.preprocess import to_network
from jaxstyle.plan.programs import Program
from jaxstyle.spec import tables
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.plugin_blame import blamed
from jaxstyle.spec.tables import STYLE_LOSSES, TERMS, LossTerm
from jaxstyle.vgg import layers
from jaxstyle.vgg.network import Extent, Features, Params, inside_mask
from jaxstyle.vgg.precision import ARITHMETIC


def total_loss(
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
    layer_loss = tables.function(STYLE_LOSSES[program.style_loss].loss)
    content = _stacked(
        [
            losses.content_loss(found[name], table[knobs.content_row])
            for name, table in zip(program.content_taps, targets.content, strict=True)
        ]
    )
    if program.regions:
        style = _stacked(_region_losses(program, knobs, targets, found))
    else:
        style = _stacked(
            [
                layer_loss(found[name], _row(kept, knobs.style_row), _positions(extent, name), arithmetic)
                for name, kept in zip(program.style_taps, targets.style, strict=True)
            ]
        )
    loss_content = jnp.sum(knobs.content_layer_weights * content)
    loss_style = jnp.sum(knobs.style_layer_weights * style)
    inside = None if extent is None else inside_mask(image.shape[:2], extent)
    total = jnp.asarray(
        knobs.content_weight * loss_content
        + knobs.style_weight * loss_style
        + knobs.tv_weight * losses.total_variation(image, inside, program.wraps)
    )
    terms = {}
    for name in program.terms:
        row = TERMS[name]
        at = knobs.content_row if row.of == "content" else knobs.style_row
        kept = _row(targets.terms[name], at)
        weight = knobs.term_weights[name]
        view = jax.tree.map(functools.partial(_gated, weight), _view(row, image, found, inside))
        terms[name] = _term_loss(row, view, kept)
        total = total + jnp.where(weight > 0, weight * terms[name], 0.0)
    return total, Info(total, loss_content, loss_style, style, terms)


def _region_losses(
    program: Program, knobs: Knobs, targets: Targets, found: dict[str, Array]
) -> list[Float[Array, ""]]:
    """E_l of an image with regions, at every style tap."""
    about: Any = knobs.regions
    kept = zip(program.style_taps, targets.style, targets.regions, about.weights, strict=True)
    return [
        regions.layer_loss(
            found[tap], style[knobs.style_row], jnp.asarray(own)[about.row], weights, program
        )
        for tap, style, own, weights in kept
    ]


def _stacked(values: Sequence[Array]) -> Float[Array, " taps"]:
    """Losses as one array; there are none where no cell has a content, or a style."""
    return jnp.stack(values) if values else jnp.zeros(0, jnp.float32)


def _row(tables: Any, at: Int[Value, ""]) -> Any:
    """One row of every array of a tree."""
    return jax.tree.map(lambda table: table[at], tables)


def _positions(extent: Extent | None, name: str) -> Float[Array, ""] | None:
    """M, the number of positions at a layer, for an image on a canvas; None without a canvas."""
    if extent is None:
        return None
    height, width = jnp.asarray(extent) >> layers.tap(name).pools
    return (height * width).astype(jnp.float32)


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
    with blamed(row.origin):
        given = tables.function(row.loss)(view, kept)
    if given is None:
        raise JaxstyleError(row.where, "its loss returns None; end the function with a return statement")
    with blamed(row.origin):
        value = jnp.asarray(given)
    if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
        shape = list(value.shape) if value.shape else ""
        raise JaxstyleError(row.where, f"its loss is {value.dtype}{shape}; it must be one float")
    return value.astype(jnp.float32)


def target_rows(
    features: Features,
    params: Params,
    program: Program,
    image: Float[Array, "h w 3"],
    extent: Extent | None = None,
    role: str | None = None,
    maps: Sequence[Float[Array, "regions _h _w"]] = (),
) -> Targets:
    """Targets from one image, without an axis of rows: P at the content taps, and at the style taps what
    the style loss keeps: for Gram matrices, A.

    Args:
        extent: (height, width) in px of the image, if it lies on a canvas.
        role: `content` or `style`, to leave out the optional terms of the other role; None for both.
        maps: of a program with regions, those of this image at the style taps, as `regions.grams` takes
            them; without them nothing is kept at style taps.
    """
    arithmetic = ARITHMETIC[program.precision]
    found = features(params, to_network(image), extent)
    inside = None if extent is None else inside_mask(image.shape[:2], extent)
    keep = tables.function(STYLE_LOSSES[program.style_loss].keep)
    if program.regions:
        of_taps = zip(program.style_taps, maps, strict=True) if maps else ()
        style = [regions.grams(found[name], own, arithmetic) for name, own in of_taps]
    else:
        style = [keep(found[name], _positions(extent, name), arithmetic) for name in program.style_taps]
    return Targets(
        content=tuple(found[name] for name in program.content_taps),
        style=tuple(style),
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
    with blamed(row.origin):
        return jax.tree.map(jnp.asarray, tables.function(row.keep)(_view(row, image, found, inside)))
