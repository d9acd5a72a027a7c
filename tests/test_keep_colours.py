"""Colours of the content, kept: its chroma put back, or the style's colours moved to its own."""

import csv
import dataclasses
import itertools

import jax
import numpy as np
import oracle
import pytest
from conftest import random_image
from PIL import Image

import jaxstyle
from jaxstyle.derived import crops
from jaxstyle.inputs import encode, finishing, recolour
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.inputs.resize import resize
from jaxstyle.metrics.judge import Judge
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.planner import make_plan
from jaxstyle.run.sweep import run_sweep
from jaxstyle.rundir import fingerprints
from jaxstyle.rundir.records import open_record
from jaxstyle.spec.colours import COLOURS
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import RunOptions, Sweep

WEIGHTS = np.array([0.299, 0.587, 0.114])
SET = ("conv1_1", "pool1")


def statistics(pixels):
    """Mean and covariance of colours, pixel by pixel."""
    rows = pixels.reshape(-1, 3).astype(np.float64)
    mean = sum(rows) / len(rows)
    return mean, sum(np.outer(row - mean, row - mean) for row in rows) / len(rows)


def transport(a, b):
    """The map of N(0, a) to N(0, b) by another form: a^-1 (a b)^1/2, the root of a matrix not symmetric."""
    values, vectors = np.linalg.eig(a @ b)
    root = (vectors * np.sqrt(values)) @ np.linalg.inv(vectors)
    return np.real(np.linalg.solve(a, root))


def moved(style, content):
    """The style in the colours of the content, in float64."""
    (m, a), (n, b) = statistics(style), statistics(content)
    return (style - m) @ transport(a, b) + n


def grey_of(pixels):
    y = np.asarray(pixels, np.float64) @ WEIGHTS
    return np.repeat(np.floor(y + 0.5 + 1e-9)[..., None], 3, -1).astype(np.uint8)


def chroma(pixels):
    """The differences of the channels from luma, of which two are free."""
    return pixels - (pixels.astype(np.float64) @ WEIGHTS)[..., None]


# --- match ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_moved_style_has_the_mean_and_covariance_of_the_content(seed):
    style, content = random_image(30, 24, seed), random_image(20, 34, seed + 10)
    content = (content * [0.8, 0.5, 0.3] + content[..., ::-1] * 0.1 + 20).astype(np.uint8)
    found = recolour.moved(style, content)
    for own, wanted in zip(statistics(found), statistics(content), strict=True):
        np.testing.assert_allclose(own, wanted, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found, moved(style, content), atol=1e-6)
    a = recolour.colour_map(statistics(style)[1], statistics(content)[1])
    np.testing.assert_allclose(a, a.T, atol=1e-12)
    assert np.linalg.eigvalsh(a).min() > 0


def test_an_image_is_moved_to_itself_unchanged():
    image = random_image(20, 30, 1)
    np.testing.assert_array_equal(recolour.matched(image, image), image)


def test_a_grey_content_makes_the_style_exactly_grey():
    style, content = random_image(30, 24, 1), grey_of(random_image(20, 34, 2))
    found = recolour.matched(style, content)
    np.testing.assert_array_equal(found, np.repeat(found[..., :1], 3, -1))
    assert found[..., 0].mean() == pytest.approx(content[..., 0].mean(), abs=0.5)
    assert found[..., 0].std() == pytest.approx(content[..., 0].std(), rel=0.02)


