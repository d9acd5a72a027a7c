"""Loss curves of a run, read from its merged file, thinned out and drawn as one overview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from jaxstyle.derived import drawing
from jaxstyle.rundir.hdf5 import dataset
from jaxstyle.rundir.results_h5 import CellIndex

MAX_LINES = 60
"""The most cells for which the overview draws a line each."""
_CURVE_VALUES = 600_000
"""The approximate number of losses in the page, whatever the number of cells."""


@dataclass(frozen=True)
class Curves:
    """The loss curves, thinned out, of cells of one group of `results.h5`."""

    cells: tuple[int, ...]
    step: tuple[int, ...]
    values: Float[np.ndarray, "cells losses steps"]
    """The losses, total loss first."""


def _thinned(count: int, points: int) -> np.ndarray:
    """Up to about `points` of the indices below `count`, closer at the start, where curves fall."""
    if count <= points:
        return np.arange(count)
    even = np.linspace(0, count - 1, points // 2)
    early = np.geomspace(1, count - 1, points - points // 2)
    return np.unique(np.round(np.concatenate([even, early])).astype(int))


def read_curves(where: CellIndex, losses: Sequence[str], cells: Sequence[int]) -> list[Curves]:
    """The curves of some cells; the more cells, the fewer points."""
    points = min(120, max(16, _CURVE_VALUES // (len(losses) * max(1, len(cells)))))
    if len(cells) == len(where):
        return [group_curves(group, losses, points) for group in where.groups]
    rows: dict[int, list[int]] = {}
    for group, index in map(where.__getitem__, cells):
        rows.setdefault(where.groups.index(group), []).append(index)
    return [group_curves(where.groups[at], losses, points, own) for at, own in sorted(rows.items())]


def group_curves(
    group: h5py.Group, losses: Sequence[str], points: int, rows: Sequence[int] | None = None
) -> Curves:
    """The curves of all cells of a group, or of those in some of its rows."""
    cells, step = dataset(group, "cell")[()], dataset(group, "step")[()]
    kept = _thinned(len(step), points)
    values = np.empty((len(cells) if rows is None else len(rows), len(losses), len(kept)), np.float32)
    block = max(1, 2**22 // max(1, len(step)))
    for i, name in enumerate(losses):
        data = dataset(group, name)
        if rows is None:
            for start in range(0, len(cells), block):
                values[start : start + block, i] = data[start : start + block][:, kept]
        else:
            for at, row in enumerate(rows):  # one by one: HDF5 is slower at selecting thousands at once
                values[at, i] = data[row][kept]
    own = cells if rows is None else cells[rows]
    return Curves(tuple(own.tolist()), tuple(step[kept].tolist()), values)


def curve_codes(values: np.ndarray) -> np.ndarray:
    """Losses as 16-bit codes, 1 + 1000 (log10 + 12), or 0 for none; they are exact to 0.12 %."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(values.astype(np.float64))
    codes = np.clip(np.round((logs + 12) * 1000) + 1, 1, 65535)
    return np.where(np.isfinite(logs), codes, 0).astype("<u2")


def overview(curves: Sequence[Curves], labels: Mapping[int, str], title: str, ordered: bool) -> str:
    """The total losses of a run over its steps as an SVG file that is legible on light and dark paper.

    A few cells are drawn as a line each, many as a median with a band from 10 to 90 %.

    Args:
        labels: the group of every cell; each group has a colour.
        title: the heading of the legend, which says what the groups are.
        ordered: whether the groups are numbers in order, so that their colours form a scale.
    """
    mpl = drawing.load_matplotlib()
    from matplotlib.figure import Figure

    grey = drawing.GREYS[0]
    settings: dict[str, Any] = {
        "svg.hashsalt": "jaxstyle",
        "svg.fonttype": "path",
        "font.size": 10,
        "text.color": grey,
        "axes.labelcolor": grey,
        "axes.edgecolor": grey,
        "xtick.color": grey,
        "ytick.color": grey,
    }
    with drawing.figures(settings):
        figure = Figure(figsize=(9.5, 4.6), layout="constrained")
        axes = figure.add_subplot(yscale="log", xlabel="step", ylabel="total loss")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=grey, alpha=0.25, linewidth=0.6)
        axes.patch.set_visible(False)
        groups = list(dict.fromkeys(labels.values()))
        scale = mpl.colormaps["plasma"](np.linspace(0.25, 0.83, len(groups)))
        for index, label in enumerate(groups):
            color = tuple(scale[index]) if ordered else f"C{index % 10}"
            for part in curves:
                rows = [i for i, cell in enumerate(part.cells) if labels.get(cell) == label]
                total = part.values[rows, 0].astype(np.float64)
                total[~(total > 0)] = np.nan  # a logarithmic axis cannot show it
                total = total[np.isfinite(total).any(axis=1)]
                if len(labels) <= MAX_LINES:
                    axes.plot(part.step, total.T, color=color, linewidth=1, alpha=0.75)
                    continue
                seen = np.isfinite(total).any(axis=0) if len(total) else np.zeros(len(part.step), bool)
                if not seen.any():
                    continue
                step = np.array(part.step)[seen]
                low, middle, high = np.nanquantile(total[:, seen], (0.1, 0.5, 0.9), axis=0)
                axes.fill_between(step, low, high, color=color, alpha=0.18, linewidth=0)
                axes.plot(step, middle, color=color, linewidth=1.6)
            axes.plot([], [], color=color, linewidth=2, label=drawing.legend_text(label))
        if title:
            axes.legend(frameon=False, title=title, loc="center left", bbox_to_anchor=(1, 0.5))
        return drawing.figure_bytes(figure, "svg", transparent=True).decode()
