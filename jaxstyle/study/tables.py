"""A seed study in numbers: `variance.csv`, a line per setting, snapshot and quantity, and `variance.h5`.

The same study gives the same bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from jaxstyle.rundir.hdf5 import LIBVER, texts
from jaxstyle.study import stats
from jaxstyle.study.model import LOW, TITLES, Spread, Study, Summary
from jaxstyle.vgg import layers

# --- variance.csv ---------------------------------------------------------------------------------

STATISTICS = ("mean", "sd", "cv")
COLUMNS = (
    "steps",
    "quantity",
    "seeds",
    "diverged",
    "pairs",
    *(name + end for name in STATISTICS for end in ("", "_low", "_high")),
    "min",
    "median",
    "max",
)
_SCALES = ("setting", "snapshot", "step", "term", "measure", "quantile", "y", "x", "channel")


def quantity(term: str) -> str:
    """The name of a loss or a measure in the tables: `E_conv1_1` for E_l, `feature_conv2_1`."""
    return f"E_{term}" if term in layers.TAPS else term


def measure_quantity(measure: str) -> str:
    """The name of a distance in the tables."""
    low, name = (LOW, measure.removeprefix(LOW)) if measure.startswith(LOW) else ("", measure)
    return low + (name if name in TITLES else f"feature_{name}")


def _csv_number(value: Any) -> str:
    return "" if value is None or not np.isfinite(value) else f"{float(value):.9g}"


def csv_text(study: Study, numbers: Sequence[Summary]) -> str:
    """Text of `variance.csv`: a line per setting, snapshot and quantity; distances are over seed pairs."""
    buffer = io.StringIO()
    columns = ("setting", *study.axes, *COLUMNS)
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    for spread, own in zip(study.spreads, numbers, strict=True):
        for line in _lines(study, spread, own):
            writer.writerow(line)
    return buffer.getvalue()


def _axes_of(study: Study, spread: Spread) -> dict[str, Any]:
    cell = spread.setting.cell
    return {
        axis: study.record.given(axis, value) if isinstance(value, str) else value
        for axis in study.axes
        for value in (study.record.number(cell, axis),)
    }


def _lines(study: Study, spread: Spread, own: Summary) -> Iterator[dict[str, Any]]:
    head = {
        "setting": spread.setting.index,
        **_axes_of(study, spread),
        "seeds": len(spread.setting.seeds),
        "diverged": spread.setting.diverged,
    }
    for k, steps in enumerate(study.snapshots):
        for i, term in enumerate(study.terms):
            x = spread.terms[k][:, i]
            if np.isnan(x).all():
                continue
            values = {"min": x.min(), "median": np.median(x), "max": x.max()}
            for name in STATISTICS:
                value, ends = own.terms[name]
                parts = {"": value, "_low": ends.low, "_high": ends.high}
                values |= {name + end: part[k, i] for end, part in parts.items()}
            yield head | {"steps": steps, "quantity": quantity(term)} | _written(values)
        for i, measure in enumerate(study.measures):
            d = spread.distances[measure][k]
            known = d[np.triu_indices(len(d), 1)]
            known = known[np.isfinite(known)]
            values = {"mean": own.mean[k, i], "mean_low": own.low[k, i], "mean_high": own.high[k, i]}
            values |= {"sd": stats.sd(known), "cv": stats.cv(known)}
            values |= {"min": known.min(), "median": np.median(known), "max": known.max()}
            line = {"steps": steps, "quantity": measure_quantity(measure), "pairs": len(known)}
            yield head | line | _written(values)
    names = ("pixel_sd", LOW + "pixel_sd")
    spreads = {name: stats.map_numbers(of) for name, of in zip(names, spread.sd_map, strict=True)}
    of_regions = study.regions.get(spread.setting.index, {})
    spreads |= {f"pixel_sd {name}": values for name, values in of_regions.items()}
    for name, values in spreads.items():
        yield head | {"steps": study.snapshots[-1], "quantity": name} | _written(values)


def _written(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: _csv_number(value) for key, value in values.items()}


# --- variance.h5 ----------------------------------------------------------------------------------


def _put(group: h5py.Group, name: str, values: Any, dims: str, text: str = "") -> None:
    """Write a variable on named dimensions; one named like its only dimension is its coordinate."""
    data = group.create_dataset(name, data=values)
    if dims == name:
        data.make_scale(name)
    else:
        for index, dim in enumerate(dims.split()):
            data.dims[index].attach_scale(group[dim])
    if text:
        data.attrs["long_name"] = text


def h5_bytes(study: Study, numbers: Sequence[Summary]) -> bytes:
    """Bytes of `variance.h5`: a group for each image shape, and one for each other table of the study."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=LIBVER) as file:
        file.attrs["title"] = "seed variance of a run of jaxstyle"
        file.attrs["confidence"] = stats.CONFIDENCE
        file.attrs["resamples"] = stats.DRAWS
        for shape, spreads in study.of_shape().items():
            own = [numbers[spread.setting.index] for spread in spreads]
            _put_shape(file.create_group(shape), study, spreads, own)
        if study.families:
            _put_families(file.create_group("alpha_beta"), study)
        if study.decompositions is not None:
            _put_components(file.create_group("components"), study)
        if study.floor is not None:
            _put_floor(file.create_group("floor"), study)
    return buffer.getvalue()


