"""The network: a narrow one against NumPy float64, and layers that it must not compute."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from conftest import QUICKLY, random_image

from jaxstyle.cell.poolings import pooling
from jaxstyle.inputs.preprocess import MEAN_RGB, to_network
from jaxstyle.vgg import layers
from jaxstyle.vgg.network import bind

FORMS = {False: "plain", True: "winograd"}.get


@pytest.fixture(scope="module")
def compiled(narrow):
    """The narrow network with every tap, its parameters given, compiled once for each kind."""

    @functools.cache
    def make(pool, winograd, precision="f32"):
        network = bind(narrow, taps=layers.TAPS, pool=pooling(pool), winograd=winograd, precision=precision)
        features = jax.jit(network.features, compiler_options=QUICKLY)
        return lambda *image: jax.device_get(features(network.params, *image))

    return make


@pytest.mark.parametrize(
    ("pool", "shape", "winograd"),
    [
        ("avg", (37, 51), False),
        ("max", (32, 48), False),
        ("l2", (37, 51), False),
        ("avg", (37, 51), True),
    ],
    ids=FORMS,
)
def test_every_layer_of_a_narrow_network_matches_numpy(narrow, compiled, pool, shape, winograd):
    image = random_image(*shape, seed=3).astype(np.float32)
    found = compiled(pool, winograd)(to_network(image))
    expected = oracle.network(narrow, image, pool, "pool5")[1]
    assert {*found} == {*expected} == {*layers.TAPS}
    for name in layers.TAPS:
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(
            found[name], expected[name], atol=1e-4 * scale if winograd else 2e-5 * scale, err_msg=name
        )
        assert np.min(found[name]) >= 0  # taps are taken after the ReLU


@pytest.mark.parametrize(("pool", "winograd"), [("avg", False), ("max", False), ("avg", True)], ids=FORMS)
def test_on_a_canvas_every_layer_is_that_of_the_image_alone(narrow, compiled, pool, winograd):
    for shape in ((32, 48), (37, 51)):
        canvas = np.full((64, 96, 3), 1e3, np.float32)  # what lies outside must not matter
        canvas[: shape[0], : shape[1]] = image = random_image(*shape, seed=3)
        found = compiled(pool, winograd)(to_network(canvas), np.array(shape, np.int32))
        expected = oracle.network(narrow, image.astype(np.float32), pool, "pool5")[1]
        for name in layers.TAPS:
            h, w, _ = expected[name].shape
            assert (h, w) == layers.feature_shape(name, *shape)[:2]
            scale = np.abs(expected[name]).max()
            np.testing.assert_allclose(
                found[name][:h, :w], expected[name], atol=1e-4 * scale if winograd else 2e-5 * scale
            )
            assert not np.any(found[name][h:])
            assert not np.any(found[name][:, w:])


@pytest.mark.parametrize("winograd", [False, True], ids=FORMS)
def test_bf16_activations_are_near_those_of_float32(compiled, winograd):
    image = to_network(random_image(37, 51, seed=3).astype(np.float32))
    found = {precision: compiled("avg", winograd, precision)(image) for precision in ("f32", "bf16")}
    assert found["bf16"]["conv4_2"].dtype == (jnp.float32 if winograd else jnp.bfloat16)
    for name, exact in found["f32"].items():
        error = np.asarray(found["bf16"][name], np.float32) - exact
        assert np.linalg.norm(error) < 0.03 * np.linalg.norm(exact)
    assert np.any(found["bf16"]["conv5_4"] != found["f32"]["conv5_4"])


def test_nothing_below_the_deepest_tap_is_held_or_computed(narrow):
    network = bind(narrow, taps=("conv1_1", "conv2_1"), pool=pooling("avg"))
    shapes = [leaf.shape for leaf in jax.tree.leaves(network.params)]
    assert len(shapes) == 3 * 3
    image = np.zeros((32, 32, 3), np.float32)
    lowered = jax.jit(network.features).lower(network.params, image).as_text()
    assert lowered.count("stablehlo.convolution") == 3


@pytest.mark.parametrize(("deepest", "convs"), [("pool1", 2), ("pool3", 8)])
def test_a_pooling_needs_its_own_block_alone(narrow, deepest, convs):
    network = bind(narrow, taps=("conv1_1", deepest), pool=pooling("avg"))
    assert len(jax.tree.leaves(network.params)) == 3 * convs
    image = np.zeros((32, 32, 3), np.float32)
    lowered = jax.jit(network.features).lower(network.params, image).as_text()
    assert lowered.count("stablehlo.convolution") == convs


def test_only_taps_are_returned(narrow):
    network = bind(narrow, taps=("conv4_2", "conv2_1"), pool=pooling("avg"))
    found = []
    jax.eval_shape(lambda x: found.extend(network.features(network.params, x)), jnp.zeros((32, 32, 3)))
    assert found == ["conv2_1", "conv4_2"]


def test_real_weights_see_edges_in_conv1_1(vgg19_weights):
    # A grey image excites conv1_1 far less than a checkerboard: the filters are edge and colour detectors.
    network = bind(vgg19_weights, taps=("conv1_1",), pool=pooling("avg"))
    flat = np.broadcast_to(MEAN_RGB, (32, 32, 3)).astype(np.float32)
    board = flat + 80 * ((np.indices((32, 32)).sum(0) // 2 % 2) * 2 - 1)[..., None].astype(np.float32)
    energy = [
        float(network.features(network.params, jnp.asarray(to_network(x)))["conv1_1"][4:-4, 4:-4].mean())
        for x in (flat, board)
    ]
    assert energy[1] > 10 * energy[0]
