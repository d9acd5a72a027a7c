"""Sections of a page that only repeat files of the run: settings, manifest and the study of seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxstyle.derived import drawing
from jaxstyle.derived.thumbnails import data_uri
from jaxstyle.derived.tiles import short_name
from jaxstyle.rundir.records import Record
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import AXES, LATER, MASK_KEYS, PATH_AXES, ROWS, is_axis

VARIANCE = "variance.json"
"""The file with the results of a study of the run's seeds, if there was one."""
MAX_MANIFEST_CHARS = 200_000


def _value_texts(record: Record, axis: str) -> str:
    values = record.values[axis]
    texts = [record.given(axis, v) if axis in PATH_AXES else short_name(axis, v) for v in values]
    if len(texts) > 24:
        return ", ".join(texts[:20]) + f", … {texts[-1]} ({len(texts)} values)"
    return ", ".join(texts)


def settings_table(record: Record) -> list[tuple[str, str]]:
    """The settings of the run as names and texts, axes first."""
    found = [(axis, _value_texts(record, axis)) for axis in record.axes]
    values = {
        name: getattr(record.sweep, name)
        for name, row in ROWS.items()
        if row.commands and name not in (*AXES, *record.axes)
    }
    more = {name: value for name, value in record.sweep.extra.items() if not is_axis(name)}
    unset = {name: LATER.get(name, ()) for name in ("regions", "leave", "hold", *MASK_KEYS)}
    for name, value in (values | more).items():
        if value is not None and (name not in unset or value != unset[name]):
            several = value if isinstance(value, tuple) else (value,)
            texts = (str(one).lower() if isinstance(one, bool) else str(one) for one in several)
            found.append((name, ", ".join(texts)))
    return found


def manifest_texts(manifest: Mapping[str, Any]) -> tuple[list[tuple[str, str]], str]:
    """The short entries of a manifest as names and texts, and the text of all of it."""

    def line(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{k} {v}" for k, v in value.items())
        return str(value)

    names = (
        "status",
        "began",
        "device",
        "host",
        "threads",
        "convolution",
        "versions",
        "timings",
        "weights",
    )
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    if len(text) > MAX_MANIFEST_CHARS:
        text = text[:MAX_MANIFEST_CHARS] + "\n… the rest is in manifest.json"
    elsewhere = {"timings"} if manifest.get("shares") else set()  # theirs are in the text
    shown = [name for name in names if name in manifest and name not in elsewhere]
    return [(name, line(manifest[name])) for name in shown], text


def variance_section(run: Path, cells: int) -> dict[str, Any] | None:
    """The section that `variance.json` describes, its figures as data URIs; None if there is no such file.

    Args:
        run: the run's directory.
        cells: the number of cells that the run has now; a study of fewer says so.

    Raises:
        JaxstyleError: if the file or one of its figures cannot be read.
    """
    path = run / VARIANCE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
        blocks = [
            {
                "heading": _str(block["heading"]),
                "text": [_str(line) for line in _list(block["text"])],
                "table": None if block["table"] is None else _table(block["table"]),
                "figures": [_figure(run, figure) for figure in _list(block["figures"])],
            }
            for block in _list(found["blocks"])
        ]
        before = found.get("cells", cells)
        stale = f"This is a study of {before} cells, and the run has {cells} now;"
        stale += " python -m jaxstyle.variance makes it again."
        return {
            "title": _str(found["title"]),
            "intro": [*([stale] if before != cells else []), *map(_str, _list(found["intro"]))],
            "blocks": blocks,
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise JaxstyleError(
            str(path), f"cannot be shown: {why}; make it again or remove the file"
        ) from None


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _list(value: Any) -> list:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value


def _table(table: Any) -> dict[str, Any]:
    columns = [_str(name) for name in _list(table["columns"])]
    rows = [_list(row) for row in _list(table["rows"])]
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"a row of a table does not have {len(columns)} values")

    def text(value: Any) -> str:
        return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)

    return {"columns": columns, "rows": [[text(value) for value in row] for row in rows]}


def _figure(run: Path, figure: Any) -> dict[str, str]:
    name = _str(figure["path"])
    path = (run / name).resolve()
    if not path.is_relative_to(run.resolve()):
        raise ValueError(f"{name} is outside the run")
    kinds = {".png": "image/png", ".svg": "image/svg+xml"}
    if path.suffix not in kinds:
        raise ValueError(f"{name} is neither .png nor .svg")
    data = path.read_bytes()
    data = drawing.themed(data) if path.suffix == ".svg" else data
    return {"src": data_uri(kinds[path.suffix], data), "caption": _str(figure["caption"])}
