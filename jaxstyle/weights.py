"""VGG19's weights from an HDF5 file, trusted no further than its bytes can be checked.

Two layouts are read:

* *converted*, made by `scripts/convert_weights.py` and packaged as `vgg19.h5`: a group per layer,
  `/conv4_2`, with `indices` uint8 (3, 3, i, o), `codebook` float32 (256,) and `bias` float32 (o,);
  the kernel is `codebook[indices]`. The float32 form of the same has `kernel` in place of both.
* *Keras'* `vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5`: `/block4_conv2/block4_conv2_W_1:0` and
  `…_b_1:0`, or in its newer form `/block4_conv2/block4_conv2/kernel:0` and `bias:0`.

Kernels are HWIO and expect BGR input minus the mean pixel, 0 to 255 (`images.to_network`).

Nothing here needs JAX.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from jaxstyle import layers
from jaxstyle.config import PACKAGE, JaxstyleError

PACKAGED_SHA256 = "de2a6c7651d748f16999a93b76abb36222f133f8b15deb7a3f393ac172c1b002"
"""Of `weights/vgg19.h5` as committed."""
KERAS_MD5 = "253f8cb515780f3b799900260a226db6"
"""The published digest of Keras' notop file."""
MAX_FILE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Weights:
    """The layers of VGG19 that a run needs, and the file they came from."""

    layers: dict[str, tuple[Float[np.ndarray, "3 3 i o"], Float[np.ndarray, " o"]]]
    """(kernel, bias) by name, kernels in HWIO."""
    path: str
    sha256: str
    origin: str
    """`packaged`, `keras` (the published file) or `unknown`."""


def packaged_path() -> Path:
    """The VGG19 file that came with this installation: in the wheel, or in a checkout's `weights/`."""
    for path in (PACKAGE / "data" / "vgg19.h5", PACKAGE.parent / "weights" / "vgg19.h5"):
        if path.is_file():
            return path
    raise JaxstyleError("weights", "no VGG19 file came with this installation; give --weights FILE")


def _read_file(path: Path) -> bytes:
    what = str(path)
    try:
        if not path.is_file():
            raise JaxstyleError(what, "is not a regular file" if path.exists() else "no such file")
        if (size := os.path.getsize(path)) > MAX_FILE_BYTES:
            raise JaxstyleError(what, f"has {size} bytes; VGG19 without its head has under 81 million")
        return path.read_bytes()
    except OSError as error:
        raise JaxstyleError(what, f"cannot be read: {error.strerror or error}") from None


def _dataset(what: str, file: h5py.File, name: str) -> h5py.Dataset | None:
    """The dataset called `name`, or None if there is none; nothing but plain data in this very file."""
    node: Any = file
    for part in name.strip("/").split("/"):
        # The link is asked for before the node: even `part in node` would follow an external one.
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise JaxstyleError(what, f"{name} is a link; weights must lie in the file itself")
        node = node[part]
    if not isinstance(node, h5py.Dataset):
        return None
    if node.external or node.is_virtual:
        raise JaxstyleError(what, f"{name} is stored outside the file; weights must lie in it")
    return node


def _array(what: str, dataset: h5py.Dataset, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """The values of `dataset`, once its shape and type have been found right: sizes before reading."""
    name = dataset.name
    if dataset.shape != shape:
        raise JaxstyleError(what, f"{name} has shape {dataset.shape}; VGG19 needs {shape}")
    if kind == "u1" and dataset.dtype != np.uint8:
        raise JaxstyleError(what, f"{name} has type {dataset.dtype}; indices are uint8")
    if kind == "f4" and (dataset.dtype.kind != "f" or dataset.dtype.itemsize not in (2, 4, 8)):
        raise JaxstyleError(what, f"{name} has type {dataset.dtype}; weights are float32")
    values = np.asarray(dataset[()], np.uint8 if kind == "u1" else np.float32)
    if kind == "f4" and not np.isfinite(values).all():
        raise JaxstyleError(what, f"{name} holds values that are not finite")
    return values


def _layer(what: str, file: h5py.File, row: layers.Conv) -> tuple[np.ndarray, np.ndarray]:
    keras = f"block{row.name[4]}_conv{row.name[6]}"
    kernel_shape = (3, 3, row.in_channels, row.out_channels)
    bias_shape = (row.out_channels,)
    indices = _dataset(what, file, f"{row.name}/indices")
    if indices is not None:
        codebook = _dataset(what, file, f"{row.name}/codebook")
        bias = _dataset(what, file, f"{row.name}/bias")
        if codebook is not None and bias is not None:
            table = _array(what, codebook, (256,), "f4")
            kernel = table[_array(what, indices, kernel_shape, "u1")]
            return kernel, _array(what, bias, bias_shape, "f4")
    for kernel_name, bias_name in (
        (f"{row.name}/kernel", f"{row.name}/bias"),
        (f"{keras}/{keras}_W_1:0", f"{keras}/{keras}_b_1:0"),
        (f"{keras}/{keras}/kernel:0", f"{keras}/{keras}/bias:0"),
    ):
        kernel, bias = _dataset(what, file, kernel_name), _dataset(what, file, bias_name)
        if kernel is not None and bias is not None:
            return _array(what, kernel, kernel_shape, "f4"), _array(what, bias, bias_shape, "f4")
    raise JaxstyleError(what, f"has no layer {row.name}; it is not a VGG19 file that is known here")


def load(path: str | None = None, *, taps: Iterable[str] = layers.NAMES) -> Weights:
    """The weights of every layer down to the deepest of `taps`.

    Args:
        path: a converted file or Keras' notop file; None for the packaged one.

    Raises:
        JaxstyleError: if the file is missing, damaged, hostile or of other shapes than VGG19's.
    """
    source = packaged_path() if path is None else Path(path)
    what = str(source)
    data = _read_file(source)
    if data[:8] != b"\x89HDF\r\n\x1a\n":
        raise JaxstyleError(what, "is not an HDF5 file; scripts/convert_weights.py makes one")
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            found = {row.name: _layer(what, file, row) for row in layers.up_to(taps)}
    except JaxstyleError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise JaxstyleError(what, f"is damaged or cut short: {error}") from None
    origin = "packaged" if sha256 == PACKAGED_SHA256 else "unknown"
    if origin == "unknown" and hashlib.md5(data, usedforsecurity=False).hexdigest() == KERAS_MD5:
        origin = "keras"
    return Weights(found, what, sha256, origin)
