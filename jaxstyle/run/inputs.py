"""The inputs of a run: a resolved sweep, its images and its weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from jaxstyle.console.progress import counted
from jaxstyle.inputs.pictures import Pictures, check_digest
from jaxstyle.inputs.region_maps import RegionMaps
from jaxstyle.inputs.target_files import check_made_for
from jaxstyle.inputs.weights import Weights, load
from jaxstyle.plan.cells import Cell, balanced_cells, needs_balance, sweep_cells
from jaxstyle.plan.masks import with_masks
from jaxstyle.rundir.fingerprints import Sources
from jaxstyle.rundir.picture_names import PictureNames
from jaxstyle.spec import plugins
from jaxstyle.spec.blends import files_of
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.folders import FOLDER_AXES, without
from jaxstyle.spec.regions import MASKS
from jaxstyle.spec.resolve import used_values
from jaxstyle.spec.settings import Sweep
from jaxstyle.vgg import layers

MAX_NAMED = 4
"""The most regions that a note names."""


@dataclass(frozen=True)
class Inputs:
    """The checked inputs of cells: settings, images and weights."""

    sweep: Sweep
    """The resolved sweep."""
    cells: tuple[Cell, ...]
    pictures: Pictures
    weights: Weights
    skipped: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """Why images were left out that cannot be read, by path."""

    @property
    def sources(self) -> Sources:
        """Digests of everything that the numbers depend on."""
        return Sources(self.sweep, self.pictures.sha256, self.weights.sha256)


def read_inputs(
    sweep: Sweep,
    *,
    in_memory: Mapping[str, np.ndarray] | None = None,
    skip_bad: bool | None = None,
    needed: Collection[str] = (),
    on_read: Callable[[int, int], None] = lambda done, total: None,
) -> Inputs:
    """The cells of a resolved sweep, its images and its weights.

    Args:
        sweep: resolved.
        in_memory: see `Pictures`.
        skip_bad: whether contents and styles that cannot be read are left out; None if that cannot be
            asked for.
        needed: images that are never left out.
        on_read: see `Pictures`.

    Raises:
        JaxstyleError: for a file that cannot be used or is not the one of `sweep.digests`.
    """
    plugins.check(sweep)
    several = {path for axis in FOLDER_AXES for path in _values(sweep, axis)}
    skipped: dict[str, str] = {}

    def unusable(path: str, error: JaxstyleError) -> None:
        if skip_bad is None or path in needed or path not in several:
            raise error
        if not skip_bad:
            raise error.with_mend("or give --skip-bad to go on without it")
        skipped[path] = str(error).removeprefix(f"{path}: ")

    cells = sweep_cells(sweep)
    pictures = Pictures(sweep, cells, in_memory=in_memory, unusable=unusable, on_read=on_read)
    if skipped:
        sweep = with_masks(without(sweep, skipped), pictures.masks)
        cells = sweep_cells(sweep)
        pictures.keep(cells)
    taps = {tap for cell in cells for tap in cell.taps}
    loaded = load(sweep.weights, taps=taps, network=sweep.network, pool=cells[0].pool)
    check_digest(loaded.path, loaded.sha256, sweep.digests.get(loaded.path))
    users: dict[str, list[Cell]] = {path: [] for path in pictures.targets}
    for cell in cells if users else ():
        for path in users.keys() & {*files_of(cell.style)}:
            users[path].append(cell)
    for path, own in users.items():
        check_made_for(path, pictures.targets[path], sweep, loaded.sha256, own)
    _note_small_regions(pictures, cells)
    return Inputs(sweep, cells, pictures, loaded, skipped=skipped)


def _note_small_regions(pictures: Pictures, cells: Iterable[Cell]) -> None:
    """Note at their images which regions are too small for a layer, which leaves them out."""
    maps, seen = RegionMaps(pictures), set()
    divided = [cell for cell in cells if maps.count(cell) > 1]
    taps = layers.in_order(tap for cell in divided for tap in cell.layer_weights)
    for cell in divided:
        for source in (None, *(source for source, _ in cell.style_parts)):
            path = cell.shaped_by if source is None else source[0]
            by = cell.content if cell.regions == MASKS else ""
            if (key := (path, source, cell.regions, by)) in seen or path not in pictures.sha256:
                continue
            seen.add(key)
            names: dict[tuple[str, ...], list[str]] = {}
            for name, small in maps.left_out(cell, source, taps).items():
                names.setdefault(tuple(small), []).append(name)
            what = "region" if cell.regions == MASKS else f"tile of {cell.regions}"
            for at, own in names.items():
                some = f"{', '.join(own[:MAX_NAMED])}{' and others' if len(own) > MAX_NAMED else ''}"
                note = f"{what} {some}: too small for {', '.join(at)}, left out there"
                if note not in pictures.notes.get(path, ()):
                    pictures.notes[path] = (*pictures.notes.get(path, ()), note)


def unused_words(inputs: Inputs) -> Iterator[str]:
    """Lines about entries of `[digests]` and `[regions]` that nothing in the run answers to."""
    # A file that is there may belong to what a flag replaces in a spec.
    if lacking := [path for path in inputs.sweep.digests if not os.path.isfile(path)]:
        others = f", nor {counted(len(lacking) - 1, 'file')} more of that table" if lacking[1:] else ""
        yield f"digests: there is no file {lacking[0]}{others}; correct the path, or nothing is compared"
    if inputs.pictures.masks and not inputs.skipped:
        there = inputs.pictures.regions_of_masks
        for colour, name in inputs.sweep.region_names:
            if name not in there:
                yield f"regions: no mask has the colour {colour}, which is to be called {name}"


def _values(sweep: Sweep, axis: str) -> set[str]:
    """The files of an axis, if it has several values."""
    found = used_values(sweep, axis)
    return {path for value in found for path in files_of(value)} if len(found) > 1 else set()


def picture_names(inputs: Inputs) -> PictureNames:
    """The readable names of a run's pictures."""
    return PictureNames(inputs.cells, inputs.sweep.steps, inputs.sweep.given)


AnyInputs = TypeVar("AnyInputs", bound=Inputs)


def calibrated(inputs: AnyInputs, device: Any) -> AnyInputs:
    """`inputs` with a number for every relative ratio and every balanced weight, measured if need be."""
    if not any(needs_balance(cell) for cell in inputs.cells):
        return inputs
    from jaxstyle.device.engine import Engine
    from jaxstyle.device.loss_balance import measure_balances

    # Plain convolutions, whichever the cells use: a balance is a property of the images and the network.
    engine = Engine(inputs.weights.layers, device=device, winograd=False)
    about = {"weights": inputs.weights.sha256}
    sweep = measure_balances(inputs.sweep, inputs.cells, inputs.pictures, engine, **about)
    return replace(inputs, sweep=sweep, cells=balanced_cells(sweep, inputs.cells))
