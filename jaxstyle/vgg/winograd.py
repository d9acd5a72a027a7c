"""Winograd's convolution F(4x4, 3x3), and the matrices of its linear maps (Lavin & Gray 2016).

Symbols: k a 3x3 kernel, d a 6x6 tile of the input, U = G k G^T, V = B^T d B, and Y = A^T (U V) A a 4x4 tile
of the output; U V is a product over channels at each of the 36 places. Layout is (h, w, c) and HWIO.
"""

from __future__ import annotations

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
    """The tiles of one axis of an image, and the linear maps of each.

    A border needs no positions of its own: where an outside position shows one that lies in the same tile,
    its column of B^T is added to that one's, and in the adjoint its row of A^T.
    """

    tiles: int
    """Number of tiles."""
    zeros: int
    """Positions that are zero before the first of the input."""
    skipped: int
    """Positions of the output before its first."""
    outputs: int
    """Positions of the output."""
    into: np.ndarray
    """B^T, (6, 6, 1), or that of every tile, (6, 6, tiles)."""
    out: np.ndarray
    """A^T, (4, 6, 1), or that of every tile, (4, 6, tiles)."""


def tiling(n: int, border: Border | None = None) -> Tiling:
    """The tiling of an axis of `n` positions, with zeros or a border that does not wrap at its ends."""
    tiles = -(-n // TILE)
    into = BT[..., None] if border is None else _folded(BT, n, tiles, 1, border)
    assert into is not None, "a border that wraps is laid around the image"
    return Tiling(tiles, 1, 0, n, into, AT[..., None])


def bordered_tiling(n: int) -> Tiling:
    """The tiling of an axis of `n` positions whose border has been laid around it."""
    return tiling(n)._replace(zeros=0)


def adjoint_tiling(n: int, border: Border) -> Tiling | None:
    """The tiling of the adjoint; None where outside positions and what they show are not in one tile."""
    for skipped in (1, 2):
        tiles = -(-(n + skipped + 1) // TILE)
        out = _folded(AT.T, n, tiles, skipped, border)
        if out is not None:
            return Tiling(tiles, 1 + skipped, skipped, n, BT[..., None], out.transpose(1, 0, 2))
    return None


def _folded(matrix: np.ndarray, n: int, tiles: int, start: int, border: Border) -> np.ndarray | None:
    """`matrix` for every tile, its columns of outside positions added to those of the positions they show.

    Column k of tile t is for position `TILE t + k - start` of an axis of `n`. Columns of what is outside
    stay: their input is zero, or their output is cut off. None if a position and what it shows are not in
    one tile.
    """
    every, columns = np.repeat(matrix[..., None], tiles, axis=2), range(matrix.shape[1])
    for outside, shown in ((-1, border.before(n)), (n, border.after(n))):
        for tile in range(tiles):
            here, there = (p + start - TILE * tile for p in (outside, shown))
            if here in columns:
                if there not in columns:
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
    i, o, n = x.shape[2], u.shape[-1], TILE + 2
    down, across = rows.tiles, columns.tiles
    ends = (
        TILE * t.tiles + 2 - t.zeros - size for t, size in zip((rows, columns), x.shape[:2], strict=True)
    )
    x = jnp.pad(x, (*zip((rows.zeros, columns.zeros), ends, strict=True), (0, 0)))
    d = [lax.slice_in_dim(x, k, k + TILE * (down - 1) + 1, TILE, axis=0) for k in range(n)]
    v = lax.optimization_barrier(_mapped(rows.into, BT_ALIKE, d, 1, 0)).transpose(1, 0, 2, 3)
    d = [lax.slice_in_dim(v, k, k + TILE * (across - 1) + 1, TILE, axis=2) for k in range(n)]
    v = _mapped(columns.into, BT_ALIKE, d, 1, 3).astype(u.dtype)
    v = lax.optimization_barrier(v.reshape(n * n, down * across, i))
    products = lax.dot_general(
        v,
        u.reshape(n * n, i, o),
        (((2,), (1,)), ((0,), (0,))),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    products = lax.optimization_barrier(products).reshape(n, n, down, across, o)
    y = lax.optimization_barrier(_mapped(rows.out, AT_ALIKE, list(products), 2, 1))
    y = _mapped(columns.out, AT_ALIKE, list(y), 3, 2).reshape(TILE * down, TILE * across, o)
    top, left = rows.skipped, columns.skipped
    return y[top : top + rows.outputs, left : left + columns.outputs].astype(x.dtype)
