"""The convolution, its gradient and the poolings, against NumPy and against JAX's own derivatives."""

import functools
import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.test_util import check_grads

from jaxstyle.vgg import convolution, pooling
from jaxstyle.vgg import winograd as transformed
from jaxstyle.vgg.padding import REPLICATE
from jaxstyle.vgg.winograd import POINTS, toom_cook

RANDOM = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


X, KERNEL, BIAS = draw(9, 11, 5), draw(3, 3, 5, 7), draw(7)
FORMS = pytest.mark.parametrize("winograd", [False, True], ids=["plain", "winograd"])


def convolved(x, kernel):
    """The convolution as one program, of the matrices as they are now."""
    return jax.jit(lambda x, kernel: convolution.conv3x3(x, kernel))(x, jnp.asarray(kernel))


def prepared(winograd, kernel=KERNEL):
    return convolution.Kernel(*map(jnp.asarray, convolution.prepare(np.asarray(kernel), winograd=winograd)))


@FORMS
@pytest.mark.parametrize("shape", [(9, 11), (8, 8), (1, 1), (2, 13), (4, 5), (31, 3)])
def test_convolution_is_the_correlation_with_zero_padding(winograd, shape):
    x = draw(*shape, 5)
    expected = oracle.correlate(np.asarray(x, np.float64), np.asarray(KERNEL, np.float64))
    # Winograd's transforms have coefficients up to 8 and divide by up to 24, which costs a few more digits.
    found = convolved(x, prepared(winograd).forward)
    np.testing.assert_allclose(found, expected, atol=1e-4 if winograd else 2e-5)


@pytest.mark.parametrize("points", [POINTS, [Fraction(n) for n in (0, 1, -1, 2)]])
def test_toom_cook_matrices_are_a_correlation_exactly(points):
    bt, g, at = toom_cook(points)
    m = len(points) - 1
    d, k = RANDOM.normal(size=m + 2), RANDOM.normal(size=3)
    expected = [d[i : i + 3] @ k for i in range(m)]
    np.testing.assert_allclose(at @ ((g @ k) * (bt @ d)), expected, atol=1e-13)


def test_bfloat16_products_cost_winograd_no_more_than_a_few_times_what_they_cost_anyway():
    random = np.random.default_rng(7)
    x = random.uniform(0, 1, (16, 20, 128)).astype(np.float32)
    kernel = (random.normal(size=(3, 3, 128, 32)) / 34).astype(np.float32)
    expected = oracle.correlate(x.astype(float), kernel.astype(float))
    error = {}
    for winograd in (False, True):
        form = convolution.prepare(kernel, winograd=winograd, dtype=jnp.bfloat16).forward
        image = jnp.asarray(x, jnp.float32 if winograd else jnp.bfloat16)
        y = convolved(image, form)
        assert y.dtype == image.dtype
        error[winograd] = np.sqrt(((np.asarray(y, np.float64) - expected) ** 2).mean() / expected.var())
    assert 1e-3 < error[False] < 1e-2
    assert error[True] < 4 * error[False]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_points_halve_the_rounding_of_the_customary_ones(monkeypatch, dtype):
    random = np.random.default_rng(7)
    x = random.uniform(0, 1, (24, 24, 256)).astype(np.float32)
    kernel = (random.normal(size=(3, 3, 256, 64)) / 48).astype(np.float32)
    expected = oracle.correlate(x.astype(float), kernel.astype(float))
    errors = []
    for points in (POINTS, [Fraction(n) for n in (0, 1, -1, 2, -2)]):
        for name, matrix in zip(("BT", "G", "AT"), toom_cook(points), strict=True):
            monkeypatch.setattr(transformed, name, matrix)
        form = convolution.prepare(kernel, winograd=True, dtype=dtype).forward
        errors.append(np.linalg.norm(convolved(jnp.asarray(x), form) - expected))
    assert errors[0] < 0.6 * errors[1]


@jax.jit
def of_layer(x, g, kernel, bias, inside=None):
    """A layer, and the gradient that it passes on."""
    y, pull = jax.vjp(lambda x: convolution.conv_relu(x, kernel, bias, inside), x)
    return y, pull(g)[0]


