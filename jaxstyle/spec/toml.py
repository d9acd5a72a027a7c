"""Specs as TOML files, read and written."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxstyle.spec import blends, paths, settings
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import LATER, MASK_KEYS, PATH_AXES, SWEEP_KEYS, Sweep
from jaxstyle.spec.values import AUTO, NONE, is_path

MAX_SPEC_BYTES = 16 * 2**20
_ONLY_IF_GIVEN = ("balance_optional", "plugins", "region_names", "leave", "hold", *MASK_KEYS)
MAX_SPEC_DEPTH = 8
"""Deepest nesting of tables in a spec; no setting needs more than 3."""


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


def to_toml(sweep: Sweep, digests: Mapping[str, str], *, run: Path | None = None) -> str:
    """The text of `spec.toml`, which repeats the resolved `sweep` when run and holds its files' digests.

    Args:
        run: folder of the file; paths under that folder's parent are written relative to it.
    """
    lines = ["# Run again with: python -m jaxstyle.sweep --spec spec.toml"]

    def line(key: str, value: Any) -> str:
        if key in (*PATH_AXES, *MASK_KEYS, "weights") and not isinstance(value, Mapping):
            value = _respelled(value, run)
        return f"{key} = {_toml_value(value)}"

    written = {name: getattr(sweep, name) for name in SWEEP_KEYS}
    for name, value in (written | dict(sweep.extra)).items():
        if name in settings.WERE_SETTINGS and len(value) == 1:
            (value,) = value
            value = None if value == AUTO else value
        if name in ("grid", "digests", "balance") or value is None:
            continue
        if name in _ONLY_IF_GIVEN and not value:
            continue
        if name == "regions" and value == LATER[name]:
            continue
        value = dict(value) if name == "region_names" else value
        if settings.is_axis(name) and sweep.grid and all(name in table for table in sweep.grid):
            continue
        lines.append(line(name, value))
    balanced = [axis for axis in settings.WERE_SETTINGS if axis in settings.BALANCED_AXES]
    alike = {axis for axis in balanced if len(getattr(sweep, axis)) == 1}
    alike -= {axis for table in sweep.grid for axis in table}
    for kind in ("grid", "balance"):
        for table in getattr(sweep, kind):
            lines += ["", f"[[{kind}]]"]
            lines += [
                line(key, value)
                for key, value in table.items()
                if not (kind == "balance" and key in alike)
                and (kind, key, value) != ("balance", "regions", NONE)
            ]
    lines += ["", "[digests]"]
    named = {path if run is None else paths.spelled(path, run): d for path, d in digests.items()}
    lines += [f"{_toml_value(path)} = {_toml_value(d)}" for path, d in sorted(named.items())]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = "".join(
            f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08X}" for c in value
        )
        return f'"{escaped}"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_toml_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return repr(value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_value(key)


def _respelled(value: Any, run: Path | None) -> Any:
    """A path or several as they are written into a run, or without one; a blend becomes a table."""
    if isinstance(value, list | tuple):
        return [_respelled(item, run) for item in value]
    if blends.is_blend(value):
        return {_respelled(path, run): weight for path, weight in blends.parts_of(value)}
    named = run is None or not value or not is_path(value) or not os.path.isabs(value)
    return value if named or run is None else paths.spelled(value, run)
