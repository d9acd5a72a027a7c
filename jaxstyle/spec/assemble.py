"""A sweep and its options, put together from presets, specs and flags."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jaxstyle.spec import blends, folders, mask_order, paths, settings
from jaxstyle.spec.defaults import PAPER, is_named
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.moved_files import with_name, with_names
from jaxstyle.spec.options import check_options
from jaxstyle.spec.paths import taken_from
from jaxstyle.spec.presets import EXAMPLES, preset_path
from jaxstyle.spec.regions import mask_from, split_table
from jaxstyle.spec.resolve import path_texts, resolve
from jaxstyle.spec.retired import RETIRED, without_retired
from jaxstyle.spec.settings import (
    BALANCED_SETTINGS,
    MASK_KEYS,
    OPTION_KEYS,
    PATH_AXES,
    SWEEP_KEYS,
    RunOptions,
    Sweep,
)
from jaxstyle.spec.tables import OPTIMIZERS
from jaxstyle.spec.toml import read_toml
from jaxstyle.spec.unknown_names import unknown_key
from jaxstyle.spec.values import NONE, as_place, as_values


@dataclass(frozen=True)
class Assembled:
    """A sweep and its run options, assembled from all sources of settings."""

    sweep: Sweep
    options: RunOptions
    name: str
    """Name for a new run directory: the spec file's stem, else the preset, else `sweep`."""
    moved: Mapping[str, str] = field(default_factory=dict)
    """New paths of files that are no longer where the spec says, by the path in the spec."""


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
    flags, sources, name, resumes = _sources(flags, cwd)
    recursive = next((bool(t["recursive"]) for t, _ in reversed(sources) if "recursive" in t), False)
    layers = [
        _layer(split_table(table if table is flags else _without_retired(table)), base, recursive)
        for table, base in sources
    ]
    found, tables, balance, digests, given = _stacked(layers, resumes=resumes)
    if _is_texture(found, tables):
        found["content"] = [NONE]

    bases = (*(base for _, base in sources if base != EXAMPLES), *map(Path, places))
    around = dict.fromkeys(folder for base in bases for folder in (base, *base.parents))
    texts = {path: digest for path, digest in digests.items() if isinstance(digest, str)}
    moved = paths.find_moved(texts, places=(*around, cwd), among=among)
    if moved:
        found, tables, balance = with_names([found, tables, balance], moved)
        digests = {moved.get(path, path): digest for path, digest in digests.items()}
        given = {(axis, with_name(path, moved)): text for (axis, path), text in given.items()}

    options = RunOptions(
        **{k: v for k, v in found.items() if k in OPTION_KEYS and k not in ("spec", "preset")}
    )
    sweep = Sweep(
        **{k: v for k, v in found.items() if k in SWEEP_KEYS},
        extra={k: v for k, v in found.items() if k in settings.added()},
        grid=tuple(tables),
        digests=digests,
        balance=tuple(balance),
        given=given,
        folders=_folders(layers),
    )
    return Assembled(resolve(sweep), check_options(options), name, moved)


def _is_texture(found: Mapping[str, Any], tables: Iterable[Mapping[str, Any]]) -> bool:
    """Whether settings name a style and a size but no content, which asks for textures."""
    named = {key for table in (found, *tables) for key in table}
    return "content" not in named and {"style", "size"} <= named


