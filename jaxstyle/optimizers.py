"""How an image follows its gradient: `init` and `update` pairs on one image.

Adam (Kingma & Ba 2015) with optax's defaults, b1 0.9, b2 0.999, eps 1e-8. The learning rate is a
number of the cell, not of the optimizer, so that rates share one program.
"""

from __future__ import annotations

from typing import Any

import optax
from jaxtyping import Array, Float

OptimizerState = Any
"""What an optimizer carries between steps: a pytree of arrays."""

_ADAM = optax.scale_by_adam()


def init(image: Float[Array, "h w 3"]) -> OptimizerState:
    """The optimizer's state before the first step from `image`."""
    return _ADAM.init(image)


def update(
    gradient: Float[Array, "h w 3"],
    state: OptimizerState,
    learning_rate: Float[Array, ""],
) -> tuple[Float[Array, "h w 3"], OptimizerState]:
    """What to add to the image, and the state after it."""
    direction: Any
    direction, state = _ADAM.update(gradient, state)
    return -learning_rate * direction, state
