"""Drawing for sheets and figures: fonts that have a text's characters, and matplotlib with its defaults.

File names can contain any character. Each word of a text is drawn in the first of these fonts that has all
its characters; where no font has the whole word, the same goes for each character:

1. on sheets, the font that comes with Pillow, which has ASCII and little else;
2. DejaVu Sans, which comes with matplotlib and has Latin, Greek, Cyrillic, Arabic and many signs;
3. for the rest, such as Chinese, fonts of the machine, which are searched when they are needed.

A character that no font has is drawn as Python escapes it, such as \\u4e2d. ASCII needs no search.

Figures are the same whatever a `matplotlibrc`, a style or `MPLBACKEND` says: matplotlib's own defaults
apply while a figure is drawn, and settings with which matplotlib cannot be imported are ignored. All this
changes the state of the whole process, so it happens under a lock and is undone afterwards.

Nothing here needs JAX; matplotlib is imported when a figure is drawn, or a sheet that is not all ASCII.
"""

from __future__ import annotations

import bisect
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
"""The size of text on sheets."""
FIGURE_FONT = "DejaVu Sans"
GREYS = ("#868686", "#757c84")
"""The colours of text in figures: their contrast with white and with black is about 4."""
THEMES = ("#5c5c64", "#a6a6ae")
"""Their colours on a light and on a dark page, of a contrast above 6."""
MAX_LABEL = 60
"""The longest line of a figure's text, in characters; longer ones would leave no room for the figure."""
_OWN_SHAPES = ("bold", "italic", "oblique", "light", "thin", "black", "heavy", "serif", "mono", "condensed")
"""Parts of the names of font files that are avoided where another font has the same characters."""
_NO_LETTERS = ("lastresort", "adobeblank")
"""Parts of the names of fonts that draw a box, or nothing, for every character."""
_UNSEEN = "\u200c\u200d\ufe0e\ufe0f"
"""Characters that only change how their neighbours are drawn; left out where no font has them."""
_BETWEEN_WORDS = re.compile(r"[\s_\-+.,/×]+")
_lock = threading.RLock()


# --- matplotlib -----------------------------------------------------------------------------------


def load_matplotlib() -> Any:
    """The module `matplotlib`, imported even where the user's settings for it are broken.

    matplotlib reads `MPLBACKEND` and a `matplotlibrc` when it is imported, and raises for a missing backend
    and for a file that it cannot read. It is imported with them where possible, for the sake of other code
    that draws with it in this process.
    """
    with _lock:
        logger = logging.getLogger("matplotlib")
        if not logger.handlers:  # without one Python prints its warnings of settings and caches on stderr
            logger.addHandler(logging.NullHandler())
        with _unwarned():
            if "matplotlib" in sys.modules:
                return _import_matplotlib()
            try:
                return _import_matplotlib()
            except (ValueError, OSError, RuntimeError, locale.Error, ImportError):
                # Submodules that were imported before the failure would not be attributes of the package
                # when it is imported again.
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
    """Hide the user's settings from matplotlib while the block runs; `_lock` is held."""
    ours, exists = threading.get_ident(), os.path.exists
    kept = {name: os.environ.pop(name, None) for name in ("MPLBACKEND", "MATPLOTLIBRC")}

    def seen(path: Any) -> bool:
        # The file in the working directory comes before all others, and no variable can override it. Other
        # threads, and other files, get the usual answer.
        return not (path == "matplotlibrc" and threading.get_ident() == ours) and exists(path)

    os.environ["MATPLOTLIBRC"] = os.devnull  # found before the file in the user's own folder
    os.path.exists = seen
    try:
        yield
    finally:
        os.path.exists = exists
        del os.environ["MATPLOTLIBRC"]
        os.environ.update({name: value for name, value in kept.items() if value is not None})


@contextlib.contextmanager
def figures(settings: Mapping[str, Any]) -> Iterator[None]:
    """Apply matplotlib's defaults and `settings`, instead of the user's, while the block makes figures.

    They apply to the whole process: another thread that draws meanwhile gets them too.
    """
    with _lock:
        mpl = load_matplotlib()
        defaults, now = mpl.rcParamsDefault, mpl.rcParams
        with _unwarned():  # comparing the settings warns of deprecated ones
            users = {k: v for k, v in defaults.items() if k != "backend" and now[k] != v}
        with _unwarned(), mpl.rc_context({**users, **settings}):
            yield


