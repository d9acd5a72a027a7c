"""The inputs of a cell's computation, and its state from step to step.

`Knobs` vary between cells of one program, `Targets` are made of pixels, `State` goes from step to step,
`Info` is only reported. All are NamedTuples of arrays without a batch axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

from jaxstyle.cell import solvers
from jaxstyle.spec.tables import TERMS, optional_terms

Value = Array | np.ndarray
"""An array on its way to the device, or already there."""


class RegionKnobs(NamedTuple):
    """The values that tell the regions of a cell."""

    row: Int[Value, ""]
    """The cell's row in `Targets.regions`."""
    weights: Float[Value, "style_taps regions"]
    """lambda_r of every region; 0 at layers that leave it out, and for regions that the cell has not."""


class Knobs(NamedTuple):
    """The values that may differ between the cells of one program; made only by `knobs.knobs_of`."""

    content_weight: Float[Value, ""]
    """alpha."""
    style_weight: Float[Value, ""]
    """beta."""
    tv_weight: Float[Value, ""]
    content_layer_weights: Float[Value, " content_taps"]
    """1 at the cell's content layer, 0 elsewhere, and everywhere where it has no content."""
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
    """The cell's row in `Targets.content`; any where it has no content, for its weights are then 0."""
    style_row: Int[Value, ""]
    """The cell's row in `Targets.style`; any where it has no style."""
    extent: Int[Value, " 2"]
    """(height, width) in px of the image, which may be smaller than the program's canvas."""
    term_weights: dict[str, Float[Value, ""]]
    """The weight of every optional loss term, by name."""
    regions: RegionKnobs | tuple[()] = ()
    """Its regions; nothing in a program without any."""


class Held(NamedTuple):
    """Pixels of pictures that keep those of the content, a row for every row of `Targets.regions`."""

    where: Float[Value, "rows h w"]
    """1 where a pixel is held, elsewhere 0."""
    pixels: Float[Value, "rows h w 3"]
    """The content, RGB, 0 to 255."""


class Targets(NamedTuple):
    """The features that the images of a launch are compared with: a row per distinct content and style."""

    content: tuple[Float[Value, "rows _h _w _c"], ...]
    """P at every content tap."""
    style: tuple[Any, ...]
    """The values that the style loss keeps of a style at every style tap: for Gram matrices A, divided by
    its own pixel count; for others a tuple of arrays. Every array has a row for every style."""
    terms: dict[str, Any] = {}  # noqa: RUF012 - never modified
    """The values that each optional loss term keeps, by name: a pytree of arrays with a row for every
    content or every style."""
    held: Held | tuple[()] = ()
    """The pixels that keep those of the content; nothing in a program without any."""
    regions: tuple[Float[Value, "rows regions ..."], ...] = ()
    """The regions of the generated pictures at every style tap, as `regions.grams` takes them, with a row
    for every division into regions; nothing in a program without any. With regions, `style` has an A of
    each."""


class View(NamedTuple):
    """An image as an optional loss term sees it."""

    image: Float[Array, "h w 3"]
    """RGB, 0 to 255; a picture that is being optimised may leave that range."""
    features: dict[str, Float[Array, "_h _w _c"]]
    """Activations at the term's own taps, by layer, float32."""
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


def info_curves(info: Info) -> dict[str, Any]:
    """An `Info` of any arrays as curves, keyed by the names that tables use."""
    fixed = info._asdict()
    terms = {TERMS[name].loss_name: values for name, values in fixed.pop("terms").items()}
    return fixed | terms


def info_from_curves(values: Mapping[str, Any]) -> Info:
    """The `Info` that `info_curves` turned into `values`."""
    fixed = [name for name in Info._fields if name != "terms"]
    terms = {row.name: values[row.loss_name] for row in optional_terms() if row.loss_name in values}
    return Info(**{name: values[name] for name in fixed}, terms=terms)
