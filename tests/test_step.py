"""One cell: its loss and gradient with the real weights against float64, its start, its steps."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from conftest import QUICKLY, narrow_weights, random_image

from jaxstyle.cell import objective, step
from jaxstyle.cell.knobs import knobs_of
from jaxstyle.cell.poolings import border, pooling
from jaxstyle.cell.start import init_state, noise, refined_state
from jaxstyle.cell.state import Targets
from jaxstyle.device import drive, engine
from jaxstyle.inputs import encode
from jaxstyle.inputs.preprocess import MEAN_RGB, mean_image, to_network
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.planner import make_plan
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import Sweep
from jaxstyle.spec.tables import TERMS
from jaxstyle.vgg import layers
from jaxstyle.vgg import network as network_module
from jaxstyle.vgg.convolution import conv_relu
from jaxstyle.vgg.network import bind


@contextlib.contextmanager
def layer_by_layer():
    """Compile convolutions one by one, outside `jit`, so that layers of one shape share one program."""
    whole = network_module.conv_relu
    network_module.conv_relu = one_layer
    try:
        yield
    finally:
        network_module.conv_relu = whole


one_layer = jax.jit(conv_relu, static_argnums=(4, 5, 6), compiler_options=QUICKLY)


_made = {}
"""Networks and compiled functions, which tests share; a network stands with its weights."""


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left():
    yield
    _made.clear()


def network_of(program, weights, winograd=False):
    """The network of a program; equal networks are the same one."""
    kind = program.taps, program.pool, program.padding, program.precision, winograd
    key = id(weights), kind, engine._functions(program)
    if key not in _made:
        _made[key] = (
            weights,
            bind(
                weights,
                winograd=winograd,
                taps=program.taps,
                pool=jax.jit(pooling(program.pool, program.padding)),  # as one program, layer by layer
                precision=program.precision,
                border=border(program.padding),
            ),
        )
    return _made[key][1]


def compiled(function, network, program):
    """`function(network.features, program)` compiled, once for equal programs."""
    key = function, network.features, program, engine._functions(program)
    if key not in _made:
        _made[key] = jax.jit(function(network.features, program), compiler_options=QUICKLY)
    return _made[key]


def cell_of(sweep, size, canvas=None, taps=()):
    """A resolved sweep, its first cell, and the cell's program and knobs.

    Args:
        sweep: a sweep of one content and one style.
        size: (height, width) in px of the content.
        canvas: (height, width) in px of the canvas that it lies on.
        taps: sweeps for whose layers the program has taps as well.
    """
    sweep = resolve(sweep)
    cell = sweep_cells(sweep)[0]
    plan = make_plan(sweep, [cell], {cell.content: size}, platform="cpu", choose_width=lambda p, n: 1)
    program = plan.programs[0]
    if canvas is not None:
        program = dataclasses.replace(program, height_px=canvas[0], width_px=canvas[1], canvas=True)
    others = [sweep_cells(resolve(other))[0] for other in taps]
    if others:
        content = [other.content_layer for other in others]
        style = [layer for other in others for layer in other.layer_weights]
        program = dataclasses.replace(
            program,
            content_taps=layers.in_order((*program.content_taps, *content)),
            style_taps=layers.in_order((*program.style_taps, *style)),
        )
    knobs = knobs_of(cell, program, sweep, content_row=0, style_row=0, extent=size)
    return sweep, cell, program, jax.tree.map(jnp.asarray, knobs)


def make(sweep, weights, content, style, winograd=False, canvas=None, taps=()):
    """The inputs of one cell, from arrays instead of files."""
    _, _, program, knobs = cell_of(sweep, content.shape[:2], canvas, taps)
    extent = None
    if canvas is not None:
        content, extent = drive.on_canvas(content, canvas), np.array(content.shape[:2], np.int32)
    network, plain = (network_of(program, weights, form) for form in (winograd, False))
    with layer_by_layer():
        rows = [
            objective.target_rows(f, params, program, jnp.asarray(x, "f4"), e)
            for (params, f), x, e in ((network, content, extent), (plain, style, None))
        ]
    targets = Targets(
        content=tuple(p[None] for p in rows[0].content),
        style=jax.tree.map(lambda a: a[None], rows[1].style),
        terms=jax.tree.map(
            lambda leaf: leaf[None],
            {name: rows[TERMS[name].of == "style"].terms[name] for name in program.terms},
        ),
    )
    return network, program, knobs, targets


def _loss_and_gradient(features, program):
    return jax.value_and_grad(
        lambda x, params, knobs, targets: objective.total_loss(
            features, params, program, knobs, targets, x
        ),
        has_aux=True,
    )


def _step(features, program):
    return lambda params, knobs, targets, state, k: step.step(
        features, params, program, knobs, targets, state, k
    )


def _start(_, program):
    return functools.partial(init_state, program)


def loss_and_gradient(network, program, knobs, targets, image):
    """(L, info) and dL/dx. All arrays are arguments, so that cells with one program compile it once."""
    found = compiled(_loss_and_gradient, network, program)
    return found(jnp.asarray(image, jnp.float32), network.params, knobs, targets)


def begin(network, program, knobs, _, image):
    """The state before the first pass."""
    return compiled(_start, network, program)(knobs, jnp.asarray(image, jnp.float32))


def advance(network, program, knobs, targets, state, passes, first=0):
    """The state after some passes, and what each reported."""
    infos = []
    one = compiled(_step, network, program)
    for k in range(first, first + passes):
        state, info = one(network.params, knobs, targets, state, jnp.int32(k))
        infos.append(info)
    return state, infos


def sweep(**settings):
    return Sweep(**{"alpha_beta": (1e-3,), "content": ("/c.png",), "style": ("/s.png",), **settings})


SHALLOW = {"content_layer": ("conv2_2",), "style_layers": ("conv1_1+conv2_1",)}
THREE_BLOCKS = {"content_layer": ("conv2_2",), "style_layers": ("conv1_1+conv2_1+conv3_1",)}
CASES = {
    "defaults": {},
    "max pooling": {"pool": "max"},
    "texture synthesis": {"alpha_beta": (0.0,)},
    "content above style": {"alpha_beta": (10.0,), "content_layer": ("conv2_2",)},
    "one style layer": {"style_layers": ("conv2_1",), "alpha_beta": (1e-2,)},
    "weighted layers": {"style_layers": ("conv1_1:20+conv4_1:0.05",), "beta": 0.5},
    "shared tap": {"content_layer": ("conv4_1",), "style_layers": ("conv3_4+conv4_1",), "pool": "max"},
    "deepest layer": {"style_layers": ("conv5_4",)},
    "total variation": {"tv_weight": 3.0},
    "three blocks": THREE_BLOCKS,
    "three blocks, max pooling": {**THREE_BLOCKS, "pool": "max"},
    "three blocks, total variation": {**THREE_BLOCKS, "tv_weight": 3.0},
}
PLAIN = {
    pool: [sweep(**own) for own in CASES.values() if own.get("pool", "avg") == pool]
    for pool in ("avg", "max")
}
"""Cells that share a program, as those of a grid do."""


def every_activation(network, program, winograd, size, canvas):
    """Float64 copies of the float32 activations down to the deepest tap, of an image on a canvas or not."""
    key = "activations", network.features, size, canvas
    if key not in _made:
        image, extent = drive.on_canvas(random_image(*size, 3), canvas), canvas and np.array(size, np.int32)
        taps = layers.in_order((*(row.name for row in layers.up_to(program.taps)), program.taps[-1]))
        # The function of a network does not depend on its weights, which take long to transform.
        features = bind(
            narrow_weights(), taps=taps, pool=jax.jit(pooling(program.pool)), winograd=winograd
        ).features
        with layer_by_layer():
            found = features(network.params, jnp.asarray(to_network(image.astype("f4"))), extent)
        shapes = {name: layers.feature_shape(name, *size) for name in found}
        _made[key] = {
            name: np.asarray(value[: shapes[name][0], : shapes[name][1]], np.float64)
            for name, value in found.items()
        }
    return _made[key]


@pytest.mark.parametrize(
    ("name", "winograd", "size", "canvas"),
    [
        *((name, False, (48, 64), None) for name in CASES if not name.startswith("three")),
        ("max pooling", False, (45, 61), (64, 96)),
        ("defaults", True, (48, 64), None),
        ("three blocks, max pooling", True, (48, 64), None),
        ("three blocks", True, (48, 64), (64, 96)),
        ("three blocks, total variation", True, (45, 61), (64, 96)),
    ],
)
def test_loss_and_gradient_of_the_real_network_match_float64(vgg19_weights, name, winograd, size, canvas):
    own = sweep(**CASES[name])
    settings, cell, _, _ = cell_of(own, size)
    content, style, image = (random_image(*shape, s) for shape, s in ((size, 1), ((70, 51), 2), (size, 3)))
    taps = [] if winograd or canvas else PLAIN[cell.pool]
    network, program, knobs, targets = make(own, vgg19_weights, content, style, winograd, canvas, taps)
    start = drive.on_canvas(image.astype(np.float32), canvas)
    (total, info), gradient = loss_and_gradient(network, program, knobs, targets, start)
    gradient = np.asarray(gradient, np.float64)
    if canvas is not None:
        assert not np.any(gradient[size[0] :])
        assert not np.any(gradient[:, size[1] :])
        gradient = gradient[: size[0], : size[1]]
    # A unit that float32 puts on the other side of zero (or of its neighbour, where maxima are pooled)
    # moves a patch of the gradient by far more than rounding does. That is no error: the oracle takes
    # the same side, and how few and how near to zero such units are is checked by itself.
    seen = every_activation(network, program, winograd, size, canvas)
    expected, slope = oracle.loss_and_gradient(
        vgg19_weights,
        image,
        content,
        style,
        alpha=settings.beta * cell.alpha_beta,
        beta=settings.beta,
        tv_weight=cell.tv_weight,
        content_layer=cell.content_layer,
        style_weights=cell.layer_weights,
        pool=cell.pool,
        sides=seen,
    )
    # Float32 through 13 layers: measured up to 3e-7 and 1e-6, by Winograd 6e-7 and 2e-6.
    assert total == pytest.approx(expected["total"], rel=5e-6)
    assert info.loss_content == pytest.approx(expected["content"], rel=5e-6)
    assert info.loss_style == pytest.approx(expected["style"], rel=5e-6)
    found = dict(zip(program.style_taps, info.style_layer_loss, strict=True))
    assert {*found} >= {*expected["layers"]}
    for tap, value in expected["layers"].items():
        assert found[tap] == pytest.approx(value, rel=5e-6)
    error = np.linalg.norm(gradient - slope) / np.linalg.norm(slope)
    assert error < 5e-6
    assert expected["flips"] < 1e-5 * expected["units"]
    assert expected["largest_flip"] < 1e-5


@pytest.mark.parametrize(
    ("pool", "winograd", "canvas", "deepest"),
    [
        ("avg", False, (64, 96), 3),
        ("max", False, (64, 96), 2),
        ("blur", False, None, 2),
        ("l2", True, None, 2),
    ],
)
def test_loss_and_gradient_of_pool_taps_match_float64(narrow, pool, winograd, canvas, deepest):
    size, own = (45, 61), ("conv1_1", *(f"pool{n}" for n in range(1, deepest + 1)))
    content_layer, style_layers = own[-2], ("+".join(own),)
    settings = sweep(
        pool=pool, content_layer=(content_layer,), style_layers=style_layers, alpha_beta=(1e-2,)
    )
    content, style, image = (random_image(*shape, s) for shape, s in ((size, 1), ((70, 51), 2), (size, 3)))
    network, program, knobs, targets = make(settings, narrow, content, style, winograd, canvas)
    start = drive.on_canvas(image.astype(np.float32), canvas)
    (total, info), gradient = loss_and_gradient(network, program, knobs, targets, start)
    gradient = np.asarray(gradient, np.float64)[: size[0], : size[1]]
    expected, slope = oracle.loss_and_gradient(
        narrow,
        image,
        content,
        style,
        alpha=1e-2,
        content_layer=content_layer,
        style_weights=dict.fromkeys(own, 1 / len(own)),
        pool=pool,
        sides=every_activation(network, program, winograd, size, canvas),
    )
    assert total == pytest.approx(expected["total"], rel=2e-5)
    assert info.loss_content == pytest.approx(expected["content"], rel=2e-5)
    for tap, value in zip(program.style_taps, info.style_layer_loss, strict=True):
        assert value == pytest.approx(expected["layers"][tap], rel=2e-5)
    assert np.linalg.norm(gradient - slope) < 2e-5 * np.linalg.norm(slope)


def test_content_start_has_no_content_loss(vgg19_weights):
    content, style = random_image(48, 64, 1), random_image(48, 64, 2)
    made = make(sweep(), vgg19_weights, content, style, taps=PLAIN["avg"])
    (_, info), _ = loss_and_gradient(*made, content)
    reference = oracle.loss_and_gradient(vgg19_weights, content, content, style)[0]["reference"]
    assert info.loss_content <= 1e-6 * reference


def test_noise_of_a_seed_is_golden():
    # Seeds must mean the same on every version of JAX. Other libraries can check these: threefry2x32.
    drawn = np.asarray(noise(jnp.uint32(12345), (2, 2, 3))).ravel()
    expected = GOLDEN_NOISE
    np.testing.assert_allclose(drawn, expected, rtol=1e-6)


GOLDEN_NOISE = [
    -0.4624713659286499,
    0.939555823802948,
    0.38572221994400024,
    -0.5645861625671387,
    -0.7546625733375549,
    -0.603997528553009,
    0.09625434130430222,
    0.22779475152492523,
    -0.6102163791656494,
    0.8054882884025574,
    -0.044462159276008606,
    2.121656894683838,
]


compiled_noise = jax.jit(noise, static_argnums=1)


def test_noise_is_standard_normal_and_differs_between_seeds():
    a, b = (np.asarray(compiled_noise(jnp.uint32(s), (64, 96, 3))) for s in (0, 2**32 - 1))
    assert abs(a.mean()) < 0.03
    assert abs(a.std() - 1) < 0.03
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.03


def test_noise_on_a_canvas_is_that_of_the_image_alone():
    on_canvas = jax.jit(lambda e: noise(jnp.uint32(7), (64, 96, 3), e))
    for size in ((45, 61), (64, 96)):
        alone = np.asarray(compiled_noise(jnp.uint32(7), (*size, 3)))
        on = np.asarray(on_canvas(np.array(size, np.int32)))
        # The same random bits; XLA may round the inverse error function otherwise at the end of a vector.
        np.testing.assert_array_max_ulp(on[: size[0], : size[1]], alone, maxulp=4)
        assert not np.any(on[size[0] :])
        assert not np.any(on[:, size[1] :])


@pytest.mark.parametrize(
    ("precision", "winograd"), [("tf32", False), ("bf16", False), ("bf16", True)], ids=str
)
def test_lower_precisions_stay_near_float32(vgg19_weights, precision, winograd):
    # The whole network by plain convolutions, and by Winograd's algorithm three blocks, as of float64.
    content, style, image = (random_image(48, 64, s) for s in (1, 2, 3))
    own = {"three blocks, max pooling": winograd, "three blocks": precision == "tf32"}
    own = next((CASES[name] for name, holds in own.items() if holds), {})
    found = {}
    for name in ("f32", precision):
        taps = PLAIN["avg"] if name == "f32" and not own else ()
        made = make(sweep(precision=name, **own), vgg19_weights, content, style, winograd, taps=taps)
        (total, _), gradient = loss_and_gradient(*made, image)
        assert (total.dtype, gradient.dtype) == (jnp.float32, jnp.float32)
        found[name] = float(total), np.asarray(gradient)
    (exact, slope), (total, gradient) = found["f32"], found[precision]
    error = np.linalg.norm(gradient - slope) / np.linalg.norm(slope)
    if precision == "tf32":  # a CPU has none and gives float32
        assert total == exact
        assert error == 0
    else:
        # Eight bits of mantissa, and differences of large Gram entries: measured 1.4 and 2.2 %.
        assert total == pytest.approx(exact, rel=5e-2)
        assert 1e-4 < error < 0.1


@pytest.mark.parametrize("winograd", [False, True], ids=["plain", "winograd"])
def test_in_bf16_an_image_has_no_loss_against_itself(vgg19_weights, winograd):
    # By the engine's own two programs, because what XLA fuses must not decide what is rounded.
    settings = resolve(
        sweep(
            precision="bf16",
            init=("content",),
            optimizer="adam",
            steps=(1,),
            **SHALLOW,
        )
    )
    (cell,) = sweep_cells(settings)
    shape = (48, 64)
    image = random_image(*shape, 1)
    plan = make_plan(settings, [cell], {cell.content: shape}, platform="cpu", choose_width=lambda p, n: 1)
    machine = engine.Engine(vgg19_weights, winograd=winograd)
    (program,) = plan.programs
    rows = jax.tree.map(lambda x: x[None], machine.target_rows(program, image, of_cells=True))
    knobs = knobs_of(cell, program, settings, content_row=0, style_row=0, extent=shape)
    launch = drive.Launch(jax.tree.map(lambda x: x[None], knobs), image[None].astype(np.float32), rows)
    info = machine.course(program, launch, (1,)).finish().info
    assert info.loss_content[0, 0] == 0
    assert info.loss_style[0, 0] <= 1e-9 * info.loss_style[0, 1]
    assert info.loss_content[0, 1] > 0


def test_noise_start_is_the_mean_pixel_plus_noise_whatever_alpha_beta():
    starts = []
    for settings in ({"alpha_beta": (1.0,)}, {"alpha_beta": (0.0,), "learning_rate": (3.0,)}):
        _, _, program, knobs = cell_of(sweep(noise_std=2.0, **settings), (32, 40))
        starts.append(np.asarray(init_state(program, knobs, jnp.asarray(mean_image(32, 40))).image))
    np.testing.assert_array_equal(starts[0], starts[1])
    expected = MEAN_RGB + 2 * np.asarray(noise(jnp.uint32(0), (32, 40, 3)))
    np.testing.assert_allclose(starts[0], expected, rtol=1e-6)


def test_image_starts_are_exact():
    content = random_image(32, 40, 1)
    _, _, program, knobs = cell_of(sweep(init=("content",)), (32, 40))
    state = init_state(program, knobs, jnp.asarray(content, jnp.float32))
    np.testing.assert_array_equal(state.image, content.astype(np.float32))


@pytest.mark.parametrize("clamp", [False, True])
def test_five_adam_steps_match_float64(vgg19_weights, clamp):
    content, style = random_image(48, 64, 1), random_image(60, 40, 2)
    if clamp:  # with much of the start at both ends of the range
        content = np.clip(content.astype(int) * 3 - 255, 0, 255).astype(np.uint8)
    settings = sweep(init=("content",), learning_rate=(5.0,), clamp=clamp)
    cell = make(settings, vgg19_weights, content, style)
    state, _ = advance(*cell, begin(*cell, content), 6)
    expected = oracle.adam(
        lambda x: oracle.loss_and_gradient(vgg19_weights, x, content, style, alpha=1e-3)[1],
        content,
        5,
        5.0,
        *((0, 255) if clamp else ()),
    )
    found = np.asarray(state.evaluated, np.float64)
    assert (np.abs(found - expected) <= 1).mean() >= 0.99
    if clamp:
        assert ((found == 0).any(), (found == 255).any(), found.min(), found.max()) == (True, True, 0, 255)


@pytest.mark.parametrize("clamp", [False, True])
def test_a_clamped_picture_stays_in_range_from_its_first_step(narrow, clamp):
    content, style = random_image(32, 32, 1), random_image(32, 32, 2)
    settings = sweep(init=("content",), learning_rate=(300.0,), clamp=clamp, **SHALLOW)
    cell = make(settings, narrow, content, style)
    state, _ = advance(*cell, begin(*cell, content), 1)
    in_range = (state.image >= 0) & (state.image <= 255)
    assert in_range.all() == clamp


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_clamped_picture_is_worth_what_its_float_image_is(narrow, optimizer):
    content, style = random_image(32, 32, 1), random_image(32, 32, 2)
    style = np.where(style > 120, 255, 0).astype(np.uint8)
    lost = {}
    for clamp in (False, True):
        own = {"init": ("style",), "optimizer": optimizer, "pyramid": 0, **SHALLOW}
        cell = make(sweep(clamp=clamp, noise_std=30.0, **own), narrow, content, style)
        state, infos = advance(*cell, begin(*cell, content), 60)
        saved = encode.to_uint8(np.asarray(state.evaluated)).astype(np.float32)
        (total, _), _ = loss_and_gradient(*cell, saved)
        lost[clamp] = float(total)
        if clamp:
            assert state.evaluated.min() >= 0
            assert state.evaluated.max() <= 255
            assert lost[True] == pytest.approx(float(infos[-1].loss_total), rel=0.05)  # it is only rounded
    assert lost[True] < lost[False]


def test_five_steps_of_lbfgs_match_float64(vgg19_weights):
    content, style = random_image(48, 64, 1), random_image(60, 40, 2)
    # Adam has the whole network.
    settings = sweep(init=("style",), optimizer="lbfgs", lbfgs_memory=3, pyramid=0, **SHALLOW)
    cell = make(settings, vgg19_weights, content, style)
    start = random_image(48, 64, 3)
    state, infos = advance(*cell, begin(*cell, start), 6)
    own = {"content_layer": "conv2_2", "style_weights": {"conv1_1": 0.5, "conv2_1": 0.5}}

    def evaluate(x):
        terms, slope = oracle.loss_and_gradient(vgg19_weights, x, content, style, alpha=1e-3, **own)
        return terms["total"], slope

    pictures, losses, _ = oracle.lbfgs(evaluate, start, 5, 3, 10.0)
    np.testing.assert_allclose([info.loss_total for info in infos], losses, rtol=1e-4)
    assert np.abs(np.asarray(state.evaluated, np.float64) - pictures[-1]).max() < 0.1
    np.testing.assert_array_equal(state.best, state.evaluated)
    assert state.loss_best == infos[-1].loss_total


@pytest.mark.parametrize("steps", [10, 1000])
def test_a_decaying_rate_is_flat_to_70_percent_and_then_falls_to_zero(steps):
    rates, every = [], jax.jit(jax.vmap(step._rate, in_axes=(None, 0)))
    for schedule in ("constant", "decay"):
        settings = sweep(optimizer="adam", learning_rate=(8.0,), schedule=schedule, steps=(3, steps))
        _, _, _, knobs = cell_of(settings, (32, 40))
        rates.append(every(knobs, jnp.arange(steps + 1, dtype=jnp.int32)).tolist())
    assert set(rates[0]) == {8.0}
    k = np.arange(steps + 1)
    expected = 8 * np.minimum(1, (steps - k) / (0.3 * steps))
    np.testing.assert_allclose(rates[1], expected, rtol=1e-5, atol=1e-6)


def test_adam_keeps_the_image_of_its_lowest_loss(narrow):
    content, style = random_image(32, 32, 1), random_image(32, 32, 2)
    cell = make(sweep(optimizer="adam", learning_rate=(5.0,), **SHALLOW), narrow, content, style)
    state, seen, losses = begin(*cell, content), [], []
    for k in range(20):
        seen.append(np.asarray(state.image))
        state, (info,) = advance(*cell, state, 1, k)
        losses.append(float(info.loss_total))
    best = int(np.argmin(losses))
    assert 0 < best < 19  # at such a rate the last image is not the best
    np.testing.assert_array_equal(state.best, seen[best])
    assert state.loss_best == np.float32(losses[best])
    np.testing.assert_array_equal(state.evaluated, seen[-1])


@pytest.mark.parametrize(("coarse", "fine"), [((20, 32), (40, 64)), ((22, 17), (45, 35))])
def test_an_image_is_enlarged_as_jax_does_it_and_on_a_canvas_alike(coarse, fine):
    image = random_image(*coarse, 4).astype(np.float32) * 1.5 - 60  # pixels are not clamped
    expected = jax.image.resize(image, (*fine, 3), "cubic")
    for canvas, small in ((None, None), ((64, 96), (32, 48))):
        _, _, program, knobs = cell_of(sweep(optimizer="adam"), fine, canvas)
        on = drive.on_canvas(image, small)
        state = jax.jit(lambda k, x, e, p=program: refined_state(p, k, x, e))(
            knobs, jnp.asarray(on), jnp.array(coarse, jnp.int32)
        )
        got = np.asarray(state.image)
        np.testing.assert_allclose(got[: fine[0], : fine[1]], expected, atol=2e-3)
        assert not np.any(got[fine[0] :])
        assert not np.any(got[:, fine[1] :])
        np.testing.assert_array_equal(state.image, state.best)
        assert np.isinf(state.loss_best)


def test_content_weighs_in_a_coarser_stage_what_it_weighs_at_full_size():
    settings, cell, program, full = cell_of(sweep(alpha_beta=(0.01,), beta=2.0, schedule="decay"), (64, 48))
    coarse = knobs_of(
        cell, program, settings, content_row=0, style_row=0, extent=(16, 12), full_extent=(64, 48)
    )
    assert float(full.content_weight) == pytest.approx(2.0 * 0.01)
    assert float(coarse.content_weight) == pytest.approx(16 * float(full.content_weight))
    assert float(coarse.style_weight) == float(full.style_weight) == 2.0
    assert np.isinf(coarse.decay_end)
    assert np.isfinite(full.decay_end)


def test_a_loss_that_overflows_keeps_the_image_before_it(narrow):
    content, style = random_image(32, 32, 1), random_image(32, 32, 2)
    settings = sweep(init=("content",), learning_rate=(1e12,), **SHALLOW)
    cell = make(settings, narrow, content, style)
    state, infos = advance(*cell, begin(*cell, content), 4)
    assert state.diverged_step == 1
    np.testing.assert_array_equal(state.evaluated, content.astype(np.float32))
    assert np.isfinite(infos[0].loss_total)
    assert all(np.isnan(value).all() for value in jax.tree.leaves(infos[1:]))


def test_an_update_that_overflows_keeps_the_image_it_started_from(narrow):
    # The loss is finite but its gradient's square is not: Adam's second moment would be infinite and
    # the image would silently stand still.
    content, style = random_image(32, 32, 1), random_image(32, 32, 2)
    settings = sweep(init=("style",), alpha_beta=(1e25,), optimizer="adam", **SHALLOW)
    cell = make(settings, narrow, content, style)
    state, infos = advance(*cell, begin(*cell, style), 3)
    assert np.isfinite(infos[0].loss_total)
    assert state.diverged_step == 1
    np.testing.assert_array_equal(state.evaluated, style.astype(np.float32))


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_loss_that_is_never_finite_diverges_at_step_0(narrow, optimizer):
    content, style = random_image(32, 32, 1), random_image(32, 32, 2)
    settings = sweep(init=("style",), alpha_beta=(1e35,), optimizer=optimizer, pyramid=0, **SHALLOW)
    cell = make(settings, narrow, content, style)
    state, infos = advance(*cell, begin(*cell, style), 2)
    assert state.diverged_step == 0
    np.testing.assert_array_equal(state.evaluated, style.astype(np.float32))
    assert np.isnan(infos[0].loss_total)


def test_style_layers_outside_a_set_weigh_nothing(narrow):
    content, style = random_image(32, 32, 1), random_image(32, 32, 2)
    own = {**SHALLOW, "style_layers": ("conv1_1:1+conv2_1:0",)}
    network, program, knobs, targets = make(sweep(**own), narrow, content, style)
    (_, info), _ = loss_and_gradient(network, program, knobs, targets, content)
    assert info.loss_style == info.style_layer_loss[0]
    assert layers.in_order(program.style_taps) == ("conv1_1", "conv2_1")
