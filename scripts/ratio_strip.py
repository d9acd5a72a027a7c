"""Make the strip of `docs/choosing.md` from a finished run: one pair, from photograph to painting.

    python -m jaxstyle.score runs/ratios
    python scripts/ratio_strip.py runs/ratios

`make ratios` makes the run first. The strip is the photograph, the cells by falling ratio, and the
painting, a JPEG of at most 250 kB. The table for the page is printed: what each ratio comes to, and the
held-out scores.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jaxstyle
from jaxstyle.derived.sheets import PAD_PX, Line, Sheet, draw_sheet
from jaxstyle.derived.tiles import Tile
from jaxstyle.inputs import decode
from jaxstyle.rundir.records import open_record

OUT = Path(__file__).resolve().parent.parent / "docs" / "ratios.jpg"
MAX_BYTES, COLUMNS = 250_000, 4
SHOWN = ("content_distance", "style_distance", "periodicity")


def strip(panels: Sequence[tuple[str, np.ndarray]]) -> Image.Image:
    """The panels in rows of `COLUMNS`, each with its caption."""
    places = {divmod(i, COLUMNS): i for i in range(len(panels))}
    rows = -(-len(panels) // COLUMNS)
    sheet = Sheet(
        rows=(Line(""),) * rows,
        columns=(Line(""),) * COLUMNS,
        tiles={place: Tile(i, 0, {}) for place, i in places.items()},
        captions={place: panels[i][0] for place, i in places.items()},
    )
    drawn = draw_sheet(sheet, title="", tile=lambda tile: panels[tile.cell][1], picture=lambda _: None)
    return drawn.crop((0, PAD_PX, *drawn.size))  # the space of the title, which is empty


def main(path: Path) -> None:
    """Write the strip of the run at `path`, and print its table."""
    run, record = jaxstyle.open_run(path), open_record(path)
    rows = sorted(run.rows, key=lambda row: -row["alpha_beta"])
    size = run.image(rows[0]["cell"]).shape[1::-1]
    inputs = {}
    for role in ("content", "style"):
        image = Image.fromarray(decode.read(getattr(record.cells[0], role)).pixels)
        inputs[role] = np.asarray(ImageOps.fit(image, size, Image.Resampling.LANCZOS))
    cells = [(row["alpha_beta_given"], run.image(row["cell"])) for row in rows]
    image = strip([("the photograph", inputs["content"]), *cells, ("the painting", inputs["style"])])
    for quality in range(92, 40, -3):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MAX_BYTES:
            OUT.write_bytes(buffer.getvalue())
            print(f"{OUT}: {image.width}x{image.height}, {buffer.tell()} bytes, quality {quality}")
            break
    with open(path / "scores.csv", newline="") as file:
        scores = {int(line["cell"]): line for line in csv.DictReader(file)}
    for row in rows:
        own = scores[row["cell"]]
        numbers = [f"{float(own[name]):.2f}" for name in SHOWN]
        print(f"| `{row['alpha_beta_given']}` | {row['alpha_beta']:.1e} | " + " | ".join(numbers) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
