"""L-BFGS against the two-loop recursion in float64, and its behaviour on functions that are not smooth."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from scipy.optimize import minimize

from jaxstyle.cell import solvers

SHAPE = (4, 5, 3)


def valley(seed=0, scale=1.0):
    """A curved function of an image whose curvature spans three orders, and its gradient, in float64."""
    random = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(random.normal(size=(60, 60)))
    curvature = turned @ np.diag(np.geomspace(0.1, 100, 60)) @ turned.T
    middle = random.normal(0, 30, 60)

    def evaluate(image):
        x = np.asarray(image, np.float64).ravel() - middle
        value = 0.5 * x @ curvature @ x + 50 * np.log1p(x**2).sum()
        slope = curvature @ x + 100 * x / (1 + x**2)
        return scale * value, scale * slope.reshape(SHAPE)

    return evaluate


@functools.cache
def compiled(memory):
    """jaxstyle's L-BFGS, its update compiled."""
    made = solvers.make("lbfgs", {"lbfgs_memory": memory})
    return made.init, jax.jit(made.update)


def follow(evaluate, start, steps, memory, rate=10.0):
    """Results and losses after 0 to `steps` steps of jaxstyle's L-BFGS, and its rejections."""
    init, update = compiled(memory)
    image = result = jnp.asarray(start, jnp.float32)
    state, images, losses, rejected = init(image), [], [], 0
    for k in range(steps + 1):
        loss, slope = evaluate(image)
        seen = solvers.Evaluation(image, jnp.float32(loss), jnp.asarray(slope, jnp.float32))
        move = update(seen, result, state, jnp.float32(rate), jnp.int32(k))
        result = jnp.where(move.accepted, image, result)
        rejected += not move.accepted
        image, state = move.image, move.state
        images.append(np.asarray(result))
        losses.append(float(state.loss))
    return images, losses, rejected


def start_image(seed=1):
    return np.random.default_rng(seed).normal(0, 40, SHAPE).astype(np.float32)


@pytest.mark.parametrize("memory", [1, 3, 7, 40])
def test_steps_are_those_of_the_two_loop_recursion_in_float64(memory):
    # Memories that fill and turn over several times, and one that never does.
    expected, losses, _ = oracle.lbfgs(valley(), start_image(), 14, memory, 10.0)
    images, found, _ = follow(valley(), start_image(), 14, memory)
    # Pixels of some 100 grey levels are exact to 8e-6, and each step amplifies the error of the last one:
    # measured 2e-5 after two steps, 2e-4 after fourteen.
    np.testing.assert_allclose(images[:3], expected[:3], atol=1e-4)
    np.testing.assert_allclose(images, expected, atol=1e-3)
    np.testing.assert_allclose(found, losses, rtol=1e-5)


def kinked(image):
    """Flat and steep by turns: full steps often overshoot."""
    x = np.asarray(image, np.float64)
    return 1e4 + (np.abs(x) ** 1.5 + 200 * np.sin(x / 3)).sum(), (
        1.5 * np.sign(x) * np.abs(x) ** 0.5 + 200 / 3 * np.cos(x / 3)
    )


def test_worse_images_are_rejected_halved_and_remembered_as_in_float64():
    expected, losses, rejected = oracle.lbfgs(kinked, start_image(), 10, 5, 300.0)
    images, found, ours = follow(kinked, start_image(), 10, 5, rate=300.0)
    assert ours == rejected >= 2
    # Over forty starts float32's rounding grows to 3e-3 grey levels in the median, here to 1.2e-3.
    np.testing.assert_allclose(images, expected, atol=5e-3)
    np.testing.assert_allclose(found, [kinked(image)[0] for image in images], rtol=1e-6)
    steepest = max(np.abs(kinked(image)[1]).sum() for image in expected)
    np.testing.assert_allclose(found, losses, rtol=1e-6, atol=5e-3 * steepest)


def hilly(image):
    """Waves: concave about their tops, where every step down makes the gradient larger."""
    x = np.asarray(image, np.float64) / 30
    return 1e4 * (1 - np.cos(x)).sum(), 1e4 / 30 * np.sin(x)


