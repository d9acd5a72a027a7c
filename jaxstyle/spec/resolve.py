"""A sweep with every value checked and in one form.

`resolve` turns a `Sweep`, as flags, TOML or Python give it, into the one that planning starts from. Each
error is a `JaxstyleError` whose text is a single line: `<what>: <why, with the value, the limit and the
fix>`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from jaxstyle.spec import blends, defaults, settings
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.fields import MAX_CELLS, MAX_STEPS
from jaxstyle.spec.mask_order import as_checked
from jaxstyle.spec.paths import taken_from
from jaxstyle.spec.regions import as_regions
from jaxstyle.spec.settings import (
    AXIS_ROWS,
    BALANCED_AXES,
    LATER,
    OPTION_KEYS,
    PATH_AXES,
    SETTINGS,
    SEVERAL,
    SWEEP_KEYS,
    WERE_SETTINGS,
    Sweep,
)
from jaxstyle.spec.tables import NETWORK_AXES, OPTIMIZERS, POOLINGS, optional_terms
from jaxstyle.spec.unknown_names import unknown_key
from jaxstyle.spec.values import (
    FLOAT32_MAX,
    NONE,
    WORDS,
    as_choice,
    as_flag,
    as_integer,
    as_number,
    as_sha256,
    as_style_size,
    as_text,
    as_values,
    is_path,
    layer_name,
    plain_value,
    relative_factor,
    shown,
    style_set,
)

LEARNING_RATE = 10.0
"""Default of the learning rate, which optimizers have in common."""
FAST_SHARE = 4
"""Number of Adam's steps that one step of its fast twin replaces."""


def axis_values(axis: str, raw: Any, *, max_cells: int) -> tuple[Any, ...]:
    """The checked values of one axis: numbers as numbers, paths absolute, ranges of seeds expanded.

    Raises:
        JaxstyleError: for an empty axis, a value out of its range, or a value that is given twice.
    """
    items = list(raw) if isinstance(raw, list | tuple | range) else [raw]
    if several := [item for item in items if isinstance(item, Iterator | Set)]:
        why = f"a {type(several[0]).__name__} is read but once, or in any order; give a list"
        raise JaxstyleError(axis, why)
    if not items:
        raise JaxstyleError(axis, "the axis is empty; give at least one value")
    row, found = settings.axis_row(axis), []
    for item in items:
        found += row.parse(axis, item, max_cells)
        if len(found) > max_cells:
            raise JaxstyleError(axis, f"has more than {max_cells} values; see --max-cells")
    seen: set[Any] = set()
    for value in found:
        if (key := row.same(value)) in seen:
            told = blends.text_of(value) if blends.is_blend(value) else value
            raise JaxstyleError(axis, f"{told} is given twice; give each value once")
        seen.add(key)
    return tuple(found)


def _resolve_grid(table: Mapping[str, Any], sweep: Sweep) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise JaxstyleError("grid", "a grid is a table of axes; write [[grid]]")
    for key in table:
        if not isinstance(key, str):
            raise JaxstyleError("grid", f"{shown(key)} is not the name of an axis")
        if key != "zip" and not settings.is_axis(key):
            if key in (*SETTINGS, *OPTION_KEYS):
                why = "has one value for all cells of a run; write it above the first [[grid]]"
                raise JaxstyleError(f"grid.{key}", why)
            raise unknown_key(key, (*AXIS_ROWS, *settings.added(), "zip"), what=f"grid.{key}")
    axes = settings.axes_with(table)
    grid: dict[str, Any] = {
        axis: axis_values(axis, table[axis], max_cells=sweep.max_cells) for axis in axes if axis in table
    }
    zipped = table.get("zip", ())
    if not isinstance(zipped, list | tuple) or not all(
        isinstance(a, str) and settings.is_axis(a) for a in zipped
    ):
        raise JaxstyleError("grid.zip", f'{shown(zipped)} must list axes, as in zip = ["content", "style"]')
    if len(set(zipped)) != len(zipped) or len(zipped) == 1:
        raise JaxstyleError("grid.zip", f"{list(zipped)} must name two or more different axes")
    lengths = {axis: len(grid.get(axis, getattr(sweep, axis))) for axis in zipped}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{axis} has {n}" for axis, n in lengths.items())
        raise JaxstyleError("grid.zip", f"zipped axes need equally many values: {counts}")
    if zipped:
        grid["zip"] = tuple(zipped)
    return grid


