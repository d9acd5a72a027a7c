"""The seed study of a real run, end to end: its files, their numbers, its floor, and its errors."""

import csv
import itertools
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
from conftest import ROOT, random_image, run_forked, run_python
from made_runs import make_run
from PIL import Image
from test_store import fill, result

from jaxstyle import sweep, variance
from jaxstyle.plan.cells import Cell
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.records import open_record
from jaxstyle.rundir.results_h5 import merge
from jaxstyle.study import components, distances, figures, spread
from jaxstyle.study.model import Setting, Spread

SMALL = (
    "--size", "32", "--optimizer", "adam", "--style-layers", "conv1_1+conv2_1", "--style-weights", "equal",
    "--content-layer", "conv2_2", "--quiet",
)  # fmt: skip
"""Shallow, so that three programs compile in seconds."""


def command(main, *arguments):
    """Run a command in this process and give its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    for name, (h, w) in {"c": (24, 32), "s": (32, 30)}.items():
        Image.fromarray(random_image(h, w, seed=sum(name.encode()))).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def plain_run(inputs, tmp_path_factory):
    """Three seeds at two ratios from noise, and as many from the content, whose seed cannot matter."""
    out = tmp_path_factory.mktemp("runs") / "study"
    code = command(
        sweep.main, "--content", inputs / "c.png", "--style", inputs / "s.png", "--seed", "0:3",
        "--alpha-beta", "1e-1", "1e-4", "--init", "noise", "content", "--steps", "3", "6",
        "--out", out, *SMALL,
    )  # fmt: skip
    assert code == 0
    return out


@pytest.fixture(scope="module")
def studied(plain_run):
    assert command(variance.main, plain_run, "--floor-steps", "4") == 0
    return plain_run


def lines(run, **wanted):
    with open(run / "variance.csv", newline="") as file:
        found = list(csv.DictReader(file))
    return [row for row in found if all(row[key] == value for key, value in wanted.items())]


def pictures(run):
    """The last pictures by (ratio, seed) and the final total losses, from `results.h5`."""
    with h5py.File(run / "results.h5") as file:
        group = file["24x32"]
        noise = [i for i, init in enumerate(group["init"]) if init == b"noise"]
        keys = [(float(group["alpha_beta"][i]), int(group["seed"][i])) for i in noise]
        images = {key: group["image"][i, -1].astype(float) for key, i in zip(keys, noise, strict=True)}
        return images, {key: float(group["loss_total"][i, -1]) for key, i in zip(keys, noise, strict=True)}


def test_losses_are_those_of_the_run(studied):
    _, losses = pictures(studied)
    for ratio in (0.1, 1e-4):
        x = [losses[ratio, seed] for seed in range(3)]
        (line,) = lines(studied, alpha_beta=str(ratio), steps="6", quantity="loss_total")
        assert line["seeds"] == "3"
        assert float(line["mean"]) == pytest.approx(np.mean(x), rel=1e-8)
        assert float(line["sd"]) == pytest.approx(np.std(x, ddof=1), rel=1e-8)
        assert float(line["cv"]) == pytest.approx(np.std(x, ddof=1) / np.mean(x), rel=1e-8)
        assert float(line["mean_low"]) < float(line["mean"]) < float(line["mean_high"])


def test_distances_are_those_of_the_pictures(studied):
    images, _ = pictures(studied)
    for ratio in (0.1, 1e-4):
        pairs = itertools.combinations([images[ratio, seed] for seed in range(3)], 2)
        expected = np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in pairs])
        (line,) = lines(studied, alpha_beta=str(ratio), steps="6", quantity="rmse")
        assert float(line["mean"]) == pytest.approx(expected, rel=1e-8)
        assert line["pairs"] == "3"
    quantities = {line["quantity"] for line in lines(studied)}
    assert {"E_conv1_1", "E_conv2_1", "feature_conv4_1", "lowpass_dssim", "pixel_sd"} <= quantities
    assert {line["init"] for line in lines(studied)} == {"noise"}


def test_the_file_opens_in_xarray(studied):
    images, _ = pictures(studied)
    with xarray.open_dataset(studied / "variance.h5", group="24x32", engine="h5netcdf") as data:
        assert dict(data.sizes) == {
            "setting": 2, "snapshot": 2, "term": 5, "measure": 8, "step": 7, "quantile": 5,
            "y": 24, "x": 32, "channel": 3,
        }  # fmt: skip
        assert data["mean"].dims == ("setting", "snapshot", "term")
        assert list(data["alpha_beta"].values) == [0.1, 1e-4]
        assert "alpha_beta" in data.coords
        stack = np.stack([images[0.1, seed] for seed in range(3)])
        expected = np.sqrt(np.var(stack, axis=0, ddof=1).mean(-1))
        np.testing.assert_allclose(data["pixel_sd"][0], expected, rtol=1e-12)
        np.testing.assert_allclose(data["mean_picture"][0], stack.mean(0), rtol=1e-6)
    for name, dims in {
        "alpha_beta": {"family": 1, "measure": 8},
        "components": {"term": 6, "component": 3},
        "floor": {"variant": 6, "seed": 2},
    }.items():
        with xarray.open_dataset(studied / "variance.h5", group=name, engine="h5netcdf") as data:
            assert dict(data.sizes) == dims


def test_seeds_are_weighed_against_ratios(studied):
    images, _ = pictures(studied)
    rmse = lambda a, b: np.sqrt(np.mean((a - b) ** 2))  # noqa: E731
    pairs = list(itertools.combinations(range(3), 2))
    between = np.mean([rmse(images[r, i], images[r, j]) for r in (0.1, 1e-4) for i, j in pairs])
    same = np.mean([rmse(images[0.1, seed], images[1e-4, seed]) for seed in range(3)])
    with h5py.File(studied / "variance.h5") as file:
        at = list(file["alpha_beta/measure"]).index(b"rmse")
        assert file["alpha_beta/between_seeds"][0, at] == pytest.approx(between, rel=1e-12)
        assert file["alpha_beta/between_ratios"][0, at] == pytest.approx(same, rel=1e-12)
        assert file["alpha_beta/ratio"][0, at] == pytest.approx(between / same, rel=1e-12)


def test_components_of_the_run_are_those_of_its_numbers(studied):
    images, losses = pictures(studied)
    grid = [[(ratio, seed) for seed in range(3)] for ratio in (0.1, 1e-4)]
    logs = np.log([[losses[key] for key in row] for row in grid])
    expected = [float(c.variance) for c in components.variance_components(logs, ("alpha_beta",))]
    stack = np.array([[images[key] for key in row] for row in grid])
    pixels = [float(np.mean(c.variance)) for c in components.variance_components(stack, ("alpha_beta",))]
    with h5py.File(studied / "variance.h5") as file:
        group = file["components"]
        assert list(group["component"]) == [b"alpha_beta", b"seed", b"seed x setting"]
        np.testing.assert_allclose(group["variance"][0], expected, rtol=1e-6, atol=1e-15)
        np.testing.assert_allclose(group["variance"][-1], pixels, rtol=1e-9)
        np.testing.assert_allclose(group["share"][()].sum(1), 1)


def test_the_floor_has_every_variant_and_the_same_seed_again_is_the_same(studied):
    with h5py.File(studied / "variance.h5") as file:
        names = [name.decode() for name in file["floor/variant"]]
        rmse = dict(zip(names, file["floor/rmse"][()], strict=True))
        loss = dict(zip(names, file["floor/loss"][()], strict=True))
        first = dict(zip(names, file["floor/first_loss"][()], strict=True))
    assert names == [
        "the same seed again", "as the run has it", "in another place of the batch", "4 cells per launch",
        "products in bf16", "another seed",
    ]  # fmt: skip
    assert rmse["the same seed again"] == loss["the same seed again"] == 0
    assert rmse["in another place of the batch"] == loss["in another place of the batch"] == 0
    assert loss["as the run has it"] == 0  # of four steps the run has losses, and no pictures
    assert np.isnan(rmse["as the run has it"])
    assert first["4 cells per launch"] < 1e-5
    assert 0 < rmse["products in bf16"] < rmse["another seed"]


def test_the_page_says_what_was_found_and_what_was_left_out(studied):
    page = json.loads((studied / "variance.json").read_text())
    assert set(page) == {"title", "intro", "blocks"}
    assert all(isinstance(line, str) for line in page["intro"])
    for block in page["blocks"]:
        assert set(block) == {"heading", "text", "table", "figures"}
        assert block["text"]
        assert all(isinstance(line, str) and line for line in block["text"])
        if block["table"] is not None:
            width = len(block["table"]["columns"])
            assert all(len(row) == width for row in block["table"]["rows"])
            assert all(isinstance(cell, str) for row in block["table"]["rows"] for cell in row)
        for figure in block["figures"]:
            assert (studied / figure["path"]).is_file()
            assert figure["caption"]
    shown = {figure["path"] for block in page["blocks"] for figure in block["figures"]}
    assert shown == {f"maps/{path.name}" for path in (studied / "maps").iterdir()}
    everything = json.dumps(page, ensure_ascii=False)
    assert "come to one picture whatever the seed" in everything
    assert "from content, α/β 0.1 (3 cells)" in everything
    assert "nan" not in everything


def test_the_same_run_gives_the_same_bytes(studied):
    names = ["variance.csv", "variance.h5", "variance.json"]
    names += [f"maps/{path.name}" for path in (studied / "maps").iterdir()]
    before = {name: (studied / name).read_bytes() for name in names}
    results = (studied / "results.csv").read_bytes(), (studied / "results.h5").read_bytes()
    (studied / "maps" / "spread-09.png").write_bytes(b"of an earlier study")
    done = run_forked("-m", "jaxstyle.variance", studied, "--floor-steps", "4", check=True, cwd=ROOT)
    assert not done.stderr
    assert {name: (studied / name).read_bytes() for name in names} == before
    assert not (studied / "maps" / "spread-09.png").exists()
    assert ((studied / "results.csv").read_bytes(), (studied / "results.h5").read_bytes()) == results


def test_without_a_floor_the_page_says_that_there_is_none(plain_run, tmp_path, capsys):
    shutil.copytree(plain_run, tmp_path / "run")
    assert command(variance.main, tmp_path / "run", "--no-floor") == 0
    page = (tmp_path / "run" / "variance.json").read_text()
    assert "without a floor" in page
    assert "no numerical floor" in capsys.readouterr().out
    with h5py.File(tmp_path / "run" / "variance.h5") as file:
        assert "floor" not in file


@pytest.mark.parametrize(
    ("settings", "diverged", "expected"),
    [
        ({"seed": (0,)}, (), "no setting has two seeds that came to an end; add some with:"),
        ({"seed": (0, 1)}, (0, 2), "came to an end (2 cells diverged)"),
        ({"init": ("content",)}, (), "no seed matters in it"),
    ],
)
def test_a_run_without_two_seeds_is_refused_in_one_line(tmp_path, capsys, settings, diverged, expected):
    count = 2 * len(settings.get("seed", (0, 1)))
    fill(tmp_path / "run", [result(range(count), diverged=diverged)], **settings)
    assert command(variance.main, tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxstyle: error: ")
    assert expected in line
    assert not (tmp_path / "run" / "variance.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("{run}/nothing",), "is not a run directory"),
        (("{run}", "--floor-cells", "1"), "must be at least 2"),
        (("{run}", "--flor-steps", "1"), "did you mean floor_steps"),
        (("{run}", "--floor-steps", "0"), "must be at least 1"),
    ],
)
def test_wrong_arguments_are_one_line(plain_run, capsys, arguments, expected):
    assert command(variance.main, *(a.format(run=plain_run) for a in arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_a_run_at_work_is_left_alone(plain_run, capsys):
    with RunDirectory(plain_run):
        assert command(variance.main, plain_run, "--no-floor") == 3
    assert "is in use" in capsys.readouterr().err


def test_help_needs_no_jax():
    code = (
        "import sys\nfrom jaxstyle import variance\n"
        "try: variance.main(['--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'jax', 'matplotlib'} & set(sys.modules)\n"
    )
    assert "--no-floor" in run_python("-c", code, check=True, cwd=ROOT).stdout


def test_what_cannot_be_computed_again_is_said(tmp_path, capsys):
    """Two seeds, a diverged cell and missing images still give tables and a page."""
    fill(tmp_path / "run", [result(range(6), diverged=(5,))], seed=(0, 1, 2))
    assert command(variance.main, tmp_path / "run") == 1
    assert "1 cell diverged" in capsys.readouterr().out
    page = (tmp_path / "run" / "variance.json").read_text()
    assert "Not everything could be computed again: /a b.png" in page
    assert "a balanced part of it was used, without seed 2" in page
    assert "no intervals" in page
    (line,) = lines(tmp_path / "run", content="/c.png", steps="5", quantity="loss_total")
    assert (line["seeds"], line["diverged"], line["mean_low"]) == ("2", "1", "")
    assert lines(tmp_path / "run", content="a b.png")


# --- settings -------------------------------------------------------------------------------------


def test_diverged_cells_are_left_out_and_counted(tmp_path):
    record = fill(tmp_path / "run", [result(range(6), diverged=(1, 3, 4))], seed=(0, 1, 2))
    merge(record)
    with h5py.File(tmp_path / "run" / "results.h5") as file:
        settings, fixed, single, diverged = spread.find_settings(record, file)
    (setting,) = settings
    assert (setting.seeds, setting.cells, setting.diverged) == ((0, 2), (0, 2), 1)
    assert (fixed, single, diverged) == ([], ["c"], 3)


def test_snapshots_of_a_study_are_a_half_and_a_quarter_of_the_last():
    assert spread.chosen_snapshots((500, 1000, 2000)) == (500, 1000, 2000)
    assert spread.chosen_snapshots((100,)) == (100,)
    assert spread.chosen_snapshots((1, 10, 26, 49, 60, 100)) == (26, 49, 100)


def test_settings_share_figures_by_families():
    page_sizes = []
    for count in (1, 4, 7):
        spreads = [_spread(style, i, count) for style in "ab" for i in range(count)]
        study = type("S", (), {"spreads": spreads})()
        page_sizes.append([len(page) for page in figures.pages(study)])
    assert page_sizes == [[2], [4, 4], [6, 1, 6, 1]]


def _spread(style, index, count):
    cell = Cell(0, "/c", f"/{style}", "conv4_2", "conv1_1", "noise", 10.0**-index, 1.0, 0)
    setting = Setting(0, cell, "", "4x4", (0, 1), (0, 1), 0, (0, 1))
    empty = np.zeros((4, 4, 3))
    return Spread(setting, empty, (), empty, {}, empty, empty, empty, empty)


def test_feature_distances_are_those_of_the_network(plain_run, vgg19_weights):
    import jax
    import oracle

    record = open_record(Path(plain_run))
    network = distances.Network(record, jax.devices()[0])
    pixels = random_image(24, 32, seed=5)
    found = network.features(pixels)
    _, expected = oracle.network(vgg19_weights, pixels.astype(np.float64), "avg", "conv4_1")
    for name in distances.FEATURE_LAYERS:
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(found[name], expected[name], atol=2e-5 * scale)


@pytest.mark.parametrize("sizes", [("auto", 128), (128, "auto")])
def test_a_size_of_the_style_is_a_number_in_every_table(tmp_path, sizes):
    axes = {"content": ("cat.jpg",), "style": ("cafe.jpg",), "seed": (0, 1, 2, 3), "style_size": sizes}
    run = make_run(tmp_path / "run", **axes, size="64").path
    with pytest.raises(SystemExit) as done:
        variance.main([str(run), "--no-floor"])
    assert done.value.code == 0
    px = [str(64 if size == "auto" else size) for size in sizes]
    lines = list(csv.DictReader((run / "variance.csv").read_text().splitlines()))
    assert list(dict.fromkeys(line["style_size"] for line in lines)) == px
    with h5py.File(run / "variance.h5") as file:
        assert file["48x64/style_size"][()].astype(str).tolist() == px
    assert str(run) in (run / "report.html").read_text()  # in the command that adds seeds
