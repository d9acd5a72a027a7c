"""`report.html`: a whole run as one page that opens from a file and needs no network.

The first part, on the places of pictures, is common to the page and the contact sheets. The page contains
small JPEGs of all pictures and, as long as it lies in its run, finds the full ones. All that it shows of a
run is escaped, by Jinja if it is text and by `_json` if it is data, and a content security policy allows
no scripts but its own. The same run gives the same bytes: times, hosts and devices appear only where
`manifest.json` is shown.

Nothing here needs JAX; Matplotlib and Jinja are imported when a page is made.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from jaxstyle import drawing, sample
from jaxstyle.inputs import decode
from jaxstyle.rundir.files import dataset, members, open_h5
from jaxstyle.rundir.records import Record
from jaxstyle.rundir.results_csv import Rows
from jaxstyle.sample import Count, Shown
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.presets import PACKAGE
from jaxstyle.spec.settings import PATH_AXES, SETTINGS, axis_row, is_axis, plural, short, title
from jaxstyle.spec.values import INIT_KINDS

if TYPE_CHECKING:
    import jinja2

TEMPLATES = PACKAGE / "templates"
SOURCE_PX = 224
"""The longest edge, in px, of contents and styles that are kept for the heads of rows and columns."""
VARIANCE = "variance.json"
"""The file with the results of a study of the run's seeds, if there was one."""


# --- places of pictures ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """One picture of a run and its place in the grid."""

    cell: int
    snapshot: int
    """The index of its step among the snapshots."""
    place: dict[str, str]
    """The text of its value on every axis that has several."""


def _short(axis: str, value: Any) -> str:
    if axis in PATH_AXES and value not in INIT_KINDS:
        return Path(value).stem
    return f"{value:g}" if isinstance(value, float) else str(value)


def axis_names(record: Record, axis: str) -> dict[Any, str]:
    """A short text for every value of an axis, or the full texts if short ones would coincide."""
    values = record.values[axis]
    short = {value: _short(axis, value) for value in values}
    if len(set(short.values())) < len(short):
        short = {v: record.given(axis, v) if isinstance(v, str) else repr(v) for v in values}
    return short


def shown(record: Record, present: Iterable[int]) -> Shown:
    """The selection of the cells in `present` that the page and the sheets show."""
    return sample.shown(record, present, MAX_TILES)


def part_text(part: Shown) -> str:
    """The part of a run that is shown, in words."""
    thinned = sorted(part.counts, key=lambda count: count.shown == count.total)
    counts = [
        (f"{c.shown:,} of " if c.shown < c.total else "all ") + f"{c.total:,} {_plural(c.axes)}"
        for c in thinned
    ]
    return f"{_pictures_text(part)}, evenly spread: {', '.join(counts)}"


def _pictures_text(part: Shown) -> str:
    pictures = len(part.cells) * len(part.snapshots)
    return f"{pictures:,} of {pictures + part.left_out:,} pictures"


def place_tiles(
    record: Record, present: Iterable[int], snapshots: Sequence[int] | None = None
) -> list[Tile]:
    """The pictures of the cells in `present`, each with its values on the axes that vary.

    Args:
        snapshots: the indices of the snapshots to take; all if None.
    """
    names = {axis: axis_names(record, axis) for axis in record.axes}
    varying = [axis for axis in record.axes if len(names[axis]) > 1]
    steps = record.sweep.steps
    found = []
    for number in sorted(present):
        cell = record.cells[number]
        place = {axis: names[axis][cell.label(axis)] for axis in varying}
        for index in range(len(steps)) if snapshots is None else snapshots:
            at = {"steps": str(steps[index])} if len(steps) > 1 else {}
            found.append(Tile(number, index, place | at))
    return found


def group_axes(tiles: Sequence[Tile]) -> list[tuple[str, ...]]:
    """The axes of `tiles`, slowest first; axes that always change together (zipped ones) are one group."""
    groups: list[tuple[str, ...]] = []
    for axis in tiles[0].place:
        for i, group in enumerate(groups):
            pairs = {(tile.place[group[0]], tile.place[axis]) for tile in tiles}
            if len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}):
                groups[i] = (*group, axis)
                break
        else:
            groups.append((axis,))
    return groups


