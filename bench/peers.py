"""jaxstyle beside what people use today, interleaved in one call; `python -m bench peers`.

All sides hold the real VGG19, the same content, style and start, and take Adam steps of the same loss on
the same number of threads with the same allocator. Each lives in a process of its own; in every round
each runs while the others are stopped (OpenMP's threads would go on spinning after their work, on the
cores of the next), in changing order, and what counts is the ratio within a round. First
their losses must agree. How far the first gradient lies from PyTorch's float32 one stands beside the
time.

The sides:
    torch NCHW           PyTorch as most public code has it: eager, NCHW, one image after another
    torch channels_last  PyTorch in its best float32 form, all cells in one batch
    torch bf16           the same under bfloat16 autocast
    torch compiled       the same through torch.compile; on a GPU only
    pastiche             pastiche 1.6.0 as shipped, one image after another
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import work

LOSS_AGREES = {"jaxstyle bf16": 3e-2, "torch bf16": 3e-2, "torch compiled": 3e-2}
"""How far a side's losses may lie from PyTorch's float32 ones, relative; 1e-4 for the others."""
REFERENCE = "torch NCHW"

Advance = Callable[[int], tuple[float, float]]
"""From a number of steps to the loss before the last one and the seconds that all of them took."""


def _jaxstyle(size: int, cells: int, precision: str) -> tuple[Advance, np.ndarray]:
    job = work.Work(size, cells, precision)
    return job.advance, job.first_gradient()


def _exact(torch: Any) -> None:
    """As many threads as there are cores, and float32 that is float32 on a GPU too."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def _torch(size: int, cells: int, kind: str) -> tuple[Advance, np.ndarray]:
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn import functional  # pyright: ignore[reportMissingImports]

    from jaxstyle import images, layers, weights

    _exact(torch)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    form = torch.contiguous_format if kind == "NCHW" else torch.channels_last
    reduced = kind in ("bf16", "compiled")
    loaded = weights.load(taps=layers.STYLE_LAYERS)
    network = {
        name: (
            torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).to(device).contiguous(memory_format=form),
            torch.from_numpy(bias).to(device),
        )
        for name, (kernel, bias) in loaded.layers.items()
    }
    mean = torch.from_numpy(images.MEAN_RGB).to(device).view(1, 3, 1, 1)

    def features(image: Any) -> dict[str, Any]:
        x, pools, found = (image - mean).flip(1), 0, {}
        for row in layers.up_to(layers.STYLE_LAYERS):
            if row.pools > pools:
                x, pools = functional.avg_pool2d(x, 2), row.pools
            x = functional.relu(functional.conv2d(x, *network[row.name], padding=1))
            found[row.name] = x
        return found

    def gram(f: Any) -> Any:
        flat = f.permute(0, 2, 3, 1).flatten(1, 2)
        return (flat.transpose(1, 2) @ flat) / flat.shape[1]

    def tensor(pixels: np.ndarray, count: int) -> Any:
        x = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32)).to(device)
        return x.repeat(count, 1, 1, 1).contiguous(memory_format=form)

    content, style = work.inputs(size)
    batch = 1 if kind == "NCHW" else cells

    def autocast() -> Any:
        return torch.autocast(device, dtype=torch.bfloat16) if reduced else contextlib.nullcontext()

    with torch.no_grad(), autocast():
        p = features(tensor(content, 1))[layers.CONTENT_LAYER].float()
        found = features(tensor(style, 1))
        a = {name: gram(found[name]).float() for name in layers.STYLE_LAYERS}

    def total(image: Any) -> Any:
        """The loss of each image of a batch."""
        with autocast():
            found = features(image)
            grams = {name: gram(found[name]).float() for name in layers.STYLE_LAYERS}
        f = found[layers.CONTENT_LAYER].float()
        loss = work.ALPHA_BETA * 0.5 * ((f - p) ** 2).sum((1, 2, 3))
        for name in layers.STYLE_LAYERS:
            n = a[name].shape[-1]
            loss = loss + 0.2 * ((grams[name] - a[name]) ** 2).sum((1, 2)) / (4 * n**2)
        return loss

    if kind == "compiled":
        total = torch.compile(total)
    states = []
    for _ in range(0, cells, batch):
        image = tensor(content, batch).requires_grad_()
        states.append((image, torch.optim.Adam([image], lr=work.LEARNING_RATE)))

    def advance(steps: int) -> tuple[float, float]:
        began, last = time.perf_counter(), None
        for image, adam in states:
            for _ in range(steps):
                adam.zero_grad()
                last = total(image)
                last.sum().backward()
                adam.step()
        if device == "cuda":
            torch.cuda.synchronize()
        assert last is not None
        return float(last[-1].detach()), time.perf_counter() - began

    advance(1)
    gradient = states[0][0].grad[0].permute(1, 2, 0).float().cpu().numpy()
    return advance, gradient


