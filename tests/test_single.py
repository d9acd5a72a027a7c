"""One transfer without a run directory: the bytes of a sweep's cell, one file written."""

import hashlib
import inspect
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, random_image, run_python
from PIL import Image

import jaxstyle
from jaxstyle import features, sweep, transfer
from jaxstyle.run import one_cell
from jaxstyle.rundir.image_files import image_name

SETTINGS = {"size": 64, "steps": 4, "seed": 7, "alpha_beta": 1e-2}
SETTINGS |= {"content_layer": "conv2_2", "style_layers": "conv1_1+conv2_1", "conv": "plain"}
FLAGS = [text for name, value in SETTINGS.items() for text in (f"--{name.replace('_', '-')}", value)]
"""One cell of `run`."""


def command(module, *arguments):
    """Run a command in this process and give its exit code."""
    with pytest.raises(SystemExit) as stop:
        module.main([str(a) for a in arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    for name, (h, w) in {"c": (60, 80), "s": (64, 50)}.items():
        Image.fromarray(random_image(h, w, seed=ord(name))).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def run(inputs, tmp_path_factory):
    """A sweep of four cells with two snapshots."""
    out = tmp_path_factory.mktemp("runs") / "run"
    code = command(
        sweep, "--content", inputs / "c.png", "--style", inputs / "s.png", "--alpha-beta", "1e-1", "1e-2",
        "--seed", "6", "7", "--size", "64", "--steps", "2", "4", "--content-layer", "conv2_2",
        "--style-layers", "conv1_1+conv2_1", "--style-weights", "equal", "--conv", "plain", "--out", out,
        "--quiet",
    )  # fmt: skip
    assert code == 0
    return jaxstyle.open_run(out)


def test_a_transfer_is_the_same_cell_of_a_sweep_to_the_byte(inputs, run, tmp_path, capsys, monkeypatch):
    (row,) = [r for r in run.rows if (r["seed"], r["alpha_beta"]) == (7, 1e-2)]
    monkeypatch.chdir(tmp_path)
    assert command(transfer, inputs / "c.png", inputs / "s.png", *FLAGS, "-o", "out.png") == 0
    said = capsys.readouterr().out
    assert (tmp_path / "out.png").read_bytes() == (run.path / row["image"]).read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]
    assert said.splitlines()[-1] == "out.png"
    assert f"total {row['loss_total']:.4g}, content {row['loss_content']:.4g}" in said


def test_stylize_gives_those_pixels_from_paths_and_from_arrays(inputs, run, tmp_path, capfd, monkeypatch):
    (row,) = [r for r in run.rows if (r["seed"], r["alpha_beta"]) == (7, 1e-2)]
    monkeypatch.chdir(tmp_path)
    one = jaxstyle.stylize(inputs / "c.png", str(inputs / "s.png"), **SETTINGS)
    content, style = (np.asarray(Image.open(inputs / name)) for name in ("c.png", "s.png"))
    other = jaxstyle.stylize(content, style, **SETTINGS)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, run.image(row["cell"]))
    np.testing.assert_array_equal(other, one)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_start_can_be_pixels_too(inputs):
    content, start = np.asarray(Image.open(inputs / "c.png")), random_image(90, 100, seed=3)
    Image.fromarray(start).save(inputs / "start.png")
    one = jaxstyle.stylize(content, inputs / "s.png", init=start, **SETTINGS)
    other = jaxstyle.stylize(content, inputs / "s.png", init=inputs / "start.png", **SETTINGS)
    np.testing.assert_array_equal(one, other)