def place_text(place: Mapping[str, str], axes: Iterable[str]) -> str:
    """The values of a `place` on some axes, one per line: names alone, numbers after what they count."""
    parts = []
    for axis in axes:
        text = place[axis].replace("+", " +\n") if axis == "style_layers" else place[axis]
        parts.append(f"{short(axis)} {text}".lstrip())
    return "\n".join(parts)


def shared_words(record: Record) -> list[str]:
    """The settings that all cells of a run have in common, in a few words each."""
    sweep = record.sweep
    words = []
    for axis in record.axes:
        names = list(axis_names(record, axis).values())
        if len(names) == 1:
            words.append(place_text({axis: names[0]}, [axis]).replace(" +\n", "+"))
    if len(sweep.steps) == 1:
        words.append(f"{sweep.steps[0]} steps")
    words.append(sweep.optimizer + (f", {sweep.pyramid} coarser stages" if sweep.pyramid else ""))
    return [*words, f"{sweep.pool} pooling"]


def scaled(pixels: UInt8[np.ndarray, "h w 3"], longest: int) -> Image.Image:
    """`pixels` as an image, reduced if its longest edge is over `longest` px."""
    image = Image.fromarray(pixels)
    if max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return image


class Sources:
    """The contents and styles of a run, as long as their files are still there and the same."""

    def __init__(self, record: Record):
        self._digests = record.sweep.digests
        self._found: dict[str, np.ndarray | None] = {}

    def __call__(self, path: str) -> np.ndarray | None:
        """The reduced pixels of the image at `path`, or None if it is gone or has changed."""
        if path not in self._found:
            try:
                picture = decode.read(path)
            except JaxstyleError:
                self._found[path] = None
            else:
                same = picture.sha256 == self._digests.get(path, picture.sha256)
                self._found[path] = np.asarray(scaled(picture.pixels, SOURCE_PX)) if same else None
        return self._found[path]


class Where(Mapping[int, tuple[h5py.Group, int]]):
    """The group of `results.h5` that holds a cell and the cell's index in it, by the cell's number."""

    def __init__(self, file: h5py.File):
        self.groups = [group for group in members(file) if isinstance(group, h5py.Group)]
        cells = [dataset(group, "cell")[()] for group in self.groups]
        cell = np.concatenate([np.zeros(0, np.int64), *cells])
        order = np.argsort(cell, kind="stable")
        self._cell = cell[order]
        self._group = np.repeat(np.arange(len(cells)), [len(own) for own in cells])[order]
        self._index = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(own)) for own in cells)])[
            order
        ]

    def __getitem__(self, cell: int) -> tuple[h5py.Group, int]:
        at = int(np.searchsorted(self._cell, cell))
        if at == len(self._cell) or self._cell[at] != cell:
            raise KeyError(cell)
        return self.groups[self._group[at]], int(self._index[at])

    def __iter__(self) -> Iterator[int]:
        return iter(self._cell.tolist())

    def __len__(self) -> int:
        return len(self._cell)


@contextlib.contextmanager
def results(record: Record) -> Iterator[Where]:
    """Open `results.h5` and give the group and the index of every cell in it."""
    with open_h5(record.path / "results.h5") as file:
        yield Where(file)


# --- pictures -------------------------------------------------------------------------------------


class _Thumbnail(NamedTuple):
    """The form in which pictures are kept in a page of at most `tiles` pictures."""

    tiles: int
    longest_px: int
    quality: int
    subsampling: int


