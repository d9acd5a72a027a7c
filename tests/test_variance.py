"""The seed study of a real run, end to end: its files, their numbers, its floor, and its errors."""

import contextlib
import csv
import dataclasses
import io
import itertools
import json
import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
from conftest import EXAMPLES, ROOT, random_image, run_forked, run_python
from made_runs import make_run
from PIL import Image
from test_store import fill, result

import jaxstyle
from jaxstyle import report, sweep, variance
from jaxstyle.console import progress
from jaxstyle.plan.cells import Cell
from jaxstyle.run.sweep import run_sweep
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.records import open_record
from jaxstyle.rundir.results_h5 import is_current, merge
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import RunOptions, Sweep
from jaxstyle.study import components, distances, figures, model, spread, stats
from jaxstyle.study.model import Setting, Spread

SMALL = (
    "--size", "32", "--optimizer", "adam", "--style-layers", "conv1_1+conv2_1", "--style-weights", "equal",
    "--content-layer", "conv2_2", "--conv", "plain", "--quiet",
)  # fmt: skip
"""Shallow and plain, so that three programs compile in seconds."""
MADE = {"shape": (24, 32), "conv": "plain"}
"""Of runs that were not computed, so that the network of their pictures is one compiled program."""


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
def said(plain_run):
    """The lines of a study with a floor, which tells every change of its progress."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(progress, "PLAIN_EVERY_S", 0.0)
        assert command(variance.main, plain_run, "--floor-steps", "4") == 0
    return out.getvalue().splitlines()


@pytest.fixture(scope="module")
def studied(plain_run, said):
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
    assert set(page) == {"title", "cells", "intro", "blocks"}
    assert page["cells"] == 12
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
    again = "from jaxstyle import variance; variance.main()"  # with programs that this process compiled
    done = run_forked("-c", again, studied, "--floor-steps", "4", check=True, cwd=ROOT)
    assert not done.stderr
    assert {name: (studied / name).read_bytes() for name in names} == before
    assert not (studied / "maps" / "spread-09.png").exists()
    assert ((studied / "results.csv").read_bytes(), (studied / "results.h5").read_bytes()) == results


def test_a_study_says_how_far_it_and_its_floor_are(studied, said):
    told = [re.sub(r"[0-9.]+ (?=[a-z-]+/s)", "# ", line.partition("  ETA ")[0]) for line in said]
    assert told[:3] == [
        " 50 %  1/2 settings  # settings/s",
        "100 %  2/2 settings  # settings/s",
        "computing 2 cells 5 times again, for the numerical floor",
    ]
    rates = [line for line in told if line.endswith("/10 cells  # steps/s  # image-steps/s")]
    shares = [int(line.partition(" %")[0]) for line in rates]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert {20, 40, 60, 80} <= {*shares}
    assert said[-1] == f"page: {studied / 'report.html'}"


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
        ({"init": ("content",)}, (), "no cell starts from noise; run it with --init noise --seed 0:8"),
        ({"noise_std": (0.0,)}, (), "its noise is 0; run it with --noise-std 1 --seed 0:8"),
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
    fill(tmp_path / "run", [result(range(6), diverged=(5,))], seed=(0, 1, 2), conv="plain")
    assert command(variance.main, tmp_path / "run") == 1
    said = capsys.readouterr().out
    assert "1 cell diverged" in said
    assert "Not everything could be computed again: /a b.png" in said
    page = (tmp_path / "run" / "variance.json").read_text()
    assert "Not everything could be computed again: /a b.png" in page
    assert "a balanced part of it was used, without seed 2" in page
    assert "no intervals" in page
    (line,) = lines(tmp_path / "run", content="/c.png", steps="5", quantity="loss_total")
    assert (line["seeds"], line["diverged"], line["mean_low"]) == ("2", "1", "")
    assert lines(tmp_path / "run", content="a b.png")


def test_ratios_of_other_seeds_are_weighed_by_as_many_pairs(tmp_path, monkeypatch):
    """Each setting's own seeds choose its pairs, of which those of other seeds may have none in common."""
    run = tmp_path / "run"
    monkeypatch.setattr(spread, "MAX_PAIRS", 3)
    given = {"content": ("cat.jpg",), "style": ("glass.jpg",), "alpha_beta": (0.1, 1e-4)}
    make_run(run, **given, seed=tuple(range(9)), diverged=(1,), **MADE)
    assert command(variance.main, run, "--no-floor") == 1
    with h5py.File(run / "results.h5") as file:
        group = file["24x32"]
        keys = list(zip(map(float, group["alpha_beta"]), map(int, group["seed"]), strict=True))
        images = dict(zip(keys, group["image"][:, -1].astype(float), strict=True))
        _, lost = keys[list(group["cell"]).index(1)]
    seeds = [seed for seed in range(9) if seed != lost]
    pairs = stats.chosen_pairs(len(seeds), 3)
    expected = np.mean([
        np.sqrt(np.mean((images[ratio, seeds[i]] - images[ratio, seeds[j]]) ** 2))
        for ratio in (0.1, 1e-4) for i, j in pairs
    ])  # fmt: skip
    with h5py.File(run / "variance.h5") as file:
        at = list(file["alpha_beta/measure"]).index(b"rmse")
        assert file["alpha_beta/between_seeds"][0, at] == pytest.approx(expected, rel=1e-12)


