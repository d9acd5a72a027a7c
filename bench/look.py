"""Means against dots and frames, compared at equal held-out content distance; `python -m bench look`.

A *means* is one changed setting, or several. Every means gets the same pairs, seeds, starts and ratios,
in a run of its own, and every picture the scores of `python -m jaxstyle.score`: distances to content
and style by a network that took no part, periodicity (grids of dots) and noise. Means move a picture
along the trade-off between content and style, and smoothing alone lowers noise. So scores are read off
each means' own curve over the ratios, at the content distance that the reference has at 0.3x; a means
whose curve does not get there has no figure there.

`--screen` takes four pairs, one seed and every means alone; `--confirm NAME...` four other pairs, two
seeds, two starts, the reference and the means named. `--against CHECKOUT` compares the defaults with those
of another version of jaxstyle, which computes its own pictures. `--peers` sets the defaults beside other
programs (see look_peers.py). `--pair` names images of yours. Runs are kept in a folder and gone on with, so
that a comparison may be ended at any time, and repeated with another means at the cost of that alone.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import work
from jaxstyle.spec.defaults import CHOSEN, PAPER

REFERENCE = "as it was"
"""The means that all others are compared with: the defaults of commit 1f9e732, every one by name."""
WAS: Mapping[str, Any] = {
    **{name: value for name, value in PAPER.items() if name != "alpha_beta"},
    "optimizer": "lbfgs",
    "steps": 250,
    "pyramid": 2,
}
MEANS: Mapping[str, Mapping[str, Any]] = {
    REFERENCE: {},
    "balanced layers": {"style_weights": "balanced"},
    "normalised network": {"network": "normalised", "beta": 1e6},
    "clamped": {"clamp": True},
    "max pooling": {"pool": "max"},
    "blurred pooling": {"pool": "blur"},
    "L2 pooling": {"pool": "l2"},
    "reflect padding": {"padding": "reflect"},
    "replicate padding": {"padding": "replicate"},
    "circular padding": {"padding": "circular"},
    "moments": {"style_loss": "moments"},
    "Wasserstein": {"style_loss": "wasserstein"},
    "balanced, total variation": {"style_weights": "balanced", "tv_weight": 1e-4},
    "balanced, clamped": {"style_weights": "balanced", "clamp": True},
    "balanced, replicate, clamped": {
        "style_weights": "balanced",
        "padding": "replicate",
        "clamp": True,
    },
    "balanced, replicate, clamped, moments": {
        "style_weights": "balanced",
        "padding": "replicate",
        "clamp": True,
        "style_loss": "moments",
    },
    "normalised, replicate": {"network": "normalised", "beta": 1e6, "padding": "replicate"},
    "balanced, replicate": {"style_weights": "balanced", "padding": "replicate"},
    "balanced, blurred": {"style_weights": "balanced", "pool": "blur"},
    "balanced, blurred, replicate": {"style_weights": "balanced", "pool": "blur", "padding": "replicate"},
}
"""Every means and the settings that it changes."""
PAIRS = {
    "screen": ("pagoda:starry_night", "cat:brushwork", "rocket:cafe", "bridge:glass"),
    "confirm": ("astronaut:starry_night", "coffee:brushwork", "cat:glass", "bridge:cafe"),
}
"""Contents and styles that come with the package; no means is confirmed on pairs that it was chosen by."""
RATIOS = (0.03, 0.1, 0.3, 1.0)
"""Multiples of the balance of every pair. With three, 0.05, 0.2 and 0.8, balanced layers came to the
content distance of the reference on two pairs of four only (128 px, 80 steps)."""
COMPARED = 0.3
"""The reference's ratio at whose content distance means are compared."""
SCORES = ("style_distance", "periodicity", "noise")
COLOURS = 10
ROOT = work.EXAMPLES.parent.parent
"""This version's checkout."""


class Kind(NamedTuple):
    """The work of one comparison."""

    name: str
    pairs: tuple[str, ...]
    seeds: int
    inits: tuple[str, ...]


