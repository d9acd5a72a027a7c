"""Plugins: Python files of users that add loss terms, optimizers and poolings.

A file is named on the command line (`--plugin FILE.py`) or imported by Python; it registers rows like
jaxstyle's own. The spec of every run that uses one of them contains the file's digest, and only that same
file can resume the run. No spec or run can name a file to be run: reading a run takes the rows from its
manifest, without functions, which is enough to show it.

Nothing here needs JAX, but what a plugin imports may.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import keyword
import re
import sys
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxstyle.spec import paths, tables
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.function_identity import identity
from jaxstyle.spec.jax_state import is_jax_running
from jaxstyle.spec.plugin_blame import at_fault, error_words
from jaxstyle.spec.resolve import rows_used
from jaxstyle.spec.retired import RETIRED
from jaxstyle.spec.settings import OPTION_KEYS, Sweep
from jaxstyle.spec.tables import Origin

TAKEN = ("total", "best", "final", "finished")
"""Names that no loss term can have, since a column or a dataset of a run would have the same name."""
WORDS = ("auto", "none")
"""Names that no row can have, since they stand for no row where one is named."""
TAKEN_AXES = frozenset(
    """
    alpha_beta_given balanced between_ratios between_seeds cell channel clipped coloured_by component
    components content_distance content_taps copy crop curve cv cv_high cv_low df distance distance_high
    distance_low diverged diverged_step evaluations failed falls family first_loss floor has_content
    has_style height id image image_float label largest layer layer_weights loss loss_best loss_content
    loss_finished loss_style loss_total lowpass_pixel_sd luminance luminance_sd max mean mean_high
    mean_low mean_picture measure median min noise on_front pairs periodicity pixel_sd quantile quantity
    rank ratio ratio_high ratio_low region rmse schema sd sd_high sd_low seeds setting shaped_by
    snapshot start_cell status step step_best style_distance style_layer_loss style_layer_weights
    style_parts style_source sum_of_squares taps term terms variance variant width x y
    """.split()  # noqa: SIM905
)
"""Names that no axis can have, since a column, a dataset or a field of a cell has the same name."""
_loading: list[Origin] = []
"""The file that is being loaded; empty if there is none."""
_loaded: dict[str, tuple[str, tuple[Any, ...]]] = {}
"""SHA-256 of every file that has been loaded, and the rows that it registered, by path."""


def register(*rows: Any) -> None:
    """Add loss terms, optimizers and poolings that sweeps can use.

        jaxstyle.register(jaxstyle.LossTerm("palette", loss=palette_loss, keep=quantiles))

    A row replaces one of the same kind and name that was registered before.

    Args:
        rows: each a `LossTerm`, an `Optimizer` or a `Pooling`.

    Raises:
        JaxstyleError: if one is something else, lacks its function, or has a name that is taken; then none
            is added.
    """
    caller = sys._getframe(1)
    found = [(_checked(row), row) for row in rows]
    for table, row in found:
        origin = _loading[-1] if _loading else _origin(row, caller)
        table.add(dataclasses.replace(row, origin=origin))
        table.turns[row.name] += 1


def _checked(row: Any) -> tables.Table[Any]:
    """The table that a row belongs to. Raises JaxstyleError if it cannot be added."""
    table = next((table for table in tables.EVERY if isinstance(row, table.kind)), None)
    if table is None:
        why = f"{row!r} is none of {', '.join(table.kind.__name__ for table in tables.EVERY)}"
        raise JaxstyleError("register", why)
    name = f"{row.what} {row.name}"
    if getattr(row, row.functions[0]) is None:
        raise JaxstyleError(name, f"has no {row.functions[0]}; give a function")
    _check_names(table, row)
    return table


def _check_names(table: tables.Table[Any], row: Any, *, recorded: bool = False) -> None:
    """Raise JaxstyleError if the name of a row, or of a setting that it adds, is already taken.

    Args:
        table: its table.
        row: the row.
        recorded: whether it is that of a run, which an earlier version may have registered.
    """
    table.check(row)
    name, mend = f"{row.what} {row.name}", "give another name"
    if row.name in WORDS and not recorded:
        raise JaxstyleError(name, f"{row.name!r} stands for something else in settings; {mend}")
    if isinstance(row, tables.LossTerm) and (row.always or row.name in TAKEN):
        raise JaxstyleError(name, f"there is a loss of that name in every run; {mend}")
    fields = (*Sweep.__dataclass_fields__, *OPTION_KEYS, *RETIRED, "help", "zip")
    for flag in _flags(row):
        taken = flag in fields or hasattr(Sweep, flag)
        if taken or any(flag in _flags(other) for other in _others(table, row)):
            raise JaxstyleError(name, f"there is a setting {flag} already; {mend}")
        if keyword.iskeyword(flag):
            raise JaxstyleError(name, f"{flag} is a Python keyword, not a setting's name; {mend}")
        if isinstance(row, tables.LossTerm) and flag in TAKEN_AXES and not recorded:
            raise JaxstyleError(name, f"the tables of a run have a column or a dataset {flag}; {mend}")


def _flags(row: Any) -> tuple[str, ...]:
    """Names of the axes and settings that a row adds."""
    return (row.weight,) if isinstance(row, tables.LossTerm) else tuple(getattr(row, "own", ()))


def _others(table: tables.Table[Any], row: Any) -> list[Any]:
    added = (other for every in tables.EVERY for other in every.added)
    return [other for other in added if not (isinstance(other, table.kind) and other.name == row.name)]


def _origin(row: Any, caller: types.FrameType) -> Origin:
    """The origin of a row that is not registered by a file on the command line.

    For a row registered while a module is imported it is that module's file, as if `--plugin` named it. For
    any other, in a script or a notebook, it has a digest of the row itself, including the code of its
    functions and what they read.
    """
    file, imported = caller.f_code.co_filename, caller.f_globals.get("__name__") != "__main__"
    if imported and caller.f_code.co_name == "<module>" and (data := _read(file)) is not None:
        return Origin(file, hashlib.sha256(data).hexdigest())
    return Origin(file, _digest(row), of_row=True)


def _digest(row: Any) -> str:
    """SHA-256 of a row itself: its values, the code of its functions and what they read."""
    functions = [f for name in row.functions if (f := getattr(row, name)) is not None]
    parts = [repr(sorted(row.record().items(), key=str)).encode()]
    parts += map(identity, functions)
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _read(file: str) -> bytes | None:
    try:
        return Path(file).read_bytes()
    except OSError:
        return None


# --- files ----------------------------------------------------------------------------------------


def load(given: Iterable[str]) -> None:
    """Run the plugins at the given paths, each file once, so that they register their rows.

    Raises:
        JaxstyleError: if a file cannot be read, fails, registers nothing or starts JAX, or if two files
            register the same name.
    """
    owners: dict[tuple[str, str], str] = {}
    for path in given:
        file = paths.taken_from("", path)
        try:
            data = Path(file).read_bytes()
        except OSError as error:
            why = f"cannot be read: {error.strerror or error}; give the path of a Python file"
            raise JaxstyleError(path, why) from None
        for row in load_bytes(file, data):
            other = owners.setdefault((row.what, row.name), file)
            if other != file:
                raise JaxstyleError(file, f"registers the {row.what} {row.name}, and so does {other}")


class _Loader(importlib.abc.InspectLoader):
    """Loader of a module from text that has been read already."""

    def __init__(self, file: str, data: bytes):
        self._file, self._data = file, data

    def get_source(self, fullname: str) -> str:
        """The text of the module."""
        return importlib.util.decode_source(self._data)

    def get_code(self, fullname: str) -> types.CodeType:
        """The code of the module, always compiled anew: a cached version might be another one."""
        return self.source_to_code(self._data, self._file)


def load_bytes(file: str, data: bytes) -> tuple[Any, ...]:
    """Run the text of a plugin as `load` does, once, and return the rows that it registers."""
    digest = hashlib.sha256(data).hexdigest()
    if file in _loaded and _loaded[file][0] == digest:
        for row in _loaded[file][1]:  # another file may have replaced them since
            _checked(row).add(row)
        return _loaded[file][1]
    running, before = is_jax_running(), [(table, table.copy()) for table in tables.EVERY]
    name = f"jaxstyle_plugin_{re.sub(r'[^0-9A-Za-z_]', '_', Path(file).stem)}"
    loader, origin = _Loader(file, data), Origin(file, digest)
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, loader, origin=file))
    module.__file__ = file
    _loading.append(origin)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
        rows = tuple(row for table in tables.EVERY for row in table.added if row.origin is origin)
        if not rows:
            raise JaxstyleError(file, "registers nothing; end it with jaxstyle.register(...)")
        if is_jax_running() and not running:
            why = "starts JAX while it is read; make its constants with NumPy, or inside its functions"
            raise JaxstyleError(file, why)
    except BaseException as error:
        for table, own in before:
            table.reset(own)
        if isinstance(error, JaxstyleError):
            raise error if str(error).startswith(file) else _at_fault(file, error, str(error)) from error
        if isinstance(error, Exception | SystemExit):
            raise _at_fault(file, error, error_words(error)) from error
        raise
    finally:
        _loading.pop()
    _loaded[file] = digest, rows
    return rows


def _at_fault(file: str, error: BaseException, said: str) -> JaxstyleError:
    return JaxstyleError(at_fault(file, error), said)


def named_in(arguments: Sequence[str], most: int | None = None) -> tuple[str, ...]:
    """Plugins that a command line names; looked for before it is parsed, since they add flags.

    Args:
        most: largest number of files after one flag; None for no limit.
    """
    given = list(arguments)
    found = [text.removeprefix("--plugin=") for text in given if text.startswith("--plugin=")]
    if "--plugin" in given:
        after = given[given.index("--plugin") + 1 :]
        found += itertools.takewhile(lambda text: not text.startswith("-"), after[:most])
    if "" in found or ("--plugin" in given and not found):
        raise JaxstyleError("plugin", "no file is named; give the path of a Python file")
    return tuple(found)


# --- runs -----------------------------------------------------------------------------------------


def record(sweep: Sweep) -> list[dict[str, Any]]:
    """The entry of a run's manifest for the plugins that it uses: their rows without functions."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows_used(sweep):
        if row.origin is not None:
            name = Path(row.origin.file).name
            own = found.setdefault(
                row.origin.sha256, {"file": name, "sha256": row.origin.sha256, "rows": []}
            )
            own["rows"].append({"kind": row.what, **row.record()})
    return list(found.values())


