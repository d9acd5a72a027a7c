"""Winograd's convolution F(4x4, 3x3), and the matrices of its linear maps (Lavin & Gray 2016).

Symbols: k a 3x3 kernel, d a 6x6 tile of the input, U = G k G^T, V = B^T d B, and Y = A^T (U V) A a 4x4 tile
of the output; U V is a product over channels at each of the 36 places. Layout is (h, w, c) and HWIO.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

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


def transformed(kernel: Float[np.ndarray, "3 3 i o"]) -> Float[np.ndarray, "6 6 i o"]:
    """U = G k G^T for every pair of channels, in float64 and without rounding."""
    i, o = kernel.shape[2:]
    both = np.kron(G, G)  # rows and columns in one matrix product, without transposing
    return (both @ kernel.reshape(9, i * o).astype(np.float64)).reshape(6, 6, i, o)


def _combine(coefficients: np.ndarray, parts: Sequence[Array]) -> Array:
    """The sum of `parts`, each times its coefficient, skipping zeros and multiplications by one."""
    terms = []
    for c, part in zip(coefficients, parts, strict=True):
        if c:
            terms.append(part if c == 1 else -part if c == -1 else float(c) * part)
    return sum(terms[1:], start=terms[0])


def winograd_conv(
    x: Float[Array, "_h _w i"],
    u: Float[Array, "6 6 i o"],
    precision: lax.Precision,
    *,
    has_border: bool = False,
) -> Float[Array, "h w o"]:
    """F(4x4, 3x3): 36 matrix products over all tiles, between linear maps of rows and of columns.

    The barriers keep the passes apart. Without them, XLA fuses each row pass into its column pass and
    computes it again for every element that needs it, which was measured to be 3.4 times slower than
    PyTorch.

    Args:
        has_border: whether the positions around the image are already there; otherwise they are zeros.
    """
    (h, w, i), o, n = x.shape, u.shape[-1], TILE + 2
    first = 0 if has_border else 1
    h, w = h - 2 * has_border, w - 2 * has_border
    down, across = -(-h // TILE), -(-w // TILE)
    ends = TILE * down + 2 - first - x.shape[0], TILE * across + 2 - first - x.shape[1]
    x = jnp.pad(x, ((first, ends[0]), (first, ends[1]), (0, 0)))
    d = [lax.slice_in_dim(x, k, k + TILE * (down - 1) + 1, TILE, axis=0) for k in range(n)]
    v = lax.optimization_barrier(jnp.stack([_combine(row, d) for row in BT]))
    d = [lax.slice_in_dim(v, k, k + TILE * (across - 1) + 1, TILE, axis=2) for k in range(n)]
    v = jnp.stack([_combine(row, d) for row in BT], axis=1).astype(u.dtype)
    v = lax.optimization_barrier(v.reshape(n * n, down * across, i))
    products = lax.dot_general(
        v,
        u.reshape(n * n, i, o),
        (((2,), (1,)), ((0,), (0,))),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    products = lax.optimization_barrier(products).reshape(n, n, down, across, o)
    y = lax.optimization_barrier(jnp.stack([_combine(row, list(products)) for row in AT]))
    y = jnp.stack([_combine(row, [y[:, k] for k in range(n)]) for row in AT], axis=3)
    return y.transpose(1, 0, 2, 3, 4).reshape(TILE * down, TILE * across, o)[:h, :w].astype(x.dtype)