def _balance(table: Any, common: Mapping[str, Any]) -> dict[str, Any]:
    """A checked table of `Sweep.balance`; axes that it lacks have the run's own value, in `common`."""
    what = "balance"
    if isinstance(table, Mapping):
        style = {"style": blends.taken("style", table["style"], "")} if "style" in table else {}
        table = {**common, "regions": NONE, **table, **style}
    if not isinstance(table, Mapping) or set(table) != {*BALANCED_AXES, "alpha_beta", "weights"}:
        raise JaxstyleError(what, "a table has an unknown form; leave it out and it is measured again")
    found: dict[str, Any] = {
        axis: as_text(what, table[axis]) for axis in BALANCED_AXES if axis != "style_size"
    }
    as_regions(what, found["regions"])
    for axis in NETWORK_AXES:
        settings.axis_row(axis).parse(axis, found[axis], 1)
    found["style_size"] = as_style_size(what, table["style_size"])
    layer_name(what, found["content_layer"])
    files = [axis for axis in ("content", "style") if is_path(found[axis])]
    found |= {axis: os.path.abspath(found[axis]) for axis in files}
    names = {name for name, _ in style_set(found["style_layers"])}
    if not isinstance(table["weights"], Mapping) or set(table["weights"]) != names:
        raise JaxstyleError(what, f"weights must name {', '.join(sorted(names))}, each once")
    weights = {name: as_number(what, w, minimum=0.0) for name, w in table["weights"].items()}
    ratio = as_number(what, table["alpha_beta"], minimum=0.0)
    return {**found, "alpha_beta": ratio, "weights": weights}


