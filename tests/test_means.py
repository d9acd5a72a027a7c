"""Paddings, blurred and L2 pooling, and style losses: against float64, their laws, and in whole runs."""

import dataclasses
import functools
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import torture
from conftest import QUICKLY, narrow_weights, random_image
from jax.test_util import check_vjp
from PIL import Image
from test_calibration import weighed
from test_grid import plan_of
from test_resume import command, events
from test_step import advance, begin, loss_and_gradient, make, sweep

from jaxstyle.cell import losses, wasserstein
from jaxstyle.cell.knobs import blank_knobs
from jaxstyle.cell.poolings import border, pooling
from jaxstyle.cell.start import refined_state
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.inputs.resize import halved
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.programs import Program
from jaxstyle.plan.stages import coarser_stages, wrapping_shape
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import Sweep
from jaxstyle.spec.tables import PADDINGS, STYLE_LOSSES, function
from jaxstyle.vgg import bordered, convolution
from jaxstyle.vgg.network import bind
from jaxstyle.vgg.precision import ARITHMETIC

jit = functools.partial(jax.jit, compiler_options=QUICKLY)
RANDOM = np.random.default_rng(0)
BORDERED = [name for name in PADDINGS.names if name != "zeros"]
FORMS = pytest.mark.parametrize("winograd", [False, True], ids=["plain", "winograd"])
SHAPES = [(9, 11), (1, 1), (2, 13), (8, 12), (4, 6)]
"""Axes of whole tiles of Winograd's algorithm, and of parts of one, in both directions."""


def draw(*shape):
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def wide(array):
    return np.asarray(array, np.float64)


def check_slope(function, slope, x, **close):
    """Compare `slope(x, g)`, the gradient of `function` times g, with finite differences."""
    check_vjp(function, lambda x: (function(x), lambda g: (slope(x, g),)), (x,), **close)


def pulled(function):
    """The gradient of `function` at x, times g, compiled."""
    return jit(lambda x, g: jax.vjp(function, x)[1](g)[0])


KERNEL, BIAS = draw(3, 3, 5, 7), draw(7)


def prepared(winograd, name="zeros"):
    made = convolution.prepare(np.asarray(KERNEL), winograd=winograd, border=border(name))
    return convolution.Kernel(*map(jnp.asarray, made))


# --- paddings -------------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("name", PADDINGS.names)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_padded_convolution_and_its_adjoint_are_the_oracles(name, shape, winograd):
    x, g, kernel = draw(*shape, 5), draw(*shape, 7), prepared(winograd, name)
    # As without a border: Winograd's transforms have coefficients up to 8 and divide by up to 24.
    close = {"atol": 1e-4 if winograd else 2e-5}
    forward, backward = (
        jit(functools.partial(f, border=border(name)))
        for f in (convolution.conv3x3, convolution.conv3x3_adjoint)
    )
    y, back = forward(x, kernel.forward), backward(g, kernel.backward)
    np.testing.assert_allclose(y, oracle.correlate(wide(x), wide(KERNEL), name), **close)
    np.testing.assert_allclose(back, oracle.correlate_backward(wide(g), wide(KERNEL), name), **close)
    # <J x, g> = <x, J^T g>: sums of a few hundred products of about 1 to 10.
    assert (wide(y) * wide(g)).sum() == pytest.approx((wide(x) * wide(back)).sum(), abs=5e-3)


