"""What sheets and figures are drawn with: fonts that have a text's characters, and matplotlib by itself.

Names of files hold any character. A text is drawn in the first of these fonts that has it, word by word,
and character by character where no font has the whole word:

1. on sheets the one that comes with Pillow, which has ASCII and little else;
2. DejaVu Sans, which comes with matplotlib and has Latin, Greek, Cyrillic, Arabic and many signs;
3. what the machine has for the rest, such as Chinese, found among its fonts when it is needed;

a character that none has stands there as Python writes it, such as \\u4e2d. ASCII needs no search.

Figures are the same whatever a `matplotlibrc`, a style or `MPLBACKEND` says: matplotlib's own defaults hold
while one is drawn, and a setting that matplotlib cannot be imported with is passed over. What is switched
for that is the whole process's, so it is switched under a lock and put back.

Nothing here needs JAX; matplotlib is imported when a figure is drawn, or a sheet that is not all ASCII.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import locale
import logging
import math
import os
import re
import sys
import threading
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONT_PX = 15
"""The size of letters on sheets."""
FIGURE_FONT = "DejaVu Sans"
MAX_LABEL = 60
"""Characters of a text of a figure; longer ones would leave no place for what they tell of."""
_OWN_SHAPES = ("bold", "italic", "oblique", "light", "thin", "black", "heavy", "serif", "mono", "condensed")
"""In names of font files: what a text is not to look like, if another font has it too."""
_NO_LETTERS = ("lastresort", "adobeblank")
"""Fonts that have a box, or nothing, for every character."""
_UNSEEN = "\u200c\u200d\ufe0e\ufe0f"
"""What only says how its neighbours are drawn; left out where no font has it."""
_lock = threading.RLock()


# --- matplotlib -----------------------------------------------------------------------------------


def load_matplotlib() -> Any:
    """The module `matplotlib`, imported even where the user's settings for it are broken.

    matplotlib reads `MPLBACKEND` and a `matplotlibrc` when it is imported, and raises for a backend that is
    not there and for a file that it cannot read. It is imported with them if it can be, as they are of use
    to who draws in this process with it too.
    """
    with _lock:
        logger = logging.getLogger("matplotlib")
        if not logger.handlers:  # without one Python prints on stderr what it tells of settings and caches
            logger.addHandler(logging.NullHandler())
        with _unwarned():
            if "matplotlib" in sys.modules:
                return _import_matplotlib()
            try:
                return _import_matplotlib()
            except (ValueError, OSError, RuntimeError, locale.Error, ImportError):
                # The parts that came before the settings are no attributes of a package that is begun anew.
                for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
                    del sys.modules[name]
                with _without_settings():
                    return _import_matplotlib()


def _import_matplotlib() -> Any:
    found = importlib.import_module("matplotlib")
    for name in ("figure", "font_manager", "ft2font", "backends.backend_agg", "backends.backend_svg"):
        importlib.import_module(f"matplotlib.{name}")
    return found


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _without_settings() -> Iterator[None]:
    """A while in which matplotlib finds no settings of the user's; `_lock` is held."""
    ours, exists = threading.get_ident(), os.path.exists
    kept = {name: os.environ.pop(name, None) for name in ("MPLBACKEND", "MATPLOTLIBRC")}

    def seen(path: Any) -> bool:
        # The working directory's file comes before all others and cannot be named away. Other threads, and
        # other files, get the answer that they would get anyway.
        return not (path == "matplotlibrc" and threading.get_ident() == ours) and exists(path)

    os.environ["MATPLOTLIBRC"] = os.devnull  # which is found before the one of the user's folder
    os.path.exists = seen
    try:
        yield
    finally:
        os.path.exists = exists
        del os.environ["MATPLOTLIBRC"]
        os.environ.update({name: value for name, value in kept.items() if value is not None})


@contextlib.contextmanager
def figures(settings: Mapping[str, Any]) -> Iterator[None]:
    """A while in which figures are made with matplotlib's defaults and `settings`, whatever the user's are.

    They are those of the process: a thread that draws something of its own meanwhile gets them too.
    """
    with _lock:
        mpl = load_matplotlib()
        defaults, now = mpl.rcParamsDefault, mpl.rcParams
        with _unwarned():  # of a setting that is deprecated
            users = {k: v for k, v in defaults.items() if k != "backend" and now[k] != v}
        with _unwarned(), mpl.rc_context({**users, **settings}):
            yield