def test_no_file_that_is_read_is_replaced(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(one_cell, "transfer", None)  # would fail
    for name, source in {"home.png": "c", "mask.png": "s", "other.png": "s"}.items():
        (tmp_path / name).write_bytes((inputs / f"{source}.png").read_bytes())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    masks = ("--regions", "masks", "--content-mask", "~/mask.png", "--style-mask", "255")
    pair = (inputs / "c.png", inputs / "s.png")
    for module, *arguments in (
        (transfer, *pair, *masks, "-o", tmp_path / "mask.png"),
        (transfer, "~/home.png", pair[1], "-o", "~/home.png"),
        (transfer, *pair, "--init", "~/other.png", "-o", tmp_path / "other.png"),
        (features, "~/home.png", "-o", tmp_path / "home.png"),
    ):
        assert command(module, *arguments) == 2
        assert "is read by this command; give another name" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("out.gif", "its name must end in .png, .jpg, .jpeg or .webp"),
        ("out", "its name must end in"),
        ("nowhere/out.png", "there is no directory"),
        ("folder.png", "is not a regular file"),
        ("copy.png", "is read by this command"),
        ("\0.png", "is not a path"),
        ("n" * 300 + ".png", "its name is too long"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_computed(
    inputs, tmp_path, capsys, monkeypatch, out, says
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "copy.png").write_bytes((inputs / "c.png").read_bytes())
    before = {p.name for p in tmp_path.iterdir()}
    monkeypatch.setattr(one_cell, "transfer", None)  # would fail
    assert command(transfer, "copy.png", inputs / "s.png", "-o", out) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
    assert {p.name for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--seed", "0:2"), "seed: has 2 values and a single transfer takes one; jaxstyle.sweep takes"),
        (("--seed", "1", "2"), "python -m jaxstyle.sweep takes several"),
        (("--sead", "1"), "did you mean seed?"),
        (("--size", "8"), "size: 8 is out of range"),
        (("--out", "x.png"), "--out: is given twice"),
        (("--preset", "demo"), "no such setting"),
        (("--trace-every", "2"), "no such setting"),
        (("--weights", "none.h5"), "none.h5: no such file"),
    ],
)
def test_a_wrong_flag_is_one_line_and_writes_nothing(inputs, tmp_path, capsys, monkeypatch, flags, says):
    monkeypatch.chdir(tmp_path)
    assert command(transfer, inputs / "c.png", inputs / "s.png", "-o", "out.png", *flags) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_input_leaves_before_jax_is_imported(tmp_path):
    code = (
        "import sys; sys.argv = ['transfer', 'nope.png', 'nope.png', '-o', 'out.png']\n"
        "from jaxstyle import transfer\n"
        "try: transfer.main()\n"
        "except SystemExit as stop: assert stop.code == 2\n"
        "assert 'jax' not in sys.modules\n"
    )
    done = run_python("-c", code, check=True, cwd=tmp_path)
    assert done.stderr.startswith("jaxstyle: error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sead": 1}, "did you mean seed?"),
        ({"seed": (1, 2)}, "seed: has 2 values"),
        ({"steps": (1, 2)}, "steps: has 2 values"),
        ({"grid": ()}, "grid: is for several cells"),
        ({"pool": "min"}, "pool: 'min' is not known"),
        ({"content": np.zeros((40, 40, 3))}, "content: is an array of float64 (40, 40, 3); give uint8"),
        ({"style": np.zeros((40, 40, 2), np.uint8)}, "style: is an array of uint8 (40, 40, 2); give uint8"),
        ({"style": Image.new("F", (40, 40))}, "style: is a PIL image of mode F; convert it to RGB or L"),
        ({"content": np.full((40, 40), 256.0), "float_0_255": True}, "content: has values from 256 to 256"),
        ({"style": [[0, 1], [2, 3]]}, "style: "),
        ({"style": None}, "style: "),
        ({"content": b"\x89PNG"}, "content: "),
        ({"content": 3}, "content: "),
        ({"init": np.zeros(3, np.uint8)}, "init: is an array of uint8 (3,); give uint8"),
        ({"content": np.zeros((8, 40, 3), np.uint8)}, "both edges need 16 px"),
    ],
)
def test_stylize_names_what_is_wrong(inputs, settings, says):
    both = {"content": inputs / "c.png", "style": inputs / "s.png"}
    with pytest.raises(jaxstyle.JaxstyleError) as error:
        jaxstyle.stylize(**{**both, **settings})
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_transfer_that_diverges_keeps_the_last_finite_image_and_says_so(inputs, tmp_path, capsys):
    flags = [1e35 if text == SETTINGS["alpha_beta"] else text for text in FLAGS]
    assert command(transfer, inputs / "c.png", inputs / "s.png", *flags, "-o", tmp_path / "out.webp") == 1
    assert "jaxstyle: diverged at step" in capsys.readouterr().err
    with Image.open(tmp_path / "out.webp") as image:
        assert (image.format, image.size) == ("WEBP", (64, 48))
    with pytest.raises(jaxstyle.JaxstyleError, match="diverged at step"):
        jaxstyle.stylize(inputs / "c.png", inputs / "s.png", **{**SETTINGS, "alpha_beta": 1e35})


