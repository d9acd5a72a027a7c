"""Textures, which have no content, and inversions, which have no style."""

import csv
import itertools
import math
import tomllib

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from conftest import random_image
from PIL import Image

from jaxstyle.cell import objective
from jaxstyle.cell.knobs import knobs_of
from jaxstyle.cell.state import Targets
from jaxstyle.device.engine import Engine
from jaxstyle.device.loss_balance import Balances
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.metrics.build import score_run
from jaxstyle.plan.cells import find_twins, needs_balance, sweep_cells
from jaxstyle.plan.planner import make_plan
from jaxstyle.run.sweep import run_sweep
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.records import open_record
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import RunOptions, Sweep
from jaxstyle.spec.toml import to_toml
from jaxstyle.study.components import balanced
from jaxstyle.study.decompose import _is_kept
from jaxstyle.study.model import identity, setting_axes

SET = ("conv1_1", "pool1")
SIZE = (45, 61)


def cells_of(**settings):
    return sweep_cells(resolve(Sweep(**settings)))


def planned(cells, **settings):
    sweep = resolve(Sweep(**settings))
    shapes = {cell.shaped_by: SIZE for cell in cells}
    return sweep, make_plan(sweep, cells, shapes, platform="cpu", choose_width=lambda *_: 1).programs[0]


# --- losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lacks", ["content", "style"])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside others"])
def test_loss_and_gradient_without_a_picture_match_float64(narrow, lacks, beside):
    named = {"content": "/c.png", "style": "/s.png"}
    axes = {axis: (("none", path) if beside else ("none",)) if axis == lacks else (path,)
            for axis, path in named.items()}  # fmt: skip
    given = {**axes, "style_layers": ("+".join(SET),), "content_layer": ("conv2_1",), "beta": 3.0}
    given["alpha_beta"] = (1e-3,)
    sweep, program = planned(cells := cells_of(**given), **given)
    cell = cells[0]
    content, style, image = random_image(*SIZE, 1), random_image(70, 51, 2), random_image(*SIZE, 3)
    engine = Engine(narrow, winograd=True)
    kept = {
        "content": engine.target_rows(program, content, of_cells=True),
        "style": engine.target_rows(program, style),
        lacks: engine.blank_rows(program, lacks),
    }
    if not beside:  # what is not there is neither kept nor computed
        assert getattr(program, f"{lacks}_taps") == getattr(kept[lacks], lacks) == ()
        assert program.taps == (SET if lacks == "content" else ("conv2_1",))
    targets = jax.tree.map(
        lambda a: jnp.asarray(a)[None], Targets(kept["content"].content, kept["style"].style)
    )
    knobs = knobs_of(cell, program, sweep, content_row=0, style_row=0, extent=SIZE)
    network = engine.network(program)
    total, info = jax.jit(
        lambda params, knobs, targets, image: objective.total_loss(
            network.features, params, program, knobs, targets, image
        )
    )(network.params, knobs, targets, jnp.asarray(image, jnp.float32))
    gradient = engine.gradient(program, knobs, targets, image)
    weights = {"alpha": 0.0, "beta": 3.0} if lacks == "content" else {"alpha": 1.0, "beta": 0.0}
    equal = dict.fromkeys(SET, 0.5)
    expected, slope = oracle.loss_and_gradient(
        narrow, image, content, style, content_layer="conv2_1", style_weights=equal, **weights
    )
    there = "content" if lacks == "style" else "style"
    assert total == pytest.approx(expected["total"], rel=2e-5)
    assert getattr(info, f"loss_{there}") == pytest.approx(expected[there], rel=2e-5)
    assert getattr(info, f"loss_{lacks}") == 0
    assert np.linalg.norm(gradient - slope) < 1e-4 * np.linalg.norm(slope)


def test_layers_of_a_texture_are_balanced_by_their_own_gram_matrices(tmp_path, narrow):
    style = tmp_path / "style.png"
    Image.fromarray(random_image(40, 56, 2)).save(style)
    sweep = resolve(
        Sweep(content=("none",), style=(str(style),), size="56", style_weights="balanced",
              style_layers=("+".join(SET),))
    )  # fmt: skip
    (cell,) = cells = sweep_cells(sweep)
    assert needs_balance(cell)
    found = Balances(sweep, cells, Pictures(sweep, cells), Engine(narrow, winograd=False)).of(cell)
    grams = oracle.style_grams(narrow, random_image(40, 56, 2), SET, "avg")
    inverse = {name: 4 * len(a) ** 2 / (a**2).sum() for name, a in grams.items()}
    for name in SET:
        assert found.weights[name] == pytest.approx(inverse[name] / sum(inverse.values()), rel=1e-4)


