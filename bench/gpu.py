"""Every measurement on a GPU, in one call, the most valuable first; `python -m bench gpu`.

Each stage is a separate benchmark with a time limit. It saves figures as soon as it has them, so that one
that is ended at its limit, or by a signal, keeps what it had. After each stage a page,
`bench/results/NAME.md`, combines them (`bench.gpu_page`); `--page` rebuilds it from the figures that exist.

The stages share a folder of compiled programs, so that each program is compiled and its algorithms are
chosen only once; the last stage measures what that saves.

Without a GPU nothing runs, except with `--platform cpu`, which tries the stages out. Their figures are kept
in the folder of the page in any case, and none of the other files in `bench/results` is touched.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench import gpu_page, processes, work
from jaxstyle.rundir.files import write_atomic

RESULTS = work.RESULTS


class Stage(NamedTuple):
    """One benchmark."""

    name: str
    arguments: str
    """Arguments of `python -m bench`."""
    minutes: float
    """Minutes after which it is ended."""


STAGES = (
    Stage("profile", "profile --size 512 --cells 16", 3),
    Stage("right", "check precision width", 4),
    Stage(
        "512 px",
        "throughput --size 512 --cells-size 512 --cells 1 16 64 256 --precision bf16 --seconds 2",
        4,
    ),
    Stage(
        "256 px",
        "throughput --size 256 --cells-size 256 --cells 1 16 64 256 --precision bf16 --seconds 2",
        4,
    ),
    Stage(
        "peers",
        "peers --size 512 --cells 16 --rounds 5 --steps 10"
        " --sides jaxstyle,f32 jaxstyle,tf32 jaxstyle,bf16 torch,NCHW torch,NCHW,tf32 torch,graphed",
        4,
    ),
    Stage(
        "default look",
        "throughput --size 512 256 --cells-size 512 256 --cells 1 16 64 --precision bf16 --seconds 2"
        " --default-look",
        5,
    ),
    Stage("borders", "experiments --default-look --only 0 20 21 22 --at-once 3", 4),
    Stage("experiments", "experiments --minutes 7 --at-once 3", 10),
    Stage(
        "sizes",
        "throughput --size 128 1024 --cells-size 128 1024 --cells 1 16 64 256 --precision bf16 --seconds 2",
        6,
    ),
    Stage(
        "precisions",
        "throughput --size 256 512 1024 --cells-size 512 --cells 16 64 --precision f32 tf32 --seconds 1",
        9,
    ),
    Stage("promises", "check bytes memory back-off kills", 9),
    Stage("all peers", "peers --size 512 --cells 16 --rounds 5 --steps 10", 6),
    Stage("bf16", "precision --size 256 --steps 1000 --pairs 4", 6),
    Stage("small profile", "profile --size 256 --cells 64", 2),
    Stage("small", "experiments --size 128 --cells 1 --only 0 9 10 --steps 200", 4),
    Stage("wide", "experiments --size 128 --cells 256 --only 0 14", 3),
    Stage(
        "second start",
        "throughput --size 512 --cells-size 512 --cells 16 --precision bf16 --seconds 1",
        3,
    ),
)
MINUTES = sum(stage.minutes for stage in STAGES)
"""Minutes after which all stages have ended."""


def run(stage: Stage, folder: Path, cache: Path, device: str) -> None:
    """Run a stage, keeping its log, its figures and the way it ended in `folder`."""
    figures, log = (gpu_page.path_of(folder, stage.name, ending) for ending in ("json", "log"))
    work.part_of(figures).unlink(missing_ok=True)
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONUNBUFFERED": "1"}
    environment["BENCH_SAVE"] = str(figures)
    environment["BENCH_COMMIT"] = (
        work.commit()
    )  # git calls a checkout changed where these are committed files
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    environment["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    print(f"\n== {stage.name}: python -m bench {stage.arguments}", flush=True)
    began, ended = time.monotonic(), "interrupted"
    try:
        command = [sys.executable, "-m", "bench", *stage.arguments.split()]
        code = processes.run_group(command, log, 60 * stage.minutes, environment)
        ended = "ended at its limit" if code is None else f"exit code {code}"
    finally:
        seconds = round(time.monotonic() - began)
        ledger = work.read(folder / gpu_page.LEDGER)
        ledger.pop(stage.name, None)  # the stage that ran last comes last
        ledger[stage.name] = {"ended": ended, "seconds": seconds, "device": device}
        ledger[stage.name] |= {"date": time.strftime("%Y-%m-%d"), "commit": work.commit()}
        write_atomic(folder / gpu_page.LEDGER, f"{json.dumps(ledger, indent=1)}\n".encode())
        told = log.read_text(errors="replace").splitlines()
        told = [line for line in told if not line.startswith(("W0", "I0", "E0"))]  # by XLA, with the date
        print("\n".join([*told[-60:], f"== {ended}, {seconds} s"]), flush=True)


def page(folder: Path) -> str:
    """The page that combines the figures of all stages in `folder`."""
    return gpu_page.page(folder, {stage.name: stage.arguments for stage in STAGES})


def main(arguments: Sequence[str]) -> None:
    """Run stages as long as there is time, writing the page after each."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=(__doc__ or "").split("\n")[0])
    names = [stage.name for stage in STAGES]
    parser.add_argument(
        "--stages", nargs="+", choices=names, default=names, help="these, in this order (default: all)"
    )
    parser.add_argument(
        "--minutes", type=float, default=120.0, help="start no stage whose limit would end later"
    )
    parser.add_argument("--name", default="gpu", help="name of the page and of the folder with the figures")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--cache", type=Path, help="folder of compiled programs to keep between calls")
    parser.add_argument(
        "--platform", default="gpu", choices=("gpu", "cpu"), help="cpu: try the stages out without a GPU"
    )
    args = parser.parse_args(arguments)
    folder, path = RESULTS / args.name, RESULTS / f"{args.name}.md"

    def write_page() -> None:
        if text := page(folder):
            write_atomic(path, text.encode())

    if args.page:
        write_page()
        print(f"saved {path}" if path.exists() else f"there are no figures in {folder}")
        return
    if args.platform == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    device = work.require_platform(args.platform)["kind"]
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.stages:
            (stage,) = (stage for stage in STAGES if stage.name == name)
            if stage.minutes > args.minutes - (time.monotonic() - began) / 60:
                print(f"no time for {name}, of up to {stage.minutes:g} minutes; --stages {name!r} runs it")
                continue
            try:
                run(stage, folder, args.cache or Path(temporary), device)
            finally:
                write_page()
    print(f"saved {path} and its figures in {folder}")