@FORMS
@pytest.mark.parametrize("name", BORDERED)
def test_the_gradient_of_a_padded_layer_is_jaxs_own_at_borders_too(name, winograd):
    x, g = draw(9, 11, 5), draw(9, 11, 7)

    def plain(x):
        around = bordered.bordered(x, border(name))
        sums = jax.lax.conv_general_dilated(
            around[None], KERNEL, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.maximum(sums[0] + BIAS, 0)

    def own(x):
        return convolution.conv_relu(x, prepared(winograd, name), BIAS, border=border(name))

    mine, jaxs = (pulled(f)(x, g) for f in (own, plain))
    np.testing.assert_allclose(mine, jaxs, atol=1e-4 if winograd else 1e-5)


@pytest.mark.parametrize("name", BORDERED)
def test_the_gradient_at_borders_agrees_with_finite_differences(name):
    x = draw(4, 5, 5)
    bias = jnp.full(7, 100.0)  # the layer is then linear, and a difference exact for any step

    def of_the_edge(edge):
        y = convolution.conv_relu(
            jnp.concatenate([edge[None], x[1:]]), prepared(False), bias, border=border(name)
        )
        return jnp.sum(jnp.square(y - 100.0))

    check_slope(jit(of_the_edge), pulled(of_the_edge), x[0], eps=0.5, rtol=2e-3)


@pytest.mark.parametrize("name", PADDINGS.names)
@FORMS
def test_a_constant_image_stays_constant_under_every_padding_but_zeros(name, winograd):
    levels = np.arange(1.0, 6.0)
    x = jnp.broadcast_to(jnp.asarray(levels, jnp.float32), (8, 12, 5))
    y = jit(functools.partial(convolution.conv3x3, border=border(name)))(x, prepared(winograd).forward)
    alike = np.broadcast_to(levels @ wide(KERNEL).sum((0, 1)), y.shape)
    inner = wide(y)[1:-1, 1:-1] if name == "zeros" else wide(y)
    np.testing.assert_allclose(inner, alike[: inner.shape[0], : inner.shape[1]], atol=2e-4)
    assert np.ptp(wide(y), (0, 1)).max() > 1 or name != "zeros"


@pytest.mark.parametrize("name", BORDERED)
@pytest.mark.parametrize(
    ("product", "i", "o"), [(convolution.sum_of_patches, 3, 16), (convolution.sum_of_shifts, 16, 3)]
)
def test_the_products_of_a_gpu_take_a_border_as_it_is(product, i, o, name):
    x, kernel = draw(9, 11, i), draw(3, 3, i, o)
    around = bordered.bordered(x, PADDINGS[name].border)
    own = functools.partial(product, precision=jax.lax.Precision.HIGHEST, has_border=True)
    found = jit(own)(around, kernel)
    np.testing.assert_allclose(found, oracle.correlate(wide(x), wide(kernel), name), atol=5e-5)


@pytest.mark.parametrize("name", BORDERED)
def test_a_gpu_gets_products_for_few_channels_under_every_padding(name):
    kernel = convolution.Kernel(
        *map(jnp.asarray, convolution.prepare(np.ones((3, 3, 3, 16), np.float32), winograd=False))
    )

    def gradient(x):
        return jax.grad(
            lambda x: convolution.conv_relu(x, kernel, jnp.zeros(16), border=border(name)).sum()
        )(x)

    text = jax.jit(gradient).trace(draw(9, 11, 3)).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.convolution") == text.count("stablehlo.dot_general") == 1


def test_total_variation_wraps():
    image = draw(5, 7, 3)
    expected = sum(np.square(np.roll(wide(image), -1, axis) - wide(image)).sum() for axis in (0, 1))
    assert losses.total_variation(image, wraps=True) == pytest.approx(expected, rel=1e-6)


def test_a_rolled_image_is_halved_and_enlarged_to_a_rolled_one():
    pixels = random_image(64, 96, 1)
    rolled = np.roll(pixels, (16, 32), (0, 1))
    small = halved(pixels, 2, wraps=True)
    assert small.shape == (16, 24, 3)
    np.testing.assert_array_equal(halved(rolled, 2, wraps=True), np.roll(small, (4, 8), (0, 1)))
    program = Program(64, 96, "avg", "adam", "f32", ("conv1_1",), ("conv1_1",), 1, padding="circular")
    knobs = blank_knobs(program)._replace(extent=jnp.array((64, 96), jnp.int32))
    extent = jnp.array((32, 48), jnp.int32)
    coarse = np.asarray(random_image(32, 48, 2), np.float32)
    refine = jit(functools.partial(refined_state, program))
    fine, other = (
        refine(knobs, jnp.asarray(c), extent).image for c in (coarse, np.roll(coarse, (8, 16), (0, 1)))
    )
    np.testing.assert_allclose(other, np.roll(fine, (16, 32), (0, 1)), atol=1e-3)


def test_three_steps_from_a_rolled_image_end_in_a_rolled_picture(narrow):
    content, style, first = (random_image(*at) for at in ((32, 48, 1), (24, 40, 2), (32, 48, 3)))
    ends = []
    for shift in ((0, 0), (16, 32)):
        rolled = np.roll(content, shift, (0, 1))
        layers = {"content_layer": ("conv2_2",), "style_layers": ("conv1_1+conv2_1+conv3_1",)}
        circular = {"padding": "circular", "pool": "blur", "tv_weight": 1.0, "init": ("content",)}
        circular |= {"pyramid": 0, "lbfgs_memory": 3}
        own = sweep(**layers, **circular)
        cell = make(own, narrow, rolled, style)
        state, _ = advance(*cell, begin(*cell, np.roll(first, shift, (0, 1))), 4)
        ends.append(np.asarray(state.evaluated))
    assert np.abs(ends[0] - first).max() > 1
    np.testing.assert_allclose(ends[1], np.roll(ends[0], (16, 32), (0, 1)), atol=0.05)


def test_nothing_but_zeros_shares_a_canvas():
    shapes = {f"/{n}": (48 + 16 * (n % 2), 64) for n in range(8)}
    grid = {"content": tuple(shapes), "shapes": shapes, "steps": (2,)}
    assert [program.canvas for program in plan_of(padding="zeros", **grid).programs] == [True]
    for name in BORDERED:
        programs = plan_of(padding=name, **grid).programs
        assert [(program.canvas, program.padding) for program in programs] == [(False, name)] * 2
    for pool in ("blur", "l2"):
        assert {program.canvas for program in plan_of(pool=pool, **grid).programs} == {False}
    network = bind(narrow_weights(), taps=("conv1_1",), pool=pooling("avg"), border=border("reflect"))
    with pytest.raises(ValueError, match="canvas"):
        network.features(network.params, jnp.zeros((32, 32, 3)), np.array((16, 16), np.int32))


@pytest.mark.parametrize(
    ("pyramid", "deepest", "least_px"), [(0, "conv5_1", 16), (1, "pool5", 32), (2, "pool4", 16)]
)
def test_sides_that_cannot_wrap_are_refused_with_sides_that_can(tmp_path, pyramid, deepest, least_px):
    Image.fromarray(random_image(70, 150, 1)).save(tmp_path / "photo.png")
    given = {"content": (str(tmp_path / "photo.png"),), "style": (str(tmp_path / "photo.png"),)}
    given |= {"style_layers": (deepest,), "padding": "circular"}
    own = resolve(Sweep(**given, size="150", pyramid=pyramid))
    with pytest.raises(JaxstyleError) as error:
        Pictures(own, sweep_cells(own))
    assert str(error.value).startswith(
        f"padding: circular needs sides that are multiples of {least_px << pyramid}"
    )
    (size,) = re.findall(r"give --size (\S+)$", str(error.value))
    mended = dataclasses.replace(own, size=size)
    assert Pictures(mended, sweep_cells(mended)).content


@pytest.mark.parametrize("least_px", [16, 32])
def test_a_shape_that_can_wrap_is_found_for_every_shape(least_px):
    for height in range(16, 200, 7):
        for width in range(16, 200, 9):
            for pyramid in range(4):
                found = wrapping_shape((height, width), pyramid, least_px)
                multiple = least_px << coarser_stages(found, pyramid, least_px)
                assert min(found) > 0
                assert not any(edge % multiple for edge in found)


# --- poolings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PADDINGS.names)
@pytest.mark.parametrize("kind", ["blur", "l2"])
def test_blurred_pools_and_their_gradients_are_the_oracles(kind, name):
    x, g = draw(9, 7, 3), draw(4, 3, 3)
    own = pooling(kind, name)
    pool, slope = jit(own), pulled(own)
    y, gradient = pool(x), slope(x, g)
    assert y.shape == g.shape
    np.testing.assert_allclose(y, oracle.pool_forward(wide(x), kind, name), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        gradient, oracle.pool_backward(wide(x), kind, wide(g), name), rtol=1e-5, atol=1e-6
    )
    check_slope(pool, slope, x, eps=0.05, rtol=2e-2)


@pytest.mark.parametrize("kind", ["blur", "l2"])
@pytest.mark.parametrize("name", PADDINGS.names)
def test_blurred_pools_keep_a_constant_image_and_its_type(kind, name):
    for size, dtype in (((8, 6, 2), jnp.float32), ((2, 3, 1), jnp.bfloat16)):
        y = jit(pooling(kind, name))(jnp.full(size, 3.0, dtype))
        assert y.dtype == dtype
        np.testing.assert_allclose(wide(y), 3.0, rtol=1e-6)


def test_a_blurred_pool_removes_a_pattern_of_two_positions():
    stripes = jnp.asarray(np.tile([[1.0, 0.0]], (8, 4))[..., None], jnp.float32)
    np.testing.assert_allclose(jit(pooling("blur", "circular"))(stripes), 0.5, rtol=1e-6)


def test_l2_pooling_of_zeros_is_almost_zero_and_so_is_its_gradient():
    own = pooling("l2")
    pool, gradient = jit(own), jit(jax.grad(lambda x: 1e6 * own(x).sum()))
    assert float(pool(jnp.zeros((6, 6, 2))).max()) <= 1.01e-4
    np.testing.assert_array_equal(gradient(jnp.zeros((6, 6, 2))), 0)
    assert np.isfinite(gradient(jnp.full((6, 6, 2), 1e-30))).all()


# --- style losses ---------------------------------------------------------------------------------

OTHERS = [name for name in STYLE_LOSSES.names if name != "gram"]
F, A = (jnp.asarray(RANDOM.gamma(0.5, 2.0, shape), jnp.float32) for shape in ((6, 5, 24), (7, 9, 24)))
FEW = jnp.asarray(RANDOM.gamma(0.5, 2.0, (3, 3, 24)), jnp.float32)
"""Fewer positions than channels: its covariance is singular."""


@functools.cache
def compiled(name):
    """What a style loss keeps of a style; the loss; and the loss with its gradient."""
    row = STYLE_LOSSES[name]
    loss = function(row.loss)
    return jit(function(row.keep)), jit(loss), jit(jax.value_and_grad(loss))


def flat(features):
    return wide(features).reshape(-1, features.shape[-1])


@pytest.mark.parametrize("name", STYLE_LOSSES.names)
@pytest.mark.parametrize(
    ("f", "a"),
    [(F, A), (F, FEW), (FEW, A), (FEW, FEW[::-1] * 2)],
    ids=["full", "low style", "low", "both low"],
)
def test_style_losses_and_their_gradients_are_the_oracles(name, f, a):
    row = STYLE_LOSSES[name]
    keep, _, loss_and_gradient = compiled(name)
    loss, gradient = loss_and_gradient(f, keep(a))
    expected, by_f = oracle.STYLE_LOSSES[name](flat(f), flat(a))
    assert loss == pytest.approx(expected, rel=2e-5)
    error = np.linalg.norm(flat(gradient) - by_f) / np.linalg.norm(by_f)
    assert error < (2e-4 if name == "wasserstein" else 2e-6)
    of_f, of_a = (jax.tree.map(np.asarray, keep(x)) for x in (f, a))
    assert function(row.distance)(of_f, of_a) == pytest.approx(expected, rel=2e-5)
    assert function(row.trace)(of_a) == pytest.approx((flat(a) ** 2).sum() / len(flat(a)), rel=1e-5)


@pytest.mark.parametrize("name", OTHERS)
def test_style_losses_agree_with_finite_differences(name):
    keep, loss, both = compiled(name)
    kept = keep(A)
    check_slope(lambda f: loss(f, kept), lambda f, g: g * both(f, kept)[1], F, eps=0.02, rtol=5e-3)


@pytest.mark.parametrize("name", STYLE_LOSSES.names)
def test_style_losses_on_a_canvas_are_those_of_the_image_alone(name):
    (keep, loss, _), positions = compiled(name), jnp.float32(30)
    canvas = jnp.pad(F, ((0, 3), (0, 2), (0, 0)))
    kept = keep(A)
    assert loss(canvas, kept, positions) == pytest.approx(float(loss(F, kept)), rel=1e-5)
    for one, other in zip(jax.tree.leaves(keep(F)), jax.tree.leaves(keep(canvas, positions)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STYLE_LOSSES.names)
def test_what_is_kept_of_a_style_has_the_shape_of_no_image(name):
    keep = function(STYLE_LOSSES[name].keep)
    shapes = [
        jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), jax.eval_shape(keep, jnp.zeros((*size, 24), dtype))
        )
        for size, dtype in (((6, 5), jnp.float32), ((1, 9), jnp.bfloat16))
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", OTHERS)
def test_an_image_is_near_itself_and_a_flat_style_has_a_finite_gradient(name):
    keep, loss, loss_and_gradient = compiled(name)
    for style in (F, jnp.full_like(F, 5.0), jnp.zeros_like(F)):
        kept = keep(style)
        variance = function(STYLE_LOSSES[name].trace)(jax.tree.map(np.asarray, kept))
        assert abs(loss(style, kept)) <= 1e-5 * max(1.0, variance)
        assert np.isfinite(loss_and_gradient(F, kept)[1]).all()
        assert np.isfinite(loss_and_gradient(jnp.zeros_like(F), kept)[1]).all()


def test_means_weigh_in_moments_what_gram_matrices_do():
    """Features times s make either part times s^4; Wasserstein's loss goes with s^2."""
    for name, power in (("moments", 4), ("wasserstein", 2)):
        keep, loss, _ = compiled(name)
        one, other = (loss(s * F, keep(s * A)) for s in (1.0, 3.0))
        assert other == pytest.approx(3**power * float(one), rel=1e-4)


def test_roots_of_a_matrix_with_a_condition_number_of_a_million():
    vectors, _ = np.linalg.qr(RANDOM.normal(size=(96, 96)))
    values = np.geomspace(1e-6, 1, 96)
    root, inverse = jit(wasserstein.roots)(
        jnp.asarray(vectors * values @ vectors.T, jnp.float32), jnp.float32(1e-6)
    )
    np.testing.assert_allclose(np.trace(root), np.sqrt(values).sum(), rtol=1e-4)
    np.testing.assert_allclose(wide(root) @ wide(inverse), np.eye(96), atol=0.02)


@pytest.mark.parametrize("precision", ["bf16", "tf32", "f32"])
def test_the_distance_of_a_flat_style_needs_no_digits_of_its_mean(precision):
    """Nearly all of its Gram matrix is the mean's, and what rounded products leave of it has no root."""
    random = np.random.default_rng(3)
    plain = random.uniform(0, 300, 24) + random.normal(0, 1e-3, (16, 16, 24))
    picture = np.maximum(0, plain + random.normal(0, 9, plain.shape))
    arithmetic = ARITHMETIC[precision]
    row = STYLE_LOSSES["wasserstein"]

    @jit
    def both(f, a):
        kept = function(row.keep)(a, None, arithmetic)
        return jax.value_and_grad(lambda f: function(row.loss)(f, kept, None, arithmetic))(f)

    def expected(f, a):
        (mu, c), (mu_a, c_a) = ((x.mean(0), np.cov(x.T, bias=True)) for x in (flat(f), flat(a)))
        ridge = max(0.1 * np.trace(c_a) / 24, 1e-6 * (np.trace(c_a) + mu_a @ mu_a)) * np.eye(24)
        values, vectors = np.linalg.eigh(c_a + ridge)
        s = vectors * np.sqrt(values) @ vectors.T
        of_root = np.sqrt(np.linalg.eigvalsh(s @ (c + ridge) @ s)).sum()
        return ((mu - mu_a) @ (mu - mu_a) + np.trace(c + c_a + 2 * ridge) - 2 * of_root) / 24

    bright = np.broadcast_to(np.float32(40 * plain.mean((0, 1))), plain.shape)
    for f, a in ((picture, plain), (plain, picture), (plain, plain), (bright, plain), (bright, bright)):
        loss, slope = both(jnp.asarray(f, jnp.float32), jnp.asarray(a, jnp.float32))
        assert loss == pytest.approx(expected(f, a), rel=0.01, abs=0.02)
        along = random.normal(0, 1e-3, f.shape)
        rises = expected(f + along, a) - expected(f - along, a)
        assert 2 * np.sum(wide(slope) * along) == pytest.approx(rises, rel=0.02, abs=1e-5)


def test_style_losses_are_the_same_eager_jitted_and_batched():
    for name in OTHERS:
        keep, _, both = compiled(name)
        kept, loss = keep(A), function(STYLE_LOSSES[name].loss)
        alone, gradient = both(F, kept)
        assert alone == pytest.approx(float(loss(F, kept)), rel=1e-5)
        batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), kept)
        batched = jit(jax.vmap(jax.value_and_grad(loss)))(jnp.stack([F, F]), batch)
        for one, slope in zip(*batched, strict=True):
            assert one == pytest.approx(float(alone), rel=1e-5)
            atol = 1e-4 * float(jnp.abs(gradient).max())
            np.testing.assert_allclose(slope, gradient, rtol=1e-3, atol=atol)