@FORMS
def test_conv_relu_is_zero_outside_the_image_and_its_gradient_too(winograd):
    inside = jnp.asarray(np.indices((9, 11)).sum(0) < 12)[..., None]
    x = jnp.where(inside, X, 0)
    kernel, ones = prepared(winograd), jnp.ones((9, 11, 7))
    y, gradient = of_layer(x, ones, kernel, BIAS, inside)
    whole, masked = of_layer(x, jnp.where(inside, ones, 0), kernel, BIAS)
    np.testing.assert_array_equal(y, jnp.where(inside, whole, 0))
    np.testing.assert_allclose(gradient, masked, atol=1e-5)


@FORMS
def test_conv_relu_gradient_is_jaxs_own(winograd):
    def plain(x):
        return jnp.maximum(convolution.conv3x3(x, KERNEL) + BIAS, 0)

    g = draw(9, 11, 7)
    _, mine = of_layer(X, g, prepared(winograd), BIAS)
    (jaxs,) = jax.jit(lambda x, g: jax.vjp(plain, x)[1](g))(X, g)
    np.testing.assert_allclose(mine, jaxs, atol=1e-4 if winograd else 1e-5)


def test_winograd_of_many_channels_keeps_float32s_digits():
    random = np.random.default_rng(5)
    x = random.uniform(0, 1, (16, 16, 256))
    kernel = random.normal(size=(3, 3, 256, 32)) / 48
    expected = oracle.correlate(x.astype(np.float32).astype(float), kernel.astype(np.float32).astype(float))
    found = {}
    for winograd in (False, True):
        form = prepared(winograd, kernel.astype(np.float32)).forward
        found[winograd] = np.asarray(convolved(jnp.asarray(x, jnp.float32), form)) - expected
    scale = np.sqrt((expected**2).mean())
    assert np.sqrt((found[False] ** 2).mean()) < 1e-6 * scale
    assert np.sqrt((found[True] ** 2).mean()) < 5e-6 * scale


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
@pytest.mark.parametrize(("dtype", "most"), [(jnp.float32, 5e-6), (jnp.bfloat16, 2e-2)])
def test_the_adjoint_by_winograd_rounds_no_worse_than_the_convolution(dtype, most, padding):
    random = np.random.default_rng(6)
    x, g = random.normal(size=(16, 16, 256)), random.normal(size=(16, 16, 256))
    kernel = (random.normal(size=(3, 3, 256, 256)) / 48).astype(np.float32)
    border = REPLICATE if padding == "replicate" else None
    form = convolution.prepare(kernel, winograd=True, dtype=dtype, border=border)
    both = (
        jax.jit(functools.partial(f, border=border))(jnp.asarray(array, jnp.float32), own)
        for f, array, own in zip(
            (convolution.conv3x3, convolution.conv3x3_adjoint), (x, g), form, strict=True
        )
    )
    exact = oracle.correlate(x, kernel, padding), oracle.correlate_backward(g, kernel, padding)
    error, adjoint = (np.sqrt(((f - e) ** 2).mean() / e.var()) for f, e in zip(both, exact, strict=True))
    assert adjoint < min(most, 1.2 * error)


@FORMS
def test_conv_relu_gradient_is_zero_where_the_output_is(winograd):
    _, gradient = of_layer(X, jnp.ones((9, 11, 7)), prepared(winograd), jnp.full(7, -1e6))
    assert not np.any(gradient)


@FORMS
def test_conv_relu_under_vmap_is_the_single_one(winograd):
    batch = jnp.stack([X, 2 * X, -X])
    layer = lambda x, kernel: convolution.conv_relu(x, kernel, BIAS)  # noqa: E731
    batched = jax.jit(jax.vmap(layer, in_axes=(0, None)))(batch, prepared(winograd))
    alone = jax.jit(layer)
    for one, x in zip(batched, batch, strict=True):
        np.testing.assert_allclose(one, alone(x, prepared(winograd)), atol=1e-4)


def test_winograd_multiplies_a_quarter_as_often():
    def products(winograd):
        form = convolution.prepare(np.zeros((3, 3, 64, 64), np.float32), winograd=winograd).forward
        text = jax.jit(convolution.conv3x3).lower(jnp.zeros((32, 32, 64)), jnp.asarray(form)).as_text()
        return text.count("stablehlo.convolution"), text.count("stablehlo.dot_general")

    assert products(False) == (1, 0)
    assert products(True) == (0, 1)


