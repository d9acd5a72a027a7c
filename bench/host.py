"""The host's work for every cell of a sweep, by number of cells; `python -m bench host`.

Only the device is simulated: the numbers and the pictures of 32 x 32 px are made up. Settings, plan, chunk
files, PNGs, events, manifest, merge, tables, sheets, page and resume are the real ones, on a real disk. The
sweep is the same at every size, contents x styles x ratios; a larger one has more seeds. Every size runs in
its own process, so that its peak memory is its own. Whether a cell's cost is constant is reported both in
processor time and in wall time, which includes flushes and so depends on the disk's other work.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import processes, work

if TYPE_CHECKING:
    from jaxstyle.plan.cells import Cell
    from jaxstyle.rundir.chunks import ChunkResult

CELLS = (1_000, 10_000, 100_000)
EDGE_PX = 32
STEPS = 300
EDGES = 10
"""Number of contents, of styles and of ratios of a sweep of at least 1,000 cells; 2 for smaller ones."""
DIVERGED = 997
"""One cell in this many has diverged."""
WITHIN = 1.2
"""Largest ratio of the cost per cell to that at the smallest count which still counts as constant."""
LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
SWEEP_STAGES = ("results_s", "commit_s", "pngs_s", "events_s")
REPORT_STAGES = ("merge_s", "rows_s", "csv_s", "sheets_s", "page_s")
BOUNDED = ("sheets_s", "page_s")
"""Stages that show a bounded number of cells, so that their cost per cell falls with more cells."""
OTHERS = ("settings_s", "cells_s", "plan_s", "manifest_s", "open_s", "resume_s")


def inputs(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths of ten contents and ten styles, parts of the example images, written to `folder`."""
    from PIL import Image

    folder.mkdir()
    names = {"content": ("astronaut", "cat", "coffee", "bridge"), "style": ("brushwork", "glass", "cafe")}
    made: dict[str, list[str]] = {}
    for axis, sources in names.items():
        for number in range(EDGES):
            with Image.open(work.EXAMPLES / f"{sources[number % len(sources)]}.jpg") as image:
                turn, edge = number // len(sources), min(image.size) // 2
                left, top = [(0, 0), (image.width - edge, 0), (0, image.height - edge)][turn % 3]
                part = image.convert("RGB").crop((left, top, left + edge, top + edge))
                path = folder / f"{axis}-{number}.png"
                part.resize((64, 64), Image.Resampling.LANCZOS).save(path)
            made.setdefault(axis, []).append(str(path))
    return tuple(made["content"]), tuple(made["style"])


