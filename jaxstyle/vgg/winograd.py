"""Winograd's convolution F(4x4, 3x3), and the matrices of its linear maps (Lavin & Gray 2016).

Symbols: k a 3x3 kernel, d a 6x6 tile of the input, U = G k G^T, V = B^T d B, and Y = A^T (U V) A a 4x4 tile
of the output; U V is a product over channels at each of the 36 places. Layout is (h, w, c) and HWIO.

The adjoint is the transpose of that: of 4x4 tiles e of the gradient with respect to Y, W = A e A^T, and the
6x6 tiles B (U^T W) B^T, which overlap by two positions and are added. It has as many tiles as the image,
where the correlation with the turned kernel has those of an image larger by a border.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxstyle.vgg.padding import Border

TILE = 4
"""Edge of an output tile; the edge of an input tile is two more."""
POINTS = tuple(Fraction(n, 4) for n in (0, 3, -3, 6, -6))
"""The finite points of interpolation.

# Differs from Lavin & Gray (2016): they use 0, +-1, +-2. With these, rounding of the products does half the
# harm, in float32 and in bfloat16 (tests/test_conv.py).
"""


def toom_cook(points: Sequence[Fraction]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B^T, G and A^T of F(m, 3) with m + 1 finite points and infinity (Lavin & Gray 2016, section 4.2).

    Returns:
        float64 matrices (m + 2, m + 2), (m + 2, 3) and (m, m + 2), with A^T [(G k)(B^T d)] = d * k.
    """
    m = len(points) - 1
    bt, g, at = np.zeros((m + 2, m + 2)), np.zeros((m + 2, 3)), np.zeros((m, m + 2))

    def polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
        """Coefficients of the product of (z - root), the constant one first."""
        found = [Fraction(1)]
        for root in roots:
            found = [
                a - root * b for a, b in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)
            ]
        return found

    for j, p in enumerate(points):
        others = [q for q in points if q != p]
        scale = math.prod((p - q for q in others), start=Fraction(1))
        bt[j, : m + 1] = [float(c) for c in polynomial(others)]
        g[j] = [float(p**i / scale) for i in range(3)]
        at[:, j] = [float(p**i) for i in range(m)]
    bt[-1] = [float(c) for c in polynomial(points)]
    g[-1, -1] = at[-1, -1] = 1
    return bt, g, at


BT, G, AT = toom_cook(POINTS)


CACHED_COLUMNS = 2048
"""Columns of a matrix product that stays in a core's cache, and is too small for NumPy to use several."""
ALIGNMENT = 64
"""The multiple of bytes that an array must begin at for XLA's CPU runtime to use it in place."""


