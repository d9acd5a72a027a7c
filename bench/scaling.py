"""How a run grows with workers, with devices of one process, and past this machine; `python -m bench scaling`.

Workers are processes of one thread each that compute and commit chunks into one run directory, as shares
and a cluster's workers do; rounds with one and with several of them alternate. Devices are XLA's virtual
ones of a single process: they show what the mesh costs, for they share the same cores. What a driver's
hands cost is measured through Ray, if it is installed, by calls that compute nothing.

From these a model: the time of a run is that of its chunks over its workers, or of whatever one process
alone does for every chunk, whichever is longer.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import work
from jaxstyle import config

EXAMPLES = config.EXAMPLES


def _sweep(size: int, steps: int, cells: int) -> Any:
    from jaxstyle.config import Sweep

    return config.resolve(
        Sweep(
            content=(str(EXAMPLES / "pagoda.jpg"),),
            style=(str(EXAMPLES / "cafe.jpg"),),
            size=str(size),
            steps=(steps,),
            seed=(f"0:{cells}",),
            optimizer="adam",
            checkpoint_every=1.0,
        )
    )


def _work(
    pipe: Any, number: int, threads: int, devices: int, size: int, steps: int, cells: int, out: str
) -> None:
    """Compute `cells` cells whenever told, until told to end; what each time took, and its stages."""
    os.environ["NPROC"] = str(threads)
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    from jaxstyle import cli, launches, planning, worker
    from jaxstyle.config import RunOptions
    from jaxstyle.progress import Display
    from jaxstyle.store import RunDirectory

    cli.keep_freed_memory()
    sweep = _sweep(size, steps, cells)
    inputs = launches.read_inputs(sweep)
    planning.start_jax(sweep, RunOptions())
    there = planning.devices(RunOptions())
    _, planned = planning.measured_plan(inputs, there)
    seconds: dict[str, float] = dict.fromkeys(
        ("compile_s", "targets_s", "compute_s", "lost_s", "host_s", "checkpoint_s", "store_s"), 0.0
    )
    path = Path(out) / f"worker{number}"
    path.mkdir()
    one = worker.Worker(
        inputs, planned.plan, there, RunDirectory(path), Display(quiet=True), seconds=seconds
    )
    blocks = worker.blocks(planned.plan, range(len(planned.plan.chunks)), len(there))
    one.commit(blocks[0], one.compute(blocks[0]))
    pipe.send(len(planned.plan.chunks))
    while pipe.recv():
        before, began, committing = dict(seconds), time.perf_counter(), 0.0
        for block in blocks:
            parts = one.compute(block)
            start = time.perf_counter()
            one.commit(block, parts)
            committing += time.perf_counter() - start
        spent = {name: seconds[name] - before[name] for name in seconds} | {"commit_s": committing}
        pipe.send((time.perf_counter() - began, spent))


class _Workers:
    """Processes that compute when told."""

    def __init__(self, count: int, threads: int, devices: int, arguments: argparse.Namespace, out: str):
        context = multiprocessing.get_context("spawn")
        self.pipes = []
        for number in range(count):
            mine, other = multiprocessing.Pipe()
            where = Path(out) / f"{count}-{threads}-{devices}"
            where.mkdir(exist_ok=True)
            values = number, threads, devices, arguments.size, arguments.steps, arguments.cells, str(where)
            context.Process(target=_work, args=(other, *values), daemon=True).start()
            other.close()
            self.pipes.append(mine)
        self.chunks = [pipe.recv() for pipe in self.pipes][0]

    def go(self, count: int) -> tuple[float, list[dict[str, float]]]:
        """Seconds until the first `count` of them have done their cells, and the stages of each."""
        began = time.perf_counter()
        for pipe in self.pipes[:count]:
            pipe.send(True)
        stages = [pipe.recv()[1] for pipe in self.pipes[:count]]
        return time.perf_counter() - began, stages

    def end(self) -> None:
        """Let them go."""
        for pipe in self.pipes:
            pipe.send(False)


def _median_ratio(a: Sequence[float], b: Sequence[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def _workers(arguments: argparse.Namespace, out: str) -> dict[str, Any]:
    """Cells a second of one and of several workers, round by round."""
    several = arguments.workers
    workers = _Workers(several, 1, 1, arguments, out)
    rates: dict[int, list[float]] = {1: [], several: []}
    stages: list[dict[str, float]] = []
    for number in range(arguments.rounds):
        for count in (1, several) if number % 2 == 0 else (several, 1):
            seconds, own = workers.go(count)
            rates[count].append(count * arguments.cells / seconds)
            stages += own if count == 1 else []
    workers.end()
    chunk = {name: statistics.median(s[name] for s in stages) / workers.chunks for name in stages[0]}
    return {
        "threads": 1,
        "chunks": workers.chunks,
        "cells_per_s": {str(count): own for count, own in rates.items()},
        "speedup": {str(several): _median_ratio(rates[several], rates[1])},
        "seconds_per_chunk": chunk,
        "seconds_per_cell": {name: s * workers.chunks / arguments.cells for name, s in chunk.items()},
    }


def _devices(arguments: argparse.Namespace, out: str) -> dict[str, Any]:
    """Cells a second of a process with one and with eight virtual devices, as many threads in all."""
    groups = {count: _Workers(1, 8, count, arguments, out) for count in (1, 8)}
    rates: dict[int, list[float]] = {count: [] for count in groups}
    for number in range(arguments.rounds):
        for count in groups if number % 2 == 0 else reversed(groups):
            seconds, _ = groups[count].go(1)
            rates[count].append(arguments.cells / seconds)
    for group in groups.values():
        group.end()
    return {
        "threads": 8,
        "cells_per_s": {str(count): own for count, own in rates.items()},
        "speedup": {"8": _median_ratio(rates[8], rates[1])},
    }


def _scheduling(calls: int) -> dict[str, Any]:
    """What a driver takes for each chunk that it hands out through Ray and takes back."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    from jaxstyle.worker import Block

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)

    class Nobody:
        def block(self, block: Block) -> tuple[Block, dict[str, float]]:
            return block, {"compute_s": 1.0}

    actors = [ray.remote(Nobody).options(num_cpus=1).remote() for _ in range(2)]
    block = Block((1,), (1,))
    ray.get([actor.block.remote(block) for actor in actors])  # pyright: ignore[reportAttributeAccessIssue]
    began, refs, done = time.perf_counter(), {}, 0
    for actor in actors:
        refs[actor.block.remote(block)] = actor  # pyright: ignore[reportAttributeAccessIssue]
    while done < calls:
        for ref in ray.wait(list(refs))[0]:
            actor = refs.pop(ref)
            ray.get(ref)
            done += 1
            refs[actor.block.remote(block)] = actor
    seconds = time.perf_counter() - began
    version = ray.__version__
    ray.shutdown()
    return {"ray": version, "calls": calls, "workers": 2, "seconds_per_chunk": seconds / calls}


