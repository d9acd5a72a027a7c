"""Every measurement on a GPU, in one call, the most valuable first; `python -m bench gpu`.

Each stage is a separate benchmark with a time limit, whose figures are kept whether or not later stages
get their turn. At the end a page, `bench/results/NAME.md`, combines them: targets and what was reached,
throughput, the account of a step, variants, peers. `--page` rebuilds it from the figures that exist.

The stages share a folder of compiled programs, so that each program is compiled and its algorithms are
chosen only once; the last stage measures what that saves.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import work

RESULTS = work.RESULTS


class Stage(NamedTuple):
    """One benchmark."""

    name: str
    arguments: str
    """Arguments of `python -m bench`."""
    result: str
    """The name of its figures in the results, without `.json`."""
    minutes: float
    """Minutes after which it is ended."""


STAGES = (
    Stage("profile", "profile --size 512 --cells 16", "profile-gpu", 3),
    Stage("right", "check precision width", "check-gpu", 4),
    Stage(
        "512 px",
        "throughput --size 512 --cells-size 512 --cells 1 16 64 256 --precision bf16 --seconds 2",
        "throughput-gpu",
        4,
    ),
    Stage(
        "256 px",
        "throughput --size 256 --cells-size 256 --cells 1 16 64 256 --precision bf16 --seconds 2",
        "throughput-gpu",
        4,
    ),
    Stage(
        "peers",
        "peers --size 512 --cells 16 --rounds 5 --steps 10"
        " --sides jaxstyle,f32 jaxstyle,tf32 jaxstyle,bf16 torch,NCHW torch,NCHW,tf32 torch,graphed",
        "peers-gpu",
        4,
    ),
    Stage("experiments", "experiments --minutes 9 --at-once 6", "experiments-512px-16-gpu", 10),
    Stage(
        "sizes",
        "throughput --size 128 1024 --cells-size 128 1024 --cells 1 16 64 256 --precision bf16 --seconds 2",
        "throughput-gpu",
        6,
    ),
    Stage(
        "precisions",
        "throughput --size 256 512 1024 --cells-size 512 --cells 16 64 --precision f32 tf32 --seconds 1",
        "throughput-gpu",
        9,
    ),
    Stage("promises", "check bytes memory back-off kills", "check-gpu", 9),
    Stage("all peers", "peers --size 512 --cells 16 --rounds 5 --steps 10", "peers-gpu", 6),
    Stage("bf16", "precision --size 256 --steps 1000 --pairs 4", "precision-gpu", 6),
    Stage("small profile", "profile --size 256 --cells 64", "profile-gpu", 2),
    Stage(
        "small", "experiments --size 128 --cells 1 --only 0 9 10 --steps 200", "experiments-128px-1-gpu", 4
    ),
    Stage("wide", "experiments --size 128 --cells 256 --only 0 14", "experiments-128px-256-gpu", 3),
    Stage(
        "second start",
        "throughput --size 512 --cells-size 512 --cells 16 --precision bf16 --seconds 1",
        "throughput-gpu",
        3,
    ),
)
THROUGHPUT = ("512 px", "256 px", "sizes", "precisions")
"""The stages that measure throughput."""


def run(stage: Stage, folder: Path, cache: Path) -> Path | None:
    """Run a stage, keeping its log and figures in `folder`; the path of its figures if it finished."""
    began = time.time()
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONUNBUFFERED": "1"}
    environment["BENCH_OVERWRITE"] = "1"  # stages have files in common, which are copied after each
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    environment["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    name = stage.name.replace(" ", "-")
    print(f"\n== {stage.name}: python -m bench {stage.arguments}", flush=True)
    log = folder / f"{name}.log"
    with log.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench", *stage.arguments.split()],
            stdout=written,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=RESULTS.parent.parent,
            start_new_session=True,  # so that its own processes end with it
        )
        try:
            code = process.wait(60 * stage.minutes)
        except subprocess.TimeoutExpired:
            code = None
            os.killpg(process.pid, 9)
            process.wait()
    lines = log.read_text().splitlines()
    told = [line for line in lines if not line.startswith(("W0", "I0", "E0"))]  # by XLA, with the date
    print("\n".join(told[-60:]), flush=True)
    print(
        f"== {'ended at its limit' if code is None else f'exit code {code}'}, {time.time() - began:.0f} s"
    )
    made = RESULTS / f"{stage.result}.json"
    if not made.exists() or made.stat().st_mtime < began:
        return None
    kept = folder / f"{name}.json"
    kept.write_bytes(made.read_bytes())
    return kept


# --- the page -------------------------------------------------------------------------------------


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name.replace(' ', '-')}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(str(value) for value in row)} |"
    yield ""


def _throughput(folder: Path) -> list[dict[str, Any]]:
    return [row for name in THROUGHPUT for row in _read(folder, name).get("rows", [])]


def _bars(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Targets for the engine on an H200, with what was measured and whether it is enough."""
    rows = [row for row in _throughput(folder) if not row.get("over_memory") and row["precision"] == "bf16"]

    def verdict(holds: bool) -> str:
        return "reached" if holds else "**missed**"

    for size, most in ((512, 1.0), (256, 0.28)):
        if own := [row for row in rows if row["size"] == size]:
            best = min(own, key=lambda row: row["ms_per_image_step"]["median"])
            ms = best["ms_per_image_step"]["median"]
            bar = f"{size} px, bf16, best batch: at most {most} ms per image-step"
            yield bar, f"{ms:.3f} ms, {best['cells']} cells", verdict(ms <= most)
            if size == 512:
                bar = "at least 50 % of the measured matmul ceiling"
                yield bar, f"{best['share_of_ceiling']:.0%}", verdict(best["share_of_ceiling"] >= 0.5)
    flat = {row["cells"]: row["ms_per_image_step"]["median"] for row in rows if row["size"] == 512}
    if {16, 256} <= set(flat):
        wide = [ms for cells, ms in flat.items() if 16 <= cells <= 256]
        spread = max(wide) / min(wide) - 1
        bar = "cost per image-step constant within 10 % from 16 to 256 cells"
        yield bar, f"{spread:.0%} between the dearest and the cheapest", verdict(spread <= 0.1)
    for result in (_read(folder, "all peers") or _read(folder, "peers")).get("results", []):
        sides = {name: side["ms_per_image_step"]["median"] for name, side in result["sides"].items()}
        torch = {name: ms for name, ms in sides.items() if name.startswith("torch") and "NCHW" not in name}
        if torch and "jaxstyle bf16" in sides:
            best = min(torch, key=torch.__getitem__)
            times = torch[best] / sides["jaxstyle bf16"]
            yield (
                f"at least as fast as PyTorch at its best ({best})",
                f"{times:.2f} times",
                verdict(times >= 1),
            )
            peers = sides["torch NCHW"] / sides["jaxstyle bf16"]
            yield "10 times as fast as PyTorch as usually run", f"{peers:.1f} times", verdict(peers >= 10)
    for row in _read(folder, "bf16").get("rows", []):
        if row["variant"]["name"] == "bf16, plain":
            away = [abs(ratio - 1) for ratio in row["loss_ratio"]]
            found = f"at most {max(away):.1%}, mean {sum(away) / len(away):.1%}, of {len(away)} cells"
            yield "final loss in bf16 within 1 % of float32's", found, verdict(max(away) <= 0.01)
    ran = [name for name in ("right", "promises") if _read(folder, name).get("findings")]
    findings = [row for name in ran for row in _read(folder, name)["findings"]]
    if findings:
        wrong = [row["what"] for row in findings if not row["right"]]
        found = "all right" if not wrong else "; ".join(wrong)
        checks = ", ".join(f"`{stage.arguments}`" for stage in STAGES if stage.name in ran)
        yield f"{checks}: {len(findings)} findings", found, verdict(not wrong)