def _sources(
    flags: Mapping[str, Any], cwd: Path
) -> tuple[Mapping[str, Any], list[tuple[Mapping[str, Any], Path]], str, bool]:
    """All sources of settings, the weakest first, each with the folder that its paths start from.

    Returns:
        The flags as they are understood, the sources, what a run directory is called after, and whether a
        run that is there is resumed.
    """
    spec, preset = flags.get("spec"), flags.get("preset")
    named: list[tuple[Mapping[str, Any], Path]] = [(flags, cwd)]
    if spec is not None:
        path = Path(taken_from(cwd, as_place("spec", spec)))
        table = read_toml(path)
        if "spec" in table:
            raise JaxstyleError(f"{path}: spec", "a spec cannot name another spec")
        named.insert(0, (table, path.parent))
        preset = preset if preset is not None else table.get("preset")
    goes_on = next((key for key in ("resume", "extend") for own, _ in named if own.get(key)), None)
    of_run = _own_spec(named) if goes_on is not None else None
    of_preset = None if preset is None else read_toml(preset_path(preset))
    if of_run is not None:
        others = [*([] if of_preset is None else [of_preset]), *(own for own, _ in named[:-1])]
        flags = _as_twin(flags, others, of_run[0])
    sources = [*named[:-1], (flags, cwd)]
    names_nothing = spec is None and preset is None and "content" not in flags and "style" not in flags
    if names_nothing and of_run is not None:
        sources.insert(0, (_without_others(of_run[0], flags), of_run[1]))
    elif names_nothing and goes_on is not None and flags.get("out") is not None:
        raise JaxstyleError(goes_on, f"{flags['out']} holds no run yet; give settings to begin one")
    elif names_nothing:  # going on without --out is refused below
        preset, of_preset = "demo", read_toml(preset_path("demo"))
    if of_preset is not None:
        sources.insert(0, (of_preset, EXAMPLES))
    if flags.get("fast") and "pyramid" not in flags:
        sources = [*((_without_adams_stages(own), base) for own, base in sources[:-1]), (flags, cwd)]
    if of_run is not None and not names_nothing:
        table, base = of_run
        sources.insert(0, (_unless_named(table, [own for own, _ in sources]), base))
    resumes = of_run is not None and goes_on == "resume"
    if spec is not None:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(str(spec)).stem).strip(".-")[:60]
        return flags, sources, stem or "spec", resumes
    return flags, sources, "sweep" if preset is None else str(preset), resumes


_OTHER_IN_A_TWIN = ("optimizer", "schedule", "learning_rate", "pyramid", "steps")
"""Settings that the fast twin of a sweep has other values of than the sweep."""