KINDS = {
    "screen": Kind("screen", PAIRS["screen"], 1, ("noise",)),
    "confirm": Kind("confirm", PAIRS["confirm"], 2, ("noise", "content")),
    "against": Kind("against", (*PAIRS["screen"], *PAIRS["confirm"]), 1, ("noise",)),
}
DEFAULTS = "the defaults"
"""The name of the means that is what jaxstyle does by default."""


class Point(NamedTuple):
    """One picture of a means."""

    pair: str
    init: str
    seed: int
    ratio: float
    scores: Mapping[str, float]
    """Held-out scores by name, content_distance among them."""
    image: Path


# --- the runs -------------------------------------------------------------------------------------


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def image_path(name: str) -> Path:
    """The path of an image: `name` itself, or the one of that name that comes with the package."""
    return Path(name).absolute() if Path(name).suffix else next(work.EXAMPLES.glob(f"{name}.*"))


def _name(pair: str) -> str:
    """A pair by the names of its files, as its cells have them."""
    return ":".join(Path(name).stem for name in pair.split(":"))


def _spec(
    kind: Kind, named: Mapping[str, Any], size: str, steps: int | None, ratios: Sequence[float]
) -> str:
    """The specification of a run: a grid for each pair, and the settings that it names."""
    settings = {**named, "size": size, "init": kind.inits, "seed": (f"0:{kind.seeds}",)}
    if steps is not None:
        settings["steps"] = steps
    settings["alpha_beta"] = tuple(f"{ratio}x" for ratio in ratios)
    own = [f"{name} = {_toml(value)}" for name, value in settings.items()]
    grids = []
    for pair in kind.pairs:  # each a grid of its own: one image may be in several
        paths = zip(("content", "style"), pair.split(":"), strict=True)
        grids += ["", "[[grid]]"]
        grids += [f"{key} = {_toml([str(image_path(name))])}" for key, name in paths]
    return "\n".join([*own, *grids]) + "\n"


