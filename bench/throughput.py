"""Throughput on this device, by size, number of cells and precision; `python -m bench`.

Every size and precision runs in its own process, so that its peak memory and compile time are its own.
The persistent cache of compiled programs is not used. FLOPs are those of direct convolution and its
input gradient, and of the Gram matrices and theirs; Winograd's algorithm computes the same with fewer, so
its share of the matmul ceiling may exceed 1.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench import work

SIZES = (128, 192, 256, 320, 384, 448, 512)
CELLS = (1, 2, 4, 8, 16, 32, 64)
CALL_S = 0.3
"""Seconds that one call should take where a step is short."""
CEILING_EDGE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}


def _measure(pipe: Any, size: int, precision: str, cells: Sequence[int], seconds: float) -> None:
    """Send a row for every number of cells, ascending; runs in a process of its own."""
    from jaxstyle.console import allocator
    from jaxstyle.plan.costs import nominal_platform

    allocator.keep_freed_memory()
    import jax

    from jaxstyle.device import drive
    from jaxstyle.device.memory import can_tf32, is_out_of_memory

    if precision == "tf32" and not can_tf32(jax.devices()[0]):
        raise SystemExit("bench: error: this device has no tf32")
    platform = nominal_platform(jax.devices()[0].platform)

    def ceiling_now() -> float:
        return work.matmul_ceiling(
            precision, CEILING_EDGE[platform], repeats=1 if platform == "cpu" else 10
        )

    for count in cells:
        ceiling = ceiling_now()
        try:
            job = work.Work(size, count, precision)
            job.advance(1)
            # Steps that one call takes: so many that the call is no part of what is timed.
            many = 1 if platform == "cpu" else math.ceil(CALL_S / job.advance(2).seconds * 2)
            steps = min(many, drive.SEGMENT_PASSES)
            times: list[float] = []
            began = time.perf_counter()
            while len(times) < 2 or (time.perf_counter() - began < seconds and len(times) < 50):
                times.append(job.advance(steps).seconds / steps)
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            over = [n for n in cells if n >= count]
            for n in over:
                pipe.send({"size": size, "precision": precision, "cells": n, "over_memory": True})
            break
        ceiling = max(ceiling, ceiling_now())
        step_s = statistics.median(times)
        flops = count * job.program.step_flops
        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        compiled, program = job.compiled, job.program
        del job  # before the next one is there
        pipe.send(
            {
                "size": size,
                "precision": precision,
                "cells": count,
                "width": program.width,
                "ms_per_image_step": {"min": 1e3 * min(times) / count, "median": 1e3 * step_s / count},
                "steps_measured": steps * len(times),
                "image_steps_per_s": count / step_s,
                "tflops": flops / step_s / 1e12,
                "ceiling_tflops": ceiling / 1e12,
                "share_of_ceiling": flops / step_s / ceiling,
                "program_bytes": compiled.device_bytes,
                "peak_bytes": peak or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                "compile_s": compiled.compile_s,
            }
        )
    pipe.send(work.device())


def measure(size: int, precision: str, cells: Sequence[int], seconds: float) -> tuple[list[Any], Any]:
    """Rows for every number of cells at a size and precision, and the device."""
    mine, other = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_measure, args=(other, size, precision, cells, seconds))
    process.start()
    other.close()
    try:
        rows = [mine.recv() for _ in cells]
        return rows, mine.recv()
    except EOFError:
        raise SystemExit(f"bench: error: the {size} px {precision} process died") from None
    finally:
        process.join()


def _line(row: dict[str, Any]) -> str:
    if row.get("over_memory"):
        return f"{row['size']:5} {row['precision']:>5} {row['cells']:6}  over memory"
    return (
        f"{row['size']:5} {row['precision']:>5} {row['cells']:6} {row['ms_per_image_step']['median']:9.3f}"
        f" {row['image_steps_per_s']:8.2f} {row['tflops']:8.3f} {row['share_of_ceiling']:8.2f}"
        f" {row['peak_bytes'] / 1e6:9.0f} {row['compile_s']:8.1f}"
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
    args = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    print(HEAD)
    for precision in args.precision:
        for size in args.size:
            cells = sorted(set(args.cells)) if size in args.cells_size else [1]
            found, about = measure(size, precision, cells, args.seconds)
            for row in found:
                print(_line(row), flush=True)
            rows += found
    path = work.save("throughput", arguments, about["platform"], {"device": about, "rows": rows})
    rows = [row for row in rows if not row.get("over_memory")]
    print(f"saved {path}")
    try:
        where = f"{about['cpu']}, {about['cores']} cores" if about["platform"] == "cpu" else about["kind"]
        plot(rows, f"jaxstyle on {where}", path.with_suffix(".png"))
        print(f"saved {path.with_suffix('.png')}")
    except ImportError:
        print("bench: matplotlib is not installed: no plot", file=sys.stderr)
