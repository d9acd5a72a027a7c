"""`scores.csv`: held-out scores of every cell, written, read, and drawn as the page's section.

A plot for every content and style has a point for each cell, content distance across and style distance
upwards. Points are links to pictures; with a script, the picture appears beside them.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from jaxstyle.derived.sample import even
from jaxstyle.derived.thumbnails import MAX_TILES
from jaxstyle.derived.tiles import Tile, axis_names, place_tiles
from jaxstyle.rundir.image_files import image_name
from jaxstyle.rundir.records import Record
from jaxstyle.spec import settings
from jaxstyle.spec.errors import JaxstyleError

FILE = "scores.csv"
SCORES = {
    "content_distance": "content distance",
    "style_distance": "style distance",
    "noise": "noise",
    "periodicity": "periodicity",
    "copy": "copy",
}
"""The titles of the scores, by their columns."""
COLUMNS = ("cell", *SCORES, "on_front", "rank")
DIGITS = 6
"""Significant digits of a score."""
MAX_PLOTS = 60
"""The most plots; all points of more pairs are in one."""
LISTED = 100
"""The most cells that the section's table lists."""
PLOT_PX = (380, 300)
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40


@dataclass(frozen=True)
class Scored:
    """A row of `scores.csv`."""

    cell: int
    scores: Mapping[str, float | None]
    """Values by column; None where a picture for it is missing, and all of them of a diverged cell."""
    on_front: bool | None
    """Membership of the Pareto front of its content and style; None without both distances."""
    rank: int | None
    """Place among the cells of its content and style, from 1."""


