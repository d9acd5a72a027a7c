"""Whether a device computes correctly, to be checked before it is timed; `python -m bench check`.

    precision   loss and gradient in every precision, on real weights and images, against float64
    width       cells of one launch against the same cells alone
    bytes       --deterministic: two processes, and another order of the grid, to the bit
    memory      the peak of a run against the memory of its launches by the compiler's account
    back-off    a launch too wide for the allocator's memory continues at half the width
    kills       a killed run resumes to the same bytes (`python -m tests.torture`)

Every check has its own processes. A finding is a number and the limit that it must not exceed; a check that
ends in an error is a finding that is not right, and the others go on.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import processes, work

PAIRS = (("astronaut", "brushwork"), ("cat", "glass"))
LOSS_LIMIT = {"f32": 1e-5, "tf32": 2e-3, "bf16": 2e-2}
"""Largest relative distance of a loss from float64's."""
GRADIENT_LIMIT = {"f32": 2e-3, "tf32": 4e-2, "bf16": 1e-1}
"""Largest relative distance of a gradient, by its norm; mostly ReLU units on the other side of zero."""
WIDTH_LIMIT = 1e-5
"""Largest relative difference of the losses of step 0 between widths."""
MEMORY_LIMIT = 1.5
"""Largest peak of a run over the memory of its launches; trying cuDNN's algorithms takes memory too."""
KILLS_S = 1800.0
"""Seconds that the check of the kills may take."""
SMALL_ALLOCATOR = 0.05
"""The fraction of a GPU's memory that the check of the back-off leaves to the run."""


class Finding(NamedTuple):
    """One number of a check."""

    what: str
    value: float
    limit: float
    """The largest value that passes."""

    @property
    def right(self) -> bool:
        """Whether the check passes; NaN does not."""
        return bool(self.value <= self.limit)


# --- in a process of their own --------------------------------------------------------------------


def _first(pipe: Any, size: int, precision: str) -> None:
    """Send the loss and the gradient of every pair's content image."""
    firsts = [work.Work(size, 1, precision, pair=pair).first() for pair in PAIRS]
    pipe.send([(first.loss, first.gradient) for first in firsts])


def _exact(pipe: Any, size: int) -> None:
    """Send the same in float64, by an implementation of the paper that shares no code with the package."""
    from jaxstyle.inputs import weights
    from tests import oracle

    found = []
    for pair in PAIRS:
        content, style = work.inputs(size, pair)
        terms, gradient = oracle.loss_and_gradient(
            weights.load().layers, content, content, style, alpha=work.ALPHA_BETA
        )
        found.append((terms["total"], gradient))
    pipe.send(found)


def _can_tf32(pipe: Any) -> None:
    import jax

    from jaxstyle.device.memory import can_tf32

    pipe.send(can_tf32(jax.devices()[0]))


