"""The effect of the seed on the cells of a finished run, compared with the effects of all other axes.

A *setting* is everything about a cell except its seed. The seeds of one setting give means, spreads and
distances; settings that differ in alpha-beta alone are a *family*, in which distances between seeds are
compared with distances between ratios. The *floor* is how far some cells move when they are computed again
and nothing should change: without it, a spread may be rounding.

Distances between pictures are taken on the saved 8-bit RGB, and once more on a Gaussian low-pass of it,
which keeps layout and colour and drops strokes and grain. Distances in features are taken in the very
network that the pictures were optimised with: they show what the losses see, and are no independent judge.

This module reads `results.h5` and writes nothing; `seedpage` writes the files of a study.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from jaxstyle import floor, stats
from jaxstyle.floor import Floor
from jaxstyle.inputs import weights
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.plan.cells import Cell, axes_of, seed_matters
from jaxstyle.plan.costs import nominal_platform, uses_winograd
from jaxstyle.plan.programs import Program
from jaxstyle.run.start import start_jax
from jaxstyle.rundir import chunks
from jaxstyle.rundir.files import dataset, open_h5
from jaxstyle.rundir.records import Record, open_record
from jaxstyle.spec import tables
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import PATH_AXES, RunOptions, short, title
from jaxstyle.spec.values import INIT_KINDS
from jaxstyle.stats import Component, Design, Interval, Ratio
from jaxstyle.vgg import layers

FEATURE_LAYERS = ("conv2_1", "conv4_1")
"""Layers in which pictures are compared by features: strokes and grain, and larger forms."""
LOW_PASS_SHARE = 32
"""The longest edge divided by the sigma of the low-pass."""
MAX_PAIRS = 496
"""Limit of the pairs of seeds measured in a setting: all those of 32 seeds; of more, a random sample."""
LOW = "lowpass_"
"""Prefix of the names of distances between low-passed pictures."""
PICTURE = "picture"
"""The name of the pictures among the terms that are decomposed."""
TITLES = {
    "rmse": "RMSE",
    "dssim": "1 − SSIM",
    PICTURE: "the picture",
}


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
    floor: Floor | None
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


# --- settings -------------------------------------------------------------------------------------


def value_text(axis: str, value: Any) -> str:
    """A value of an axis, as the user gave it, as a short text."""
    if axis in PATH_AXES and value not in INIT_KINDS:
        return Path(value).stem
    return f"{short(axis)} {value:g}" if isinstance(value, float) else f"{short(axis)} {value}".lstrip()


def axis_title(name: str) -> str:
    """Words for an axis, axes that move together, or another component of variance."""
    words = {stats.RESIDUAL: "seed × setting"}
    return " and ".join(words.get(part) or title(part) for part in name.split("+"))


def term_title(term: str) -> str:
    """Words for a loss: the total, that of a term, or E_l."""
    losses = tables.curves(tables.optional_terms())
    return {**losses, **TITLES}.get(term, f"E of {term}")


def measure_title(measure: str) -> str:
    """Words for a measure of distance."""
    name = measure.removeprefix(LOW)
    words = TITLES.get(name, f"features {name}")
    return f"{words}, low-pass" if measure.startswith(LOW) else words


def label(cell: Cell, axes: Iterable[str]) -> str:
    """The label of a cell: its values on some axes."""
    return ", ".join(value_text(axis, cell.label(axis)) for axis in axes)


def setting_axes(cells: Iterable[Cell]) -> tuple[str, ...]:
    """The axes that cells of different settings may differ on."""
    return tuple(axis for axis in axes_of(cells) if axis != "seed")


def varying(cells: Iterable[Cell], axes: Sequence[str]) -> tuple[str, ...]:
    """The axes, among `axes`, on which cells differ."""
    cells = tuple(cells)
    return tuple(axis for axis in axes if len({cell.label(axis) for cell in cells}) > 1)


def _identity(cell: Cell, axes: Sequence[str]) -> tuple:
    return tuple(cell.label(axis) for axis in axes)


def find_settings(
    record: Record, file: h5py.File
) -> tuple[list[Setting], list[tuple[str, int]], list[str], int]:
    """The settings of a run with two seeds or more, and the cells that are left out.

    Returns:
        The settings; (label, cells) of those whose seed cannot matter; labels of those with fewer than two
        seeds; how many cells diverged.
    """
    where: dict[int, tuple[str, int, bool]] = {}
    for shape in list(map(str, file)):
        diverged = dataset(file, f"{shape}/diverged_step")[()]
        for row, cell in enumerate(dataset(file, f"{shape}/cell")[()]):
            where[int(cell)] = shape, row, bool(diverged[row] >= 0)
    groups: dict[tuple, list[Cell]] = {}
    others = setting_axes(record.cells)
    for number in sorted(where):
        groups.setdefault(_identity(record.cells[number], others), []).append(record.cells[number])
    firsts = [cells[0] for cells in groups.values()]
    every = varying(firsts, others) or ("content", "style")
    noisy = (cell for cell in firsts if seed_matters(record.sweep, cell))
    axes = varying(noisy, others) or ("content", "style")
    settings, fixed, single = [], [], []
    for cells in groups.values():
        if not seed_matters(record.sweep, cells[0]):
            fixed.append((label(cells[0], every), len(cells)))
            continue
        name = label(cells[0], axes)
        done = sorted((c for c in cells if not where[c.id][2]), key=lambda c: c.seed)
        if len(done) < 2:
            single.append(name)
            continue
        settings.append(
            Setting(
                index=len(settings),
                cell=cells[0],
                label=name,
                shape=where[done[0].id][0],
                cells=tuple(c.id for c in done),
                seeds=tuple(c.seed for c in done),
                diverged=len(cells) - len(done),
                rows=tuple(where[c.id][1] for c in done),
            )
        )
    return settings, fixed, single, sum(gone for _, _, gone in where.values())


def chosen_snapshots(steps: Sequence[int]) -> tuple[int, ...]:
    """The last of the snapshots and those nearest to a half and a quarter of it: 2n, n and n/2."""
    last = steps[-1]
    wanted = (last / 4, last / 2, last)
    return tuple(sorted({min(steps, key=lambda s: (abs(s - w), s)) for w in wanted}))


# --- pictures -------------------------------------------------------------------------------------


class Network:
    """The run's network, for features of single pictures and Gram matrices of styles.

    Args:
        record: the run.
        device: the device to compute on.

    Raises:
        JaxstyleError: if the weights are not those of the run.
    """

    def __init__(self, record: Record, device: Any):
        from jaxstyle.device.engine import Engine

        sweep = record.sweep
        shapes = {(h, w) for h, w in (_size(s) for s in _shapes(record))}
        loaded = weights.load(sweep.weights, network=sweep.network, pool=sweep.pool)
        if (had := record.manifest.get("weights", {}).get("sha256")) not in (None, loaded.sha256):
            raise JaxstyleError(
                "weights",
                f"{loaded.path} has sha256 {loaded.sha256}, {record.path} was made with {had}; restore it",
            )
        self._sweep = sweep
        winograd = uses_winograd(sweep, nominal_platform(device.platform))
        self._engine = Engine(loaded.layers, cell_shapes=shapes, device=device, winograd=winograd)

    def _program(self, shape: tuple[int, int], content: Sequence[str], style: Sequence[str]) -> Program:
        sweep = self._sweep
        return Program(*shape, sweep.pool, sweep.optimizer, "f32", tuple(content), tuple(style), width=1)

    def features(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """The activations of one picture at `FEATURE_LAYERS`, by name."""
        shape = pixels.shape[0], pixels.shape[1]
        rows = self._engine.target_rows(self._program(shape, FEATURE_LAYERS, ()), pixels, of_cells=True)
        return dict(zip(FEATURE_LAYERS, map(np.asarray, rows.content), strict=True))

    def traces(self, pixels: np.ndarray, names: Sequence[str]) -> dict[str, float]:
        """tr(A_l) of a style at some layers."""
        shape = pixels.shape[0], pixels.shape[1]
        rows = self._engine.target_rows(self._program(shape, (), names), pixels)
        return {
            name: float(np.trace(a)) for name, a in zip(names, map(np.asarray, rows.style), strict=True)
        }


def _shapes(record: Record) -> list[str]:
    with open_h5(record.path / "results.h5") as file:
        return list(file)


def _size(shape: str) -> tuple[int, int]:
    height, width = (int(n) for n in shape.split("x"))
    return height, width


class _View(NamedTuple):
    """One picture in the forms that the distances need."""

    pixels: np.ndarray
    patches: stats.Patches
    features: dict[str, np.ndarray]


def _view(pixels: np.ndarray, network: Network) -> _View:
    return _View(pixels, stats.patches(pixels), network.features(pixels))


MEASURES = {
    "rmse": lambda a, b: stats.rmse(a.pixels, b.pixels),
    "dssim": lambda a, b: 1 - stats.ssim(a.patches, b.patches),
    **{
        name: lambda a, b, name=name: stats.relative_distance(a.features[name], b.features[name])
        for name in FEATURE_LAYERS
    },
}
"""Distances of two pictures: RMSE in grey levels, 1 - SSIM, and |f - g| / sqrt((|f|^2 + |g|^2) / 2) of the
features at a layer."""


def measure_names() -> tuple[str, ...]:
    """Every measure, of the pictures and of their low-pass."""
    return (*MEASURES, *(LOW + name for name in MEASURES))


def _versions(pictures: np.ndarray, sigma_px: float) -> Iterator[tuple[str, np.ndarray]]:
    """Pairs (prefix, pictures): the pictures as they are, and low-passed."""
    plain = pictures.astype(np.float64)
    yield "", plain
    yield LOW, np.stack([stats.low_pass(picture, sigma_px) for picture in plain])


def distances(
    pictures: np.ndarray, pairs: Sequence[tuple[int, int]], network: Network, sigma_px: float
) -> dict[str, np.ndarray]:
    """Distance matrices (n, n) of uint8 pictures (n, h, w, 3), by measure; NaN for other pairs."""
    found = {}
    for prefix, versions in _versions(pictures, sigma_px):
        views = [_view(pixels, network) for pixels in versions]
        for name, measure in MEASURES.items():
            found[prefix + name] = stats.pairwise(views, measure, pairs)
    return found


def spread_of(
    setting: Setting,
    group: h5py.Group,
    snapshots: Sequence[int],
    terms: Sequence[str],
    network: Network,
    sigma_px: float,
) -> Spread:
    """The results of a setting's seeds, read from its group of `results.h5`."""
    own = [int(s) for s in dataset(group, "snapshot")]
    steps = tuple(int(s) for s in dataset(group, "step"))
    names = [t.decode() for t in dataset(group, "layer")[()]]
    per_layer = chunks.rows_in_order(dataset(group, tables.LAYER_CURVE), setting.rows)
    nothing = np.full(per_layer.shape[:2], np.nan, per_layer.dtype)
    columns = [
        chunks.rows_in_order(dataset(group, term), setting.rows)
        if term in group
        else per_layer[..., names.index(term)]
        if term in names
        else nothing
        for term in terms
    ]
    curves = np.stack(columns, axis=-1).astype(np.float64)
    ends = [min(s, int(dataset(group, "steps")[setting.rows[0]])) for s in snapshots]
    at = [np.searchsorted(steps, end, "right") - 1 for end in ends]
    images = dataset(group, "image")
    pictures = [chunks.rows_in_order(images, setting.rows, own.index(s)) for s in snapshots]
    pairs = stats.chosen_pairs(len(setting.cells), MAX_PAIRS)
    found = [distances(now, pairs, network, sigma_px) for now in pictures]
    last = pictures[-1]
    moved = [
        [stats.rmse(a, b) for a, b in zip(x, y, strict=True)]
        for x, y in zip(*(np.array(p, np.float64) for p in (pictures[:-1], pictures[1:])), strict=True)
    ]
    return Spread(
        setting=setting,
        curves=curves,
        steps=steps,
        terms=curves[:, at].swapaxes(0, 1),
        distances={name: np.stack([d[name] for d in found]) for name in found[0]},
        moved=np.array(moved).reshape(len(snapshots) - 1, len(setting.cells)),
        sd_map=np.stack([stats.pixel_sd(v) for _, v in _versions(last, sigma_px)]),
        mean_picture=last.mean(axis=0),
        example=last[0],
    )


