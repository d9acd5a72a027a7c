"""Configuration of a run, the axes of its grid and its settings, from flags, TOML or Python.

`Sweep` holds what the numbers of a run depend on, `RunOptions` the rest (where to write, how to report).
Both come from users; `resolve` turns a `Sweep` into one whose every value has been checked and has its one
form. Each error is a `JaxstyleError` whose text is a single line:
`<what>: <why, with the value, the limit and the mend>`.

Nothing here needs JAX.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jaxstyle import paths, peers, settings, values
from jaxstyle.errors import JaxstyleError
from jaxstyle.paths import taken_from
from jaxstyle.settings import (
    AXES,
    BALANCED_AXES,
    BALANCED_SETTINGS,
    EXAMPLES,
    OPTION_KEYS,
    OPTIONS,
    PATH_AXES,
    PRESETS,
    SETTINGS,
    SEVERAL,
    SWEEP_KEYS,
    RunOptions,
    Sweep,
)
from jaxstyle.tables import OPTIMIZERS, POOLINGS, optional_terms
from jaxstyle.values import FLOAT32_MAX, INIT_KINDS

MAX_SPEC_BYTES = 16 * 2**20
MAX_SPEC_DEPTH = 8
"""Deepest nesting of tables in a spec; no setting needs more than 3."""
FAST_SHARE = 4
"""Number of Adam's steps that one step of its fast twin replaces."""

PLANNED = {
    "tolerance": "early stopping is not in this version",
}
"""Settings of later versions and the error for each; they are never silently ignored."""


class Retired(NamedTuple):
    """A setting of earlier versions that is gone."""

    default: Any
    """Its value in runs that did not use it; this value is accepted and ignored."""
    why: str
    """The error for any other value."""


RETIRED = {
    "warm_steps": Retired(
        0,
        "started cells from their neighbours' pictures, with mixed gains, and was removed; leave it out, or"
        " open a run that has it with the version that made it",
    ),
}
"""Settings that are gone; runs that can be resumed have them at their defaults."""


def unknown_key(
    key: str, known: Iterable[str], *, what: str, positional: Sequence[str] = ()
) -> JaxstyleError:
    """The error for an unknown name; it suggests what other projects mean by it, or the nearest known name.

    Args:
        key: the name, with `_` for `-`.
        known: names that exist.
        what: the name as it was given.
        positional: those of `known` that are positional arguments.
    """
    if key in PLANNED:
        return JaxstyleError(what, PLANNED[key])
    if key in RETIRED:
        return JaxstyleError(what, RETIRED[key].why)
    known = tuple(known)
    if (other := peers.setting(key)) is not None:
        name = "image" if other.setting == "content" and "content" not in known else other.setting
        if name in positional:
            return JaxstyleError(what, f"no such setting; {name} is a positional argument, without a flag")
        if name in known:
            why = f" ({other.why})" if other.why else ""
            return JaxstyleError(what, f"no such setting; did you mean {name}{why}?")
        return JaxstyleError(what, f"no such setting; {other.why or 'see --help'}")
    if key in (*SWEEP_KEYS, *OPTION_KEYS, *settings.added()):
        return JaxstyleError(what, "no such setting of this command; it is one of jaxstyle.sweep")
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    why = f"did you mean {near[0]}?" if near else "see --help"
    if key.endswith("_weight"):
        why += " The weight of a plugin's loss needs --plugin FILE.py"
    return JaxstyleError(what, f"no such setting; {why}")


def axis_values(axis: str, raw: Any, *, max_cells: int) -> tuple[Any, ...]:
    """The checked values of one axis: numbers as numbers, paths absolute, ranges of seeds expanded.

    Raises:
        JaxstyleError: for an empty axis, a value out of its range, or a value that is given twice.
    """
    items = list(raw) if isinstance(raw, list | tuple | range) else [raw]
    if not items:
        raise JaxstyleError(axis, "the axis is empty; give at least one value")
    row, found = settings.axis(axis), []
    for item in items:
        found += row.parse(axis, item, max_cells)
        if len(found) > max_cells:
            raise JaxstyleError(axis, f"has more than {max_cells} values; see --max-cells")
    seen: set[Any] = set()
    for value in found:
        if (key := row.same(value)) in seen:
            raise JaxstyleError(axis, f"{value} is given twice; give each value once")
        seen.add(key)
    return tuple(found)


