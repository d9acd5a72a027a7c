"""Make the pictures of `docs/deck.md` from finished runs.

    python scripts/deck_figures.py --deck runs/deck --photorealistic runs/photo --pathological runs/hard

`--today` takes a run of `docs/deck-today.toml`, the same slides with the look that is now the default.
`--full` takes a run of the deck's own step counts, which may end before all of its cells are there: it
draws the slides whose cells are. `--full-photorealistic` and `--full-pathological` take the runs of the
other two, `--twin-photorealistic` one with `--fast` of the same size. Each figure is a few pictures with
the setting under each, a JPEG of at most 100 kB in `docs/deck/`. The final losses go to
`bench/results/deck-cpu.json`, with the commands and versions that made them.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jaxstyle
from jaxstyle.derived.sheets import PAD_PX, Line, Sheet, draw_sheet
from jaxstyle.derived.tiles import Tile
from jaxstyle.inputs import decode
from jaxstyle.rundir.records import open_record
from jaxstyle.spec import tables

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "deck"
RECORD = ROOT / "bench" / "results" / "deck-cpu.json"
MAX_BYTES = 100_000
FIVE = "conv1_1+conv2_1+conv3_1+conv4_1+conv5_1"
USUAL = {"content_layer": "conv4_2", "style_layers": FIVE, "init": "noise", "seed": 0}


class Looks(NamedTuple):
    """The four ratios of a set of slides, that of the slides without one, and how its figures begin."""

    ratios: tuple[float | str, ...]
    usual: float | str
    begins: str


DECK = Looks((1e-1, 1e-2, 1e-3, 1e-4), 1e-3, "")
TODAY = Looks(("10x", "1x", "0.1x", "0.01x"), "0.1x", "today-")
FULL = DECK._replace(begins="full-")


class NoCellError(LookupError):
    """A run has no cell with some settings, or has not computed it."""


class Panel(NamedTuple):
    """One picture of a figure."""

    caption: str
    pixels: np.ndarray


def find(run: Any, ratio: float | str, **settings: Any) -> dict[str, Any]:
    """The row of the one cell of a run that has these settings, and the usual ones otherwise."""
    wanted = {**USUAL, "alpha_beta_given": ratio, **settings}
    rows = [row for row in run.rows if all(_same(row[key], value) for key, value in wanted.items())]
    if not rows:
        raise NoCellError(settings)
    (row,) = rows
    return row


def _same(value: Any, wanted: Any) -> bool:
    return Path(value).name == wanted if isinstance(wanted, str) and "." in wanted else value == wanted


def panels(run: Any, rows: Sequence[tuple[str, dict[str, Any]]], step: int | None = None) -> list[Panel]:
    """The pictures of cells: the final ones, or those of a step."""
    return [Panel(caption, run.image(row["cell"], step)) for caption, row in rows]


def about(run: Any) -> dict[str, Any]:
    """The command, device, versions and timings of a run, and its cells' losses at every snapshot."""
    record = open_record(run.path)
    manifest, cells = record.manifest, []
    for row in run.rows:
        curves = run.losses(row["cell"])
        named = ("content_layer", "style_layers", "alpha_beta_given", "photorealism", "seed")
        axes = {key: row[key] for key in named if key in row}
        for step in record.sweep.steps:
            (at,) = np.flatnonzero(curves["step"] == step)
            losses = {name: float(f"{curves[name][at]:.4g}") for name in tables.LOSSES}
            cells.append({**axes, "init": Path(row["init"]).name, "step": step, **losses})
    command = [Path(word).name if "/" in word else word for word in manifest["command"]]
    return {
        "command": " ".join(["python -m jaxstyle.sweep", *command[1:]]),
        "began": manifest["began"],
        "device": f"{manifest['device']['kind']}, {manifest['threads']} threads",
        "versions": manifest["versions"],
        "timings": manifest["timings"],
        "cells": cells,
    }


def draw(name: str, rows: Sequence[Sequence[Panel]]) -> None:
    """Write a figure of one or several rows."""
    columns = max(len(row) for row in rows)
    places = {(i, j): panel for i, row in enumerate(rows) for j, panel in enumerate(row)}
    tiles = {place: Tile(number, 0, {}) for number, place in enumerate(places)}
    numbered = dict(enumerate(places.values()))
    sheet = Sheet(
        rows=(Line(""),) * len(rows),
        columns=(Line(""),) * columns,
        tiles=tiles,
        captions={place: panel.caption for place, panel in places.items()},
    )
    image = draw_sheet(
        sheet, title="", tile=lambda tile: numbered[tile.cell].pixels, picture=lambda _: None
    )
    image = image.crop((0, PAD_PX, *image.size))  # the space of the title, which is empty
    save(name, image)


def save(name: str, image: Image.Image) -> None:
    """Write a JPEG of the best quality that stays under the limit."""
    OUT.mkdir(parents=True, exist_ok=True)
    for quality in range(92, 40, -3):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MAX_BYTES:
            (OUT / f"{name}.jpg").write_bytes(buffer.getvalue())
            print(f"{name}.jpg: {image.width}x{image.height}, {buffer.tell()} bytes, quality {quality}")
            return
    raise SystemExit(f"{name}: cannot be made smaller than {MAX_BYTES} bytes")