# --- seeds against ratios -------------------------------------------------------------------------


def families(
    spreads: Sequence[Spread], file: h5py.File, network: Network, sigma_px: Mapping[str, float]
) -> list[Family]:
    """Families of settings that differ in alpha-beta alone, if they have two ratios and share two seeds."""
    every = setting_axes(spread.setting.cell for spread in spreads)
    others = tuple(axis for axis in every if axis != "alpha_beta")
    groups: dict[tuple, list[Spread]] = {}
    for spread in spreads:
        groups.setdefault(_identity(spread.setting.cell, others), []).append(spread)
    axes = varying((group[0].setting.cell for group in groups.values()), others) or ("content", "style")
    found = []
    for group in groups.values():
        members = sorted(group, key=lambda s: -s.setting.cell.alpha_beta)
        seeds = sorted(set.intersection(*(set(m.setting.seeds) for m in members)))
        if len(members) > 1 and len(seeds) > 1:
            images = dataset(file, f"{members[0].setting.shape}/image")
            name = label(members[0].setting.cell, axes)
            sigma = sigma_px[members[0].setting.shape]
            found.append(_family(name, members, tuple(seeds), images, network, sigma))
    return found


def _family(
    name: str,
    members: Sequence[Spread],
    seeds: tuple[int, ...],
    images: h5py.Dataset,
    network: Network,
    sigma_px: float,
) -> Family:
    places = [[m.setting.seeds.index(seed) for seed in seeds] for m in members]
    every = stats.chosen_pairs(len(members), MAX_PAIRS)
    same: list[dict[str, np.ndarray]] = []
    for i in range(len(seeds)):
        rows = [m.setting.rows[at[i]] for m, at in zip(members, places, strict=True)]
        same.append(distances(chunks.rows_in_order(images, rows, -1), every, network, sigma_px))
    measures = measure_names()
    between = {
        key: np.mean(
            [m.distances[key][-1][np.ix_(at, at)] for m, at in zip(members, places, strict=True)], axis=0
        )
        for key in measures
    }
    apart = {key: np.array([stats.pair_mean(d[key]) for d in same]) for key in measures}
    ratios = [label(m.setting.cell, ("alpha_beta",)) for m in members]

    return Family(
        label=name,
        settings=tuple(m.setting for m in members),
        seeds=seeds,
        between_seeds={key: float(stats.pair_mean(between[key])) for key in measures},
        between_ratios={key: float(np.mean(apart[key])) for key in measures},
        ratio={key: stats.seed_ratio(between[key], apart[key]) for key in measures},
        pairs=[
            (
                ratios[i],
                ratios[i + 1],
                {k: float(np.mean([d[k][i, i + 1] for d in same])) for k in measures},
            )
            for i in range(len(ratios) - 1)
        ],
    )


