"""Defaults of the settings that decide how a picture looks.

They belong together: a ratio of the paper means something for its formulas alone, and a ratio that was
measured best for the settings that it was measured with. So there are two sets. A sweep that names none of
these settings gets `CHOSEN`, the values with which pictures came out best (docs/look.md). One that names
any of them gets the paper's formulas in `PAPER` for all others, and for those of earlier versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jaxstyle.spec.values import AUTO, as_values

PAPER: Mapping[str, Any] = {
    "alpha_beta": (1e-3,),
    "style_weights": ("equal",),
    "network": "raw",
    "pool": ("avg",),
    "padding": ("zeros",),
    "clamp": (False,),
    "style_loss": ("gram",),
}
"""Values of every earlier version, by setting: the paper's formulas on the network as it was published."""
CHOSEN: Mapping[str, Any] = {
    **PAPER,
    "alpha_beta": ("0.1x",),
    "style_weights": ("balanced",),
    "padding": ("replicate",),
    "clamp": (True,),
}
"""Values for a sweep that names none of these settings."""


def is_named(setting: str, value: Any) -> bool:
    """Whether a setting of `PAPER` has been given a value, other than one that it has in both sets."""
    own, paper = as_values(value), as_values(PAPER[setting])
    usual = PAPER[setting] == CHOSEN[setting] and [*map(type, own)] == [*map(type, paper)] and own == paper
    return not (usual or _is_unnamed(value))


def _is_unnamed(value: Any) -> bool:
    return all(one is None or (isinstance(one, str) and one == AUTO) for one in as_values(value))


def filled(given: Mapping[str, Any], tables: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], bool]:
    """Values of all settings of `PAPER`, from one of the two sets where a setting is not named.

    Args:
        given: their values as they were given.
        tables: tables of axis values that stand for those in `given`.

    Returns:
        The values, and whether no setting is named.
    """
    every = (given, *tables)
    named = any(is_named(name, of[name]) for of in every for name in PAPER if name in of)
    found = PAPER if named else CHOSEN
    return {name: found[name] if _is_unnamed(given[name]) else given[name] for name in PAPER}, not named
