"""How an image follows its gradient: what an optimizer is, and how one is made of its row.

An optimizer sees one evaluation of the loss and its gradient at a time and asks for the next image, so that
all cells of a batch stay in step. The learning rate is a number of the cell, not of the optimizer, so that
rates share one program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxstyle import tables
from jaxstyle.tables import OPTIMIZERS

OptimizerState = Any
"""What an optimizer carries between steps: a pytree of arrays."""


class Evaluation(NamedTuple):
    """What is known of the image that was asked for."""

    image: Float[Array, "h w 3"]
    loss: Float[Array, ""]
    gradient: Float[Array, "h w 3"]


class Move(NamedTuple):
    """What an optimizer makes of an evaluation."""

    image: Float[Array, "h w 3"]
    """To be evaluated next."""
    state: OptimizerState
    accepted: Bool[Array, ""]
    """Whether the image evaluated is the result from now on; otherwise the one before it remains."""
    sound: Bool[Array, ""]
    """Whether the result has a finite loss."""
    able: Bool[Array, ""]
    """Whether everything that the next evaluation starts from is finite."""


class Solver(NamedTuple):
    """A way to follow gradients: what a row of `OPTIMIZERS` makes."""

    init: Callable[[Float[Array, "h w 3"]], OptimizerState]
    """The state before the first evaluation of an image."""
    update: Callable[..., Move]
    """From an `Evaluation`, the result so far, the state, the learning rate, and how many evaluations
    there were before this one."""


def make(name: str, own: Mapping[str, Any]) -> Solver:
    """The optimizer called `name`, with its own settings."""
    row = OPTIMIZERS[name]
    with tables.blamed(row):
        made = tables.function(row.make)(**own)
        solver = made if isinstance(made, Solver) else following(made)

    def blamed(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            with tables.blamed(row):
                return function(*arguments)

        return called

    return Solver(blamed(solver.init), blamed(solver.update))


def following(transformation: optax.GradientTransformation) -> Solver:
    """One step of the learning rate along the direction that `transformation` makes of each gradient."""

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
    """Whether every number of a tree is."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))
