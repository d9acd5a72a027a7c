"""Comparison of optimizers by how soon they reach a loss; `python -m bench optimizers`.

Every scheme runs the same transfers, and what counts is its cost of reaching the lowest loss that Adam at a
rate of 10 has seen in its first 100, 300, 1000 and 3000 steps: in evaluations of the full size (those of
coarser stages counted by their share of pixels), and in seconds, by the median time of a step of each
stage, all measured in turn in one call. Compiling is left out, because a sweep compiles once.

Runs are kept in a folder and not repeated, so that an interrupted study continues where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from bench import processes, work

REFERENCE = "adam 10"
LEVELS = (100, 300, 1000, 3000)
TUNED_ON = ("cat:glass", "cat:brushwork", "astronaut:brushwork", "coffee:glass")
"""The pairs on which defaults were chosen."""


class Scheme(NamedTuple):
    """A way to optimise: settings of a sweep, and the number of steps it is followed for."""

    name: str
    settings: dict[str, Any]
    steps: int


def schemes(reference: int, others: int, far: int | None = None) -> list[Scheme]:
    """All schemes; Adam at 10 takes `reference` steps, the others as many as they may need.

    Args:
        reference: steps of Adam at a rate of 10.
        others: steps of the other rates and schedules.
        far: steps of L-BFGS at m 30; a quarter of `reference` if not given.
    """

    def adam(rate: float, **settings: Any) -> dict[str, Any]:
        return {"optimizer": "adam", "learning_rate": (rate,), **settings}

    found = [Scheme(REFERENCE, adam(10.0), reference)]
    found += [Scheme(f"adam {rate}", adam(float(rate)), others) for rate in (5, 20)]
    decay = adam(10.0, schedule="decay")
    found += [Scheme(f"adam 10, decay over {n}", decay, n) for n in (300, 1000) if n <= others]
    found += [Scheme("adam 10, pyramid 2", adam(10.0, pyramid=2), others)]
    far, near = far or reference * 6 // 25, min(others, reference) * 2 // 5
    for memory, pyramid in itertools.product((10, 30), (0, 1, 2)):
        settings = {"optimizer": "lbfgs", "lbfgs_memory": memory, "pyramid": pyramid}
        followed = far if memory == 30 and pyramid != 1 else near
        found.append(Scheme(f"lbfgs m {memory}, pyramid {pyramid}", settings, followed))
    return found


def find_image(name: str, folder: Path | None) -> str:
    """The path of an image of the package, or in `folder`, by its name without extension."""
    for place in (work.EXAMPLES, folder):
        for path in sorted(place.glob(f"{name}.*")) if place else ():
            return str(path)
    raise SystemExit(f"bench: error: no image named {name}; give --images FOLDER")


def _sweep(
    scheme: Scheme, pairs: Sequence[tuple[str, str]], size: int, seeds: int, inits: Sequence[str]
) -> Any:
    from jaxstyle import Sweep

    # The seed only affects noise: other starts have one outcome.
    tables = [
        {
            "content": [content],
            "style": [style],
            "init": [init],
            "seed": list(range(seeds if init == "noise" else 1)),
        }
        for content, style in pairs
        for init in inits
    ]
    return Sweep(
        **scheme.settings,
        alpha_beta=(1e-3,),
        grid=tuple(tables),
        size=str(size),
        steps=(scheme.steps,),
        keep="best",
    )


def _run(pipe: Any, sweep: Any, folder: Path) -> None:
    from jaxstyle import RunOptions, run_sweep
    from jaxstyle.console import allocator

    allocator.keep_freed_memory()
    run_sweep(sweep, RunOptions(out=str(folder), resume=(folder / "manifest.json").exists()))
    pipe.send(None)


class Curve(NamedTuple):
    """The loss curve of one transfer."""

    label: tuple[str, str, str, int]
    """Content, style, init, seed."""
    loss: np.ndarray
    """Loss of the result after every step of the full size."""
    coarse: float
    """Evaluations of coarser stages, counted by their share of pixels."""
    shape: str


def curves(folder: Path) -> list[Curve]:
    """The loss curves of a finished run."""
    found = []
    with h5py.File(folder / "results.h5") as file:
        for shape, group in file.items():
            axes = {a: group[a][()] for a in ("content", "style", "init", "seed")}
            for i, loss in enumerate(group["loss_total"][()]):
                label = (
                    Path(axes["content"][i].decode()).stem,
                    Path(axes["style"][i].decode()).stem,
                    axes["init"][i].decode(),
                    int(axes["seed"][i]),
                )
                found.append(Curve(label, loss, float(group["evaluations"][i]) - len(loss), shape))
    return found


def steps_to(loss: np.ndarray, level: float) -> int | None:
    """The first step whose loss is at most `level`."""
    reached = np.flatnonzero(loss <= level)
    return int(reached[0]) if len(reached) else None


class Timed(NamedTuple):
    """Seconds per step in each stage of a scheme."""

    full: float
    coarse: tuple[float, ...]
    """Seconds by stage, the coarsest first."""


def _time_steps(pipe: Any, sweeps: Sequence[Any], shapes: Sequence[tuple[int, int]], rounds: int) -> None:
    """Send the seconds per step of every stage, by sweep and shape: medians of alternating rounds."""
    import jax

    from jaxstyle.cell.knobs import knobs_of
    from jaxstyle.console import allocator
    from jaxstyle.device import engine
    from jaxstyle.device.drive import Stage
    from jaxstyle.inputs import decode, weights
    from jaxstyle.inputs.preprocess import mean_image
    from jaxstyle.inputs.resize import fit
    from jaxstyle.plan.cells import sweep_cells
    from jaxstyle.plan.planner import make_plan
    from jaxstyle.spec.resolve import resolve

    allocator.keep_freed_memory()
    machine = engine.Engine(weights.load().layers)
    drives: dict[tuple[int, tuple[int, int], int], Any] = {}
    for index, shape in itertools.product(range(len(sweeps)), shapes):
        sweep = resolve(sweeps[index])
        cell = sweep_cells(sweep)[0]
        plan = make_plan(
            sweep,
            [cell],
            {cell.content: shape},
            platform=machine.device.platform,
            choose_width=lambda *_: 1,
        )
        program = plan.programs[0]
        for coarser in range(program.coarser + 1):
            stage = program.stage(coarser)
            extent = stage.height_px, stage.width_px
            pixels = fit(decode.read(cell.content).pixels, *extent)
            rows = jax.tree.map(lambda x: x[None], machine.target_rows(stage, pixels, of_cells=True))
            knobs = knobs_of(cell, stage, sweep, content_row=0, style_row=0, extent=extent)
            launch = Stage(jax.tree.map(lambda x: x[None], knobs), rows)
            start = mean_image(*extent)[None]
            drives[index, shape, coarser] = machine._begin(stage, coarser, launch, start, [])
    taken: dict[Any, list[float]] = {key: [] for key in drives}
    done = 2
    for drive in drives.values():
        list(drive.to(done))
    for turn in range(rounds):
        for key in list(drives) if turn % 2 == 0 else list(drives)[::-1]:
            began = time.perf_counter()
            list(drives[key].to(done + 4))
            taken[key].append((time.perf_counter() - began) / 4)
        done += 4
    pipe.send({key: statistics.median(values) for key, values in taken.items()})


def compare(
    found: dict[str, list[Curve]], timed: dict[str, dict[str, Timed]], tried: Sequence[Scheme]
) -> list[dict[str, Any]]:
    """A line for every scheme, transfer and level: evaluations, and time over Adam's, to reach it."""
    from jaxstyle.plan.stages import COARSE_EVALUATIONS

    reference = {curve.label: curve for curve in found[REFERENCE]}
    lines = []
    for scheme in tried:
        for curve in found[scheme.name]:
            best = np.minimum.accumulate(reference[curve.label].loss)
            full_s, coarse_s = timed[scheme.name][curve.shape]
            before_s = COARSE_EVALUATIONS * sum(coarse_s)
            for level in (n for n in LEVELS if n < len(best)):
                steps = steps_to(curve.loss, best[level])
                # Adam saw its best of `level` steps earlier, but that many steps are paid for all the same.
                paid = level * timed[REFERENCE][curve.shape].full
                lines.append(
                    {
                        "scheme": scheme.name,
                        "content": curve.label[0],
                        "style": curve.label[1],
                        "init": curve.label[2],
                        "seed": curve.label[3],
                        "shape": curve.shape,
                        "level": level,
                        "steps": steps,
                        "evaluations": None if steps is None else round(steps + 1 + curve.coarse, 2),
                        "time_ratio": None
                        if steps is None
                        else round((before_s + (steps + 1) * full_s) / paid, 4),
                        "loss_at_end": float(np.minimum.accumulate(curve.loss)[-1] / best[level]),
                        "followed": scheme.steps,
                    }
                )
    return lines