def predictions(measured: dict[str, Any], host_s_per_cell: float) -> list[dict[str, Any]]:
    """What the model says of runs on many GPUs.

    A chunk is what a GPU at the nominal rate computes in a minute, or less; workers commit beside their
    computation, so that commits cost nothing until they take longer than a chunk's computation does.

    Args:
        measured: what `main` puts together.
        host_s_per_cell: what one process does for every cell after the run: tables and sheets.
    """
    from jaxstyle import grid, layers

    found = []
    flops = layers.evaluation_flops(256, 192, ("conv4_2",), layers.STYLE_LAYERS)
    for cells in (10_000, 100_000, 1_000_000):
        for gpus in (8, 64, 1000):
            cell_s = flops * 500 / grid.NOMINAL_FLOPS["gpu"]
            chunk_cells = max(64, min(int(60 / cell_s), cells // (32 * 64) * 64))
            chunks = -(-cells // chunk_cells)
            compute = cells * cell_s / gpus
            driver = chunks * measured["scheduling"].get("seconds_per_chunk", 0.0)
            commit = cells * measured["workers"]["seconds_per_cell"]["commit_s"] / gpus
            merge = cells * host_s_per_cell
            found.append(
                {
                    "cells": cells,
                    "gpus": gpus,
                    "chunks": chunks,
                    "compute_s": compute,
                    "commit_s": commit,
                    "driver_s": driver,
                    "merge_s": merge,
                    "run_s": max(compute, commit, driver),
                }
            )
    return found


def main(arguments: Sequence[str]) -> None:
    """`python -m bench scaling`."""
    parser = argparse.ArgumentParser(prog="python -m bench scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="beside one")
    parser.add_argument("--size", type=int, default=64, help="longest edge in px")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--cells", type=int, default=8, help="of each worker in each round")
    parser.add_argument("--calls", type=int, default=2000, help="of the scheduler")
    given = parser.parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with tempfile.TemporaryDirectory() as out:
        measured = {"device": work.device(), "settings": vars(given)}
        measured["workers"] = _workers(given, out)
        measured["devices"] = _devices(given, out)
    measured["scheduling"] = _scheduling(given.calls)
    host = work.RESULTS / "host-cpu.json"
    merge = json.loads(host.read_text())["after_s_per_cell"] if host.exists() else 0.0
    measured["predictions"] = predictions(measured, merge)
    for name in ("workers", "devices"):
        own = measured[name]
        print(f"{name}, {own['threads']} threads: cells/s")
        for count, rates in own["cells_per_s"].items():
            print(
                f"  {count}: median {statistics.median(rates):.3f}  {' '.join(f'{r:.3f}' for r in rates)}"
            )
        print(f"  times one: {own['speedup']}")
    print(f"a chunk takes {measured['workers']['seconds_per_chunk']}")
    print(f"scheduling: {measured['scheduling']}")
    for row in measured["predictions"]:
        print("  ".join(f"{k} {v:.5g}" for k, v in row.items()))
    path = work.save("scaling", arguments, "cpu", measured)
    print(f"written to {path}")
