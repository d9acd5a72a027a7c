"""The poolings of the table, as functions that the network takes."""

from __future__ import annotations

from jaxtyping import Array, Float

from jaxstyle.spec import tables
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.plugin_blame import blamed
from jaxstyle.spec.tables import POOLINGS
from jaxstyle.vgg.network import Pool


def pooling(name: str) -> Pool:
    """The pooling called `name`; it raises JaxstyleError where a plugin's does not halve an image."""
    row = POOLINGS[name]

    def pool(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
        with blamed(row.origin):
            found = tables.function(row.pool)(x)
        h, w, c = x.shape
        if found.shape != (h // 2, w // 2, c) or found.dtype != x.dtype:
            made, of = f"{found.dtype}{list(found.shape)}", f"{x.dtype}{[h, w, c]}"
            raise JaxstyleError(row.where, f"makes {made} of {of}; it must be {[h // 2, w // 2, c]}")
        return found

    return pool
