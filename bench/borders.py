"""Other forms of a convolution within a border, for `python -m bench experiments --default-look`.

The product puts the border around its image in two concatenations, rows and then columns, and the adjoint
folds it back in two sums. On a GPU these are passes of their own, which the floors of
`python -m bench compiled` count and only a GPU can time.
"""

from __future__ import annotations

import functools
from typing import Any


def gathered() -> None:
    """The border by one gather: every position reads the one that stands there."""
    import jax.numpy as jnp
    import numpy as np

    from jaxstyle.vgg import convolution

    def bordered(x: Any, border: Any) -> Any:
        rows, columns = (np.array([border.before(n), *range(n), border.after(n)]) for n in x.shape[:2])
        return jnp.take(jnp.take(x, rows, axis=0, mode="clip"), columns, axis=1, mode="clip")

    convolution.bordered = bordered


def summed() -> None:
    """The border as a sum of the image and its edges, each padded with zeros, which XLA makes one pass."""
    from jaxstyle.vgg import convolution, planes

    convolution.bordered = planes.bordered_by_sums


def edges_apart() -> None:
    """Convolutions padded with zeros; the outermost rows and columns computed from strips and put in place.

    In the gradient what the border adds to its edge comes from strips as well.
    """
    import jax
    import jax.numpy as jnp
    from jax import lax

    from jaxstyle.vgg import convolution, network

    def strips_of(correlate: Any, rows: Any, columns: Any) -> tuple[Any, Any]:
        """Correlations of two rows and of two columns, each of three strips: (2, 1, w, o), (2, h, 1, o)."""
        return jax.vmap(correlate)(rows), jax.vmap(correlate)(columns)

    def forward(
        x: Any, kernel: Any, bias: Any, inside: Any, precision: Any, border: Any, planes: Any
    ) -> Any:
        if not _is_wide(x, kernel.forward) or border is None:
            return ours(x, kernel, bias, inside, precision, border, planes)
        correlate = functools.partial(convolution._correlate, kernel=kernel.forward, precision=precision)
        h, w = x.shape[:2]
        above, below, left, right = (at(n) for n in (h, w) for at in (border.before, border.after))
        rows = jnp.stack([x[jnp.array([above, 0, 1])], x[jnp.array([h - 2, h - 1, below])]])
        rows = jnp.concatenate([rows[:, :, left : left + 1], rows, rows[:, :, right : right + 1]], 2)
        columns = jnp.stack([x[:, jnp.array([left, 0, 1])], x[:, jnp.array([w - 2, w - 1, right])]])
        columns = jnp.concatenate(
            [columns[:, above : above + 1], columns, columns[:, below : below + 1]], axis=1
        )
        parts = strips_of(functools.partial(correlate, has_border=True), rows, columns)
        rows, columns = (jnp.maximum(part + bias, 0) for part in parts)
        y = jnp.maximum(correlate(x) + bias, 0)
        for index, at in enumerate((0, w - 1)):
            y = lax.dynamic_update_slice_in_dim(y, columns[index], at, axis=1)
        for index, at in enumerate((0, h - 1)):
            y = lax.dynamic_update_slice_in_dim(y, rows[index], at, axis=0)
        return y

    def adjoint(g: Any, turned: Any, precision: Any, border: Any, planes: bool = False) -> Any:
        if not _is_wide(g, turned):
            return full(g, turned, precision, border, planes)
        correlate = functools.partial(convolution._correlate, kernel=turned, precision=precision)
        h, w = g.shape[:2]
        first, last = g[:1], g[-1:]
        rows = jnp.stack(
            [jnp.pad(first, ((2, 0), (2, 2), (0, 0))), jnp.pad(last, ((0, 2), (2, 2), (0, 0)))]
        )
        first, last = g[:, :1], g[:, -1:]
        columns = jnp.stack(
            [jnp.pad(first, ((1, 1), (2, 0), (0, 0))), jnp.pad(last, ((1, 1), (0, 2), (0, 0)))]
        )
        rows, columns = strips_of(functools.partial(correlate, has_border=True), rows, columns)
        left, right = border.before(w), border.after(w)
        rows = (
            rows[:, :, 1:-1]
            + jnp.pad(rows[:, :, :1], ((0, 0), (0, 0), (left, w - 1 - left), (0, 0)))
            + jnp.pad(rows[:, :, -1:], ((0, 0), (0, 0), (right, w - 1 - right), (0, 0)))
        )
        y = correlate(g)
        for index, at in enumerate((left, right)):
            own = lax.slice_in_dim(y, at, at + 1, axis=1)
            y = lax.dynamic_update_slice_in_dim(y, own + columns[index], at, axis=1)
        for index, at in enumerate((border.before(h), border.after(h))):
            own = lax.slice_in_dim(y, at, at + 1, axis=0)
            y = lax.dynamic_update_slice_in_dim(y, own + rows[index], at, axis=0)
        return y

    def kept(x: Any, kernel: Any, bias: Any, inside: Any, precision: Any, border: Any, planes: Any) -> Any:
        y = forward(x, kernel, bias, inside, precision, border, planes)
        return y, (y, kernel)

    ours, full = convolution.conv_relu, convolution._full_adjoint
    other = jax.custom_vjp(forward, nondiff_argnums=(4, 5, 6))
    other.defvjp(kept, convolution._conv_relu_backward)
    convolution._full_adjoint, network.conv_relu = adjoint, other


def _is_wide(x: Any, kernel: Any) -> bool:
    """Whether a convolution is XLA's own, of many channels, of an image with two edges each way."""
    return kernel.shape[0] == 3 and min(kernel.shape[2:]) >= 8 and min(x.shape[:2]) >= 2
