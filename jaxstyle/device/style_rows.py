"""Targets of styles: of an image, of a file of moments, or of a blend of several.

Whatever a style is, it is one row of `Targets.style`, and its program is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxstyle.cell.state import Targets
from jaxstyle.inputs.target_files import TargetFile
from jaxstyle.plan.cells import Cell, Source
from jaxstyle.plan.programs import Program
from jaxstyle.spec.tables import STYLE_LOSSES, function
from jaxstyle.vgg import layers


def style_rows(
    cell: Cell,
    program: Program,
    files: Mapping[str, TargetFile],
    of_image: Callable[[Source], Targets],
) -> Targets:
    """The targets of a cell's style, without P.

    Args:
        cell: a cell that has a style.
        program: the program that compares cells with them.
        files: its files of targets, by path.
        of_image: function of a part of `cell.style_parts` that is an image: its targets.
    """
    rows = [
        _of_file(program, files[source[0]]) if source[0] in files else of_image(source)
        for source, _ in cell.style_parts
    ]
    if len(rows) == 1:
        return rows[0]._replace(content=())  # only A is ever used of a style
    blend: Any = function(STYLE_LOSSES[program.style_loss].blend)
    weights = [weight for _, weight in cell.style_parts]
    kept = zip(*(row.style for row in rows), strict=True)
    if program.regions:
        return Targets(content=(), style=tuple(_of_regions(layer, weights, blend) for layer in kept))
    return Targets(content=(), style=tuple(blend(layer, weights) for layer in kept))


def _of_regions(
    kept: Sequence[np.ndarray], weights: Sequence[float], blend: Callable[..., Any]
) -> Float[np.ndarray, "regions c c"]:
    """The blend of every region, of those images that have it; what an image keeps of others is 0."""
    found = np.zeros_like(kept[0])
    for region, target in enumerate(found):
        own = [(of[region], weight) for of, weight in zip(kept, weights, strict=True) if of[region].any()]
        total = sum(weight for _, weight in own)
        if own:
            target[:] = blend([of for of, _ in own], [weight / total for _, weight in own])
    return found


def _of_file(program: Program, file: TargetFile) -> Targets:
    """The targets in a file; unit matrices at layers that it lacks, where all its weights are 0."""
    own, of_moments = file.layers, function(STYLE_LOSSES[program.style_loss].of_moments)
    found = []
    for name in program.style_taps:
        n = layers.tap(name).channels
        gram, mean = own[name][:2] if name in own else (np.eye(n), np.zeros(n))
        found.append(of_moments(gram, mean))
    return Targets(content=(), style=tuple(found))
