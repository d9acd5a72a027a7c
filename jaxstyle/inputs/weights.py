"""VGG19's weights, read from an HDF5 file of which nothing is trusted unchecked.

Two layouts are supported:

* *converted*, made by `scripts/convert_weights.py` and packaged as `vgg19.h5`: a group per layer,
  `/conv4_2`, with `indices` uint8 (3, 3, i, o), `codebook` float32 (256,) and `bias` float32 (o,);
  the kernel is `codebook[indices]`. The float32 form of this layout has `kernel` in place of both.
  A layer of a converted file may also have `mean_avg` and `mean_max` float32 (o,): the mean activation of
  every filter over a stated set of images with that pooling, which the normalised network is made from.
* *Keras'* `vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5`: `/block4_conv2/block4_conv2_W_1:0` and
  `…_b_1:0`, or in its newer form `/block4_conv2/block4_conv2/kernel:0` and `bias:0`.

Kernels are HWIO and expect BGR input minus the mean pixel, 0 to 255 (`preprocess.to_network`).
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.presets import PACKAGE
from jaxstyle.spec.tables import MEASURED_MEANS, POOLINGS
from jaxstyle.vgg import layers

PACKAGED_SHA256 = "2f8f319767b0df90e5d1b7236f3c6073b18f8407a14e219b24be5a463b1577ea"
"""The SHA-256 of `weights/vgg19.h5` as committed."""
KERAS_MD5 = "253f8cb515780f3b799900260a226db6"
"""The published MD5 of Keras' notop file."""
MAX_FILE_BYTES = 256 * 2**20
MAX_PIECES = 4096
"""The most chunks of one HDF5 dataset; HDF5's own defaults give the largest kernel some 300."""
FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
"""The HDF5 filters that values may be packed with, each at most once."""
_HDF5_ERRORS = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    RuntimeError,
    MemoryError,
    OverflowError,
    zlib.error,
)
"""Exceptions that h5py and zlib raise for damaged files."""
DEAD = 0.01
"""A filter is dead if its mean activation is below this part of its layer's median."""
MEND = "scripts/convert_weights.py makes a file that fits"


@dataclass(frozen=True)
class Weights:
    """The layers of VGG19 that a run needs, and the file that they came from."""

    layers: dict[str, tuple[Float[np.ndarray, "3 3 i o"], Float[np.ndarray, " o"]]]
    """(kernel, bias) by layer name, kernels in HWIO."""
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


def load(
    path: str | None = None,
    *,
    taps: Iterable[str] = layers.NAMES,
    network: str = "raw",
    pool: str = "avg",
) -> Weights:
    """The weights of every layer down to the deepest of `taps`.

    Args:
        path: a converted file or Keras' notop file; None for the packaged one.
        taps: the layers that are needed.
        network: `raw`, or `normalised` for the network that the function `normalised` makes.
        pool: the pooling that the network will be used with, which decides the means.

    Raises:
        JaxstyleError: if the file is missing, damaged, hostile or not of VGG19's shapes, or has no means
            for a normalised network.
    """
    source = packaged_path() if path is None else Path(path)
    what = str(source)
    data = _read_file(source)
    if data[:8] != b"\x89HDF\r\n\x1a\n":
        raise JaxstyleError(what, f"is not an HDF5 file; {MEND}")
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            _check_names(what, file)
            rows = layers.up_to(taps)
            found = {row.name: _layer(what, file, row) for row in rows}
            if network == "normalised":
                found = normalised(found, {row.name: _means(what, file, row, pool) for row in rows})
    except JaxstyleError:
        raise
    except _HDF5_ERRORS as error:
        raise JaxstyleError(what, f"is damaged or cut short; give another copy: {error}") from None
    origin = "packaged" if sha256 == PACKAGED_SHA256 else "unknown"
    if origin == "unknown" and hashlib.md5(data, usedforsecurity=False).hexdigest() == KERAS_MD5:
        origin = "keras"
    return Weights(found, what, sha256, origin)


def _read_file(path: Path) -> bytes:
    what = str(path)
    try:
        if not path.is_file():
            why = "is not a regular file" if path.exists() else "no such file"
            raise JaxstyleError(what, f"{why}; give a file of VGG19's weights")
        if (size := os.path.getsize(path)) > MAX_FILE_BYTES:
            raise JaxstyleError(
                what, f"has {size} bytes; the limit is {MAX_FILE_BYTES}: give VGG19 without its head"
            )
        return path.read_bytes()
    except OSError as error:
        raise JaxstyleError(what, f"cannot be read: {error.strerror or error}; give another file") from None


def _check_names(what: str, file: h5py.File) -> None:
    """Raise JaxstyleError if `file` has convolutions that VGG19 lacks, and so is another network's."""
    for name in list(file):
        if match := re.fullmatch(r"conv(\d+_\d+)|block(\d+_)conv(\d+)", str(name)):
            layer = "conv" + "".join(part or "" for part in match.groups())
            if layer not in layers.NAMES:
                raise JaxstyleError(what, f"has a layer {name}, which VGG19 does not have; {MEND}")


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
    raise JaxstyleError(what, f"has no layer {row.name}; it is no VGG19 file in a supported layout: {MEND}")


def _dataset(what: str, file: h5py.File, name: str) -> h5py.Dataset | None:
    """The dataset called `name`, None if there is none. Raises JaxstyleError if its data are elsewhere."""
    node: Any = file
    for part in name.strip("/").split("/"):
        # The link is read before the node, because even `part in node` would follow an external link.
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise JaxstyleError(what, f"{name} is a link; weights must lie in the file itself: {MEND}")
        node = node[part]
    if not isinstance(node, h5py.Dataset):
        return None
    if node.external or node.is_virtual:
        raise JaxstyleError(what, f"{name} is stored outside the file; weights must lie in it: {MEND}")
    return node