def csv_text(rows: Iterable[Scored]) -> str:
    """The text of `scores.csv`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = (row.scores[name] for name in SCORES)
        numbers = ("" if value is None else f"{value:.{DIGITS}g}" for value in values)
        front = "" if row.on_front is None else int(row.on_front)
        writer.writerow([row.cell, *numbers, front, "" if row.rank is None else row.rank])
    return buffer.getvalue()


def read_scores(record: Record) -> dict[int, Scored] | None:
    """The rows of `scores.csv` of a run's cells; None if there is no such file.

    Raises:
        JaxstyleError: if it cannot be read.
    """
    path = record.path / FILE
    if not path.exists():
        return None
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))
        found = [_row(line) for line in lines]
        if wrong := [row.cell for row in found if not 0 <= row.cell < len(record.cells)]:
            raise ValueError(f"cell {wrong[0]} is none of this run")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        why = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise JaxstyleError(
            str(path), f"cannot be shown: {why}; score the run again or remove the file"
        ) from None
    return {row.cell: row for row in found}


def _row(line: Mapping[str, str]) -> Scored:
    scores = {name: float(line[name]) if line[name] else None for name in SCORES}
    if not all(value is None or math.isfinite(value) for value in scores.values()):
        raise ValueError(f"a score of cell {line['cell']} is not finite")
    front = {"": None, "0": False, "1": True}[line["on_front"]]
    return Scored(int(line["cell"]), scores, front, int(line["rank"]) if line["rank"] else None)


def best(scored: Mapping[int, Scored], count: int) -> list[int]:
    """The cells with the best ranks, at most `count`: first the best of every content and style."""
    ranked = [(row.rank, cell) for cell, row in scored.items() if row.rank is not None]
    return [cell for _, cell in sorted(ranked)[:count]]


def pair_names(record: Record) -> Callable[[int], str]:
    """The names of pairs by cell: the content and the style of each, in short."""
    contents, styles = axis_names(record, "content"), axis_names(record, "style")

    def name(cell: int) -> str:
        own = record.cells[cell]
        return f"{contents[own.content]} × {styles[own.style]}"

    return name


def number_text(value: float | None) -> str:
    """A score for people: three significant digits."""
    return "–" if value is None else f"{value:.3g}"


def scores_section(record: Record, shown: Collection[int]) -> dict[str, Any] | None:
    """The section that `scores.csv` makes; None if there is no such file.

    Args:
        record: the run.
        shown: the cells whose pictures are in the page; of a huge run, only these have points, and the best
            as far as there is room.

    Raises:
        JaxstyleError: if the file cannot be read.
    """
    from markupsafe import Markup

    scored = read_scores(record)
    if scored is None:
        return None
    points = [row for row in scored.values() if row.on_front is not None]
    drawn = points
    if len(points) > MAX_TILES:
        first = [row for row in points if row.rank == 1 and row.cell not in shown]
        room = MAX_TILES - sum(row.cell in shown for row in points)
        kept = {first[i].cell for i in even(len(first), max(0, room))}
        drawn = [row for row in points if row.cell in shown or row.cell in kept]
    listed = best(scored, LISTED)
    where = {tile.cell: tile for tile in place_tiles(record, {*listed, *(r.cell for r in drawn)}, [0])}
    pair = pair_names(record)
    pairs: dict[str, list[Scored]] = {}
    for row in drawn:
        pairs.setdefault(pair(row.cell), []).append(row)
    named = None
    if len(pairs) > MAX_PLOTS:  # as for a folder of photographs in one style: small plots would say nothing
        pairs, named = {f"all of {len(pairs):,} pairs of content and style": drawn}, pair
    plots = [
        {"title": name, "svg": Markup(_plot(name, rows, where, named))} for name, rows in pairs.items()
    ]
    lines = [
        [cell, pair(cell), _settings(where.get(cell)), scored[cell].rank]
        + [number_text(scored[cell].scores[name]) for name in SCORES]
        for cell in listed
    ]
    return {
        "plots": plots,
        "columns": ["cell", "pair", "settings", "rank", *SCORES.values()],
        "lines": lines,
        "points": len(points),
        "drawn": len(drawn),
        "unscored": len(scored) - len(points),
        "later": len(record.cells) - len(scored),
    }


def _settings(tile: Tile | None) -> str:
    """The place of a cell in words, without its content, its style and the step."""
    if tile is None:
        return ""
    place = {a: t for a, t in tile.place.items() if a not in ("content", "style", "steps")}
    return ", ".join(f"{settings.short(axis)} {text}".strip() for axis, text in place.items())


def _plot(
    name: str, rows: Sequence[Scored], where: Mapping[int, Tile], pair: Callable[[int], str] | None
) -> str:
    """The plot of one content and style, or of all of them with the name of each point's `pair`, as SVG."""
    wide, high = PLOT_PX
    xs, ys = ([_number(row, name) for row in rows] for name in ("content_distance", "style_distance"))
    across, up = _Axis.of(xs, LEFT, wide - RIGHT), _Axis.of(ys, high - BOTTOM, TOP)
    parts = [
        f'<svg viewBox="0 0 {wide} {high}" role="group"'
        f' aria-label="{escape(name)}: style distance against content distance">'
    ]
    for value, text in across.ticks:
        x = across.at(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{high - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{high - BOTTOM + 15}" text-anchor="middle">{text}</text>')
    for value, text in up.ticks:
        y = up.at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{wide - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
    middle = (TOP + high - BOTTOM) / 2
    centre = (LEFT + wide - RIGHT) / 2
    parts.append(f'<text x="{centre:g}" y="{high - 6}" text-anchor="middle">content distance</text>')
    parts.append(
        f'<text transform="translate(12 {middle:g}) rotate(-90)" text-anchor="middle">style distance</text>'
    )
    points = list(zip(rows, map(across.at, xs), map(up.at, ys), strict=True))
    line = sorted((x, -y) for row, x, y in points if row.on_front)
    if len(line) > 1 and pair is None:
        parts.append(f'<path class="front" d="M{"L".join(f"{x:.1f} {-y:.1f}" for x, y in line)}"/>')
    for row, x, y in sorted(points, key=lambda point: bool(point[0].on_front)):
        kind = "point" + " on" * bool(row.on_front) + " first" * (row.rank == 1)
        about = escape(_about(row, where.get(row.cell), pair(row.cell) if pair else ""))
        radius = 5 if row.on_front else 3.5
        parts.append(
            f'<a class="{kind}" href="{image_name(row.cell, 0, 0)}" data-cell="{row.cell}"'
            f' aria-label="{about}"><circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
            f"<title>{about}</title></a>"
        )
    return "".join([*parts, "</svg>"])


def _number(row: Scored, name: str) -> float:
    value = row.scores[name]
    if value is None:
        raise JaxstyleError(FILE, f"cell {row.cell} is on_front or not, but has no {name}; score it again")
    return value


def _about(row: Scored, tile: Tile | None, pair: str) -> str:
    """A cell's place and scores on one line."""
    place = ", ".join(filter(None, (pair, _settings(tile))))
    numbers = ", ".join(f"{title} {number_text(row.scores[name])}" for name, title in SCORES.items())
    rank = "" if row.rank is None else f", rank {row.rank}"
    return f"cell {row.cell}{rank}{f' · {place}' if place else ''} · {numbers}"


@dataclass(frozen=True)
class _Axis:
    """A scale from values to px, and its ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: list[tuple[float, str]]

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float) -> _Axis:
        """An axis with room around some values."""
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or max(0.05 * abs(high), 0.01)
        low, high = low - room, high + room
        step = 10.0 ** math.floor(math.log10((high - low) / 2))
        step *= next(n for n in (5, 2, 1) if n == 1 or (high - low) / (n * step) >= 2.5)
        first = math.ceil(low / step)
        values = [n * step for n in range(first, math.floor(high / step) + 1)]
        decimals = max(0, -math.floor(math.log10(step)))
        return cls(low, high, start, end, [(value, f"{value:.{decimals}f}") for value in values])

    def at(self, value: float) -> float:
        """The place of a value, in px."""
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)