def _sweep(pipe: Any, settings: dict[str, Any], width: int | None) -> None:
    """Send the records of a run of the first pair: rows, first losses by seed, manifest, events, memory."""
    import jax

    from jaxstyle import RunOptions, Sweep
    from jaxstyle.run.sweep import run_sweep
    from jaxstyle.spec.resolve import resolve

    content, style = (str(next(work.EXAMPLES.glob(f"{name}.*"))) for name in PAIRS[0])
    sweep = Sweep(
        content=(content,),
        style=(style,),
        optimizer="adam",
        pyramid=0,
        **{"alpha_beta": (1e-3,), **settings},
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        options = RunOptions(out=str(out), quiet=True, no_compile_cache=True)
        run_sweep(resolve(sweep), options, width=width)
        rows = list(csv.DictReader((out / "results.csv").open()))
        manifest = json.loads((out / "manifest.json").read_text())
        events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
        import h5py

        with h5py.File(out / "results.h5") as file:
            (group,) = file.values()
            first = group["loss_total"][:, 0]
    stats = jax.devices()[0].memory_stats() or {}
    pipe.send((rows, first, manifest, events, stats.get("peak_bytes_in_use")))


# --- the checks -----------------------------------------------------------------------------------


def precision(size: int, cells: int) -> list[Finding]:
    """Losses and gradients of the first image, compared with float64."""
    found = []
    names = ["f32", "tf32", "bf16"] if processes.in_process(_can_tf32) else ["f32", "bf16"]
    with ThreadPoolExecutor() as pool:  # all at once: nothing is timed
        exact = pool.submit(processes.in_process, _exact, size)
        started = {name: pool.submit(processes.in_process, _first, size, name) for name in names}
        firsts = {name: one.result() for name, one in started.items()}
    for index, pair in enumerate(PAIRS):
        loss, gradient = exact.result()[index]
        for name in names:
            own_loss, own = firsts[name][index]
            away = float(np.linalg.norm(own - gradient) / np.linalg.norm(gradient))
            label = f"{name}, {' + '.join(pair)}, {size} px"
            found.append(Finding(f"loss, {label}", float(abs(own_loss / loss - 1)), LOSS_LIMIT[name]))
            found.append(Finding(f"gradient, {label}", away, GRADIENT_LIMIT[name]))
    return found


def width(size: int, cells: int) -> list[Finding]:
    """Losses of a launch of several cells, compared with those of single-cell launches."""
    settings = {"seed": (f"0:{cells}",), "size": str(size), "steps": (1,)}
    _, wide, *_ = processes.in_process(_sweep, settings, cells)
    _, single, *_ = processes.in_process(_sweep, settings, 1)
    away = float(np.max(np.abs(np.asarray(wide, np.float64) / single - 1)))
    return [Finding(f"first losses, width {cells} against 1, {size} px", away, WIDTH_LIMIT)]


def bytes_(size: int, cells: int) -> list[Finding]:
    """Pictures and losses of two processes, compared with each other and with another order of seeds."""
    content, style = (str(next(work.EXAMPLES.glob(f"{name}.*"))) for name in PAIRS[0])
    found = []
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / name for name in ("one", "two", "turned")]
        for out in outs:
            seeds = map(str, [*range(cells)][:: -1 if out.name == "turned" else 1])
            command = [sys.executable, "-m", "jaxstyle.sweep", "--content", content, "--style", style]
            command += [
                "--seed",
                *seeds,
                "--size",
                str(size),
                "--steps",
                "20",
                "--optimizer",
                "adam",
                "--alpha-beta",
                "1e-3",
            ]
            command += ["--deterministic", "--quiet", "--out", str(out)]
            subprocess.run(command, check=True, cwd=work.ROOT)
        one, two, turned = (_pictures(out) for out in outs)
    for name, other in (("another process", two), ("another order", turned)):
        differ = sum(one[seed] != other[seed] for seed in one)
        found.append(Finding(f"cells of {cells} that differ in {name}, {size} px", differ, 0))
    return found


def _pictures(out: Path) -> dict[str, tuple[bytes, str]]:
    """The picture and the final loss of every seed of a run."""
    rows = csv.DictReader((out / "results.csv").open())
    return {row["seed"]: ((out / row["image"]).read_bytes(), row["loss_total"]) for row in rows}


def memory(size: int, cells: int) -> list[Finding]:
    """Peak memory of a run, tuning included, at the width that was chosen for it."""
    settings = {"seed": (f"0:{4 * cells}",), "size": str(size), "steps": (2,)}
    _, _, manifest, _, peak = processes.in_process(_sweep, settings, None)
    (program,) = manifest["programs"]
    if peak is None:
        print("    this device does not report its peak memory")
        return []
    label = f"peak over the memory of a launch, width {program['width']}, {size} px"
    return [Finding(label, peak / program["device_bytes"], MEMORY_LIMIT)]