# --- all together ---------------------------------------------------------------------------------

SHALLOW = {"content_layer": ("conv2_2",), "style_layers": ("conv1_1+conv2_1",), "pyramid": 0}


@pytest.mark.parametrize(
    ("settings", "winograd"),
    [
        ({"padding": "circular", "pool": "blur", "tv_weight": 30.0}, True),
        ({"padding": "reflect", "pool": "l2", "style_loss": "moments"}, False),
        ({"padding": "replicate", "style_loss": "wasserstein", "alpha_beta": (1e-4,)}, False),
    ],
    ids=["circular, blur", "reflect, l2, moments", "replicate, wasserstein"],
)
def test_loss_and_gradient_match_float64(narrow, settings, winograd):
    content, style, image = random_image(48, 32, 1), random_image(40, 56, 2), random_image(48, 32, 3)
    network, program, knobs, targets = make(sweep(**SHALLOW, **settings), narrow, content, style, winograd)
    (total, info), gradient = loss_and_gradient(network, program, knobs, targets, image)
    terms, expected = oracle.loss_and_gradient(
        narrow,
        image,
        content,
        style,
        alpha=settings.get("alpha_beta", (1e-3,))[0],
        content_layer="conv2_2",
        style_weights=dict.fromkeys(program.style_taps, 0.5),
        **{
            name: settings[name]
            for name in ("padding", "pool", "style_loss", "tv_weight")
            if name in settings
        },
    )
    assert total == pytest.approx(terms["total"], rel=1e-4)
    np.testing.assert_allclose(info.style_layer_loss, list(terms["layers"].values()), rtol=1e-4)
    # A few ReLUs in a thousand million change sides between float32 and float64.
    assert np.linalg.norm(gradient - expected) < 2e-3 * np.linalg.norm(expected)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A content of 64x48 px and a style of another shape, as files."""
    paths = {}
    for name, height, width, seed in (("content", 48, 64, 1), ("style", 64, 40, 2)):
        paths[name] = str(tmp_path_factory.mktemp("images") / f"{name}.png")
        Image.fromarray(random_image(height, width, seed)).save(paths[name])
    return paths


@pytest.mark.parametrize("name", OTHERS)
def test_a_balance_weighs_each_style_loss(images, narrow, name):
    kinds = {"style_loss": name, "padding": "reflect", "pool": "blur"}
    layers = {
        "content_layer": ("conv2_2",),
        "style_layers": ("conv1_1+conv2_1",),
        "style_weights": "balanced",
    }
    found, _, cell, pictures, _ = weighed(images, narrow, **kinds, **layers)
    content, style = pictures.content[cell.content], pictures.style[cell.style_source]
    terms, _ = oracle.loss_and_gradient(
        narrow, content, content, style, content_layer="conv2_2", style_weights=found.weights, **kinds
    )
    for layer, loss in terms["layers"].items():
        assert found.layer_loss[layer] == pytest.approx(loss, rel=1e-4)
        assert found.shares[layer] == pytest.approx(0.5)
    assert found.style_loss == pytest.approx(terms["style"], rel=1e-4)


RUN = (
    *torture.IMAGES[:4],
    "--size",
    "48x48",
    "--content-layer",
    "pool1",
    "--style-layers",
    "pool1",
    "--conv",
    "plain",
)
RUN += ("--seed", "0:2", "--steps", "60", "--optimizer", "adam", "--checkpoint-every", "0.1")


@pytest.mark.parametrize(
    "flags",
    [
        ("--padding", "circular", "--pool", "blur", "--style-loss", "moments"),
        ("--padding", "reflect", "--pool", "l2", "--style-loss", "wasserstein", "--alpha-beta", "0.3x"),
    ],
    ids=["circular, blur, moments", "reflect, l2, wasserstein"],
)
def test_a_sweep_with_it_goes_on_to_the_same_bytes(tmp_path, flags):
    assert command(*RUN, *flags, "--out", tmp_path / "whole") == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "chunks" / "000001.h5").unlink()
    assert command("--out", tmp_path / "cut", "--resume") == 0
    assert torture.digests(tmp_path / "cut") == torture.digests(tmp_path / "whole")
    assert not events(tmp_path / "cut", "set-aside")
    for name, value in zip(flags[::2], flags[1::2], strict=True):
        if name != "--alpha-beta":
            assert (
                f'{name[2:].replace("-", "_")} = "{value}"' in (tmp_path / "cut" / "spec.toml").read_text()
            )
