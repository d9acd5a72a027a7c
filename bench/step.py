"""One image-step of jaxstyle beside the same step in PyTorch, interleaved.

Both sides hold the real VGG19, the same content, style and start, and take Adam steps of the same loss
on the same number of threads. Each lives in a process of its own; in every round one runs while the
other waits, in changing order, and what counts is the ratio within a round. First their losses must
agree. Results go to `bench/results/`.

PyTorch runs in its best float32 form on a CPU, `channels_last`, and as most public code has it, NCHW.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"
EXAMPLES = Path(__file__).resolve().parent.parent / "jaxstyle" / "examples"
ALPHA_BETA, LEARNING_RATE = 1e-3, 10.0
LOSS_AGREES = 1e-4
"""How far the losses of the two sides may lie apart, relative, after the first steps."""
SIDES = ("jaxstyle", "torch channels_last", "torch NCHW")


def inputs(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A content and a style image of `size` x `size` px, RGB, uint8."""
    from jaxstyle import images

    pair = (images.read(str(EXAMPLES / f"{name}.jpg")).pixels for name in ("astronaut", "brushwork"))
    content, style = (images.fit(pixels, size, size) for pixels in pair)
    return content, style


def jaxstyle_side(pipe: Connection, size: int) -> None:
    """Answer each number of steps with the loss before the last one and the seconds they took."""
    import jax

    from jaxstyle import config, engine, grid, step, weights

    content, style = inputs(size)
    sweep = config.resolve(
        config.Sweep(
            content=("content",),
            style=("style",),
            alpha_beta=(ALPHA_BETA,),
            learning_rate=(LEARNING_RATE,),
            init=("content",),
        )
    )
    (cell,) = grid.cells(sweep)
    plan = grid.plan(sweep, [cell], {cell.content: (size, size)}, platform="cpu", choose_width=lambda *_: 1)
    program = plan.programs[0]
    machine = engine.Engine(weights.load(taps=program.taps).layers, cell_shapes=[(size, size)])
    compiled, _ = machine.compile(program)
    rows = [machine.target_rows(program, pixels) for pixels in (content, style)]
    targets = step.Targets(tuple(p[None] for p in rows[0].content), tuple(a[None] for a in rows[1].style))
    knobs = jax.tree.map(
        lambda x: np.asarray(x)[None],
        step.knobs(cell, program, sweep, content_row=0, style_row=0, extent=(size, size)),
    )
    knobs, targets = jax.device_put((knobs, targets))
    params = machine.network(program).params
    state = compiled.init(knobs, content[None].astype(np.float32))
    pipe.send({"compile_s": compiled.compile_s, "device": str(machine.device.device_kind)})
    done = 0
    while steps := pipe.recv():
        began = time.perf_counter()
        state, info = compiled.segment(
            params, knobs, targets, state, np.int32(done), np.int32(done + steps)
        )
        loss = float(np.asarray(info.loss_total)[steps - 1, 0])
        pipe.send((loss, time.perf_counter() - began))
        done += steps


def torch_side(pipe: Connection, size: int, channels_last: bool) -> None:
    """The same in PyTorch."""
    import torch
    from torch.nn import functional

    from jaxstyle import images, layers, weights

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    form = torch.channels_last if channels_last else torch.contiguous_format
    loaded = weights.load(taps=layers.STYLE_LAYERS)
    network = {
        name: (
            torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).contiguous(memory_format=form),
            torch.from_numpy(bias),
        )
        for name, (kernel, bias) in loaded.layers.items()
    }
    mean = torch.from_numpy(images.MEAN_RGB).view(1, 3, 1, 1)

    def features(image: Any) -> dict[str, Any]:
        x, pools, found = (image - mean).flip(1), 0, {}
        for row in layers.up_to(layers.STYLE_LAYERS):
            if row.pools > pools:
                x, pools = functional.avg_pool2d(x, 2), row.pools
            x = functional.relu(functional.conv2d(x, *network[row.name], padding=1))
            found[row.name] = x
        return found

    def gram(f: Any) -> Any:
        flat = f.permute(0, 2, 3, 1).reshape(-1, f.shape[1])
        return flat.T @ flat / flat.shape[0]

    def tensor(pixels: np.ndarray) -> Any:
        return torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32)).contiguous(
            memory_format=form
        )

    content, style = (tensor(pixels) for pixels in inputs(size))
    with torch.no_grad():
        p = features(content)[layers.CONTENT_LAYER]
        found = features(style)
        a = {name: gram(found[name]) for name in layers.STYLE_LAYERS}
    image = content.clone().requires_grad_()
    adam = torch.optim.Adam([image], lr=LEARNING_RATE)

    def one() -> Any:
        adam.zero_grad()
        found = features(image)
        loss = ALPHA_BETA * 0.5 * ((found[layers.CONTENT_LAYER] - p) ** 2).sum()
        for name in layers.STYLE_LAYERS:
            n = a[name].shape[0]
            loss = loss + 0.2 * ((gram(found[name]) - a[name]) ** 2).sum() / (4 * n**2)
        loss.backward()
        adam.step()
        return loss.detach()

    pipe.send({"device": "cpu", "threads": torch.get_num_threads()})
    loss = 0.0
    while steps := pipe.recv():
        began = time.perf_counter()
        for _ in range(steps):
            loss = one()
        pipe.send((float(loss), time.perf_counter() - began))