class Simulated:
    """A simulated device: content and style mixed by ratio, grain by seed, falling loss curves."""

    def __init__(self, steps: int) -> None:
        self._step, self._last = np.arange(steps + 1), steps
        self._grain = np.random.default_rng(0).normal(0, 1, (64, EDGE_PX, EDGE_PX, 1)).astype(np.float32)

    @functools.lru_cache(64)  # noqa: B019
    def _pixels(self, path: str) -> np.ndarray:
        from jaxstyle.inputs import decode
        from jaxstyle.inputs.resize import fit

        return fit(decode.read(path).pixels, EDGE_PX, EDGE_PX).astype(np.float32)

    def __call__(self, cells: Sequence[Cell]) -> ChunkResult:
        """The results of `cells`."""
        from jaxstyle.rundir.chunks import ChunkResult
        from jaxstyle.spec.tables import LOSSES

        ids, seeds = (np.array([getattr(c, name) for c in cells], np.int64) for name in ("id", "seed"))
        ratio = np.array([c.alpha_beta for c in cells], np.float32)
        share = np.clip(0.5 + 0.14 * np.log10(ratio / 1e-3), 0.08, 0.92)[:, None, None, None]
        image = np.empty((len(cells), 1, EDGE_PX, EDGE_PX, 3), np.uint8)
        for i, cell in enumerate(cells):
            mixed = share[i] * self._pixels(cell.content) + (1 - share[i]) * self._pixels(cell.style)
            image[i, 0] = np.clip(mixed + 12 * self._grain[seeds[i] % 64], 0, 255)
        level = 10 ** (0.1 * np.sin(ids % 1009)).astype(np.float32)[:, None]
        fall = np.exp(-6 * (self._step / self._last) ** 0.5).astype(np.float32) * level + 0.003
        curves = np.stack([np.zeros_like(fall), 3e10 * fall**0.5, 2e8 * fall / share[:, :, 0, 0]])
        curves[0] = ratio[:, None] * curves[1] + curves[2]
        bad = ids % DIVERGED == DIVERGED - 1
        curves[:, bad, self._last // 3 :] = np.nan
        best = np.nanargmin(curves[0], axis=1)
        final = np.where(bad, self._last // 3 - 1, self._last)
        return ChunkResult(
            cell=ids,
            image=image,
            snapshot=(self._last,),
            step=tuple(self._step.tolist()),
            layer=LAYERS,
            curves=dict(zip(LOSSES, curves, strict=True)),
            style_layer_loss=np.repeat(curves[2][:, :, None] / len(LAYERS), len(LAYERS), axis=2),
            diverged_step=np.where(bad, self._last // 3, -1).astype(np.int64),
            loss_best=curves[0][np.arange(len(ids)), best],
            step_best=best.astype(np.int64),
            evaluations=np.full(len(ids), self._last + 1, np.float32),
            steps=np.full(len(ids), self._last, np.int64),
            loss_final=curves[:, np.arange(len(ids)), final].T.copy(),
        )


class Clock:
    """Seconds by stage, in wall time and in processor time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside as that of stage `name`, except for stages nested in it."""
        both = (self.seconds, time.perf_counter), (self.cpu_seconds, _cpu_seconds)
        before = [(sum(spent.values()), now()) for spent, now in both]
        try:
            yield
        finally:
            for (spent, now), (others, began) in zip(both, before, strict=True):
                inside = sum(spent.values()) - others
                spent[name] = spent.get(name, 0.0) + now() - began - inside

    def watch(self, stack: contextlib.ExitStack, module: Any, function: str, name: str) -> None:
        """Count every call of a module's function as the stage `name`, as long as `stack` is open."""
        real = getattr(module, function)

        @functools.wraps(real)
        def timed(*arguments: Any, **named: Any) -> Any:
            with self.stage(name):
                return real(*arguments, **named)

        setattr(module, function, timed)
        stack.callback(setattr, module, function, real)


def _cpu_seconds() -> float:
    """Processor seconds used by this process and by those that it waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def peak_bytes() -> int:
    """Peak memory of this process; `ru_maxrss` would include that of its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise SystemExit("bench: error: /proc/self/status has no VmHWM: the bench needs Linux")


def _merge_peak(pipe: Any, path: Path) -> None:
    """Send the peak memory of a process that does nothing but merge the run at `path`."""
    from jaxstyle.rundir.results_h5 import merge_into

    merge_into(path, path / "again.h5")
    (path / "again.h5").unlink()
    pipe.send(peak_bytes())


def _manifest(sources: Any, plan: Any, status: str, digests: dict[str, str]) -> dict[str, Any]:
    """The parts of a run's manifest that grow with the run or that `--resume` reads."""
    from jaxstyle.plan.chunks import plan_record
    from jaxstyle.rundir.fingerprints import SCHEMA

    return {
        "schema": SCHEMA,
        "status": status,
        "device": {"platform": "cpu", "kind": "simulated"},
        "threads": 1,
        "versions": {},
        "weights": {"sha256": sources.weights},
        "images": {path: {"sha256": digest} for path, digest in sources.images.items()},
        "given": {"content": {p: Path(p).name for p in sources.sweep.content}},
        "plan": {"cells": len(plan.cells), "twins": {}, **plan_record(plan)},
        "programs": [],
        "chunks_sha256": digests,
        "timings": {},
    }


def simulate(count: int, folder: Path, platform: str, steps: int = STEPS) -> dict[str, Any]:
    """Simulate a run of at least `count` cells in `folder / "run"`; its costs.

    Args:
        count: number of cells; a multiple of 1,000 is used exactly.
        folder: an empty folder.
        platform: as in `planner.make_plan`: a CPU's chunks are many and small, a GPU's as large as can be.
        steps: steps of every cell, all of whose losses are kept; at least 6.
    """
    from jaxstyle.console.progress import Display
    from jaxstyle.derived import build
    from jaxstyle.derived import page as derived_page
    from jaxstyle.derived.build import build_derived, write_page
    from jaxstyle.inputs import decode
    from jaxstyle.plan.cells import sweep_cells
    from jaxstyle.plan.planner import make_plan
    from jaxstyle.rundir import chunks, fingerprints, resume
    from jaxstyle.rundir.directory import RunDirectory
    from jaxstyle.rundir.image_files import write_images
    from jaxstyle.rundir.picture_names import PictureNames
    from jaxstyle.spec.resolve import resolve
    from jaxstyle.spec.settings import Sweep
    from jaxstyle.spec.toml import to_toml

    edges = EDGES if count >= EDGES**3 else 2
    contents, styles = inputs(folder / "inputs")
    seeds = -(-count // edges**3)
    clock, device, path = Clock(), Simulated(steps), folder / "run"
    base_bytes = peak_bytes()
    with clock.stage("settings_s"):
        asked = Sweep(
            content=contents[:edges],
            style=styles[:edges],
            alpha_beta=tuple(10.0 ** (1 - i) for i in range(edges)),
            seed=(f"0:{seeds}",),
            steps=(steps,),
            max_cells=max(count, edges**3 * seeds),
        )
        sweep = resolve(asked)
        digests = {name: decode.read(name).sha256 for name in (*sweep.content, *sweep.style)}
    with clock.stage("cells_s"):
        cells = sweep_cells(sweep)
        names = PictureNames(cells, sweep.steps, sweep.given)
    with clock.stage("plan_s"):
        plan = make_plan(
            sweep,
            cells,
            {cell.content: (EDGE_PX, EDGE_PX) for cell in cells},
            platform=platform,
            choose_width=lambda *_: 1 if platform == "cpu" else 64,
        )
    sources = fingerprints.Sources(sweep, digests, "simulated")
    sums: dict[str, str] = {}
    with RunDirectory(path, create=True) as run, Display(quiet=True, events=[path / "events.jsonl"]) as say:
        run.write("spec.toml", to_toml(sweep, digests))
        with clock.stage("manifest_s"):
            run.write("manifest.json", json.dumps(_manifest(sources, plan, "running", sums), indent=1))
        result, data = None, b""
        for chunk in plan.chunks:
            result = device([plan.cells[i] for i in chunk.cells])  # simulating counts for no stage
            with clock.stage("results_s"):
                mark = fingerprints.fingerprint(sources, plan, chunk.number)
                width = plan.programs[chunk.program].width
                data = chunks.chunk_bytes([result], width=width, fingerprint=mark)
                sums[chunks.chunk_name(chunk.number)] = hashlib.sha256(data).hexdigest()
            with clock.stage("commit_s"):
                run.write(chunks.chunk_name(chunk.number), data)
            with clock.stage("pngs_s"):
                write_images(run, result, names)
            with clock.stage("events_s"):
                say.event("chunk", chunk=chunk.number, cells=list(chunk.cells))
        del result, data
        swept_bytes = peak_bytes()
        with contextlib.ExitStack() as stack:
            for module, function, name in (
                (build, "open_record", "open_s"),
                (build, "merge", "merge_s"),
                (build, "read_rows", "rows_s"),
                (build, "write_sheets", "sheets_s"),
                (derived_page, "html", "page_s"),
            ):
                clock.watch(stack, module, function, name)
            with clock.stage("csv_s"):
                built = build_derived(run, pictures=False, with_page=False)
            with clock.stage("manifest_s"):
                run.write("manifest.json", json.dumps(_manifest(sources, plan, "done", sums), indent=1))
            with clock.stage("page_s"):
                write_page(run, built.rows)
        reported_bytes = peak_bytes()
        made = (len(built.rows), sum(row["status"] == "diverged" for row in built.rows), len(built.sheets))
        del built
    with clock.stage("resume_s"):
        earlier = resume.find(path)
        assert earlier is not None
        before, whole = earlier.plan, 0
        with RunDirectory(path) as run, Display(quiet=True) as say:
            for _, _, results in resume.whole_chunks(sources, before, run, say):
                whole += 1
                for part in results:
                    write_images(run, part, names, missing=True)
    assert whole == len(plan.chunks)
    entries = [entry.stat().st_size for name in ("images", "chunks") for entry in os.scandir(path / name)]
    sizes = {p.name: p.stat().st_size for p in sorted(path.iterdir()) if p.is_file()}
    return {
        "cells": made[0],
        "diverged": made[1],
        "sheets": made[2],
        "chunks": len(plan.chunks),
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "base_bytes": base_bytes,
        "peak_bytes": {"sweep": swept_bytes, "report": reported_bytes, "resume": peak_bytes()},
        "files": len(entries) + len(sizes),
        "disk_bytes": sum(entries) + sum(sizes.values()),
        "file_bytes": sizes,
    }


def _measure(pipe: Any, count: int, folder: Path, platform: str, steps: int) -> None:
    pipe.send(simulate(count, folder, platform, steps))


def painted(path: Path) -> dict[str, Any] | None:
    """The time until the page is displayed, and what it then contains; None without a browser."""
    from tests import browser

    if (program := browser.find()) is None:
        return None
    with browser.started(program) as page:
        page.window(1440, 900)
        began = time.perf_counter()
        page.open(path)
        opened_s = time.perf_counter() - began
        return {
            "opened_s": opened_s,
            "painted_ms": float(page.value("document.documentElement.dataset.paintedMs")),
            "pictures": page.value("document.querySelectorAll('button.tile').length"),
            "heap_bytes": int(page.value("performance.memory.usedJSHeapSize")),
            "complaints": page.complaints,
        }


def _fsync_ms(folder: Path) -> float:
    """The median time to flush a small file to the disk, beside whatever else the disk does."""
    from jaxstyle.rundir.files import write_atomic

    times = []
    for number in range(50):
        began = time.perf_counter()
        write_atomic(folder / f"{number}", b"x" * 2048)
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def measure(count: int, root: Path | None, platform: str, steps: int) -> dict[str, Any]:
    """All measurements for one number of cells."""
    with tempfile.TemporaryDirectory(prefix="jaxstyle-host-", dir=root) as name:
        folder = Path(name)
        (folder / "disk").mkdir()
        fsync_ms = _fsync_ms(folder / "disk")
        row = processes.in_process(_measure, count, folder, platform, steps)
        row["peak_bytes"]["merge"] = processes.in_process(_merge_peak, folder / "run")
        row["page"] = painted(folder / "run" / "report.html")
        row["fsync_ms"] = fsync_ms
        stages = (*OTHERS, *SWEEP_STAGES, *REPORT_STAGES)
        assert set(row["seconds"]) <= set(stages), row["seconds"]
        for kind, seconds in (("us_per_cell", "seconds"), ("cpu_us_per_cell", "cpu_seconds")):
            us = {name: 1e6 * row[seconds].get(name, 0.0) / row["cells"] for name in stages}
            each = sum(value for name, value in us.items() if name not in BOUNDED)
            row[kind] = us | {"all": sum(us.values()), "each": each}
        return row


HEAD = (
    "    cells chunks us/cell     cpu | plan commit  pngs  merge   csv sheets  page resume | peak MB  page"
)


def _line(row: dict[str, Any]) -> str:
    us = row["us_per_cell"]
    plan = us["settings_s"] + us["cells_s"] + us["plan_s"]
    commit = us["results_s"] + us["commit_s"] + us["events_s"]
    csv, peak = us["rows_s"] + us["csv_s"], max(row["peak_bytes"].values()) / 1e6
    report = f"{us['merge_s']:6.0f} {csv:5.0f} {us['sheets_s']:6.0f} {us['page_s']:5.0f}"
    sweep = f"{plan:5.0f} {commit:6.0f} {us['pngs_s']:5.0f}"
    return (
        f"{row['cells']:9,} {row['chunks']:6} {us['all']:7.0f} {row['cpu_us_per_cell']['each']:7.0f} |"
        f"{sweep} {report}"
        f" {us['resume_s']:6.0f} | {peak:7.0f} {row['file_bytes']['report.html'] / 1e6:7.1f}"
    )


def main(arguments: Sequence[str]) -> None:
    """Simulate, print a table and save it."""
    parser = argparse.ArgumentParser(
        prog="python -m bench host", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--cells", type=int, nargs="+", default=list(CELLS), help="numbers of cells, ascending"
    )
    parser.add_argument(
        "--platform", default="cpu", choices=("cpu", "gpu"), help="the device that chunks are planned for"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of every cell")
    parser.add_argument("--folder", type=Path, help="folder for the runs (default: the system's)")
    parser.add_argument("--out", type=Path, help="the file to save (default: in bench/results)")
    args = parser.parse_args(arguments)
    rows = []
    print(HEAD)
    for count in sorted(args.cells):
        rows.append(measure(count, args.folder, args.platform, args.steps))
        print(_line(rows[-1]), flush=True)
    cpu, wall = (
        rows[-1][kind]["each"] / rows[0][kind]["each"] for kind in ("cpu_us_per_cell", "us_per_cell")
    )
    peak = max(max(row["peak_bytes"].values()) for row in rows)
    values = {
        "device": work.device(),
        "sweep": {"edge_px": EDGE_PX, "steps": args.steps, "plan": args.platform},
        "last_over_first": {"cpu": cpu, "wall": wall},
        "constant": {"cpu": cpu <= WITHIN, "wall": wall <= WITHIN},
        "peak_bytes": peak,
        "rows": rows,
    }
    path = work.save("host", arguments, args.platform, values, path=args.out)
    print(
        f"one of {rows[-1]['cells']:,} cells takes {cpu:.2f} times the processor time and {wall:.2f} times"
        f" the time of one of {rows[0]['cells']:,}, sheets and page apart; peak memory {peak / 1e6:.0f} MB"
    )
    print(f"saved {path}")
