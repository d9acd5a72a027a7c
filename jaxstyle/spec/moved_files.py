"""A sweep whose files have other names now, and the files that it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxstyle.spec import blends
from jaxstyle.spec.blends import files_of
from jaxstyle.spec.regions import as_colour
from jaxstyle.spec.settings import MASK_KEYS, PATH_AXES, Sweep


def with_names(value: Any, names: Mapping[str, str]) -> Any:
    """Tables with some paths replaced, by their old paths."""
    if isinstance(value, str):
        return with_name(value, names)
    if isinstance(value, list | tuple):
        return [with_names(item, names) for item in value]
    if isinstance(value, Mapping):
        return {key: with_names(item, names) for key, item in value.items()}
    return value


def with_name(value: str, names: Mapping[str, str]) -> str:
    """A path, a blend or a word with some paths replaced, by their old paths."""
    return blends.renamed(value, lambda path: names.get(path, path))


def renamed(sweep: Sweep, names: Mapping[str, Mapping[str, str]]) -> Sweep:
    """A resolved sweep with some paths replaced.

    Args:
        names: new paths by old ones, for each axis of paths, the masks and `weights`.
    """

    def axis(table: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: tuple(with_name(v, names[key]) for v in value) if key in PATH_AXES else value
            for key, value in table.items()
        }

    every = {old: new for own in names.values() for old, new in own.items()}
    weights = sweep.weights and names["weights"].get(sweep.weights, sweep.weights)
    return dataclasses.replace(
        sweep,
        **axis({key: getattr(sweep, key) for key in PATH_AXES}),
        weights=weights,
        **{key: tuple(names[key].get(path, path) for path in getattr(sweep, key)) for key in MASK_KEYS},
        grid=tuple(axis(table) for table in sweep.grid),
        balance=tuple(
            {**t, **{a: with_name(t[a], names[a]) for a in ("content", "style")}} for t in sweep.balance
        ),
        digests={every.get(path, path): digest for path, digest in sweep.digests.items()},
        given={(a, with_name(path, names[a])): text for (a, path), text in sweep.given.items()},
    )


def named_files(sweep: Sweep) -> tuple[str, ...]:
    """The absolute paths of all files that a resolved sweep names, each once."""
    every = (*({axis: getattr(sweep, axis) for axis in PATH_AXES},), *sweep.grid)
    named = [v for t in every for axis in PATH_AXES for value in t.get(axis, ()) for v in files_of(value)]
    masks = [path for key in MASK_KEYS for path in getattr(sweep, key) if as_colour(path) is None]
    return tuple(dict.fromkeys([*named, *masks, *([sweep.weights] if sweep.weights else [])]))
