"""The fingerprint of a chunk: a digest of all that decides its bytes, so that no run uses another's files.

Every chunk file and checkpoint carries the fingerprint of its chunk. A reader recomputes it from the run's
spec and manifest, and rejects a file whose fingerprint differs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxstyle.plan.cells import Cell
from jaxstyle.plan.chunks import Plan
from jaxstyle.plan.masks import Masks, masks_of
from jaxstyle.spec import blends, settings
from jaxstyle.spec.defaults import PAPER
from jaxstyle.spec.regions import MASKS
from jaxstyle.spec.retired import RETIRED
from jaxstyle.spec.settings import AXES, AXIS_ROWS, LATER, SETTINGS, WERE_SETTINGS, Sweep
from jaxstyle.spec.values import AUTO

SCHEMA = 4
"""Version of the format of chunk files, `results.*` and `manifest.json`."""


@dataclass(frozen=True)
class Sources:
    """The inputs of a run."""

    sweep: Sweep
    images: Mapping[str, str]
    """SHA-256 of every image, by path."""
    weights: str
    """SHA-256 of the network's weights."""


def fingerprint(sources: Sources, plan: Plan, number: int) -> str:
    """SHA-256 of everything that decides the bytes of a chunk, except software versions and the machine.

    Images and weights are identified by their contents, not by their paths.
    """
    chunk, digests = plan.chunks[number], sources.images
    cells = [plan.cells[i] for i in chunk.cells]
    shared = _shared(cells)
    masks = masks_of(sources.sweep) if any(cell.regions == MASKS for cell in cells) else {}
    values = {
        "schema": SCHEMA,
        "settings": _settings(sources.sweep) | _as_settings(shared),
        "program": plan.programs[chunk.program].record(),
        "cells": [
            {axis: _contents(value, digests) for axis, value in _values(cell, shared).items()}
            | _masks(cell, masks, digests)
            | {"from": None}  # the cell whose picture it started from, when `warm_steps` was a setting
            for cell in cells
        ],
        "weights": sources.weights,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _masks(cell: Cell, masks: Masks, digests: Mapping[str, str]) -> dict[str, Any]:
    """The digests of a cell's masks, if it has some."""
    if cell.regions != MASKS:
        return {}
    images = [("content", cell.content), *(("style", path) for path in blends.files_of(cell.style))]
    return {"masks": [digests.get(masks[image], masks[image]) for image in images]}


def _contents(value: Any, digests: Mapping[str, str]) -> Any:
    """The digest of a file, the digests and weights of a blend; any other value as it is."""
    if blends.is_blend(value):
        return [[digests.get(path, path), weight] for path, weight in blends.parts_of(value)]
    return digests.get(value, value)


def _settings(sweep: Sweep) -> dict[str, Any]:
    """Settings that affect the numbers of a cell, without later additions that are at their default.

    In this way, runs that were begun before those additions existed can be resumed.
    """
    defaults = {**{f.name: f.default for f in dataclasses.fields(Sweep)}, **PAPER}
    found = {name: retired.default for name, retired in RETIRED.items()}
    for name, row in SETTINGS.items():
        value = getattr(sweep, name)
        if row.numbers and not (row.later and value == defaults[name]):
            found[name] = value
    return found | {name: value for name, value in sweep.extra.items() if not settings.is_axis(name)}


def _shared(cells: Sequence[Cell]) -> dict[str, Any]:
    """The values of the axes that were settings before, where the cells of a chunk have them in common."""
    found = {name: {getattr(cell, name) for cell in cells} for name in WERE_SETTINGS}
    return {name: own.pop() for name, own in found.items() if len(own) == 1}


def _as_settings(shared: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of shared values among the settings, as when they were settings."""
    unsaid = {name: AXIS_ROWS[name].unsaid for name in shared}
    said = {name: value for name, value in shared.items() if value != unsaid[name]}
    return {name: None if value == AUTO else value for name, value in said.items()}


def _values(cell: Cell, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Values that tell a cell from others: its axes, except shared settings, and what was measured."""
    values = dataclasses.asdict(cell)
    del values["coloured_by"]  # a setting and the content say it already
    later = {name: values.pop(name) for name in ("extra", *LATER) if name in values}
    if not (cell.balanced or cell.alpha_beta_given):
        values = {name: values[name] for name in ("id", *AXES)}
    own = {name: value for name, value in later.items() if name not in shared}
    return values | {
        name: value
        for name, value in own.items()
        if name in WERE_SETTINGS or value not in ((), *LATER.get(name, ()))
    }


def narrowed_to(plan: Plan, number: int, width: int) -> Plan:
    """The plan with a chunk narrowed to `width`, or unchanged if halving its width never gives `width`."""
    narrower = plan
    while (own := narrower.programs[narrower.chunks[number].program].width) > max(width, 1):
        narrower = narrower.narrowed({number})
    return narrower if own == width else plan
