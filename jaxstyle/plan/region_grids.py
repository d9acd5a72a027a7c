"""Grids of tiles over an image, and over every layer of the network.

Tile i of R along an edge h has the positions floor(i h / R) to floor((i + 1) h / R). Tiles are numbered
from left to right, and from top to bottom. The *parts* of some grids are the largest rectangles that no
edge of theirs cuts: every tile of each of the grids is made of whole parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from jaxstyle.plan.cells import Cell
from jaxstyle.spec.regions import grid_shape


def edges(parts: int, extent: int) -> tuple[int, ...]:
    """The places at which a grid of `parts` tiles cuts an edge of length `extent`, both ends included."""
    return tuple(i * extent // parts for i in range(parts + 1))


def cuts(grids: Iterable[str], height: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The places at which some grids cut the rows and the columns of an image, ascending, ends included."""
    shapes = [grid_shape(kind) for kind in grids]
    rows = {at for rows, _ in shapes for at in edges(rows, height)}
    columns = {at for _, columns in shapes for at in edges(columns, width)}
    return tuple(sorted({0, height, *rows})), tuple(sorted({0, width, *columns}))


def part_count(grids: Sequence[str], height: int, width: int) -> int:
    """Number of the parts of some grids over an image."""
    rows, columns = cuts(grids, height, width)
    return (len(rows) - 1) * (len(columns) - 1)


def tile_count(cell: Cell) -> int:
    """Number of tiles of a cell's grid; 1 for a cell without regions."""
    rows, columns = grid_shape(cell.regions)
    return rows * columns


def tile_maps(kind: str, height: int, width: int) -> Float[np.ndarray, "tiles h w"]:
    """Maps of the tiles of a grid: 1 in the tile, 0 elsewhere."""
    rows, columns = grid_shape(kind)
    found = np.zeros((rows * columns, height, width), np.float32)
    for i, (top, bottom) in enumerate(pairwise(edges(rows, height))):
        for j, (left, right) in enumerate(pairwise(edges(columns, width))):
            found[i * columns + j, top:bottom, left:right] = 1.0
    return found


def tile_means(
    kind: str, grids: Sequence[str], regions: int, height: int, width: int
) -> Float[np.ndarray, "regions parts"]:
    """The matrix that turns sums over the parts of `grids` into means over the tiles of one of them.

    Rows beyond its tiles are 0, and so are those of tiles without a position.
    """
    maps = tile_maps(kind, height, width)
    rows, columns = cuts(grids, height, width)
    inside = maps[:, np.array(rows[:-1])][:, :, np.array(columns[:-1])].reshape(len(maps), -1)
    positions = maps.sum((1, 2), dtype=np.float64)[:, None]
    found = np.zeros((regions, inside.shape[1]), np.float32)
    found[: len(maps)] = np.divide(inside, positions, out=np.zeros(inside.shape), where=positions > 0)
    return found
