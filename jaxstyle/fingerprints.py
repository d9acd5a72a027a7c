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

from jaxstyle import config
from jaxstyle.config import Sweep
from jaxstyle.grid import Cell, Plan

SCHEMA = 4
"""Of chunk files, `results.*` and `manifest.json`."""
_NO_NUMBERS = (
    "grid",
    "digests",
    "balance",
    "given",
    "weights",
    "max_cells",
    "checkpoint_every",
    "deterministic",
)
"""Settings that decide no number of a cell, or stand in a fingerprint in another form."""


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
    settings = {f.name: getattr(sources.sweep, f.name) for f in dataclasses.fields(Sweep)}
    for name in (*config.AXES, *_NO_NUMBERS):
        del settings[name]
    if settings["style_weights"] == "equal":  # younger than runs that may still be gone on with
        del settings["style_weights"]
    settings |= {name: retired.default for name, retired in config.RETIRED.items()}
    values = {
        "schema": SCHEMA,
        "settings": settings,
        "program": dataclasses.asdict(plan.programs[chunk.program]),
        "cells": [
            {axis: digests.get(value, value) for axis, value in _settings(plan.cells[i]).items()}
            | {"from": None}  # the cell whose picture it started from, while `warm_steps` was a setting
            for i in chunk.cells
        ],
        "weights": sources.weights,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _settings(cell: Cell) -> dict[str, Any]:
    """What tells a cell from others: its axes, and what was measured for it."""
    values = dataclasses.asdict(cell)
    return (
        values if cell.balanced or cell.alpha_beta_given else {k: values[k] for k in ("id", *config.AXES)}
    )


def as_narrow(plan: Plan, number: int, width: int) -> Plan:
    """The plan with a chunk at `width`, if halving comes to that; otherwise as it is."""
    narrower = plan
    while (own := narrower.programs[narrower.chunks[number].program].width) > max(width, 1):
        narrower = narrower.narrowed({number})
    return narrower if own == width else plan