# --- cells ----------------------------------------------------------------------------------------


def test_axes_without_a_meaning_make_no_cells_of_their_own():
    found = cells_of(
        content=("none", "/c"),
        style=("none", "/s"),
        alpha_beta=(1e-3, 1e-2),
        content_layer=("conv1_1", "conv2_1"),
        seed=(0, 1),
    )
    values = [(c.content, c.style, c.content_layer, c.alpha_beta, c.seed) for c in found]
    assert values[:2] == [("none", "/s", "conv1_1", 0.0, seed) for seed in (0, 1)]
    assert values[2:6] == [
        ("/c", "none", layer, math.inf, seed) for layer in ("conv1_1", "conv2_1") for seed in (0, 1)
    ]
    assert len(values) == 2 + 4 + 8
    assert found[0].taps == ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
    assert found[2].taps == ("conv1_1",)
    assert found[2].layer_weights == {}


def test_a_style_and_a_size_alone_are_a_texture(tmp_path):
    flags = {"style": ["s.png"], "size": "64"}
    assert assemble(flags, cwd=tmp_path).sweep.content == ("none",)
    with pytest.raises(JaxstyleError, match="no content image"):
        assemble({"style": ["s.png"]}, cwd=tmp_path)


@pytest.mark.parametrize(("size", "shape"), [("48", (48, 30)), ("40x32", (32, 40))])
def test_a_texture_has_the_shape_of_its_style_or_the_size_asked_for(save_image, size, shape):
    style = save_image("style.png", 64, 40)
    other = save_image("other.png", 33, 50)
    sweep = resolve(
        Sweep(content=("none",), style=(str(style),), init=("noise", "style", str(other)), size=size)
    )
    cells = sweep_cells(sweep)
    pictures = Pictures(sweep, cells)
    assert pictures.content == {}
    assert max(pictures.style[str(style), "auto"].shape[:2]) == int(size.split("x")[0])
    for cell in cells:
        assert pictures.shape(cell) == pictures.start(cell).shape[:2] == shape


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"content": ("none",), "style": ("none",)}, "style: none, and no content either"),
        ({"content": ("none",), "alpha_beta": ("0.1x",)}, "alpha_beta: 0.1x is a multiple of the balance"),
        ({"style": ("none",), "alpha_beta": ("2x",)}, "alpha_beta: 2x is a multiple of the balance"),
        ({"content": ("none",), "init": ("content",)}, "init: content: there is none"),
        ({"style": ("none",), "init": ("style",)}, "init: style: there is none"),
    ],
)
def test_what_needs_a_picture_that_is_not_there_is_refused(settings, why):
    with pytest.raises(JaxstyleError) as error:
        cells_of(**{"content": ("/c",), "style": ("/s",), **settings})
    assert str(error.value).startswith(why)


def test_a_study_of_seeds_takes_a_setting_that_its_balanced_part_kept():
    cells = cells_of(content=("none", "/c"), style=("/s",), alpha_beta=(1e-3, 1e-2), seed=(0, 1))
    axes = (*setting_axes(cells), "seed")
    design = balanced(axes, [identity(cell, axes) for cell in cells])
    kept = [cell for cell in cells if _is_kept(cell, axes, design)]
    assert [cell.content for cell in kept] == ["/c"] * 4
    assert {cell.alpha_beta for cell in kept} == {1e-3, 1e-2}


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A run with a texture, an inversion and a transfer."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, seed in (("c.png", 1), ("s.png", 2)):
        Image.fromarray(random_image(32, 40, seed)).save(folder / name)
    sweep = Sweep(
        content=("none", str(folder / "c.png")),
        style=("none", str(folder / "s.png")),
        content_layer=("conv1_2",),
        style_layers=("upto:pool1",),
        alpha_beta=(1e-2,),
        conv="plain",
        size="40",
        optimizer="adam",
        steps=(2,),
    )
    return run_sweep(sweep, RunOptions(out=str(folder / "run"), quiet=True)), sweep


def test_a_run_of_all_three_kinds_is_one_program_and_one_table(mixed):
    run, _ = mixed
    rows = list(csv.DictReader((run.path / "results.csv").read_text().splitlines()))
    kinds = [(row["content"] == "none", row["style"] == "none", row["alpha_beta"]) for row in rows]
    assert kinds == [(True, False, "0.0"), (False, True, "inf"), (False, False, "0.01")]
    equal = "conv1_1:0.5+pool1:0.5"
    assert [row["style_layer_weights"] for row in rows] == [equal, "", equal]
    texture, inversion, both = ({k: float(v) for k, v in row.items() if "loss_" in k} for row in rows)
    assert (texture["loss_content"], texture["loss_total"]) == (0, texture["loss_style"])
    assert (inversion["loss_style"], inversion["loss_total"]) == (0, inversion["loss_content"])
    assert both["loss_total"] == pytest.approx(1e-2 * both["loss_content"] + both["loss_style"], rel=1e-5)
    assert len(open_record(run.path).manifest["programs"]) == 1
    assert "style_layer_loss" not in run.losses(1)
    assert {"conv1_1", "pool1"} <= set(run.losses(0))


