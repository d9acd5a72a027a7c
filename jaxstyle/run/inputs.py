"""The inputs of a run: a resolved sweep, its images and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from jaxstyle.inputs.pictures import Pictures, check_digest
from jaxstyle.inputs.weights import Weights, load
from jaxstyle.plan.cells import Cell, balanced_cells, needs_balance, sweep_cells
from jaxstyle.rundir.fingerprints import Sources
from jaxstyle.spec import plugins
from jaxstyle.spec.settings import Sweep


@dataclass(frozen=True)
class Inputs:
    """The checked inputs of cells: settings, images and weights."""

    sweep: Sweep
    """The resolved sweep."""
    cells: tuple[Cell, ...]
    pictures: Pictures
    weights: Weights

    @property
    def sources(self) -> Sources:
        """Digests of everything that the numbers depend on."""
        return Sources(self.sweep, self.pictures.sha256, self.weights.sha256)


def read_inputs(sweep: Sweep, *, in_memory: Mapping[str, np.ndarray] | None = None) -> Inputs:
    """The cells of a resolved sweep, its images and its weights.

    Args:
        sweep: resolved.
        in_memory: see `Pictures`.

    Raises:
        JaxstyleError: for a file that cannot be used or is not the one of `sweep.digests`.
    """
    plugins.check(sweep)
    cells = sweep_cells(sweep)
    pictures = Pictures(sweep, cells, in_memory=in_memory)
    taps = {tap for cell in cells for tap in cell.taps}
    loaded = load(sweep.weights, taps=taps, network=sweep.network, pool=sweep.pool)
    check_digest(loaded.path, loaded.sha256, sweep.digests.get(loaded.path))
    return Inputs(sweep, cells, pictures, loaded)


AnyInputs = TypeVar("AnyInputs", bound=Inputs)


def calibrated(inputs: AnyInputs, device: Any) -> AnyInputs:
    """`inputs` with a number for every relative ratio and every balanced weight, measured if need be."""
    if not any(needs_balance(inputs.sweep, cell) for cell in inputs.cells):
        return inputs
    from jaxstyle.device.engine import Engine
    from jaxstyle.device.loss_balance import measure_balances

    # Plain convolutions, whichever the cells use: a balance is a property of the images and the network.
    engine = Engine(inputs.weights.layers, device=device, winograd=False)
    sweep = measure_balances(inputs.sweep, inputs.cells, inputs.pictures, engine)
    return replace(inputs, sweep=sweep, cells=balanced_cells(sweep, inputs.cells))
