"""Scaling of a run with workers, with devices of one process, and beyond this machine.

Workers are single-threaded processes that compute and commit their share of one plan into one run
directory, as `--shard` and a cluster's workers do; rounds with one and with several of them alternate.
Devices are XLA's virtual ones in a single process: they share the same cores, and so show the overhead of
having several. A driver's cost per chunk is measured through Ray, if it is installed, by calls that compute
nothing. The host's work for a cell of the predicted size is measured by `bench.host`.

A model follows from these. A run takes as long as the slowest of

    compute    chunks, in the plan's order, each on the GPU that is free first
    commit     cells x commit_s / GPUs, beside the computation, so that only the longer of the two counts
    driver     chunks x take_s, by the one process that hands out and takes back every chunk

and then `after_s`: tables, sheets and page, by one process.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import host, processes, work

if TYPE_CHECKING:
    from jaxstyle.spec.settings import Sweep

STAGES = ("compile_s", "targets_s", "compute_s", "lost_s", "host_s", "checkpoint_s", "store_s")
GPUS = (8, 64, 1000)
CELLS = (10_000, 100_000, 1_000_000)
SIZE_PX, STEPS = 256, 500
"""Size and steps of the cells that are predicted."""
GPU_BYTES = 80 * 10**9
"""Memory of one GPU."""
STORE_CELLS = 1_000
"""Number of cells of the predicted size that are stored and merged to measure what that takes."""
CALLS_PER_WORKER = 3
"""Most answers that a driver awaits from a worker: two chunks, and its progress."""


class _Silence:
    """A `progress.Teller` that keeps nothing."""

    def event(self, name: str, line: str | None = None, **values: Any) -> None:
        """Something happened."""

    def advance(self, image_steps: float, cost: float | None = None, steps: float | None = None) -> None:
        """Image-steps have been done."""

    def skip(self, image_steps: float, cost: float | None = None) -> None:
        """Image-steps need not be done."""


def _sweep(size: int, steps: int, cells: int) -> Sweep:
    """A sweep of `cells` seeds of one picture, by plain Adam steps, without checkpoints within a chunk."""
    from jaxstyle.spec.resolve import resolve

    return resolve(
        Sweep(
            content=(str(work.EXAMPLES / "pagoda.jpg"),),
            style=(str(work.EXAMPLES / "cafe.jpg"),),
            alpha_beta=(1e-3,),
            size=str(size),
            steps=(steps,),
            seed=(f"0:{cells}",),
            optimizer="adam",
            max_cells=cells,
        )
    )


# --- workers and devices --------------------------------------------------------------------------


def _work(pipe: Any, threads: int, devices: int, size: int, steps: int, cells: int, out: Path) -> None:
    """Until told None: told I and N, compute and commit share I of N and send the time of each stage."""
    os.environ |= {  # before anything imports JAX
        "JAX_PLATFORMS": "cpu",
        "NPROC": str(threads),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    from jaxstyle.console import allocator
    from jaxstyle.run import planning, worker
    from jaxstyle.run.inputs import read_inputs
    from jaxstyle.run.start_jax import start_jax, usable_devices
    from jaxstyle.run.work import blocks
    from jaxstyle.rundir.directory import RunDirectory
    from jaxstyle.spec.settings import RunOptions
    from jaxstyle.spec.shares import Share

    allocator.keep_freed_memory()
    sweep = _sweep(size, steps, cells)
    inputs = read_inputs(sweep)
    start_jax(sweep, RunOptions())
    there = usable_devices(RunOptions())
    assert len(there) == devices
    _, planned = planning.measured_plan(inputs, there)
    plan = planned.plan
    seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
    one = worker.Worker(inputs, plan, there, RunDirectory(out), _Silence(), seconds=seconds)
    first = blocks(plan, range(len(plan.chunks)), devices)[0]
    one.commit(first, one.compute(first))
    pipe.send([len(chunk.cells) for chunk in plan.chunks])
    while (told := pipe.recv()) is not None:
        before, commit_s, cpu_s = dict(seconds), 0.0, time.process_time()
        index, count = told
        mine = planning.chunks_of_share(plan, Share(index, count, "bench"), "cpu")
        for block in blocks(plan, mine, devices):
            parts = one.compute(block)
            began = time.perf_counter()
            one.commit(block, parts)
            commit_s += time.perf_counter() - began
        spent = {name: seconds[name] - before[name] for name in STAGES}
        pipe.send(spent | {"commit_s": commit_s, "cpu_s": time.process_time() - cpu_s})


class _Workers:
    """Processes that compute shares of one run on request."""

    def __init__(self, count: int, threads: int, devices: int, given: argparse.Namespace, out: Path):
        context = multiprocessing.get_context("spawn")
        out.mkdir()
        self._pipes, self._processes = [], []
        for _ in range(count):
            mine, other = multiprocessing.Pipe()
            values = other, threads, devices, given.size, given.steps, given.cells, out
            process = context.Process(target=_work, args=values, daemon=True)
            process.start()
            other.close()
            self._pipes.append(mine)
            self._processes.append(process)
        self.chunk_cells: list[int] = [self._told(pipe) for pipe in self._pipes][-1]

    def _told(self, pipe: Any) -> Any:
        try:
            return pipe.recv()
        except EOFError:
            raise SystemExit("bench: error: a worker died; its output is above") from None

    def run(self, count: int) -> tuple[float, list[dict[str, float]]]:
        """Seconds that the first `count` processes take for the run, a share each, and their stages."""
        began = time.perf_counter()
        for index, pipe in enumerate(self._pipes[:count]):
            pipe.send((index, count))
        stages = [self._told(pipe) for pipe in self._pipes[:count]]
        return time.perf_counter() - began, stages

    def end(self) -> None:
        """End the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send(None)
            process.join()


