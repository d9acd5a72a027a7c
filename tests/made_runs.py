"""Run directories of any size, written through the real store without computing anything."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.programs import Program
from jaxstyle.rundir.chunks import ChunkResult, chunk_bytes, chunk_name
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.fingerprints import fingerprint
from jaxstyle.rundir.records import Record, open_record
from jaxstyle.rundir.results_h5 import merge
from jaxstyle.spec import tables
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import Sweep
from jaxstyle.spec.toml import to_toml

EXAMPLES = Path(__file__).resolve().parent.parent / "jaxstyle" / "examples"
LAYERS = ("conv1_1", "conv4_1")


@functools.cache
def _picture(path, shape):
    with Image.open(path) as image:
        fitted = ImageOps.fit(image.convert("RGB"), shape[::-1], Image.Resampling.LANCZOS)
    return np.asarray(fitted, np.float32)


def chunk(sweep, cells, shape, *, traced=41, diverged=()):
    """Plausible results of `cells`: content and style mixed by α/β, grain by seed, falling curves."""
    sources = {path: _picture(path, shape) for cell in cells for path in (cell.content, cell.style)}
    kept, steps = len(sweep.steps), sweep.steps[-1]
    step = np.unique(np.round(np.linspace(0, steps, traced)).astype(int))
    images = np.empty((len(cells), kept, *shape, 3), np.uint8)
    curves = np.empty((3, len(cells), len(step)), np.float32)
    for i, cell in enumerate(cells):
        random = np.random.default_rng([cell.seed, len(cell.style), len(cell.content)])
        share = np.clip(0.5 + 0.14 * np.log10(cell.alpha_beta / 1e-3), 0.08, 0.92)
        style = np.roll(sources[cell.style], random.integers(0, shape[0], 2), (0, 1))
        grain = random.normal(0, 1, (*shape, 1)).astype(np.float32)
        for j, at in enumerate(sweep.steps):
            mixed = share * sources[cell.content] + (1 - share) * style
            done = (at / steps) ** 0.5
            images[i, j] = np.clip(done * mixed + (1 - done) * 128 + (8 + 90 * (1 - done)) * grain, 0, 255)
        fall = np.exp(-6 * (step / steps) ** 0.5) * 10 ** random.normal(0, 0.1) + 0.003
        curves[1, i], curves[2, i] = 3e10 * fall**0.5, 2e8 * fall / share
        curves[0, i] = cell.alpha_beta * curves[1, i] + curves[2, i]
        if cell.id in diverged:
            curves[:, i, step >= steps // 3] = np.nan
    return ChunkResult(
        cell=np.array([cell.id for cell in cells], np.int64),
        image=images,
        snapshot=sweep.steps,
        step=tuple(step.tolist()),
        layer=LAYERS,
        curves=dict(zip(tables.LOSSES, curves, strict=True)),
        style_layer_loss=np.zeros((len(cells), len(step), len(LAYERS)), np.float32),
        diverged_step=np.array([steps // 3 if c.id in diverged else -1 for c in cells], np.int64),
        loss_best=np.nanmin(curves[0], axis=1),
        step_best=step[np.nanargmin(curves[0], axis=1)].astype(np.int64),
        evaluations=np.full(len(cells), steps + 1, np.float32),
        steps=np.full(len(cells), steps, np.int64),
        loss_final=np.where(np.isnan(curves[:, :, -1]), curves[:, :, 1], curves[:, :, -1]).T.copy(),
    )


@functools.cache
def _weights_sha256():
    return hashlib.sha256((EXAMPLES.parent.parent / "weights" / "vgg19.h5").read_bytes()).hexdigest()


def write_run(path, sweep, parts, *, digests=None, manifest=None, shape=None):
    """A run directory as left by a run: spec, manifest with a plan, and a chunk file for each of `parts`.

    Args:
        sweep: a resolved sweep.
        parts: the results of each chunk, one for each image shape; cells in none of them are planned in a
            last chunk, which is missing.
        manifest: its contents beside the plan and the digests of images and weights.
        shape: of the planned program; the first result's if not given.
    """
    cells = sweep_cells(sweep)
    there = [sorted(int(i) for part in results for i in part.cell) for results in parts]
    left = sorted({cell.id for cell in cells} - {i for ids in there for i in ids})
    height, width = shape or parts[0][0].image.shape[2:4]
    program = Program(
        height_px=height,
        width_px=width,
        pool=sweep.pool[0],
        optimizer=sweep.optimizer,
        precision=sweep.precision,
        content_taps=("conv4_2",),
        style_taps=LAYERS,
        width=1,
    )
    chunks = [{"program": 0, "cells": [[i, i + 1] for i in ids]} for ids in [*there, *[left][: len(left)]]]
    files = {path for cell in cells for path in (cell.content, cell.style)}
    values = {
        "weights": {"sha256": _weights_sha256()},
        "images": {file: {"sha256": (digests or {}).get(file, file)} for file in sorted(files)},
        "plan": {"programs": [dataclasses.asdict(program)], "chunks": chunks},
        **(manifest or {}),
    }
    with RunDirectory(path, create=True) as run:
        run.write("spec.toml", to_toml(sweep, digests or {}))
        run.write("manifest.json", json.dumps(values))
        record = open_record(path)
        for number, results in enumerate(parts):
            mark = fingerprint(record.sources, record.plan, number)
            run.write(chunk_name(number), chunk_bytes(results, width=1, fingerprint=mark))
    return open_record(path)


def make_run(
    path, *, shape=(48, 64), traced=41, diverged=(), per_chunk=200, manifest=None, **axes
) -> Record:
    """A run directory with its chunks, merged; contents and styles are names of example images."""
    for axis in ("content", "style"):
        axes[axis] = tuple(name if "/" in name else str(EXAMPLES / name) for name in axes[axis])
    axes = {"steps": (60,), "alpha_beta": (1e-3,), **axes}
    sweep = resolve(Sweep(**axes))
    given = {a: {v: Path(v).name for v in axes[a]} for a in ("content", "style")}
    cells = sweep_cells(sweep)
    starts = range(0, len(cells), per_chunk)
    parts = [
        [chunk(sweep, cells[start : start + per_chunk], shape, traced=traced, diverged=diverged)]
        for start in starts
    ]
    values = {"status": "done", "device": {"kind": "cpu"}, "given": given, **(manifest or {})}
    record = write_run(path, sweep, parts, manifest=values)
    merge(record)
    return record


def sixty(path) -> Record:
    """60 cells of 176 x 192 px, one of them diverged."""
    return make_run(
        path,
        shape=(176, 192),
        content=("cat.jpg", "astronaut.jpg"),
        style=("brushwork.jpg", "glass.jpg"),
        alpha_beta=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
        seed=("0:3",),
        diverged=(7,),
        steps=(300,),
    )


def two_thousand(path) -> Record:
    """2,000 cells of 96 x 128 px."""
    return make_run(
        path,
        shape=(96, 128),
        content=("cat.jpg", "astronaut.jpg"),
        style=("brushwork.jpg", "glass.jpg"),
        alpha_beta=tuple(10.0**-i for i in range(10)),
        seed=("0:50",),
        diverged=(123, 1500),
        steps=(500,),
        traced=501,
    )


def with_variance(path) -> None:
    """A `variance.json` with every kind of block beside a run."""
    (path / "maps").mkdir(exist_ok=True)
    Image.fromarray(np.arange(64 * 64, dtype=np.uint32).reshape(64, 64).astype(np.uint8)).save(
        path / "maps" / "sd.png"
    )
    (path / "maps" / "bars.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="320" height="120">'
        '<rect x="10" y="20" width="80" height="90" fill="#868686"/>'
        '<rect x="120" y="60" width="80" height="50" fill="#868686"/></svg>'
    )
    blocks = [
        {
            "heading": "Which part of a picture its seed decides",
            "text": ["The standard deviation over seeds, by pixel."],
            "table": {
                "columns": ["content", "style", "sd", "seeds"],
                "rows": [["cat", "glass", 4.125, 3], ["astronaut", "<b>bold</b>", None, 3]],
            },
            "figures": [
                {"path": "maps/sd.png", "caption": "Standard deviation, cat in glass"},
                {"path": "maps/bars.svg", "caption": "Share of the seeds"},
            ],
        },
        {"heading": "Nothing else", "text": [], "table": None, "figures": []},
    ]
    study = {"title": "Seed variance", "intro": ["Three seeds for each setting."], "blocks": blocks}
    (path / "variance.json").write_text(json.dumps(study))
