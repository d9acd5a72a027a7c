"""The time of a step on a CPU, part by part, beside what the machine allows; `python -m bench account`.

JAX's profiler records how long every operation of some steps took. The compiled program says what each is
for, how many FLOPs a product has and how many bytes an operation reads and writes. The floor of a product
is its FLOPs at the rate of a large matrix product, and that of everything else its bytes at the rate at
which an array too large for any cache is copied; both are measured in the same call. So a part far above
its floor could be faster, and one below it works on what the caches still hold.
"""

from __future__ import annotations

import argparse
import collections
import math
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import processes, work, xla_text
from bench.compiled import dimensions, shape_bytes
from jaxstyle.plan.nominal_rates import nominal_platform

STEPS = 4
"""Number of steps that are profiled."""
COPIED_BYTES = 2**28
"""Bytes of the array that is copied to measure the rate of copying."""
CEILING_EDGE = 2048
"""Edge of the matrices whose product is measured."""


class Operation(NamedTuple):
    """An operation of a compiled step."""

    part: str
    """What it is for: see `part_of`."""
    shape: str
    """The dimensions of its result, for products."""
    flops: float
    """Of a product; 0 for other operations."""
    traffic: int
    """Bytes read and written."""


def part_of(product: bool, source: str, result: Sequence[int]) -> str:
    """The part of a step that an operation belongs to.

    Args:
        product: whether it is a product of matrices.
        source: the `op_name` of the operation.
        result: dimensions of its result.
    """
    direction = "gradient" if "transpose(" in source else "forward"
    if "winograd" in source:
        return f"convolution's products, {direction}" if product else f"linear maps, {direction}"
    if "conv_general_dilated" in source:
        return "conv1_1"
    if product and len(result) == 2:
        return "Gram matrices" if result[0] == result[1] else "gradient of Gram matrices"
    return "all else"


def product_flops(left: Sequence[int], right: Sequence[int], result: Sequence[int]) -> float:
    """FLOPs of a product of matrices, or of a batch of them, whose operands and result have these sizes."""
    batch = result[0] if len(result) == 3 else 1
    summed = math.sqrt(math.prod(left) * math.prod(right) / math.prod(result) / batch)
    return 2 * math.prod(result) * summed


def operations(hlo: str) -> dict[str, Operation]:
    """The operations of a compiled program that compute anything, by name."""
    bodies = xla_text.computations(hlo)
    called = {name for lines in bodies.values() for line in lines for name in _called(line)}
    found = {}
    for computation, lines in bodies.items():
        if computation in called:  # a fusion's body, which runs as one operation
            continue
        shapes: dict[str, str] = {}
        for name, result, operation, operands, rest, _ in xla_text.instructions(lines):
            shapes[name] = result
            if operation in xla_text.SILENT or operation in ("while", "conditional", "call"):
                continue
            taken = [shapes.get(one, "") for one in re.findall(r"%([\w.\-]+)", operands)]
            body = [operation, *(line for one in _called(rest) for line in bodies.get(one, ()))]
            source = re.search(r'op_name="([^"]*)"', rest)
            product = any(line == "dot" or " dot(" in line for line in body)
            sizes = [dimensions(shape) for shape in (*taken[:2], result)]
            flops = product_flops(sizes[0], sizes[1], sizes[-1]) if product else 0.0
            part = part_of(product, source[1] if source else "", sizes[-1])
            shape = " x ".join(map(str, (*sizes[0][-2:], sizes[-1][-1]))) if product else ""
            traffic = shape_bytes(result) + sum(map(shape_bytes, taken))
            found[name] = Operation(part, shape, flops, traffic)
    return found


def _called(line: str) -> list[str]:
    return re.findall(r"calls=%([\w.\-]+)", line)


def measured(folder: Path, names: frozenset[str]) -> dict[str, float]:
    """Seconds of every operation named in a trace that JAX's profiler wrote."""
    import jax

    (file,) = folder.rglob("*.xplane.pb")
    seconds: dict[str, float] = collections.defaultdict(float)
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in names:
                    seconds[event.name] += event.duration_ns / 1e9
    return seconds


