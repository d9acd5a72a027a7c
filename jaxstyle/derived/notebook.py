"""A run as a notebook shows it: its first contact sheet, its first rows, and where its page is."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxstyle.console.progress import counted

SHOWN_ROWS = 10
"""Rows of the table; the page of the run has all of them."""
SHEET_PX = 960
"""Width of the sheet at most."""
ALWAYS = ("cell", "status", "loss_total")
"""Columns that are shown even if they are the same everywhere."""


def html_of(path: Path, rows: Sequence[dict[str, Any]], sheets: Sequence[Path]) -> str:
    """The HTML of a run; columns that are the same in every row shown are left out of its table.

    Args:
        path: its directory.
        rows: those of `results.csv`.
        sheets: its contact sheets, of which the first is shown.
    """
    first = [rows[i] for i in range(min(SHOWN_ROWS, len(rows)))]
    names = [
        name
        for name in (first[0] if first else ())
        if name in ALWAYS or (name != "image" and len({str(row[name]) for row in first}) > 1)
    ]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_text(row[name]))}</td>" for name in names) + "</tr>"
        for row in first
    )
    more = len(rows) - len(first)
    last = f"<p>and {counted(more, 'cell')} more</p>" if more else ""
    where = html.escape(str((path / "report.html").absolute()))
    return (
        f"<div><p>{counted(len(rows), 'cell')}; the run as a page: <code>{where}</code></p>"
        f"{_sheet(sheets)}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{last}</div>"
    )


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else "" if value is None else str(value)


def _sheet(sheets: Sequence[Path]) -> str:
    """The first contact sheet as an image within the text, or nothing if there is none."""
    if not sheets or not sheets[0].is_file():  # it is of a run that goes on
        return ""
    with Image.open(sheets[0]) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((SHEET_PX, 2 * SHEET_PX))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88)
    data = base64.b64encode(out.getvalue()).decode()
    return f'<img alt="contact sheet" src="data:image/jpeg;base64,{data}">'