# --- a whole sweep --------------------------------------------------------------------------------


def _resolve_grid(table: Mapping[str, Any], sweep: Sweep) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise JaxstyleError("grid", "a grid is a table of axes; write [[grid]]")
    for key in table:
        if not isinstance(key, str):
            raise JaxstyleError("grid", f"{values.shown(key)} is not the name of an axis")
        if key != "zip" and not settings.is_axis(key):
            raise unknown_key(key, (*AXES, *settings.added(), "zip"), what=f"grid.{key}")
    axes = settings.axes_with(table)
    grid: dict[str, Any] = {
        axis: axis_values(axis, table[axis], max_cells=sweep.max_cells) for axis in axes if axis in table
    }
    zipped = table.get("zip", ())
    if not isinstance(zipped, list | tuple) or not all(
        isinstance(a, str) and settings.is_axis(a) for a in zipped
    ):
        raise JaxstyleError(
            "grid.zip", f'{values.shown(zipped)} must list axes, as in zip = ["content", "style"]'
        )
    if len(set(zipped)) != len(zipped) or len(zipped) == 1:
        raise JaxstyleError("grid.zip", f"{list(zipped)} must name two or more different axes")
    lengths = {axis: len(grid.get(axis, getattr(sweep, axis))) for axis in zipped}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{axis} has {n}" for axis, n in lengths.items())
        raise JaxstyleError("grid.zip", f"zipped axes need equally many values: {counts}")
    if zipped:
        grid["zip"] = tuple(zipped)
    return grid


def _balance(table: Any) -> dict[str, Any]:
    """A checked table of `Sweep.balance`."""
    what = "balance"
    if not isinstance(table, Mapping) or set(table) != {*BALANCED_AXES, "alpha_beta", "weights"}:
        raise JaxstyleError(what, "a table has an unknown form; leave it out and it is measured again")
    found = {axis: values.as_text(what, table[axis]) for axis in BALANCED_AXES}
    values.layer_name(what, found["content_layer"])
    found |= {axis: os.path.abspath(found[axis]) for axis in ("content", "style")}
    names = {name for name, _ in values.style_set(found["style_layers"])}
    if not isinstance(table["weights"], Mapping) or set(table["weights"]) != names:
        raise JaxstyleError(what, f"weights must name {', '.join(sorted(names))}, each once")
    weights = {name: values.as_number(what, w, minimum=0.0) for name, w in table["weights"].items()}
    ratio = values.as_number(what, table["alpha_beta"], minimum=0.0)
    return {**found, "alpha_beta": ratio, "weights": weights}


