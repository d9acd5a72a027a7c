"""One step of a cell: its image is evaluated, its optimizer asked for the next one.

Everything here concerns a single image. The batch axis is added by the one `vmap` in
`device/batch.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxstyle.cell import colours, solvers
from jaxstyle.cell.objective import total_loss
from jaxstyle.cell.regions import free_part, held_image
from jaxstyle.cell.start import allowed
from jaxstyle.cell.state import Info, Knobs, State, Targets
from jaxstyle.plan.programs import Program
from jaxstyle.vgg.network import Features, Params


def step(
    features: Features,
    params: Params,
    program: Program,
    knobs: Knobs,
    targets: Targets,
    state: State,
    k: Int[Array, ""],
) -> tuple[State, Info]:
    """Run pass k: evaluate the image asked for, report the loss of the result x_k, ask for the next image.

    With Adam, x_k is the evaluated image; L-BFGS may reject that image, and x_k is then the result before
    it. The optimizer sees the gradient projected onto the colours of the program and, where pixels have a
    range, onto that range, and its images are held within both. A cell that has diverged stands still from
    then on, whatever its neighbours do:

    | the first case that holds                   | x_k       | loss | next image | diverged at |
    |---------------------------------------------|-----------|------|------------|-------------|
    | it diverged in an earlier pass              | as before | NaN  | as before  | as before   |
    | the loss of x_k is not finite               | as before | NaN  | as before  | k           |
    | gradient, next image or state is not finite | new       | its  | as before  | k + 1       |
    | the optimizer rejects the image             | as before | its  | new        | -1          |
    | otherwise                                   | new       | its  | new        | -1          |

    In the third case, too, x_k is as before where the optimizer rejects the image.
    """
    if program.holds:
        state = state._replace(image=held_image(knobs, targets, state.image))
    (total, info), gradient = jax.value_and_grad(
        lambda image: total_loss(features, params, program, knobs, targets, image), has_aux=True
    )(state.image)
    if program.holds:
        gradient = free_part(knobs, targets, gradient)
    gradient = colours.projected(program.colour, gradient)
    seen = solvers.Evaluation(state.image, total, _projected(knobs, state.image, gradient))
    move = solvers.solver_of(program).update(seen, state.evaluated, state.optimizer, _rate(knobs, k), k)

    alive = state.diverged_step < 0
    accepted, sound = alive & move.accepted, alive & move.sound
    able = sound & move.able
    better = accepted & (total < state.loss_best)
    info = _choose(accepted, info, state.info)
    stopped = jnp.where(alive & ~sound, k, jnp.where(sound & ~able, k + 1, state.diverged_step))
    table = {  # field: where this holds, the new value; elsewhere the old one
        "image": (able, allowed(program, knobs, move.image), state.image),
        "evaluated": (accepted, state.image, state.evaluated),
        "best": (better, state.image, state.best),
        "loss_best": (better, total, state.loss_best),
    }
    chosen = {field: jnp.where(*row) for field, row in table.items()}
    state = State(info=info, optimizer=move.state, diverged_step=stopped.astype(jnp.int32), **chosen)
    return state, _choose(sound, info, jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), info))


def _projected(
    knobs: Knobs, image: Float[Array, "h w 3"], gradient: Float[Array, "h w 3"]
) -> Float[Array, "h w 3"]:
    """`gradient`, 0 where a step would only push a pixel out of its range (Bertsekas 1982, section 1)."""
    low, high = knobs.pixel_range[0], knobs.pixel_range[1]
    held = ((image <= low) & (gradient > 0)) | ((image >= high) & (gradient < 0))
    return jnp.where(held, 0.0, gradient)


def _rate(knobs: Knobs, k: Int[Array, ""]) -> Float[Array, ""]:
    """The learning rate of the step from x_k to x_{k+1}."""
    left = (jnp.asarray(knobs.decay_end) - k.astype(jnp.float32)) / knobs.decay_steps
    return jnp.asarray(knobs.learning_rate) * jnp.clip(left, 0.0, 1.0)


def _choose(condition: jax.Array, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
