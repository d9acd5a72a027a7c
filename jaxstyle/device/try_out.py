"""Programs traced before a run, to see whether a plugin's functions fit."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxstyle.cell import objective, solvers
from jaxstyle.cell.poolings import border, pooling
from jaxstyle.device.batch import Layers, argument_shapes, lower
from jaxstyle.device.jax_settings import default_settings
from jaxstyle.plan.programs import Program
from jaxstyle.plan.stages import halved_shape
from jaxstyle.spec import tables
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.plugin_blame import blamed_together
from jaxstyle.spec.tables import OPTIMIZERS, TERMS
from jaxstyle.vgg.network import bind


@default_settings()
def try_out(program: Program, weights: Layers, styles: Iterable[tuple[int, int]]) -> None:
    """Trace a program as it will be compiled, so that mistakes in plugins are reported before a run begins.

    Args:
        program: a program of any width.
        weights: (kernel, bias) by layer name.
        styles: (height, width) in px of the style images.

    Raises:
        JaxstyleError: for a plugin's function that fails or returns something unsuitable.
    """
    with blamed_together(program.plugin_rows):
        _try_out(program, weights, styles)
        if OPTIMIZERS[program.optimizer].origin is not None:
            _try_optimizer(program)


def _try_out(program: Program, weights: Layers, styles: Iterable[tuple[int, int]]) -> None:
    bound = bind(
        weights,
        taps=program.taps,
        pool=pooling(program.pool, program.padding, planes=program.planes),
        planes=program.planes,
        precision=program.precision,
        border=border(program.padding),
    )
    features, params = bound.features, jax.eval_shape(lambda params: params, bound.params)
    for coarser in range(program.coarser + 1):
        stage = replace(program.stage(coarser), width=1)
        traced = [lower(stage, features, params).segment.as_text() for _ in range(2)]
        if traced[0] != traced[1]:
            where = " or ".join(row.where for row in program.plugin_rows)
            why = "traces to a different program each time; make constants that it keeps with NumPy"
            raise JaxstyleError(where, f"{why}, and random numbers from a seed of its own")
        needed = _kept_shapes(argument_shapes(stage, 1, features, params)[2].terms, rows=True)
        for shape in {halved_shape(style, coarser) for style in styles}:
            image = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
            found = jax.eval_shape(
                functools.partial(objective.target_rows, features, program=stage, role="style"),
                params=params,
                image=image,
            )
            for name, own in _kept_shapes(found.terms).items():
                if own != needed[name] and not TERMS[name].equal_sizes:
                    why = "the shape of what it keeps of a style must not depend on the size of the image"
                    raise JaxstyleError(TERMS[name].where, why)


def _try_optimizer(program: Program) -> None:
    """Look at the state of a plugin's optimizer, and at its first step down a slope.

    Raises:
        JaxstyleError: if no file can hold the state, or a transformation of optax steps upwards.
    """
    row, own = OPTIMIZERS[program.optimizer], program.optimizer_settings
    solver, image = solvers.make(row.name, own), jnp.zeros((program.height_px, program.width_px, 3))
    for leaf in jax.tree.leaves(jax.eval_shape(solver.init, image)):
        if not isinstance(leaf.dtype, np.dtype) or leaf.dtype.kind not in "biufc":
            mend = "use float32, or uint32 for a key"
            raise JaxstyleError(
                row.where, f"no checkpoint can hold {leaf.dtype}, a value of its state; {mend}"
            )
    if isinstance(tables.function(row.make)(**own), solvers.Solver):
        return  # which may look around before it steps
    slope = 1e3 * jax.random.normal(jax.random.key(0), image.shape)
    seen = solvers.Evaluation(image, jnp.float32(1.0), slope)
    move = solver.update(seen, image, solver.init(image), jnp.float32(1.0), jnp.int32(0))
    if float(jnp.sum((move.image - image) * slope)) > 0:
        why = "its first step goes up: the learning rate is subtracted already"
        raise JaxstyleError(row.where, f"{why}; give a direction alone, such as optax.scale_by_adam")


def _kept_shapes(terms: Any, *, rows: bool = False) -> dict[str, list[Any]]:
    """Shapes and types of the values that terms keep, by name; `rows` drops a leading axis of rows."""
    leaves = {name: jax.tree.leaves(of) for name, of in terms.items()}
    return {name: [(leaf.shape[rows:], leaf.dtype) for leaf in own] for name, own in leaves.items()}
