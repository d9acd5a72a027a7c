"""The matting term against Levin's dense Laplacian in float64, and as an axis of runs."""

import csv

import jax
import numpy as np
import pytest
from conftest import QUICKLY, random_image
from jax.test_util import check_vjp
from PIL import Image

from jaxstyle.cell import matting
from jaxstyle.cell.knobs import knobs_of
from jaxstyle.cell.state import View
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.plan.cells import seed_matters, sweep_cells
from jaxstyle.plan.planner import make_plan
from jaxstyle.run.sweep import run_sweep
from jaxstyle.rundir.records import open_record
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import RunOptions, Sweep

RIDGE = 1e-7


def laplacian(content):
    """L of Levin, Lischinski & Weiss (2008), eq. 12, pixels by pixels, from colours of 0 to 255."""
    height, width, _ = content.shape
    colours = content.reshape(-1, 3).astype(np.float64) / 255
    numbers = np.arange(height * width).reshape(height, width)
    found = np.zeros((height * width,) * 2)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            window = numbers[y - 1 : y + 2, x - 1 : x + 2].ravel()
            apart = colours[window] - colours[window].mean(0)
            covariance = apart.T @ apart / 9
            alike = (1 + apart @ np.linalg.inv(covariance + RIDGE / 9 * np.eye(3)) @ apart.T) / 9
            found[np.ix_(window, window)] += np.eye(9) - alike
    return found


def expected(dense, picture):
    """Loss and gradient: sum_c v^T L v, 2 L v."""
    channels = picture.reshape(-1, 3).astype(np.float64)
    slope = dense @ channels
    return (channels * slope).sum(), 2 * slope.reshape(picture.shape)


def cost(content, picture):
    """The same loss, without a matrix of pixels by pixels: least squares in every window, in float64."""

    def windows(image):
        found = np.lib.stride_tricks.sliding_window_view(image.astype(np.float64), (3, 3), axis=(0, 1))
        found = found.reshape(-1, 3, 9).swapaxes(1, 2)
        return found - found.mean(1, keepdims=True)

    x, v = windows(content) / 255, windows(picture)
    a = np.linalg.solve(x.swapaxes(1, 2) @ x + RIDGE * np.eye(3), x.swapaxes(1, 2) @ v)
    return np.square(v - x @ a).sum() + RIDGE * np.square(a).sum()


def loss(picture, content):
    return matting.loss(View(picture, {}, None), matting.keep(View(content, {}, None)))


compiled = jax.jit(jax.value_and_grad(loss), compiler_options=QUICKLY)


def computed(content, picture):
    return compiled(picture.astype(np.float32), content.astype(np.float32))


def rounding(content):
    """What rounding to float32 may cost. Sums of nine products of up to 0.5 and 225 have an error of 2^-24
    of that; where a window lacks a direction of colour, a has that over the ridge, and costs the ridge."""
    height, width, _ = content.shape
    return 3 * (height - 2) * (width - 2) * (2**-24 * 9 * 0.5 * 225) ** 2 / RIDGE


GREY = np.repeat(random_image(14, 17, 1)[..., :1], 3, -1)
SIDES = np.arange(17)[None, :, None] > 8
CONTENTS = {
    "colours": random_image(14, 17, 1),
    "grey, whose covariances are singular": GREY,
    "of few levels": GREY // 32 * 32,
    "flat": np.full((14, 17, 3), 80),
    "an edge between two colours": np.where(SIDES, [250, 30, 10], [0, 200, 240]) * np.ones((14, 1, 1), int),
    "a single window": random_image(3, 3, 1),
}
MATRIX = np.array([[0.5, 0.2, 0.1], [0.1, 0.7, -0.3], [0.0, 0.2, 1.5]])


@pytest.mark.parametrize("name", CONTENTS)
def test_loss_and_gradient_are_those_of_the_dense_laplacian(name):
    content = CONTENTS[name]
    dense = laplacian(content)
    for picture in (random_image(*content.shape[:2], 2), content @ MATRIX + 20.0):
        value, gradient = computed(content, picture)
        wanted, slope = expected(dense, picture)
        assert cost(content, picture) == pytest.approx(wanted, rel=1e-6, abs=0.1)
        assert float(value) == pytest.approx(wanted, rel=1e-5, abs=rounding(content))
        np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=2e-3)


