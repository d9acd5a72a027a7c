"""Make two pictures of `docs/control.md`, of masks and of a figure left alone, from what its commands made.

    python scripts/control_sheets.py runs/masks left.png held.png

The first is the run of two styles, the others are the pictures by `--leave 255` and by `--hold 255`.
"""

from __future__ import annotations

import sys

import numpy as np
from deck_figures import Panel, draw

import jaxstyle
from jaxstyle.inputs import decode
from jaxstyle.inputs.resize import fit


def main() -> None:
    """Write both pictures into `docs/control/`."""
    run, left, held = jaxstyle.open_run(sys.argv[1]), *sys.argv[2:]
    without, masks = (run.image(row["cell"]) for row in run.rows)

    def example(name: str) -> np.ndarray:
        return fit(decode.read(str(jaxstyle.EXAMPLES / name)).pixels, *masks.shape[:2])

    coffee = Panel("coffee.jpg", example("coffee.jpg"))
    mask = Panel("coffee-mask.png", example("coffee-mask.png"))
    styles = [coffee, mask, Panel("none: the blend", without), Panel("masks", masks)]
    draw("../control/masks", [styles])
    alone = [
        Panel(f"--{flag} 255", decode.read(path).pixels) for flag, path in (("leave", left), ("hold", held))
    ]
    draw("../control/figure", [[coffee, *alone]])


if __name__ == "__main__":
    main()
