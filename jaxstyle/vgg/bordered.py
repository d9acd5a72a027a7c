"""An image with one position more on every side, and the adjoint of that; layout (h, w, c)."""

from __future__ import annotations

import jax.numpy as jnp
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
    h, w = g.shape[0] - 2, g.shape[1] - 2
    # Rows are padded and added, not scattered, which a GPU would do in an order of its own.
    left, right = border.before(w), border.after(w)
    g = (
        g[:, 1:-1]
        + jnp.pad(g[:, :1], ((0, 0), (left, w - 1 - left), (0, 0)))
        + jnp.pad(g[:, -1:], ((0, 0), (right, w - 1 - right), (0, 0)))
    )
    above, below = border.before(h), border.after(h)
    return (
        g[1:-1]
        + jnp.pad(g[:1], ((above, h - 1 - above), (0, 0), (0, 0)))
        + jnp.pad(g[-1:], ((below, h - 1 - below), (0, 0), (0, 0)))
    )