def unfilled(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An array like that of `np.empty` that `jax.device_put` need not copy on a CPU.

    For the 400 MB of VGG19's transformed kernels, copying took four times as long as transforming.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)


def transformed(
    kernel: Float[np.ndarray, "3 3 i o"], dtype: DTypeLike = np.float64
) -> Float[np.ndarray, "6 6 i o"]:
    """U = G k G^T for every pair of channels, computed in float64 and rounded once, to `dtype`."""
    i, o = kernel.shape[2:]
    both = np.kron(G, G)  # rows and columns in one matrix product, without transposing
    flat, u = kernel.reshape(9, i * o), unfilled((36, i * o), dtype)
    for start in range(0, i * o, CACHED_COLUMNS):
        part = slice(start, start + CACHED_COLUMNS)
        u[:, part] = both @ flat[:, part].astype(np.float64)
    return u.reshape(6, 6, i, o)


BT_ALIKE, AT_ALIKE = (slice(1), slice(1, 5), slice(5, 6)), (slice(1), slice(1, 4))
"""Rows of B^T and of A^T that begin with the same columns.

XLA rounds the first product of a sum together with the second. Rows that are summed together therefore come
to what each would by itself only if the same columns are their first.
"""


class Tiling(NamedTuple):
    """The tiles of one axis of an image, and the linear map of each.

    A border needs no positions of its own: where an outside position shows one that lies in the same tile,
    its column of B^T is added to that one's.
    """

    tiles: int
    """Number of tiles."""
    zeros: int
    """Positions that are zero before the first of the input."""
    outputs: int
    """Positions of the output."""
    into: np.ndarray
    """B^T, (6, 6, 1), or that of every tile, (6, 6, tiles)."""


def tiling(n: int, border: Border | None = None) -> Tiling:
    """The tiling of an axis of `n` positions, with zeros or a border that does not wrap at its ends."""
    tiles = -(-n // TILE)
    into = BT[..., None] if border is None else _folded(BT, n, tiles, 1, border)
    assert into is not None, "a border that wraps is laid around the image"
    return Tiling(tiles, 1, n, into)


def bordered_tiling(n: int) -> Tiling:
    """The tiling of an axis of `n` positions whose border has been laid around it."""
    return tiling(n)._replace(zeros=0)


class Beyond(enum.Enum):
    """Fates of the two positions of overlapping tiles that lie beyond an axis."""

    DROPPED = enum.auto()
    """They are cut off, or are in the linear maps of their tiles already."""
    AT_EDGE = enum.auto()
    """They are added to the first and the last position."""
    OPPOSITE = enum.auto()
    """They are added to the last and the first position."""


class AdjointTiling(NamedTuple):
    """The tiles of one axis of a gradient, and the linear map of each to the gradient before it."""

    tiles: int
    """Number of tiles."""
    zeros: int
    """Positions that are zero before the first of the input."""
    skipped: int
    """Positions of the output before its first."""
    outputs: int
    """Positions of the output."""
    out: np.ndarray
    """`ADJOINT_OUT`, (4, 8, 1), or that of every tile, (4, 8, tiles)."""
    beyond: Beyond = Beyond.DROPPED


ADJOINT_PLACES = (1, 2, 3, 4, 0, 5)
"""The order in which the six places are summed: all four positions begin with the same ones."""
ADJOINT_ALIKE = (slice(1), slice(1, 3), slice(3, 4))
"""Positions of a tile that are sums over the same places."""
ADJOINT_OUT = np.concatenate(
    [
        BT.T[1:5, ADJOINT_PLACES],
        # A tile's last position is the first of the next one, and its first the last of the one before.
        # Each is one place alone: B^T has only one number in its first column, and one in its last.
        np.array([[BT[5, 5], 0], [0, 0], [0, 0], [0, BT[0, 0]]]),
    ],
    axis=1,
)[..., None]
"""The middle four rows of B; what a tile gets of place 5 of the one before and of place 0 of the next."""


def adjoint_tiling(n: int, border: Border) -> AdjointTiling | None:
    """The tiling of the adjoint of an axis of `n` positions; None for a border that wraps inside a tile."""
    whole = AdjointTiling(-(-n // TILE), 0, 0, n, ADJOINT_OUT)
    if border.wraps:
        return None if n % TILE else whole._replace(beyond=Beyond.OPPOSITE)
    if n % TILE == 0 and (border.before(n), border.after(n)) == (0, n - 1):
        return whole._replace(beyond=Beyond.AT_EDGE)
    for zeros in (0, 1):
        tiles = -(-(n + zeros) // TILE)
        folded = _folded(BT, n, tiles, 1 + zeros, border, taking=range(1, 5))
        if folded is not None:
            carried = np.repeat(ADJOINT_OUT[:, 6:], tiles, axis=2)
            middle = folded[ADJOINT_PLACES, 1:5].swapaxes(0, 1)
            return AdjointTiling(tiles, zeros, zeros, n, np.concatenate([middle, carried], axis=1))
    raise AssertionError(f"an axis of {n} positions has a border that reads further than two positions in")


def bordered_adjoint_tiling(n: int) -> AdjointTiling:
    """The tiling of the adjoint of an axis of `n` positions whose border has been laid around it."""
    return AdjointTiling(-(-(n + 2) // TILE), 1, 0, n + 2, ADJOINT_OUT)


def _folded(
    matrix: np.ndarray, n: int, tiles: int, start: int, border: Border, *, taking: range = range(6)
) -> np.ndarray | None:
    """`matrix` for every tile, its columns of outside positions added to those of the positions they show.

    Column k of tile t is for position `TILE t + k - start` of an axis of `n`. Columns of what is outside
    stay: their input is zero, or their output is cut off. None if a position and what it shows are not in
    one tile, or what it shows is in none of the columns `taking`.
    """
    every, columns = np.repeat(matrix[..., None], tiles, axis=2), range(matrix.shape[1])
    for outside, shown in ((-1, border.before(n)), (n, border.after(n))):
        for tile in range(tiles):
            here, there = (p + start - TILE * tile for p in (outside, shown))
            if here in columns:
                if there not in taking:
                    return None
                every[:, there, tile] += every[:, here, tile]
    return every


def _mapped(
    matrix: np.ndarray,
    alike: Iterable[slice],
    parts: Sequence[Array],
    axis: int,
    tiles_axis: int,
) -> Array:
    """The linear map of `parts` by `matrix`, whose rows become the axis `axis` of the result.

    Rows that are alike are one sum, with numbers that differ, which XLA compiles sooner than one for each.

    Args:
        matrix: (rows, parts, tiles or 1).
        alike: see `BT_ALIKE`.
        tiles_axis: the axis of the result that counts tiles.
    """
    dtype, size = parts[0].dtype, list(parts[0].shape)
    size.insert(axis, 0)
    of_parts = [n for n in range(len(size)) if n != axis]
    groups = []
    for rows in alike:
        terms = []
        for column in map(int, np.flatnonzero(matrix[rows].any(axis=(0, 2)))):
            # The functions of lax: with those of jax.numpy, a step takes a fifth longer to trace.
            c = matrix[rows, column].astype(dtype)
            size[axis] = len(c)
            if c.shape[1] == 1:
                factors = lax.broadcast_in_dim(c[:, 0], size, (axis,))
            else:
                c = c if axis < tiles_axis else c.T
                factors = lax.broadcast_in_dim(c, size, sorted((axis, tiles_axis)))
            terms.append(lax.mul(factors, lax.broadcast_in_dim(parts[column], size, of_parts)))
        groups.append(functools.reduce(lax.add, terms))
    return lax.concatenate(groups, axis)


def winograd_conv(
    x: Float[Array, "_h _w i"],
    u: Float[Array, "6 6 i o"],
    precision: lax.Precision,
    rows: Tiling,
    columns: Tiling,
) -> Float[Array, "h w o"]:
    """F(4x4, 3x3): 36 matrix products over all tiles, between linear maps of rows and of columns.

    Barriers and concatenations keep the passes apart. Without them, XLA fuses each row pass into its column
    pass and computes it again for every element that needs it: a step of 256 px takes 1.8 times as long.
    The order of axes in between is one in which a pass reads and writes near to where it has just been.
    """
    down, across = rows.tiles, columns.tiles
    ends = (
        TILE * t.tiles + 2 - t.zeros - size for t, size in zip((rows, columns), x.shape[:2], strict=True)
    )
    x = jnp.pad(x, (*zip((rows.zeros, columns.zeros), ends, strict=True), (0, 0)))
    products = _products(x, (rows.into, columns.into), (down, across), u, precision)
    y = lax.optimization_barrier(_mapped(AT[..., None], AT_ALIKE, list(products), 2, 1))
    y = _mapped(AT[..., None], AT_ALIKE, list(y), 3, 2).reshape(TILE * down, TILE * across, -1)
    return y[: rows.outputs, : columns.outputs].astype(x.dtype)


def winograd_conv_adjoint(
    g: Float[Array, "_h _w o"],
    u: Float[Array, "6 6 o i"],
    precision: lax.Precision,
    rows: AdjointTiling,
    columns: AdjointTiling,
) -> Float[Array, "h w i"]:
    """The adjoint of `winograd_conv` in its image: the same passes, transposed, in the opposite order.

    Args:
        g: the gradient with respect to the output.
        u: the transformed kernel, its channels exchanged.
        precision: of the products.
        rows: the tiling of the rows.
        columns: the tiling of the columns.
    """
    down, across = rows.tiles, columns.tiles
    ends = (TILE * t.tiles - t.zeros - size for t, size in zip((rows, columns), g.shape[:2], strict=True))
    # Without the barrier, what g is made of would be computed again for every row of the map.
    e = jnp.pad(g, (*zip((rows.zeros, columns.zeros), ends, strict=True), (0, 0)))
    e, a = lax.optimization_barrier(e), AT.T[..., None]
    products = _products(e, (a, a), (down, across), u, precision)
    y = _mapped(rows.out, ADJOINT_ALIKE, _with_carried(products, 1, rows.beyond), 2, 1)
    y = _with_carried(lax.optimization_barrier(y), 2, columns.beyond)
    y = _mapped(columns.out, ADJOINT_ALIKE, y, 3, 2).reshape(TILE * down, TILE * across, -1)
    top, left = rows.skipped, columns.skipped
    return y[top : top + rows.outputs, left : left + columns.outputs].astype(g.dtype)


def _every_fourth(x: Array, count: int, tiles: int, *, axis: int) -> list[Array]:
    """Position k of every tile along an axis, for k below `count`."""
    return [lax.slice_in_dim(x, k, k + TILE * (tiles - 1) + 1, TILE, axis=axis) for k in range(count)]


def _products(
    x: Float[Array, "_h _w i"],
    maps: tuple[np.ndarray, np.ndarray],
    tiles: tuple[int, int],
    u: Float[Array, "n n i o"],
    precision: lax.Precision,
) -> Float[Array, "n n down across o"]:
    """The product over channels at each of the 36 places, in float32, after the linear maps to them.

    Args:
        x: the tiles, side by side or overlapping.
        maps: of rows and of columns.
        tiles: their number down and across.
        u: the transformed kernel.
        precision: of the products.
    """
    (into_rows, into_columns), (down, across), n, i = maps, tiles, len(u), x.shape[2]
    v = _mapped(into_rows, BT_ALIKE, _every_fourth(x, into_rows.shape[1], down, axis=0), 1, 0)
    v = lax.optimization_barrier(v).transpose(1, 0, 2, 3)
    v = _mapped(into_columns, BT_ALIKE, _every_fourth(v, into_columns.shape[1], across, axis=2), 1, 3)
    # The barrier is before the last reshape: between it and several readers XLA would copy the array.
    v = lax.optimization_barrier(v.astype(u.dtype).reshape(n * n, down * across, i))
    products = lax.dot_general(
        v,
        u.reshape(n * n, i, u.shape[-1]),
        (((2,), (1,)), ((0,), (0,))),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    return lax.optimization_barrier(products.reshape(n, n, down, across, u.shape[-1]))


def _with_carried(places: Float[Array, "6 ..."], axis: int, beyond: Beyond) -> list[Array]:
    """The six places in their order (`ADJOINT_PLACES`), and what a tile gets of its neighbours.

    Args:
        places: the six places, by their first axis.
        axis: the axis of a place that counts tiles.
        beyond: what becomes of the positions beyond the first and the last tile.
    """
    first, last = places[0], places[5]
    n, scale = first.shape[axis], float(BT[0, 0] / BT[5, 5])

    def part(of: Array, start: int, stop: int) -> Array:
        return lax.slice_in_dim(of, start, stop, axis=axis)

    def moved(of: Array, by: int) -> Array:
        beyond = [(0, 0, 0)] * of.ndim
        beyond[axis] = (by, -by, 0)
        return lax.pad(of, np.zeros((), of.dtype), beyond)

    if beyond is Beyond.DROPPED:
        carried = [moved(last, 1), moved(first, -1)]
    else:
        ends = part(last, n - 1, n), part(first, 0, 1)
        before, after = (ends[1] * scale, ends[0] / scale) if beyond is Beyond.AT_EDGE else ends
        carried = [
            lax.concatenate([before, part(last, 0, n - 1)], axis),
            lax.concatenate([part(first, 1, n), after], axis),
        ]
    return [*(places[place] for place in ADJOINT_PLACES), *carried]
