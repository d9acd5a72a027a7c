"""`report.html`: a whole run as one page that opens from a file and needs no network.

The page contains small JPEGs of all pictures and, as long as it lies in its run, finds the full ones. All
that it shows of a run is escaped, by Jinja if it is text and by `_json` if it is data, and a content
security policy allows no scripts but its own. The same run gives the same bytes: times, hosts and devices
appear only where `manifest.json` is shown. `TEMPLATES` has its text, its style and its script.

Nothing here needs JAX; Matplotlib and Jinja are imported when a page is made.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxstyle.derived import drawing
from jaxstyle.derived.curves import MAX_LINES, Curves, curve_codes, group_curves, overview, read_curves
from jaxstyle.derived.dimensions import (
    Dimension,
    WholeRun,
    arranged,
    curve_colours,
    dimension,
    further_title,
    rounded,
    shown_rows,
    speaks_for_itself,
    tile_losses,
    whole_run,
)
from jaxstyle.derived.region_pictures import regions_section
from jaxstyle.derived.sample import Count, Shown
from jaxstyle.derived.scores import scores_section
from jaxstyle.derived.sections import manifest_texts, settings_table, variance_section
from jaxstyle.derived.thumbnails import THUMBNAILS, Heads, data_uri, jpeg_uri, scaled
from jaxstyle.derived.tiles import (
    Tile,
    axis_names,
    count_noun,
    group_axes,
    part_text,
    pictures_text,
    place_tiles,
    shared_words,
    shown_part,
)
from jaxstyle.rundir.hdf5 import dataset
from jaxstyle.rundir.records import Record
from jaxstyle.rundir.results_csv import Rows
from jaxstyle.rundir.results_h5 import CellIndex, open_results
from jaxstyle.spec import settings
from jaxstyle.spec.presets import PACKAGE
from jaxstyle.spec.settings import axis_row

if TYPE_CHECKING:
    import jinja2

TEMPLATES = PACKAGE / "templates"
FIRST = "document.documentElement.classList.add('js')"
"""The script in the head of a page."""
BAND_POINTS = 40
"""Points of each curve in the overview of a run that is shown in part."""


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
        JaxstyleError: if `variance.json`, one of its figures or `scores.csv` cannot be read.
    """
    from markupsafe import Markup

    variance, heads = variance_section(record.path, len(rows)), Heads(record)
    seen = _read(record, rows, heads)
    part, tiles, dimensions = seen.part, seen.tiles, seen.dimensions
    for axis in record.axes:
        if axis_row(axis).thumbnail and len(axis_names(record, axis)) == 1:
            path = getattr(record.cells[0], axis)
            heads.add(path, record.given(axis, path))
    scores = scores_section(record, part.cells)
    columns, lines = shown_rows(record, seen.rows, dimensions, tiles)
    short, manifest = manifest_texts(record.manifest)
    told = (
        whole_run(record, rows)
        if part.left_out
        else WholeRun([], curve_colours(tiles, dimensions, seen.rows))
    )
    labels, colours, _ = told.colours
    figure = overview(seen.every, *told.colours)
    numbers = part.counts or [Count(d.axes, len(d.keys), len(d.keys)) for d in dimensions]
    counts = [f"{count.total} {count_noun(count.axes)}" for count in numbers]
    text = _template().render(
        **_code(scores is not None),
        data=Markup(_json(_data(record, tiles, dimensions, seen.losses, seen.curves, seen.rows))),
        title=f"{len(rows):,} transfer{'s' * (len(rows) != 1)}",
        counts=[*counts, *([f"{pictures_text(part)} shown"] if part.left_out else [])],
        shared=shared_words(record),
        missing=len(record.cells) - len(rows),
        part=part_text(part) if part.left_out else "",
        skipped=list(record.skipped.items()),
        diverged=int(rows.diverged.sum()),
        figures=seen.figures,
        heads=heads.pictures,
        many=len(labels) > MAX_LINES,
        colours=colours,
        curves=data_uri("image/svg+xml", drawing.themed(figure.encode())),
        variance=variance,
        scores=scores,
        regions=regions_section(record),
        tables=told.tables,
        columns=columns,
        lines=lines,
        total_lines=len(rows),
        settings=settings_table(record),
        spec=(record.path / "spec.toml").read_text("utf-8"),
        manifest_short=short,
        manifest=manifest,
    )
    return text.encode("utf-8", "backslashreplace").decode()  # JSON can contain lone surrogates