@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize("shape", [(8, 6, 3), (9, 7, 3)])
def test_pools_drop_odd_edges_and_match_numpy(kind, shape):
    x = draw(*shape)
    pool = jax.jit(getattr(pooling, f"{kind}_pool"))
    pooled = pool(x)
    np.testing.assert_allclose(pooled, oracle.pool_forward(np.asarray(x), kind), rtol=1e-6, atol=1e-6)
    g = draw(*pooled.shape)
    (gradient,) = jax.jit(lambda x, g: jax.vjp(pool, x)[1](g))(x, g)
    np.testing.assert_allclose(gradient, oracle.pool_backward(np.asarray(x), kind, g), rtol=1e-6)


@pytest.mark.parametrize("kind", ["avg", "max"])
def test_pool_gradients_agree_with_finite_differences(kind):
    x = jnp.asarray(RANDOM.permutation(48).reshape(4, 6, 2), jnp.float32)  # no ties
    pool = jax.jit(getattr(pooling, f"{kind}_pool"))
    check_grads(lambda x: pool(jnp.asarray(x)), (x,), order=1, modes=["rev"], eps=0.1)


def test_max_pool_gradient_scatters_nothing():
    lowered = jax.jit(jax.grad(lambda x: pooling.max_pool(x).sum())).lower(X).as_text()
    assert "select_and_scatter" not in lowered


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("product", "i", "o"),
    [
        (convolution.sum_of_patches, 3, 64),
        (convolution.sum_of_patches, 7, 9),
        (convolution.sum_of_shifts, 64, 3),
        (convolution.sum_of_shifts, 9, 7),
    ],
)
def test_images_and_their_gradients_as_products_are_the_same_correlation(product, i, o, dtype):
    x, kernel = (np.asarray(draw(*shape).astype(dtype), float) for shape in ((9, 11, i), (3, 3, i, o)))
    expected = oracle.correlate(x, kernel)
    found = jax.jit(product, static_argnums=2)(
        jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), jax.lax.Precision.HIGHEST
    )
    assert found.dtype == dtype
    error = np.linalg.norm(np.asarray(found, float) - expected) / np.linalg.norm(expected)
    assert error < (5e-7 if dtype == jnp.float32 else 6e-3)  # 2 ** -8 is 4e-3


def lowered(function, *arguments, platform):
    """The program given to XLA for a platform, which need not be present."""
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def test_a_gpu_gets_images_as_patches_and_a_cpu_gets_them_as_they_are():
    kernel, bias = prepared(False, draw(3, 3, 3, 16)), jnp.zeros(16)

    def gradient(x):
        return jax.grad(lambda x: convolution.conv_relu(x, kernel, bias).sum())(x)

    x = draw(9, 11, 3)
    on_gpu, on_cpu = (lowered(gradient, x, platform=name) for name in ("cuda", "cpu"))
    operands = r"stablehlo.convolution.*: \(tensor<1x9x11x(\d+)xf32>, tensor<(\d)x\dx(\d+)x(\d+)xf32>"
    assert re.findall(operands, on_gpu) == [("32", "1", "32", "16")]
    assert re.findall(r"stablehlo.dot_general.*\(tensor<(\S+)xf32>, tensor<(\S+)xf32>", on_gpu) == [
        ("9x11x16", "16x32")
    ]
    assert re.findall(operands, on_cpu) == [("3", "3", "3", "16"), ("16", "3", "16", "3")]
    assert "dot_general" not in on_cpu


def test_the_gradient_asks_nothing_of_the_sum_before_the_relu():
    # If it did, XLA would not make ReLU and convolution one kernel on a GPU (python -m bench compiled).
    def gradient(x):
        return jax.grad(lambda x: convolution.conv_relu(x, prepared(False), BIAS).sum())(x)

    text = lowered(gradient, X, platform="cuda")
    (sum_,) = re.findall(r"(%\d+) = stablehlo.add", text)
    readers = [line for line in text.splitlines() if re.search(rf"[ (,]{sum_}\b", line.split("=", 1)[-1])]
    assert len(readers) == 1
    assert "stablehlo.maximum" in readers[0]
    assert re.findall(r"stablehlo.compare\s+(\w+)", text) == ["NE"]