def test_a_study_of_no_loss_at_all_has_a_page(inputs, tmp_path):
    run = tmp_path / "run"
    code = command(
        sweep.main, "--content", "none", "--style", inputs / "s.png", "--size", "32", "--conv", "plain",
        "--style-layers", "conv1_1:0", "--seed", "0:2", "--steps", "2", "--out", run, "--quiet",
    )  # fmt: skip
    assert code == 0
    assert command(variance.main, run, "--no-floor") == 0
    assert "Keeping the best" not in (run / "variance.json").read_text()


@pytest.mark.parametrize(
    ("steps", "traced", "expected"),
    [
        ((60,), 3, r"is [^ ]+ %? ?at half the steps and "),  # curves of steps 0, 30 and 60
        ((60,), 4, r"is [^ ]+ %? ?at step 20 and "),
        ((60,), 2, r"is [^ ]+ %? ?at the end, step 60"),
    ],
)
def test_a_study_names_the_step_whose_spread_it_tells(tmp_path, steps, traced, expected):
    axes = {"content": ("cat.jpg",), "style": ("glass.jpg",), "seed": (0, 1, 2)}
    run = make_run(tmp_path / "run", **axes, steps=steps, traced=traced, **MADE).path
    assert command(variance.main, run, "--no-floor") == 0
    text = (run / "variance.json").read_text()
    assert re.search(f"CV of the total loss {expected}", text), text


def test_no_verdict_is_given_without_an_interval_and_none_of_ratios_that_change_nothing(tmp_path):
    axes = {"content": ("cat.jpg",), "style": ("glass.jpg",), "seed": (0, 1), "alpha_beta": (0.1, 1e-4)}
    run = make_run(tmp_path / "two", **axes, **MADE).path
    assert command(variance.main, run, "--no-floor") == 0
    page = (run / "variance.json").read_text()
    assert "without an interval: that takes more seeds" in page
    assert "neither clearly outweighs" not in page
    assert "intervals are from resampled seeds" not in page

    same = make_run(tmp_path / "same", **axes | {"seed": (0, 1, 2)}, **MADE)
    with h5py.File(run.parent / "same" / "results.h5", "r+") as file:
        group = file["24x32"]
        seeds, images = group["seed"][()].tolist(), group["image"][()]
        first = [seeds.index(seed) for seed in seeds]
        group["image"][...] = images[first]
    assert command(variance.main, same.path, "--no-floor") == 0
    page = json.loads((same.path / "variance.json").read_text())
    said = json.dumps(page, ensure_ascii=False)
    assert "Two values of α/β at one seed give the same pictures." in said
    assert "one seed 0: α/β changes nothing" in said


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """A run of three seeds with curves of steps 0, 30 and 60 and pictures of 20, 30 and 60; its study."""
    run = tmp_path_factory.mktemp("sparse") / "run"
    make_run(
        run,
        content=("cat.jpg",),
        style=("glass.jpg",),
        seed=(0, 1, 2),
        steps=(20, 30, 60),
        traced=3,
        **MADE,
    )
    (run / "maps" / "mine").mkdir(parents=True)
    (run / "maps" / "notes.txt").write_text("kept")
    (run / "maps" / "spread-07.png").write_text("left by a study of more settings")
    assert command(variance.main, run, "--no-floor") == 0
    return run


