"""Make the picture of `docs/colour.md` from a finished run of each kind of colours.

    for kind in free luminance match; do python -m jaxstyle.sweep --content bridge.jpg cat.jpg \
        --style starry_night.jpg cafe.jpg --size 160 --steps 80 --colour $kind --out runs/$kind; done
    python scripts/colour_sheet.py runs/free runs/luminance runs/match
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jaxstyle
from jaxstyle.inputs import decode
from jaxstyle.inputs.resize import fit
from jaxstyle.rundir.records import open_record

OUT = Path(__file__).resolve().parent.parent / "docs" / "colour.jpg"
GAP_PX = 6


def row_of(runs: list, cell: int) -> np.ndarray:
    """One pair: photograph, painting, and the picture of each run."""
    of = open_record(runs[0].path).cells[cell]
    pictures = [run.image(cell) for run in runs]
    height, width = pictures[0].shape[:2]
    inputs = [fit(decode.read(path).pixels, height, width) for path in (of.content, of.style)]
    gap = np.full((height, GAP_PX, 3), 255, np.uint8)
    return np.concatenate([part for image in (*inputs, *pictures) for part in (image, gap)][:-1], 1)


def main() -> None:
    """Write the sheet, a row for every cell."""
    runs = [jaxstyle.open_run(path) for path in sys.argv[1:]]
    rows = [row_of(runs, cell) for cell in range(len(runs[0].rows))]
    width = min(row.shape[1] for row in rows)
    gap = np.full((GAP_PX, width, 3), 255, np.uint8)
    sheet = np.concatenate([part for row in rows for part in (row[:, :width], gap)][:-1])
    Image.fromarray(sheet).save(OUT, quality=86, optimize=True)


if __name__ == "__main__":
    main()