def test_the_gradient_is_the_slope():
    content, image = (random_image(14, 17, seed).astype(np.float32) for seed in (1, 2))

    def own(image):
        return 1e-3 * compiled(image, content)[0]

    def pulled(image):
        return own(image), lambda g: (1e-3 * g * compiled(image, content)[1],)

    check_vjp(own, pulled, (image,), atol=0.05, rtol=0.02, eps=0.5)


@pytest.mark.parametrize("name", CONTENTS)
def test_an_affine_image_of_the_content_costs_no_more_than_the_ridge_allows(name):
    content = CONTENTS[name]
    height, width, _ = content.shape
    value, gradient = computed(content, content @ MATRIX + 20.0)
    allowed = RIDGE * (height - 2) * (width - 2) * np.square(255 * MATRIX).sum()
    assert float(value) <= allowed + rounding(content)
    other, _ = computed(content, random_image(height, width, 2))
    assert float(value) < 1e-4 * float(other)
    assert np.abs(gradient).max() < 0.01


# --- starts ---------------------------------------------------------------------------------------


def test_a_recoloured_start_is_an_affine_image_of_the_content_with_the_styles_statistics(tmp_path):
    for name, shape in (("c", (40, 56)), ("s", (48, 36))):
        image = random_image(*shape, ord(name)) * ([0.4, 0.3, 0.2] if name == "c" else [0.6, 0.8, 0.7])
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"{name}.png")
    given = {"content": (str(tmp_path / "c.png"),), "style": (str(tmp_path / "s.png"),), "size": "56"}
    sweep = resolve(Sweep(**given, init=("recoloured",)))
    (cell,) = cells = sweep_cells(sweep)
    pictures = Pictures(sweep, cells)
    start, style = pictures.start(cell), pictures.style_pixels(cell.style_source)
    rows, wanted = start.reshape(-1, 3).astype(float), style.reshape(-1, 3).astype(float)
    np.testing.assert_allclose(rows.mean(0), wanted.mean(0), atol=2)  # rounded and clipped
    np.testing.assert_allclose(np.cov(rows.T), np.cov(wanted.T), rtol=0.1, atol=60)
    content = np.c_[pictures.content[cell.content].reshape(-1, 3), np.ones(len(rows))]
    inside = ((rows > 0) & (rows < 255)).all(1)
    left = rows - content @ np.linalg.lstsq(content[inside], rows[inside], rcond=None)[0]
    assert np.abs(left[inside]).max() < 1
    assert not seed_matters(sweep, cell)


@pytest.mark.parametrize(
    ("named", "error"),
    [
        ({"content": ("none",)}, "^init: recoloured: there is no content where --content is none"),
        ({"style": ("none",)}, "^init: recoloured: there is no style where --style is none"),
        ({"style": ("/s.npz",)}, "^init: recoloured: s is no image"),
        ({"style": ("/s.png+/t.png",)}, "^init: recoloured: .* is no image"),
    ],
)
def test_a_recoloured_start_needs_both_images(named, error):
    given = {"content": ("/c.png",), "style": ("/s.png",), "init": ("recoloured",), "size": "40", **named}
    with pytest.raises(JaxstyleError, match=error):
        sweep_cells(resolve(Sweep(**given)))


# --- cells and runs -------------------------------------------------------------------------------

GIVEN = {
    "content_layer": ("conv1_2",),
    "style_layers": ("conv1_1",),
    "style_weights": "equal",
    "alpha_beta": (0.0,),
    "optimizer": "adam",
    "conv": "plain",
    "learning_rate": (4.0,),
    "padding": "zeros",
}


