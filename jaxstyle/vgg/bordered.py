"""An image with one position more on every side, and the adjoint of that; layout (h, w, c)."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxstyle.vgg.padding import Border


def bordered(x: Float[Array, "h w c"], border: Border) -> Float[Array, "h2 w2 c"]:
    """`x` with the positions that `border` puts beyond its edges, corners included: (h + 2, w + 2, c)."""
    h, w, _ = x.shape
    above, below = border.before(h), border.after(h)
    x = jnp.concatenate([x[above : above + 1], x, x[below : below + 1]], axis=0)
    left, right = border.before(w), border.after(w)
    return jnp.concatenate([x[:, left : left + 1], x, x[:, right : right + 1]], axis=1)


def unbordered(g: Float[Array, "h2 w2 c"], border: Border) -> Float[Array, "h w c"]:
    """The adjoint of `bordered`: what lies beyond an edge is added to the position that it came from."""
    return folded(folded(g, border, axis=1), border, axis=0)


def folded(g: Float[Array, "*from"], border: Border, axis: int) -> Float[Array, "*to"]:
    """`g` without the first and the last position of an axis, which are added to those they came from."""
    n = g.shape[axis] - 2
    total = lax.slice_in_dim(g, 1, n + 1, axis=axis)
    # They are padded and added, not scattered, which a GPU would do in an order of its own.
    for beyond, at in ((0, border.before(n)), (n + 1, border.after(n))):
        total = total + placed(lax.slice_in_dim(g, beyond, beyond + 1, axis=axis), at, n, axis)
    return total


def placed(part: Float[Array, "*from"], at: int, length: int, axis: int) -> Float[Array, "*to"]:
    """`part` from position `at` of an axis of `length`, zeros elsewhere."""
    beyond = [(0, 0)] * part.ndim
    beyond[axis] = (at, length - at - part.shape[axis])
    return jnp.pad(part, beyond)