def test_a_snapshot_that_no_curve_has_gets_no_losses(sparse):
    assert {row["steps"] for row in lines(sparse, quantity="loss_total")} == {"30", "60"}
    assert {row["steps"] for row in lines(sparse, quantity="rmse")} == {"20", "30", "60"}
    assert '"not traced → ' in (sparse / "variance.json").read_text()


def test_a_study_removes_its_own_figures_and_nothing_else(sparse):
    there = {path.name for path in (sparse / "maps").iterdir()}
    assert {"mine", "notes.txt", "spread.png", "curves.svg", "convergence.svg"} <= there
    assert "spread-07.png" not in there
    assert all(figures.OURS.fullmatch(name) for name in there - {"mine", "notes.txt"})


def test_a_study_of_fewer_cells_than_the_run_has_says_so(sparse, tmp_path):
    run = shutil.copytree(sparse, tmp_path / "run")
    assert command(report.main, run) == 0
    assert "has 3 now" not in (run / "report.html").read_text()
    found = json.loads((run / "variance.json").read_text())
    (run / "variance.json").write_text(json.dumps(found | {"cells": 2}))
    assert command(report.main, run) == 0
    assert "This is a study of 2 cells, and the run has 3 now;" in (run / "report.html").read_text()


def test_a_damaged_table_of_pictures_is_one_line_with_the_way_out(sparse, tmp_path, capsys):
    run = shutil.copytree(sparse, tmp_path / "run")
    with (run / "results.h5").open("r+b") as file:
        file.truncate(3000)
    assert command(variance.main, run, "--no-floor") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{run / 'results.h5'}: cannot be read (" in line
    assert f"; python -m jaxstyle.report {run} makes it" in line
    with pytest.raises(JaxstyleError, match=r"results\.h5: cannot be read"):
        jaxstyle.open_run(run).losses(0)
    assert command(report.main, run) == 0
    assert command(variance.main, run, "--no-floor") == 0


def test_files_of_one_name_are_told_apart_by_their_folders():
    cells = [
        Cell(i, f"/{folder}/x/pic.png", "/s.png", "conv4_2", "conv1_1", "noise", 1.0, 1.0, seed)
        for i, (folder, seed) in enumerate(itertools.product("ab", (0, 1)))
    ]
    assert model.labels(cells, ("content", "seed")) == [
        f"{folder}/x/pic.png, seed {seed}" for folder in "ab" for seed in (0, 1)
    ]
    assert model.labels(cells[:2], ("content", "seed")) == ["pic, seed 0", "pic, seed 1"]


def test_styles_of_one_name_are_told_apart():
    sources = [("/d/s.png", "auto"), ("/d/s.npz", "auto"), ("/e/s.png", 64)]
    assert spread._style_titles(sources) == ["d/s.png", "d/s.npz", "e/s.png"]
    assert spread._style_titles([("/d/s.png", 64), ("/d/s.png", 32)]) == ["s, 64 px", "s, 32 px"]
    assert spread._style_titles([("/d/s.png", 64), ("/d/s.png", "auto")]) == ["s, 64 px", "s, size auto"]


def test_a_ratio_that_shares_too_few_seeds_is_left_out_of_the_comparison():
    def spread_with(*seeds):
        one = _spread("a", 0, 1)
        return dataclasses.replace(one, setting=dataclasses.replace(one.setting, seeds=seeds))

    most = [spread_with(0, 1, 2), spread_with(0, 1, 2, 3), spread_with(5, 6)]
    assert [id(of) for of in spread._sharing_seeds(most)] == [id(of) for of in most[:2]]
    assert len(spread._sharing_seeds(most[:2])) == 2
    assert len(spread._sharing_seeds([spread_with(0, 1), spread_with(2, 3)])) == 1


def test_there_are_colours_for_any_number_of_factors():
    found = figures._component_colours([*"abcdefghij", components.SEED])
    assert len(found) == 11
    assert len({found[name] for name in "abcdefg"} | {found[components.SEED]}) == 8


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
    run = make_run(tmp_path / "run", **axes, **MADE, size="64").path
    with pytest.raises(SystemExit) as done:
        variance.main([str(run), "--no-floor"])
    assert done.value.code == 0
    px = [str(64 if size == "auto" else size) for size in sizes]
    lines = list(csv.DictReader((run / "variance.csv").read_text().splitlines()))
    assert list(dict.fromkeys(line["style_size"] for line in lines)) == px
    with h5py.File(run / "variance.h5") as file:
        assert file["24x32/style_size"][()].astype(str).tolist() == px
    assert str(run) in (run / "report.html").read_text()  # in the command that adds seeds


def test_a_study_of_a_run_that_goes_on_says_so_and_is_told_apart_when_it_is_done(tmp_path, capsys):
    about = {"content": ("cat.jpg",), "style": ("glass.jpg",), "seed": ("0:4",)}
    run = make_run(tmp_path / "run", **about, **MADE, per_chunk=2).path
    os.rename(run / "chunks" / "000001.h5", tmp_path / "later.h5")
    assert command(report.main, run) == 0  # which leaves the rows of two cells
    assert command(variance.main, run, "--no-floor") == 0
    assert "The run is not finished: 2 of its 4 cells have been studied." in capsys.readouterr().out
    assert "This is a study of" not in (run / "report.html").read_text()
    os.rename(tmp_path / "later.h5", run / "chunks" / "000001.h5")
    assert command(report.main, run) == 0
    assert "This is a study of 2 cells, and the run has 4 now;" in (run / "report.html").read_text()
    assert command(variance.main, run, "--no-floor") == 0
    assert "not finished" not in capsys.readouterr().out
    assert "This is a study of" not in (run / "report.html").read_text()


def test_results_that_lack_cells_are_made_again_whatever_their_date(tmp_path):
    about = {"content": ("cat.jpg",), "style": ("glass.jpg",), "seed": ("0:4",)}
    run = make_run(tmp_path / "run", **about, **MADE, per_chunk=2).path
    os.rename(run / "chunks" / "000001.h5", tmp_path / "later.h5")
    assert command(report.main, run) == 0
    os.rename(tmp_path / "later.h5", run / "chunks" / "000001.h5")
    os.utime(run / "results.h5")  # newer than any chunk
    assert not is_current(open_record(run))
    assert command(variance.main, run, "--no-floor") == 0
    assert is_current(open_record(run))
    assert {row["seeds"] for row in lines(run, quantity="rmse")} == {"4"}


def test_a_loss_that_a_kind_of_picture_does_not_have_is_in_no_study(tmp_path, capsys):
    """Textures have no content loss: a seed does not change it least."""
    files = {"style": (str(EXAMPLES / "glass.jpg"),), "content": ("none",), "seed": ("0:2",)}
    about = {"style_layers": ("conv1_1+pool1",), "size": "32", "steps": (3,), "pyramid": 0}
    about |= {"optimizer": "adam", "conv": "plain"}
    run = tmp_path / "run"
    run_sweep(Sweep(**files, **about), RunOptions(out=str(run), quiet=True))
    assert command(variance.main, run, "--no-floor") == 0
    assert not lines(run, quantity="loss_content")
    assert lines(run, quantity="loss_style")
    found = json.loads((run / "variance.json").read_text())
    (block,) = (block for block in found["blocks"] if block["heading"] == "Every term of the loss")
    assert "the content loss" not in block["text"][0]