def _twin(sweep: Sweep, optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """The optimizer settings of the `fast` twin of a sweep; `optimizer` holds those of the sweep itself."""
    if optimizer["optimizer"] != "adam":
        raise JaxstyleError("fast", "is for sweeps with adam; lbfgs is fast without it")
    tables = [table for table in sweep.grid if isinstance(table, Mapping)]
    rates = [sweep.learning_rate, *(table.get("learning_rate", ()) for table in tables)]
    if any(isinstance(values, list | tuple) and len(values) > 1 for values in rates):
        raise JaxstyleError("fast", "several learning rates are for Adam; give one or none")
    bounds = {"minimum": 1, "maximum": MAX_STEPS}
    given = [as_integer("steps", n, **bounds) for n in optimizer["steps"]]
    steps = tuple(-(-n // FAST_SHARE) for n in given)
    if len({*steps}) < len({*given}):
        told = [", ".join(map(str, of)) for of in (given, steps)]
        raise JaxstyleError("steps", f"{told[0]} are {told[1]} steps of the twin; give some further apart")
    return _resolve_optimizer(
        dataclasses.replace(
            sweep,
            fast=False,
            optimizer="lbfgs",
            schedule="constant",
            learning_rate=(),
            pyramid=sweep.pyramid,
            steps=steps,
            grid=tuple({k: v for k, v in table.items() if k != "learning_rate"} for table in tables),
        )
    )


def _resolve_optimizer(sweep: Sweep) -> dict[str, Any]:
    """The optimizer of a sweep and all settings that depend on it, by name."""
    rates = sweep.learning_rate != () or any(
        isinstance(table, Mapping) and "learning_rate" in table for table in sweep.grid
    )
    name = as_choice("optimizer", sweep.optimizer, ("auto", *OPTIMIZERS.names))
    schedule = as_choice("schedule", sweep.schedule, ("constant", "decay"))
    if name == "auto":
        adams = schedule == "decay" or (rates and sweep.lbfgs_memory is None)
        name = "adam" if adams else "lbfgs"
    row = OPTIMIZERS[name]
    if schedule == "decay" and not row.decays:
        raise JaxstyleError("schedule", "decay is for Adam; leave it out or give --optimizer adam")
    own, extra = _own_settings(sweep, name), dict(sweep.extra)
    for key in {key for other in OPTIMIZERS for key in other.own}:
        extra.pop(key, None)
    extra |= {key: own.pop(key) for key in tuple(own) if key not in SETTINGS}
    found = {
        "optimizer": name,
        "schedule": schedule,
        "pyramid": row.pyramid if sweep.pyramid is None else sweep.pyramid,
        "learning_rate": (LEARNING_RATE,) if sweep.learning_rate == () else sweep.learning_rate,
        "steps": (row.steps,) if sweep.steps == () else sweep.steps,
        "grid": sweep.grid,
        "fast": False,
        "extra": extra,
        **own,
    }
    return _twin(sweep, found) if as_flag("fast", sweep.fast) else found


def _own_settings(sweep: Sweep, optimizer: str) -> dict[str, Any]:
    """The optimizer's own settings, and None for those of other optimizers, which must not be given."""
    found: dict[str, Any] = {}
    for row in OPTIMIZERS:
        for name, default in row.own.items():
            value = getattr(sweep, name) if name in SETTINGS else sweep.extra.get(name)
            if row.name != optimizer:
                if value is not None and name not in OPTIMIZERS[optimizer].own:
                    why = f"{optimizer} does not have it; leave it out or give --optimizer {row.name}"
                    raise JaxstyleError(name, why)
                if name in SETTINGS:
                    found.setdefault(name, None)
                continue
            value = default if value is None else value
            check = SETTINGS[name].check if name in SETTINGS else None
            if check is not None:
                found[name] = check(name, value)
            elif isinstance(default, int):
                found[name] = as_integer(name, value, minimum=0, maximum=2**31 - 1)
            else:
                found[name] = as_number(name, value, minimum=-FLOAT32_MAX)
    return found


def _resolve_extra(sweep: Sweep, max_cells: int) -> dict[str, Any]:
    """Checked values of the axes and settings that are not fields; axes only if not at their default."""
    for name in sweep.extra:
        if name not in settings.added():
            raise unknown_key(str(name), (*SWEEP_KEYS, *settings.added()), what=str(name))
    found = {}
    for name, default in settings.added().items():
        if name not in sweep.extra:
            continue
        value = sweep.extra[name]
        if settings.is_axis(name):
            value = axis_values(name, value, max_cells=max_cells)
        if not (settings.is_axis(name) and value == default):
            found[name] = value
    return found


def rows_used(sweep: Sweep) -> tuple[Any, ...]:
    """The loss terms, optimizer and pooling that compute a resolved sweep, except terms of every run."""
    every = grids_of(sweep)
    terms = [row for row in optional_terms() if any(any(table.get(row.weight, ())) for table in every)]
    return (*terms, OPTIMIZERS[sweep.optimizer], *(POOLINGS[name] for name in used_values(sweep, "pool")))


def used_values(sweep: Sweep, axis: str) -> tuple[Any, ...]:
    """The values of an axis in all grids of a resolved sweep, each once."""
    return tuple(dict.fromkeys(value for table in grids_of(sweep, (axis,)) for value in table[axis]))


def _check_means(sweep: Sweep) -> None:
    """Raise JaxstyleError for poolings that would need a normalised network each."""
    pools = used_values(sweep, "pool")
    if sweep.network == "normalised" and len({POOLINGS[name].means or name for name in pools}) > 1:
        why = f"{' and '.join(pools)} have different normalised networks"
        raise JaxstyleError("pool", f"{why}; give --network raw, or a sweep for each")


def _plain(sweep: Sweep) -> Sweep:
    """`sweep` with plain values of Python for those of NumPy and others; tables must be tables."""
    if not isinstance(sweep.grid, list | tuple):
        raise JaxstyleError("grid", f"{shown(sweep.grid)} is not a list of tables of axes; write [[grid]]")
    if not all(isinstance(table, Mapping) for table in sweep.grid):
        raise JaxstyleError("grid", "a grid is a table of axes; write [[grid]]")
    if not isinstance(sweep.digests, Mapping):
        raise JaxstyleError("digests", 'write a table: [digests] "path" = "sha256"')
    if not isinstance(sweep.extra, Mapping):
        raise JaxstyleError("extra", f"{shown(sweep.extra)} is not a table of settings by name")
    return dataclasses.replace(
        sweep,
        **{
            name: plain_value(getattr(sweep, name)) for name in SWEEP_KEYS if name not in (*SEVERAL, "grid")
        },
        **{name: as_values(plain_value(getattr(sweep, name))) for name in SEVERAL},
        grid=tuple({key: plain_value(value) for key, value in table.items()} for table in sweep.grid),
        extra={name: plain_value(value) for name, value in sweep.extra.items()},
    )


def _with_defaults(sweep: Sweep) -> Sweep:
    """`sweep` with values for the settings of `defaults.PAPER` that are not named."""
    found, unnamed = defaults.filled({name: getattr(sweep, name) for name in defaults.PAPER}, sweep.grid)
    return dataclasses.replace(sweep, **found, balance_optional=sweep.balance_optional or unnamed)


def resolve(sweep: Sweep) -> Sweep:
    """`sweep` with every value checked and in its one form, as planning and `spec.toml` need it.

    Relative paths are relative to the current directory; files are not opened.

    Raises:
        JaxstyleError: for the first setting that is wrong.
    """
    sweep = _with_defaults(_plain(sweep))
    max_cells = as_integer("max_cells", sweep.max_cells, minimum=1, maximum=MAX_CELLS)
    sweep = dataclasses.replace(sweep, **_resolve_optimizer(sweep))
    given = dict(sweep.given)
    for table in ({axis: getattr(sweep, axis) for axis in PATH_AXES}, *sweep.grid):
        given = path_texts(table, Path.cwd()) | given
    axes = [axis for axis in SEVERAL if settings.is_axis(axis)]
    needed = [axis for axis in axes if not sweep.grid or any(axis not in table for table in sweep.grid)]
    for axis in ("content", "style"):
        if axis in needed and not getattr(sweep, axis):
            texture = ", --content none for a texture," if axis == "content" else ""
            why = f"no {axis} image; give --{axis} PATH{texture} or --preset demo"
            raise JaxstyleError(axis, why)
    # One that every grid has its own values of need not be given; what is given is checked all the same.
    found: dict[str, Any] = {}
    for axis in axes:
        raw = getattr(sweep, axis)
        several = raw if isinstance(raw, list | tuple) else (raw,)
        is_given = axis in needed or any(value is not None for value in several)
        found[axis] = axis_values(axis, raw, max_cells=max_cells) if is_given else ()
    extra = _resolve_extra(sweep, max_cells)
    checked: dict[str, Any] = {}
    for name, row in SETTINGS.items():
        if row.check is not None:
            value = getattr(sweep, name)
            value = () if value is None and name in settings.MASK_KEYS else value
            checked[name] = None if value is None else row.check(name, value)
    common = {axis: (found.get(axis) or LATER[axis])[0] for axis in WERE_SETTINGS if axis in BALANCED_AXES}
    resolved = dataclasses.replace(
        sweep,
        **found,
        **checked,
        digests={os.path.abspath(path): as_sha256(path, text) for path, text in sweep.digests.items()},
        balance=tuple(_balance(table, common) for table in sweep.balance),
        given=given,
        extra=extra,
    )
    _check_finish(resolved)
    grids = tuple(_resolve_grid(table, resolved) for table in sweep.grid)
    for ratio in (ratio for of in (found, *grids) for ratio in of.get("alpha_beta", ())):
        if relative_factor(ratio) is None and ratio * resolved.beta > FLOAT32_MAX:
            raise JaxstyleError("alpha_beta", f"{ratio} x beta {resolved.beta} is beyond float32")
    resolved = dataclasses.replace(resolved, grid=grids)
    if resolved.style_mask:
        styles = (v for table in sweep.grid or ({},) for v in as_values(table.get("style", sweep.style)))
        written = (path for value in styles for path in blends.written_files("style", value))
        masks = as_checked(resolved.style_mask, written, grids_of(resolved, ["regions"]))
        resolved = dataclasses.replace(resolved, style_mask=masks)
    _check_means(resolved)
    plugins = {as_sha256("a plugin", digest) for digest in as_values(sweep.plugins)}
    plugins = plugins or {row.origin.sha256 for row in rows_used(resolved) if row.origin is not None}
    return dataclasses.replace(resolved, plugins=tuple(sorted(plugins)))


def _has_finish(sweep: Sweep) -> bool:
    return sweep.finish != Sweep.finish


def _check_finish(sweep: Sweep) -> None:
    """Raise JaxstyleError for values of a finish that is not asked for, and for a finish without values."""
    wanted = {name: getattr(sweep, name) for name in ("rms_contrast", "mean_luminance")}
    given = [name for name, value in wanted.items() if value is not None]
    if sweep.finish != "contrast" and given:
        raise JaxstyleError(given[0], "is for --finish contrast; give that too, or leave it out")
    if sweep.finish == "contrast" and not given:
        raise JaxstyleError("finish", "contrast needs --rms-contrast, --mean-luminance or both")
    missing = [flag for flag, of in (("--crops", sweep.crops), ("--finish", _has_finish(sweep))) if not of]
    if sweep.finish_crops and missing:
        raise JaxstyleError(
            "finish_crops", f"needs {' and '.join(missing)}; give that too, or leave it out"
        )


def differing_settings(own: Sweep, other: Sweep) -> list[str]:
    """Differences in the settings of two resolved sweeps, as in `size is 256 there and 192 here`."""
    names = [name for name, row in SETTINGS.items() if row.same and name != "plugins"]
    more = {name for of in (own, other) for name in of.extra if not settings.is_axis(name)}
    pairs = {name: (getattr(own, name), getattr(other, name)) for name in names}
    pairs |= {name: (own.extra.get(name), other.extra.get(name)) for name in sorted(more)}
    texts = {
        name: [", ".join(map(str, v)) or NONE if isinstance(v, tuple) else v for v in pair]
        for name, pair in pairs.items()
        if pair[0] != pair[1]
    }
    return [f"{name} is {had} there and {has} here" for name, (had, has) in texts.items()]


def grids_of(sweep: Sweep, more: Iterable[str] = ()) -> tuple[Mapping[str, Any], ...]:
    """The grids of a resolved sweep, each with the values of all its axes and of those in `more`."""
    top = {axis: getattr(sweep, axis) for axis in settings.axes_with({*sweep.axes, *more})}
    return tuple({**top, **table} for table in sweep.grid or ({},))


def path_texts(
    table: Mapping[str, Any], base: Path, known: Collection[str] = ()
) -> dict[tuple[str, str], str]:
    """Every path, blend and part of a blend in `table` as the user wrote it, by axis and checked value.

    The other arguments are those of `blends.taken`.
    """
    given: dict[tuple[str, str], str] = {}
    parts: dict[tuple[str, str], str] = {}
    for axis in PATH_AXES:
        values = table.get(axis, ())
        for value in values if isinstance(values, list | tuple) else [values]:
            table_of = axis == blends.AXIS and isinstance(value, Mapping)
            if table_of or (isinstance(value, str | os.PathLike) and value not in WORDS.get(axis, ())):
                path = os.fspath(value) if isinstance(value, os.PathLike) else None
                found = blends.taken(axis, value, base, known) if path is None else taken_from(base, path)
                given[axis, found] = blends.text_of(value)
                if blends.is_blend(found) and not blends.is_blend(value):
                    texts = blends.written_files(axis, value, base, known)
                    parts |= {(axis, file): text for file, text in texts.items()}
    return parts | given
