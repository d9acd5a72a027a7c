"""Regions of a picture, each with a style target of its own, as settings name them.

A kind of regions is `none`, `masks`, or a grid such as `2x4`, of 2 rows and 4 columns. A region of a mask
is one colour of it; its name is the grey level, as in `255`, or the colour, as in `#ff8000`, unless the
table `[regions]` of a spec gives it another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.paths import taken_from
from jaxstyle.spec.values import NONE, as_text, shown

MASKS = "masks"
"""The kind of regions that images show."""
MAX_REGIONS = 16
"""The most regions that a picture may have."""
KIND = "kind"
"""Key of the table `[regions]` for the kinds that the axis of the same name has."""
_KINDS = f"use {NONE}, {MASKS}, or rows and columns such as 2x2"


def as_regions(what: str, value: Any) -> str:
    """A kind of regions: none, masks, or a grid."""
    if value in (NONE, MASKS):
        return value
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", value) if isinstance(value, str) else None
    if match is None:
        raise JaxstyleError(what, f"{shown(value)} is no kind of regions; {_KINDS}")
    rows, columns = int(match[1]), int(match[2])
    if not (rows and columns):
        raise JaxstyleError(what, f"{value!r} has no tiles; {_KINDS}")
    if rows * columns > MAX_REGIONS:
        raise JaxstyleError(what, f"{value} has {rows * columns} tiles; at most {MAX_REGIONS} are possible")
    return f"{rows}x{columns}"


def grid_shape(kind: str) -> tuple[int, int]:
    """Rows and columns of a grid; 1 and 1 without regions."""
    if kind == NONE:
        return 1, 1
    rows, columns = kind.split("x")
    return int(rows), int(columns)


def as_colour(text: Any) -> str | None:
    """A grey level or a colour of a mask in its one form, `255` or `#ff8000`; None for anything else."""
    colour = str(text).strip().lower()
    if colour.isdecimal() and len(colour) < 4 and int(colour) < 256:
        return str(int(colour))
    return colour if re.fullmatch(r"#[0-9a-f]{6}", colour) else None


def region_name(text: str) -> str:
    """The name of the region that a text names: a grey of the form `#ffffff` is the level `255`."""
    if not re.fullmatch(r"#[0-9a-f]{6}", text):
        return text
    return colour_name(*bytes.fromhex(text[1:]))


def mask_from(base: Path | str, text: str) -> str:
    """The absolute path of a mask in the folder `base`; a colour, for which no file is there, as it is."""
    path = taken_from(base, text)
    colour = as_colour(text)
    return path if colour is None or os.path.exists(path) else colour


def as_masks(what: str, given: Any) -> tuple[str, ...]:
    """Masks: absolute paths, or colours."""
    several = given if isinstance(given, list | tuple) else (given,)
    named = (str(level) if type(level) is int else as_text(what, level) for level in several)
    return tuple(mask_from("", text) for text in named)


def as_region_list(what: str, given: Any) -> tuple[str, ...]:
    """Names of regions, each once."""
    several = given if isinstance(given, list | tuple) else (given,)
    names = tuple(as_text(what, as_colour(name) or str(name)) for name in several)
    return tuple(dict.fromkeys(names))


def as_names(what: str, value: Any) -> tuple[tuple[str, str], ...]:
    """Names of regions of masks by grey level or colour, as `(colour, name)`; a table or such pairs."""
    pairs = value.items() if isinstance(value, Mapping) else value
    found: dict[str, str] = {}
    try:
        items = [(str(key), name) for key, name in pairs]
    except (TypeError, ValueError):
        why = 'is no table of names; write [regions] "255" = "sky"'
        raise JaxstyleError("regions", f"{shown(value)} {why}") from None
    for key, name in items:
        if (colour := as_colour(key)) is None:
            why = 'is neither a grey level, 0 to 255, nor a colour such as "#ff8000"'
            raise JaxstyleError("regions", f"{shown(key)} {why}")
        found[colour] = as_text(f"regions: {key}", name)
    return tuple(sorted(found.items()))


def colour_name(red: int, green: int, blue: int) -> str:
    """Name of a colour of a mask: its grey level, or `#rrggbb`."""
    return str(red) if red == green == blue else f"#{red:02x}{green:02x}{blue:02x}"


def split_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a source, in which a table `[regions]` stands for the axis and the names of regions."""
    found = dict(table)
    if isinstance(own := found.get("regions"), Mapping):
        found["regions"] = own.get(KIND, MASKS)
        found["region_names"] = {key: name for key, name in own.items() if key != KIND}
    return found
