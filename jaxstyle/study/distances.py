"""Distances between pictures of a run: of their pixels, of their low-pass, and of their features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxstyle.inputs import weights
from jaxstyle.plan.nominal_rates import nominal_platform, uses_winograd
from jaxstyle.plan.programs import Program
from jaxstyle.rundir.records import Record
from jaxstyle.spec import plugins, tables
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.study import stats
from jaxstyle.study.model import LOW

FEATURE_LAYERS = ("conv2_1", "conv4_1")
"""Layers in which pictures are compared by features: strokes and grain, and larger forms."""


class Network:
    """The run's network, for features of single pictures and Gram matrices of styles.

    All pictures are seen with the pooling and padding of the first cell, so that they can be compared.

    Args:
        record: the run.
        device: the device to compute on.

    Raises:
        JaxstyleError: if the weights are not those of the run, or its pooling is a plugin's that is not
            loaded.
    """

    def __init__(self, record: Record, device: Any):
        from jaxstyle.device.engine import Engine

        sweep = record.sweep
        plugins.check_has_functions(tables.POOLINGS[record.cells[0].pool])
        loaded = weights.load(sweep.weights, network=sweep.network, pool=record.cells[0].pool)
        if (had := record.manifest.get("weights", {}).get("sha256")) not in (None, loaded.sha256):
            raise JaxstyleError(
                "weights",
                f"{loaded.path} has sha256 {loaded.sha256}, {record.path} was made with {had}; restore it",
            )
        self._sweep, self._first = sweep, record.cells[0]
        winograd = uses_winograd(sweep, nominal_platform(device.platform))
        self._engine = Engine(loaded.layers, device=device, winograd=winograd)

    def _program(self, shape: tuple[int, int], content: Sequence[str], style: Sequence[str]) -> Program:
        first, taps = self._first, (tuple(content), tuple(style))
        own = first.pool, self._sweep.optimizer, "f32"
        return Program(*shape, *own, *taps, width=1, padding=first.padding)

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


def shape_px(shape: str) -> tuple[int, int]:
    """The (height, width) in px that a shape `HxW` stands for."""
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


def image_versions(pictures: np.ndarray, sigma_px: float) -> Iterator[tuple[str, np.ndarray]]:
    """Pairs (prefix, pictures): the pictures as they are, and low-passed."""
    plain = pictures.astype(np.float64)
    yield "", plain
    yield LOW, np.stack([stats.low_pass(picture, sigma_px) for picture in plain])


def distance_matrices(
    pictures: np.ndarray, pairs: Sequence[tuple[int, int]], network: Network, sigma_px: float
) -> dict[str, np.ndarray]:
    """Distance matrices (n, n) of uint8 pictures (n, h, w, 3), by measure; NaN for other pairs."""
    found = {}
    for prefix, versions in image_versions(pictures, sigma_px):
        views = [_view(pixels, network) for pixels in versions]
        for name, measure in MEASURES.items():
            found[prefix + name] = stats.pairwise(views, measure, pairs)
    return found