def _median(values: Sequence[float | None]) -> float | None:
    """The median, in which a level that was not reached counts as beyond all others."""
    ordered = sorted(np.inf if v is None else v for v in values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return None if not ordered or np.isinf(middle) else float(middle)


def summary(lines: Sequence[dict[str, Any]], held_out: bool | None = None) -> list[dict[str, Any]]:
    """Medians over transfers, by scheme, start and level.

    Args:
        lines: from `compare`.
        held_out: True for only the held-out pairs, False for only the others; all pairs if not given.
    """
    groups: dict[Any, list[dict[str, Any]]] = {}
    for line in lines:
        tuned = f"{line['content']}:{line['style']}" in TUNED_ON
        if held_out is None or held_out is not tuned:
            groups.setdefault((line["scheme"], line["init"], line["level"]), []).append(line)
    return [
        {
            "scheme": scheme,
            "init": init,
            "level": level,
            "transfers": len(group),
            "reached": sum(line["steps"] is not None for line in group),
            "evaluations": _median([line["evaluations"] for line in group]),
            "time_ratio": _median([line["time_ratio"] for line in group]),
        }
        for (scheme, init, level), group in groups.items()
    ]


def print_table(medians: Sequence[dict[str, Any]], size: int, title: str) -> None:
    """Print medians of evaluations and of time over Adam's, by scheme and level."""
    for init in dict.fromkeys(line["init"] for line in medians):
        own = [line for line in medians if line["init"] == init]
        levels = list(dict.fromkeys(line["level"] for line in own))
        count = max(line["transfers"] for line in own)
        print(f"\n{size} px, from {init}, {title}: {count} transfers")
        print(f"  {'evaluations (time over Adam)':30}" + "".join(f"{f'to A-{n}':>18}" for n in levels))
        for scheme in dict.fromkeys(line["scheme"] for line in own):
            texts = []
            for level in levels:
                line = next(x for x in own if (x["scheme"], x["level"]) == (scheme, level))
                if line["evaluations"] is None:
                    texts.append(f"{line['reached']}/{line['transfers']} reach it")
                else:
                    texts.append(f"{line['evaluations']:.0f} ({line['time_ratio']:.2f})")
            print(f"  {scheme:30}" + "".join(f"{text:>18}" for text in texts))
    sys.stdout.flush()


def speckle(pixels: np.ndarray) -> float:
    """Grey levels (rms) by which the two chroma channels differ from their 3x3 mean."""
    from PIL import Image

    chroma = np.asarray(Image.fromarray(pixels).convert("YCbCr"), np.float64)[..., 1:]
    h, w = chroma.shape[0] - 2, chroma.shape[1] - 2
    mean = sum(chroma[i : i + h, j : j + w] for i in range(3) for j in range(3)) / 9
    return float(np.sqrt(np.mean((chroma[1:-1, 1:-1] - mean) ** 2)))


PICTURES = (
    ("Adam", {"optimizer": "adam"}, (100, 300, 1000)),
    ("L-BFGS", {"optimizer": "lbfgs", "pyramid": 0}, (100, 250)),
    ("default", {}, (100, 250)),
)
"""Columns of the sheet: settings, and the steps at which they are shown."""


def pictures(
    pairs: Sequence[tuple[str, str]], size: int, folder: Path, path: Path
) -> dict[str, list[float]]:
    """Write a sheet of noise starts by Adam and by the defaults; return the speckle by column and row."""
    from jaxstyle import open_run
    from jaxstyle.inputs import decode
    from jaxstyle.inputs.resize import resize

    columns = {"content": [resize(decode.read(c).pixels, size) for c, _ in pairs]}
    columns["style"] = [resize(decode.read(s).pixels, size) for _, s in pairs]
    for name, settings, steps in PICTURES:
        own = folder / f"pictures-{size}-{name}"
        sweep = _sweep(Scheme(name, settings, steps[-1]), pairs, size, 1, ["noise"])
        if not _is_done(own):
            processes.in_process(_run, replace(sweep, steps=steps, keep="last"), own)
        run = open_run(own)
        for n in steps:
            names = [row["image"].replace(".png", f"-step{n:06d}.png") for row in run.rows]
            finals = [row["image"] for row in run.rows]
            chosen = finals if n == steps[-1] else names
            columns[f"{name} {n}"] = [decode.read(str(run.path / x)).pixels for x in chosen]
    work.sheet(list(columns.values()), list(columns), path)
    return {name: [round(speckle(p), 2) for p in own] for name, own in columns.items()}


def _is_done(folder: Path) -> bool:
    manifest = folder / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_text())["status"] == "done"


