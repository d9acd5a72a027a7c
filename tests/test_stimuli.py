"""Stimuli: grey pictures, finishing, and the tables of what a picture is as light."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from conftest import random_image

from jaxstyle.cell import colours
from jaxstyle.cell.knobs import knobs_of
from jaxstyle.cell.start import noise
from jaxstyle.cell.state import Targets
from jaxstyle.device.drive import Launch
from jaxstyle.device.engine import Engine
from jaxstyle.inputs.preprocess import luma, mean_image
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.planner import make_plan
from jaxstyle.rundir import fingerprints
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import Sweep

SET = ("conv1_1", "pool1")
SIZE = (37, 45)


def grey_of(pixels):
    """BT.601 luma in float64, rounded, in all channels."""
    y = np.asarray(pixels, np.float64) @ [0.299, 0.587, 0.114]
    return np.repeat(np.floor(y + 0.5 + 1e-9)[..., None], 3, -1).astype(np.uint8)


def one_cell(weights, **settings):
    """An engine, the program of one texture, and its launch from the mean pixel and noise of seed 0."""
    given = {"content": ("none",), "style": ("/s.png",), "style_layers": ("+".join(SET),)}
    sweep = resolve(Sweep(**given, **{"alpha_beta": (0.0,), "pyramid": 0, **settings}))
    (cell,) = cells = sweep_cells(sweep)
    shapes = {cell.shaped_by: SIZE}
    program = make_plan(sweep, cells, shapes, platform="cpu", choose_width=lambda *_: 1).programs[0]
    engine = Engine(weights, winograd=False)
    style = random_image(50, 41, 2)
    seen = luma(style) if sweep.colour == "grey" else style
    rows = engine.target_rows(program, seen)
    blank = engine.blank_rows(program, "content")
    targets = jax.tree.map(lambda a: a[None], Targets(blank.content, rows.style))
    knobs = knobs_of(cell, program, sweep, content_row=0, style_row=0, extent=SIZE)
    start = mean_image(*SIZE, grey=sweep.colour == "grey")
    launch = Launch(jax.tree.map(lambda a: np.asarray(a)[None], knobs), start[None], targets)
    return engine, program, launch


def ended(course):
    for _ in course:
        pass
    return course.outcome


# --- grey -----------------------------------------------------------------------------------------


def test_luma_is_rounded_bt601_and_leaves_grey_as_it_is():
    image = random_image(40, 50, 3)
    np.testing.assert_array_equal(luma(image), grey_of(image))
    every = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, -1)
    np.testing.assert_array_equal(luma(every), every)


def test_grey_noise_is_the_projected_noise_with_a_deviation_of_1():
    drawn = noise(jnp.uint32(7), (64, 64, 3))
    found = np.asarray(colours.noise_in("grey", drawn))
    np.testing.assert_allclose(
        found[..., 1], np.sqrt(3) * np.asarray(drawn, np.float64).mean(-1), rtol=1e-5, atol=1e-6
    )
    assert found.std() == pytest.approx(1, abs=0.05)
    assert colours.noise_in("free", drawn) is drawn


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_grey_texture_follows_the_projected_gradient_in_float64(narrow, optimizer):
    memory = {"lbfgs_memory": 3} if optimizer == "lbfgs" else {"learning_rate": (5.0,)}
    engine, program, launch = one_cell(narrow, colour="grey", optimizer=optimizer, noise_std=20.0, **memory)
    outcome = ended(engine.course(program, launch, (6,)))
    image, style = outcome.images[0, -1], grey_of(random_image(50, 41, 2))
    np.testing.assert_array_equal(image, np.repeat(image[..., :1], 3, -1))
    drawn = np.asarray(noise(jnp.uint32(0), (*SIZE, 3)), np.float64).mean(-1, keepdims=True)
    mean = np.array([123.68, 116.779, 103.939]) @ [0.299, 0.587, 0.114]
    start = np.repeat(mean + 20 * np.sqrt(3) * drawn, 3, -1)

    def evaluate(x):
        weights = dict.fromkeys(SET, 0.5)
        terms, slope = oracle.loss_and_gradient(
            narrow, x, x, style, alpha=0.0, content_layer="conv1_1", style_weights=weights
        )
        return terms["total"], np.repeat(slope.mean(-1, keepdims=True), 3, -1)

    if optimizer == "adam":
        expected = oracle.adam(lambda x: evaluate(x)[1], start, 6, 5.0)
    else:
        images, losses, _ = oracle.lbfgs(evaluate, start, 6, 3, 10.0)
        expected = images[-1]
        np.testing.assert_allclose(outcome.info.loss_total[0], losses, rtol=1e-3)
    assert np.abs(image - expected).max() < 0.3
    assert np.abs(image - start).max() > 5


def test_free_colours_are_no_other_program_and_no_other_fingerprint(monkeypatch):
    given = {"content": ("none",), "style": ("/s.png",), "size": "40"}
    free, grey = (resolve(Sweep(**given, colour=colour)) for colour in ("free", "grey"))
    assert "colour" not in fingerprints._settings(free)
    assert fingerprints._settings(grey)["colour"] == "grey"
    cells = sweep_cells(free)
    programs = [
        make_plan(s, cells, {cells[0].shaped_by: SIZE}, platform="cpu", choose_width=lambda *_: 1).programs[
            0
        ]
        for s in (free, grey)
    ]
    assert "colour" not in programs[0].record()
    assert programs[1].record()["colour"] == programs[1].facts()["colour"] == "grey"
