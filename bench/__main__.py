"""`python -m bench` measures throughput on this device; for `bench NAME` see the module of that name."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from typing import NoReturn

from bench import (
    account,
    check,
    compiled,
    experiments,
    gpu,
    host,
    layers,
    look,
    optimizers,
    peers,
    precision,
    processes,
    profile,
    quality,
    scaling,
    steps,
    throughput,
)
from jaxstyle.console import limits

COMMANDS = {
    "throughput": throughput.main,
    "peers": peers.main,
    "precision": precision.main,
    "optimizers": optimizers.main,
    "quality": quality.main,
    "scaling": scaling.main,
    "host": host.main,
    "layers": layers.main,
    "account": account.main,
    "look": look.main,
    "steps": steps.main,
    "gpu": gpu.main,
    "check": check.main,
    "compiled": compiled.main,
    "profile": profile.main,
    "experiments": experiments.main,
}
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a benchmark to end."""


def _end(number: int, _: object) -> NoReturn:
    """End the children of this process, and then itself by an exception, so that files are put in order."""
    for child in multiprocessing.active_children():
        child.kill()
    raise SystemExit(128 + number)


def main() -> None:
    """Run the command that the first argument names, or throughput if it names none."""
    for ending in ENDING:
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as under nohup
            signal.signal(ending, _end)
    if (threads := limits.threads()) != limits.xla_threads():
        os.environ["NPROC"] = str(threads)  # as many as a sweep has
    first, *rest = sys.argv[1:] or ["throughput"]
    if first.startswith("-"):
        first, rest = "throughput", sys.argv[1:]
    if first not in COMMANDS:
        print(f"bench: error: no such benchmark: {first}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    try:
        COMMANDS[first](rest)
    except processes.TurnError as error:
        raise SystemExit(f"bench: error: {error}") from None


if __name__ == "__main__":
    main()
