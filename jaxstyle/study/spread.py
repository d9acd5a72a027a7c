"""Settings, families and styles of a run, each with how far the pictures of its seeds are apart."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from jaxstyle.inputs.pictures import Pictures
from jaxstyle.inputs.region_maps import LEAST_SHARE, RegionMaps
from jaxstyle.plan.cells import Cell, Source, lacked_losses, seed_matters
from jaxstyle.rundir.hdf5 import dataset, rows_in_order
from jaxstyle.rundir.records import Record
from jaxstyle.spec import tables
from jaxstyle.spec.values import NONE
from jaxstyle.study import stats
from jaxstyle.study.distances import Network, distance_matrices, image_versions, measure_names
from jaxstyle.study.model import (
    Family,
    Setting,
    Spread,
    Style,
    identity,
    labels,
    setting_axes,
    told_apart,
    value_text,
    varying,
)
from jaxstyle.vgg import layers

LOW_PASS_SHARE = 32
"""The longest edge divided by the sigma of the low-pass."""
MAX_PAIRS = 496
"""Limit of the pairs of seeds measured in a setting: all those of 32 seeds; of more, a random sample."""


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
        groups.setdefault(identity(record.cells[number], others), []).append(record.cells[number])
    firsts = [cells[0] for cells in groups.values()]
    every = varying(firsts, others) or ("content", "style")
    noisy = (cell for cell in firsts if seed_matters(record.sweep, cell))
    axes = varying(noisy, others) or ("content", "style")
    settings, fixed, single = [], [], []
    names = zip(labels(firsts, every), labels(firsts, axes), strict=True)
    for cells, (name_of_all, name) in zip(groups.values(), names, strict=True):
        if not seed_matters(record.sweep, cells[0]):
            fixed.append((name_of_all, len(cells)))
            continue
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
    per_layer = rows_in_order(dataset(group, tables.LAYER_CURVE), setting.rows)
    nothing = np.full(per_layer.shape[:2], np.nan, per_layer.dtype)
    lacks = lacked_losses(setting.cell)
    columns = [
        nothing
        if term in lacks
        else rows_in_order(dataset(group, term), setting.rows)
        if term in group
        else per_layer[..., names.index(term)]
        if term in names
        else nothing
        for term in terms
    ]
    curves = np.stack(columns, axis=-1).astype(np.float64)
    ends = [min(s, int(dataset(group, "steps")[setting.rows[0]])) for s in snapshots]
    at = [np.searchsorted(steps, end, "right") - 1 for end in ends]
    traced = np.array([steps[place] == end for place, end in zip(at, ends, strict=True)])
    images = dataset(group, "image")
    pictures = [rows_in_order(images, setting.rows, own.index(s)) for s in snapshots]
    pairs = stats.chosen_pairs(len(setting.cells), MAX_PAIRS)
    found = [distance_matrices(now, pairs, network, sigma_px) for now in pictures]
    last = pictures[-1]
    moved = [
        [stats.rmse(a, b) for a, b in zip(x, y, strict=True)]
        for x, y in zip(*(np.array(p, np.float64) for p in (pictures[:-1], pictures[1:])), strict=True)
    ]
    return Spread(
        setting=setting,
        curves=curves,
        steps=steps,
        terms=np.where(traced[:, None, None], curves[:, at].swapaxes(0, 1), np.nan),
        distances={name: np.stack([d[name] for d in found]) for name in found[0]},
        moved=np.array(moved).reshape(len(snapshots) - 1, len(setting.cells)),
        sd_map=np.stack([stats.pixel_sd(v) for _, v in image_versions(last, sigma_px)]),
        mean_picture=last.mean(axis=0),
        example=last[0],
    )


def find_families(
    spreads: Sequence[Spread], file: h5py.File, network: Network, sigma_px: Mapping[str, float]
) -> list[Family]:
    """Families of settings that differ in alpha-beta alone, if they have two ratios and share two seeds."""
    every = setting_axes(spread.setting.cell for spread in spreads)
    others = tuple(axis for axis in every if axis != "alpha_beta")
    groups: dict[tuple, list[Spread]] = {}
    for spread in spreads:
        groups.setdefault(identity(spread.setting.cell, others), []).append(spread)
    firsts = [group[0].setting.cell for group in groups.values()]
    names = labels(firsts, varying(firsts, others) or ("content", "style"))
    found = []
    for name, group in zip(names, groups.values(), strict=True):
        members = sorted(_sharing_seeds(group), key=lambda s: -s.setting.cell.alpha_beta)
        seeds = _shared(members)
        if len(members) > 1 and len(seeds) > 1:
            images = dataset(file, f"{members[0].setting.shape}/image")
            sigma = sigma_px[members[0].setting.shape]
            gone = [spread.setting.cell for spread in group if all(spread is not m for m in members)]
            family = _family(name, members, tuple(seeds), images, network, sigma)
            found.append(replace(family, left_out=tuple(labels(gone, ("alpha_beta",)))))
    return found


def _shared(members: Iterable[Spread]) -> list[int]:
    """The seeds that all settings have."""
    return sorted(set.intersection(*(set(m.setting.seeds) for m in members)))


def _sharing_seeds(group: Sequence[Spread]) -> list[Spread]:
    """The settings that share two seeds or more, without those that have fewest in common with others."""
    members = list(group)
    while len(members) > 1 and len(_shared(members)) < 2:
        common = [
            sum(len({*a.setting.seeds} & {*b.setting.seeds}) for b in members if b is not a)
            for a in members
        ]
        del members[common.index(min(common))]
    return members


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
        same.append(distance_matrices(rows_in_order(images, rows, -1), every, network, sigma_px))
    measures = measure_names()
    between = _between(members, places, images, network, sigma_px)
    apart = {key: np.array([stats.pair_mean(d[key]) for d in same]) for key in measures}
    ratios = labels([m.setting.cell for m in members], ("alpha_beta",))
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


def _between(
    members: Sequence[Spread],
    places: Sequence[Sequence[int]],
    images: h5py.Dataset,
    network: Network,
    sigma_px: float,
) -> dict[str, np.ndarray]:
    """Mean distance matrices of the members between the seeds at their `places`, by measure.

    Of many seeds only some pairs were measured, in members of other seeds other ones. Pairs are measured
    anew where all members have fewer in common than there could be.
    """
    pairs = stats.chosen_pairs(len(places[0]), MAX_PAIRS)
    found = [
        {key: every[-1][np.ix_(at, at)] for key, every in member.distances.items()}
        for member, at in zip(members, places, strict=True)
    ]
    known = np.isfinite(np.sum([next(iter(of.values())) for of in found], axis=0))
    if np.triu(known, 1).sum() < len(pairs):
        rows = ([m.setting.rows[i] for i in at] for m, at in zip(members, places, strict=True))
        pictures = (rows_in_order(images, some, -1) for some in rows)
        found = [distance_matrices(of, pairs, network, sigma_px) for of in pictures]
    return {key: np.mean([of[key] for of in found], axis=0) for key in measure_names()}


def find_regions(pictures: Pictures, spreads: Iterable[Spread]) -> dict[int, dict[str, dict[str, float]]]:
    """The spread of the pixels that lie at least half in a region, by the setting's index and its name."""
    maps, found = RegionMaps(pictures), {}
    for spread in spreads:
        cell = spread.setting.cell
        if cell.regions != NONE:
            of_regions = zip(maps.names(cell), maps.at_size(cell, None, 0), strict=True)
            inside = {name: spread.sd_map[0][t >= LEAST_SHARE] for name, t in of_regions}
            own = {name: stats.map_numbers(values) for name, values in inside.items() if values.size}
            found[spread.setting.index] = own
    return found


