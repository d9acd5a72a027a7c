"""The variance of losses and pictures, decomposed into that of axes and of the seed."""

from __future__ import annotations

from collections.abc import Sequence

import h5py
import numpy as np

from jaxstyle.plan.cells import Cell
from jaxstyle.rundir.hdf5 import dataset, rows_in_order
from jaxstyle.study import components
from jaxstyle.study.components import Component, Design
from jaxstyle.study.model import PICTURE, Decomposition, Decompositions, Spread, identity, setting_axes

STRIPE_BYTES = 64 * 2**20
"""Memory that a stripe of all pictures takes at most, as float64."""


def decompose(spreads: Sequence[Spread], terms: Sequence[str], file: h5py.File) -> Decompositions | None:
    """Variance components over the settings and seeds of a study, or None where nothing is crossed.

    Losses are decomposed by their natural logarithm, for those of different styles differ by factors.
    Pictures are decomposed pixel by pixel, and the components averaged, if all have one shape.
    """
    others = setting_axes(spread.setting.cell for spread in spreads)
    axes = (*others, "seed")
    rows = {
        (*identity(spread.setting.cell, others), seed): (spread, i)
        for spread in spreads
        for i, seed in enumerate(spread.setting.seeds)
    }
    design = components.balanced(axes, rows)
    if not design.names or design.names[-1] != "seed":
        return None
    common = next(s.setting.cell for s in spreads if _is_kept(s.setting.cell, axes, design))
    places = [rows[_full(common, axes, design, place)] for place in design.places()]
    levels = tuple(len(found) for found in design.levels)
    names = design.names[:-1]
    values = np.stack([spread.terms[-1][i] for spread, i in places])
    found, left_out = [], []
    for column, term in enumerate(terms):
        y = values[:, column]
        if not np.all(y > 0):  # false for NaN too
            left_out.append(term)
            continue
        parts = components.variance_components(np.log(y).reshape(levels), names)
        found.append(Decomposition(term, parts, components.shares(parts)))
    if len(shapes := {spread.setting.shape for spread, _ in places}) == 1:
        images = dataset(file, f"{shapes.pop()}/image")
        parts = _picture_components(images, [s.setting.rows[i] for s, i in places], levels, names)
        found.append(Decomposition(PICTURE, parts, components.shares(parts)))
    return Decompositions(design, len(places), found, tuple(left_out))


def _is_kept(cell: Cell, axes: Sequence[str], design: Design) -> bool:
    """Whether a setting has no level that was dropped from a design."""
    values = dict(zip(axes, identity(cell, axes), strict=True))
    for name, level in design.dropped:
        own = [values[axis] for axis in name.split("+")]
        if name != "seed" and level == (tuple(own) if len(own) > 1 else own[0]):
            return False
    return True


def _full(common: Cell, axes: Sequence[str], design: Design, place: tuple) -> tuple:
    """A place of a design as a value on every axis; axes that the design lacks have that of `common`."""
    values = dict(zip(axes, identity(common, axes), strict=True))
    for name, level in zip(design.names, place, strict=True):
        names = name.split("+")
        values |= dict(zip(names, level if len(names) > 1 else (level,), strict=True))
    return tuple(values.values())


def _picture_components(
    images: h5py.Dataset, rows: Sequence[int], levels: tuple[int, ...], names: Sequence[str]
) -> list[Component]:
    """Components of every pixel and channel, averaged; only a stripe of the pictures is in memory."""
    _, _, height, width, _ = images.shape
    stripe = max(1, STRIPE_BYTES // (len(rows) * width * 3 * 8))
    parts = []
    for y in range(0, height, stripe):
        values = rows_in_order(images, rows, -1, slice(y, y + stripe)).astype(np.float64)
        parts.append(components.variance_components(values.reshape(*levels, *values.shape[1:]), names))
    whole = []
    for same in zip(*parts, strict=True):
        squares = np.concatenate([np.ravel(c.sum_of_squares) for c in same])
        variance = np.concatenate([np.ravel(c.variance) for c in same])
        first = same[0]
        whole.append(Component(first.name, first.df, np.mean(squares), np.mean(variance)))
    return whole
