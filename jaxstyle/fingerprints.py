"""What the bytes of a chunk follow from, as one digest: nothing of another run is taken for this one's.

A chunk file and a checkpoint carry the fingerprint of their chunk. Who reads them makes it anew from the
run's spec and its manifest, and believes no file that has another one.

Nothing here needs JAX.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxstyle import config, settings
from jaxstyle.grid import Cell, Plan
from jaxstyle.settings import AXES, LATER, SETTINGS, Sweep

SCHEMA = 4
"""Of chunk files, `results.*` and `manifest.json`."""


@dataclass(frozen=True)
class Sources:
    """What a run computes from."""

    sweep: Sweep
    images: Mapping[str, str]
    """SHA-256 of every image, by path."""
    weights: str
    """SHA-256 of the network's."""


def fingerprint(sources: Sources, plan: Plan, number: int) -> str:
    """The SHA-256 of everything that the bytes of a chunk follow from, but versions and the machine.

    Images and weights count by what is in them, wherever they lie.
    """
    chunk, digests = plan.chunks[number], sources.images
    values = {
        "schema": SCHEMA,
        "settings": _settings(sources.sweep),
        "program": plan.programs[chunk.program].record(),
        "cells": [
            {axis: digests.get(value, value) for axis, value in _values(plan.cells[i]).items()}
            | {"from": None}  # the cell whose picture it started from, while `warm_steps` was a setting
            for i in chunk.cells
        ],
        "weights": sources.weights,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _settings(sweep: Sweep) -> dict[str, Any]:
    """The settings that the numbers of a cell follow from; younger ones only where not at their default.

    So runs that were begun before there were these can be gone on with.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(Sweep)}
    found = {name: retired.default for name, retired in config.RETIRED.items()}
    for name, row in SETTINGS.items():
        value = getattr(sweep, name)
        if row.numbers and not (row.later and value == defaults[name]):
            found[name] = value
    return found | {name: value for name, value in sweep.extra.items() if not settings.is_axis(name)}


def _values(cell: Cell) -> dict[str, Any]:
    """What tells a cell from others: its axes, and what was measured for it."""
    values = dataclasses.asdict(cell)
    later = {name: values.pop(name) for name in ("extra", *LATER) if name in values}
    if not (cell.balanced or cell.alpha_beta_given):
        values = {name: values[name] for name in ("id", *AXES)}
    return values | {
        name: value for name, value in later.items() if value not in ((), *LATER.get(name, ()))
    }


def as_narrow(plan: Plan, number: int, width: int) -> Plan:
    """The plan with a chunk at `width`, if halving comes to that; otherwise as it is."""
    narrower = plan
    while (own := narrower.programs[narrower.chunks[number].program].width) > max(width, 1):
        narrower = narrower.narrowed({number})
    return narrower if own == width else plan