def back_off(size: int, cells: int) -> list[Finding]:
    """Cells lost by a run whose launches were too wide for a small allocator."""
    if processes.in_process(work.tell_device)["platform"] == "cpu":
        print("    a CPU has no allocator to run out of: see tests/test_sweep.py")
        return []
    before = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION")
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(SMALL_ALLOCATOR)
    try:
        settings = {"seed": ("0:64",), "size": "512", "steps": (2,), "precision": "bf16"}
        rows, _, _, events, _ = processes.in_process(_sweep, settings, 64)
    finally:
        os.environ.pop("XLA_PYTHON_CLIENT_MEM_FRACTION")
        if before is not None:
            os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = before
    backed = sum(event["event"] == "back-off" for event in events)
    return [
        Finding("cells lost of 64", 64 - sum(row["status"] == "done" for row in rows), 0),
        Finding("back-offs missed", float(backed == 0), 0),
    ]


def kills(size: int, cells: int) -> list[Finding]:
    """Runs that were killed at random and at named points, then resumed."""
    command = [sys.executable, "-m", "tests.torture", "--kills", "6", "--deterministic"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        code = processes.run_group(command, log, KILLS_S)
        lines = log.read_text(errors="replace").splitlines()
    print("".join(f"    {line}\n" for line in lines[-3 if code == 0 else -40 :]), end="")
    if code is None:
        raise TimeoutError(f"the kills did not end within {KILLS_S:.0f} s")
    return [Finding("exit code of six kills", float(code), 0)]


CHECKS: dict[str, Callable[[int, int], list[Finding]]] = {
    "precision": precision,
    "width": width,
    "bytes": bytes_,
    "memory": memory,
    "back-off": back_off,
    "kills": kills,
}


def findings(name: str, size: int, cells: int) -> list[dict[str, Any]]:
    """What a check found, as it is saved; a check that ends in an error is not right, with the reason."""
    try:
        rows: list[dict[str, Any]] = [
            {"check": name, **finding._asdict(), "right": finding.right}
            for finding in CHECKS[name](size, cells)
        ]
    except Exception as error:  # any: what went wrong in one check says nothing of the others
        traceback.print_exc()
        said = str(error).strip().split("\n")[0]
        why = work.by_name(f"{name} ended in {type(error).__name__}: {said}")
        rows = [{"check": name, "what": why, "value": None, "limit": None, "right": False}]
    return rows


def main(arguments: Sequence[str]) -> None:
    """Run checks, print and save their findings; exit code 1 if any finding is not right."""
    parser = argparse.ArgumentParser(
        prog="python -m bench check", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "checks", nargs="*", metavar="CHECK", help=f"any of {', '.join(CHECKS)} (default: all)"
    )
    parser.add_argument("--size", type=int, default=256, help="px (default: 256)")
    parser.add_argument("--cells", type=int, default=8, help="cells per launch (default: 8)")
    parser.add_argument("--tag", default="", help="tag in the name of the file with the findings")
    parser.add_argument("--platform", choices=("any", "gpu"), default="any", help="gpu: check nothing else")
    args = parser.parse_args(arguments)
    if unknown := set(args.checks) - set(CHECKS):
        parser.error(f"no such check: {', '.join(sorted(unknown))}")
    about = work.require_platform(args.platform)
    if about["platform"] != "cpu":  # several processes use it at once
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    print(f"{about['kind']} ({about['platform']})")
    rows: list[dict[str, Any]] = []
    values = {"device": about, "findings": rows}
    save = functools.partial(work.save, "check", arguments, about["platform"], values, tag=args.tag)
    for name in args.checks or CHECKS:
        began = time.perf_counter()
        print(name, flush=True)
        for row in findings(name, args.size, args.cells):
            rows.append(row)
            number = "" if row["value"] is None else f" {row['value']:9.2g}  at most {row['limit']:7.2g}"
            print(f"    {row['what']:66}{number}  {'ok' if row['right'] else 'NOT RIGHT'}")
        print(f"    {time.perf_counter() - began:.0f} s", flush=True)
        save(complete=False)
    wrong = sum(not row["right"] for row in rows)
    print(f"saved {save()}\n{f'NOT RIGHT: {wrong}' if wrong else 'all right'} on {about['kind']}")
    raise SystemExit(bool(wrong))