def _inputs(run: Any) -> list[Panel]:
    """The content and the style of a run's first cell, at the height of its pictures."""
    height = run.image(run.rows[0]["cell"]).shape[0]
    found = []
    for role in ("content", "style"):
        path = getattr(open_record(run.path).cells[0], role)
        image = Image.fromarray(decode.read(path).pixels)
        image = image.resize((round(image.width * height / image.height), height), Image.Resampling.LANCZOS)
        found.append(Panel(role, np.asarray(image)))
    return found


def deck(run: Any, looks: Looks = DECK) -> None:
    """Draw every figure that needs only one content and one style."""

    def rows(name: str, values: Sequence[Any], captions: Sequence[str]) -> list[Panel]:
        try:
            found = [find(run, **{"ratio": looks.usual, name: value}) for value in values]
        except NoCellError:
            return []
        return panels(run, list(zip(captions, found, strict=True)))

    def figure(name: str, *found: list[Panel]) -> None:
        if any(found):
            draw(looks.begins + name, found)
        elif looks is not FULL:
            raise NoCellError(name)

    ratios = rows("ratio", looks.ratios, [f"alpha/beta {ratio}" for ratio in looks.ratios])
    figure("tradeoff", ratios[:2], ratios[2:])
    layers = ("conv2_2", "conv4_2")
    figure("content-layer", rows("content_layer", layers, layers))
    alone = ("conv2_1", "conv4_1")
    figure("style-layer", rows("style_layers", alone, [f"{name} alone" for name in alone]))
    sets = ["+".join(FIVE.split("+")[:n]) for n in range(1, 6)]
    words = ["conv1_1", "and conv2_1", "and conv3_1", "and conv4_1", "and conv5_1"]
    grown = rows("style_layers", sets, words)
    figure("style-layer-sets", grown[:3], grown[3:])
    starts = ("noise", "content")
    figure("initialisation", rows("init", starts, [f"from {init}" for init in starts]))
    seeds = rows("seed", range(4), [f"seed {seed}" for seed in range(4)])
    figure("stochastic", seeds[:2], seeds[2:])
    if looks is DECK:
        draw("inputs", [_inputs(run)])


def today(run: Any) -> None:
    """Draw the same figures with today's defaults."""
    deck(run, TODAY)


def full(run: Any) -> None:
    """Draw the figures of the slides whose cells are there, at the deck's own step counts."""
    deck(run, FULL)


def photorealistic(run: Any) -> None:
    """Draw the dark photograph, the bright one, and the dark one in the light of the bright one."""
    draw("photorealistic", [_inputs(run), _weights(run)])


def full_photorealistic(run: Any) -> None:
    """Draw the dark photograph in the light of the bright one, at the deck's own step count."""
    draw("full-photorealistic", [_weights(run)])


def twin_photorealistic(run: Any) -> None:
    """Draw the same by the fast twin at that size."""
    draw("twin-photorealistic", [_weights(run)])


def _weights(run: Any) -> list[Panel]:
    return panels(run, [(f"photorealism {row['photorealism']:g}", row) for row in run.rows])


def usual_layers(run: Any) -> None:
    """Draw the same with the layers that the other slides use."""
    rows = [(f"alpha/beta {row['alpha_beta']:g}", row) for row in run.rows]
    draw("photorealistic-usual", [panels(run, rows)])


def paper(run: Any) -> None:
    """Draw the one picture made with the paper's settings."""
    draw("paper", [panels(run, [("normalised network", run.rows[0])])])


def _enlarged(panel: Panel) -> Panel:
    """The panel with every pixel drawn as a square of four, because small pictures are hard to see."""
    return panel._replace(pixels=panel.pixels.repeat(2, axis=0).repeat(2, axis=1))


def pathological(run: Any) -> None:
    """Draw the hard starts and their pictures at each snapshot."""
    draw("pathological", [[_enlarged(panel) for panel in row] for row in _marks(run)])


def full_pathological(run: Any) -> None:
    """Draw the hard starts at 256 px, at the deck's own step counts."""
    draw("full-pathological", _marks(run))


def _marks(run: Any) -> list[list[Panel]]:
    """A row of pictures for every snapshot."""
    steps = open_record(run.path).sweep.steps
    kinds = [(Path(row["init"]).stem, row) for row in run.rows]
    return [panels(run, [(f"{kind}, {n} steps", row) for kind, row in kinds], n) for n in steps]


FIGURES = {
    "deck": deck,
    "today": today,
    "full": full,
    "full-photorealistic": full_photorealistic,
    "twin-photorealistic": twin_photorealistic,
    "full-pathological": full_pathological,
    "photorealistic": photorealistic,
    "usual-layers": usual_layers,
    "pathological": pathological,
    "paper": paper,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in FIGURES:
        parser.add_argument(f"--{name}", type=Path, metavar="RUN", dest=name)
    named = {name: path for name, path in vars(parser.parse_args()).items() if path is not None}
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name, path in named.items():
        run = jaxstyle.open_run(path)
        FIGURES[name](run)
        record[name] = about(run)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