def test_cells_with_the_term_share_no_canvas_and_weigh_it_more_in_coarser_stages():
    shapes = {"/a": (48, 64), "/b": (47, 64), "/c": (46, 64)}
    found = []
    for weight in (0.0, 2.0):
        sweep = resolve(Sweep(content=(*shapes,), style=("/s",), photorealism=(weight,), **GIVEN))
        cells = sweep_cells(sweep)
        plan = make_plan(sweep, cells, shapes, platform="cpu", choose_width=lambda *_: 1)
        found.append((any(program.canvas for program in plan.programs), plan.programs[0].record()))
    assert [canvas for canvas, _ in found] == [True, False]
    assert "terms" not in found[0][1]
    about = {"content_row": 0, "style_row": 0}
    full = knobs_of(cells[0], plan.programs[0], sweep, **about, extent=(48, 64))
    coarse = knobs_of(cells[0], plan.programs[0], sweep, **about, extent=(24, 32), full_extent=(48, 64))
    assert (full.term_weights, coarse.term_weights) == ({"photorealism": 2.0}, {"photorealism": 8.0})


def test_a_texture_cannot_have_it():
    sweep = resolve(Sweep(content=("none",), style=("/s",), size="40", photorealism=(1.0,), **GIVEN))
    with pytest.raises(
        JaxstyleError, match=r"^photorealism: needs a content, and --content is none; give 0"
    ):
        sweep_cells(sweep)


def test_the_weight_is_an_axis_and_keeps_a_picture_an_affine_image_of_its_own_content(tmp_path):
    contents = {}
    for name, shape in (("a", (64, 64)), ("b", (64, 64)), ("s", (48, 48))):
        contents[name] = random_image(*shape, ord(name))
        Image.fromarray(contents[name]).save(tmp_path / f"{name}.png")
    a, b, s = (str(tmp_path / f"{name}.png") for name in contents)
    sweep = Sweep(
        content=(a, b),
        style=(s,),
        init=("content",),
        photorealism=(0.0, 100.0),
        size="64",
        steps=(40,),
        pyramid=1,
        **GIVEN,
    )
    run = run_sweep(sweep, RunOptions(out=str(tmp_path / "run"), quiet=True), width=2)
    (program,) = open_record(run.path).manifest["programs"]
    assert program["terms"] == ["photorealism"]
    rows = list(csv.DictReader((run.path / "results.csv").read_text().splitlines()))
    assert [row["photorealism"] for row in rows] == ["0.0", "100.0"] * 2
    for without, own, name in ((*rows[:2], "a"), (*rows[2:], "b")):
        costs = []
        for row in (without, own):
            saved = np.asarray(Image.open(run.path / row["image"])).astype(np.float64)
            costs.append(cost(contents[name], saved))
            rounding = 2 * np.sqrt(saved.size * 9 / 12 * max(costs[-1], 1.0)) + saved.size * 9 / 12
            assert float(row["loss_photorealism"]) == pytest.approx(costs[-1], abs=2 * rounding)
        assert costs[1] < 0.5 * costs[0]
        assert float(own["loss_photorealism"]) < 0.2 * float(without["loss_photorealism"])
        total = float(own["loss_style"]) + 100 * float(own["loss_photorealism"])
        assert float(own["loss_total"]) == pytest.approx(total, rel=1e-4)


def test_a_cell_without_a_content_has_no_loss_of_its_neighbours(tmp_path):
    """Its number once was that of the first content of its launch, and changed with its place there."""
    for name, seed in (("c", 1), ("d", 2), ("s", 3)):
        Image.fromarray(random_image(64, 64, seed=seed)).save(tmp_path / f"{name}.png")
    path = lambda name: str(tmp_path / f"{name}.png")  # noqa: E731
    sweep = Sweep(
        style=(path("s"),),
        size="64x64",
        steps=(2,),
        pyramid=1,
        **GIVEN | {"alpha_beta": (1e-3,)},
        grid=(
            {"content": (path("c"),), "photorealism": (100.0,)},
            {"content": ("none",), "seed": (0, 1)},
            {"content": (path("d"),), "photorealism": (100.0,)},
        ),
    )
    run = run_sweep(sweep, RunOptions(out=str(tmp_path / "run"), quiet=True), width=2)  # at either place
    found = [row["loss_photorealism"] for row in run.rows]
    assert [bool(np.isnan(loss)) for loss in found] == [False, True, True, False]
    assert all(np.isnan(run.losses(cell)["loss_photorealism"]).all() for cell in (1, 2))
    assert all(np.isfinite(row["loss_total"]) for row in run.rows)
