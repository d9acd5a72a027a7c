"""The findings of a study of seeds, and the words for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from jaxstyle.plan.cells import Cell, axes_of
from jaxstyle.rundir.records import Record
from jaxstyle.spec import settings, tables
from jaxstyle.spec.blends import files_of, short_text
from jaxstyle.spec.settings import PATH_AXES
from jaxstyle.spec.values import NONE
from jaxstyle.study import stats
from jaxstyle.study.components import RESIDUAL, Component, Design
from jaxstyle.study.recompute import Recomputed
from jaxstyle.study.stats import Interval, Ratio

LOW = "lowpass_"
"""Prefix of the names of distances between low-passed pictures."""
PICTURE = "picture"
"""The name of the pictures among the terms that are decomposed."""
MAX_FOLDERS = 8
"""The most folders that a label has of a path, to tell files of one name apart."""
TITLES = {"rmse": "RMSE", "dssim": "1 − SSIM", PICTURE: "the picture"}
"""Words for measures and for the pictures; those for losses are in the tables of terms."""


@dataclass(frozen=True)
class Options:
    """The parts of a study that may be left out or cut short."""

    floor: bool = True
    """Whether some cells are recomputed to measure the numerical floor."""
    floor_cells: int = 2
    """Number of seeds that are recomputed."""
    floor_steps: int = 500
    """Limit of the steps of a recomputed cell; it never has more than the run."""


@dataclass(frozen=True)
class Setting:
    """The cells of a run that differ in their seed alone and came to an end."""

    index: int
    cell: Cell
    """The first of the cells."""
    label: str
    """Its values on the axes that vary in the study."""
    shape: str
    """`HxW`."""
    cells: tuple[int, ...]
    seeds: tuple[int, ...]
    """Seeds of `cells`, ascending."""
    diverged: int
    """Number of cells of the setting that diverged and are left out."""
    rows: tuple[int, ...]
    """Rows of `cells` in their group of `results.h5`."""


@dataclass(frozen=True)
class Spread:
    """Results of the n seeds of one setting, at every snapshot of the study."""

    setting: Setting
    curves: np.ndarray
    """Loss curves, (n, steps, terms): the losses of the run and every E_l."""
    steps: tuple[int, ...]
    """Steps of the curves."""
    terms: np.ndarray
    """Losses at the snapshots, or at the last entry of the curves before: (snapshots, n, terms)."""
    distances: dict[str, np.ndarray]
    """Distance matrices by measure, (snapshots, n, n)."""
    moved: np.ndarray
    """RMSE of each cell's picture between one snapshot and the next, (snapshots - 1, n)."""
    sd_map: np.ndarray
    """Per-pixel sd of the last pictures and of their low-pass, in grey levels, (2, h, w)."""
    mean_picture: np.ndarray
    """Mean of the last pictures, (h, w, 3)."""
    example: np.ndarray
    """The last picture of the first seed, uint8 (h, w, 3)."""


@dataclass(frozen=True)
class Family:
    """Settings that differ in alpha-beta alone."""

    label: str
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    """Seeds that every setting has."""
    between_seeds: dict[str, float]
    """The mean distance between two seeds at one ratio, by measure."""
    between_ratios: dict[str, float]
    """The mean distance between two ratios at one seed, by measure."""
    ratio: dict[str, Ratio]
    """`between_seeds` over `between_ratios`, by measure."""
    pairs: list[tuple[str, str, dict[str, float]]]
    """Neighbouring ratios: (ratio, next ratio, mean distance at one seed by measure)."""
    left_out: tuple[str, ...] = ()
    """Ratios that share too few seeds with the others."""


@dataclass(frozen=True)
class Decomposition:
    """Variance components of one term over the balanced part of the grid."""

    term: str
    components: list[Component]
    shares: list[float]


@dataclass(frozen=True)
class Decompositions:
    """The terms that could be decomposed, and the part of the grid that they are decomposed over."""

    design: Design
    cells: int
    terms: list[Decomposition]
    left_out: tuple[str, ...]
    """Terms that are zero or missing in some cell, and have no logarithm there."""


class Style(NamedTuple):
    """A style of the run: the traces of its Gram matrices, and how much its transfers vary."""

    name: str
    traces: dict[str, float]
    """tr(A_l): the mean over positions of the squared length of the features."""
    loss_cv: float
    """CV of the style loss over seeds, averaged over its settings."""
    rmse: float
    """Mean distance between seeds, averaged over its settings."""