def _pastiche(size: int, cells: int) -> tuple[Advance, np.ndarray]:
    import torch  # pyright: ignore[reportMissingImports]
    from PIL import Image

    from jaxstyle import layers

    _exact(torch)
    from pastiche.pastiche import PasticheArtist  # pyright: ignore[reportMissingImports]

    content, style = work.inputs(size)
    channels = layers.feature_shape(layers.CONTENT_LAYER, size, size)
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("content.png", "style.png")]
        for path, pixels in zip(paths, (content, style), strict=True):
            Image.fromarray(pixels).save(path)
        # It takes means where we take sums: its weights are chosen so that its loss is ours.
        artists = [
            PasticheArtist(
                paths[0],
                [paths[1]],  # pyright: ignore[reportArgumentType]
                pooling="avg",
                optimizer="adam",
                content_layer_weights=[work.ALPHA_BETA * 0.5 * float(np.prod(channels))],
                style_layer_weights=[0.2 / 4],
                size=size,
                style_size=size,
            )
            for _ in range(cells)
        ]

    def advance(steps: int) -> tuple[float, float]:
        began = time.perf_counter()
        for artist in artists:
            for _ in range(steps):
                artist.draw()
        return float(artists[-1].loss), time.perf_counter() - began

    advance(1)
    found: Any = artists[0].pastiche.grad
    gradient = found[0].flip(0).permute(1, 2, 0).cpu().numpy()
    return advance, gradient


def _side(pipe: Any, side: str, size: int, cells: int, tuned: bool) -> None:
    """Answer each number of steps with a loss and seconds; runs in a process of its own."""
    from jaxstyle import cli

    if tuned:
        cli.keep_freed_memory()
    program, kind = side.split(" ", 1) if " " in side else (side, "")
    if program == "jaxstyle":
        advance, gradient = _jaxstyle(size, cells, kind)
    elif program == "torch":
        advance, gradient = _torch(size, cells, kind)
    else:
        advance, gradient = _pastiche(size, cells)
    pipe.send(gradient)
    while True:
        pipe.send(advance(pipe.recv()))


class _Side:
    """The process of one side. It is stopped but while it has something to do."""

    def __init__(self, name: str, size: int, cells: int, tuned: bool):
        self.name = name
        self._pipe, other = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_side, args=(other, name, size, cells, tuned), daemon=True
        )
        self._process.start()
        other.close()

    def gradient(self) -> np.ndarray:
        """Wait until it is ready: dL/dx of the first image."""
        return self._answer()

    def run(self, steps: int) -> tuple[float, float]:
        """Have it take `steps` of every cell: its loss before the last one and the seconds it took."""
        self._signal(signal.SIGCONT)
        self._pipe.send(steps)
        return self._answer()

    def end(self) -> None:
        """Let it go."""
        self._signal(signal.SIGCONT)
        self._process.terminate()
        self._process.join()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise SystemExit(f"bench: error: the process of {self.name} died") from None
        self._signal(signal.SIGSTOP)
        return answer

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid or 0, number)