_THUMBNAILS = (
    _Thumbnail(100, 256, 90, 0),
    _Thumbnail(400, 192, 88, 0),
    _Thumbnail(1_000, 144, 85, 2),
    _Thumbnail(3_000, 96, 82, 2),
)
"""Forms by number of pictures; at these limits pure noise takes some 16 to 36 MB, real pictures a third."""
MAX_TILES = _THUMBNAILS[-1].tiles
"""The most pictures that a page, or all sheets of a run, contain; of more, a part is shown."""
MAX_HEADS = 1_000
"""The most contents and styles whose pictures are in the page."""
WINDOW_RATIO = 1.6
"""The approximate number of columns per row with which a grid is first shown."""
MAX_VALUES = 60
"""The most values of an axis in the table of all cells of a run that is shown in part."""
MAX_MANIFEST_CHARS = 200_000


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _jpeg(image: Image.Image, *, quality: int, subsampling: int) -> str:
    buffer = io.BytesIO()
    # Not with `optimize`: Pillow then fails on noise, whose JPEG has more bytes than the image has pixels.
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return _data_uri("image/jpeg", buffer.getvalue())


# --- curves ---------------------------------------------------------------------------------------

MAX_COLOURS = 12
"""The most groups of curves that the overview tells apart by colour."""
MAX_LINES = 60
"""The most cells for which the overview draws a line each."""
_CURVE_VALUES = 600_000
"""The approximate number of losses in the page, whatever the number of cells."""
_BAND_POINTS = 40
"""Points of each curve in the overview of a run that is shown in part."""


@dataclass(frozen=True)
class _Curves:
    """The loss curves, thinned out, of cells of one group of `results.h5`."""

    cells: tuple[int, ...]
    step: tuple[int, ...]
    values: Float[np.ndarray, "cells losses steps"]
    """The losses, total loss first."""


