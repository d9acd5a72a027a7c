"""AlexNet on a device: features of finished pictures in a network that no picture is optimised through.

Pictures of one shape are computed together, `width` at a time, the last ones padded with copies; one at a
time on a CPU. So the features of a picture depend on its shape and never on its neighbours.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from jaxstyle.device.jax_settings import default_settings
from jaxstyle.inputs.alexnet_weights import LAYERS, SCALE, SHIFT, AlexNet

GPU_WIDTH = 16
"""Pictures that are computed together on a device that is not a CPU."""
Params = tuple[tuple[Array, Array], ...]


def features(params: Params, image: UInt8[Array, "h w 3"]) -> tuple[Float[Array, "_ _ _"], ...]:
    """The activations of one picture after the ReLU of each of AlexNet's five convolutions.

    Args:
        params: (kernel, bias) of every layer, HWIO.
        image: RGB, 0 to 255.
    """
    x = (image.astype(jnp.float32) / 127.5 - 1 - jnp.array(SHIFT)) / jnp.array(SCALE)
    taps = []
    for row, (kernel, bias) in zip(LAYERS, params, strict=True):
        if row.pooled:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (3, 3, 1), (2, 2, 1), "VALID")
        x = lax.conv_general_dilated(
            x[None],
            kernel,
            (row.stride, row.stride),
            [(row.padding, row.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )[0]
        x = jax.nn.relu(x + bias)
        taps.append(x)
    return tuple(taps)


@functools.cache
def _compiled() -> Any:
    return jax.jit(jax.vmap(features, in_axes=(None, 0)))


class HeldOut:
    """AlexNet, with its parameters on a device.

    Args:
        network: its arrays.
        device: the device to compute on.
    """

    def __init__(self, network: AlexNet, device: Any):
        self._device = device
        self.width = 1 if device.platform == "cpu" else GPU_WIDTH
        """The number of pictures that are computed together."""
        with default_settings():
            pairs = zip(network.kernels, network.biases, strict=True)
            self._params: Params = jax.device_put(tuple(pairs), device)

    def __call__(self, pictures: Sequence[UInt8[np.ndarray, "h w 3"]]) -> list[list[np.ndarray]]:
        """The features of pictures of one shape: for each, five arrays (h_l, w_l, c_l), float32."""
        found = []
        for start in range(0, len(pictures), self.width):
            part = list(pictures[start : start + self.width])
            full = np.stack(part + part[:1] * (self.width - len(part)))
            with default_settings():
                taps = _compiled()(self._params, jax.device_put(full, self._device))
                arrays = [np.asarray(tap) for tap in taps]
            found += [[array[i] for array in arrays] for i in range(len(part))]
        return found