def measure(
    size: int, cells: int, sides: Sequence[str], *, rounds: int, steps: int, tuned: bool
) -> dict[str, Any]:
    """Milliseconds per image-step of each side, and ratios to jaxstyle's float32 within rounds."""
    turns = [_Side(side, size, cells, tuned) for side in sides]
    try:
        gradients = {turn.name: turn.gradient() for turn in turns}
        losses = {turn.name: turn.run(2)[0] for turn in turns}  # also the warm-up
        for side, loss in losses.items():
            if abs(loss / losses[REFERENCE] - 1) > LOSS_AGREES.get(side, 1e-4):
                raise SystemExit(
                    f"bench: {side}: loss {loss} after two steps, {REFERENCE} has {losses[REFERENCE]}"
                )
        times: dict[str, list[float]] = {side: [] for side in sides}
        for index in range(rounds):
            for turn in turns if index % 2 == 0 else turns[::-1]:
                times[turn.name].append(1e3 * turn.run(steps)[1] / steps / cells)
    finally:
        for turn in turns:
            turn.end()
    reference = gradients[REFERENCE].astype(np.float64)

    def ratio(a: str, b: str) -> dict[str, float]:
        ratios = [x / y for x, y in zip(times[a], times[b], strict=True)]
        return {"median": statistics.median(ratios), "min": min(ratios), "n": len(ratios)}

    return {
        "size": size,
        "cells": cells,
        "rounds": rounds,
        "steps_per_round": steps,
        "allocator": "tuned" if tuned else "default",
        "sides": {
            side: {
                "loss_after_2_steps": losses[side],
                "gradient_error": float(
                    np.linalg.norm(gradients[side] - reference) / np.linalg.norm(reference)
                ),
                "ms_per_image_step": {
                    "min": min(times[side]),
                    "median": statistics.median(times[side]),
                    "all": [round(t, 2) for t in times[side]],
                },
                "time_of_jaxstyle": {
                    mine.split(" ")[1]: ratio(mine, side) for mine in sides if mine.startswith("jaxstyle")
                },
            }
            for side in sides
        },
    }


def print_table(found: dict[str, Any]) -> None:
    """Times, and jaxstyle's time over each side's: below 1, jaxstyle is the faster."""
    print(
        f"{found['size']} px, cells: {found['cells']}, {found['rounds']} rounds of steps:"
        f" {found['steps_per_round']}, {found['allocator']} allocator"
    )
    print(f"  {'ms per image-step':22}{'min':>8}{'median':>9}{'gradient':>11}   jaxstyle's time over this")
    print(f"  {'':22}{'':17}{'error':>11}   f32 median (min)   bf16 median (min)")
    for side, values in found["sides"].items():
        t = values["ms_per_image_step"]
        ratios = [values["time_of_jaxstyle"].get(p) for p in ("f32", "bf16")]
        text = "".join(f"   {r['median']:.2f} ({r['min']:.2f})     " if r else "" for r in ratios)
        print(
            f"  {side:22}{t['min']:8.1f}{t['median']:9.1f}{values['gradient_error']:11.1e}{text.rstrip()}"
        )


def main(arguments: Sequence[str]) -> None:
    """Measure, print tables, save them."""
    parser = argparse.ArgumentParser(
        prog="python -m bench peers", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--size", type=int, nargs="+", default=[256], help="px, square (default: 256)")
    parser.add_argument("--cells", type=int, nargs="+", default=[1, 4], help="(default: 1 4)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--steps", type=int, default=3, help="per side and round, shared by the cells on a CPU"
    )
    parser.add_argument("--allocator", choices=("tuned", "default"), default="tuned", help="for every side")
    args = parser.parse_args(arguments)
    work.require("torch", "pastiche")
    import torch  # pyright: ignore[reportMissingImports]

    gpu = torch.cuda.is_available()
    sides = ["jaxstyle f32", "jaxstyle bf16", "torch NCHW", "torch channels_last", "torch bf16", "pastiche"]
    sides += ["torch compiled"] if gpu else []
    results = []
    for size in args.size:
        for cells in args.cells:
            found = measure(
                size,
                cells,
                sides,
                rounds=args.rounds,
                steps=max(1, args.steps // (1 if gpu else cells)),
                tuned=args.allocator == "tuned",
            )
            results.append(found)
            print_table(found)
            sys.stdout.flush()
    about = work.device()
    path = work.save("peers", arguments, about["platform"], {"device": about, "results": results})
    print(f"saved {path}")
