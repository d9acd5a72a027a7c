"""Held-out scores of pictures by the number of their steps; `python -m bench steps`.

Every pair of images is one trajectory of the defaults, with snapshots. Each snapshot gets the scores of
`python -m jaxstyle.score`, distances to content and style in a network that took no part, and is compared
with the last one of its own trajectory, as is its loss. A loss goes on falling for as long as one looks;
what it is asked here is when the picture stops changing in ways that another network, or a person, sees.

The run is kept in a folder and gone on with, so that it may be ended at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from bench import processes, work
from bench.look import image_path

PAIRS = (
    "pagoda:starry_night",
    "cat:glass",
    "astronaut:brushwork",
    "rocket:cafe",
    "bridge:starry_night",
    "coffee:brushwork",
    "cafe:glass",
    "cat:brushwork",
)
"""Contents and styles that come with the package."""
STEPS = (30, 60, 90, 120, 150, 175, 200, 250)
COMPARED = ("content_distance", "style_distance")
"""Scores that are compared as a ratio to those of the last step."""


def compute(pairs: Sequence[str], steps: Sequence[int], size: str, out: Path) -> None:
    """Compute the trajectories of some pairs with the defaults, or go on with them."""
    out.parent.mkdir(parents=True, exist_ok=True)
    spec = out.with_suffix(".toml")
    lines = [f"size = {json.dumps(size)}", f"steps = {list(steps)}"]
    for pair in pairs:
        content, style = (json.dumps([str(image_path(name))]) for name in pair.split(":"))
        lines += ["", "[[grid]]", f"content = {content}", f"style = {style}"]
    work.write_spec(spec, "\n".join(lines) + "\n", out)
    there = (out / "manifest.json").exists()
    order = ["--resume", "--out", str(out)] if there else ["--spec", str(spec), "--out", str(out)]
    command = [sys.executable, "-m", "jaxstyle.sweep", *order, "--quiet"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(work.EXAMPLES.parent.parent)})


def _losses(out: Path) -> dict[int, np.ndarray]:
    """The total loss of every step of every cell."""
    with h5py.File(out / "results.h5") as file:
        return {
            int(cell): losses
            for group in file.values()
            for cell, losses in zip(group["cell"][:], group["loss_total"][:], strict=True)
        }


def trajectories(out: Path) -> list[dict[str, Any]]:
    """The scores and the loss of every snapshot of every cell of a run."""
    import jax

    from jaxstyle.metrics.judge import Judge
    from jaxstyle.rundir.records import open_record

    record, losses = open_record(out), _losses(out)
    judge = Judge(record.sweep, jax.devices("cpu")[0])
    found = []
    for cell in record.cells:
        points = []
        for step in record.plan.steps:
            ending = "" if step == record.plan.steps[-1] else f"-step{step:06d}"
            with Image.open(out / "images" / f"{cell.id:06d}{ending}.png") as picture:
                (scores,) = judge.scores([cell], [np.asarray(picture.convert("RGB"))])
            points.append({"step": step, "loss": float(losses[cell.id][step]), **scores._asdict()})
        pair = f"{Path(str(cell.content)).stem}:{Path(str(cell.style)).stem}"
        found.append({"pair": pair, "points": points})
    return found


def summary(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for every step: median and range over the trajectories, relative to their last step."""
    rows = []
    for index, point in enumerate(found[0]["points"]):
        row: dict[str, Any] = {"step": point["step"]}
        for name in ("loss", *COMPARED):
            ratios = [one["points"][index][name] / one["points"][-1][name] for one in found]
            row[name] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        periodic = [one["points"][index]["periodicity"] for one in found]
        row["periodicity"] = {"median": statistics.median(periodic), "max": max(periodic)}
        rows.append(row)
    return rows


def print_summary(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows of `summary`."""
    print(" step   loss   content distance       style distance         periodicity")
    for row in rows:
        ratios = "   ".join(
            f"{row[name]['median']:.3f} ({row[name]['min']:.3f} to {row[name]['max']:.3f})"
            for name in COMPARED
        )
        periodic = f"{row['periodicity']['median']:.1f} (to {row['periodicity']['max']:.1f})"
        print(f"{row['step']:5d}  {row['loss']['median']:.3f}  {ratios}   {periodic}")


def main(arguments: Sequence[str]) -> None:
    """Compute, score, print and save."""
    parser = argparse.ArgumentParser(
        prog="python -m bench steps", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--size", default="256x192", help="as in --size of a sweep (default: 256x192)")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--pair", nargs="+", default=list(PAIRS), help="CONTENT:STYLE, names or files")
    parser.add_argument("--folder", type=Path, default=Path("runs/steps"), help="where the run is kept")
    args = parser.parse_args(arguments)
    compute(args.pair, args.steps, args.size, args.folder)
    found = trajectories(args.folder)
    rows = summary(found)
    print_summary(rows)
    about = processes.in_process(work.tell_device)
    values = {"device": about, "size": args.size, "summary": rows, "trajectories": found}
    print(f"saved {work.save('steps', arguments, about['platform'], values)}")