def recorded_rows(recorded: Any) -> tuple[Any, ...]:
    """The rows in an entry that `record` made, without functions, since a manifest names no code to run.

    Raises:
        JaxstyleError: if the entry has another form.
    """
    kinds = {table.kind.what: table.kind for table in tables.EVERY}
    found = []
    try:
        for plugin in recorded:
            origin = Origin(str(plugin["file"]), str(plugin["sha256"]))
            for values in plugin["rows"]:
                kind = kinds[values["kind"]]
                names = [n for n in kind.recorded() if n in values or n not in kind.optional]
                found.append(kind(**{name: values[name] for name in names}, origin=origin))
    except (TypeError, KeyError, ValueError, AttributeError, JaxstyleError) as error:
        raise JaxstyleError("manifest.json", f"its plugins cannot be understood: {error}") from None
    return tuple(found)


def add_recorded(rows: Iterable[Any]) -> None:
    """Put a manifest's rows into the tables, except where a row of that name has its functions already."""
    for row in rows:
        table = next(table for table in tables.EVERY if isinstance(row, table.kind))
        there = table.get(row.name)
        if there is None or getattr(there, there.functions[0]) is None:
            _check_names(table, row, recorded=True)
            table.add(row)


def check_has_functions(row: Any) -> None:
    """Raise JaxstyleError if a row is known from a manifest alone, which holds no functions."""
    if row.origin is not None and getattr(row, row.functions[0]) is None:
        why = f"belongs to the plugin {row.origin.file} (sha256 {row.origin.sha256})"
        raise JaxstyleError(
            f"{row.what} {row.name}", f"{why}; give the file with --plugin FILE.py, or import it first"
        )


