"""What a step of a texture costs by the depth of its layers; `python -m bench layers`.

All sets take turns in one process, in every round each, and what counts is the ratio within a round to
the first set, beside the ratio of their FLOPs. Processor time, in which other programs on the machine count
for less, is measured beside the time on the clock; on a GPU only the latter means something.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

from bench import work

SETS = ("upto:conv5_1", "upto:pool4", "upto:pool3", "upto:pool2")
"""The first is that of a transfer."""


def measure(size: int, sets: Sequence[str], *, precision: str, rounds: int, steps: int) -> list[Any]:
    """A row for every set: its time per step, its FLOPs, and the ratios of both to the first set's."""
    from jaxstyle.console import allocator

    allocator.keep_freed_memory()
    jobs = {name: work.Work(size, 1, precision, texture=name) for name in sets}
    for job in jobs.values():
        job.advance(2)
    clock: dict[str, list[float]] = {name: [] for name in sets}
    processor: dict[str, list[float]] = {name: [] for name in sets}
    for index in range(rounds):
        for name in sets if index % 2 == 0 else sets[::-1]:
            before = time.process_time()
            clock[name].append(1e3 * jobs[name].advance(steps).seconds / steps)
            processor[name].append(1e3 * (time.process_time() - before) / steps)

    def ratio(times: dict[str, list[float]], name: str) -> float:
        return statistics.median(a / b for a, b in zip(times[name], times[sets[0]], strict=True))

    flops = {name: job.program.step_flops for name, job in jobs.items()}
    return [
        {
            "size": size,
            "precision": precision,
            "layers": name,
            "rounds": rounds,
            "gflop": flops[name] / 1e9,
            "ms": {"min": min(clock[name]), "median": statistics.median(clock[name])},
            "processor_ms": {"min": min(processor[name]), "median": statistics.median(processor[name])},
            "flops_of_first": flops[name] / flops[sets[0]],
            "time_of_first": ratio(clock, name),
            "processor_time_of_first": ratio(processor, name),
        }
        for name in sets
    ]


HEAD = " size  layers            GFLOP       ms  processor ms   of the first:  FLOPs  time  processor time"


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['size']:5}  {row['layers']:15} {row['gflop']:7.1f} {row['ms']['median']:8.1f}"
        f" {row['processor_ms']['median']:13.1f} {row['flops_of_first']:22.2f}"
        f" {row['time_of_first']:5.2f} {row['processor_time_of_first']:15.2f}"
    )


def main(arguments: Sequence[str]) -> None:
    """Measure, print a table, save it."""
    parser = argparse.ArgumentParser(
        prog="python -m bench layers", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--size", type=int, nargs="+", default=[256], help="px, square (default: 256)")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="as in --style-layers")
    parser.add_argument("--precision", default="f32", choices=("f32", "tf32", "bf16"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="steps per set and round")
    args = parser.parse_args(arguments)
    rows: list[Any] = []
    print(HEAD)
    for size in args.size:
        found = measure(size, args.sets, precision=args.precision, rounds=args.rounds, steps=args.steps)
        print("\n".join(map(_line, found)), flush=True)
        rows += found
    about = work.device()
    path = work.save("layers", arguments, about["platform"], {"device": about, "rows": rows})
    print(f"saved {path}")