def start(side: str, size: int) -> tuple[Any, Any]:
    """A process for one side, and the pipe to it."""
    mine, other = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    if side == "jaxstyle":
        process = context.Process(target=jaxstyle_side, args=(other, size), daemon=True)
    else:
        process = context.Process(
            target=torch_side, args=(other, size, side.endswith("channels_last")), daemon=True
        )
    process.start()
    return process, mine


def measure(size: int, rounds: int, steps: int) -> dict[str, Any]:
    """Milliseconds per image-step of each side, and ratios within rounds."""
    pipes = {side: start(side, size)[1] for side in SIDES}
    about = {side: pipe.recv() for side, pipe in pipes.items()}

    def run(side: str, count: int) -> tuple[float, float]:
        pipes[side].send(count)
        return pipes[side].recv()

    losses = {side: run(side, 3)[0] for side in SIDES}  # also the warm-up
    for side, loss in losses.items():
        if abs(loss / losses["jaxstyle"] - 1) > LOSS_AGREES:
            raise SystemExit(
                f"bench: {side}: loss {loss} after two steps, jaxstyle has {losses['jaxstyle']}"
            )
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for index in range(rounds):
        order = SIDES if index % 2 == 0 else SIDES[::-1]
        for side in order:
            times[side].append(1e3 * run(side, steps)[1] / steps)
    for pipe in pipes.values():
        pipe.send(0)
    mine = times["jaxstyle"]
    return {
        "size": size,
        "about": about,
        "loss_after_2_steps": losses,
        "ms_per_image_step": {
            side: {"min": min(t), "median": statistics.median(t), "all": t} for side, t in times.items()
        },
        "ratio_of_jaxstyle": {
            side: {
                "median": statistics.median(m / t for m, t in zip(mine, times[side], strict=True)),
                "min": min(m / t for m, t in zip(mine, times[side], strict=True)),
            }
            for side in SIDES[1:]
        },
    }


def _git() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=RESULTS.parent
    )
    return done.stdout.strip() or "unknown"


def main() -> None:
    """Measure, print a table, save it."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=int, nargs="+", default=[256], help="px, square (default: 256)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="per side and round")
    args = parser.parse_args()
    try:
        importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        print("bench: error: torch is not installed; run make bench", file=sys.stderr)
        raise SystemExit(2) from None
    results = []
    for size in args.size:
        found = measure(size, args.rounds, args.steps)
        results.append(found)
        print(f"{size} px, {args.rounds} rounds of {args.steps} steps, ms per image-step (min / median):")
        for side, t in found["ms_per_image_step"].items():
            ratio = found["ratio_of_jaxstyle"].get(side)
            text = f"   jaxstyle / this: {ratio['median']:.2f}" if ratio else ""
            print(f"  {side:22}{t['min']:8.1f} / {t['median']:8.1f}{text}")
    versions = {n: importlib.metadata.version(n) for n in ("jax", "jaxlib", "torch", "numpy", "jaxstyle")}
    record = {
        "command": "python -m bench " + " ".join(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": _git(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "versions": {"python": platform.python_version(), **versions},
        "results": results,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "step-cpu.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"saved {path}")