def page(folder: Path) -> str:
    """The page that combines the figures of all stages in `folder`."""
    stages = {stage.name: _read(folder, stage.name) for stage in STAGES}
    there = {name: found for name, found in stages.items() if found}
    if not there:
        return ""
    first = next(iter(there.values()))
    device, versions = first["device"], first["versions"]
    used = ", ".join(f"{k} {versions[k]}" for k in ("python", "jax", "jaxlib", "torch") if k in versions)
    lines = [
        f"# {device['kind']}",
        "",
        f"{used}; {first['date']}, commit {first['commit']}; `python -m bench gpu`.",
        "",
        *_table(("bar", "found", ""), list(_bars(folder))),
    ]
    if rows := _throughput(folder):
        lines += ["## Throughput", ""]
        head = ("px", "precision", "cells", "width", "ms per image-step", "TFLOP/s", "of the ceiling")
        lines += _table((*head, "peak GB", "compiled in s"), [_throughput_row(row) for row in rows])
    for account in (
        one for name in ("profile", "small profile") for one in there.get(name, {}).get("accounts", [])
    ):
        lines += [f"## The time of a step: {account['size']} px, width {account['width']}", ""]
        lines += [
            f"{account['step_us']:.0f} us a step; {account['kernels_us']:.0f} us in kernels, one by one.",
            "",
        ]
        kinds = account["by_kind"].items()
        lines += _table(
            ("kernels", "us", "floor, us", "of it"),
            [
                (kind, f"{own['us']:.0f}", f"{own['floor_us']:.0f}", f"{own['floor_us'] / own['us']:.0%}")
                for kind, own in kinds
                if own["us"]
            ],
        )
        lines += _table(
            ("operation", "fused", "us", "floor, us", "kernel"),
            [
                (
                    f"{row['source']} {row['result'][:40]}",
                    "+".join(row["fused"]),
                    f"{row['us']:.0f}",
                    f"{row['floor_us']:.0f}",
                    f"`{row['kernels'][-1][:60]}`",
                )
                for row in account["rows"][:25]
            ],
        )
    for name in ("experiments", "small", "wide"):
        if rows := there.get(name, {}).get("rows"):
            lines += [f"## What was tried: {rows[0]['size']} px, {rows[0]['cells']} cells", ""]
            lines += _table(
                ("variant", "expected time over ours", "found"),
                [(row["variant"], row["expected"], _experiment(row)) for row in rows],
            )
    for result in (
        one for name in ("peers", "all peers") for one in there.get(name, {}).get("results", [])
    ):
        lines += [f"## Peers: {result['size']} px, {result['cells']} cells, interleaved", ""]
        lines += _table(
            ("side", "ms per image-step", "distance of the first gradient from float32's"),
            [
                (side, f"{found['ms_per_image_step']['median']:.3f}", f"{found['gradient_error']:.1e}")
                for side, found in result["sides"].items()
            ]
            + [(side, f"left out: {why}", "") for side, why in result["failed"].items()],
        )
    cold, warm = (  # the first stage compiles this step first; every later one finds it in the cache
        [row for row in there.get(name, {}).get(rows, []) if (row["size"], row["cells"]) == (512, 16)]
        for name, rows in (("profile", "accounts"), ("second start", "rows"))
    )
    if cold and warm:
        lines += ["## The second start", ""]
        lines += [
            f"The 512-px step of 16 cells is compiled and tuned in {cold[0]['compile_s']:.0f} s, and in"
            f" {warm[0]['compile_s']:.0f} s when it is found in the cache.",
            "",
        ]
    return "\n".join(lines)


