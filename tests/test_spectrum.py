"""The spectrum term against float64: the nearest image with the power spectrum of a style."""

import csv

import jax
import numpy as np
import pytest
from conftest import QUICKLY, random_image
from PIL import Image

from jaxstyle import targets
from jaxstyle.cell import spectrum
from jaxstyle.cell.knobs import knobs_of
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.planner import make_plan
from jaxstyle.run.sweep import run_sweep
from jaxstyle.rundir.records import open_record
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import RunOptions, Sweep

SHAPES = [(24, 32), (23, 33)]
"""Even and odd edges, whose half spectra differ."""


compiled = jax.jit(jax.value_and_grad(spectrum.distance), compiler_options=QUICKLY)
compiled_spectrum = jax.jit(spectrum.periodic_spectrum, compiler_options=QUICKLY)


def periodic(u):
    """The periodic component by its definition: wrapped, its Laplacian is that of u within its edges."""
    u = u.astype(np.float64)
    inner = np.zeros_like(u)
    for axis in (0, 1):
        forward = np.diff(u, axis=axis)
        after, before = [(0, 0)] * 3, [(0, 0)] * 3
        after[axis], before[axis] = (0, 1), (1, 0)
        inner += np.pad(forward, after) - np.pad(forward, before)
    h, w, _ = u.shape
    q, r = np.meshgrid(np.fft.fftfreq(h), np.fft.fftfreq(w), indexing="ij")
    divisor = 2 * np.cos(2 * np.pi * q) + 2 * np.cos(2 * np.pi * r) - 4
    divisor[0, 0] = 1
    found = np.fft.fft2(inner, axes=(0, 1)) / divisor[..., None]
    found[0, 0] = u.sum((0, 1))
    return np.fft.ifft2(found, axes=(0, 1)).real


def nearest(x, t):
    """P(x): every frequency of t, turned as x says."""
    x_hat, t_hat = (np.fft.fft2(of, axes=(0, 1)) for of in (x, t))
    s = (x_hat * np.conj(t_hat)).sum(-1, keepdims=True)
    return np.fft.ifft2(t_hat * np.exp(1j * np.angle(s)), axes=(0, 1)).real


