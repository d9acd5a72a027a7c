"""The forms that suit a TPU, computed here: against NumPy in float64, and beside the usual ones."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from conftest import random_image
from jax import lax
from test_engine import Bench, pyramid
from test_optimizers import follow, start_image, valley

from jaxstyle.cell import lbfgs, solvers, step
from jaxstyle.cell.poolings import border, pooling
from jaxstyle.cell.start import init_state
from jaxstyle.device import batch
from jaxstyle.device.memory import MEMORY_SHARE, choose_width
from jaxstyle.inputs.preprocess import to_network
from jaxstyle.plan.planner import make_plan
from jaxstyle.plan.programs import Memory
from jaxstyle.vgg import convolution, planes
from jaxstyle.vgg.network import bind

TAPS = ("conv1_1", "pool1", "conv2_2")
HIGHEST = lax.Precision.HIGHEST


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_layers_of_a_narrow_network_match_numpy(narrow, pool):
    image = random_image(37, 51, seed=3).astype(np.float32)
    network = bind(narrow, taps=TAPS, pool=pooling(pool, planes=True), planes=True)
    found = jax.jit(network.features)(network.params, to_network(image))
    expected = oracle.network(narrow, image, pool, "conv2_2")[1]
    for name in TAPS:
        np.testing.assert_allclose(found[name], expected[name], atol=2e-5 * np.abs(expected[name]).max())


def test_gradients_within_a_border_are_those_of_the_usual_form(narrow):
    image = jnp.asarray(to_network(random_image(21, 26, seed=3).astype(np.float32)))

    def gradient(as_planes):
        pool = pooling("avg", planes=as_planes)
        network = bind(narrow, taps=TAPS, pool=pool, border=border("reflect"), planes=as_planes)
        return jax.jit(
            jax.grad(
                lambda x: sum(jnp.sum(y**2) for y in network.features(network.params, x, None).values())
            )
        )(image)

    expected = gradient(as_planes=False)
    np.testing.assert_allclose(gradient(as_planes=True), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("shape", [(5, 8, 2), (1, 3, 2)])
def test_a_border_by_sums_holds_the_numbers_that_numpy_puts_there(name, shape):
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    mode = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[name]
    found = planes.bordered_by_sums(jnp.asarray(x), border(name))
    np.testing.assert_array_equal(found, np.pad(x, ((1, 1), (1, 1), (0, 0)), mode))


@pytest.mark.parametrize("padding", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("shape", [(6, 9), (9, 4), (1, 3), (2, 1)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_a_border_adds_at_the_edges_alone_is_what_numpy_adds(padding, shape, dtype):
    random = np.random.default_rng(7)
    rounded = lambda a: np.asarray(jnp.asarray(a, dtype), float)  # noqa: E731
    x, g = rounded(random.normal(size=(*shape, 8))), rounded(random.normal(size=(*shape, 16)))
    kernel = rounded(random.normal(size=(3, 3, 8, 16)).astype(np.float32))
    form = convolution.prepare(kernel.astype(np.float32), winograd=False, dtype=dtype)
    assert planes.is_by_edges(8, 16)
    assert planes.is_by_edges(16, 8)
    of = {"border": border(padding), "planes": True}
    y = convolution.conv3x3(jnp.asarray(x, dtype), form.forward, **of)
    back = convolution.conv3x3_adjoint(jnp.asarray(g, dtype), form.backward, **of)
    bound = {"float32": 2e-6, "bfloat16": 2e-2}[dtype]
    for found, expected in (
        (y, oracle.correlate(x, kernel, padding)),
        (back, oracle.correlate_backward(g, kernel, padding)),
    ):
        np.testing.assert_allclose(np.asarray(found, float), expected, atol=bound * np.abs(expected).max())


@pytest.mark.parametrize("inputs", [3, 5])
def test_products_over_shifted_planes_are_a_correlation_and_its_adjoint(inputs):
    random = np.random.default_rng(inputs)
    x, g = random.normal(size=(6, 9, inputs)), random.normal(size=(6, 9, 16))
    kernel = random.normal(size=(3, 3, inputs, 16))
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    f32 = functools.partial(jnp.asarray, dtype=jnp.float32)
    y = planes.of_planes(f32(x), f32(kernel), HIGHEST, has_border=False)
    np.testing.assert_allclose(y, oracle.correlate(x, kernel), atol=1e-5)
    back = planes.to_planes(f32(g), f32(turned), HIGHEST, has_border=False)
    np.testing.assert_allclose(back, oracle.correlate_backward(g, kernel), atol=3e-5)


@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize("shape", [(6, 8), (7, 9)])
def test_poolings_and_their_gradients_match_numpy_where_maxima_are_equal_too(kind, shape):
    random = np.random.default_rng(4)
    x = jnp.asarray(random.integers(0, 3, (*shape, 2)), jnp.float32)  # most squares have equal maxima
    g = jnp.asarray(random.normal(size=(shape[0] // 2, shape[1] // 2, 2)), jnp.float32)
    y, back = jax.vjp(pooling(kind, planes=True), x)
    np.testing.assert_allclose(y, oracle.pool_forward(np.asarray(x, float), kind), rtol=1e-6)
    np.testing.assert_allclose(back(g)[0], jax.vjp(pooling(kind), x)[1](g)[0], rtol=1e-6)
    distinct = random.permutation(x.size).reshape(x.shape).astype(np.float32)
    _, back = jax.vjp(pooling(kind, planes=True), jnp.asarray(distinct))
    np.testing.assert_allclose(
        back(g)[0], oracle.pool_backward(distinct.astype(float), kind, np.asarray(g)), rtol=1e-6
    )


def test_a_pooling_in_bf16_rounds_once_as_the_usual_one_does():
    x = jnp.asarray(np.random.default_rng(5).normal(size=(8, 8, 4)), jnp.bfloat16)
    found, back = jax.vjp(pooling("avg", planes=True), x)
    usual, usual_back = jax.vjp(pooling("avg"), x)
    np.testing.assert_array_equal(found, usual)
    np.testing.assert_array_equal(back(usual)[0], usual_back(usual)[0])


def test_lbfgs_on_tiles_takes_the_steps_of_the_two_loop_recursion(monkeypatch):
    made = solvers.make("lbfgs", {"lbfgs_memory": 3})
    tiled = made.init_planes, jax.jit(made.update)
    monkeypatch.setattr("test_optimizers.compiled", lambda memory: tiled)
    expected, losses, _ = oracle.lbfgs(valley(), start_image(), 14, 3, 10.0)
    images, found, _ = follow(valley(), start_image(), 14, 3)
    np.testing.assert_allclose(images, expected, atol=1e-3)  # as in the other form
    np.testing.assert_allclose(found, losses, rtol=1e-5)


def test_vectors_of_lbfgs_are_whole_tiles_that_hold_the_image_alone():
    image = jnp.asarray(random_image(5, 7, seed=1).astype(np.float32))
    vector = lbfgs._tiles(image)
    assert vector.shape == lbfgs.TILE
    assert float(vector.sum()) == float(image.sum())
    np.testing.assert_array_equal(lbfgs._image(vector, image), image)


def test_a_run_in_planes_follows_the_usual_one(narrow):
    bench = pyramid(narrow, pyramid=0, seed=(0, 1))
    usual = bench.run([0, 1])
    bench.program = dataclasses.replace(bench.program, planes=True)
    found = bench.run([0, 1])
    # Sums are taken in another order, and every step amplifies what that changes.
    np.testing.assert_allclose(found.info.loss_total[:, 0], usual.info.loss_total[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found.info.loss_total, usual.info.loss_total, rtol=1e-3)


def test_a_step_can_be_lowered_for_a_tpu_and_keeps_pairs_where_they_are(narrow):
    bench = Bench(narrow, width=8, optimizer="lbfgs", pyramid=0)
    program = dataclasses.replace(bench.program, planes=True)
    params, features = bench.engine.network(program)
    knobs, start, targets = batch.argument_shapes(program, 8, features, params)
    state = jax.eval_shape(jax.vmap(functools.partial(init_state, program, noisy=False)), knobs, start)

    def advance(params, knobs, targets, state, k):
        one = functools.partial(step.step, features, params, program)
        return jax.vmap(one, in_axes=(0, None, 0, None))(knobs, targets, state, k)

    traced = jax.jit(advance).trace(params, knobs, targets, state, jnp.int32(0))
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "LayoutConstraint" in text  # of the history; see lbfgs._write


def test_planes_are_for_tpus_and_no_other_program_is_told_of_them(narrow):
    bench = Bench(narrow)
    shapes = dict.fromkeys(bench.content, (32, 40))
    for platform in ("cpu", "gpu", "tpu"):
        plan = make_plan(bench.sweep, bench.cells, shapes, platform=platform, choose_width=lambda p, n: 1)
        assert plan.programs[0].planes == ("planes" in plan.programs[0].record()) == (platform == "tpu")


def test_a_launch_on_a_tpu_has_one_cell_or_fills_the_rows_of_a_tile(narrow):
    program = dataclasses.replace(Bench(narrow).program, planes=True)
    memory = Memory(fixed=10**8, per_cell=10**7)

    def width(cells, room):
        available = int((memory.fixed + room * memory.per_cell) / MEMORY_SHARE)
        return choose_width(program, cells, platform="tpu", memory=memory, available=available)

    found = {cells: width(cells, 100) for cells in (1, 4, 5, 8, 9, 1000)}
    assert found == {1: 1, 4: 1, 5: 8, 8: 8, 9: 16, 1000: 64}
    assert width(1000, 7) == 1
    wide, narrowest = (dataclasses.replace(program, width=width) for width in (16, 8))
    assert (wide.narrower.width, narrowest.narrower.width) == (8, 1)


def test_memory_on_a_tpu_is_planned_from_the_type_of_activations(narrow):
    program = dataclasses.replace(Bench(narrow, shape=(256, 256)).program, planes=True)
    halved = dataclasses.replace(program, precision="bf16")
    assert 0.5 < halved.bytes_per_cell() / program.bytes_per_cell() < 0.9