def test_it_is_resumed_and_scored_where_its_pictures_allow_it(mixed):
    run, sweep = mixed
    again = run_sweep(sweep, RunOptions(out=str(run.path), resume=True, quiet=True))
    assert len(again.rows) == 3
    with RunDirectory(run.path) as held:
        scored = score_run(held).scored
    assert [{n for n, v in scored[i].scores.items() if v is None} for i in range(3)] == [
        {"content_distance", "periodicity"},
        {"style_distance", "noise", "periodicity", "copy"},
        set(),
    ]


def test_a_run_of_inversions_alone_has_no_style_layers(save_image, tmp_path):
    content = str(save_image("c.png", 32, 32))
    sweep = Sweep(content=(content,), style=("none",), content_layer=("conv1_1",), size="32",
                  optimizer="adam", steps=(2,), seed=("0:2",))  # fmt: skip
    run = run_sweep(sweep, RunOptions(out=str(tmp_path / "run"), quiet=True))
    (program,) = open_record(run.path).manifest["programs"]
    assert program["taps"] == ["conv1_1"]
    with h5py.File(run.path / "results.h5") as file:
        assert file["32x32/style_layer_loss"].shape == (2, 3, 0)
    run_sweep(sweep, RunOptions(out=str(run.path), resume=True, quiet=True))
    assert set(run.losses(1)) == {"step", "loss_total", "loss_content", "loss_style"}


# --- axes that were settings ----------------------------------------------------------------------

VALUES = {"style_size": (32, 40), "noise_std": (1.0, 30.0), "tv_weight": (0.0, 0.5)}


def results_of(run, axes=VALUES):
    """Pictures and losses of a run's cells, by their values on some axes."""
    record = open_record(run.path)
    return {
        tuple(getattr(record.cells[number], axis) for axis in axes): (
            part.image[i].tobytes(),
            part.curves["loss_total"][i].tobytes(),
        )
        for part in record.chunks()
        for i, number in enumerate(part.cell)
    }


def test_several_values_of_a_former_setting_give_the_bytes_of_runs_of_their_own(save_image, tmp_path):
    given = {
        "content": (str(save_image("c.png", 32, 40, 1)),),
        "style": (str(save_image("s.png", 48, 56, 2)),),
        "content_layer": ("conv1_2",),
        "style_layers": ("upto:pool1",),
        "conv": "plain",
        "size": "40",
        "optimizer": "adam",
        "steps": (2,),
    }

    def run(name, extend=False, **own):
        place = RunOptions(out=str(tmp_path / name), quiet=True, extend=extend)
        return run_sweep(Sweep(**{**given, **own}), place)

    together = run("together", **VALUES)
    found = results_of(together)
    assert list(found) == list(itertools.product(*VALUES.values()))  # the last is the fastest
    assert len(set(found.values())) == 8
    rows = list(csv.DictReader((together.path / "results.csv").read_text().splitlines()))
    assert [rows[5][axis] for axis in VALUES] == ["40", "1.0", "0.5"]
    alone = run("alone", style_size=32, noise_std=30.0, tv_weight=0.5)
    assert results_of(alone) == {(32, 30.0, 0.5): found[32, 30.0, 0.5]}
    # With one value each they are settings still: in no table, and as numbers in the spec.
    assert not set(VALUES) & set((alone.path / "results.csv").read_text().splitlines()[0].split(","))
    assert "tv_weight = 0.5\n" in (alone.path / "spec.toml").read_text()
    before = (alone.path / "chunks/000000.h5").read_bytes()
    grown = run("alone", extend=True, **{**VALUES, "style_size": (32,)})
    assert {key: value for key, value in found.items() if key[0] == 32} == results_of(grown)
    assert (alone.path / "chunks/000000.h5").read_bytes() == before


LOOKS = {
    "pool": ("avg", "max"),
    "padding": ("zeros", "circular"),
    "style_weights": ("equal", "balanced"),
    "style_loss": ("gram", "moments"),
    "clamp": (False, True),
}


MET = (
    ("avg", "zeros", "equal", "gram", False),
    ("max", "circular", "balanced", "moments", True),
    ("avg", "circular", "balanced", "gram", False),
    ("avg", "circular", "balanced", "gram", True),
    ("max", "zeros", "equal", "gram", True),
)
"""Looks in which every axis has both of its values."""