@dataclass(frozen=True)
class Study:
    """The seed study of a run."""

    record: Record
    cells: int
    """Number of cells that had been computed."""
    snapshots: tuple[int, ...]
    terms: tuple[str, ...]
    measures: tuple[str, ...]
    sigma_px: dict[str, float]
    """Sigma of the low-pass, by image shape."""
    spreads: list[Spread]
    fixed: list[tuple[str, int]]
    """(label, cells) of settings whose seed cannot matter."""
    single: list[str]
    """Labels of settings with fewer than two seeds that came to an end."""
    diverged: int
    families: list[Family]
    decompositions: Decompositions | None
    styles: list[Style]
    regions: dict[int, dict[str, dict[str, float]]]
    """`stats.map_numbers` of the pixels of a region, by the index of a setting and the region's name."""
    floor: Recomputed | None
    notes: list[str]
    """Sentences on what could not be done, and why."""

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that its settings may differ on."""
        return setting_axes(self.record.cells)

    def of_shape(self) -> dict[str, list[Spread]]:
        """The spreads by image shape."""
        found: dict[str, list[Spread]] = {}
        for spread in self.spreads:
            found.setdefault(spread.setting.shape, []).append(spread)
        return found


class Summary(NamedTuple):
    """The statistics of one setting, at every snapshot."""

    terms: dict[str, tuple[np.ndarray, Interval]]
    """Mean, sd and cv of the losses, (snapshots, terms), each with its interval."""
    mean: np.ndarray
    """The mean distance between two seeds, (snapshots, measures)."""
    low: np.ndarray
    """The lower end of its interval."""
    high: np.ndarray
    """The upper end of its interval."""


def summarise(spread: Spread) -> Summary:
    """Means, spreads and intervals over the seeds of a setting."""
    x = spread.terms.swapaxes(0, 1)
    statistics = {"mean": stats.mean, "sd": stats.sd, "cv": stats.cv}
    terms = {name: (np.asarray(f(x)), stats.interval(x, f)) for name, f in statistics.items()}
    d = np.stack(list(spread.distances.values()), axis=1)
    measures, n = d.shape[:2], d.shape[-1]
    ends = stats.percentiles(stats.pair_means(d.reshape(-1, n, n)), n)
    low, high = (np.reshape(end, measures) for end in ends)
    return Summary(terms, np.asarray(stats.pair_mean(d)), low, high)


def value_text(axis: str, value: Any, folders: int = 0) -> str:
    """A value of an axis, as the user gave it, as a short text; a file's name with some of its folders."""
    if axis in PATH_AXES and (files := files_of(value)):
        whole = PurePath(value).parts[-1 - folders :]
        return "/".join(whole) if folders and len(files) == 1 else short_text(value)
    if axis in PATH_AXES and value == NONE:
        return f"no {axis}"
    label = settings.short(axis)
    return f"{label} {value:g}" if isinstance(value, float) else f"{label} {value}".lstrip()


def axis_title(name: str) -> str:
    """Words for an axis, axes that move together, or another component of variance."""
    words = {RESIDUAL: "seed × setting"}
    return " and ".join(words.get(part) or settings.title(part) for part in name.split("+"))


def term_title(term: str) -> str:
    """Words for a loss: the total, that of a term, or E_l."""
    losses = tables.curves(tables.optional_terms())
    return {**losses, **TITLES}.get(term, f"E of {term}")


def measure_title(measure: str) -> str:
    """Words for a measure of distance."""
    name = measure.removeprefix(LOW)
    words = TITLES.get(name, f"features {name}")
    return f"{words}, low-pass" if measure.startswith(LOW) else words


def labels(cells: Iterable[Cell], axes: Iterable[str]) -> list[str]:
    """The labels of cells, their values on some axes; files of one name get folders until all differ."""
    cells, axes = tuple(cells), tuple(axes)
    different = len({identity(cell, axes) for cell in cells})

    def texts(folders: int) -> list[str]:
        return [", ".join(value_text(a, cell.label(a), folders) for a in axes) for cell in cells]

    return told_apart(texts, different)


def told_apart(texts: Callable[[int], list[str]], different: int) -> list[str]:
    """Texts with files' names and as few of their folders as make `different` of them, if any number does.

    Args:
        texts: function of the number of folders.
        different: how many of the texts should differ.
    """
    enough = (folders for folders in range(MAX_FOLDERS) if len({*texts(folders)}) >= different)
    return texts(next(enough, MAX_FOLDERS))


def setting_axes(cells: Iterable[Cell]) -> tuple[str, ...]:
    """The axes that cells of different settings may differ on."""
    return tuple(axis for axis in axes_of(cells) if axis != "seed")


def varying(cells: Iterable[Cell], axes: Sequence[str]) -> tuple[str, ...]:
    """The axes, among `axes`, on which cells differ."""
    cells = tuple(cells)
    return tuple(axis for axis in axes if len({cell.label(axis) for cell in cells}) > 1)


def identity(cell: Cell, axes: Sequence[str]) -> tuple:
    """The values of a cell on some axes, as the user gave them."""
    return tuple(cell.label(axis) for axis in axes)