def figure_bytes(figure: Figure, kind: str, **settings: Any) -> bytes:
    """The file of a figure, the same bytes for the same figure. To be called inside `figures`.

    Args:
        figure: the figure; its texts are given fonts that have their characters, and `$` is a plain sign.
        kind: the kind of file, `png` or `svg`.
        settings: arguments of `Figure.savefig`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    _letter(figure)
    # `savefig` uses the figure's own canvas if it has one, or else whatever is registered for the format.
    figure.set_canvas(FigureCanvasSVG(figure) if kind == "svg" else FigureCanvasAgg(figure))
    metadata: Any = {"Date": None, "Creator": None, "Type": None} if kind == "svg" else {"Software": None}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=metadata, **settings)
    return buffer.getvalue()


def themed(svg: bytes) -> bytes:
    """A figure with grey text, whose text is darker on a light page and lighter on a dark one.

    No one grey has a contrast of 4.5 with both papers of a page: theirs with each other is 17, and its root
    is 4.2.
    """
    light, dark = THEMES
    style = (
        f"<style>svg {{ color: {light} }} @media (prefers-color-scheme: dark) {{ svg {{ color: {dark} }} }}"
    )
    for grey in GREYS:
        svg = svg.replace(grey.encode(), b"currentColor")
    at = svg.find(b">", svg.find(b"<svg")) + 1
    return svg[:at] + style.encode() + b"</style>" + svg[at:] if at else svg


def legend_text(label: str) -> str:
    """`label` for a legend, with a space before an underscore, or matplotlib would leave the label out."""
    return f" {label}" if label.startswith("_") else label


def _letter(figure: Figure) -> None:
    """Change every text of a figure so that it can be drawn, and give it fonts that have its characters."""
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
        if not said or (id(text) in ticks and said.isascii()):  # numbers, which may be powers in mathtext
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
        if again:  # the font was installed after matplotlib made its list
            fontManager.addfont(path)
    return FIGURE_FONT


# --- fonts ----------------------------------------------------------------------------------------


class _Font(NamedTuple):
    """A font and the characters that it has."""

    path: str
    """The path of the font file; empty for Pillow's own font."""
    characters: frozenset[str]


@functools.cache
def _charmap(path: str) -> frozenset[str]:
    """The characters of the font at `path`; none if the font cannot be scaled to any size."""
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
    """The fonts that come with Pillow and with matplotlib."""
    mpl = load_matplotlib()
    from matplotlib.ft2font import FT2Font

    path = str(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    data = getattr(ImageFont.load_default(FONT_PX), "font_bytes", b"")  # absent if Pillow lacks FreeType
    small = frozenset(map(chr, FT2Font(io.BytesIO(data)).get_charmap())) if data else frozenset()
    return _Font("", small), _Font(path, _charmap(path))


@functools.cache
def system_fonts() -> tuple[str, ...]:
    """The font files of the machine, plain styles first."""
    from matplotlib import font_manager

    def order(path: str) -> tuple[int, str, str]:
        name = os.path.basename(path).lower()
        return sum(shape in name for shape in _OWN_SHAPES), name, path

    found = sorted(font_manager.findSystemFonts(), key=order)
    return tuple(p for p in found if not any(word in os.path.basename(p).lower() for word in _NO_LETTERS))


@functools.cache
def _fonts_for(missing: frozenset[str]) -> tuple[_Font, ...]:
    """Fonts of the machine for the `missing` characters: one that has them all, or else a few with some."""
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
    """`text` in characters that can be drawn; others are escaped as in Python, such as \\u4e2d."""
    if text.isascii() and all(c.isprintable() or c == "\n" for c in text):
        return text
    text = unicodedata.normalize("NFC", text)  # file names on a Mac separate letters from accents
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
    """The font that all of `text` is drawn in, or None if there are several."""
    faces = {id(face): face for line in text.split("\n") for _, face in _runs(line)}
    return next(iter(faces.values())) if len(faces) == 1 else None


def _line_px(faces: Sequence[Any]) -> tuple[int, int]:
    """The largest extents above and below the base line, in px, among some fonts."""
    above, below = zip(*(face.getmetrics() for face in faces), strict=True)
    return max(above), max(below)


_PEN = ImageDraw.Draw(Image.new("L", (1, 1)))
_SPACING_PX = 4
"""The space between lines, the same as Pillow's."""


def extent(text: str) -> tuple[int, int]:
    """The (width, height) in px that a text takes up on a sheet."""
    if not (text := readable(text)):
        return 0, 0
    if (face := _one_face(text)) is not None:
        left, top, right, bottom = _PEN.multiline_textbbox((0, 0), text, font=face)
        return math.ceil(right - min(left, 0)), math.ceil(bottom - min(top, 0))
    lines = [_runs(line) for line in text.split("\n")]
    width = max(sum(face.getlength(part) for part, face in runs) for runs in lines)
    height = sum(sum(_line_px([face for _, face in runs])) + _SPACING_PX for runs in lines)
    return math.ceil(width), height - _SPACING_PX


def wrapped(text: str, width: int) -> str:
    """A text with lines of at most `width` px, broken between words where that is near."""
    return "\n".join(piece for line in readable(text).split("\n") for piece in _pieces(line, width))


def _pieces(line: str, width: int) -> Iterator[str]:
    while extent(line)[0] > width and len(line) > 1:
        fits = max(1, bisect.bisect_right(range(1, len(line)), width, key=lambda n: extent(line[:n])[0]))
        between = max((found.end() for found in _BETWEEN_WORDS.finditer(line, 0, fits)), default=0)
        cut = between if between > fits / 2 else fits
        yield line[:cut].rstrip()
        line = line[cut:].lstrip()
    yield line


def write(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, **settings: Any) -> None:
    """Draw a text, of one line or several, with its upper left corner at a given point.

    Args:
        pen: the drawing context of the sheet.
        at: the x and y of the corner in px.
        text: the text; characters that no font has are escaped by `readable`.
        settings: arguments of Pillow's `ImageDraw.text`, such as `fill`.
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
