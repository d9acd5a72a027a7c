"""Readable names of a run's pictures: `pictures/cat__monet__ab1e-2_s3__000000.png`.

A name says content, style, the value on every other axis that varies in the run, and the step if there are
several snapshots; it ends in the cell's number, which alone makes it unique. It consists of ASCII letters,
digits and `.+-_`, so that it is safe on every file system, in a shell and in an address. It follows from
the cells of the run and from the names that the user gave its files, wherever they lie now.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from jaxstyle.plan.cells import Cell, axes_of
from jaxstyle.spec.blends import short_given
from jaxstyle.spec.settings import PATH_AXES
from jaxstyle.spec.tables import NETWORK_AXES
from jaxstyle.spec.values import INIT_KINDS

FOLDER = "pictures"
MAX_STEM, MAX_VALUE, MAX_VALUES = 40, 24, 80
"""Most characters of a file's name, of a value, and of all values, in the name of a picture."""
ENDING = re.compile(r"__(\d{6,})\.png")
"""The end of every name."""
_SHORT = {
    **{"alpha_beta": "ab", "seed": "s", "learning_rate": "lr", "content_layer": "", "style_layers": ""},
    **dict.fromkeys(NETWORK_AXES, ""),
}
"""Letters before a value of an axis; for others the first ones of their words."""
_LETTERS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss", "æ": "ae", "Æ": "Ae"}
    | {
        "ø": "o",
        "Ø": "O",
        "œ": "oe",
        "Œ": "Oe",
        "ł": "l",
        "Ł": "L",
        "đ": "d",
        "Đ": "D",
        "þ": "th",
        "ı": "i",
    }
)


def safe(text: str, limit: int) -> str:
    """`text` in letters that every file system has, at most `limit` of them; possibly empty."""
    plain = unicodedata.normalize("NFC", text).translate(_LETTERS)
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9.+-]+", "_", plain)
    return plain.strip("_.-+ ")[:limit].strip("_.-+ ")


def number_text(value: float) -> str:
    """A number as short as it can be written: `1e-2`, `0.5`, `12`, `2.5e-4`."""
    text = f"{value:.6g}"
    if not math.isfinite(value) or 0.1 <= abs(value) < 1e4 or value == 0:
        return text
    mantissa, _, exponent = f"{value:.5e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


class PictureNames:
    """The readable names of a run's pictures.

    Args:
        cells: all cells of the run, computed or not.
        steps: the steps of its snapshots, ascending.
        given: the text by which the user named each image, by axis and absolute path.
    """

    def __init__(self, cells: Sequence[Cell], steps: Sequence[int], given: Mapping[tuple[str, str], str]):
        self._cells, self._given = cells, given
        self._width = len(str(steps[-1])) if len(steps) > 1 else 0
        axes = [axis for axis in axes_of(cells) if axis not in ("content", "style")]
        first = cells[0]
        self._axes = [a for a in axes if any(c.label(a) != first.label(a) for c in cells)]
        self._words: dict[tuple[str, Any], str] = {}
        for axis in ("content", "style", *self._axes):
            for place, value in enumerate(dict.fromkeys(cell.label(axis) for cell in cells)):
                self._words[axis, value] = self._word(axis, value, place)

    def _word(self, axis: str, value: Any, place: int) -> str:
        """The text of an axis' value, which is the `place`-th of its values."""
        if axis in PATH_AXES and value not in INIT_KINDS:
            stem = short_given(value, self._given.get((axis, value), value))
            limit = MAX_STEM if axis in ("content", "style") else MAX_VALUE
            return safe(stem, limit) or f"{axis}{place + 1}"
        text = number_text(value) if isinstance(value, float) else str(value)
        initials = "".join(word[0] for word in axis.split("_"))
        known = "" if axis == "init" else _SHORT.get(axis, initials)
        return known + safe(text, MAX_VALUE)

    def name(self, cell: int, step: int) -> str:
        """The path of a cell's picture at a step, relative to its run."""
        own = self._cells[cell]
        content, style = (self._words[axis, own.label(axis)] for axis in ("content", "style"))
        values = "_".join(self._words[axis, own.label(axis)] for axis in self._axes)[:MAX_VALUES]
        step_text = f"step{step:0{self._width}d}" if self._width else ""
        values = "_".join(filter(None, (values.strip("_"), step_text)))
        return f"{FOLDER}/{'__'.join(filter(None, (content, style, values, f'{cell:06d}')))}.png"
