"""A user's own rows in the tables of the method: losses, optimizers, poolings of a file of theirs.

A file is named on the command line (`--plugin FILE.py`) or imported by Python; what it registers are rows
like jaxstyle's own. The digest of the file stands in the spec of every run that uses one of them, and such
a run is gone on with by that very file alone. No spec or run names a file to be run: reading a run makes
rows of what its manifest says, without functions, which is enough to show it.

Nothing here needs JAX, but what a plugin imports may.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import itertools
import keyword
import re
import sys
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxstyle import config, limits, paths, tables
from jaxstyle.errors import JaxstyleError
from jaxstyle.settings import OPTION_KEYS, Sweep
from jaxstyle.tables import EVERY, Origin

_loading: list[Origin] = []
"""The file that is being read."""
_loaded: dict[str, tuple[str, tuple[Any, ...]]] = {}
"""The SHA-256 of every file that has been read, and the rows that it registered, by its path."""
TAKEN = ("total", "best", "final")
"""Names that no loss term can have: a column or a dataset is called after it."""


def register(*rows: Any) -> None:
    """Add loss terms, optimizers and poolings to those that sweeps can name.

        jaxstyle.register(jaxstyle.LossTerm("palette", loss=palette_loss, keep=quantiles))

    One of a name that was registered before takes its place.

    Args:
        rows: of `LossTerm`, `Optimizer` or `Pooling`.

    Raises:
        JaxstyleError: for what is none, has no function, or has a name that is taken; none is added then.
    """
    caller = sys._getframe(1).f_code
    found = [(_checked(row), row) for row in rows]
    for table, row in found:
        origin = _loading[-1] if _loading else _origin(row, caller)
        table.add(dataclasses.replace(row, origin=origin))


def _checked(row: Any) -> tables.Table[Any]:
    """The table that a row belongs to. Raises JaxstyleError if it cannot be added."""
    table = next((table for table in EVERY if isinstance(row, table.kind)), None)
    if table is None:
        why = f"{row!r} is none of {', '.join(table.kind.__name__ for table in EVERY)}"
        raise JaxstyleError("register", why)
    name = f"{row.what} {row.name}"
    if getattr(row, row.functions[0]) is None:
        raise JaxstyleError(name, f"has no {row.functions[0]}; give a function")
    _check_names(table, row)
    return table


def _check_names(table: tables.Table[Any], row: Any) -> None:
    """Raise JaxstyleError if what a row adds is called like something else."""
    table.check(row)
    name, mend = f"{row.what} {row.name}", "give another name"
    if isinstance(row, tables.LossTerm) and (row.always or row.name in TAKEN):
        raise JaxstyleError(name, f"there is a loss of that name in every run; {mend}")
    fields = (*Sweep.__dataclass_fields__, *OPTION_KEYS, *config.RETIRED, "help", "zip")
    for flag in _flags(row):
        taken = flag in fields or hasattr(Sweep, flag)
        if taken or keyword.iskeyword(flag) or any(flag in _flags(other) for other in _others(table, row)):
            raise JaxstyleError(name, f"there is a setting {flag} already; {mend}")


def _flags(row: Any) -> tuple[str, ...]:
    """The axes and settings that a row adds."""
    return (row.weight,) if isinstance(row, tables.LossTerm) else tuple(getattr(row, "own", ()))


def _others(table: tables.Table[Any], row: Any) -> list[Any]:
    added = (other for every in EVERY for other in every.added)
    return [other for other in added if not (isinstance(other, table.kind) and other.name == row.name)]


def _origin(row: Any, caller: types.CodeType) -> Origin:
    """Where a row comes from that no file on the command line has.

    A file that registers it when it is imported, as if that were named by `--plugin`. Otherwise a digest of
    all that it is.
    """
    file = caller.co_filename
    if caller.co_name == "<module>" and (data := _read(file)) is not None:
        return Origin(file, hashlib.sha256(data).hexdigest())
    functions = [f for name in row.functions if (f := getattr(row, name)) is not None]
    parts = [repr(sorted(row.record().items(), key=str)).encode()]
    parts += map(_text, functions)
    return Origin(file, hashlib.sha256(b"\0".join(parts)).hexdigest())


def _code(function: Any) -> Any:
    """The code of a function, behind decorators, compilations and partial applications; None for others."""
    function = inspect.unwrap(function)
    while hasattr(function, "func"):
        function = inspect.unwrap(function.func)
    return getattr(function, "__code__", None)


def _bound(function: Any) -> list[Any]:
    """The values that a function has beside its code: defaults, partial applications, names around it."""
    found: list[Any] = []
    while function is not None:
        found += [*getattr(function, "args", ()), *sorted(getattr(function, "keywords", {}).items())]
        found += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        found += getattr(function, "__defaults__", None) or ()
        found += sorted((getattr(function, "__kwdefaults__", None) or {}).items())
        function = getattr(function, "func", None) or getattr(function, "__wrapped__", None)
    return found


def _text(of: Any, around: tuple[Any, ...] = ()) -> bytes:
    """Code, a function or a value as bytes: the same in every process, where that can be had.

    Args:
        around: the functions that it was met in.
    """
    if any(of is function for function in around):  # which calls itself
        return b""
    if callable(of) and (code := _code(of)) is not None:
        return b"\0".join(_text(part, (*around, of)) for part in (code, *_bound(of)))
    if isinstance(of, np.ndarray):
        return str(of.dtype).encode() + of.tobytes()
    if not isinstance(of, types.CodeType):
        return repr(of).encode()
    try:
        return inspect.getsource(of).encode()
    except (TypeError, OSError):
        return b"\0".join([of.co_code, repr(of.co_names).encode(), *map(_text, of.co_consts)])


def _read(file: str) -> bytes | None:
    try:
        return Path(file).read_bytes()
    except OSError:
        return None


# --- files ----------------------------------------------------------------------------------------


def load(given: Iterable[str]) -> None:
    """Run the files at some paths, each once, so that they register their rows.

    Raises:
        JaxstyleError: for a file that cannot be read, fails, registers nothing or starts JAX, and for two
            that register the same name.
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
    """Of a module whose text is at hand, wherever its file lies."""

    def __init__(self, file: str, data: bytes):
        self._file, self._data = file, data

    def get_source(self, fullname: str) -> str:
        """Its text."""
        return importlib.util.decode_source(self._data)

    def get_code(self, fullname: str) -> types.CodeType:
        """Compiled anew: no other version of it is taken from a cache."""
        return self.source_to_code(self._data, self._file)