def figure_bytes(figure: Figure, kind: str, **settings: Any) -> bytes:
    """The file of a figure, `png` or `svg`: the same bytes for the same figure. Inside `figures`.

    Args:
        figure: its texts are given fonts that have them; a `$` in one is a dollar.
        kind: of file.
        settings: of `Figure.savefig`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    _letter(figure)
    # `savefig` takes the figure's own canvas, and without one whatever is registered for the format.
    figure.set_canvas(FigureCanvasSVG(figure) if kind == "svg" else FigureCanvasAgg(figure))
    metadata: Any = {"Date": None, "Creator": None, "Type": None} if kind == "svg" else {"Software": None}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=metadata, **settings)
    return buffer.getvalue()


def legend_text(label: str) -> str:
    """`label` for a legend, from which matplotlib leaves out what begins with an underscore."""
    return f" {label}" if label.startswith("_") else label


def _letter(figure: Figure) -> None:
    """Make every text of a figure one that can be drawn."""
    from matplotlib.text import Text

    ticks = {
        id(label)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
    }
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        said = text.get_text()
        if not said or (id(text) in ticks and said.isascii()):  # numbers; powers of ten are mathematics
            continue
        text.set_parse_math(False)
        said = "\n".join(_shortened(line) for line in readable(said).split("\n"))
        text.set_text(said)
        if others := _others(said):
            text.set_fontfamily([FIGURE_FONT, *(_registered(path) for path in others)])


def _shortened(text: str) -> str:
    half = MAX_LABEL // 2
    return text if len(text) <= MAX_LABEL else f"{text[: half - 1]}…{text[-half:]}"


def _registered(path: str) -> str:
    """The name by which matplotlib knows the font at `path`."""
    from matplotlib.font_manager import fontManager

    for again in (True, False):
        for entry in fontManager.ttflist:
            if entry.fname == path:
                return entry.name
        if again:  # installed after matplotlib looked
            fontManager.addfont(path)
    return FIGURE_FONT


# --- fonts ----------------------------------------------------------------------------------------


class _Font(NamedTuple):
    """A font and the characters that it has."""

    path: str
    """Empty for Pillow's own."""
    characters: frozenset[str]


@functools.cache
def _charmap(path: str) -> frozenset[str]:
    """The characters of the font at `path`, none if it cannot be drawn at any size."""
    from matplotlib import ft2font

    try:
        font = ft2font.FT2Font(path)
        font.set_size(12.0, 72.0)
        ImageFont.truetype(path, FONT_PX)
        return frozenset(map(chr, font.get_charmap()))
    except (OSError, RuntimeError, ValueError):  # no font, or one of bitmaps, such as coloured emoji
        return frozenset()