def compute(
    kind: Kind,
    named: Mapping[str, Any],
    size: str,
    out: Path,
    steps: int | None = None,
    ratios: Sequence[float] = RATIOS,
    checkout: Path = ROOT,
) -> float:
    """Compute and score a run, or go on with it; seconds of its steps.

    Args:
        named: settings by name; all others have their defaults.
        checkout: the version that computes. Its pictures are scored by this one.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    spec = out.with_suffix(".toml")
    work.write_spec(spec, _spec(kind, named, size, steps, ratios), out)
    python = [sys.executable, "-m"]
    if not (out / "manifest.json").exists():
        order = ["--spec", str(spec), "--out", str(out)]
    else:
        order = ["--resume", "--out", str(out)]
    before = work.children_s()
    of = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run([*python, "jaxstyle.sweep", *order, "--quiet"], check=False, env=of)
    took = out.with_suffix(".json")
    spent = json.loads(took.read_text())["processor_s"] if took.exists() else 0.0
    took.write_text(json.dumps({"processor_s": spent + work.children_s() - before}))
    if done.returncode not in (0, 1):
        raise SystemExit(f"bench: error: the sweep in {out} ended with {done.returncode}")
    if not (out / "scores.csv").exists():
        subprocess.run([*python, "jaxstyle.score", str(out), "--best", "0"], check=True)
    timings = json.loads((out / "manifest.json").read_text()).get("timings", {})
    return float(timings.get("compute_s", math.nan))


def points(out: Path) -> list[Point]:
    """The pictures of a run with their scores."""
    with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
        scored = {row["cell"]: row for row in csv.DictReader(file)}
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        found = []
        for row in csv.DictReader(file):
            own = scored[row["cell"]]
            names = ("content_distance", *SCORES)
            found.append(
                Point(
                    f"{Path(row['content']).stem}:{Path(row['style']).stem}",
                    row["init"],
                    int(row["seed"]),
                    float(row["alpha_beta_given"].rstrip("x")),
                    {name: float(own[name]) for name in names},
                    out / row["image"],
                )
            )
    return found


# --- the comparison -------------------------------------------------------------------------------


def at(curve: Sequence[tuple[float, float]], x: float) -> float | None:
    """The value of a piecewise linear curve, given as (x, y), at `x`; None outside it."""
    ordered = sorted(curve)
    for (x0, y0), (x1, y1) in itertools.pairwise(ordered):
        if x0 <= x <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return None


def curves(found: Sequence[Point]) -> dict[tuple[str, str, int], list[Point]]:
    """The points of each pair, start and seed, by ascending ratio."""
    by: dict[tuple[str, str, int], list[Point]] = {}
    for point in sorted(found, key=lambda p: p.ratio):
        by.setdefault((point.pair, point.init, point.seed), []).append(point)
    return by


def compare(reference: Sequence[Point], found: Sequence[Point]) -> list[dict[str, Any]]:
    """Scores of a means and of the reference at the content distance of `COMPARED`, curve by curve."""
    rows, theirs, ours = [], curves(reference), curves(found)
    for key, was in theirs.items():
        if key not in ours:
            continue
        (chosen,) = (p for p in was if p.ratio == COMPARED)
        x = chosen.scores["content_distance"]
        row: dict[str, Any] = {"pair": key[0], "init": key[1], "seed": key[2], "content_distance": x}
        for name in SCORES:
            curve = [(p.scores["content_distance"], p.scores[name]) for p in ours[key]]
            row[name] = at(curve, x)
            row[f"{name}_was"] = chosen.scores[name]
        rows.append(row)
    return rows


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    there = [row for row in rows if row["style_distance"] is not None]
    found: dict[str, Any] = {"curves": len(rows), "reached": len(there)}
    if there:
        ratios = [row["style_distance"] / row["style_distance_was"] for row in there]
        found["style_distance_ratio"] = {
            "median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)
        }  # fmt: skip
        for name in ("periodicity", "noise"):
            found[name] = statistics.median(row[name] for row in there)
            found[f"{name}_was"] = statistics.median(row[f"{name}_was"] for row in there)
    return found


HEAD = f"{'means':30}{'of':>4}  style distance (least, most)   periodicity   was    noise    was  seconds"


def _line(means: str, row: Mapping[str, Any]) -> str:
    begins = f"{means:30}{row['reached']:>2}/{row['curves']}"
    if not row["reached"]:
        return f"{begins}  does not come to the reference's content distance"
    ratio = row["style_distance_ratio"]
    return (
        f"{begins}  {ratio['median']:6.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})"
        f"  {row['periodicity']:14.3f}{row['periodicity_was']:7.3f}"
        f"{row['noise']:9.3f}{row['noise_was']:7.3f}"
        f"{row['seconds']:9.0f}"
    )


def draw(kind: Kind, found: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Draw style distance and periodicity over content distance, a column for each pair."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = ("style_distance", "periodicity")
    size = (4 * len(kind.pairs), 7)
    figure, axes = pyplot.subplots(len(names), len(kind.pairs), figsize=size, squeeze=False)
    for column, pair in enumerate(map(_name, kind.pairs)):
        for number, (means, own) in enumerate(found.items()):
            for key, line in curves(own).items():
                if key[0] != pair:
                    continue
                x = [p.scores["content_distance"] for p in line]
                for axis, name in zip(axes[:, column], names, strict=True):
                    y = [p.scores[name] for p in line]
                    first = key[1:] == (kind.inits[0], 0)
                    dashes = "-" if number < COLOURS else "--"
                    colour = "black" if means == REFERENCE else f"C{number % COLOURS}"
                    label = means if first else None
                    axis.plot(x, y, f"{dashes}o", color=colour, label=label, markersize=3, linewidth=1)
        axes[0, column].set_title(pair.replace(":", " and "))
        axes[-1, column].set_xlabel("content distance")
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel(name.replace("_", " "))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(path, dpi=100)


def sheets(kind: Kind, found: Mapping[str, Sequence[Point]], size: str) -> Iterator[Path]:
    """A sheet for each pair, a column for each means and a row for each ratio; their paths."""
    import numpy as np
    from PIL import Image

    for pair in map(_name, kind.pairs):
        columns = []
        for own in found.values():
            line = curves(own)[pair, kind.inits[0], 0]
            columns.append([np.asarray(Image.open(p.image).convert("RGB")) for p in line])
        path = work.RESULTS / f"look-{kind.name}-{size}-{pair.replace(':', '-')}.png"
        work.sheet(columns, list(found), path)
        yield path


def main(arguments: Sequence[str]) -> None:
    """Compute what is missing, then print, save and draw the comparison."""
    parser = argparse.ArgumentParser(
        prog="python -m bench look", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--screen", action="store_true", help="every means alone on four pairs")
    parser.add_argument("--confirm", nargs="+", choices=MEANS, metavar="MEANS", help="on four other pairs")
    parser.add_argument(
        "--only", nargs="+", choices=MEANS, metavar="MEANS", help="of the screen, only these"
    )
    parser.add_argument(
        "--size", default="256x192", help="WxH; multiples of 64 for circular padding (default: 256x192)"
    )
    parser.add_argument("--steps", type=int, help="(default: those of a default run)")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/look"), help="the runs (default: runs/look)"
    )
    parser.add_argument(
        "--pairs", type=int, default=8, help="with --peers, the first so many of eight pairs"
    )
    parser.add_argument(
        "--peers", metavar="PYTHON", help="beside other programs, in the environment of this interpreter"
    )
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help="the defaults beside those of another version"
    )
    parser.add_argument(
        "--pair", nargs="+", metavar="CONTENT:STYLE", help="instead of the pairs of a comparison"
    )
    parser.add_argument("--list", action="store_true", help="print the means and their settings")
    args = parser.parse_args(arguments)
    if args.list:
        for means, settings in MEANS.items():
            print(f"{means:30} {', '.join(f'{k} {v}' for k, v in settings.items())}")
        return
    if args.peers:
        from bench import look_peers

        look_peers.main(args.peers, args.size, args.folder, args.steps, arguments, args.pairs)
        return
    if not args.screen and not args.confirm and not args.against:
        parser.error("give --screen, --confirm, --against or --peers")
    kind = KINDS["against" if args.against else "confirm" if args.confirm else "screen"]
    if args.pair:
        kind = kind._replace(pairs=tuple(args.pair))
    wanted = args.confirm or args.only or list(MEANS)
    wanted = [REFERENCE, *(means for means in wanted if means != REFERENCE)]
    settings = {means: {**WAS, **MEANS[means]} for means in wanted}
    if args.against:
        chosen = {name: value for name, value in CHOSEN.items() if name != "alpha_beta"}
        settings = {REFERENCE: {}, DEFAULTS: chosen}
    found: dict[str, list[Point]] = {}
    rows: dict[str, Any] = {}
    print(HEAD)
    about, path = work.device(), Path()
    for means, named in settings.items():
        began = time.monotonic()
        out = args.folder / f"{kind.name}-{args.size}" / means.replace(" ", "-").replace(",", "")
        checkout = args.against if args.against and means == REFERENCE else ROOT
        seconds = compute(kind, named, args.size, out, args.steps, checkout=checkout.absolute())
        found[means] = points(out)
        own = compare(found[REFERENCE], found[means])
        rows[means] = {
            "settings": dict(MEANS.get(means, named)),
            **_summary(own),
            "curves_at": own,
            "seconds": seconds,
        }
        rows[means]["points"] = [
            {"pair": p.pair, "init": p.init, "seed": p.seed, "ratio": p.ratio, **p.scores}
            for p in found[means]
        ]
        print(_line(means, rows[means]), f"  {time.monotonic() - began:.0f} s in all", flush=True)
        tag = f"{kind.name}-{args.size}"
        was = {**settings[REFERENCE], **({} if args.steps is None else {"steps": args.steps})}
        values = {
            "device": about,
            "was": was,
            "ratios": RATIOS,
            "means": rows,
        }
        path = work.save("look", arguments, about["platform"], values, tag=tag)
    draw(kind, found, path.with_suffix(".png"))
    print(f"saved {path} and {path.with_suffix('.png')}")
    for made in sheets(kind, found, args.size):
        print(f"saved {made}")
