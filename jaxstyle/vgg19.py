"""VGG19's convolutions as a Flax module, cut off below the deepest layer that is wanted.

The engine never sees the module: `bind` splits it once into its parameters, an ordinary pytree that
travels as an *argument* of every compiled program, and a pure `features(params, image)`.

The input is one image in the network's own space (`images.to_network`): BGR, mean-subtracted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxstyle import layers
from jaxstyle.conv import POOLS, Kernel, conv_relu, prepare

Params = Any
"""The module's parameters as a pytree: what `Bound.params` holds and `Bound.features` takes."""

Features = Callable[[Params, Float[Array, "h w 3"]], dict[str, Float[Array, "_h _w _c"]]]
"""`features(params, image)`: the activation after the ReLU of every tap, by layer name."""


class ConvReLU(nnx.Module):
    """One 3x3 convolution with its bias and its ReLU.

    Args:
        winograd: hold the kernel transformed for Winograd's algorithm (`conv.prepare`).
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, *, winograd: bool):
        prepared = prepare(kernel, winograd=winograd)
        self.forward = nnx.Param(jnp.asarray(prepared.forward))
        self.backward = nnx.Param(jnp.asarray(prepared.backward))
        self.bias = nnx.Param(jnp.asarray(bias, jnp.float32))

    def __call__(self, x: Float[Array, "h w i"]) -> Float[Array, "h w o"]:
        return conv_relu(x, Kernel(self.forward[...], self.backward[...]), self.bias[...])


class VGG19(nnx.Module):
    """conv1_1 down to the deepest of `taps`; calling it gives the activations at the taps.

    Args:
        weights: `(kernel, bias)` of each layer by name, kernels in HWIO. The channel counts are those
            of the arrays, so that a narrow network can be built from narrow arrays.
        taps: the layers wanted. Nothing below the deepest of them is held or computed.
        pool: `avg` or `max`.
        winograd: run the layers of block 2 and below by Winograd's algorithm. In block 1 the images are
            large and the channels few, and its linear maps cost more than the products they save.
    """

    def __init__(
        self,
        weights: Mapping[str, tuple[np.ndarray, np.ndarray]],
        *,
        taps: tuple[str, ...],
        pool: str,
        winograd: bool = False,
    ):
        self.taps = taps
        self.pool = pool
        for row in layers.up_to(taps):
            layer = ConvReLU(*weights[row.name], winograd=winograd and row.pools > 0)
            setattr(self, row.name, layer)

    def __call__(self, x: Float[Array, "h w 3"]) -> dict[str, Float[Array, "_h _w _c"]]:
        found: dict[str, Array] = {}
        pools = 0
        for row in layers.up_to(self.taps):
            if row.pools > pools:
                x, pools = POOLS[self.pool](x), row.pools
            x = getattr(self, row.name)(x)
            if row.name in self.taps:
                found[row.name] = x
        return found


class Bound(NamedTuple):
    """A network ready for the engine: its parameters, and the pure function that takes them."""

    params: Params
    features: Features


def bind(
    weights: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    taps: tuple[str, ...],
    pool: str,
    winograd: bool = False,
) -> Bound:
    """The network of `weights` cut at the deepest of `taps`, split into parameters and function."""
    graph, params = nnx.split(VGG19(weights, taps=taps, pool=pool, winograd=winograd))

    def features(params: Params, image: Float[Array, "h w 3"]) -> dict[str, Array]:
        return nnx.merge(graph, params)(image)

    return Bound(params, features)
