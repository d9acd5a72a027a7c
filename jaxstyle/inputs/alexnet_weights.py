"""AlexNet's convolutions and the linear heads of LPIPS, from the file that comes with this package.

`alexnet.h5` is made by `scripts/convert_weights.py`: a group for each of the five layers, with `kernel`
float32 (k, k, i, o), `bias` float32 (o,) and `head` float32 (o,), which is LPIPS' non-negative weight of
every channel. The file is recognised by its digest before any of it is read; scores of other weights
would be other scores, so there is no way to name another file.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float

from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.presets import PACKAGE

PACKAGED_SHA256 = "7c9674a37d60c819284413591cb8da0d56f6bc67a89403d261524fe1198b163b"
"""The SHA-256 of `weights/alexnet.h5` as committed."""


@dataclass(frozen=True)
class Layer:
    """A convolution of AlexNet with its ReLU, whose output is a tap, and the pooling before it."""

    name: str
    kernel_px: int
    stride: int
    padding: int
    in_channels: int
    out_channels: int
    pooled: bool
    """Whether a max pooling, 3x3 with stride 2, comes before it."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of its arrays, by their names in the file."""
        kernel = (self.kernel_px, self.kernel_px, self.in_channels, self.out_channels)
        return {"kernel": kernel, "bias": (self.out_channels,), "head": (self.out_channels,)}


LAYERS = (
    Layer("conv1", 11, 4, 2, 3, 64, pooled=False),
    Layer("conv2", 5, 1, 2, 64, 192, pooled=True),
    Layer("conv3", 3, 1, 1, 192, 384, pooled=True),
    Layer("conv4", 3, 1, 1, 384, 256, pooled=False),
    Layer("conv5", 3, 1, 1, 256, 256, pooled=False),
)
"""The layers in order; the image of the first is RGB, -1 to 1, minus `SHIFT`, over `SCALE`."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
MIN_EDGE_PX = 31
"""The shortest edge that leaves a position after both poolings."""


@dataclass(frozen=True)
class AlexNet:
    """The arrays of all layers."""

    kernels: tuple[Float[np.ndarray, "_ _ _ _"], ...]
    biases: tuple[Float[np.ndarray, " _"], ...]
    heads: tuple[Float[np.ndarray, " _"], ...]


def packaged_path() -> Path:
    """The AlexNet file that came with this installation: in the wheel, or in a checkout's `weights/`."""
    for path in (PACKAGE / "data" / "alexnet.h5", PACKAGE.parent / "weights" / "alexnet.h5"):
        if path.is_file():
            return path
    raise JaxstyleError("weights", "no AlexNet file came with this installation; install jaxstyle anew")


def load() -> AlexNet:
    """The packaged AlexNet.

    Raises:
        JaxstyleError: if its file is missing or not the one that was packaged.
    """
    path = packaged_path()
    data = path.read_bytes()
    if (sha256 := hashlib.sha256(data).hexdigest()) != PACKAGED_SHA256:
        raise JaxstyleError(
            str(path), f"has sha256 {sha256}, not {PACKAGED_SHA256}; install jaxstyle anew, or restore it"
        )
    with h5py.File(io.BytesIO(data), "r") as file:
        kernels, biases, heads = (
            tuple(np.asarray(file[f"{row.name}/{name}"]) for row in LAYERS)
            for name in ("kernel", "bias", "head")
        )
    return AlexNet(kernels, biases, heads)