@pytest.mark.parametrize("rate", [1e-4, 0.01, 1.0])
def test_a_short_first_step_is_doubled_until_a_curvature_is_known(rate):
    """It once stayed as short as that, and a picture hardly changed in a hundred steps."""
    start = 70 + start_image() / 10
    images, losses, _ = follow(hilly, start, 30, 5, rate=rate)
    expected, _, _ = oracle.lbfgs(hilly, start, 12, 5, rate)
    np.testing.assert_allclose(images[:13], expected, atol=1e-2)
    _, usual, _ = follow(hilly, start, 8, 5)
    assert losses[-1] <= usual[-1] < 0.3 * losses[0]
    assert all(after <= before for before, after in itertools.pairwise(losses))


def test_steps_of_negative_curvature_are_forgotten_as_in_float64():
    start = 70 + start_image() / 10
    expected, losses, _ = oracle.lbfgs(hilly, start, 8, 5, 10.0)
    slopes = [hilly(image)[1] for image in expected]
    curvature = [((expected[k + 1] - expected[k]) * (slopes[k + 1] - slopes[k])).sum() for k in range(4)]
    assert max(curvature[:3]) < 0 < curvature[3]
    images, found, _ = follow(hilly, start, 8, 5)
    np.testing.assert_allclose(images, expected, atol=1e-3)
    np.testing.assert_allclose(found, losses, rtol=1e-5, atol=1e-3)


def test_the_loss_never_rises():
    for memory in (3, 40):
        _, losses, rejected = follow(kinked, start_image(), 60, memory, rate=100.0)
        assert rejected >= 2  # images that would have raised it
        assert np.all(np.diff(losses) <= 0)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_unit_of_the_loss_changes_nothing(scale):
    # Weights of 1e20 are allowed, and squares of such gradients are beyond float32.
    plain, _, _ = follow(valley(), start_image(), 14, 5)
    images, losses, _ = follow(valley(scale=scale), start_image(), 14, 5)
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(images, plain, atol=1e-3)


def test_the_first_step_moves_the_fastest_pixel_by_the_learning_rate():
    for rate in (0.5, 10.0):
        images, _, rejected = follow(valley(), start_image(), 1, 5, rate)
        assert rejected == 0
        assert np.abs(images[1] - images[0]).max() == pytest.approx(rate, rel=1e-5)


def test_an_image_without_a_finite_loss_is_rejected_and_its_neighbourhood_is_tried():
    def walled(image):
        loss, slope = valley()(image)
        beyond = np.abs(np.asarray(image) - start_image()).max() > 3
        return (np.nan, slope * np.nan) if beyond else (loss, slope)

    images, losses, rejected = follow(walled, start_image(), 12, 5, rate=40.0)
    assert rejected >= 4  # 40, 20, 10 and 5 grey levels are too far
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert np.isfinite(images).all()


def test_a_first_loss_that_is_not_finite_is_no_sound_result():
    init, update = compiled(5)
    image = jnp.asarray(start_image())
    for loss, slope in ((np.inf, 1.0), (1.0, np.nan)):
        seen = solvers.Evaluation(image, jnp.float32(loss), jnp.full(SHAPE, slope, jnp.float32))
        move = update(seen, image, init(image), jnp.float32(10), jnp.int32(0))
        assert not move.accepted
        assert not move.sound


def test_at_a_minimum_the_image_stands_still():
    def bowl(image):
        x = np.asarray(image, np.float64)
        return 0.5 * (x**2).sum(), x

    images, losses, _ = follow(bowl, np.zeros(SHAPE), 5, 3)
    assert not np.any(images)
    assert losses == [0.0] * 6


@pytest.mark.parametrize("rate", [0.1, 10.0, 1e30])
def test_a_start_at_an_exact_minimum_does_not_diverge(rate):
    init, update = compiled(5)
    image = jnp.asarray(start_image())
    state = init(image)
    for index in range(3):
        seen = solvers.Evaluation(image, jnp.float32(0), jnp.zeros(SHAPE, jnp.float32))
        move = update(seen, image, state, jnp.float32(rate), jnp.int32(index))
        assert move.able
        assert move.sound
        np.testing.assert_array_equal(move.image, image)
        state = move.state


