"""Launches in the form that is stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxstyle.inputs.pictures import Pictures
from jaxstyle.plan.cells import lacked_losses
from jaxstyle.plan.chunks import Chunk, Plan
from jaxstyle.plan.programs import Program
from jaxstyle.plan.stages import evaluation_count
from jaxstyle.run.launcher import LaunchResult
from jaxstyle.rundir.chunks import FURTHER, ChunkResult
from jaxstyle.spec import tables
from jaxstyle.spec.tables import LAYER_CURVE, TERMS


def chunk_results(
    plan: Plan, chunk: Chunk, keep: str, pictures: Pictures, parts: Sequence[LaunchResult]
) -> list[ChunkResult]:
    """The launches of a chunk in the form that is stored: a result for each image shape, in order.

    A twin gets the result of the cell that was computed for it.
    """
    program = plan.programs[chunk.program]
    places = {id: i for i, id in enumerate(cell.id for part in parts for cell in part.cells)}
    cells = [plan.cells[i] for i in chunk.cells]
    order = [places[plan.twins.get(cell.id, cell.id)] for cell in cells]
    pixels = np.concatenate([part.pixels for part in parts])[order]
    kept = [part.floats for part in parts if part.floats is not None]
    floats = np.concatenate(kept)[order] if kept else None
    names = parts[0].curves
    curves = {name: np.concatenate([part.curves[name] for part in parts])[order] for name in names}
    further = {name: curves.pop(name) for name in FURTHER if name in curves}
    own = np.array([[tap in cell.layer_weights for tap in program.style_taps] for cell in cells])
    curves[LAYER_CURVE] = np.where(own[:, None, :], curves[LAYER_CURVE], np.nan)
    for row in map(TERMS.__getitem__, program.terms):  # of a cell that lacks its image it is a neighbour's
        if row.curve and not row.always:
            lacks = np.array([row.loss_name in lacked_losses(cell) for cell in cells])
            curves[row.loss_name] = np.where(lacks[:, None], np.nan, curves[row.loss_name])
    diverged = np.concatenate([part.diverged_step for part in parts]).astype(np.int64)[order]
    shapes = [pictures.shape(cell) for cell in cells]
    found = []
    for height, width in dict.fromkeys(shapes):
        at = np.array([i for i, shape in enumerate(shapes) if shape == (height, width)])
        found.append(
            _chunk_result(
                plan,
                program,
                keep,
                np.array([cells[i].id for i in at], np.int64),
                pixels[at, :, :height, :width],
                None if floats is None else floats[at, :, :height, :width],
                {name: values[at] for name, values in curves.items()},
                {name: values[at] for name, values in further.items()},
                diverged[at],
            )
        )
    return found


def _chunk_result(
    plan: Plan,
    program: Program,
    keep: str,
    ids: np.ndarray,
    pixels: np.ndarray,
    floats: np.ndarray | None,
    curves: dict[str, np.ndarray],
    further: dict[str, np.ndarray],
    diverged: np.ndarray,
) -> ChunkResult:
    total = np.where(np.isnan(curves["loss_total"]), np.inf, curves["loss_total"])
    best = total.argmin(axis=1)
    never = np.isinf(total.min(axis=1))
    # The image of a cell that diverged at step d is that of step d - 1; at step 0 nothing was finite.
    last = np.where(diverged < 0, plan.steps[-1], np.maximum(diverged - 1, 0))
    kept = best if keep == "best" else last
    rows = np.arange(len(ids))
    traced = {name: values[:, list(plan.trace_steps)].astype(np.float32) for name, values in curves.items()}
    losses = tables.curves(TERMS[name] for name in program.terms)
    shape = (pixels.shape[2], pixels.shape[3])
    evaluations = evaluation_count(shape, program.coarser, plan.steps[-1])
    return ChunkResult(
        cell=ids,
        image=pixels,
        image_float=floats,
        image_format=plan.image_format,
        snapshot=plan.steps,
        step=plan.trace_steps,
        layer=program.style_taps,
        diverged_step=diverged,
        loss_best=np.where(never, np.nan, total.min(axis=1)).astype(np.float32),
        step_best=np.where(never, -1, best).astype(np.int64),
        evaluations=np.full(len(ids), evaluations, np.float32),
        steps=np.full(len(ids), plan.steps[-1], np.int64),
        further=further,
        losses=tuple(losses),
        loss_final=np.stack([curves[name][rows, kept] for name in losses], axis=1),
        curves={name: traced[name] for name in losses},
        style_layer_loss=traced[LAYER_CURVE],
    )