def find_styles(
    pictures: Pictures, spreads: Sequence[Spread], terms: Sequence[str], network: Network
) -> list[Style]:
    """Every style of the study with the traces of its Gram matrices.

    The spread of the optimisation's outcomes is said to fall as the trace rises (Gupta et al. 2017,
    1705.02092: "inversely related to the stability").
    """
    names = layers.in_order(n for s in spreads for n in s.setting.cell.layer_weights)
    found = []
    cells = (s.setting.cell for s in spreads)
    sources = {cell.style_source: cell.style_parts for cell in cells if cell.has_style}
    titles = dict(zip(sources, _style_titles(sources), strict=True))
    for source, parts in sources.items():
        own = [spread for spread in spreads if spread.setting.cell.style_source == source]
        style = terms.index("loss_style")
        found.append(
            Style(
                name=titles[source],
                traces=_traces(parts, pictures, network, names),
                loss_cv=float(np.mean([stats.cv(s.terms[-1][:, style]) for s in own])),
                rmse=float(np.mean([stats.pair_mean(s.distances["rmse"][-1]) for s in own])),
            )
        )
    return found


def _style_titles(sources: Collection[Any]) -> list[str]:
    """Words for the sources of styles, with as many folders as tell them apart."""

    def words(path: str, size: Any, *colours: str, folders: int) -> str:
        several = len({other[1] for other in sources if other[0] == path}) > 1
        of = "".join(f", in the colours of {value_text('content', name, folders)}" for name in colours)
        px = f", {size} px" if isinstance(size, int) else f", size {size}"
        return value_text("style", path, folders) + (px if several else "") + of

    return told_apart(lambda folders: [words(*of, folders=folders) for of in sources], len(sources))


def _traces(
    parts: Iterable[tuple[Source, float]],
    pictures: Pictures,
    network: Network,
    names: Sequence[str],
) -> dict[str, float]:
    """tr(A_l) of a style at some layers; NaN at those that a file of targets lacks."""
    found = dict.fromkeys(names, 0.0)
    for source, weight in parts:
        path = source[0]
        if path in pictures.targets:
            has = pictures.targets[path].layers
            traces = {n: float(np.trace(has[n].gram)) if n in has else np.nan for n in names}
        else:
            traces = network.traces(pictures.style_pixels(source), names)
        found = {name: found[name] + weight * traces[name] for name in names}
    return found


def too_few(record: Record, fixed: Sequence[tuple[str, int]], diverged: int) -> str:
    """The reason why a run is no study of seeds, with a command that would make it one."""
    noisy = any(seed_matters(record.sweep, cell) for cell in record.cells)
    if fixed and not noisy and any(cell.init == "noise" for cell in record.cells):
        why = "its seeds have no effect: its noise is 0; run it with --noise-std 1 --seed 0:8"
    elif fixed and not noisy:
        why = "its seeds have no effect: no cell starts from noise; run it with --init noise --seed 0:8"
    else:
        lost = f" ({diverged} cells diverged)" if diverged else ""
        why = (
            f"no setting has two seeds that came to an end{lost};"
            f" add some with: python -m jaxstyle.sweep --extend --out {shlex.quote(str(record.path))}"
            " --seed 0:8"
        )
    return why
