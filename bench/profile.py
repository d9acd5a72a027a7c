"""The time of a step on a GPU, kernel by kernel; `python -m bench profile`.

JAX's profiler records how long every kernel of some steps took, and which operation of the compiled program
started it. Beside it is the floor of that kernel from `python -m bench compiled`, which shows how much of
its time could be saved; on any card, floors are by the rates of an H200. The rest of the step's time
without the profiler is spent between kernels; XLA runs them one by one while it is profiled, and otherwise
several from one command buffer.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import compiled, work
from jaxstyle.plan.nominal_rates import nominal_platform

STEPS = 4
"""Number of steps that are profiled."""


class Event(NamedTuple):
    """A kernel that ran."""

    operation: str
    """Name of the operation in the compiled program."""
    kernel: str
    """The device's name for it, which for a convolution or a product includes the algorithm."""
    seconds: float


def events(folder: Path) -> list[Event]:
    """The kernels in a trace that JAX's profiler wrote."""
    import jax

    (file,) = folder.rglob("*.xplane.pb")
    found = []
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if line.name.startswith("Stream"):
                for event in line.events:
                    operation = str(dict(event.stats).get("hlo_op", ""))
                    found.append(Event(operation, event.name, event.duration_ns / 1e9))
    return found


def table(
    kernels: Sequence[compiled.Kernel], ran: Iterable[Event], *, steps: int, precision: str
) -> list[dict[str, Any]]:
    """A row for each operation that ran, the longest first: its time in one step, and its floor.

    Args:
        kernels: kernels of the compiled step.
        ran: all kernels that ran in `steps` steps.
        steps: number of steps that were profiled.
        precision: precision of the step.
    """
    known = {kernel.name: kernel for kernel in kernels}
    # A kernel of XLA's own is named after its operation, which is the only trace of it in a command buffer.
    named = {kernel.name.replace(".", "_").replace("-", "_"): kernel.name for kernel in kernels}
    seconds: dict[str, float] = collections.defaultdict(float)
    names: dict[str, list[str]] = collections.defaultdict(list)
    for event in ran:
        operation = event.operation
        if operation not in known:
            operation = named.get(event.kernel, f"{operation} {event.kernel}".strip())
        seconds[operation] += event.seconds
        if event.kernel not in names[operation]:
            names[operation].append(event.kernel)
    rows = []
    for operation, total in sorted(seconds.items(), key=lambda item: -item[1]):
        kernel = known.get(operation)
        rows.append(
            {
                "operation": operation,
                "kind": kernel.kind if kernel else "other",
                "us": 1e6 * total / steps,
                "floor_us": 1e6 * kernel.floor_s(precision) if kernel else 0.0,
                "fused": list(kernel.fused) if kernel else [],
                "result": kernel.result if kernel else "",
                "source": kernel.source if kernel else "",
                "kernels": names[operation],
            }
        )
    return rows


def by_kind(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Microseconds per step and their floor, by kind of kernel."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        kind = row["kind"]
        if kind == "convolution":
            kind += ", gradient" if row["source"].startswith("gradient") else ", forward"
        own = found.setdefault(kind, {"us": 0.0, "floor_us": 0.0})
        own["us"] += row["us"]
        own["floor_us"] += row["floor_us"]
    return found


def profile(size: int, cells: int, precision: str, *, program: Path | None = None) -> dict[str, Any]:
    """The account of a step: its time, that of its kernels, and how much they could save.

    Args:
        size: edge of the images in px.
        cells: number of cells.
        precision: as in `--precision`.
        program: file to write the compiled program to, gzipped text.
    """
    import jax

    job = work.Work(size, cells, precision)
    job.advance(2)
    times = [job.advance(50).seconds / 50 for _ in range(5)]
    launches = -(-cells // job.program.width)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            job.advance(STEPS)
        ran = events(Path(folder))
    text = job.compiled.segment.as_text()
    if program is not None:
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_bytes(gzip.compress(text.encode()))
    kernels = compiled.kernels(text)
    rows = table(kernels, ran, steps=STEPS * launches, precision=precision)
    return {
        "size": size,
        "cells": cells,
        "width": job.program.width,
        "precision": precision,
        "compile_s": job.compiled.compile_s,
        "from_cache": job.from_cache,
        "floors_of": compiled.CARD,
        "step_us": 1e6 * statistics.median(times) / launches,
        "kernels_us": sum(row["us"] for row in rows),
        "by_kind": by_kind(rows),
        "rows": rows,
    }


def print_account(found: dict[str, Any], top: int) -> None:
    """Print the kinds of kernels, and the longest ones."""
    what = f"{found['size']} px, width {found['width']}, {found['precision']}"
    print(
        f"{what}: {found['step_us']:.0f} us a step, {found['kernels_us']:.0f} in kernels when profiled;"
        f" floors by the rates of an {compiled.CARD}"
    )
    for kind, own in found["by_kind"].items():
        share = own["floor_us"] / own["us"] if own["us"] else 0.0
        print(f"  {kind:24} {own['us']:9.0f} us   floor {own['floor_us']:9.0f}   {share:5.0%}")
    for row in found["rows"][:top]:
        share = row["floor_us"] / row["us"] if row["us"] else 0.0
        print(
            f"    {row['us']:8.1f} us  floor {row['floor_us']:8.1f} {share:5.0%}  {row['kind']:11}"
            f" {'+'.join(row['fused']):9} {row['result'][:40]:40} {row['kernels'][-1][:60]}"
        )


def main(arguments: Sequence[str]) -> None:
    """Profile, print the account, save it."""
    parser = argparse.ArgumentParser(
        prog="python -m bench profile", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="px, square (default: 512)")
    parser.add_argument("--cells", type=int, default=16, help="cells per launch (default: 16)")
    parser.add_argument("--precision", default="bf16", choices=("f32", "tf32", "bf16"))
    parser.add_argument("--top", type=int, default=40, help="number of operations to print (default: 40)")
    parser.add_argument("--program", type=Path, help="folder to keep the compiled programs in")
    args = parser.parse_args(arguments)
    about = work.device()
    if nominal_platform(about["platform"]) != "gpu":
        raise SystemExit(f"bench: error: profile: this is a {about['platform']}; kernels are a GPU's")
    accounts: list[dict[str, Any]] = []
    values = {"device": about, "accounts": accounts}
    for size in args.size:
        kept = args.program / f"{size}px-{args.cells}-{args.precision}.hlo.gz" if args.program else None
        accounts.append(profile(size, args.cells, args.precision, program=kept))
        print_account(accounts[-1], args.top)
        work.save("profile", arguments, about["platform"], values, complete=False)
    print(f"saved {work.save('profile', arguments, about['platform'], values)}")
