"""A seed study in pictures: maps of where seeds differ, curves, and bars, by their path in the run.

The same study gives the same bytes. Figures have no background and grey text, so that they can stand on a
light and on a dark page. matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxstyle.derived import drawing
from jaxstyle.study import stats
from jaxstyle.study.components import INTERACTIONS, RESIDUAL, SEED
from jaxstyle.study.model import (
    Spread,
    Study,
    Summary,
    axis_title,
    identity,
    measure_title,
    setting_axes,
    term_title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PER_FIGURE = 6
"""Settings in one figure."""
ACROSS = 3
"""Panels of losses side by side."""
INK = drawing.GREYS[1]
"""Colour of text in figures; the page shows it darker on light paper and lighter on dark."""
COLOURS = ("#2f8fd0", "#dc7530", "#35a06a", "#a866d0", "#bd9a1b", "#d0506a")
SPREAD_MAP = "magma"


def _drawing() -> contextlib.AbstractContextManager[None]:
    settings: Any = {
        "font.family": drawing.FIGURE_FONT,
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "axes.titlecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": INK,
        "grid.alpha": 0.22,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "svg.hashsalt": "jaxstyle",
        "axes.unicode_minus": True,
    }
    return drawing.figures(settings)


def _saved(figure: Figure, kind: str) -> bytes:
    return drawing.figure_bytes(figure, kind, dpi=144)


def pages(study: Study) -> list[list[Spread]]:
    """The spreads in groups that fit a figure; a family stands together where it can."""
    families: dict[tuple, list[Spread]] = {}
    axes = setting_axes(spread.setting.cell for spread in study.spreads)
    for spread in study.spreads:
        key = identity(spread.setting.cell, [a for a in axes if a != "alpha_beta"])
        families.setdefault((*key, spread.setting.shape), []).append(spread)
    found: list[list[Spread]] = [[]]
    for members in families.values():
        for start in range(0, len(members), PER_FIGURE):
            part = members[start : start + PER_FIGURE]
            alike = not found[-1] or found[-1][0].mean_picture.shape == part[0].mean_picture.shape
            if len(found[-1]) + len(part) > PER_FIGURE or not alike:
                found.append([])
            found[-1] += part
    return [page for page in found if page]


OURS = re.compile(r"(spread|curves|convergence)(-\d+)?\.(png|svg)|(alpha-beta|components)\.svg")
"""Names of the files in `maps/` that a study writes."""


def _numbered(name: str, kind: str, index: int, count: int) -> str:
    return f"maps/{name}.{kind}" if count == 1 else f"maps/{name}-{index + 1:02d}.{kind}"


def draw_figures(study: Study, numbers: Sequence[Summary]) -> dict[str, bytes]:
    """The figures of a study, by their path in the run."""
    drawn: dict[str, bytes] = {}
    split = pages(study)
    # One scale for all maps; the brightest pixels of one map must not darken all the others.
    top = float(np.max([np.quantile(spread.sd_map, 0.995) for spread in study.spreads])) or 1.0
    with _drawing():
        for i, spreads in enumerate(split):
            drawn[_numbered("spread", "png", i, len(split))] = _saved(_maps(spreads, top), "png")
            drawn[_numbered("curves", "svg", i, len(split))] = _saved(_curves(study, spreads), "svg")
            own = [numbers[spread.setting.index] for spread in spreads]
            figure = _convergence(study, spreads, own)
            drawn[_numbered("convergence", "svg", i, len(split))] = _saved(figure, "svg")
        if study.families:
            drawn["maps/alpha-beta.svg"] = _saved(_ratios(study), "svg")
        if study.decompositions is not None:
            drawn["maps/components.svg"] = _saved(_components(study), "svg")
    return drawn


def _wrapped(text: str) -> str:
    return text.replace(", ", "\n")


def _maps(spreads: Sequence[Spread], top: float) -> Figure:
    """Columns of settings: one picture, the mean over seeds, the sd of the pixels and of their low-pass."""
    from matplotlib.figure import Figure

    height, width = spreads[0].mean_picture.shape[:2]
    across = 1.75
    down = across * height / width
    lines = max(s.setting.label.count(", ") + 1 for s in spreads)
    figure = Figure((across * len(spreads) + 2.0, 4 * (down + 0.06) + 0.17 * lines + 0.2))
    total_w, total_h = figure.get_size_inches()
    names = ["one seed", "mean", "sd", "sd, low-pass"]
    left, heading = 0.95, 0.17 * lines + 0.1
    image = None
    for j, spread in enumerate(spreads):
        shown = (spread.example, np.rint(spread.mean_picture).astype(np.uint8), *spread.sd_map)
        for i, values in enumerate(shown):
            x, y = left + j * (across + 0.06), total_h - heading - (i + 1) * (down + 0.06)
            axes = figure.add_axes((x / total_w, y / total_h, across / total_w, down / total_h))
            image = axes.imshow(
                values, cmap=SPREAD_MAP, vmin=0, vmax=top, interpolation="nearest", aspect="auto"
            )
            axes.set_axis_off()
            if i == 0:
                axes.set_title(_wrapped(spread.setting.label), pad=4)
            if j == 0:
                axes.text(-0.05, 0.5, names[i], transform=axes.transAxes, ha="right", va="center")
    x, y = left + len(spreads) * (across + 0.06) + 0.05, total_h - heading - 4 * (down + 0.06)
    bar = figure.add_axes((x / total_w, y / total_h, 0.12 / total_w, (2 * down + 0.06) / total_h))
    assert image is not None
    figure.colorbar(image, cax=bar, label="grey levels", extend="max")
    bar.grid(False)
    return figure


def _curves(study: Study, spreads: Sequence[Spread]) -> Figure:
    """Median and quantile bands of the losses over the steps, without E_l."""
    from matplotlib.figure import Figure

    losses = tuple(name for name in study.terms if name in study.record.losses)
    down = -(-len(losses) // ACROSS)
    height = 3.2 * down + 0.2 * math.ceil(len(spreads) / 3)
    figure = Figure((9.2, height), layout="constrained")
    panels = figure.subplots(down, ACROSS, sharex=True).ravel()
    for empty in panels[len(losses) :]:
        empty.set_axis_off()
    for k, name in enumerate(losses):
        axes: Axes = panels[k]
        for spread, colour in zip(spreads, COLOURS, strict=False):
            steps = np.array(spread.steps)
            shown = steps >= 1
            low, first, middle, third, high = stats.quantile_curves(spread.curves[..., k])
            for a, b, alpha in ((low, high, 0.15), (first, third, 0.25)):
                axes.fill_between(steps[shown], a[shown], b[shown], color=colour, alpha=alpha, lw=0)
            axes.plot(steps[shown], middle[shown], color=colour, lw=1.4, label=_named(spread))
        axes.set(title=term_title(name), xscale="log")
        if any(
            (spread.curves[..., k] > 0).any() for spread in spreads
        ):  # none where no setting has the loss
            axes.set(yscale="log")
        axes.tick_params(labelbottom=True)  # also where a panel below is left out
        _step_axis(axes)
    _legend(figure, panels[0])
    return figure


def _named(spread: Spread) -> str:
    return drawing.legend_text(spread.setting.label)


def _legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if any(labels):
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _step_axis(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")


def _convergence(study: Study, spreads: Sequence[Spread], own: Sequence[Summary]) -> Figure:
    """The CV of the total loss over the steps, and the distance between seeds at the snapshots."""
    from matplotlib.figure import Figure

    several = len(study.snapshots) > 1
    figure = Figure(
        (9.2 if several else 5.4, 3.2 + 0.2 * math.ceil(len(spreads) / 3)), layout="constrained"
    )
    panels = np.atleast_1d(figure.subplots(1, 2 if several else 1))
    for i, (spread, numbers, colour) in enumerate(zip(spreads, own, COLOURS, strict=False)):
        steps = np.array(spread.steps)
        shown = steps >= 1
        panels[0].plot(
            steps[shown],
            np.asarray(stats.cv(spread.curves[..., 0]))[shown],
            color=colour,
            lw=1.4,
            label=_named(spread),
        )
        if several:
            k = study.measures.index("rmse")
            shift = 1.02 ** (i - (len(spreads) - 1) / 2)
            mean = numbers.mean[:, k]
            bars = np.abs(np.stack([numbers.low[:, k], numbers.high[:, k]]) - mean)
            panels[1].errorbar(
                np.array(study.snapshots) * shift,
                mean,
                None if np.isnan(bars).any() else bars,
                color=colour,
                marker="o",
                ms=4,
                lw=1.2,
                capsize=2,
            )
    panels[0].set(title="CV of the total loss over seeds", xscale="log", yscale="log")
    _step_axis(panels[0])
    panels[0].yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    panels[0].yaxis.set_minor_formatter("")
    if several:
        panels[1].set(title="mean RMSE between two seeds, grey levels", xscale="log", xlabel="step")
        panels[1].set_xticks(study.snapshots, [str(s) for s in study.snapshots])
        panels[1].minorticks_off()
        panels[1].set_ylim(bottom=0)
    _legend(figure, panels[0])
    return figure


def _ratios(study: Study) -> Figure:
    """Distance between seeds over distance between ratios by measure, with its interval."""
    from matplotlib.figure import Figure

    families = study.families[:PER_FIGURE]
    figure = Figure((7.6, 1.2 + 0.42 * len(study.measures)), layout="constrained")
    axes = figure.subplots()
    for i, (family, colour) in enumerate(zip(families, COLOURS, strict=False)):
        values = np.array([family.ratio[m] for m in study.measures])
        y = np.arange(len(study.measures)) + (i - (len(families) - 1) / 2) * 0.5 / len(families)
        bars = np.abs(values[:, 1:] - values[:, :1]).T
        axes.errorbar(
            values[:, 0],
            y,
            xerr=None if np.isnan(bars).any() else bars,
            color=colour,
            marker="o",
            ms=5,
            ls="none",
            capsize=2,
            label=drawing.legend_text(family.label),
        )
    axes.axvline(1, color=INK, lw=1)
    axes.set_yticks(range(len(study.measures)), [measure_title(m) for m in study.measures])
    axes.invert_yaxis()
    axes.set(xscale="log")
    for side, text in (
        ("right", "← α/β changes the picture more   "),
        ("left", "   the seed changes it more →"),
    ):
        axes.text(1, -0.12, text, transform=axes.get_xaxis_transform(), ha=side, va="center")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.45), max(high, 2.2))
    ticks = [
        t
        for t in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
        if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]
    ]
    axes.set_xticks(ticks)
    _legend(figure, axes, columns=2)
    return figure


def _components(study: Study) -> Figure:
    """A bar for each term, cut by the shares of its variance components."""
    from matplotlib.figure import Figure

    assert study.decompositions is not None
    terms = study.decompositions.terms
    names = [c.name for c in terms[0].components]
    figure = Figure((8.2, 1.0 + 0.36 * len(terms)), layout="constrained")
    axes = figure.subplots()
    colours = _component_colours(names)
    for y, found in enumerate(terms):
        left = 0.0
        for name, share in zip(names, found.shares, strict=True):
            axes.barh(
                y,
                share,
                left=left,
                color=colours[name],
                height=0.66,
                label=axis_title(name) if y == 0 else None,
            )
            if share > 0.07:
                axes.text(
                    left + share / 2,
                    y,
                    f"{100 * share:.0f} %",
                    ha="center",
                    va="center",
                    color=_legible_on(colours[name]),
                    fontsize=8,
                )
            left += share
    axes.set_yticks(range(len(terms)), [term_title(d.term) for d in terms])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    _legend(figure, axes, columns=min(len(names), 5))
    return figure


def _component_colours(names: Sequence[str]) -> dict[str, str]:
    """Colours of settings for their factors, in turn; the two parts of the seed in reds."""
    settings = itertools.cycle(
        ("#2f7fb8", "#2c8c5c", "#8c5fb8", "#a8861b", "#4a9aa8", "#7a8f3c", "#6878c8")
    )
    fixed = {SEED: "#c8552c", RESIDUAL: "#b03a52", INTERACTIONS: "#7a8088"}
    return {name: fixed.get(name) or next(settings) for name in names}


def _legible_on(colour: str) -> str:
    """Black or white, whichever has a contrast of at least 4.5 with a colour (WCAG 2.1, 1.4.3)."""
    levels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    light = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return "black" if 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2] > 0.179 else "white"
