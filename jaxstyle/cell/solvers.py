"""Optimizers: their interface, and how one is made from its row in `tables`.

An optimizer sees one evaluation of the loss and its gradient at a time and asks for the next image, so that
all cells of a batch stay in step. The learning rate belongs to the cell, not to the optimizer, so that
cells with different rates share one program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxstyle.plan.programs import Program
from jaxstyle.spec import tables
from jaxstyle.spec.plugin_blame import blamed
from jaxstyle.spec.tables import OPTIMIZERS

OptimizerState = Any
"""A pytree of arrays that an optimizer carries between steps."""


class Evaluation(NamedTuple):
    """Loss and gradient of the image that the optimizer asked for."""

    image: Float[Array, "h w 3"]
    loss: Float[Array, ""]
    gradient: Float[Array, "h w 3"]


class Move(NamedTuple):
    """The response of an optimizer to an evaluation."""

    image: Float[Array, "h w 3"]
    """The image to evaluate next."""
    state: OptimizerState
    accepted: Bool[Array, ""]
    """Whether the evaluated image becomes the result; otherwise the previous result remains."""
    sound: Bool[Array, ""]
    """Whether the result has a finite loss."""
    able: Bool[Array, ""]
    """Whether everything that the next evaluation starts from is finite."""


class Solver(NamedTuple):
    """An optimizer as a row of `OPTIMIZERS` makes it."""

    init: Callable[[Float[Array, "h w 3"]], OptimizerState]
    """The state before the first evaluation of an image."""
    update: Callable[..., Move]
    """The next `Move`, from an `Evaluation`, the result so far, the state, the learning rate, and the
    number of evaluations before this one."""
    init_planes: Callable[[Float[Array, "h w 3"]], OptimizerState] | None = None
    """The state for programs with `Program.planes`, where it has another form there."""


def solver_of(program: Program) -> Solver:
    """The optimizer of a program, with its own settings."""
    solver = make(program.optimizer, program.optimizer_settings)
    if program.planes and solver.init_planes is not None:
        return solver._replace(init=solver.init_planes)
    return solver


def make(name: str, own: Mapping[str, Any]) -> Solver:
    """The optimizer called `name`, with its own settings."""
    row = OPTIMIZERS[name]
    with blamed(row.origin):
        made = tables.function(row.make)(**own)
        solver = made if isinstance(made, Solver) else _following(made)

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            with blamed(row.origin):
                return function(*arguments)

        return called

    planes = None if solver.init_planes is None else guarded(solver.init_planes)
    return Solver(guarded(solver.init), guarded(solver.update), planes)


def _following(transformation: optax.GradientTransformation) -> Solver:
    """The solver that steps by the learning rate along the direction that `transformation` gives."""

    def update(
        seen: Evaluation,
        result: Float[Array, "h w 3"],
        state: OptimizerState,
        learning_rate: Float[Array, ""],
        index: Int[Array, ""],
    ) -> Move:
        direction: Any
        direction, state = transformation.update(seen.gradient, state, seen.image)
        next_image = seen.image - learning_rate * direction
        finite = jnp.isfinite(seen.loss)
        return Move(next_image, state, finite, finite, all_finite((seen.gradient, next_image, state)))

    return Solver(transformation.init, update)


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether every number of a tree is finite."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))