# --- variance components --------------------------------------------------------------------------


def decompose(spreads: Sequence[Spread], terms: Sequence[str], file: h5py.File) -> Decompositions | None:
    """Variance components over the settings and seeds of a study, or None where nothing is crossed.

    Losses are decomposed by their natural logarithm, for those of different styles differ by factors.
    Pictures are decomposed pixel by pixel, and the components averaged, if all have one shape.
    """
    others = setting_axes(spread.setting.cell for spread in spreads)
    axes = (*others, "seed")
    rows = {
        (*_identity(spread.setting.cell, others), seed): (spread, i)
        for spread in spreads
        for i, seed in enumerate(spread.setting.seeds)
    }
    design = stats.balanced(axes, rows)
    if not design.names or design.names[-1] != "seed":
        return None
    common = spreads[0].setting.cell
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
        parts = stats.components(np.log(y).reshape(levels), names)
        found.append(Decomposition(term, parts, stats.shares(parts)))
    if len(shapes := {spread.setting.shape for spread, _ in places}) == 1:
        images = dataset(file, f"{shapes.pop()}/image")
        parts = _picture_components(images, [s.setting.rows[i] for s, i in places], levels, names)
        found.append(Decomposition(PICTURE, parts, stats.shares(parts)))
    return Decompositions(design, len(places), found, tuple(left_out))