def _twin(sweep: Sweep, optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """The optimizer settings of the `fast` twin of a sweep; `optimizer` holds those of the sweep itself."""
    if optimizer["optimizer"] != "adam":
        raise JaxstyleError("fast", "is for sweeps with adam; lbfgs is fast without it")
    tables = [table for table in sweep.grid if isinstance(table, Mapping)]
    rates = [sweep.learning_rate, *(table.get("learning_rate", ()) for table in tables)]
    if any(isinstance(values, list | tuple) and len(values) > 1 for values in rates):
        raise JaxstyleError("fast", "several learning rates are for Adam; give one or none")
    bounds = {"minimum": 1, "maximum": settings.MAX_STEPS}
    steps = (values.as_integer("steps", n, **bounds) for n in optimizer["steps"])
    return _resolve_optimizer(
        dataclasses.replace(
            sweep,
            fast=False,
            optimizer="lbfgs",
            schedule="constant",
            learning_rate=(),
            pyramid=sweep.pyramid or None,
            steps=tuple(-(-n // FAST_SHARE) for n in steps),
            grid=tuple({k: v for k, v in table.items() if k != "learning_rate"} for table in tables),
        )
    )


def _resolve_optimizer(sweep: Sweep) -> dict[str, Any]:
    """The optimizer of a sweep and all settings that depend on it, by name."""
    rates = sweep.learning_rate != () or any(
        isinstance(table, Mapping) and "learning_rate" in table for table in sweep.grid
    )
    name = values.as_choice("optimizer", sweep.optimizer, ("auto", *OPTIMIZERS.names))
    schedule = values.as_choice("schedule", sweep.schedule, ("constant", "decay"))
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
        "learning_rate": (settings.LEARNING_RATE,) if sweep.learning_rate == () else sweep.learning_rate,
        "steps": (row.steps,) if sweep.steps == () else sweep.steps,
        "grid": sweep.grid,
        "fast": False,
        "extra": extra,
        **own,
    }
    return _twin(sweep, found) if values.as_flag("fast", sweep.fast) else found


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
                found[name] = values.as_integer(name, value, minimum=0, maximum=2**31 - 1)
            else:
                found[name] = values.as_number(name, value, minimum=-FLOAT32_MAX)
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
    every = grids(sweep)
    terms = [row for row in optional_terms() if any(any(table.get(row.weight, ())) for table in every)]
    return (*terms, OPTIMIZERS[sweep.optimizer], POOLINGS[sweep.pool])


def _plain(sweep: Sweep) -> Sweep:
    """`sweep` with plain values of Python for those of NumPy and others; tables must be tables."""
    if not isinstance(sweep.grid, list | tuple):
        raise JaxstyleError(
            "grid", f"{values.shown(sweep.grid)} is not a list of tables of axes; write [[grid]]"
        )
    if not all(isinstance(table, Mapping) for table in sweep.grid):
        raise JaxstyleError("grid", "a grid is a table of axes; write [[grid]]")
    if not isinstance(sweep.digests, Mapping):
        raise JaxstyleError("digests", 'write a table: [digests] "path" = "sha256"')
    if not isinstance(sweep.extra, Mapping):
        raise JaxstyleError("extra", f"{values.shown(sweep.extra)} is not a table of settings by name")
    return dataclasses.replace(
        sweep,
        **{
            name: values.plain(getattr(sweep, name))
            for name in SWEEP_KEYS
            if name not in (*SEVERAL, "grid")
        },
        **{name: values.several(values.plain(getattr(sweep, name))) for name in SEVERAL},
        grid=tuple({key: values.plain(value) for key, value in table.items()} for table in sweep.grid),
        extra={name: values.plain(value) for name, value in sweep.extra.items()},
    )


def resolve(sweep: Sweep) -> Sweep:
    """`sweep` with every value checked and in its one form, as planning and `spec.toml` need it.

    Relative paths are relative to the current directory; files are not opened.

    Raises:
        JaxstyleError: for the first setting that is wrong.
    """
    sweep = _plain(sweep)
    max_cells = values.as_integer("max_cells", sweep.max_cells, minimum=1, maximum=settings.MAX_CELLS)
    sweep = dataclasses.replace(sweep, **_resolve_optimizer(sweep))
    given = dict(sweep.given)
    for table in ({axis: getattr(sweep, axis) for axis in PATH_AXES}, *sweep.grid):
        given = _given(table, Path.cwd()) | given
    axes = [axis for axis in SEVERAL if settings.is_axis(axis)]
    needed = [axis for axis in axes if not sweep.grid or any(axis not in table for table in sweep.grid)]
    for axis in ("content", "style"):
        if axis in needed and not getattr(sweep, axis):
            raise JaxstyleError(axis, f"no {axis} image; give --{axis} PATH or --preset demo")
    found = {axis: axis_values(axis, getattr(sweep, axis), max_cells=max_cells) for axis in needed}
    extra = _resolve_extra(sweep, max_cells)
    checked: dict[str, Any] = {}
    for name, row in SETTINGS.items():
        if row.check is not None:
            value = getattr(sweep, name)
            checked[name] = None if value is None else row.check(name, value)
    resolved = dataclasses.replace(
        sweep,
        **found,
        **checked,
        digests={
            os.path.abspath(path): values.as_sha256(path, text) for path, text in sweep.digests.items()
        },
        balance=tuple(_balance(table) for table in sweep.balance),
        given=given,
        extra=extra,
    )
    grids = tuple(_resolve_grid(table, resolved) for table in sweep.grid)
    for ratio in (ratio for of in (found, *grids) for ratio in of.get("alpha_beta", ())):
        if values.multiple(ratio) is None and ratio * resolved.beta > FLOAT32_MAX:
            raise JaxstyleError("alpha_beta", f"{ratio} x beta {resolved.beta} is beyond float32")
    resolved = dataclasses.replace(resolved, grid=grids)
    plugins = {values.as_sha256("a plugin", digest) for digest in sweep.plugins}
    plugins = plugins or {row.origin.sha256 for row in rows_used(resolved) if row.origin is not None}
    return dataclasses.replace(resolved, plugins=tuple(sorted(plugins)))


def differences(own: Sweep, other: Sweep) -> list[str]:
    """Differences in the settings of two resolved sweeps, as in `size is 256 there and 192 here`."""
    names = [name for name, row in SETTINGS.items() if row.same and name != "plugins"]
    more = {name for of in (own, other) for name in of.extra if not settings.is_axis(name)}
    pairs = {name: (getattr(own, name), getattr(other, name)) for name in names}
    pairs |= {name: (own.extra.get(name), other.extra.get(name)) for name in sorted(more)}
    return [f"{name} is {had} there and {has} here" for name, (had, has) in pairs.items() if had != has]


def grids(sweep: Sweep, more: Iterable[str] = ()) -> tuple[Mapping[str, Any], ...]:
    """The grids of a resolved sweep, each with the values of all its axes and of those in `more`."""
    top = {axis: getattr(sweep, axis) for axis in settings.axes_with({*sweep.axes, *more})}
    return tuple({**top, **table} for table in sweep.grid or ({},))


MAX_SHARES = 100_000


@dataclass(frozen=True)
class Share:
    """One of several parts of a run, each computed by a process that knows nothing of the others."""

    index: int
    """Number of this share, from 0."""
    count: int
    """Number of all shares."""
    of: str
    """Source of the numbers: `shard`, or SLURM's variables."""

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def share(options: RunOptions, environment: Mapping[str, str] = os.environ) -> Share | None:
    """The share of a run that this process should compute; None for the whole run.

    In `--shard I/N`, I counts from 0 or from 1, since N/N is the same as 0/N. With `--shard slurm` it is
    the index of this task in its job array. A task without the option computes the whole run, because many
    launchers start a run of its own for each task of an array.

    Raises:
        JaxstyleError: for a value that is not a share.
    """
    if options.shard is None:
        return None
    text = options.shard if isinstance(options.shard, str) else values.shown(options.shard)
    if text == "slurm":
        return _slurm_share(environment)
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    index, count = map(int, found.groups()) if found else (0, 0)
    if not (1 <= count <= MAX_SHARES and index <= count):
        raise JaxstyleError("shard", f"{text!r} is not a share; give I/N, such as 0/8 or 8/8, or slurm")
    return Share(index % count, count, "shard") if count > 1 else None


def _slurm_share(environment: Mapping[str, str]) -> Share | None:
    """The share of this task of a SLURM job array."""
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "STEP")]
    task, count, first, stride = (environment.get(name, "") for name in names)
    if not task:
        raise JaxstyleError(
            "shard", "slurm: this is not a task of a job array (SLURM_ARRAY_TASK_ID is not set); give I/N"
        )
    if not (task.isdecimal() and count.isdecimal() and first.isdecimal()):
        raise JaxstyleError("SLURM_ARRAY_TASK_ID", f"{task!r} of {count!r} tasks; give --shard I/N")
    index, stride = int(task) - int(first), int(stride) if stride.isdecimal() else 1
    if stride < 1 or index % stride or not 0 <= index // stride < int(count) <= MAX_SHARES:
        raise JaxstyleError(
            "SLURM_ARRAY_TASK_ID", f"{task}, from {first}, is not one of {count} tasks; give --shard I/N"
        )
    return Share(index // stride, int(count), "SLURM's array") if int(count) > 1 else None


def run_share(options: RunOptions, environment: Mapping[str, str] = os.environ) -> Share | None:
    """`share` for a run that will be computed. Raises JaxstyleError for options that shares exclude."""
    if (found := share(options, environment)) is None:
        return None
    if options.out is None and not options.dry_run:
        raise JaxstyleError(
            "shard", "no run is named; give its directory with --out, or leave --shard out for a new run"
        )
    if options.extend:
        raise JaxstyleError("extend", "plans the run anew; do that in one process, without --shard")
    if options.cluster is not None:
        raise JaxstyleError("shard", "--cluster divides the work itself; leave one of the two out")
    return found


def check_options(options: RunOptions) -> RunOptions:
    """`options` with every value checked. Raises JaxstyleError for the first one that is wrong."""
    checked = {name: values.plain(getattr(options, name)) for name in OPTION_KEYS}
    for name, row in OPTIONS.items():
        if row.check is not None and checked[name] is not None:
            checked[name] = row.check(name, checked[name])
    options = RunOptions(**checked)
    run_share(options)
    if options.cluster is None and options.collect:
        raise JaxstyleError("collect", "is for clusters; give it together with --cluster")
    for name in ("resume", "extend"):
        if getattr(options, name) and options.out is None:
            raise JaxstyleError(name, "no run is named; give its directory with --out")
    if options.resume and options.extend:
        raise JaxstyleError("extend", "also continues the run; leave --resume out")
    if options.json and not options.dry_run:
        raise JaxstyleError("json", "is for printing the plan; give it together with --dry-run")
    return options


# --- tables: presets, specs, flags ----------------------------------------------------------------


def _given(table: Mapping[str, Any], base: Path) -> dict[tuple[str, str], str]:
    """Every path in `table` as the user wrote it, by axis and absolute path."""
    given = {}
    for axis in PATH_AXES:
        values = table.get(axis, ())
        for value in values if isinstance(values, list | tuple) else [values]:
            if isinstance(value, str | os.PathLike) and not (axis == "init" and value in INIT_KINDS):
                text = os.fspath(value)
                given[axis, taken_from(base, text)] = text
    return given


def _absolute(table: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """`table` with absolute paths; those in it are relative to `base`."""

    def one(axis: str, value: Any) -> Any:
        if not isinstance(value, str) or not value or (axis == "init" and value in INIT_KINDS):
            return value
        return taken_from(base, value)

    out = dict(table)
    for key in (*PATH_AXES, "weights", "out"):
        if key in out and not isinstance(out[key], Mapping):
            value = out[key]
            out[key] = [one(key, v) for v in value] if isinstance(value, list | tuple) else one(key, value)
    return out


def _check_spec(what: str, table: dict[str, Any]) -> dict[str, Any]:
    """`table`, if its integers have at most TOML's 64 bits and it is not nested too deeply for Python."""
    pending: list[tuple[str, Any, int]] = [("", table, 0)]
    while pending:
        key, value, depth = pending.pop()
        if depth > MAX_SPEC_DEPTH:
            raise JaxstyleError(f"{what}: {key}", f"is nested deeper than {MAX_SPEC_DEPTH}; write it flat")
        if isinstance(value, dict):
            pending += [(key or str(name), inner, depth + 1) for name, inner in value.items()]
        elif isinstance(value, list):
            pending += [(key, inner, depth + 1) for inner in value]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise JaxstyleError(f"{what}: {key}", "an integer of more than 64 bits; give a smaller one")
    return table


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file. Raises JaxstyleError if the file cannot be read or is not TOML."""
    what = str(path)
    try:
        if not path.is_file():
            why = "is not a regular file" if path.exists() else "no such file"
            raise JaxstyleError(what, f"{why}; give the path of a TOML file")
        if (size := path.stat().st_size) > MAX_SPEC_BYTES:
            raise JaxstyleError(what, f"has {size} bytes; the limit is {MAX_SPEC_BYTES}: list fewer values")
        data = path.read_bytes()
        if data.startswith(b"\xef\xbb\xbf"):
            raise JaxstyleError(what, "begins with a byte order mark; save it as UTF-8 without one")
        return _check_spec(what, tomllib.loads(data.decode("utf-8")))
    except JaxstyleError:
        raise
    except OSError as error:
        raise JaxstyleError(what, f"cannot be read: {error.strerror or error}; give another file") from None
    except (ValueError, RecursionError) as error:
        raise JaxstyleError(what, f"not a TOML file in UTF-8; correct it: {error}") from None


def preset_path(name: Any) -> Path:
    """The TOML file of a preset. Raises JaxstyleError for an unknown name."""
    names = sorted(path.stem for path in PRESETS.glob("*.toml"))
    if name not in names:
        raise JaxstyleError("preset", f"{name!r} is not known in this version; use {', '.join(names)}")
    return PRESETS / f"{name}.toml"


@dataclass(frozen=True)
class Assembled:
    """A sweep and its run options, assembled from all sources of settings."""

    sweep: Sweep
    options: RunOptions
    name: str
    """Name for a new run directory: the spec file's stem, else the preset, else `sweep`."""
    moved: Mapping[str, str] = field(default_factory=dict)
    """New paths of files that are no longer where the spec says, by the path in the spec."""


def _of_file(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a spec or a preset without settings of earlier versions that are gone.

    Raises:
        JaxstyleError: if it names plugins to be run, needs one that is not loaded, or uses a setting that
            is gone.
    """
    if "plugin" in table:
        why = "a spec never runs code: leave it out and give --plugin FILE.py with the command"
        raise JaxstyleError("plugin", why)
    grids = table.get("grid")
    keys = [key for own in (table, *(grids if isinstance(grids, list) else ())) for key in own]
    if table.get("plugins") and (unknown := [key for key in keys if not _is_known(key)]):
        digests = ", ".join(f"{str(digest)[:12]}..." for digest in values.several(table["plugins"]))
        why = f"belongs to a plugin (sha256 {digests}); give its file with --plugin FILE.py"
        raise JaxstyleError(unknown[0], why)
    for key, retired in RETIRED.items():
        if table.get(key, retired.default) != retired.default:
            raise unknown_key(key, (), what=key)
    return {key: value for key, value in table.items() if key not in RETIRED}


def _is_known(key: str) -> bool:
    return key in (*SWEEP_KEYS, *OPTION_KEYS, *RETIRED, "zip") or key in settings.added()


def assemble(
    flags: Mapping[str, Any],
    *,
    cwd: Path | None = None,
    places: Iterable[Path | str] = (),
    among: Iterable[str] = (),
) -> Assembled:
    """Settings from all sources, where later ones override: defaults, preset, spec, flags.

    An axis in a stronger source replaces that axis in every `[[grid]]` of a weaker one. If no image, preset
    or spec is named, the preset is `demo`, except that resuming or extending a run then starts from the
    run's own spec. Paths in flags are relative to `cwd`, those in a spec to its file, those in a preset to
    the example images.

    A file with a digest that is no longer where a spec says is looked for around the spec, in `cwd` and
    `places`, and among the files of `among`.

    Raises:
        JaxstyleError: for a key that does not exist, a file that cannot be read, or a wrong value.
    """
    cwd = cwd or Path.cwd()
    sources, name = _sources(flags, cwd)
    layers = [_layer(table if table is flags else _of_file(table), base) for table, base in sources]
    found, tables, balance, digests, given = _stacked(layers)

    bases = (*(base for _, base in sources if base != EXAMPLES), *map(Path, places))
    folders = dict.fromkeys(folder for base in bases for folder in (base, *base.parents))
    texts = {path: digest for path, digest in digests.items() if isinstance(digest, str)}
    moved = paths.moved(texts, places=(*folders, cwd), among=among)
    if moved:
        found, tables, balance = _renamed([found, tables, balance], moved)
        digests = {moved.get(path, path): digest for path, digest in digests.items()}
        given = {(axis, moved.get(path, path)): text for (axis, path), text in given.items()}

    options = RunOptions(**{k: v for k, v in found.items() if k in OPTION_KEYS and k != "spec"})
    sweep = Sweep(
        **{k: v for k, v in found.items() if k in SWEEP_KEYS},
        extra={k: v for k, v in found.items() if k in settings.added()},
        grid=tuple(tables),
        digests=digests,
        balance=tuple(balance),
        given=given,
    )
    return Assembled(resolve(sweep), check_options(options), name, moved)


def _sources(flags: Mapping[str, Any], cwd: Path) -> tuple[list[tuple[Mapping[str, Any], Path]], str]:
    """Everything that names settings, the weakest first, each with the folder that its paths start from.

    Returns:
        These, and what a run directory is called after.
    """
    sources: list[tuple[Mapping[str, Any], Path]] = [(flags, cwd)]
    spec, preset = flags.get("spec"), flags.get("preset")
    if spec is not None:
        path = Path(taken_from(cwd, values.as_text("spec", spec)))
        table = read_toml(path)
        if "spec" in table:
            raise JaxstyleError(f"{path}: spec", "a spec cannot name another spec")
        sources.insert(0, (table, path.parent))
        preset = preset if preset is not None else table.get("preset")
    elif preset is None and "content" not in flags and "style" not in flags:
        goes_on = next((flag for flag in ("resume", "extend") if flags.get(flag)), None)
        if goes_on is None or flags.get("out") is None:  # without --out it is refused below
            preset = "demo"
        elif (own := Path(taken_from(cwd, values.as_place("out", flags["out"]))) / "spec.toml").is_file():
            sources.insert(0, (read_toml(own), own.parent))
        else:
            where = flags["out"]
            raise JaxstyleError(goes_on, f"{where} holds no run yet; give settings to begin one")
    if preset is not None:
        sources.insert(0, (read_toml(preset_path(preset)), EXAMPLES))
    if spec is not None:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(str(spec)).stem).strip(".-")[:60]
        return sources, stem or "spec"
    return sources, "sweep" if preset is None else str(preset)


class _Layer(NamedTuple):
    """Everything that one source says, its paths absolute."""

    names: frozenset[str]
    """All keys of its table."""
    found: dict[str, Any]
    grid: list[dict[str, Any]]
    balance: list[dict[str, Any]] | None
    digests: dict[str, str]
    given: dict[tuple[str, str], str]


def _layer(table: Mapping[str, Any], base: Path) -> _Layer:
    """One source, its paths taken from `base`. Raises JaxstyleError for a key or a table that is wrong."""
    added = settings.added()
    for key, value in table.items():
        if key not in SWEEP_KEYS and key not in OPTION_KEYS and key not in added:
            raise unknown_key(key, (*SWEEP_KEYS, *OPTION_KEYS, *added), what=key)
        if key in ("learning_rate", "steps") and value in ((), []):
            raise JaxstyleError(key, "no value; give at least one")
    grid = _tables(table, "grid", "a grid is a table of axes; write [[grid]]") or []
    balance = _tables(table, "balance", "is written by a run; leave it out and it is measured again")
    digests = table.get("digests", {})
    if not isinstance(digests, dict):
        raise JaxstyleError("digests", 'write a table: [digests] "path" = "sha256"')
    given: dict[tuple[str, str], str] = {}
    for source in (table, *grid):
        given |= _given(source, base)
    found = _absolute(table, base)
    return _Layer(
        names=frozenset(table),
        found={k: v for k, v in found.items() if k not in ("grid", "digests", "balance", "spec")},
        grid=[_absolute(one, base) for one in grid],
        balance=None if balance is None else [_absolute(one, base) for one in balance],
        digests={taken_from(base, path): digest for path, digest in digests.items()},
        given=given,
    )


def _tables(table: Mapping[str, Any], key: str, why: str) -> list[dict[str, Any]] | None:
    """The tables under a key, None where it is not there. Raises JaxstyleError for anything else."""
    found = table.get(key)
    if found is not None and not (isinstance(found, list) and all(isinstance(t, dict) for t in found)):
        raise JaxstyleError(key, why)
    return found


def _stacked(
    layers: Iterable[_Layer],
) -> tuple[
    dict[str, Any], list[dict[str, Any]], list[dict[str, Any]], dict[str, str], dict[tuple[str, str], str]
]:
    """All layers as one, later ones being stronger: values, grids, balance, digests, texts of paths."""
    found, tables, balance, digests, given = dict[str, Any](), [], [], {}, {}
    for layer in layers:
        tables = layer.grid or [{k: v for k, v in g.items() if k not in layer.names} for g in tables]
        if layer.balance is not None:
            balance = layer.balance
        elif layer.names & {*BALANCED_SETTINGS}:
            balance = []
        digests |= layer.digests
        given |= layer.given
        found |= layer.found
    return found, tables, balance, digests, given


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Tables with some paths replaced, by their old paths."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, list | tuple):
        return [_renamed(item, names) for item in value]
    if isinstance(value, Mapping):
        return {key: _renamed(item, names) for key, item in value.items()}
    return value


def renamed(sweep: Sweep, names: Mapping[str, Mapping[str, str]]) -> Sweep:
    """A resolved sweep with some paths replaced.

    Args:
        names: new paths by old ones, for each axis of paths and for `weights`.
    """

    def axis(table: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: tuple(names[key].get(v, v) for v in value) if key in PATH_AXES else value
            for key, value in table.items()
        }

    every = {old: new for own in names.values() for old, new in own.items()}
    weights = sweep.weights and names["weights"].get(sweep.weights, sweep.weights)
    return dataclasses.replace(
        sweep,
        **axis({key: getattr(sweep, key) for key in PATH_AXES}),
        weights=weights,
        grid=tuple(axis(table) for table in sweep.grid),
        balance=tuple(
            {**t, **{a: names[a].get(t[a], t[a]) for a in ("content", "style")}} for t in sweep.balance
        ),
        digests={every.get(path, path): digest for path, digest in sweep.digests.items()},
        given={(a, names[a].get(path, path)): text for (a, path), text in sweep.given.items()},
    )


def files(sweep: Sweep) -> tuple[str, ...]:
    """The absolute paths of all files that a resolved sweep names, each once."""
    every = (*({axis: getattr(sweep, axis) for axis in PATH_AXES},), *sweep.grid)
    named = [v for t in every for axis in PATH_AXES for v in t.get(axis, ()) if v not in INIT_KINDS]
    return tuple(dict.fromkeys([*named, *([sweep.weights] if sweep.weights else [])]))


# --- spec.toml ------------------------------------------------------------------------------------


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = "".join(
            f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08X}" for c in value
        )
        return f'"{escaped}"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return repr(value)


def _respelled(value: Any, run: Path) -> Any:
    """A path or several as they are written into a run."""
    if isinstance(value, list | tuple):
        return [_respelled(item, run) for item in value]
    return value if value in INIT_KINDS else paths.spelled(value, run)


def to_toml(sweep: Sweep, digests: Mapping[str, str], *, run: Path | None = None) -> str:
    """The text of `spec.toml`, which repeats the resolved `sweep` when run and holds its files' digests.

    Args:
        run: folder of the file; paths under that folder's parent are written relative to it.
    """
    lines = ["# Run again with: python -m jaxstyle.sweep --spec spec.toml"]

    def line(key: str, value: Any) -> str:
        if run is not None and key in (*PATH_AXES, "weights") and not isinstance(value, Mapping):
            value = _respelled(value, run)
        return f"{key} = {_toml_value(value)}"

    written = {name: getattr(sweep, name) for name in SWEEP_KEYS}
    for name, value in (written | dict(sweep.extra)).items():
        if name in ("grid", "digests", "balance") or value is None or (name == "plugins" and not value):
            continue
        if settings.is_axis(name) and sweep.grid and all(name in table for table in sweep.grid):
            continue
        lines.append(line(name, value))
    for kind in ("grid", "balance"):
        for table in getattr(sweep, kind):
            lines += ["", f"[[{kind}]]"]
            lines += [line(key, value) for key, value in table.items()]
    lines += ["", "[digests]"]
    named = {path if run is None else paths.spelled(path, run): d for path, d in digests.items()}
    lines += [f"{_toml_value(path)} = {_toml_value(d)}" for path, d in sorted(named.items())]
    return "\n".join(lines) + "\n"
