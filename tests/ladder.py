"""Textures of real VGG19 from deeper and deeper sets of style layers, kept for the tests of scores.

    make ladder     two styles, conv1_1 to conv5_1, in a minute; then python -m tests.ladder runs/ladder

The tests then need no optimisation: they score the ten pictures of `data/ladder.npz`.
"""

import sys
from pathlib import Path

import numpy as np

from jaxstyle import open_run
from jaxstyle.inputs import decode
from jaxstyle.inputs.resize import resize
from jaxstyle.rundir.records import open_record

KEPT = Path(__file__).resolve().parent / "data" / "ladder.npz"


def main(path):
    """Collect the pictures of a run: for each style its texture for every set, and itself."""
    run, cells = open_run(path), open_record(Path(path)).cells
    styles = list(dict.fromkeys(cell.style for cell in cells))
    kept = {}
    for style in styles:
        ids = [cell.id for cell in cells if cell.style == style]
        kept[Path(style).stem] = resize(decode.read(style).pixels, 96)
        kept[f"{Path(style).stem}_textures"] = np.stack([run.image(i) for i in ids])
    np.savez_compressed(KEPT, **kept)
    print(f"{KEPT}: {KEPT.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