def load_bytes(file: str, data: bytes) -> tuple[Any, ...]:
    """Run the text of a file, if that has not been done, as `load` does; the rows that it registers."""
    digest = hashlib.sha256(data).hexdigest()
    if file in _loaded and _loaded[file][0] == digest:
        for row in _loaded[file][1]:  # another file may have taken their place since
            _checked(row).add(row)
        return _loaded[file][1]
    running, before = limits.is_jax_running(), [(table, table.copy()) for table in EVERY]
    name = f"jaxstyle_plugin_{re.sub(r'[^0-9A-Za-z_]', '_', Path(file).stem)}"
    loader, origin = _Loader(file, data), Origin(file, digest)
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, loader, origin=file))
    module.__file__ = file
    _loading.append(origin)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
        rows = tuple(row for table in EVERY for row in table.added if row.origin is origin)
        if not rows:
            raise JaxstyleError(file, "registers nothing; end it with jaxstyle.register(...)")
        if limits.is_jax_running() and not running:
            why = "starts JAX while it is read; make its constants with NumPy, or inside its functions"
            raise JaxstyleError(file, why)
    except BaseException as error:
        for table, own in before:
            table.reset(own)
        if isinstance(error, JaxstyleError):
            raise error if str(error).startswith(file) else _at_fault(file, error, str(error)) from error
        if isinstance(error, Exception | SystemExit):
            raise _at_fault(file, error, tables.said(error)) from error
        raise
    finally:
        _loading.pop()
    _loaded[file] = digest, rows
    return rows