@contextmanager
def _started(*arguments: Any) -> Iterator[_Workers]:
    workers = _Workers(*arguments)
    try:
        yield workers
    finally:
        workers.end()


def _alternating(counts: Sequence[int], rounds: int) -> Iterator[int]:
    """The counts, reversed in every second round."""
    for number in range(rounds):
        yield from counts if number % 2 == 0 else reversed(counts)


def _compared(cells: int, seconds: Mapping[int, list[float]]) -> dict[str, Any]:
    """Cells a second of the first count and of the others, and the ratios of the others to the first."""
    one, *others = seconds
    return {
        "cells": cells,
        "seconds": {str(count): own for count, own in seconds.items()},
        "cells_per_s": {str(count): cells / statistics.median(own) for count, own in seconds.items()},
        "speedup": {
            str(count): statistics.median(x / y for x, y in zip(seconds[one], seconds[count], strict=True))
            for count in others
        },
    }


def workers(given: argparse.Namespace, out: Path) -> dict[str, Any]:
    """One worker beside several, one thread each, for the same run, and the model's prediction of several.

    Where a worker's seconds exceed its processor seconds, other processes had the cores.
    """
    several = given.workers
    seconds: dict[int, list[float]] = {1: [], several: []}
    cpu_s: dict[int, list[float]] = {1: [], several: []}
    stages: list[dict[str, float]] = []
    with _started(several, 1, 1, given, out / "workers") as started:
        chunk_cells = started.chunk_cells
        for count in _alternating((1, several), given.rounds):
            wall, own = started.run(count)
            seconds[count].append(wall)
            cpu_s[count].append(sum(s["cpu_s"] for s in own))
            print(f"workers {count}: {wall:.2f} s, {cpu_s[count][-1]:.2f} s of processors", flush=True)
            stages += own if count == 1 else []
    spent = {name: statistics.median(s[name] for s in stages) for name in stages[0]}
    cell_s = statistics.median(seconds[1]) / given.cells
    predicted = makespan([n * cell_s for n in chunk_cells], several)
    measured = statistics.median(seconds[several])
    return {
        "threads_each": 1,
        "chunks": len(chunk_cells),
        **_compared(given.cells, seconds),
        "cpu_seconds": {str(count): own for count, own in cpu_s.items()},
        "seconds_per_chunk": {name: value / len(chunk_cells) for name, value in spent.items() if value},
        "seconds_per_cell": {name: value / given.cells for name, value in spent.items() if value},
        "predicted": {
            "seconds": predicted,
            "measured": measured,
            "predicted_over_measured": predicted / measured,
        },
    }


