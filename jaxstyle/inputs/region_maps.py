"""Maps of the regions of a run's pictures and styles, at the size of an image and at every layer.

T_r at a layer is the mean of region r's map over the pixels that a position of the layer stands for, a
block of 2^p x 2^p after p poolings. That bleeds less into other regions than the share of a receptive
field (docs/control.md). A region is left out of a layer where no position lies at least half in it. Grids
have no maps to average: their tiles are whole positions of every layer.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxstyle.inputs.pictures import Pictures
from jaxstyle.inputs.resize import halved_shape_of
from jaxstyle.plan import cells
from jaxstyle.plan.cells import Cell
from jaxstyle.plan.region_grids import tile_count, tile_maps
from jaxstyle.plan.stages import halved_shape
from jaxstyle.spec.regions import MASKS
from jaxstyle.spec.values import NONE
from jaxstyle.vgg import layers

LEAST_SHARE = 0.5
"""The least share of at least one position that a region of a layer has."""
Maps = Float[np.ndarray, "regions h w"]
Source = cells.Source | None
"""The image of a style, as in `Cell.style_parts`; None for the picture itself."""


class RegionMaps:
    """The maps of the regions of a run's cells.

    Args:
        pictures: the images and masks of the run.
    """

    def __init__(self, pictures: Pictures):
        self._pictures = pictures
        self._kept = functools.lru_cache(maxsize=16)(self._maps)

    def names(self, cell: Cell) -> tuple[str, ...]:
        """Names of a cell's regions, in the order of their maps; for tiles, row and column from 1."""
        if cell.regions == MASKS:
            return self._pictures.mask("content", cell.content).names
        if cell.regions == NONE:
            return ("",)
        columns = int(cell.regions.split("x")[1])
        return tuple(f"{i // columns + 1},{i % columns + 1}" for i in range(tile_count(cell)))

    def count(self, cell: Cell) -> int:
        """Number of a cell's regions; 1 without any, and where one covers everything."""
        return len(self.names(cell))

    def shares(self, cell: Cell) -> Float[np.ndarray, " regions"]:
        """lambda_r: the share of each region in the area of a cell's picture; 0 for one left alone."""
        areas = self.at_size(cell, None, 0).sum((1, 2), dtype=np.float64)
        return areas / areas.sum() * [name not in self._pictures.left_alone for name in self.names(cell)]

    def at_size(self, cell: Cell, source: Source, coarser: int, least_px: int = layers.MIN_EDGE_PX) -> Maps:
        """T_r of a cell's picture, or of an image of its style, at its size in a stage; see `at`."""
        shape = self._shape(cell, source, coarser, least_px)
        if cell.regions != MASKS:
            return tile_maps(cell.regions, *shape)
        axis, path = ("content", cell.content) if source is None else ("style", source[0])
        own, names = self._kept(axis, path, shape), self.names(cell)
        found = np.zeros((len(names), *shape), np.float32)
        for name, values in zip(self._pictures.mask(axis, path).names, own, strict=True):
            found[names.index(name)] = values
        return found

    def held(self, cell: Cell, coarser: int) -> Float[np.ndarray, "h w"]:
        """1 where a cell's picture keeps the pixels of its content in a stage, elsewhere 0."""
        maps = self.at_size(cell, None, coarser)
        own = [t for name, t in zip(self.names(cell), maps, strict=True) if name in self._pictures.held]
        return (sum(own, np.zeros(maps.shape[1:])) >= LEAST_SHARE).astype(np.float32)

    def _maps(self, axis: str, path: str, shape: tuple[int, int]) -> Maps:
        return self._pictures.mask_maps(axis, path, shape)

    def _shape(self, cell: Cell, source: Source, coarser: int, least_px: int) -> tuple[int, int]:
        """(height, width) in px of a cell's picture, or of an image of its style, in a stage."""
        if source is None:
            return halved_shape(self._pictures.shape(cell), coarser)
        path, size, *_ = source
        pixels = self._pictures.style[path, size]
        return halved_shape_of((pixels.shape[0], pixels.shape[1]), coarser, least_px)

    def at(
        self,
        cell: Cell,
        source: Source,
        tap: str,
        coarser: int = 0,
        least_px: int = layers.MIN_EDGE_PX,
    ) -> Maps:
        """T_r at a layer; 0 everywhere for a region that the layer leaves out.

        Args:
            cell: a cell with regions.
            source: see `Source`.
            tap: the layer.
            coarser: number of halvings of the stage.
            least_px: the shortest edge that the network of the cell's program can take (`resize.halved`).
        """
        shape = self._shape(cell, source, coarser, least_px)
        height, width, _ = layers.feature_shape(tap, *shape)
        if cell.regions != MASKS:
            return tile_maps(cell.regions, height, width)
        whole, block = self.at_size(cell, source, coarser, least_px), 1 << layers.tap(tap).pools
        blocks = whole[:, : height * block, : width * block].reshape(-1, height, block, width, block)
        found = blocks.mean((2, 4), dtype=np.float64).astype(np.float32)
        found[found.max((1, 2)) < LEAST_SHARE] = 0.0
        return found

    def left_out(self, cell: Cell, source: Source, taps: Sequence[str]) -> dict[str, list[str]]:
        """Names of the layers, by region, at which an image has no position of it, at full size."""
        found: dict[str, list[str]] = {}
        needed = self.at_size(cell, source, 0).max((1, 2)) > 0
        for tap in taps:
            there = self.at(cell, source, tap).max((1, 2)) > 0
            for name, has, needs in zip(self.names(cell), there, needed, strict=True):
                if needs and not has and name not in self._pictures.left_alone:
                    found.setdefault(name, []).append(tap)
        return found


def scaled(maps: Maps, regions: int) -> Maps:
    """T_r^2 / sum T_r^2 of the regions of one layer, followed by maps of 0 up to `regions`."""
    squares = np.square(maps, dtype=np.float64)
    total = squares.sum((1, 2), keepdims=True)
    found = np.zeros((regions, *maps.shape[1:]), np.float32)
    found[: len(maps)] = np.divide(squares, total, out=np.zeros(maps.shape), where=total > 0)
    return found