def check(sweep: Sweep) -> None:
    """Raise JaxstyleError unless the plugins of a resolved sweep are loaded, from the files it names.

    What a row of a script or a notebook reads must be what it was when the row was registered: programs
    that are compiled keep the old values, others would get new ones.
    """
    used = [row for row in rows_used(sweep) if row.origin is not None]
    for row in used:
        check_has_functions(row)
        if row.origin.of_row and _digest(row) != row.origin.sha256:
            why = "reads something that has changed since it was registered; register it again"
            raise JaxstyleError(f"{row.what} {row.name}", why)
        if row.origin.sha256 not in sweep.plugins:
            why = f"has sha256 {row.origin.sha256} but the run was begun with {', '.join(sweep.plugins)}"
            raise JaxstyleError(row.origin.file, f"{why}; restore it, or start a new run without its spec")


def sources(sweep: Sweep) -> dict[str, bytes]:
    """Contents of the plugins that a sweep uses, by path, for other processes.

    Raises:
        JaxstyleError: if a row comes from no file, or its file has changed.
    """
    found = {}
    for row in rows_used(sweep):
        if row.origin is None or row.origin.file in found:
            continue
        try:
            data = Path(row.origin.file).read_bytes()
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() != row.origin.sha256:
            why = (
                "was registered by a script or a notebook, or its file has changed; workers need a file:"
                " put it into one of its own, and give that with --plugin FILE.py"
            )
            raise JaxstyleError(f"{row.what} {row.name}", why)
        found[row.origin.file] = data
    return found