def _put_shape(group: h5py.Group, study: Study, spreads: Sequence[Spread], own: Sequence[Summary]) -> None:
    shape = spreads[0].setting.shape
    height, width = spreads[0].mean_picture.shape[:2]
    group.attrs["description"] = "Over the seeds of every setting of this image shape."
    group.attrs["low_pass_sigma_px"] = study.sigma_px[shape]
    _put(group, "setting", np.array([s.setting.index for s in spreads], np.int64), "setting")
    _put(group, "snapshot", np.array(study.snapshots, np.int64), "snapshot")
    _put(group, "step", np.array(spreads[0].steps, np.int64), "step")
    _put(group, "term", texts([quantity(term) for term in study.terms]), "term")
    _put(group, "measure", texts([measure_quantity(m) for m in study.measures]), "measure")
    _put(group, "quantile", np.array(stats.QUANTILES), "quantile")
    _put(group, "y", np.arange(height, dtype=np.int64), "y")
    _put(group, "x", np.arange(width, dtype=np.int64), "x")
    _put(group, "channel", texts("RGB"), "channel")
    for axis in study.axes:
        values = [_axes_of(study, spread)[axis] for spread in spreads]
        _put(group, axis, texts(values) if isinstance(values[0], str) else np.array(values), "setting")
    seeds, diverged = (
        np.array([f(s.setting) for s in spreads], np.int64)
        for f in (lambda s: len(s.seeds), lambda s: s.diverged)
    )
    _put(group, "seeds", seeds, "setting", "seeds that came to an end")
    _put(group, "diverged", diverged, "setting", "cells that diverged and are left out")
    for name in STATISTICS:
        for end, part in (("", 0), ("_low", 1), ("_high", 2)):
            values = np.stack([(n.terms[name][0], *n.terms[name][1])[part] for n in own])
            _put(
                group, name + end, values, "setting snapshot term", f"{name} over seeds{_of_interval(end)}"
            )
    for end in ("", "_low", "_high"):
        values = np.stack([getattr(n, end[1:] or "mean") for n in own])
        text = f"mean distance over pairs of seeds{_of_interval(end)}"
        _put(group, "distance" + end, values, "setting snapshot measure", text)
    curves = np.stack(
        [np.stack([stats.quantile_curves(c) for c in s.curves.T.swapaxes(1, 2)]) for s in spreads]
    )
    _put(
        group,
        "curve",
        curves.swapaxes(1, 3).swapaxes(1, 2),
        "setting quantile step term",
        "losses, quantiles over seeds",
    )
    maps = np.stack([s.sd_map for s in spreads])
    text = "standard deviation over seeds, root mean square over channels, in grey levels"
    _put(group, "pixel_sd", maps[:, 0], "setting y x", text)
    _put(group, LOW + "pixel_sd", maps[:, 1], "setting y x", f"{text}, of the low-passed pictures")
    means = np.stack([s.mean_picture for s in spreads]).astype(np.float32)
    _put(group, "mean_picture", means, "setting y x channel", "mean over seeds")
    for name in sorted(set(group) - {*study.axes, *_SCALES}):
        group[name].attrs["coordinates"] = " ".join(study.axes)


def _of_interval(end: str) -> str:
    return {"": "", "_low": ", lower end of its interval", "_high": ", upper end of its interval"}[end]


def _put_families(group: h5py.Group, study: Study) -> None:
    group.attrs["description"] = "Distances between seeds beside those between values of alpha-beta."
    _put(group, "family", np.arange(len(study.families)), "family")
    _put(group, "measure", texts([measure_quantity(m) for m in study.measures]), "measure")
    _put(group, "label", texts([f.label for f in study.families]), "family")
    for name in ("between_seeds", "between_ratios"):
        values = [[getattr(f, name)[m] for m in study.measures] for f in study.families]
        _put(group, name, np.array(values), "family measure", "mean distance")
    for name, part in (("ratio", "value"), ("ratio_low", "low"), ("ratio_high", "high")):
        values = [[getattr(f.ratio[m], part) for m in study.measures] for f in study.families]
        _put(group, name, np.array(values), "family measure", "between seeds over between ratios")


def _put_components(group: h5py.Group, study: Study) -> None:
    assert study.decompositions is not None
    terms = study.decompositions.terms
    group.attrs["description"] = "Variance components: of ln of the losses, and of the pixels of pictures."
    _put(group, "term", texts([quantity(d.term) for d in terms]), "term")
    _put(group, "component", texts([c.name for c in terms[0].components]), "component")
    _put(group, "df", np.array([c.df for c in terms[0].components], np.int64), "component")
    for name in ("variance", "sum_of_squares"):
        values = [[float(getattr(c, name)) for c in d.components] for d in terms]
        _put(group, name, np.array(values), "term component")
    _put(group, "share", np.array([d.shares for d in terms]), "term component")


def _put_floor(group: h5py.Group, study: Study) -> None:
    assert study.floor is not None
    rows = [*study.floor.rows, study.floor.between]
    group.attrs["description"] = "How far cells are from themselves when they are computed again."
    group.attrs["setting"] = study.floor.label
    group.attrs["steps"] = study.floor.steps
    _put(group, "variant", texts([row.name for row in rows]), "variant")
    _put(group, "seed", np.array(study.floor.seeds, np.int64), "seed")
    for name in ("rmse", "largest", "loss", "first_loss"):
        _put(group, name, np.array([getattr(row, name) for row in rows]), "variant")