def test_cells_of_several_looks_are_those_of_runs_of_their_own(save_image, tmp_path):
    given = {
        "content": (str(save_image("c.png", 32, 48, 1)),),
        "style": (str(save_image("s.png", 48, 56, 2)),),
        "content_layer": ("conv2_1",),
        "style_layers": ("conv1_1+conv2_1",),
        "alpha_beta": ("0.1x",),
        "conv": "plain",
        "size": "48",
        "optimizer": "adam",
        "learning_rate": (150.0,),  # pixels leave their range where nothing keeps them in it
        "steps": (2,),
    }
    grid = tuple({axis: (value,) for axis, value in zip(LOOKS, of, strict=True)} for of in MET)

    def run(name, extend=False, **own):
        place = RunOptions(out=str(tmp_path / name), quiet=True, extend=extend)
        return run_sweep(Sweep(**{**given, **own}), place)

    together = run("together", grid=grid)
    found = results_of(together, LOOKS)
    assert list(found) == list(MET)
    assert len(set(found.values())) == len(MET)
    rows = list(csv.DictReader((together.path / "results.csv").read_text().splitlines()))
    assert [tuple(row[axis] for axis in LOOKS) for row in rows] == [tuple(map(str, of)) for of in MET]
    # 1x is the balance of each look: of its pooling, its padding, its weights and its loss.
    assert len({row["alpha_beta"] for row in rows}) == len({of[:4] for of in MET})
    for of in MET[1:3]:
        alone = run(f"alone-{of[0]}", **dict(zip(LOOKS, of, strict=True)))
        assert results_of(alone, LOOKS) == {of: found[of]}
        assert not set(LOOKS) & set((alone.path / "results.csv").read_text().splitlines()[0].split(","))
        assert f'pool = "{of[0]}"\n' in (alone.path / "spec.toml").read_text()
        assert open_record(alone.path).sweep.clamp == (of[4],)
    spec = assemble({"spec": str(together.path / "spec.toml")}).sweep
    again = run_sweep(spec, RunOptions(out=str(tmp_path / "again"), quiet=True))
    assert results_of(again, LOOKS) == found
    before = (tmp_path / "alone-max/chunks/000000.h5").read_bytes()
    grown = run("alone-max", extend=True, grid=grid)
    assert results_of(grown, LOOKS) == found
    assert (grown.path / "chunks/000000.h5").read_bytes() == before


def test_poolings_that_need_a_normalised_network_each_are_refused():
    named = {"content": ("a.png",), "style": ("b.png",), "network": "normalised"}
    with pytest.raises(JaxstyleError, match=r"^pool: avg and max have different normalised networks; give"):
        resolve(Sweep(**named, pool=("avg", "max")))
    assert resolve(Sweep(**named, pool=("avg", "blur"))).pool == ("avg", "blur")
    with pytest.raises(JaxstyleError, match=r"^pool: max and l2 have"):
        resolve(Sweep(**named, grid=({"pool": ["max"]}, {"pool": "l2"})))


def test_a_balance_is_that_of_the_size_of_its_style(save_image):
    paths = {"content": str(save_image("c.png", 32, 40, 1)), "style": str(save_image("s.png", 48, 56, 2))}
    measured = {
        **paths,
        "content_layer": "conv1_1",
        "style_layers": "conv1_1",
        "weights": {"conv1_1": 1.0},
    }
    given = {axis: (path,) for axis, path in paths.items()}
    given |= {"content_layer": ("conv1_1",), "style_layers": ("conv1_1",), "alpha_beta": ("1x",)}
    one = resolve(Sweep(**given, style_size=64, balance=({**measured, "alpha_beta": 0.5},)))
    assert [cell.alpha_beta for cell in sweep_cells(one)] == [0.5]
    tables = tuple(
        {**measured, "alpha_beta": ratio, "style_size": size} for ratio, size in ((2.0, "auto"), (3.0, 64))
    )
    two = resolve(Sweep(**given, style_size=("auto", 64), balance=tables))
    assert [cell.alpha_beta for cell in sweep_cells(two)] == [2.0, 3.0]
    for sweep in (one, two):
        spec = tomllib.loads(to_toml(sweep, {}))
        again = resolve(Sweep(**{name: spec[name] for name in (*given, "style_size", "balance")}))
        assert sweep_cells(again) == sweep_cells(sweep)


def test_noise_of_another_strength_makes_no_other_picture_without_noise():
    sweep = resolve(Sweep(content=("/c",), style=("/s",), init=("content",), noise_std=(1.0, 2.0)))
    assert find_twins(sweep, sweep_cells(sweep)) == {1: 0}