def _without_adams_stages(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a spec or a preset without the number of stages that sweeps by Adam have: 0."""
    return {key: value for key, value in table.items() if (key, value) != ("pyramid", 0)}


def _unless_named(table: Mapping[str, Any], named: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of a run, for a command that goes on with it and names others."""
    given = {key: value for source in named for key, value in source.items()}
    kept, grids = _without_others(table, given), table.get("grid")
    first = grids[0] if isinstance(grids, list) and grids and isinstance(grids[0], dict) else {}
    return {name: first[name] for name in PAPER if name in first} | kept


def _without_others(table: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run without those of an optimizer that the command replaces.

    The values of an optimizer that the command does not name belong to another one where it names that, or
    asks for the fast twin of one.
    """
    own = {name for row in OPTIMIZERS for name in row.own}
    fast = given.get("fast") and table.get("optimizer") != "adam"
    other = given.get("optimizer", "auto") not in ("auto", table.get("optimizer"))
    gone = {*own, *_OTHER_IN_A_TWIN} if fast else own if other else set[str]()
    return {key: value for key, value in table.items() if key not in gone}


def _as_twin(
    flags: Mapping[str, Any], others: Iterable[Mapping[str, Any]], table: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The flags of a command that goes on with a run which is the fast twin of Adam's, and says so again.

    Where nothing of the optimizer is named, the run's own settings are those of the twin. Otherwise what is
    named is Adam's, as when the run was begun.

    Args:
        flags: the flags.
        others: the settings of a spec and a preset.
        table: those of the run.
    """
    if not flags.get("fast") or table.get("optimizer") == "adam":
        return flags
    given = {key: value for source in (*others, flags) for key, value in source.items()}
    if not {*_OTHER_IN_A_TWIN} & {*given} - {"pyramid"}:
        return {key: value for key, value in flags.items() if key != "fast"}
    adams = {} if "optimizer" in given or "schedule" in given else {"optimizer": "adam"}
    stages = {"pyramid": table["pyramid"]} if "pyramid" in table and not given.get("pyramid") else {}
    return {**adams, **flags, **stages}


def _own_spec(named: Iterable[tuple[Mapping[str, Any], Path]]) -> tuple[Mapping[str, Any], Path] | None:
    """The spec of the run in `out`, which flags or a spec name, and its folder, if there is one."""
    places = [(own["out"], base) for own, base in named if own.get("out") is not None]
    if not places:
        return None
    out, base = places[-1]
    own = Path(taken_from(base, as_place("out", out))) / "spec.toml"
    return (read_toml(own), own.parent) if own.is_file() else None


def _without_retired(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a spec or a preset without settings of earlier versions that are gone.

    Raises:
        JaxstyleError: if it names plugins to be run, needs one that is not loaded, or uses a setting that
            is gone.
    """
    if "plugin" in table:
        why = "a spec never runs code: leave it out and give --plugin FILE.py with the command"
        raise JaxstyleError("plugin", why)
    grids = table.get("grid")
    keys = [key for own in (table, *(grids if isinstance(grids, list) else ())) for key in _keys(own)]
    if table.get("plugins") and (unknown := [key for key in keys if not _is_known(key)]):
        digests = ", ".join(f"{str(digest)[:12]}..." for digest in as_values(table["plugins"]))
        why = f"belongs to a plugin (sha256 {digests}); give its file with --plugin FILE.py"
        raise JaxstyleError(unknown[0], why)
    return without_retired(table)


def _keys(table: Any) -> list[str]:
    """The keys of a table; none of what should be one, which is told when it is used."""
    return list(table) if isinstance(table, Mapping) else []


def _is_known(key: str) -> bool:
    return key in (*SWEEP_KEYS, *OPTION_KEYS, *RETIRED, "zip") or key in settings.added()


class _Layer(NamedTuple):
    """The settings of one source, its paths absolute."""

    names: frozenset[str]
    """All keys of its table."""
    found: dict[str, Any]
    grid: list[dict[str, Any]]
    balance: list[dict[str, Any]] | None
    digests: dict[str, str]
    given: dict[tuple[str, str], str]
    folders: dict[str, tuple[str, ...]]
    """The folders whose images are values, by axis."""


def _layer(table: Mapping[str, Any], base: Path, recursive: bool) -> _Layer:
    """One source, its paths taken from `base`, images in place of folders.

    Raises:
        JaxstyleError: for a key or a table that is wrong.
    """
    added = settings.added()
    for key, value in table.items():
        if key not in SWEEP_KEYS and key not in OPTION_KEYS and key not in added:
            raise unknown_key(key, (*SWEEP_KEYS, *OPTION_KEYS, *added), what=key)
        if key in PAPER and isinstance(value, list | tuple) and not value:
            raise JaxstyleError(key, "the axis is empty; give at least one value")
        if key in ("learning_rate", "steps") and value in ((), []):
            raise JaxstyleError(key, "no value; give at least one")
    grid = _tables(table, "grid", "a grid is a table of axes; write [[grid]]") or []
    balance = _tables(table, "balance", "is written by a run; leave it out and it is measured again")
    digests = table.get("digests", {})
    if not isinstance(digests, dict):
        raise JaxstyleError("digests", 'write a table: [digests] "path" = "sha256"')
    digests = {taken_from(base, path): digest for path, digest in digests.items()}
    (table, found_in), *others = (
        folders.with_images(of, base, recursive=recursive, files=digests) for of in (table, *grid)
    )
    grid = [own for own, _ in others]
    for _, more in others:
        found_in = folders.joined(found_in, more)
    absolute, absolutes = _absolute(table, base, digests), [_absolute(one, base, digests) for one in grid]
    if "style_mask" in table:
        styles = [v for one in grid or [{}] for v in as_values({**table, **one}.get("style", ()))]
        written = (path for v in styles for path in blends.written_files("style", v, base, digests))
        every = [{**absolute, **one} for one in absolutes or [{}]]
        absolute["style_mask"] = mask_order.as_checked(absolute["style_mask"], written, every)
    given: dict[tuple[str, str], str] = {}
    for source in (table, *grid):
        given |= path_texts(source, base, digests)
    return _Layer(
        names=frozenset(table),
        found={k: v for k, v in absolute.items() if k not in ("grid", "digests", "balance", "spec")},
        grid=absolutes,
        balance=None if balance is None else [_absolute(one, base, digests) for one in balance],
        digests=digests,
        given=given,
        folders=found_in,
    )


def _folders(layers: Iterable[_Layer]) -> dict[str, tuple[str, ...]]:
    """The folders of all layers, later ones being stronger: a later axis replaces an earlier one."""
    found: dict[str, tuple[str, ...]] = {}
    for layer in layers:
        kept = {axis: own for axis, own in found.items() if axis not in layer.names}
        found = folders.joined(kept, layer.folders)
    return found


def _tables(table: Mapping[str, Any], key: str, why: str) -> list[dict[str, Any]] | None:
    """The tables under a key, None where it is not there. Raises JaxstyleError for anything else."""
    found = table.get(key)
    if found is not None and not (isinstance(found, list) and all(isinstance(t, dict) for t in found)):
        raise JaxstyleError(key, why)
    return found


def _absolute(table: Mapping[str, Any], base: Path, known: Collection[str]) -> dict[str, Any]:
    """`table` with absolute paths; those in it are relative to `base`, and those in `known` are files."""
    out = dict(table)
    for key in (*PATH_AXES, *MASK_KEYS, "weights", "out", "events"):
        if key in out:
            value, several = out[key], isinstance(out[key], list | tuple)
            taken = functools.partial(_mask_taken, base) if key in MASK_KEYS else None
            taken = taken or functools.partial(blends.taken, key, base=base, known=known)
            found = [taken(v) for v in (value if several else [value])]
            out[key] = found if several else found[0]
    return out


def _mask_taken(base: Path, value: Any) -> Any:
    return mask_from(base, value) if isinstance(value, str) and value else value


def _stacked(
    layers: Iterable[_Layer], *, resumes: bool
) -> tuple[
    dict[str, Any], list[dict[str, Any]], list[dict[str, Any]], dict[str, str], dict[tuple[str, str], str]
]:
    """All layers as one, later ones being stronger: values, grids, balance, digests, texts of paths."""
    found, tables, balance, digests, given = dict[str, Any](), [], [], {}, {}
    for layer in layers:
        before = [{**found, **one} for one in tables or [{}]]
        tables = layer.grid or [{k: v for k, v in g.items() if k not in layer.names} for g in tables]
        asks = any(is_named(n, t[n]) for t in (layer.found, *layer.grid) for n in PAPER if n in t)
        if layer.balance is not None:
            balance = layer.balance
        elif layer.names & {*BALANCED_SETTINGS} or (asks and found.get("balance_optional")):
            balance = []
        if asks:  # for a balance, where weaker layers did without
            found.pop("balance_optional", None)
        if (named := layer.found.get("optimizer", "auto")) not in ("auto", found.get("optimizer", "auto")):
            own = {name for row in OPTIMIZERS if row.name == named for name in row.own}
            for key in {name for row in OPTIMIZERS for name in row.own} - own:
                found.pop(key, None)  # of another optimizer
        digests |= layer.digests
        given |= layer.given
        found |= layer.found
        now = [{**found, **one} for one in tables or [{}]]
        mask_order.inherit(found, now, before, layer.names, resumes=resumes)
    return found, tables, balance, digests, given
