"""Numbers and names as a page of a study writes them, and the form of the page's blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxstyle.study.model import term_title, value_text


def number(value: float, digits: int = 3) -> str:
    """A number for a sentence."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.{digits}g}" if abs(value) < 1e5 else f"{value:.{digits - 1}e}"


def decimal(value: float) -> str:
    """A number between -1 and 1, such as SSIM."""
    return f"{value:.2f}" if np.isfinite(value) else "–"


def percent(value: float) -> str:
    """A share as a percentage."""
    return (
        "–"
        if not np.isfinite(value)
        else f"{100 * value:.2g} %"
        if value < 0.1
        else f"{value:.0%}".replace("%", " %")
    )


def interval(low: float, high: float, text: Any = number) -> str:
    """A range in parentheses; nothing where an end is not finite."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return ""
    return f" ({text(low).removesuffix(' %')} to {text(high)})"


def typical(values: Sequence[float], text: Any = number) -> str:
    """The median of several values and the range that they lie in."""
    if len(values) == 1:
        return text(values[0])
    return text(float(np.median(values))) + interval(min(values), max(values), text)


def figures_of(names: Sequence[str], stem: str, caption: str) -> list[dict[str, str]]:
    """The figures with one beginning of their names, under one caption."""
    return [{"path": name, "caption": caption} for name in names if name.startswith(f"maps/{stem}")]


def page_block(
    heading: str,
    text: Sequence[str],
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None,
    shown: Sequence[dict[str, str]] = (),
) -> dict[str, Any]:
    """A block of the page: a heading, paragraphs, a table and figures."""
    made = None if table is None else {"columns": list(table[0]), "rows": [list(row) for row in table[1]]}
    return {"heading": heading, "text": list(text), "table": made, "figures": list(shown)}


def titled(term: str) -> str:
    """The title of a measure, with an article where it is a loss."""
    title = term_title(term)
    return f"the {title}" if "loss" in title else title


def level_text(name: str, value: Any) -> str:
    """A level of a factor, in words."""
    names = name.split("+")
    values = value if len(names) > 1 else (value,)
    return " and ".join(value_text(n, v) for n, v in zip(names, values, strict=True))
