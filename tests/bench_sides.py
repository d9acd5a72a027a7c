"""Sides of a comparison that stand in for whole programs; each runs in a process of its own.

`BENCH_TEST_LOG` names a file that gets a line for the beginning and the end of each side's start. A side
whose name, or the name of its variant, is in `BENCH_TEST_DIES` dies at the moment that is given there.
"""

import json
import os
import time

import numpy as np

from bench import experiments
from bench.work import Advanced

TAKES_S = 0.3


def _dies(name, moment):
    return json.loads(os.environ.get("BENCH_TEST_DIES", "{}")).get(name) == moment


def _tell(name, what):
    with open(os.environ["BENCH_TEST_LOG"], "a") as log:
        log.write(f"{what} {name}\n")


def _serve(pipe, name, first, answer):
    _tell(name, "begins")
    time.sleep(TAKES_S)
    _tell(name, "ends")
    if _dies(name, "start"):
        raise SystemExit
    pipe.send(first)
    asked = 0
    while True:
        steps, asked = pipe.recv(), asked + 1
        if _dies(name, f"answer {asked}"):
            raise SystemExit
        pipe.send(answer(steps))


def of_peers(pipe, name, size, cells, tuned):
    """Answer as a side of `bench peers`; "torch bf16" has a loss that is no number."""
    loss = float("nan") if name == "torch bf16" else 2.0
    _serve(pipe, name, np.ones((size, size, 3)), lambda steps: (loss, 0.01 * steps))


def of_experiments(pipe, number, size, cells, precision, default_look):
    """Answer as a form of the step in `bench experiments`; every variant takes twice as long as ours."""
    name = "ours" if number is None else experiments.VARIANTS[number].name
    each = 0.01 if number is None else 0.02
    _serve(pipe, name, 1.5, lambda steps: Advanced(2.0, each * steps))