def _full(common: Cell, axes: Sequence[str], design: Design, place: tuple) -> tuple:
    """A place of a design as a value on every axis; axes that the design lacks have that of `common`."""
    values = dict(zip(axes, _identity(common, axes), strict=True))
    for name, level in zip(design.names, place, strict=True):
        names = name.split("+")
        values |= dict(zip(names, level if len(names) > 1 else (level,), strict=True))
    return tuple(values.values())


STRIPE_BYTES = 64 * 2**20
"""Memory that a stripe of all pictures takes at most, as float64."""


def _picture_components(
    images: h5py.Dataset, rows: Sequence[int], levels: tuple[int, ...], names: Sequence[str]
) -> list[Component]:
    """Components of every pixel and channel, averaged; only a stripe of the pictures is in memory."""
    _, _, height, width, _ = images.shape
    stripe = max(1, STRIPE_BYTES // (len(rows) * width * 3 * 8))
    parts = []
    for y in range(0, height, stripe):
        values = chunks.rows_in_order(images, rows, -1, slice(y, y + stripe)).astype(np.float64)
        parts.append(stats.components(values.reshape(*levels, *values.shape[1:]), names))
    whole = []
    for same in zip(*parts, strict=True):
        squares = np.concatenate([np.ravel(c.sum_of_squares) for c in same])
        variance = np.concatenate([np.ravel(c.variance) for c in same])
        first = same[0]
        whole.append(Component(first.name, first.df, np.mean(squares), np.mean(variance)))
    return whole


# --- styles ---------------------------------------------------------------------------------------


def styles(
    record: Record, spreads: Sequence[Spread], terms: Sequence[str], network: Network
) -> list[Style]:
    """Every style of the study with the traces of its Gram matrices.

    The spread of the optimisation's outcomes is said to fall as the trace rises (Gupta et al. 2017,
    1705.02092: "inversely related to the stability").
    """
    pictures = Pictures(record.sweep, record.cells)
    names = layers.in_order(n for s in spreads for n in s.setting.cell.layer_weights)
    found = []
    for path in dict.fromkeys(spread.setting.cell.style for spread in spreads):
        own = [spread for spread in spreads if spread.setting.cell.style == path]
        style = terms.index("loss_style")
        found.append(
            Style(
                name=value_text("style", path),
                traces=network.traces(pictures.style[path], names),
                loss_cv=float(np.mean([stats.cv(s.terms[-1][:, style]) for s in own])),
                rmse=float(np.mean([stats.pair_mean(s.distances["rmse"][-1]) for s in own])),
            )
        )
    return found


# --- a study --------------------------------------------------------------------------------------


def study(path: Path, options: Options | None = None) -> Study:
    """The seed study of a run whose `results.h5` is there.

    Raises:
        JaxstyleError: if it is no run, or no setting of it has two seeds that came to an end.
    """
    options = options or Options()
    record = open_record(path)
    with open_h5(path / "results.h5") as file:
        settings, fixed, single, diverged = find_settings(record, file)
        if not settings:
            raise JaxstyleError(str(path), _too_few(record, fixed, diverged))
        device = start_jax(record.sweep, RunOptions(), record.manifest)
        network = Network(record, device)
        names = layers.in_order(n for s in settings for n in s.cell.layer_weights)
        terms = (*record.losses, *names)
        shapes = dict.fromkeys(setting.shape for setting in settings)
        sigma_px = {shape: max(_size(shape)) / LOW_PASS_SHARE for shape in shapes}
        snapshots = chosen_snapshots(record.sweep.steps)
        spreads = [
            spread_of(s, _group(file, s.shape), snapshots, terms, network, sigma_px[s.shape])
            for s in settings
        ]
        found = families(spreads, file, network, sigma_px)
        decompositions = decompose(spreads, terms, file)
    notes: list[str] = []
    weighed: list[Style] = []
    recomputed = None
    try:
        weighed = styles(record, spreads, terms, network)
        if options.floor:
            recomputed = _floor(record, spreads, device, options)
    except JaxstyleError as error:  # an image that has gone or changed since
        notes.append(f"Not everything could be computed again: {error}.")
    return Study(
        record=record,
        snapshots=snapshots,
        terms=terms,
        measures=measure_names(),
        sigma_px=sigma_px,
        spreads=spreads,
        fixed=fixed,
        single=single,
        diverged=diverged,
        families=found,
        decompositions=decompositions,
        styles=weighed,
        floor=recomputed,
        notes=notes,
    )


def _floor(record: Record, spreads: Sequence[Spread], device: Any, options: Options) -> Floor:
    """The floor of the setting whose pictures differ the most."""
    setting = max(spreads, key=lambda s: float(stats.pair_mean(s.distances["rmse"][-1]))).setting
    cells = [record.cells[i] for i in setting.cells[: options.floor_cells]]
    return floor.measure(record, cells, setting.label, device, most_steps=options.floor_steps)


def _group(file: h5py.File, shape: str) -> h5py.Group:
    group = file[shape]
    assert isinstance(group, h5py.Group)
    return group


def _too_few(record: Record, fixed: Sequence[tuple[str, int]], diverged: int) -> str:
    if fixed:
        why = "no seed matters in it, for no cell starts from noise; run it with --init noise --seed 0:8"
    else:
        lost = f" ({diverged} cells diverged)" if diverged else ""
        why = (
            f"no setting has two seeds that came to an end{lost};"
            f" add some with: python -m jaxstyle.sweep --extend --out {record.path} --seed 0:8"
        )
    return why


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