def plot(found: dict[str, list[Curve]], names: Sequence[str], path: Path, title: str) -> None:
    """Plot the loss over Adam's best against evaluations: medians over transfers."""
    import matplotlib as mpl

    mpl.use("svg" if path.suffix == ".svg" else "agg")
    from matplotlib import pyplot, ticker

    inits = list(dict.fromkeys(curve.label[2] for curve in found[REFERENCE]))
    figure, axes = pyplot.subplots(1, len(inits), figsize=(6 * len(inits), 4.5), squeeze=False, sharey=True)
    floor = {curve.label: float(curve.loss.min()) for curve in found[REFERENCE]}
    for axis, init in zip(axes[0], inits, strict=True):
        for name in names:
            own = [curve for curve in found[name] if curve.label[2] == init]
            ratios = np.median([curve.loss / floor[curve.label] for curve in own], axis=0)
            at = np.arange(len(ratios)) + 1 + own[0].coarse
            axis.plot(at, ratios, label=name, linewidth=1.2)
        axis.set(xscale="log", yscale="log", xlabel="evaluations", title=f"from {init}")
        axis.set(xlim=(15, None), ylim=(0.95, 6))
        ticks = [1, 1.1, 1.25, 1.5, 2, 3, 5]
        axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axis.yaxis.set_minor_locator(ticker.NullLocator())
        axis.xaxis.set_major_formatter(ticker.ScalarFormatter())
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("loss / Adam's best")
    axes[0][-1].legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(arguments: Sequence[str]) -> None:
    """Run every scheme, print tables, save them and the curves."""
    parser = argparse.ArgumentParser(
        prog="python -m bench optimizers", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--pairs", nargs="+", default=list(TUNED_ON), help="CONTENT:STYLE, names of images")
    parser.add_argument("--images", type=Path, help="folder with images that do not come with the package")
    parser.add_argument("--size", type=int, default=128, help="longest edge in px (default: 128)")
    parser.add_argument("--seeds", type=int, default=3, help="of noise starts (default: 3)")
    parser.add_argument("--init", nargs="+", default=["noise", "content"])
    parser.add_argument("--reference", type=int, default=3000, help="steps of Adam at 10 (default: 3000)")
    parser.add_argument("--others", type=int, default=1000, help="steps of other schemes (default: 1000)")
    parser.add_argument("--far", type=int, help="steps of lbfgs m 30 (default: 6/25 of --reference)")
    parser.add_argument("--schemes", nargs="+", help="only these (adam 10 always)")
    parser.add_argument("--pictures", nargs="*", help="pairs to make a sheet of")
    parser.add_argument("--rounds", type=int, default=9, help="of timing steps")
    parser.add_argument("--keep", type=Path, default=Path("runs/bench-optimizers"), help="where runs stay")
    parser.add_argument("--name", default="", help="what the results are called after beside the size")
    args = parser.parse_args(arguments)
    known = schemes(args.reference, args.others, args.far)
    tried = [s for s in known if not args.schemes or s.name in (REFERENCE, *args.schemes)]
    pairs = [
        (find_image(c, args.images), find_image(s, args.images))
        for c, s in (p.split(":") for p in args.pairs)
    ]
    found, sweeps = {}, []
    for scheme in tried:
        sweep = _sweep(scheme, pairs, args.size, args.seeds, args.init)
        sweeps.append(sweep)
        key = f"{args.name}{args.size}-{scheme.name}-{scheme.steps}".replace(" ", "-").replace(",", "")
        digest = hashlib.sha256(repr(sweep).encode()).hexdigest()[:8]  # other pairs are another run
        folder = args.keep / f"{key}-{digest}"
        if not _is_done(folder):
            print(f"{scheme.name}: {folder}", flush=True)
            processes.in_process(_run, sweep, folder)
        found[scheme.name] = curves(folder)
    shapes = sorted({curve.shape for curve in found[REFERENCE]})
    as_shape = [(int(h), int(w)) for h, w in (shape.split("x") for shape in shapes)]
    seconds = processes.in_process(_time_steps, sweeps, as_shape, args.rounds)
    timed = {}
    for index, scheme in enumerate(tried):
        timed[scheme.name] = {}
        for name, shape in zip(shapes, as_shape, strict=True):
            own = sorted(((k[2], s) for k, s in seconds.items() if k[:2] == (index, shape)), reverse=True)
            timed[scheme.name][name] = Timed(own[-1][1], tuple(s for _, s in own[:-1]))
    lines = compare(found, timed, tried)
    print_table(summary(lines), args.size, "all pairs")
    if any(p not in TUNED_ON for p in args.pairs) and any(p in TUNED_ON for p in args.pairs):
        print_table(summary(lines, held_out=True), args.size, "pairs that nothing was chosen on")
    about = work.device()
    tag = f"{args.name}{args.size}px"
    values = {
        "device": about,
        "step_s": {n: {shape: t._asdict() for shape, t in own.items()} for n, own in timed.items()},
        "medians": summary(lines),
        "medians_held_out": summary(lines, held_out=True),
        "lines": lines,
    }
    path = work.save("optimizers", arguments, about["platform"], values, tag=tag)
    names = [scheme.name for scheme in tried if not scheme.name.startswith("lbfgs m 10")]
    plot(found, names, path.with_suffix(".png"), f"{args.size} px, medians over transfers")
    print(f"saved {path} and {path.with_suffix('.png').name}")
    if args.pictures:
        shown = [pair for p, pair in zip(args.pairs, pairs, strict=True) if p in args.pictures]
        where = path.with_name(f"{path.stem}-pictures.png")
        values["speckle"] = pictures(shown, args.size, args.keep, where)
        for column, own in values["speckle"].items():
            print(f"  speckle {column:14}" + "".join(f"{s:8.2f}" for s in own))
        work.save("optimizers", arguments, about["platform"], values, tag=tag)