def _throughput_row(row: dict[str, Any]) -> Sequence[Any]:
    if row.get("over_memory"):
        return row["size"], row["precision"], row["cells"], "", "over memory", "", "", "", ""
    return (
        row["size"],
        row["precision"],
        row["cells"],
        row["width"],
        f"{row['ms_per_image_step']['median']:.3f}",
        f"{row['tflops']:.0f}",
        f"{row['share_of_ceiling']:.0%}",
        f"{row['peak_bytes'] / 1e9:.1f}",
        f"{row['compile_s']:.0f}",
    )


def _experiment(row: dict[str, Any]) -> str:
    if "failed" in row:
        return row["failed"]
    ratio = row["ratio"]
    found = f"{ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})"
    return found if row["agrees"] else f"{found}, another loss"


def main(arguments: Sequence[str]) -> None:
    """Run stages as long as there is time, then write the page."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=(__doc__ or "").split("\n")[0])
    names = [stage.name for stage in STAGES]
    parser.add_argument(
        "--stages", nargs="+", choices=names, default=names, help="these, in this order (default: all)"
    )
    parser.add_argument("--minutes", type=float, default=120.0, help="start no stage that would end later")
    parser.add_argument("--name", default="gpu", help="name of the page and of the folder with the figures")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--cache", type=Path, help="folder of compiled programs to keep between calls")
    args = parser.parse_args(arguments)
    folder = RESULTS / args.name
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.stages if not args.page else ():
            (stage,) = (stage for stage in STAGES if stage.name == name)
            left = args.minutes - (time.monotonic() - began) / 60
            if left < 1:
                print(f"no time for {stage.name}; --stages {stage.name!r} runs it")
                continue
            folder.mkdir(parents=True, exist_ok=True)
            run(stage._replace(minutes=min(stage.minutes, left)), folder, args.cache or Path(temporary))
    if text := page(folder):
        path = RESULTS / f"{args.name}.md"
        path.write_text(text)
        print(f"saved {path} and its figures in {folder}")