@pytest.mark.parametrize("speckle", [0, 1, 2])
def test_a_nearly_grey_style_does_not_get_the_content_s_colours_by_its_speckle(speckle):
    random = np.random.default_rng(3)
    grey = grey_of(random_image(40, 40, 4)).astype(int)
    style = np.clip(grey + random.integers(-speckle, speckle + 1, grey.shape), 0, 255).astype(np.uint8)
    content = random_image(40, 40, 5)
    found = recolour.moved(style, content)
    assert np.isfinite(found).all()
    before, after = (np.linalg.norm(chroma(of - of.mean((0, 1)))) for of in (style, found))
    assert after <= recolour.MOST_STRETCH * before + 0.2 * np.linalg.norm(found - found.mean((0, 1)))
    assert found.mean(-1).std() == pytest.approx(content.mean(-1).std(), rel=0.05)
    np.testing.assert_allclose(found.mean((0, 1)), content.mean((0, 1)), atol=1e-9)


def test_flat_images_are_moved_to_the_mean():
    flat, other = np.full((8, 9, 3), 7, np.uint8), random_image(9, 8, 2)
    found = recolour.moved(flat, other)
    np.testing.assert_allclose(found, np.broadcast_to(other.reshape(-1, 3).mean(0), found.shape))
    np.testing.assert_array_equal(recolour.matched(other, flat), np.full((9, 8, 3), 7))


# --- luminance ------------------------------------------------------------------------------------


def test_chroma_is_put_back_and_luma_kept():
    content, y = random_image(20, 30, 3), random_image(20, 30, 4)[..., :1].astype(np.float32)
    found = recolour.with_chroma(np.repeat(y, 3, -1), content)
    np.testing.assert_allclose(found @ WEIGHTS, y[..., 0], atol=1e-9)
    np.testing.assert_allclose(chroma(found), chroma(content), atol=1e-9)
    grey = recolour.with_chroma(np.repeat(y, 3, -1), grey_of(content))
    np.testing.assert_allclose(grey, np.repeat(y, 3, -1), atol=1e-9)


# --- settings -------------------------------------------------------------------------------------


def test_free_stays_the_default_and_matched_styles_are_no_other_program():
    assert Sweep().colour == next(iter(COLOURS)) == "free"
    given = {"content": ("/c.png",), "style": ("/s.png",)}
    sweeps = {colour: resolve(Sweep(**given, colour=colour)) for colour in COLOURS}
    cells = {colour: sweep_cells(sweep) for colour, sweep in sweeps.items()}
    plans = {
        colour: make_plan(
            sweep, cells[colour], {"/c.png": (40, 50)}, platform="cpu", choose_width=lambda *_: 1
        )
        for colour, sweep in sweeps.items()
    }
    programs = {colour: plan.programs[0] for colour, plan in plans.items()}
    assert programs["match"] == programs["free"] != programs["grey"] == programs["luminance"]
    assert "coloured_by" not in fingerprints._values(cells["free"][0], {})
    prints = {
        fingerprints.fingerprint(fingerprints.Sources(sweeps[c], {}, "w"), plans[c], 0) for c in COLOURS
    }
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("named", "error"),
    [
        ({"content": ("none",), "colour": "luminance"}, "^colour: luminance takes colours from a content"),
        ({"content": ("none",), "colour": "match"}, "^colour: match takes .* give free or grey$"),
        ({"style": ("/s.npz",), "colour": "match"}, "^colour: match moves the pixels .* /s.npz has none"),
        ({"style": ("/s.npz+/t.png",), "colour": "match"}, "^colour: match .* /s.npz has none"),
    ],
)
def test_colours_without_an_image_to_take_them_from_are_one_line(named, error):
    given = {"content": ("/c.png",), "style": ("/s.png",), "alpha_beta": (1.0,), **named}
    with pytest.raises(JaxstyleError, match=error) as found:
        sweep_cells(resolve(Sweep(**given)))
    assert "\n" not in str(found.value)


# --- runs -----------------------------------------------------------------------------------------

GIVEN = {
    "content_layer": ("conv1_2",),
    "style_layers": ("+".join(SET),),
    "style_weights": "equal",
    "alpha_beta": (1e-3,),
    "size": "72",
    "padding": "zeros",
    "conv": "plain",
}