def test_a_batch_takes_the_steps_of_its_cells_and_writes_pairs_in_place():
    optimizer = solvers.make("lbfgs", {"lbfgs_memory": 3})
    starts = jnp.stack([start_image(s) for s in range(4)])

    def evaluate(x):
        value, slope = jax.value_and_grad(lambda x: jnp.sum(jnp.abs(x) ** 1.5))(x)
        return solvers.Evaluation(x, value, slope)

    def one(image, result, state, k):
        move = optimizer.update(evaluate(image), result, state, jnp.float32(10), k)
        return move.image, jnp.where(move.accepted, image, result), move.state

    def run(images):
        def body(k, carry):
            return jax.vmap(one, in_axes=(0, 0, 0, None))(*carry, k)

        return jax.lax.fori_loop(0, 9, body, (images, images, jax.vmap(optimizer.init)(images)))

    compiled = jax.jit(run).lower(starts).compile()
    together = compiled(starts)[1]
    for i in range(4):
        alone = jax.jit(run)(starts[i : i + 1])[1][0]
        np.testing.assert_allclose(together[i], alone, rtol=1e-4, atol=1e-4)
    # A copy of the pairs in every step would cost more than the optimizer itself.
    body = compiled.as_text()
    assert "f32[4,6,60]" in body
    loop = next(part for part in body.split("\n\n") if "while" not in part and "f32[4,6,60]" in part)
    assert not any("copy(" in line and "f32[4,6,60]" in line for line in loop.splitlines())


@pytest.mark.parametrize("name", ["adam", "lbfgs"])
def test_an_optimizer_is_made_by_its_name(name):
    made = solvers.make(name, {"lbfgs_memory": 3} if name == "lbfgs" else {})
    state = made.init(jnp.zeros(SHAPE))
    seen = solvers.Evaluation(jnp.zeros(SHAPE), jnp.float32(1), jnp.ones(SHAPE))
    move = jax.jit(made.update)(seen, jnp.zeros(SHAPE), state, jnp.float32(2), jnp.int32(0))
    assert move.accepted
    assert move.sound
    assert move.able
    np.testing.assert_allclose(move.image, -2.0, rtol=1e-5)


# --- bounds ---------------------------------------------------------------------------------------


def test_a_quadratic_within_bounds_comes_to_the_minimum_of_scipys():
    """Pixels held at a bound stay there: moved against their gradient, some of these stall far above it."""
    solver, low, high, size = solvers.make("lbfgs", {"lbfgs_memory": 30}), 0.0, 255.0, 48
    random = np.random.default_rng(0)

    @jax.jit
    def solved(matrix, vector, start):
        def loss(image):
            flat = image.reshape(-1)
            return 0.5 * flat @ (matrix @ flat) - vector @ flat

        def step(carry, k):
            image, result, history = carry
            total, gradient = jax.value_and_grad(loss)(image)
            held = ((image <= low) & (gradient > 0)) | ((image >= high) & (gradient < 0))
            seen = solvers.Evaluation(image, total, jnp.where(held, 0.0, gradient))
            move = solver.update(seen, result, history, jnp.float32(10.0), k)
            result = jnp.where(move.accepted, image, result)
            return (jnp.clip(move.image, low, high), result, move.state), None

        carry = start, start, solver.init(start)
        return jax.lax.scan(step, carry, jnp.arange(400))[0][1]

    for _ in range(8):
        turn, _ = np.linalg.qr(random.normal(size=(size, size)))
        matrix = turn * 10 ** random.uniform(-3, 0, size) @ turn.T
        vector = matrix @ random.uniform(-200, 455, size)  # most of the free minimum lies outside
        start = np.full((4, 4, 3), 120.0)

        def value(flat, matrix=matrix, vector=vector):
            return 0.5 * flat @ matrix @ flat - vector @ flat, matrix @ flat - vector

        options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-10}
        bounds = [(low, high)] * size
        best = minimize(
            value, start.ravel(), jac=True, bounds=bounds, method="L-BFGS-B", options=options
        ).fun
        single = (jnp.asarray(of, jnp.float32) for of in (matrix, vector, start))
        found = value(np.asarray(solved(*single), np.float64).ravel())[0]
        assert (found - best) / (value(start.ravel())[0] - best) < 2e-6
