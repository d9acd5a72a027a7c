"""Knobs of a cell, built in this one place."""

from __future__ import annotations

import math

import numpy as np

from jaxstyle.cell.state import Knobs, RegionKnobs
from jaxstyle.plan.cells import Cell
from jaxstyle.plan.programs import Program
from jaxstyle.spec.settings import Sweep
from jaxstyle.spec.tables import TERMS
from jaxstyle.spec.values import FLOAT32_MAX
from jaxstyle.vgg import layers

DECAY_SHARE = 0.3
"""The part of a trajectory over which a decaying learning rate falls to 0."""


def knobs_of(
    cell: Cell,
    program: Program,
    sweep: Sweep,
    *,
    content_row: int,
    style_row: int,
    extent: tuple[int, int],
    full_extent: tuple[int, int] | None = None,
    steps: int | None = None,
    regions: RegionKnobs | None = None,
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
            the style loss, and so does the weight of a term that is a sum over pixels.
        steps: length of its trajectory, if that is not the sweep's.
        regions: its regions, in a program that has some.
    """
    layer_weights = cell.layer_weights
    scale = 1.0 if full_extent is None else (max(full_extent) / max(extent)) ** 2
    decays = sweep.schedule == "decay" and full_extent is None
    length = float(steps or sweep.steps[-1])

    # Without a content alpha is 0; without a style it is 1 and beta 0.
    alpha, beta = (sweep.beta * cell.alpha_beta, sweep.beta) if cell.has_style else (1.0, 0.0)

    def number(value: float) -> np.ndarray:
        return np.asarray(value, np.float32)

    return Knobs(
        content_weight=number(min(alpha * scale, FLOAT32_MAX)),
        style_weight=number(beta),
        tv_weight=number(cell.tv_weight),
        content_layer_weights=np.array(
            [name in cell.content_taps for name in program.content_taps], np.float32
        ),
        style_layer_weights=np.array(
            [layer_weights.get(name, 0.0) for name in program.style_taps], np.float32
        ),
        learning_rate=number(cell.learning_rate),
        decay_end=number(length if decays else math.inf),
        decay_steps=number(DECAY_SHARE * length if decays else 1.0),
        seed=np.asarray(cell.seed, np.uint32),
        noise_std=number(cell.noise_std if cell.init == "noise" else 0.0),
        pixel_range=np.array((0, 255) if cell.clamp else (-np.inf, np.inf), np.float32),
        content_row=np.asarray(content_row, np.int32),
        style_row=np.asarray(style_row, np.int32),
        extent=np.asarray(extent, np.int32),
        term_weights={name: number(_term_weight(cell, name, scale)) for name in program.terms},
        regions=(regions or _no_regions(program)) if program.regions else (),
    )


def _no_regions(program: Program) -> RegionKnobs:
    """Placeholder for the regions of a cell."""
    weights = np.zeros((len(program.style_taps), program.regions), np.float32)
    return RegionKnobs(np.asarray(0, np.int32), weights)


def _term_weight(cell: Cell, name: str, scale: float) -> float:
    """A cell's weight of an optional term, times `scale` if that is a sum over pixels."""
    row = TERMS[name]
    return min(getattr(cell, row.weight) * (scale if row.sums_pixels else 1.0), FLOAT32_MAX)


def blank_knobs(program: Program) -> Knobs:
    """Placeholder knobs with the shapes and types that `program` is compiled for."""
    cell = Cell(0, "", "", "", "+".join(layers.STYLE_LAYERS), "noise", 0.0, 0.0, 0)
    return knobs_of(cell, program, Sweep(), content_row=0, style_row=0, extent=(0, 0), steps=1)