def _thinned(count: int, points: int) -> np.ndarray:
    """Up to about `points` of the indices below `count`, closer at the start, where curves fall."""
    if count <= points:
        return np.arange(count)
    even = np.linspace(0, count - 1, points // 2)
    early = np.geomspace(1, count - 1, points - points // 2)
    return np.unique(np.round(np.concatenate([even, early])).astype(int))


def _read_curves(where: Where, losses: Sequence[str], cells: Sequence[int]) -> list[_Curves]:
    """The curves of some cells; the more cells, the fewer points."""
    points = min(120, max(16, _CURVE_VALUES // (len(losses) * max(1, len(cells)))))
    if len(cells) == len(where):
        return [_group_curves(group, losses, points) for group in where.groups]
    rows: dict[int, list[int]] = {}
    for group, index in map(where.__getitem__, cells):
        rows.setdefault(where.groups.index(group), []).append(index)
    return [_group_curves(where.groups[at], losses, points, own) for at, own in sorted(rows.items())]


def _group_curves(
    group: h5py.Group, losses: Sequence[str], points: int, rows: Sequence[int] | None = None
) -> _Curves:
    """The curves of all cells of a group, or of those in some of its rows."""
    cells, step = dataset(group, "cell")[()], dataset(group, "step")[()]
    kept = _thinned(len(step), points)
    values = np.empty((len(cells) if rows is None else len(rows), len(losses), len(kept)), np.float32)
    block = max(1, 2**22 // max(1, len(step)))
    for i, name in enumerate(losses):
        data = dataset(group, name)
        if rows is None:
            for start in range(0, len(cells), block):
                values[start : start + block, i] = data[start : start + block][:, kept]
        else:
            for at, row in enumerate(rows):  # one by one: HDF5 is slower at selecting thousands at once
                values[at, i] = data[row][kept]
    own = cells if rows is None else cells[rows]
    return _Curves(tuple(own.tolist()), tuple(step[kept].tolist()), values)


def _codes(values: np.ndarray) -> np.ndarray:
    """Losses as 16-bit codes, 1 + 1000 (log10 + 12), or 0 for none; they are exact to 0.12 %."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(values.astype(np.float64))
    codes = np.clip(np.round((logs + 12) * 1000) + 1, 1, 65535)
    return np.where(np.isfinite(logs), codes, 0).astype("<u2")


def overview(curves: Sequence[_Curves], labels: Mapping[int, str], title: str, ordered: bool) -> str:
    """The total losses of a run over its steps as an SVG file that is legible on light and dark paper.

    A few cells are drawn as a line each, many as a median with a band from 10 to 90 %.

    Args:
        labels: the group of every cell; each group has a colour.
        title: the heading of the legend, which says what the groups are.
        ordered: whether the groups are numbers in order, so that their colours form a scale.
    """
    mpl = drawing.load_matplotlib()
    from matplotlib.figure import Figure

    grey = "#868686"
    settings: dict[str, Any] = {
        "svg.hashsalt": "jaxstyle",
        "svg.fonttype": "path",
        "font.size": 10,
        "text.color": grey,
        "axes.labelcolor": grey,
        "axes.edgecolor": grey,
        "xtick.color": grey,
        "ytick.color": grey,
    }
    with drawing.figures(settings):
        figure = Figure(figsize=(9.5, 4.6), layout="constrained")
        axes = figure.add_subplot(yscale="log", xlabel="step", ylabel="total loss")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=grey, alpha=0.25, linewidth=0.6)
        axes.patch.set_visible(False)
        groups = list(dict.fromkeys(labels.values()))
        scale = mpl.colormaps["plasma"](np.linspace(0.25, 0.83, len(groups)))
        for index, label in enumerate(groups):
            color = tuple(scale[index]) if ordered else f"C{index % 10}"
            for part in curves:
                rows = [i for i, cell in enumerate(part.cells) if labels.get(cell) == label]
                total = part.values[rows, 0].astype(np.float64)
                total[~(total > 0)] = np.nan  # a logarithmic axis cannot show it
                total = total[np.isfinite(total).any(axis=1)]
                if len(labels) <= MAX_LINES:
                    axes.plot(part.step, total.T, color=color, linewidth=1, alpha=0.75)
                    continue
                seen = np.isfinite(total).any(axis=0) if len(total) else np.zeros(len(part.step), bool)
                if not seen.any():
                    continue
                step = np.array(part.step)[seen]
                low, middle, high = np.nanquantile(total[:, seen], (0.1, 0.5, 0.9), axis=0)
                axes.fill_between(step, low, high, color=color, alpha=0.18, linewidth=0)
                axes.plot(step, middle, color=color, linewidth=1.6)
            axes.plot([], [], color=color, linewidth=2, label=drawing.legend_text(label))
        if title:
            axes.legend(frameon=False, title=title, loc="center left", bbox_to_anchor=(1, 0.5))
        return drawing.figure_bytes(figure, "svg", transparent=True).decode()


# --- contents of the page -------------------------------------------------------------------------


def _plural(axes: Iterable[str]) -> str:
    return " with ".join(map(plural, axes))


def _speaks_for_itself(axis: str) -> bool:
    """Whether a value of an axis is clear without a word before it."""
    return not short(axis)


class _Heads:
    """The pictures of contents and styles that heads of rows and columns show, each once."""

    def __init__(self, record: Record):
        self._sources = Sources(record)
        self._index: dict[str, int | None] = {}
        self.pictures: list[dict[str, str]] = []

    def add(self, path: str, text: str) -> int | None:
        """The number of the picture at `path`, which is added if it is new; None if there is none."""
        if path not in self._index:
            pixels = self._sources(path) if len(self.pictures) < MAX_HEADS else None
            self._index[path] = None if pixels is None else len(self.pictures)
            if pixels is not None:
                longest = 160 if len(self.pictures) < 100 else 80
                src = _jpeg(scaled(pixels, longest), quality=85, subsampling=0)
                self.pictures.append({"src": src, "text": text})
        return self._index[path]


@dataclass(frozen=True)
class _Dimension:
    """A group of axes that change together; rows, columns or pages can stand for its values."""

    axes: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]
    """Its values in the order of the grid, each with a text for every axis."""
    at: list[int]
    """The index of every tile's value."""
    about: dict[str, Any]
    """Its description for the script of the page."""


def _dimension(record: Record, tiles: Sequence[Tile], axes: tuple[str, ...], heads: _Heads) -> _Dimension:
    index: dict[tuple[str, ...], int] = {}
    values, at = [], []
    for tile in tiles:
        key = tuple(tile.place[axis] for axis in axes)
        if key not in index:
            index[key] = len(values)
            values.append(_value(record, tile, axes, heads))
        at.append(index[key])
    about = {
        "id": axes[0],
        "label": " + ".join(map(title, axes)),
        "axes": [title(axis) for axis in axes],
        "named": not _speaks_for_itself(axes[0]),
        "values": values,
    }
    return _Dimension(axes, tuple(index), at, about)


def _raw(record: Record, tile: Tile, axis: str) -> Any:
    """The value of a tile on an axis as it is in the run, not as text."""
    return record.sweep.steps[tile.snapshot] if axis == "steps" else getattr(record.cells[tile.cell], axis)


def _value(record: Record, tile: Tile, axes: Sequence[str], heads: _Heads) -> dict[str, Any]:
    raws: list[Any] = [_raw(record, tile, axis) for axis in axes]
    given, pictures = [], []
    for axis, raw in zip(axes, raws, strict=True):
        given.append(record.given(axis, raw) if axis in PATH_AXES else tile.place[axis])
        if (
            axis != "steps"
            and axis_row(axis).thumbnail
            and (number := heads.add(raw, given[-1])) is not None
        ):
            pictures.append(number)
    return {
        "text": [tile.place[axis] for axis in axes],
        "given": given,
        "pictures": pictures,
        "number": raws[0] if isinstance(raws[0], int | float) else None,
    }


def _rounded(value: Any) -> float | None:
    number = float(value)
    return float(f"{number:.5g}") if math.isfinite(number) else None


def _tile_losses(
    tiles: Sequence[Tile], names: Sequence[str], where: Mapping, rows: Mapping[int, Mapping]
) -> list[list]:
    """The losses of every tile, a list for each of `names`; None for a loss that the run did not keep."""
    found: list[list] = [[] for _ in names]
    places: dict[str, dict[int, int]] = {}
    for tile in tiles:
        group, index = where[tile.cell]
        snapshots = dataset(group, "snapshot")
        if tile.snapshot == len(snapshots) - 1:
            values = [rows[tile.cell][name] for name in names]
        else:
            if group.name not in places:
                steps = dataset(group, "step")[()]
                places[group.name] = {int(step): i for i, step in enumerate(steps)}
            at = places[group.name].get(int(snapshots[tile.snapshot]))
            values = [math.nan if at is None else dataset(group, n)[index, at] for n in names]
        for losses, value in zip(found, values, strict=True):
            losses.append(_rounded(value))
    return found


def _value_texts(record: Record, axis: str) -> str:
    values = record.values[axis]
    texts = [record.given(axis, v) if axis in PATH_AXES else _short(axis, v) for v in values]
    if len(texts) > 24:
        return ", ".join(texts[:20]) + f", … {texts[-1]} ({len(texts)} values)"
    return ", ".join(texts)


def _settings(record: Record) -> list[tuple[str, str]]:
    """The settings of the run as names and texts, axes first."""
    found = [(axis, _value_texts(record, axis)) for axis in record.axes]
    values = {name: getattr(record.sweep, name) for name, row in SETTINGS.items() if row.commands}
    more = {name: value for name, value in record.sweep.extra.items() if not is_axis(name)}
    for name, value in (values | more).items():
        if value is not None:
            text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            found.append((name, text.lower() if isinstance(value, bool) else text))
    return found


def _manifest(manifest: Mapping[str, Any]) -> tuple[list[tuple[str, str]], str]:
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
    return [(name, line(manifest[name])) for name in names if name in manifest], text


# --- seed variance --------------------------------------------------------------------------------


def _variance(run: Path) -> dict[str, Any] | None:
    """The section that `variance.json` describes, its figures as data URIs; None if there is no such file.

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
        return {
            "title": _str(found["title"]),
            "intro": [_str(line) for line in _list(found["intro"])],
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
    return {"src": _data_uri(kinds[path.suffix], path.read_bytes()), "caption": _str(figure["caption"])}


# --- the page -------------------------------------------------------------------------------------


def _json(value: Any) -> str:
    """`value` as JSON for a script element of data; no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(*scripts: str) -> str:
    """The content security policy of the page: no network, and no scripts but the given ones."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        "default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline';"
        f" script-src {allowed}; base-uri 'none'; form-action 'none'"
    )


def html(record: Record, rows: Rows) -> str:
    """The page of a merged run.

    Args:
        rows: the rows of `results.csv`.

    Raises:
        JaxstyleError: if `variance.json` or one of its figures cannot be read.
    """
    from markupsafe import Markup

    variance, heads = _variance(record.path), _Heads(record)
    seen = _read(record, rows, heads)
    part, tiles, dimensions = seen.part, seen.tiles, seen.dimensions
    for axis in record.axes:
        if axis_row(axis).thumbnail and len(axis_names(record, axis)) == 1:
            path = getattr(record.cells[0], axis)
            heads.add(path, record.given(axis, path))
    script = (TEMPLATES / "report.js").read_text("utf-8")
    first = "document.documentElement.classList.add('js')"
    columns, lines = _shown_rows(record, seen.rows, dimensions, tiles)
    short, manifest = _manifest(record.manifest)
    told = _whole(record, rows) if part.left_out else _Whole([], _colours(tiles, dimensions, seen.rows))
    labels, colours, _ = told.colours
    figure = overview(seen.every, *told.colours)
    numbers = part.counts or [Count(d.axes, len(d.keys), len(d.keys)) for d in dimensions]
    counts = [f"{count.total} {_plural(count.axes)}" for count in numbers]
    text = _template().render(
        policy=_policy(first, script),
        first=Markup(first),
        script=Markup(script),
        style=Markup((TEMPLATES / "report.css").read_text("utf-8")),
        data=Markup(_json(_data(record, tiles, dimensions, seen.losses, seen.curves, seen.rows))),
        title=f"{len(rows):,} transfer{'s' * (len(rows) != 1)}",
        counts=[*counts, *([f"{_pictures_text(part)} shown"] if part.left_out else [])],
        shared=shared_words(record),
        missing=len(record.cells) - len(rows),
        part=part_text(part) if part.left_out else "",
        diverged=int(rows.diverged.sum()),
        figures=seen.figures,
        heads=heads.pictures,
        many=len(labels) > MAX_LINES,
        colours=colours,
        curves=_data_uri("image/svg+xml", figure.encode()),
        variance=variance,
        tables=told.tables,
        columns=columns,
        lines=lines,
        total_lines=len(rows),
        settings=_settings(record),
        spec=(record.path / "spec.toml").read_text("utf-8"),
        manifest_short=short,
        manifest=manifest,
    )
    return text.encode("utf-8", "backslashreplace").decode()  # JSON can contain lone surrogates


@dataclass(frozen=True)
class _Seen:
    """The cells that a page shows, as read from `results.h5`."""

    part: Shown
    rows: dict[int, dict[str, Any]]
    """The rows of `results.csv` of its cells, by cell."""
    tiles: list[Tile]
    dimensions: list[_Dimension]
    figures: list[dict[str, Any]]
    """A picture for every tile."""
    losses: list[list]
    curves: list[_Curves]
    every: list[_Curves]
    """The curves of the overview: of all cells of the run."""


def _read(record: Record, rows: Rows, heads: _Heads) -> _Seen:
    names = tuple(record.losses)
    with results(record) as where:
        part = shown(record, where)
        by_cell = {cell: row for cell in part.cells if (row := rows.find(cell)) is not None}
        tiles = place_tiles(record, part.cells, part.snapshots)
        curves = _read_curves(where, names, part.cells)
        return _Seen(
            part=part,
            rows=by_cell,
            tiles=tiles,
            dimensions=[_dimension(record, tiles, axes, heads) for axes in group_axes(tiles)],
            figures=_figures(tiles, where),
            losses=_tile_losses(tiles, names, where, by_cell),
            curves=curves,
            every=[_group_curves(g, names[:1], _BAND_POINTS) for g in where.groups]
            if part.left_out
            else curves,
        )


def _figures(tiles: Sequence[Tile], where: Where) -> list[dict[str, Any]]:
    """The pictures of the page: the more of them, the smaller."""
    size = next(thumbnail for thumbnail in _THUMBNAILS if len(tiles) <= thumbnail.tiles)
    figures = []
    for tile in tiles:
        group, index = where[tile.cell]
        image = scaled(dataset(group, "image")[index, tile.snapshot], size.longest_px)
        src = _jpeg(image, quality=size.quality, subsampling=size.subsampling)
        about = {"alt": _alt(tile), "caption": _caption(tile)}
        figures.append({"src": src, "width": image.width, "height": image.height, **about})
    return figures


def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _words(tile: Tile) -> list[str]:
    """The place of a tile in words, an item for each axis."""
    return [
        text if _speaks_for_itself(axis) else f"{title(axis)} {text}" for axis, text in tile.place.items()
    ]


def _caption(tile: Tile) -> str:
    """The place of a tile on one line that breaks only between the items."""
    return "\N{NO-BREAK SPACE}· ".join(word.replace(" ", "\N{NO-BREAK SPACE}") for word in _words(tile))


def _alt(tile: Tile) -> str:
    place = ", ".join(_words(tile))
    return f"cell {tile.cell}: {place}" if place else f"cell {tile.cell}"


def _colours(
    tiles: Sequence[Tile], dimensions: Sequence[_Dimension], rows: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[int, str], str, bool]:
    """The groups by which the overview colours curves: values of the axis that decides most of the loss.

    Only axes with at most `MAX_COLOURS` values count.

    Returns:
        The group of every cell, the title of the groups, and whether they are numbers in order.
    """
    totals = np.array([float(rows[tile.cell]["loss_total"]) for tile in tiles])
    few = [d for d in dimensions if d.axes != ("steps",) and len(d.keys) <= MAX_COLOURS]
    if not few:
        return {tile.cell: "all" for tile in tiles}, "", False
    d = min(few, key=lambda d: _within(totals, np.array(d.at)))
    texts = {t.cell: ", ".join(d.keys[at])[:40] for t, at in zip(tiles, d.at, strict=True)}
    return texts, d.about["label"], d.about["values"][0]["number"] is not None


def _within(totals: np.ndarray, at: np.ndarray) -> float:
    """The variation of log10 losses within groups of cells: the sum of squares, rounded to 6 decimals."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(totals)
    groups = [logs[at == value] for value in range(int(at.max()) + 1)]
    kept = [group[np.isfinite(group)] for group in groups]
    return round(sum(float(np.sum((group - group.mean()) ** 2)) for group in kept if group.size), 6)


class _Whole(NamedTuple):
    """Summaries of all cells of a run that is shown in part."""

    tables: list[dict[str, Any]]
    """A table for every group of axes that vary, with a summary of the cells of each value."""
    colours: tuple[dict[int, str], str, bool]
    """The groups of curves, as `_colours` returns them."""


def _whole(record: Record, rows: Rows) -> _Whole:
    present = rows.cell.tolist()
    axes, codes = sample.axis_codes(record, present)
    totals = rows.losses[:, 0].astype(np.float64)
    tables, few = [], []
    for group in sample.together(codes):
        own, at = [axes[i] for i in group], codes[:, group[0]]
        _, first = np.unique(at, return_index=True)
        cells = [record.cells[present[i]] for i in first]
        names = [axis_names(record, axis) for axis in own]
        texts = [
            ", ".join(name[cell.label(axis)] for axis, name in zip(own, names, strict=True))
            for cell in cells
        ]
        label = " + ".join(map(title, own))
        if len(texts) <= MAX_COLOURS:
            ordered = isinstance(getattr(cells[0], own[0]), int | float)
            colours = [text[:40] for text in texts]
            few.append((_within(totals, at), (at, colours, label, ordered)))
        kept = sample.even(len(texts), MAX_VALUES)
        lines = [[texts[i], *_line_of(rows, at == i)] for i in kept]
        columns = [label, "cells", "diverged", *(f"median {title}" for title in record.losses.values())]
        tables.append({"columns": columns, "rows": lines, "left_out": len(texts) - len(kept)})
    if not few:
        return _Whole(tables, (dict.fromkeys(present, "all"), "", False))
    at, colours, label, ordered = min(few, key=lambda found: found[0])[1]
    by_cell = {cell: colours[code] for cell, code in zip(present, at.tolist(), strict=True)}
    return _Whole(tables, (by_cell, label, ordered))


def _line_of(rows: Rows, own: np.ndarray) -> list[str]:
    """The number of the cells in `own`, the number that diverged, and the others' median losses."""
    losses = rows.losses[own & ~rows.diverged]
    medians = [_median(column) for column in losses.T]
    return [f"{own.sum():,}", f"{rows.diverged[own].sum():,}", *medians]


def _median(values: np.ndarray) -> str:
    """The median of the known values as text; empty if there are none."""
    known = values[~np.isnan(values)]
    return f"{np.median(known):.4g}" if len(known) else ""


def _shown_rows(
    record: Record,
    rows: Mapping[int, Mapping[str, Any]],
    dimensions: Sequence[_Dimension],
    tiles: Sequence[Tile],
) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table of cells: the axes that vary, losses and status."""
    axes = [axis for d in dimensions for axis in d.axes if axis != "steps"]
    place = {tile.cell: tile.place for tile in tiles}

    def number(value: Any) -> str:
        return f"{float(value):.4g}"

    lines = [
        [
            str(row["cell"]),
            *(place[row["cell"]][axis] for axis in axes),
            *(number(row[name]) for name in record.losses),
            row["status"] if row["status"] == "done" else f"diverged at step {row['diverged_step']}",
        ]
        for row in rows.values()
    ]
    return ["cell", *map(title, axes), *record.losses.values(), "status"], lines


def _arranged(dimensions: Sequence[_Dimension]) -> tuple[list[str], list[str]]:
    """The axes of the rows and those of the columns at first, chosen so that the grid fits a window."""
    if len(dimensions) < 2:
        return [], []
    sizes = [len(d.keys) for d in dimensions]

    def misfit(rows: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        high = math.prod(sizes[i] for i in rows)
        return round(abs(math.log(math.prod(sizes) / high**2 / WINDOW_RATIO)), 6), rows

    numbers = range(len(sizes))
    choices = itertools.chain(*(itertools.combinations(numbers, n) for n in numbers if n))
    rows = min(choices, key=misfit)
    names = [d.about["id"] for d in dimensions]
    return [names[i] for i in rows], [names[i] for i in numbers if i not in rows]


def _data(
    record: Record,
    tiles: Sequence[Tile],
    dimensions: Sequence[_Dimension],
    losses: list[list],
    curves: Sequence[_Curves],
    rows: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    """The data that the script of the page works with."""
    down, across = _arranged(dimensions)
    cells = sorted({tile.cell for tile in tiles})
    kept = {cell: (i, j) for i, part in enumerate(curves) for j, cell in enumerate(part.cells)}
    codes = [_codes(part.values) for part in curves]
    packed = b"".join(codes[i][j].tobytes() for i, j in (kept[cell] for cell in cells))
    return {
        "dimensions": [d.about for d in dimensions],
        "down": down,
        "across": across,
        "snapshots": list(record.sweep.steps),
        "tiles": {
            "cell": [tile.cell for tile in tiles],
            "snapshot": [tile.snapshot for tile in tiles],
            "at": [d.at for d in dimensions],
            **dict(zip(record.losses, losses, strict=True)),
        },
        "losses": record.losses,
        "cells": {
            "cell": cells,
            "size": [f"{rows[c]['width']} × {rows[c]['height']}" for c in cells],
            "diverged": [rows[c]["diverged_step"] if rows[c]["diverged_step"] != "" else -1 for c in cells],
            "best": [_rounded(rows[c]["loss_best"]) for c in cells],
            "best_step": [rows[c]["step_best"] for c in cells],
            "evaluations": [_rounded(rows[c]["evaluations"]) for c in cells],
        },
        "curves": {
            "steps": [part.step for part in curves],
            "of": [kept[cell][0] for cell in cells],
            "codes": base64.b64encode(packed).decode(),
        },
    }