def _array(what: str, dataset: h5py.Dataset, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """The values of `dataset`, read only after its shape, type and packing have been checked."""
    name = dataset.name
    if dataset.shape != shape:
        raise JaxstyleError(what, f"{name} has shape {dataset.shape}; VGG19 needs {shape}: {MEND}")
    if kind == "u1" and dataset.dtype != np.uint8:
        raise JaxstyleError(what, f"{name} has type {dataset.dtype}; indices are uint8: {MEND}")
    if kind == "f4" and (dataset.dtype.kind != "f" or dataset.dtype.itemsize not in (2, 4, 8)):
        raise JaxstyleError(what, f"{name} has type {dataset.dtype}; weights are float32: {MEND}")
    unpacked = _check_packing(what, dataset)
    read = dataset[()] if unpacked is None else np.frombuffer(unpacked, dataset.dtype).reshape(shape)
    with np.errstate(over="ignore"):  # the check below finds an overflow
        values = np.asarray(read, np.uint8 if kind == "u1" else np.float32)
    if kind == "f4" and not np.isfinite(values).all():
        raise JaxstyleError(what, f"{name} holds values that are not finite in float32; {MEND}")
    return values


def _check_packing(what: str, dataset: h5py.Dataset) -> bytes | None:
    """Raise JaxstyleError if a chunk of `dataset` unpacks to more than its size.

    HDF5 itself would let a few megabytes unpack until they fill the memory.

    Returns:
        The values, where unpacking a single chunk was all there is to do; else None, and HDF5 reads them.
    """
    if dataset.chunks is None:
        return None
    name, plan = dataset.name, dataset.id.get_create_plist()
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    if len(set(filters)) != len(filters) or not set(filters) <= set(FILTERS):
        raise JaxstyleError(what, f"{name} is compressed in an unsupported way; use gzip: {MEND}")
    size, count = math.prod(dataset.chunks) * dataset.dtype.itemsize, dataset.id.get_num_chunks()
    if size > MAX_FILE_BYTES or count > MAX_PIECES:
        most = f"{MAX_PIECES} of {MAX_FILE_BYTES}"
        raise JaxstyleError(what, f"{name} has {count} chunks of {size} bytes; the limit is {most}: {MEND}")
    if h5py.h5z.FILTER_DEFLATE not in filters:
        return None
    most = size + 4  # a checksum may have been packed, too
    skipped, unpacked, packed = 0, b"", zlib.decompressobj()
    for index in range(count):
        packed = zlib.decompressobj()
        skipped, piece = dataset.id.read_direct_chunk(dataset.id.get_chunk_info(index).chunk_offset)
        if len(unpacked := packed.decompress(piece, most + 1)) > most:
            raise JaxstyleError(what, f"{name} unpacks to more than its {size} bytes: {MEND}")
    whole = dataset.chunks == dataset.shape and len(filters) == 1 and not skipped and packed.eof
    return unpacked if whole and len(unpacked) == size else None


def normalised(
    raw: Mapping[str, tuple[np.ndarray, np.ndarray]], means: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The network whose activations are those of `raw` divided by the mean of their filter.

    W'_l[i, o] = W_l[i, o] s_{l-1}[i] / s_l[o] and b'_l = b_l / s_l, with s_l the means of layer l and
    s_0 = 1 for the image (Gatys et al. 2016, section 2: "scaling the weights such that the mean activation
    of each convolutional filter over images and positions is equal to one"). Rectification and both
    poolings commute with positive factors, so nothing else changes.

    # Differs from Gatys et al. (2016): a filter that is dead over those images (`DEAD`) is not scaled to
    # mean 1. It is divided by the median of the means in its layer, and so stays small beside the others.
    # Divided by its own mean, one filter of conv2_1 would make up nearly all of the style loss wherever an
    # image activates it: 99 % with average pooling, 99.99 % with max (`calibrate` on a photograph in The
    # Starry Night).

    Args:
        raw: (kernel, bias) by layer name, from conv1_1 downwards without a gap.
        means: s_l by layer name.
    """
    found, before = {}, np.ones(3)
    for name, (kernel, bias) in raw.items():
        scale = _filter_scale(means[name])
        kernel = kernel.astype(np.float64) * before[:, None] / scale
        found[name] = kernel.astype(np.float32), (bias / scale).astype(np.float32)
        before = scale
    return found


def _filter_scale(mean: Float[np.ndarray, " o"]) -> Float[np.ndarray, " o"]:
    """Divisors of a layer's filters, in float64: their means, or the median mean for dead filters."""
    scale = mean.astype(np.float64)
    median = np.median(scale[scale > 0])
    return np.where(scale > DEAD * median, scale, median)


def _means(what: str, file: h5py.File, row: layers.Conv, pool: str) -> np.ndarray:
    """The mean activation of each filter of a layer. Raises JaxstyleError if the file has none."""
    pool = POOLINGS[pool].means or pool
    dataset = _dataset(what, file, f"{row.name}/mean_{pool}")
    if dataset is None:
        mend = MEND if pool in MEASURED_MEANS else 'give the plugin\'s pooling means="avg" or means="max"'
        raise JaxstyleError(
            "network", f"{what} has no mean activations for {pool} pooling to normalise by; {mend}"
        )
    means = _array(what, dataset, (row.out_channels,), "f4")
    if (means < 0).any() or not (means > 0).any():
        raise JaxstyleError(what, f"{dataset.name} holds no mean activations: negative or all 0; {MEND}")
    return means
