"""The poolings and paddings of the tables, in the form that the network takes."""

from __future__ import annotations

import functools

from jaxtyping import Array, Float

from jaxstyle.spec import tables
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.plugin_blame import blamed
from jaxstyle.spec.tables import PADDINGS, POOLINGS
from jaxstyle.vgg.network import Pool
from jaxstyle.vgg.padding import Border


def border(padding: str) -> Border | None:
    """The border that the padding called `padding` puts around an image; None for zeros."""
    return PADDINGS[padding].border


def pooling(name: str, padding: str = "zeros", *, planes: bool = False) -> Pool:
    """The pooling called `name`; it raises JaxstyleError where a plugin's does not halve an image.

    Args:
        name: name of a row of `POOLINGS`.
        padding: the padding of the network, for a pooling that reads beyond edges.
        planes: whether it is for programs with `Program.planes`.
    """
    row = POOLINGS[name]
    made_of = row.planes if planes and row.planes is not None else row.pool
    beyond = {"border": border(padding)} if row.reads_beyond else {}

    def pool(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
        with blamed(row.origin):
            found = functools.partial(tables.function(made_of), **beyond)(x)
        h, w, c = x.shape
        if found.shape != (h // 2, w // 2, c) or found.dtype != x.dtype:
            made, of = f"{found.dtype}{list(found.shape)}", f"{x.dtype}{[h, w, c]}"
            raise JaxstyleError(row.where, f"makes {made} of {of}; it must be {[h // 2, w // 2, c]}")
        return found

    return pool