@functools.cache
def _own_fonts() -> tuple[_Font, _Font]:
    """Pillow's and matplotlib's."""
    mpl = load_matplotlib()
    from matplotlib.ft2font import FT2Font

    path = str(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    data = getattr(ImageFont.load_default(FONT_PX), "font_bytes", b"")  # none where Pillow has no FreeType
    small = frozenset(map(chr, FT2Font(io.BytesIO(data)).get_charmap())) if data else frozenset()
    return _Font("", small), _Font(path, _charmap(path))


@functools.cache
def system_fonts() -> tuple[str, ...]:
    """The font files of the machine, plain ones first."""
    from matplotlib import font_manager

    def order(path: str) -> tuple[int, str, str]:
        name = os.path.basename(path).lower()
        return sum(shape in name for shape in _OWN_SHAPES), name, path

    found = sorted(font_manager.findSystemFonts(), key=order)
    return tuple(p for p in found if not any(word in os.path.basename(p).lower() for word in _NO_LETTERS))


@functools.cache
def _fonts_for(missing: frozenset[str]) -> tuple[_Font, ...]:
    """Fonts of the machine with the `missing` characters: one that has all, or few that have some."""
    with _lock:
        load_matplotlib()
        some = []
        for path in system_fonts():
            own = _charmap(path) & missing
            if own == missing:
                return (_Font(path, own),)
            if own:
                some.append(_Font(path, own))
    kept, left = [], set(missing)
    while some and (best := max(some, key=lambda font: len(font.characters & left))).characters & left:
        kept.append(best)
        left -= best.characters
    return tuple(kept)


def _missing(text: str) -> frozenset[str]:
    """The characters of `text` that the package's own fonts do not have."""
    return frozenset(
        c for c in text if not c.isspace() and c.isprintable() and c not in _own_fonts()[1].characters
    )


def _others(text: str) -> tuple[str, ...]:
    """The paths of the machine's fonts that `text` needs."""
    return () if text.isascii() or not (need := _missing(text)) else tuple(f.path for f in _fonts_for(need))


@functools.lru_cache(maxsize=10_000)
def readable(text: str) -> str:
    """`text` in characters that can be drawn: others as Python writes them, such as \\u4e2d."""
    if text.isascii() and all(c.isprintable() or c == "\n" for c in text):
        return text
    text = unicodedata.normalize("NFC", text)  # names on a Mac have letters and accents apart
    need = _missing(text)
    has = frozenset().union(
        *(font.characters for font in (*_own_fonts(), *(_fonts_for(need) if need else ())))
    )

    def one(c: str) -> str:
        if c == "\n" or c == " " or (c.isprintable() and c in has) or (c in _UNSEEN and c in has):
            return c
        return "" if c in _UNSEEN else " " if c.isspace() else ascii(c)[1:-1]

    return "".join(map(one, text))


# --- text on sheets -------------------------------------------------------------------------------


@functools.cache
def _face(path: str) -> Any:
    return ImageFont.truetype(path, FONT_PX) if path else ImageFont.load_default(FONT_PX)


@functools.lru_cache(maxsize=10_000)
def _runs(line: str) -> tuple[tuple[str, Any], ...]:
    """The parts of a line of readable text with the fonts that they are drawn in."""
    if line.isascii():
        return ((line, _face("")),)
    need = _missing(line)
    fonts = (*_own_fonts(), *(_fonts_for(need) if need else ()))

    def path(text: str) -> str | None:
        return next((font.path for font in fonts if font.characters.issuperset(text)), None)

    runs: list[list[str]] = []
    for word in re.findall(r"\s+|\S+", line):
        whole = path(word)
        for part in [word] if whole is not None else word:
            own = whole if whole is not None else path(part) or ""
            if runs and (own == runs[-1][1] or part.isspace()):
                runs[-1][0] += part
            else:
                runs.append([part, own])
    return tuple((text, _face(own)) for text, own in runs)


def _one_face(text: str) -> Any:
    """The only font that `text` is drawn in, None if there are several."""
    faces = {id(face): face for line in text.split("\n") for _, face in _runs(line)}
    return next(iter(faces.values())) if len(faces) == 1 else None


def _line_px(faces: Sequence[Any]) -> tuple[int, int]:
    """How far lines of some fonts reach above and below their base."""
    above, below = zip(*(face.getmetrics() for face in faces), strict=True)
    return max(above), max(below)


_PEN = ImageDraw.Draw(Image.new("L", (1, 1)))
_SPACING_PX = 4
"""Between lines, as Pillow has it."""


def extent(text: str) -> tuple[int, int]:
    """(width, height) in px that a text takes on a sheet."""
    if not (text := readable(text)):
        return 0, 0
    if (face := _one_face(text)) is not None:
        left, top, right, bottom = _PEN.multiline_textbbox((0, 0), text, font=face)
        return math.ceil(right - min(left, 0)), math.ceil(bottom - min(top, 0))
    lines = [_runs(line) for line in text.split("\n")]
    width = max(sum(face.getlength(part) for part, face in runs) for runs in lines)
    height = sum(sum(_line_px([face for _, face in runs])) + _SPACING_PX for runs in lines)
    return math.ceil(width), height - _SPACING_PX


def write(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, **settings: Any) -> None:
    """Draw a text of any number of lines at its upper left corner.

    Args:
        pen: on the sheet.
        at: x and y in px.
        text: the characters that no font has are drawn as `readable` has them.
        settings: of Pillow's `ImageDraw.text`, such as `fill`.
    """
    text = readable(text)
    if (face := _one_face(text)) is not None:
        pen.multiline_text(at, text, font=face, **settings)
        return
    left, top = at
    for line in text.split("\n"):
        runs = _runs(line)
        above, below = _line_px([face for _, face in runs])
        x = left
        for part, face in runs:
            pen.text((x, top + above), part, font=face, anchor="ls", **settings)
            x += face.getlength(part)
        top += above + below + _SPACING_PX