def devices(given: argparse.Namespace, out: Path) -> dict[str, Any]:
    """One process with one and with eight virtual devices, and the same total number of threads."""
    seconds: dict[int, list[float]] = {1: [], 8: []}
    with _started(1, 8, 1, given, out / "one") as one, _started(1, 8, 8, given, out / "eight") as eight:
        for count in _alternating((1, 8), given.rounds):
            wall, _ = (one if count == 1 else eight).run(1)
            seconds[count].append(wall)
            print(f"devices {count}: {wall:.2f} s", flush=True)
    return {"threads": 8, **_compared(given.cells, seconds)}


# --- the driver of a cluster ----------------------------------------------------------------------


def scheduling(calls: int) -> dict[str, Any]:
    """A driver's time for each call that it makes and takes back, by the number of calls that it awaits.

    The two workers, which compute nothing, and Ray's own processes share this machine's cores with the
    driver, so this is an upper bound.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    from jaxstyle.run.work import Block

    class Nobody:
        def block(self, block: Block) -> tuple[Block, dict[str, float]]:
            return block, dict.fromkeys(STAGES, 1.0)

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    remote: Any = ray.remote(Nobody)
    actors = [remote.options(num_cpus=1).remote() for _ in range(2)]
    block = Block((1,), (1,))
    ray.get([actor.block.remote(block) for actor in actors])
    take_s: dict[str, float] = {}
    for gpus in GPUS:
        refs = {}
        for i in range(CALLS_PER_WORKER * gpus):
            actor = actors[i % 2]
            refs[actor.block.remote(block)] = actor
        began = time.perf_counter()
        for _ in range(calls):
            ref = ray.wait(list(refs))[0][0]
            actor = refs.pop(ref)
            ray.get(ref)
            refs[actor.block.remote(block)] = actor
        take_s[str(gpus)] = (time.perf_counter() - began) / calls
        ray.get(list(refs))
    found = {"ray": ray.__version__, "calls": calls, "awaited_per_gpu": CALLS_PER_WORKER, "take_s": take_s}
    ray.shutdown()
    return found


# --- the host's work for a cell of the predicted size ---------------------------------------------


def _simulate(pipe: Any, folder: Path) -> None:
    host.EDGE_PX = SIZE_PX
    pipe.send(host.simulate(STORE_CELLS, folder, "gpu", STEPS))


def stored() -> dict[str, Any]:
    """The host's time to write and merge a cell of the predicted size.

    `run_bytes` counts chunks and pictures, without the files that are derived from them in the end.
    """
    with tempfile.TemporaryDirectory(prefix="jaxstyle-scaling-") as folder:
        row = processes.in_process(_simulate, Path(folder))
    per_cell = {name: value / row["cells"] for name, value in row["seconds"].items()}
    return {
        "cells": row["cells"],
        "edge_px": SIZE_PX,
        "steps": STEPS,
        "disk_bytes_per_cell": row["disk_bytes"] / row["cells"],
        "run_bytes_per_cell": (row["disk_bytes"] - sum(row["file_bytes"].values())) / row["cells"],
        "seconds_per_cell": {
            name: per_cell[name] for name in ("results_s", "commit_s", "pngs_s", "merge_s")
        },
    }


def after(cells: int, stored: Mapping[str, Any], host_row: Mapping[str, Any]) -> dict[str, float]:
    """The work of one process once all chunks are there.

    Args:
        cells: number of cells of the run.
        stored: from `stored`; the time to merge depends on the bytes of a cell.
        host_row: the last row of `bench.host`, for sheets and page, which show a bounded number of cells,
            and for rows of tables, which do not depend on the size of pictures.
    """
    seconds = host_row["seconds"]
    return {
        "merge_s": cells * stored["seconds_per_cell"]["merge_s"],
        "tables_s": cells * (seconds["rows_s"] + seconds["csv_s"]) / host_row["cells"],
        "pages_s": seconds["sheets_s"] + seconds["page_s"],
    }


# --- the model ------------------------------------------------------------------------------------


def makespan(costs: Iterable[float], workers: int) -> float:
    """The end of the last of several jobs, each taken in turn by the worker that is free first."""
    free = [0.0] * workers
    for cost in costs:
        heapq.heapreplace(free, free[0] + cost)
    return max(free)


def predictions(
    take_s: Mapping[str, float], stored: Mapping[str, Any], host_row: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Predictions of runs on many GPUs of the nominal rate, with the real planner's chunks."""
    from jaxstyle.device.memory import choose_width, planned_memory
    from jaxstyle.plan.cells import sweep_cells
    from jaxstyle.plan.nominal_rates import NOMINAL_FLOPS
    from jaxstyle.plan.planner import make_plan
    from jaxstyle.plan.programs import Program

    per_cell = stored["seconds_per_cell"]
    commit_s = per_cell["results_s"] + per_cell["commit_s"] + per_cell["pngs_s"]
    for count in CELLS:
        sweep = _sweep(SIZE_PX, STEPS, count)
        cells = sweep_cells(sweep)
        for gpus in GPUS:

            def width(program: Program, cells: int, gpus: int = gpus) -> int:
                memory = planned_memory(program, winograd=False)
                choose = functools.partial(choose_width, platform="gpu", memory=memory)
                return choose(program, cells, available=GPU_BYTES, devices=gpus)

            plan = make_plan(
                sweep, cells, {cells[0].content: (SIZE_PX, SIZE_PX)}, platform="gpu", choose_width=width
            )
            program = plan.programs[0]
            launch_s = program.width * program.cell_flops(STEPS) / NOMINAL_FLOPS["gpu"]
            costs = [-(-len(chunk.cells) // program.width) * launch_s for chunk in plan.chunks]
            compute = makespan(costs, gpus)
            even = count * program.cell_flops(STEPS) / NOMINAL_FLOPS["gpu"] / gpus
            take = take_s.get(str(gpus), 0.0)
            run = max(compute, count * commit_s / gpus, len(costs) * take)
            ending = after(count, stored, host_row)
            yield {
                "cells": count,
                "gpus": gpus,
                "width": program.width,
                "chunks": len(costs),
                "compute_s": compute,
                "efficiency": even / compute,
                "commit_s": count * commit_s / gpus,
                "driver_s": len(costs) * take,
                "driver_round_s": CALLS_PER_WORKER * gpus * take,
                "collect_s": count * (per_cell["commit_s"] + per_cell["pngs_s"]),
                "run_s": run,
                "pictures_per_s": count / run,
                "bytes_per_s": count * stored["run_bytes_per_cell"] / run,
                **ending,
                "after_s": sum(ending.values()),
                "all_s": run + sum(ending.values()),
            }


def _print(measured: Mapping[str, Any]) -> None:
    for name in ("workers", "devices"):
        own = measured[name]
        for count, seconds in own["seconds"].items():
            rounds = " ".join(f"{s:.2f}" for s in seconds)
            print(
                f"{name} {count}: {own['cells_per_s'][count]:.3f} cells/s; {own['cells']} took {rounds} s"
            )
        print(f"{name}: times one {own['speedup']}")
    for name in ("seconds_per_chunk", "seconds_per_cell", "predicted"):
        print(f"{name}: {measured['workers'][name]}")
    print(f"scheduling: {measured['scheduling']}")
    print(f"stored: {measured['stored']}")
    for row in measured["predictions"]:
        print("  ".join(f"{name} {value:.5g}" for name, value in row.items()))


def main(arguments: Sequence[str]) -> None:
    """Measure and predict scaling, print tables, save them."""
    parser = argparse.ArgumentParser(
        prog="python -m bench scaling", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="number of workers to compare with one")
    parser.add_argument("--size", type=int, default=64, help="longest edge in px")
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--cells", type=int, default=8, help="cells of the run that every round computes")
    parser.add_argument("--calls", type=int, default=2000, help="calls that the driver makes")
    parser.add_argument("--out", type=Path, help="the file to save (default: in bench/results)")
    given = parser.parse_args(arguments)
    measured: dict[str, Any] = {"load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="jaxstyle-scaling-") as out:
        measured["workers"] = workers(given, Path(out))
        measured["devices"] = devices(given, Path(out))
    measured["scheduling"] = scheduling(given.calls)
    measured["stored"] = stored()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    host_row = json.loads((work.RESULTS / "host-cpu.json").read_text())["rows"][-1]
    take_s = measured["scheduling"].get("take_s", {})
    measured["predictions"] = list(predictions(take_s, measured["stored"], host_row))
    settings = {name: value for name, value in vars(given).items() if name != "out"}
    measured = {"device": work.device(), "settings": settings, **measured}
    _print(measured)
    print(f"saved {work.save('scaling', arguments, 'cpu', measured, path=given.out)}")
