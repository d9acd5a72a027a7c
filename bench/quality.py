"""Time to a finished picture, beside pastiche 1.6.0 as shipped; `python -m bench quality`.

pastiche runs its own command's defaults: from the content, max pooling, PyTorch's L-BFGS, 1000 steps.
jaxstyle is set to the same objective, by pooling, layers and weights, and to pixels that a PNG can hold
(`--clamp`), because PNGs are judged; everything else is its default. The PNGs of both are scored by one
implementation of that objective in NumPy float64, and what counts is the time until jaxstyle's score is no
worse than that of pastiche's last image. Both get images of the final size, so that resampling is not
judged. Time is that of the steps, coarser stages included; compiling and loading are reported separately.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import optimizers, processes, work

PAIRS = ("astronaut:brushwork", "cat:glass", "coffee:brushwork", "coffee:glass")
SNAPSHOTS = (10, 15, 20, 25, 30, 35, 40, 50, 60, 70, 80, 90, 100, 120, 140, 160, 180, 200, 250, 300, 400)


def _layer_weight(name: str) -> float:
    """The w_l that turns E_l, a sum over 4 N^2, into pastiche's 10 / N^2 times a mean over N^2 entries."""
    from jaxstyle.vgg import layers

    return 40.0 / layers.conv(name).out_channels ** 2