def test_an_interrupted_transfer_leaves_nothing(inputs, tmp_path):
    flags = [100_000 if text == SETTINGS["steps"] else text for text in FLAGS]
    arguments = ["-m", "jaxstyle.transfer", inputs / "c.png", inputs / "s.png", "-o", "out.png", *flags]
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("compiling")
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, said) == (130, "jaxstyle: error: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_every_setting_of_a_sweep_is_a_flag_or_is_known_not_to_be_one():
    flags = set(inspect.signature(transfer.accepts()).parameters)
    assert set(one_cell.accepted_settings()) - flags == {"canvas"}  # one picture shares no canvas


# --- what a run gives back ------------------------------------------------------------------------


def test_a_run_gives_pictures_at_every_snapshot(run):
    row = run.rows[2]
    for step, name in ((None, row["image"]), (4, row["image"]), (2, image_name(2, 2, 4))):
        with Image.open(run.path / name) as image:
            np.testing.assert_array_equal(run.image(2, step), np.asarray(image))
    assert hashlib.sha256(run.image(2, 2)).digest() != hashlib.sha256(run.image(2)).digest()
    with pytest.raises(jaxstyle.JaxstyleError, match="cell 2 has no picture after 3 steps; it has 2 and 4"):
        run.image(2, 3)
    with pytest.raises(jaxstyle.JaxstyleError, match="has no cell 9"):
        run.image(9)


def test_a_run_gives_the_curves_of_a_cell(run):
    curves = run.losses(3)
    style = ["conv1_1", "conv2_1"]
    assert list(curves) == ["step", "loss_total", "loss_content", "loss_style", *style]
    np.testing.assert_array_equal(curves["step"], np.arange(5))
    assert curves["loss_total"][-1] == run.rows[3]["loss_total"]
    total = run.rows[3]["alpha_beta"] * curves["loss_content"] + curves["loss_style"]
    np.testing.assert_allclose(curves["loss_total"], total, rtol=1e-5)
    np.testing.assert_allclose(curves["loss_style"], sum(curves[n] for n in style) / 2, rtol=1e-5)
    with pytest.raises(jaxstyle.JaxstyleError, match="has no cell 4"):
        run.losses(4)


def test_a_run_is_an_xarray_dataset(run):
    with run.dataset() as data:
        assert data["image"].dims == ("cell", "snapshot", "y", "x", "channel")
        picked = data["loss_total"].sel(step=4).where(data["seed"] == 7, drop=True)
        assert picked["alpha_beta"].values.tolist() == [1e-1, 1e-2]
        np.testing.assert_array_equal(data["image"].sel(cell=1, snapshot=2), run.image(1, 2))
    with pytest.raises(jaxstyle.JaxstyleError, match="has no pictures of 10x10; it has 48x64"):
        run.dataset("10x10")


def test_a_dataset_without_xarray_says_how_to_get_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(jaxstyle.JaxstyleError, match="pip install xarray h5netcdf, or read"):
        run.dataset()