def _code(with_scores: bool) -> dict[str, Any]:
    """The scripts and the style of a page, and the policy that allows them."""
    from markupsafe import Markup

    def read(name: str) -> str:
        return (TEMPLATES / name).read_text("utf-8")

    first, script, style = FIRST, read("report.js"), read("report.css")
    scores_script = read("scores.js") if with_scores else ""
    style += read("scores.css") if with_scores else ""
    return {
        "policy": _policy(*filter(None, (first, scores_script, script))),
        "first": Markup(first),
        "scores_script": Markup(scores_script),
        "script": Markup(script),
        "style": Markup(style),
    }


@dataclass(frozen=True)
class _Seen:
    """The cells that a page shows, as read from `results.h5`."""

    part: Shown
    rows: dict[int, dict[str, Any]]
    """The rows of `results.csv` of its cells, by cell."""
    tiles: list[Tile]
    dimensions: list[Dimension]
    figures: list[dict[str, Any]]
    """A picture for every tile."""
    losses: list[list]
    curves: list[Curves]
    every: list[Curves]
    """The curves of the overview: of all cells of the run."""


def _read(record: Record, rows: Rows, heads: Heads) -> _Seen:
    names = tuple(record.losses)
    with open_results(record) as where:
        part = shown_part(record, where)
        by_cell = {cell: row for cell in part.cells if (row := rows.find(cell)) is not None}
        tiles = place_tiles(record, part.cells, part.snapshots)
        curves = read_curves(where, names, part.cells)
        return _Seen(
            part=part,
            rows=by_cell,
            tiles=tiles,
            dimensions=[dimension(record, tiles, axes, heads) for axes in group_axes(tiles)],
            figures=_figures(tiles, where),
            losses=tile_losses(tiles, names, where, by_cell, keeps_best=record.sweep.keep == "best"),
            curves=curves,
            every=[group_curves(g, names[:1], BAND_POINTS) for g in where.groups]
            if part.left_out
            else curves,
        )


def _figures(tiles: Sequence[Tile], where: CellIndex) -> list[dict[str, Any]]:
    """The pictures of the page: the more of them, the smaller."""
    size = next(thumbnail for thumbnail in THUMBNAILS if len(tiles) <= thumbnail.tiles)
    figures = []
    for tile in tiles:
        group, index = where[tile.cell]
        image = scaled(dataset(group, "image")[index, tile.snapshot], size.longest_px)
        src = jpeg_uri(image, quality=size.quality, subsampling=size.subsampling)
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
        text if speaks_for_itself(axis) else f"{settings.title(axis)} {text}"
        for axis, text in tile.place.items()
    ]


def _caption(tile: Tile) -> str:
    """The place of a tile on one line that breaks only between the items."""
    return "\N{NO-BREAK SPACE}· ".join(word.replace(" ", "\N{NO-BREAK SPACE}") for word in _words(tile))


def _alt(tile: Tile) -> str:
    place = ", ".join(_words(tile))
    return f"cell {tile.cell}: {place}" if place else f"cell {tile.cell}"


def _data(
    record: Record,
    tiles: Sequence[Tile],
    dimensions: Sequence[Dimension],
    losses: list[list],
    curves: Sequence[Curves],
    rows: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    """The data that the script of the page works with."""
    down, across = arranged(dimensions)
    cells = sorted({tile.cell for tile in tiles})
    kept = {cell: (i, j) for i, part in enumerate(curves) for j, cell in enumerate(part.cells)}
    codes = [curve_codes(part.values) for part in curves]
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
            "best": [rounded(rows[c]["loss_best"]) for c in cells],
            "best_step": [rows[c]["step_best"] for c in cells],
            "evaluations": [rounded(rows[c]["evaluations"]) for c in cells],
            "further": {further_title(n): [rounded(rows[c][n]) for c in cells] for n in record.further},
        },
        "curves": {
            "steps": [part.step for part in curves],
            "of": [kept[cell][0] for cell in cells],
            "codes": base64.b64encode(packed).decode(),
        },
    }