def copy_rate(rounds: int = 7) -> float:
    """Bytes read and written per second by a copy of an array that no cache holds."""
    import jax
    import jax.numpy as jnp

    array, copy = jnp.zeros(COPIED_BYTES // 4, jnp.float32), jax.jit(lambda x: x + 1)
    jax.block_until_ready(copy(array))
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(copy(array))
        times.append(time.perf_counter() - began)
    return 2 * COPIED_BYTES / min(times)


def account(size: int, precision: str) -> dict[str, Any]:
    """The account of a step of one cell.

    Args:
        size: edge of the image in px.
        precision: as in `--precision`.
    """
    import jax

    from jaxstyle.console import allocator

    allocator.keep_freed_memory()
    job = work.Work(size, 1, precision)
    job.advance(2)
    times = [job.advance(2).seconds / 2 for _ in range(7)]
    known = operations(job.compiled.segment.as_text())
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level, options.python_tracer_level = 3, 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            job.advance(STEPS)
        seconds = measured(Path(folder), frozenset(known))
    # Both float32: what a product in bfloat16 could gain is then seen as a share above one.
    gemm, copied = work.matmul_ceiling("f32", CEILING_EDGE), copy_rate()
    parts: dict[str, dict[str, float]] = {}
    products: dict[str, dict[str, float]] = {}
    for name, spent in seconds.items():
        one = known[name]
        rows = [parts.setdefault(one.part, collections.defaultdict(float))]
        if one.part.startswith("convolution"):
            rows.append(products.setdefault(one.shape, collections.defaultdict(float)))
        for row in rows:
            row["ms"] += 1e3 * spent / STEPS
            row["floor_ms"] += 1e3 * (one.flops / gemm or one.traffic / copied)
            row["gflop"] += one.flops / 1e9
            row["mb"] += one.traffic / 1e6
            row["operations"] += 1
    return {
        "size": size,
        "precision": precision,
        "step_ms": {"min": 1e3 * min(times), "median": 1e3 * statistics.median(times)},
        "profiled_ms": sum(row["ms"] for row in parts.values()),
        "gemm_gflop_s": gemm / 1e9,
        "copy_gb_s": copied / 1e9,
        "parts": parts,
        "products": products,
    }


def print_account(found: dict[str, Any]) -> None:
    """Print the parts of a step, the longest first, and its products by shape."""
    step = found["step_ms"]
    print(
        f"{found['size']} px, {found['precision']}: {step['median']:.1f} ms a step,"
        f" {found['profiled_ms']:.1f} in operations when profiled; products at"
        f" {found['gemm_gflop_s']:.0f} GFLOP/s, copies at {found['copy_gb_s']:.0f} GB/s"
    )
    for name, row in sorted(found["parts"].items(), key=lambda item: -item[1]["ms"]):
        share = row["floor_ms"] / row["ms"]
        print(f"  {name:34} {row['ms']:7.1f} ms   floor {row['floor_ms']:7.1f}   {share:5.0%}")
    print("  convolution's products: positions x inputs x outputs, at each of the 36 places")
    for shape, row in sorted(found["products"].items(), key=lambda item: -item[1]["ms"]):
        rate = row["gflop"] / row["ms"] * 1e3
        print(f"    {shape:20} {row['operations']:3.0f} times {row['ms']:7.1f} ms  {rate:5.0f} GFLOP/s")


def main(arguments: Sequence[str]) -> None:
    """Measure, print and save the accounts."""
    parser = argparse.ArgumentParser(
        prog="python -m bench account", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--size", type=int, nargs="+", default=[256], help="px, square (default: 256)")
    parser.add_argument("--precision", nargs="+", default=["f32"], choices=("f32", "bf16"))
    args = parser.parse_args(arguments)
    about = processes.in_process(work.tell_device)
    if nominal_platform(about["platform"]) != "cpu":
        raise SystemExit(f"bench: error: account: this is a {about['platform']}; see `bench profile`")
    accounts: list[dict[str, Any]] = []
    values = {"device": about, "accounts": accounts}
    for precision in args.precision:
        for size in args.size:
            accounts.append(account(size, precision))
            print_account(accounts[-1])
            work.save("account", arguments, about["platform"], values, complete=False)
    print(f"saved {work.save('account', arguments, about['platform'], values)}")