def loss(x, t):
    return 0.5 * ((x - nearest(x, t)) ** 2).sum()


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradient_match_float64_and_its_slope(shape):
    style, x = random_image(*shape, 1), random_image(*shape, 2).astype(np.float64)
    t, kept = periodic(style), compiled_spectrum(style.astype(np.float32))
    value, gradient = compiled(x.astype(np.float32), kept)
    assert float(value) == pytest.approx(loss(x, t), rel=1e-5)
    expected = x - nearest(x, t)
    assert np.linalg.norm(gradient - expected) < 1e-4 * np.linalg.norm(expected)
    way = np.random.default_rng(3).normal(0, 1, x.shape)
    slope = (loss(x + 1e-4 * way, t) - loss(x - 1e-4 * way, t)) / 2e-4
    assert float((gradient * way).sum()) == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_cyclic_shifts_of_the_periodic_component_cost_nothing(shape):
    style = random_image(*shape, 1)
    style = np.clip(style + np.linspace(0, 90, shape[1])[None, :, None], 0, 255)  # a jump, hence a cross
    kept = compiled_spectrum(style.astype(np.float32))
    whole = float(compiled(random_image(*shape, 2).astype(np.float32), kept)[0])
    for shift in ((0, 0), (5, 7)):
        rolled = np.roll(periodic(style), shift, (0, 1))
        value, gradient = compiled(rolled.astype(np.float32), kept)
        assert float(value) < 1e-8 * whole
        assert np.abs(gradient).max() < 0.01
    # The style itself has a cross from the jumps at its edges, which its periodic component has not.
    assert float(compiled(style.astype(np.float32), kept)[0]) > 1e-3 * whole
    fine = slice(shape[1] // 4, shape[1] // 2)
    before, after = (np.abs(np.fft.fft2(u, axes=(0, 1)))[0, fine].mean() for u in (style, periodic(style)))
    assert after < 0.5 * before


def test_an_image_without_any_features_has_a_finite_gradient():
    kept = compiled_spectrum(random_image(24, 32, 1).astype(np.float32))
    for image in (np.zeros((24, 32, 3), np.float32), np.full((24, 32, 3), 120.0, np.float32)):
        assert np.isfinite(compiled(image, kept)[1]).all()


# --- cells and runs -------------------------------------------------------------------------------

GIVEN = {"style_layers": ("conv1_1",), "optimizer": "adam", "steps": (20,), "padding": "zeros"}
GIVEN |= {"conv": "plain"}


def test_cells_with_the_term_share_no_canvas_and_weigh_it_more_in_coarser_stages():
    given = {"content": ("/a", "/b", "/c"), "style": ("/s",), "content_layer": ("conv1_2",), **GIVEN}
    shapes = {"/a": (48, 64), "/b": (47, 64), "/c": (46, 64)}
    found = []
    for weight in (0.0, 2.0):
        sweep = resolve(Sweep(**given, spectrum_weight=(weight,)))
        cells = sweep_cells(sweep)
        plan = make_plan(sweep, cells, shapes, platform="cpu", choose_width=lambda *_: 1)
        found.append(any(program.canvas for program in plan.programs))
    assert found == [True, False]
    about = {"content_row": 0, "style_row": 0}
    full = knobs_of(cells[0], plan.programs[0], sweep, **about, extent=(48, 64))
    coarse = knobs_of(cells[0], plan.programs[0], sweep, **about, extent=(24, 32), full_extent=(48, 64))
    assert full.term_weights == {"spectrum": 2.0}
    assert coarse.term_weights == {"spectrum": 8.0}


@pytest.fixture
def style(tmp_path):
    path = tmp_path / "s.png"
    Image.fromarray(random_image(32, 40, 1)).save(path)
    return str(path)


def test_a_style_of_another_size_is_told_in_one_line(style, tmp_path):
    sweep = Sweep(content=("none",), style=(style,), size="40x40", spectrum_weight=(1.0,), **GIVEN)
    with pytest.raises(JaxstyleError, match=r"picture's size, 40x40, and .* becomes 40x32") as error:
        run_sweep(sweep, RunOptions(out=str(tmp_path / "run"), quiet=True))
    assert str(error.value).startswith("spectrum_weight: ")
    assert not (tmp_path / "run").exists()
    blend = Sweep(content=("none",), style=(f"{style}+/b.png",), spectrum_weight=(1.0,), **GIVEN)
    with pytest.raises(JaxstyleError, match="needs a style image"):
        sweep_cells(resolve(blend))


def test_the_weight_is_an_axis_and_brings_the_spectrum_nearer(style, tmp_path):
    other = tmp_path / "o.png"
    Image.fromarray(random_image(40, 40, 2)).save(other)
    with_it = {"style": [style], "spectrum_weight": [0.0, 1e5]}
    grids = (with_it, {"style": [str(other)], "spectrum_weight": [0.0]})  # of another size, without it
    sweep = Sweep(content=("none",), size="40x32", grid=grids, **GIVEN)
    run = run_sweep(sweep, RunOptions(out=str(tmp_path / "run"), quiet=True))
    (program,) = open_record(run.path).manifest["programs"]
    assert program["terms"] == ["spectrum"]
    assert not program["canvas"]
    rows = list(csv.DictReader((run.path / "results.csv").read_text().splitlines()))
    assert [row["spectrum_weight"] for row in rows] == ["0.0", "100000.0", "0.0"]
    t = periodic(random_image(32, 40, 1))
    without, own = (loss(np.asarray(Image.open(run.path / row["image"]), float), t) for row in rows[:2])
    assert own < 0.2 * without
    for row, value in zip(rows, (without, own), strict=False):
        assert float(row["loss_spectrum"]) == pytest.approx(value, rel=0.2)  # clipped and rounded there
        total = float(row["loss_style"]) + float(row["spectrum_weight"]) * float(row["loss_spectrum"])
        assert float(row["loss_total"]) == pytest.approx(total, rel=1e-4)


def test_a_file_of_targets_has_the_spectrum_that_was_written_with_it(style, tmp_path):
    files = {}
    for name, more in (("with", ["--spectrum"]), ("without", [])):
        files[name] = str(tmp_path / f"{name}.npz")
        layers = ["--layers", *GIVEN["style_layers"], "--padding", GIVEN["padding"]]
        with pytest.raises(SystemExit) as done:
            targets.main([style, "-o", files[name], *layers, *more, "--size", "40", "--quiet"])
        assert done.value.code == 0
    given = {"content": ("none",), "size": "40x32", "spectrum_weight": (1e5,), **GIVEN}
    run = run_sweep(
        Sweep(style=(style, files["with"]), **given), RunOptions(out=str(tmp_path / "run"), quiet=True)
    )
    image, file = csv.DictReader((run.path / "results.csv").read_text().splitlines())
    assert float(file["loss_spectrum"]) == pytest.approx(float(image["loss_spectrum"]), rel=1e-3)
    lacking = Sweep(style=(files["without"],), **given)
    with pytest.raises(JaxstyleError, match="no spectrum; write it with --spectrum, or give 0"):
        run_sweep(lacking, RunOptions(out=str(tmp_path / "other"), quiet=True))
