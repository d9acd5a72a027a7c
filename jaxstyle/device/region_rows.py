"""Regions of cells as programs take them: maps of styles, rows of pictures, weights.

All are NumPy arrays, for one stage of a program with regions. Symbols are those of `cell.regions`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxstyle.cell.state import Held, RegionKnobs
from jaxstyle.inputs.region_maps import RegionMaps, Source, scaled
from jaxstyle.plan.cells import Cell
from jaxstyle.plan.programs import Program
from jaxstyle.plan.region_grids import tile_means
from jaxstyle.spec.regions import MASKS
from jaxstyle.vgg import layers


def style_key(cell: Cell) -> Any:
    """Key of a cell's style with its regions: cells for which it is equal have the same targets."""
    return cell.style_source, cell.regions, cell.content if cell.regions == MASKS else ""


def picture_key(cell: Cell) -> Any:
    """Key of the regions of a cell's picture, among cells of one shape."""
    return cell.regions, cell.content if cell.regions == MASKS else ""


def image_maps(
    maps: RegionMaps, cell: Cell, source: Source, program: Program, coarser: int
) -> tuple[Float[np.ndarray, "regions _h _w"], ...]:
    """T_r^2 / sum T_r^2 of an image at every style tap; nothing in a program without regions."""
    if not program.regions:
        return ()
    least_px = layers.least_edge_px(program.taps)
    return tuple(
        scaled(maps.at(cell, source, tap, coarser, least_px), program.regions) for tap in program.style_taps
    )


def picture_rows(
    maps: RegionMaps, cell: Cell, program: Program, coarser: int
) -> tuple[Float[np.ndarray, "regions ..."], ...]:
    """A cell's row of `Targets.regions`."""
    if not program.grids:
        return image_maps(maps, cell, None, program, coarser)
    stage = program.stage(coarser)
    shapes = [layers.feature_shape(tap, stage.height_px, stage.width_px)[:2] for tap in program.style_taps]
    return tuple(tile_means(cell.regions, program.grids, program.regions, *shape) for shape in shapes)


def held_rows(maps: RegionMaps, cell: Cell, coarser: int, content: UInt8[np.ndarray, "h w 3"]) -> Held:
    """A cell's row of `Targets.held`, from its content in this stage."""
    return Held(maps.held(cell, coarser), content.astype(np.float32))


def region_knobs(
    maps: RegionMaps, cell: Cell, program: Program, coarser: int, row: int
) -> RegionKnobs | None:
    """The weights of a cell's regions, and the row of its picture's; None in a program without regions.

    A layer leaves a region out that has no position in the picture, or in no image of the style.
    """
    if not program.regions:
        return None
    shares, least_px = maps.shares(cell), layers.least_edge_px(program.taps)
    weights = np.zeros((len(program.style_taps), program.regions), np.float32)
    for own, tap in zip(weights, program.style_taps, strict=True):
        there, *in_style = (
            maps.at(cell, source, tap, coarser, least_px).any((1, 2))
            for source in (None, *(source for source, _ in cell.style_parts))
        )
        own[: len(shares)] = shares * there * np.any(in_style, axis=0)
    return RegionKnobs(np.asarray(row, np.int32), weights)