def _objective(content: np.ndarray, style: np.ndarray) -> Any:
    """Function that gives pastiche's loss of a uint8 RGB image, in float64 without any framework."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from jaxstyle.inputs import weights
    from jaxstyle.vgg import layers

    oracle: Any = importlib.import_module("oracle")

    loaded = weights.load(taps=layers.STYLE_LAYERS).layers

    def features(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return oracle.network(loaded, np.asarray(pixels, np.float64), "max", layers.STYLE_LAYERS[-1])[1]

    def gram(f: np.ndarray) -> np.ndarray:
        flat = f.reshape(-1, f.shape[-1])
        return flat.T @ flat / len(flat)

    p = features(content)[layers.CONTENT_LAYER]
    a = {name: gram(value) for name, value in features(style).items() if name in layers.STYLE_LAYERS}

    def score(pixels: np.ndarray) -> float:
        found = features(pixels)
        total = 0.01 * np.mean((found[layers.CONTENT_LAYER] - p) ** 2)
        for name in layers.STYLE_LAYERS:
            n = a[name].shape[0]
            total += 10.0 / n**2 * np.mean((gram(found[name]) - a[name]) ** 2)
        return float(total)

    return score


def _pastiche(pipe: Any, content: str, style: str, out: str, size: int, steps: int) -> None:
    import torch  # pyright: ignore[reportMissingImports]

    from jaxstyle.console import allocator, limits

    allocator.keep_freed_memory()
    torch.set_num_threads(limits.threads())
    from pastiche.pastiche import (  # pyright: ignore[reportMissingImports]
        PasticheArtist,
        save_image,
    )

    began = time.perf_counter()
    artist = PasticheArtist(content, [style], size=size, style_size=size)  # pyright: ignore[reportArgumentType]
    loaded = time.perf_counter()
    for _ in range(steps):
        artist.draw()
    done = time.perf_counter()
    save_image(artist.pastiche, out)
    pipe.send({"load_s": loaded - began, "steps_s": done - loaded, "loss": float(artist.loss)})


def _jaxstyle(pipe: Any, content: str, style: str, folder: str, size: int, steps: Sequence[int]) -> None:
    from PIL import Image

    from jaxstyle import RunOptions, Sweep, run_sweep
    from jaxstyle.console import allocator
    from jaxstyle.vgg import layers

    allocator.keep_freed_memory()
    with Image.open(content) as image:
        _, _, channels = shape = layers.feature_shape(layers.CONTENT_LAYER, image.height, image.width)
    sweep = Sweep(
        content=(content,),
        style=(style,),
        init=("content",),
        size=str(size),
        style_size=(size,),
        pool=("max",),
        style_layers=("+".join(f"{name}:{_layer_weight(name)!r}" for name in layers.STYLE_LAYERS),),
        alpha_beta=(0.02 / (channels * shape[0] * shape[1]),),
        steps=tuple(steps),
        clamp=(True,),
    )
    run = run_sweep(sweep, RunOptions(out=folder, quiet=True))
    manifest = json.loads((run.path / "manifest.json").read_text())
    pipe.send(
        {
            "optimizer": manifest["programs"][0]["optimizer"],
            "loss": float(run.rows[0]["loss_total"]),
            "evaluations": float(run.rows[0]["evaluations"]),
            **{key: manifest["timings"][key] for key in ("compile_s", "targets_s", "compute_s", "wall_s")},
        }
    )


def compare(content: str, style: str, size: int, steps: int, rounds: int) -> dict[str, Any]:
    """Scores of one pair, the steps that jaxstyle needs, and the times of both sides."""
    from PIL import Image

    from jaxstyle.inputs import decode
    from jaxstyle.inputs.resize import resize

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pictures = [resize(decode.read(path).pixels, size) for path in (content, style)]
        paths = [str(folder / name) for name in ("content.png", "style.png")]
        for path, pixels in zip(paths, pictures, strict=True):
            Image.fromarray(pixels).save(path)
        score = _objective(*pictures)
        theirs = processes.in_process(_pastiche, *paths, str(folder / "pastiche.png"), size, steps)
        final = np.asarray(Image.open(folder / "pastiche.png").convert("RGB"))
        theirs["score"] = score(final)
        # Find the first snapshot that is as good, then time a run of exactly that many steps.
        first = processes.in_process(_jaxstyle, *paths, str(folder / "first"), size, SNAPSHOTS)
        scores = {}
        for n in SNAPSHOTS:
            name = "000000.png" if n == SNAPSHOTS[-1] else f"000000-step{n:06d}.png"
            scores[n] = score(np.asarray(Image.open(folder / "first" / "images" / name)))
        needed = next((n for n in SNAPSHOTS if scores[n] <= theirs["score"]), None)
        found = {
            "content": Path(content).stem,
            "style": Path(style).stem,
            "shape": "x".join(map(str, pictures[0].shape[:2])),
            "pastiche": theirs,
            "jaxstyle": {"scores": scores, "steps": needed, "first_run": first},
        }
        if needed is not None:
            runs = [
                processes.in_process(_jaxstyle, *paths, str(folder / f"run{i}"), size, (needed,))
                for i in range(rounds)
            ]
            seconds = statistics.median(run["compute_s"] for run in runs)
            found["jaxstyle"] |= {"runs": runs, "steps_s": seconds}
            found["time_of_pastiche"] = seconds / theirs["steps_s"]
    return found


def main(arguments: Sequence[str]) -> None:
    """Run every pair, print a table, save it."""
    parser = argparse.ArgumentParser(
        prog="python -m bench quality", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), help="CONTENT:STYLE, names of images")
    parser.add_argument("--images", type=Path, help="folder with images that do not come with the package")
    parser.add_argument("--size", type=int, default=192, help="longest edge in px (default: 192)")
    parser.add_argument("--steps", type=int, default=1000, help="pastiche's steps (default: 1000, its own)")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of jaxstyle")
    args = parser.parse_args(arguments)
    work.require("torch", "pastiche")
    about = processes.in_process(work.tell_device)
    results: list[dict[str, Any]] = []
    values = {"device": about, "results": results}
    print(f"{'':24}{'pastiche':>26}{'jaxstyle':>34}   time of")
    print(f"{'':24}{'score':>14}{'s':>12}{'score':>14}{'steps':>8}{'s':>12}   pastiche", flush=True)
    for pair in args.pairs:
        content, style = (optimizers.find_image(name, args.images) for name in pair.split(":"))
        found = compare(content, style, args.size, args.steps, args.rounds)
        results.append(found)
        work.save("quality", arguments, about["platform"], values, complete=False)
        theirs, ours = found["pastiche"], found["jaxstyle"]
        line = f"{pair:24}{theirs['score']:14.5g}{theirs['steps_s']:12.1f}"
        if ours["steps"] is None:
            best = min(ours["scores"].values())
            print(f"{line}{best:14.5g}   not reached", flush=True)
        else:
            reached = ours["scores"][ours["steps"]]
            line += f"{reached:14.5g}{ours['steps']:8}{ours['steps_s']:12.1f}"
            print(f"{line}   {found['time_of_pastiche']:.3f}", flush=True)
    print(f"saved {work.save('quality', arguments, about['platform'], values)}")
