"""VGG19 as a Flax module, cut off after the deepest layer that is needed.

The engine never sees the module: `bind` splits it once into its parameters, an ordinary pytree that
travels as an *argument* of every compiled program, and a pure `features(params, image, extent)`.

The input is one image in the network's own space (`preprocess.to_network`): BGR, mean-subtracted. It may
lie in the upper left corner of a *canvas* larger than itself. Everything outside the image is set to zero
after every layer, just as padding would be, so that the activations are those of the image alone, bordered
by zeros.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxstyle.vgg import layers
from jaxstyle.vgg.convolution import Kernel, backward_kernel, conv_relu, forward_kernel
from jaxstyle.vgg.padding import Border
from jaxstyle.vgg.precision import ARITHMETIC

Params = Any
"""The module's parameters as a pytree, which `Bound.params` holds and `Bound.features` takes."""

Extent = Int[Array | np.ndarray, "2"]
"""(height, width) in px of the image on its canvas."""

Pool = Callable[[Float[Array, "h w c"]], Float[Array, "h2 w2 c"]]
"""A pooling: half the height and half the width, odd edges dropped."""

Features = Callable[[Params, Float[Array, "h w 3"], Extent | None], dict[str, Float[Array, "_h _w _c"]]]
"""`features(params, image, extent)`: the activations at every tap, by layer name. Without an extent the
image fills its array."""


_kernels: dict[Any, jax.Array] = {}
"""Directions of kernels on devices, for as long as the arrays live that they were made of."""


def _prepared(kernel: np.ndarray, winograd: bool, dtype: DTypeLike, border: Border | None) -> Kernel:
    """A kernel in the form that its layer needs, on a device; networks of the same weights share it."""

    def shared(make: Callable[..., np.ndarray], *form: Any) -> jax.Array:
        key = id(kernel), make, *form
        if key not in _kernels:
            weakref.finalize(kernel, _kernels.pop, key, None)
            _kernels[key] = jax.device_put(make(kernel, *form))
        return _kernels[key]

    form, is_transposed = (winograd, np.dtype(dtype)), winograd and border is not None
    return Kernel(shared(forward_kernel, *form), shared(backward_kernel, *form, is_transposed))


class ConvReLU(nnx.Module):
    """One 3x3 convolution with its bias and its ReLU.

    Args:
        kernel: HWIO, float32.
        bias: one number per output channel.
        winograd: whether to hold the kernel transformed for Winograd's algorithm (`convolution.prepare`).
        precision: a key of `precision.ARITHMETIC`.
        border: what stands outside the image; None for zeros.
        planes: whether images are computed as planes (`vgg.planes`).
    """

    def __init__(
        self,
        kernel: np.ndarray,
        bias: np.ndarray,
        *,
        winograd: bool,
        precision: str,
        border: Border | None = None,
        planes: bool = False,
    ):
        arithmetic = ARITHMETIC[precision]
        prepared = _prepared(kernel, winograd, arithmetic.dtype, border)
        self.forward, self.backward = nnx.Param(prepared.forward), nnx.Param(prepared.backward)
        bias_dtype = jnp.float32 if winograd else arithmetic.dtype
        self.bias = nnx.Param(jax.device_put(np.asarray(bias, bias_dtype)))
        self.precision = arithmetic.precision
        self.border = border
        self.planes = planes

    def __call__(
        self, x: Float[Array, "h w i"], inside: Bool[Array, "h w 1"] | None = None
    ) -> Float[Array, "h w o"]:
        kernel = Kernel(self.forward[...], self.backward[...])
        bias = self.bias[...].astype(x.dtype)
        return conv_relu(x, kernel, bias, inside, self.precision, self.border, self.planes)


class VGG19(nnx.Module):
    """conv1_1 down to the deepest of `taps`; calling it gives the activations at the taps.

    Args:
        weights: `(kernel, bias)` of each layer by name, kernels in HWIO. The channel counts are those
            of the arrays, so that a narrow network can be built from narrow arrays.
        taps: the layers wanted. Nothing below the deepest of them is held or computed.
        pool: after each block.
        winograd: run every layer but the first by Winograd's algorithm. The first has three channels
            to sum over, and the linear maps would cost more than the products they save.
        precision: a key of `precision.ARITHMETIC`. In `bf16` the activations are bfloat16 too, except
            with Winograd's algorithm, whose linear maps work in float32 and round only the factors of
            products.
        border: what stands outside an image, and outside a feature map; None for zeros.
        planes: whether images are computed as planes (`vgg.planes`).
    """

    def __init__(
        self,
        weights: Mapping[str, tuple[np.ndarray, np.ndarray]],
        *,
        taps: tuple[str, ...],
        pool: Pool,
        winograd: bool = False,
        precision: str = "f32",
        border: Border | None = None,
        planes: bool = False,
    ):
        self.taps = taps
        self.pool = pool
        self.border = border
        self.dtype = jnp.float32 if winograd else ARITHMETIC[precision].dtype
        for row in layers.up_to(taps):
            first = row is layers.VGG19[0]
            layer = ConvReLU(
                *weights[row.name],
                winograd=winograd and not first,
                precision="f32" if winograd and first else precision,
                border=border,
                planes=planes,
            )
            setattr(self, row.name, layer)

    def __call__(
        self, x: Float[Array, "h w 3"], extent: Extent | None = None
    ) -> dict[str, Float[Array, "_h _w _c"]]:
        found: dict[str, Array] = {}
        pools, inside = 0, None
        if extent is not None:
            if self.border is not None:
                raise ValueError("an image on a canvas is padded with zeros")
            inside = inside_mask(x.shape[:2], extent)
            x = jnp.where(inside, x, 0)
        x = x.astype(self.dtype)
        for name in layers.down_to(self.taps):
            if name in layers.POOLS:
                x, pools = self.pool(x), pools + 1
                if extent is not None:
                    # The last row of an odd height is dropped, as it is at the image's own size.
                    inside = inside_mask(x.shape[:2], jnp.asarray(extent) >> pools)
                    x = jnp.where(inside, x, 0)
            else:
                x = getattr(self, name)(x, inside)
            if name in self.taps:
                found[name] = x
        return found


def inside_mask(shape: tuple[int, ...], extent: Extent) -> Bool[Array, "h w 1"]:
    """Mask of the positions of a canvas of `shape` that belong to the image."""
    down, across = (jnp.arange(n, dtype=jnp.int32) < extent[axis] for axis, n in enumerate(shape))
    return (down[:, None] & across[None, :])[..., None]


class Bound(NamedTuple):
    """A network ready for the engine: its parameters, and the pure function that takes them."""

    params: Params
    features: Features


def bind(
    weights: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    taps: tuple[str, ...],
    pool: Pool,
    winograd: bool = False,
    precision: str = "f32",
    border: Border | None = None,
    planes: bool = False,
) -> Bound:
    """The network of `weights`, cut off after the deepest of `taps`, split into parameters and function."""
    network = VGG19(
        weights,
        taps=taps,
        pool=pool,
        winograd=winograd,
        precision=precision,
        border=border,
        planes=planes,
    )
    graph, params = nnx.split(network)

    def features(
        params: Params, image: Float[Array, "h w 3"], extent: Extent | None = None
    ) -> dict[str, Array]:
        return nnx.merge(graph, params)(image, extent)

    return Bound(params, features)
