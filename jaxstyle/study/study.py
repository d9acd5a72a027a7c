"""The effect of the seed on the cells of a finished run, compared with the effects of all other axes.

A *setting* is everything about a cell except its seed. The seeds of one setting give means, spreads and
distances; settings that differ in alpha-beta alone are a *family*, in which distances between seeds are
compared with distances between ratios. The *floor* is how far some cells move when they are computed again
and nothing should change: without it, a spread may be rounding.

Distances between pictures are taken on the saved 8-bit RGB, and once more on a Gaussian low-pass of it,
which keeps layout and colour and drops strokes and grain. Distances in features are taken in the very
network that the pictures were optimised with: they show what the losses see, and are no independent judge.

This module reads `results.h5` and writes nothing; `build` writes the files of a study.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py

from jaxstyle.console.progress import Display
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.plan.cells import lacked_losses
from jaxstyle.run.start_jax import start_jax
from jaxstyle.rundir.hdf5 import dataset, open_h5
from jaxstyle.rundir.records import Record, open_record
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import RunOptions
from jaxstyle.study import recompute, stats
from jaxstyle.study.decompose import decompose
from jaxstyle.study.distances import Network, measure_names, shape_px
from jaxstyle.study.model import Options, Spread, Study, Style
from jaxstyle.study.recompute import Recomputed
from jaxstyle.study.spread import (
    LOW_PASS_SHARE,
    chosen_snapshots,
    find_families,
    find_regions,
    find_settings,
    find_styles,
    spread_of,
    too_few,
)
from jaxstyle.vgg import layers


def run_study(path: Path, options: Options | None = None, display: Display | None = None) -> Study:
    """The seed study of a run whose `results.h5` is there, its progress shown in `display`.

    Raises:
        JaxstyleError: if it is no run, or no setting of it has two seeds that came to an end.
    """
    options, display = options or Options(), display or Display(quiet=True)
    record = open_record(path)
    with open_h5(path / "results.h5") as file:
        settings, fixed, single, diverged = find_settings(record, file)
        cells = sum(len(dataset(file, f"{shape}/cell")) for shape in map(str, file))
        if not settings:
            raise JaxstyleError(str(path), too_few(record, fixed, diverged))
        device = start_jax(record.sweep, RunOptions(), record.manifest)
        network = Network(record, device)
        names = layers.in_order(n for s in settings for n in s.cell.layer_weights)
        lacked = set[str].intersection(*(lacked_losses(setting.cell) for setting in settings))
        terms = (*(name for name in record.losses if name not in lacked), *names)
        shapes = dict.fromkeys(setting.shape for setting in settings)
        sigma_px = {shape: max(shape_px(shape)) / LOW_PASS_SHARE for shape in shapes}
        snapshots = chosen_snapshots(record.sweep.steps)
        spreads = [
            spread_of(s, _group(file, s.shape), snapshots, terms, network, sigma_px[s.shape])
            for s in display.each(settings, len(settings), "setting")
        ]
        found = find_families(spreads, file, network, sigma_px)
        decompositions = decompose(spreads, terms, file)
    notes: list[str] = []
    weighed: list[Style] = []
    regions: dict[int, dict[str, dict[str, float]]] = {}
    recomputed = None
    try:
        pictures = Pictures(record.sweep, record.cells)
        weighed = find_styles(pictures, spreads, terms, network)
        regions = find_regions(pictures, spreads)
        if options.floor:
            recomputed = _floor(record, spreads, device, options, display)
    except JaxstyleError as error:  # an image that has gone or changed since
        notes.append(f"Not everything could be computed again: {error}.")
    return Study(
        record=record,
        cells=cells,
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
        regions=regions,
        floor=recomputed,
        notes=notes,
    )


def _floor(
    record: Record, spreads: Sequence[Spread], device: Any, options: Options, display: Display
) -> Recomputed:
    """The floor of the setting whose pictures differ the most."""
    setting = max(spreads, key=lambda s: float(stats.pair_mean(s.distances["rmse"][-1]))).setting
    cells = [record.cells[i] for i in setting.cells[: options.floor_cells]]
    most = options.floor_steps
    return recompute.measure(record, cells, setting.label, device, most_steps=most, display=display)


def _group(file: h5py.File, shape: str) -> h5py.Group:
    group = file[shape]
    assert isinstance(group, h5py.Group)
    return group