def table(run, name="results.csv"):
    with (run / name).open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two contents, of different shapes and colours, and two styles."""
    folder = tmp_path_factory.mktemp("colours")
    for name, shape, tint in (("a", (64, 72), (1, 0.6, 0.3)), ("b", (72, 64), (0.3, 0.5, 0.9))):
        Image.fromarray((random_image(*shape, 1) * tint).astype(np.uint8)).save(folder / f"{name}.png")
    for name in "st":
        Image.fromarray(random_image(64, 60, ord(name))).save(folder / f"{name}.png")
    return folder


def pixels(folder, name, size=72):
    return resize(np.asarray(Image.open(folder / f"{name}.png")), size)


def grey_style(folder):
    return resize(grey_of(np.asarray(Image.open(folder / "s.png"))), 72)


def test_a_picture_in_luminance_has_the_contents_chroma_and_its_loss_is_that_of_its_luma(
    images, vgg19_weights, tmp_path
):
    sweep = Sweep(
        content=(str(images / "a.png"),),
        style=(str(images / "s.png"),),
        colour="luminance",
        optimizer="adam",
        pyramid=1,
        steps=(3, 6),
        image_format="npy",
        noise_std=(20.0,),
        **GIVEN,
    )
    run = run_sweep(sweep, RunOptions(out=str(tmp_path / "run"), quiet=True)).path
    (row,) = table(run)
    content, saved = pixels(images, "a"), np.asarray(Image.open(run / row["image"]))
    kept = np.load(run / "images_float" / "000000.npy").astype(np.float64)
    np.testing.assert_array_equal(encode.to_uint8(kept[None])[0], saved)
    np.testing.assert_allclose(chroma(kept), chroma(content), atol=1e-4)
    y = np.repeat((kept @ WEIGHTS)[..., None], 3, -1)
    found, _ = oracle.loss_and_gradient(
        vgg19_weights,
        y,
        grey_of(content),
        grey_style(images),
        alpha=1e-3,
        content_layer="conv1_2",
        style_weights=dict.fromkeys(SET, 0.5),
    )
    assert float(row["loss_total"]) == pytest.approx(found["total"], rel=1e-3)
    assert float(row["loss_style"]) == pytest.approx(found["style"], rel=1e-3)
    judge = Judge(open_record(run).sweep, jax.devices("cpu")[0])
    np.testing.assert_array_equal(judge._content_pixels(str(images / "a.png")), content)
    record = open_record(run)
    assert "luminance" in (run / "report.html").read_text()
    assert record.manifest["programs"][0]["colour"] == "grey"


def test_finishing_in_luminance_gives_lumas_the_histogram_before_chroma_and_contrast_after(images):
    sweep = resolve(
        Sweep(
            content=(str(images / "a.png"),),
            style=(str(images / "s.png"),),
            colour="luminance",
            finish="histogram",
            **GIVEN,
        )
    )
    from jaxstyle.run.finishing import Finisher

    (cell,) = sweep_cells(sweep)
    pictures = Pictures(sweep, [cell])
    image = np.repeat(random_image(64, 72, 9)[..., :1].astype(np.float32), 3, -1)
    make = lambda of: Finisher(of, pictures, None, None, None)._finished(cell, image)  # noqa: E731
    content = pixels(images, "a")
    lumas = finishing.rank_matched(image, [grey_style(images)])
    np.testing.assert_allclose(make(sweep), lumas + chroma(content), atol=1e-9)
    contrast = dataclasses.replace(sweep, finish="contrast", mean_luminance=0.3)
    expected = finishing.with_contrast(image + chroma(content), None, 0.3)
    np.testing.assert_allclose(make(contrast), expected, atol=1e-9)


@pytest.fixture(scope="module")
def matched_run(images):
    """A run of two contents, and of a style and a blend that take the colours of each, with crops."""
    s, t = (str(images / f"{name}.png") for name in "st")
    sweep = Sweep(
        content=tuple(str(images / f"{name}.png") for name in "ab"),
        style=(s, f"{s}:0.75+{t}:0.25"),
        style_size=(100,),
        colour="match",
        optimizer="adam",
        steps=(4,),
        init=("content",),
        crops=1,
        **GIVEN,
    )
    return run_sweep(sweep, RunOptions(out=str(images / "match"), quiet=True)).path


def test_every_content_moves_the_styles_to_its_own_colours(images, matched_run, vgg19_weights):
    rows = table(matched_run)
    seen = {
        (c, s): np.clip(np.rint(moved(pixels(images, s, 100), pixels(images, c))), 0, 255).astype(np.uint8)
        for c, s in itertools.product("ab", "st")
    }
    sweep = open_record(matched_run).sweep
    pictures = Pictures(sweep, sweep_cells(sweep))
    for row, cell in zip(rows, sweep_cells(sweep), strict=True):
        name = "ab"[int(row["cell"]) // 2]
        for (source, _), of in zip(cell.style_parts, "st", strict=False):
            expected = seen[name, of]
            assert (pictures.style_pixels(source) != expected).mean() < 1e-3  # halves, rounded either way
    # The loss of the first cell's picture before its last step is that of its content's style.
    picture = np.asarray(Image.open(matched_run / rows[0]["image"]))
    found = {
        name: oracle.loss_and_gradient(
            vgg19_weights,
            picture,
            pixels(images, "a"),
            seen[name, "s"],
            alpha=1e-3,
            content_layer="conv1_2",
            style_weights=dict.fromkeys(SET, 0.5),
        )[0]["style"]
        for name in "ab"
    }
    own = float(rows[0]["loss_style"])
    assert own == pytest.approx(found["a"], rel=0.02)  # the picture is rounded and clipped
    assert own != pytest.approx(found["b"], rel=0.02)
    (program,) = open_record(matched_run).manifest["programs"]
    assert "colour" not in program


def test_scores_and_crops_see_the_style_in_the_contents_colours(images, matched_run):
    sweep = open_record(matched_run).sweep
    cell = sweep_cells(sweep)[2]
    expected = recolour.matched(pixels(images, "s", 100), pixels(images, "b"))
    seen = Judge(sweep, jax.devices("cpu")[0])._read_style(cell.style_source)
    np.testing.assert_array_equal(seen.pixels[0], expected)
    rows = [row for row in table(matched_run, crops.FILE) if row["content"].endswith("b.png")]
    assert len(rows) == 2
    top, left = (int(rows[0][name]) for name in ("top", "left"))
    crop = np.asarray(Image.open(matched_run / rows[0]["image"]))
    h, w = crop.shape[:2]
    np.testing.assert_array_equal(crop, expected[top : top + h, left : left + w])


def test_a_start_from_the_style_is_in_the_contents_colours(images):
    sweep = resolve(
        Sweep(
            content=(str(images / "a.png"),),
            style=(str(images / "s.png"),),
            colour="match",
            init=("style",),
            **GIVEN,
        )
    )
    (cell,) = cells = sweep_cells(sweep)
    start = Pictures(sweep, cells).start(cell)
    for own, wanted in zip(statistics(start), statistics(pixels(images, "a")), strict=True):
        np.testing.assert_allclose(own, wanted, rtol=0.05, atol=10)


def test_a_grey_photograph_gives_a_grey_picture_in_every_kind_that_keeps_colours(images):
    content, style = grey_of(pixels(images, "a")), pixels(images, "s")
    given = {name: value[0] if isinstance(value, tuple) else value for name, value in GIVEN.items()}
    more = {"steps": 3, "optimizer": "adam", "init": "content", "pyramid": 1}
    found = jaxstyle.stylize(content, style, colour="luminance", **given, **more)
    np.testing.assert_array_equal(found, np.repeat(found[..., :1], 3, -1))
    assert (found != content).any()