def _at_fault(file: str, error: BaseException, said: str) -> JaxstyleError:
    return JaxstyleError(tables.at_fault(file, error), said)


def named_in(arguments: Sequence[str], most: int | None = None) -> tuple[str, ...]:
    """The files that a command line names by `--plugin`, before it is parsed: they add flags to it.

    Args:
        most: how many the flag takes, if not all.
    """
    given = list(arguments)
    found = [text.removeprefix("--plugin=") for text in given if text.startswith("--plugin=")]
    if "--plugin" in given:
        after = given[given.index("--plugin") + 1 :]
        found += itertools.takewhile(lambda text: not text.startswith("-"), after[:most])
        if not found:
            raise JaxstyleError("plugin", "no file; give the path of a Python file")
    return tuple(found)


# --- runs -----------------------------------------------------------------------------------------


def record(sweep: Sweep) -> list[dict[str, Any]]:
    """What the manifest of a run says of the plugins that it uses: their rows without functions."""
    found: dict[str, dict[str, Any]] = {}
    for row in config.rows_used(sweep):
        if row.origin is not None:
            name = Path(row.origin.file).name
            own = found.setdefault(
                row.origin.sha256, {"file": name, "sha256": row.origin.sha256, "rows": []}
            )
            own["rows"].append({"kind": row.what, **row.record()})
    return list(found.values())


def told(recorded: Any) -> tuple[Any, ...]:
    """The rows that `record` told of, without functions: nothing in a manifest names what is to be run.

    Raises:
        JaxstyleError: if it is not what `record` makes.
    """
    kinds = {table.kind.what: table.kind for table in EVERY}
    found = []
    try:
        for plugin in recorded:
            origin = Origin(str(plugin["file"]), str(plugin["sha256"]))
            for values in plugin["rows"]:
                kind = kinds[values["kind"]]
                found.append(kind(**{name: values[name] for name in kind.told()}, origin=origin))
    except (TypeError, KeyError, ValueError, AttributeError, JaxstyleError) as error:
        raise JaxstyleError("manifest.json", f"tells of plugins what is not known here: {error}") from None
    return tuple(found)


def know(rows: Iterable[Any]) -> None:
    """Put rows of a manifest into the tables where there are none of their names that can be computed."""
    for row in rows:
        table = next(table for table in EVERY if isinstance(row, table.kind))
        there = table.get(row.name)
        if there is None or getattr(there, there.functions[0]) is None:
            _check_names(table, row)
            table.add(row)


def check(sweep: Sweep) -> None:
    """Raise JaxstyleError unless there are the functions that a resolved sweep needs, of its own files."""
    used = [row for row in config.rows_used(sweep) if row.origin is not None]
    mend = "give the file with --plugin FILE.py"
    for row in used:
        if getattr(row, row.functions[0]) is None:
            why = f"is of the plugin {row.origin.file} (sha256 {row.origin.sha256}); {mend}"
            raise JaxstyleError(f"{row.what} {row.name}", why)
        if row.origin.sha256 not in sweep.plugins:
            why = f"has sha256 {row.origin.sha256} and the run was begun with {', '.join(sweep.plugins)}"
            raise JaxstyleError(row.origin.file, f"{why}; restore it, or start a new run without its spec")


def sources(sweep: Sweep) -> dict[str, bytes]:
    """The files that a sweep needs, by path, for other processes. Raises JaxstyleError if one has none."""
    found = {}
    for row in config.rows_used(sweep):
        if row.origin is None or row.origin.file in found:
            continue
        try:
            data = Path(row.origin.file).read_bytes()
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() != row.origin.sha256:
            why = "its workers need it as a file that stays as it is; give it with --plugin FILE.py"
            raise JaxstyleError(f"{row.what} {row.name}", why)
        found[row.origin.file] = data
    return found
