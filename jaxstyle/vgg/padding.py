"""Kinds of padding, as borders: which positions of an image or of a feature map stand beyond its edges.

A 3x3 convolution reads one position beyond each edge. Along an axis of n positions a border names the one
that stands before the first and the one that stands after the last. `None` in place of a border means
zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Border(NamedTuple):
    """The positions that stand beyond both ends of an axis, as functions of its length."""

    before: Callable[[int], int]
    """The position that stands before the first."""
    after: Callable[[int], int]
    """The position that stands after the last."""
    wraps: bool = False
    """Whether the axis goes on at its other end."""


REFLECT = Border(lambda n: min(1, n - 1), lambda n: max(n - 2, 0))
"""The neighbour of the edge, as in a mirror; of a single position, that position, as NumPy has it."""
REPLICATE = Border(lambda n: 0, lambda n: n - 1)
"""The edge itself."""
CIRCULAR = Border(lambda n: n - 1, lambda n: 0, wraps=True)
"""The opposite edge."""
