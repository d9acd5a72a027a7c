"""Throughput on this device, by size, number of cells and precision; `python -m bench`.

Every size and precision runs in its own process, so that its peak memory and compile time are its own. A
program that was found in JAX's cache of compiled programs is marked. FLOPs are those of direct convolution
and its input gradient, and of the Gram matrices and theirs; Winograd's algorithm computes the same with
fewer, so its share of the matmul ceiling may exceed 1.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import sys
import time
from collections.abc import Generator, Sequence
from typing import Any

from bench import processes, work

SIZES = (128, 192, 256, 320, 384, 448, 512)
CELLS = (1, 2, 4, 8, 16, 32, 64)
CALL_S = 0.3
"""Seconds that one call should take where a step is short."""


def _ceiling(pipe: Any, precision: str) -> None:
    """Answer every message with the matmul ceiling of that moment, in FLOP/s.

    Runs in a process of its own, whose matrices are no part of the memory that is measured in the other.
    """
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the other has most of a GPU's memory
    import jax

    cpu = jax.devices()[0].platform == "cpu"
    pipe.send(None)
    while True:
        pipe.recv()
        edge, repeats = (2048, 1) if cpu else (8192, 10)
        pipe.send(work.matmul_ceiling(precision, edge, repeats=repeats))


def _measure(pipe: Any, size: int, precision: str, seconds: float, default_look: bool) -> None:
    """Answer each number of cells with what was measured; runs in a process of its own."""
    from jaxstyle.console import allocator

    allocator.keep_freed_memory()
    import jax

    from jaxstyle.device.memory import can_tf32, is_out_of_memory

    if precision == "tf32" and not can_tf32(jax.devices()[0]):
        raise SystemExit("bench: error: this device has no tf32")
    pipe.send(None)
    while True:
        try:
            pipe.send(_timed(size, pipe.recv(), precision, seconds, default_look))
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            pipe.send({"over_memory": True})


def _timed(size: int, count: int, precision: str, seconds: float, default_look: bool) -> dict[str, Any]:
    """The times, the memory and the work of the steps of some cells."""
    import jax

    from jaxstyle.device import drive

    device = jax.devices()[0]
    job = work.Work(size, count, precision, default_look=default_look)
    job.advance(1)
    # Steps that one call takes: so many that the call is no part of what is timed.
    many = 1 if device.platform == "cpu" else math.ceil(CALL_S / job.advance(2).seconds * 2)
    steps = min(many, drive.SEGMENT_PASSES)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 2 or (time.perf_counter() - began < seconds and len(times) < 50):
        times.append(job.advance(steps).seconds / steps)
    step_s, flops = statistics.median(times), count * job.program.step_flops
    return {
        "width": job.program.width,
        "ms_per_image_step": {"min": 1e3 * min(times) / count, "median": 1e3 * step_s / count},
        "steps_measured": steps * len(times),
        "image_steps_per_s": count / step_s,
        "tflops": flops / step_s / 1e12,
        "program_bytes": job.compiled.device_bytes,
        "peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use") or work.peak_rss(),
        "compile_s": job.compiled.compile_s,
        "from_cache": job.from_cache,
    }


def measure(
    size: int,
    precision: str,
    cells: Sequence[int],
    seconds: float,
    *,
    alone: bool = False,
    default_look: bool = False,
) -> Generator[dict[str, Any]]:
    """A row for every number of cells, ascending, as soon as it is measured.

    A row without figures has `over_memory`, or `failed` with the reason.

    Args:
        size: edge of the images in px.
        precision: as in `--precision`.
        cells: numbers of cells, ascending.
        seconds: seconds per row, at least two steps.
        alone: whether only one process can have the device; the ceiling is then measured once, before.
        default_look: see `work.Work`.
    """
    about = {"size": size, "precision": precision}
    left = list(cells)
    turns: list[processes.Turn] = []
    try:
        turns.append(ceiling := processes.Turn(_ceiling, "the matmul ceiling", precision))
        ceiling.ready()
        before = ceiling.run(None)
        if alone:
            ceiling.end()
        name = f"the {size} px {precision} steps"
        turns.append(steps := processes.Turn(_measure, name, size, precision, seconds, default_look))
        steps.ready()
        while left:
            row = steps.run(left[0])
            if "over_memory" in row:
                yield from ({**about, "cells": count, **row} for count in left)
                return
            after = before if alone else ceiling.run(None)
            most, before = max(before, after) / 1e12, after
            row |= {"ceiling_tflops": most, "share_of_ceiling": row["tflops"] / most}
            yield {**about, "cells": left.pop(0), **row}
    except processes.TurnError as error:
        yield from ({**about, "cells": count, "failed": str(error)} for count in left)
    finally:
        for turn in turns:
            turn.end()


def is_measured(row: dict[str, Any]) -> bool:
    """Whether a row has figures."""
    return not row.get("over_memory") and "failed" not in row


def _line(row: dict[str, Any]) -> str:
    if not is_measured(row):
        why = row.get("failed", "over memory")
        return f"{row['size']:5} {row['precision']:>5} {row['cells']:6}  {why}"
    return (
        f"{row['size']:5} {row['precision']:>5} {row['cells']:6} {row['ms_per_image_step']['median']:9.3f}"
        f" {row['image_steps_per_s']:8.2f} {row['tflops']:8.3f} {row['share_of_ceiling']:8.2f}"
        f" {row['peak_bytes'] / 1e6:9.0f} {row['compile_s']:8.1f}"
        f"{' from the cache' if row['from_cache'] else ''}"
    )


HEAD = " size  prec  cells    ms/img  image/s  TFLOP/s  of peak   peak MB  compile"


def plot(rows: Sequence[dict[str, Any]], title: str, path: Any) -> None:
    """Plot the cost of a step by cells and of an image-step by pixels; a straight line means linear."""
    import matplotlib  # pyright: ignore[reportMissingImports]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # pyright: ignore[reportMissingImports]

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for precision in dict.fromkeys(row["precision"] for row in rows):
        own = [row for row in rows if row["precision"] == precision]
        sizes = sorted({row["size"] for row in own})
        widest = max(sizes, key=lambda s: sum(row["size"] == s for row in own))
        for axis, x, part in (
            (left, lambda r: r["cells"], [row for row in own if row["size"] == widest]),
            (right, lambda r: r["size"] ** 2 / 1e3, [row for row in own if row["cells"] == 1]),
        ):
            if not part:
                continue
            part.sort(key=x)
            scale = [r["cells"] * r["ms_per_image_step"]["median"] / 1e3 for r in part]
            (line,) = axis.plot([x(r) for r in part], scale, "o-", label=f"{precision}")
            axis.plot(
                [0, x(part[-1])], [0, scale[-1]], ":", color=line.get_color(), linewidth=1, label="_linear"
            )
        left.set_title(f"one step of all cells, {widest} px")
    left.set(xlabel="cells", ylabel="seconds")
    right.set(xlabel="thousand pixels", ylabel="seconds", title="one image-step, one cell")
    for axis in (left, right):
        axis.set(xlim=0, ylim=0)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str]) -> None:
    """Measure, print a table, save it and draw it."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=int, nargs="+", default=list(SIZES), help="px, square")
    parser.add_argument(
        "--cells",
        type=int,
        nargs="+",
        default=list(CELLS),
        help="numbers of cells at the size of --cells-size",
    )
    parser.add_argument(
        "--cells-size",
        type=int,
        nargs="+",
        default=[256],
        help="px at which cells vary; one cell elsewhere",
    )
    parser.add_argument("--precision", nargs="+", default=["f32", "bf16"], choices=("f32", "tf32", "bf16"))
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds per row, at least two steps")
    parser.add_argument("--default-look", action="store_true", help=work.DEFAULT_LOOK_HELP)
    args = parser.parse_args(arguments)
    about = processes.in_process(work.tell_device)
    rows: list[dict[str, Any]] = []
    values = {"device": about, "rows": rows}
    print(HEAD)
    for precision in args.precision:
        for size in args.size:
            cells = sorted(set(args.cells)) if size in args.cells_size else [1]
            alone = about["platform"] == "tpu"
            rounds = measure(
                size, precision, cells, args.seconds, alone=alone, default_look=args.default_look
            )
            with contextlib.closing(rounds) as found:
                for row in found:
                    rows.append(row)
                    print(_line(row), flush=True)
                    work.save("throughput", arguments, about["platform"], values, complete=False)
    path = work.save("throughput", arguments, about["platform"], values)
    print(f"saved {path}")
    try:
        where = f"{about['cpu']}, {about['cores']} cores" if about["platform"] == "cpu" else about["kind"]
        plot(list(filter(is_measured, rows)), f"jaxstyle on {where}", path.with_suffix(".png"))
        print(f"saved {path.with_suffix('.png')}")
    except ImportError:
        print("bench: matplotlib is not installed: no plot", file=sys.stderr)
    if any("failed" in row for row in rows):
        raise SystemExit(1)
