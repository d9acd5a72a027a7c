"""Settings: what is accepted, what is refused and how, and which source wins."""

import os
import re
import tomllib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxstyle.console.parsing import flag_names, parse
from jaxstyle.console.setting_flags import helps, with_added
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.nominal_rates import COMPILE_SECONDS, NOMINAL_FLOPS
from jaxstyle.plan.planner import make_plan
from jaxstyle.run.one_cell import single_sweep
from jaxstyle.spec import defaults, values
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.options import check_options
from jaxstyle.spec.presets import PRESETS, preset_heads
from jaxstyle.spec.resolve import grids_of, resolve
from jaxstyle.spec.retired import RETIRED
from jaxstyle.spec.settings import AXES, SWEEP_KEYS, RunOptions, Sweep
from jaxstyle.spec.toml import to_toml
from jaxstyle.vgg import layers

IMAGES = {"content": ("c.png",), "style": ("s.png",)}


def test_defaults_are_the_contracts():
    sweep = resolve(Sweep(**IMAGES))
    assert sweep.content_layer == ("conv4_2",)
    assert sweep.style_layers == ("conv1_1+conv2_1+conv3_1+conv4_1+conv5_1",)
    assert (sweep.init, sweep.learning_rate) == (("noise",), (10.0,))
    assert (sweep.seed, sweep.size, sweep.pool) == ((0,), "256", ("avg",))
    assert (sweep.noise_std, sweep.beta, sweep.tv_weight, sweep.keep) == ((1.0,), 1.0, (0.0,), "last")


def _look(**named):
    sweep = resolve(Sweep(**IMAGES, **named))
    return {name: getattr(sweep, name) for name in defaults.PAPER}, sweep.balance_optional


@pytest.mark.parametrize(
    "named", [{}, {"pool": "avg"}, {"clamp": None}, {"style_weights": "auto", "padding": "auto"}]
)
def test_who_names_nothing_of_the_look_gets_what_came_out_best(named):
    assert _look(**named) == (defaults.CHOSEN, True)


@pytest.mark.parametrize(
    "named",
    [
        {"alpha_beta": (1e-3,)},
        {"alpha_beta": ("0.1x", 1e-2)},
        {"style_weights": ("equal",)},
        {"style_weights": ("equal", "balanced")},
        {"style_weights": ("balanced",)},
        {"network": "normalised"},
        {"pool": ("max",)},
        {"pool": ("avg", "max")},
        {"padding": ("circular",)},
        {"clamp": (True,)},
        {"clamp": (False,)},
        {"clamp": (True, False)},
        {"padding": ("zeros",)},
        {"style_loss": ("moments",)},
    ],
)
def test_who_names_one_of_them_gets_the_papers_formulas_for_the_rest(named):
    assert _look(**named) == ({**defaults.PAPER, **named}, False)


@pytest.mark.parametrize(("given", "value"), [("--clamp", True), ("--no-clamp", False)])
def test_a_switch_has_both_forms_and_is_named_by_either(given, value):
    parsed = parse(with_added(), [given], "jaxstyle.sweep")
    assert (parsed.named, parsed.value.clamp) == (("clamp",), value)
    assert _look(clamp=value)[0]["style_weights"] == ("equal",)
    with pytest.raises(JaxstyleError, match=r"^--clamp: is given twice"):
        parse(with_added(), ["--clamp", "--no-clamp"], "jaxstyle.sweep")


@pytest.mark.parametrize(("given", "value"), [("--compile-cache", False), ("--no-compile-cache", True)])
def test_a_switch_whose_name_begins_with_no_has_both_forms_too(given, value):
    parsed = parse(RunOptions, [given, "--devices", "1"], "jaxstyle.sweep")
    assert (parsed.named, parsed.value) == (
        ("no_compile_cache", "devices"),
        RunOptions(no_compile_cache=value, devices=1),
    )
    assert {"--lock", "--no-lock"} <= set(flag_names(RunOptions))
    assert "--no-no-lock" not in flag_names(RunOptions)
    with pytest.raises(JaxstyleError, match="Unrecognized options: 7"):
        parse(RunOptions, ["--devices", "1", "--lock", "7"], "jaxstyle.sweep")


@pytest.mark.parametrize("table", [{"alpha_beta": [1e-2]}, {"pool": ["avg", "max"]}, {"padding": "zeros"}])
def test_one_of_them_in_a_grid_is_named_too(table):
    assert _look(grid=(table,)) == (defaults.PAPER, False)


@pytest.mark.parametrize(
    ("named", "optimizer", "memory", "pyramid", "steps"),
    [
        ({}, "lbfgs", 30, 2, (250,)),
        ({"init": ("content",)}, "lbfgs", 30, 2, (250,)),
        ({"optimizer": "lbfgs", "lbfgs_memory": 5, "pyramid": 0, "steps": (9,)}, "lbfgs", 5, 0, (9,)),
        ({"lbfgs_memory": 5, "learning_rate": (2.0,)}, "lbfgs", 5, 2, (250,)),
        ({"optimizer": "lbfgs", "learning_rate": (2.0,)}, "lbfgs", 30, 2, (250,)),
        ({"optimizer": "adam"}, "adam", None, 0, (500,)),
        ({"optimizer": "adam", "pyramid": 3}, "adam", None, 3, (500,)),
        ({"learning_rate": (2.0,)}, "adam", None, 0, (500,)),
        ({"grid": ({"learning_rate": [2.0]},)}, "adam", None, 0, (500,)),
        ({"schedule": "decay", "steps": (9,)}, "adam", None, 0, (9,)),
    ],
)
def test_the_optimizer_and_what_its_name_decides(named, optimizer, memory, pyramid, steps):
    sweep = resolve(Sweep(**IMAGES, **named))
    assert (sweep.optimizer, sweep.lbfgs_memory, sweep.pyramid, sweep.steps) == (
        optimizer,
        memory,
        pyramid,
        steps,
    )
    assert resolve(sweep) == sweep


# The deck's experiments, by preset: steps, alpha/beta, layers, starts, seeds.
FIVE = "conv1_1+conv2_1+conv3_1+conv4_1+conv5_1"
DECK = {
    "tradeoff": {"steps": (3000,), "alpha_beta": (1e-1, 1e-2, 1e-3, 1e-4), "init": ("noise",)},
    "content-layer": {"steps": (3000,), "content_layer": ("conv2_2", "conv4_2"), "alpha_beta": (1e-3,)},
    "style-layer": {"steps": (3000,), "alpha_beta": (1e-3,), "content_layer": ("conv4_2",)},
    "initialisation": {"steps": (3000,), "init": ("noise", "content")},
    "pathological": {"steps": (3000, 10000), "alpha_beta": (1e-3,)},
    "stochastic": {"steps": (3000,), "alpha_beta": (1e-3,), "seed": (0, 1, 2, 3)},
    "photorealistic": {"steps": (5000,), "init": ("recoloured",)},
    "deck": {"steps": (3000,)},
}


def test_the_ladder_of_textures_and_the_inversions_are_those_of_the_papers():
    ladder = sweep_cells(assemble({"preset": "gatys2015"}).sweep)
    assert [cell.taps for cell in ladder[:5]] == [
        ("conv1_1", *(f"pool{n}" for n in range(1, deepest + 1))) for deepest in range(5)
    ]
    assert {cell.content for cell in ladder} == {values.NONE}
    inversions = sweep_cells(assemble({"preset": "inversion"}).sweep)
    assert [cell.taps for cell in inversions] == [(f"conv{block}_1",) for block in range(1, 6)]


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.toml")))
def test_a_preset_names_images_that_are_there_and_takes_overrides(name):
    assembled = assemble({"preset": name, "content": ["a.png"], "size": "64", "steps": [7]})
    assert assembled.name == name
    own = assemble({"preset": name}).sweep
    inits = [init for table in grids_of(own) for init in table["init"] if "/" in init]
    named = (path for path in (*own.content, *own.style) if path != values.NONE)
    assert all(Path(path).is_file() for path in (*named, *inits))
    sweep = assembled.sweep
    assert (sweep.content, sweep.size, sweep.steps) == ((os.path.abspath("a.png"),), "64", (7,))
    assert all(table["content"] == sweep.content for table in grids_of(sweep))


@pytest.mark.parametrize("name", sorted(DECK))
def test_a_preset_of_the_deck_is_its_experiment_by_plain_adam(name):
    sweep = assemble({"preset": name}).sweep
    assert (sweep.optimizer, sweep.schedule, sweep.pyramid, sweep.keep) == ("adam", "constant", 0, "last")
    assert {key: getattr(sweep, key) for key in DECK[name]} == DECK[name]
    twin = assemble({"preset": name, "fast": True}).sweep
    assert (twin.optimizer, twin.pyramid) == ("lbfgs", 2)
    assert twin.steps == tuple(n // 4 for n in sweep.steps)
    assert [getattr(twin, a) for a in AXES] == [getattr(sweep, a) for a in AXES]


def test_the_deck_as_one_run_is_the_union_of_its_experiments():
    parts = ("tradeoff", "content-layer", "style-layer", "initialisation", "stochastic")

    def combinations(name):
        return {
            (*(getattr(cell, axis) for axis in AXES[:4]), cell.init, cell.alpha_beta, cell.seed)
            for cell in sweep_cells(assemble({"preset": name}).sweep)
        }

    assert combinations("deck") == set.union(*map(combinations, parts))


def test_style_layers_are_single_ones_and_the_papers_growing_sets():
    sets = assemble({"preset": "style-layer"}).sweep.style_layers
    assert {"conv2_1", "conv4_1", "conv1_1", FIVE} <= set(sets)
    grown = [text for text in sets if FIVE.startswith(text)]
    assert [text.count("+") for text in grown] == [0, 1, 2, 3, 4]


def test_a_twin_has_the_stages_that_are_named_with_it(tmp_path):
    images = {"content": ["/c.png"], "style": ["/s.png"]}
    (tmp_path / "adam.toml").write_text('optimizer = "adam"\nsteps = 40\npyramid = 0\n')
    by_spec = {"spec": str(tmp_path / "adam.toml"), "fast": True, **images}
    assert assemble(by_spec).sweep.pyramid == 2
    assert assemble(by_spec | {"pyramid": 0}).sweep.pyramid == 0
    assert assemble(images | {"optimizer": "adam", "fast": True, "pyramid": 1}).sweep.pyramid == 1


def test_fast_makes_the_twin_of_a_sweep_by_adam():
    twin = resolve(Sweep(**IMAGES, optimizer="adam", steps=(3000, 10000), fast=True))
    assert (twin.optimizer, twin.pyramid, twin.steps) == ("lbfgs", 2, (750, 2500))
    assert twin == resolve(Sweep(**IMAGES, optimizer="lbfgs", steps=(750, 2500)))
    assert resolve(Sweep(**IMAGES, optimizer="adam", steps=("400",), fast=True)).steps == (100,)
    rated = Sweep(**IMAGES, steps=(10,), schedule="decay", grid=({"learning_rate": [2.0]},), fast=True)
    assert resolve(rated).grid == ({},)
    assert (resolve(rated).learning_rate, resolve(rated).steps) == ((10.0,), (3,))


WRONG = {
    "infinite": ({"learning_rate": (float("inf"),)}, "learning_rate: inf is not finite"),
    "product beyond float32": ({"alpha_beta": (1e30,), "beta": 1e10}, "alpha_beta: 1e+30 x beta"),
    "huge seed": ({"seed": (10**20,)}, "seed: 100000000000000000000 is out of range"),
    "a seed twice": ({"seed": ("0:4", 3)}, "seed: 3 is given twice; give each value once"),
    "negative layer weight": ({"style_layers": ("conv1_1:-2",)}, "-2 is out of range"),
    "precision": ({"precision": "f16"}, "precision: 'f16' is not known; use f32 or tf32 or bf16"),
    "conv": ({"conv": "fft"}, "conv: 'fft' is not known; use auto or plain"),
    "canvas": ({"canvas": "on"}, "canvas: 'on' is not known; use auto or off"),
    "optimizer": ({"optimizer": "sgd"}, "optimizer: 'sgd' is not known; use auto or adam or lbfgs"),
    "memory without L-BFGS": (
        {"optimizer": "adam", "lbfgs_memory": 5},
        "lbfgs_memory: adam does not have it",
    ),
    "no memory": ({"lbfgs_memory": 0}, "lbfgs_memory: 0 is out of range; it must be 1 to 200"),
    "decay without Adam": ({"optimizer": "lbfgs", "schedule": "decay"}, "schedule: decay is for Adam"),
    "schedule": ({"schedule": "cosine"}, "schedule: 'cosine' is not known; use constant or decay"),
    "pyramid": ({"pyramid": -1}, "pyramid: -1 is out of range; it must be 0 to 8"),
    "fast lbfgs": ({"fast": True}, "fast: is for sweeps with adam"),
    "fast steps": (
        {"optimizer": "adam", "fast": True, "steps": (1, 2, 9)},
        "steps: 1, 2, 9 are 1, 1, 3 steps of the twin",
    ),
    "fast rates": ({"fast": True, "learning_rate": (1.0, 2.0)}, "fast: several learning rates are"),
    "keep": ({"keep": "first"}, "keep: 'first' is not known; use last or best"),
    "network": ({"network": "whitened"}, "network: 'whitened' is not known; use raw or normalised"),
    "style_weights": (
        {"style_weights": "same"},
        "style_weights: 'same' is not known; use equal or balanced",
    ),
    "noise": ({"noise_std": -1.0}, "noise_std: -1.0 is out of range"),
    "zip of unequal axes": (
        {"grid": ({"seed": [1, 2], "alpha_beta": [1.0], "zip": ["seed", "alpha_beta"]},)},
        "zipped axes need equally many values: seed has 2, alpha_beta has 1",
    ),
    "zip of one axis": ({"grid": ({"zip": ["seed"]},)}, "two or more different axes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_one_line_with_the_value_and_the_mend(name):
    settings, expected = WRONG[name]
    with pytest.raises(JaxstyleError) as error:
        resolve(Sweep(**{**IMAGES, **settings}))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_ranges_of_seeds_are_written_out():
    assert resolve(Sweep(**IMAGES, seed=("0:3", 7))).seed == (0, 1, 2, 7)
    assert resolve(Sweep(**IMAGES, seed=(2**32 - 1,))).seed == (4294967295,)


def test_steps_are_sorted_snapshots():
    assert resolve(Sweep(**IMAGES, steps=(50, 5, 10))).steps == (5, 10, 50)


def test_style_sets_without_weights_are_equal_and_sum_to_one():
    assert values.style_set("conv2_1+conv1_1") == (("conv1_1", 0.5), ("conv2_1", 0.5))
    assert values.style_set("conv4_1:0.05+conv1_1:20") == (("conv1_1", 20.0), ("conv4_1", 0.05))


def test_cumulative_sets_have_equal_weights_that_sum_to_one():
    quarter, third = 1 / 4, 1 / 3
    assert values.style_set("upto:pool3") == tuple(
        (name, quarter) for name in ("conv1_1", "pool1", "pool2", "pool3")
    )
    assert values.style_set("upto:conv3_1") == tuple(
        (name, third) for name in ("conv1_1", "conv2_1", "conv3_1")
    )
    assert values.style_set("upto:conv1_1") == (("conv1_1", 1.0),)
    assert [values.has_weights(text) for text in ("conv1_1:2", "upto:pool1")] == [True, False]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("upto:conv3_2", "goes to pool1 to pool5, or to one of conv1_1, conv2_1"),
        ("upto:pool6", "VGG19 has no layer 'pool6'; did you mean pool"),
        ("upto:", "VGG19 has no layer ''"),
        ("upto:pool1+conv4_1", "is a whole set; leave the rest out"),
        ("upto:pool1:2", "is a whole set; leave the rest out"),
        ("conv1_1+upto:pool1", "VGG19 has no layer 'upto'"),
    ],
)
def test_a_wrong_cumulative_set_is_refused(text, why):
    with pytest.raises(JaxstyleError, match=re.escape(why)):
        values.style_set(text)


def test_alpha_beta_zero_and_an_image_as_start_are_accepted():
    sweep = resolve(Sweep(**IMAGES, alpha_beta=(0,), init=("noise", "start.png")))
    assert sweep.alpha_beta == (0.0,)
    assert sweep.init[1].endswith("/start.png")


# --- sources ---------------------------------------------------------------------------------------


def write_spec(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(text)
    return str(path)


def test_flags_beat_the_spec_which_beats_the_preset(tmp_path):
    spec = write_spec(tmp_path, 'preset = "demo"\nsteps = [7]\nsize = 64\n')
    sweep = assemble({"spec": spec, "size": "96"}, cwd=tmp_path).sweep
    assert sweep.size == "96"
    assert sweep.steps == (7,)
    assert sweep.init == ("content",)  # the preset's


def test_nothing_named_is_the_demo_on_images_that_exist():
    assembled = assemble({})
    assert assembled.name == "demo"
    for path in assembled.sweep.content + assembled.sweep.style:
        assert Path(path).is_file()
    assert assembled.sweep.given["content", assembled.sweep.content[0]] == "pagoda.jpg"


def test_relative_paths_in_a_spec_are_relative_to_it(tmp_path):
    (tmp_path / "sub").mkdir()
    spec = write_spec(
        tmp_path / "sub", 'content = "../c.png"\nstyle = ["s.png"]\ninit = ["noise", "i.png"]\n'
    )
    sweep = assemble({"spec": spec}, cwd=tmp_path).sweep
    assert sweep.content == (str(tmp_path / "c.png"),)
    assert sweep.style == (str(tmp_path / "sub" / "s.png"),)
    assert sweep.init == ("noise", str(tmp_path / "sub" / "i.png"))
    assert sweep.given["content", sweep.content[0]] == "../c.png"


def test_the_text_of_a_path_is_that_of_the_source_that_won(tmp_path):
    spec = write_spec(tmp_path, 'content = ["./c.png"]\nstyle = ["./s.png"]\n')
    sweep = assemble({"spec": spec, "content": ("c.png",)}, cwd=tmp_path).sweep
    assert sweep.given["content", sweep.content[0]] == "c.png"
    assert sweep.given["style", sweep.style[0]] == "./s.png"


def test_a_flag_replaces_its_axis_in_every_grid(tmp_path):
    spec = write_spec(
        tmp_path,
        'content = "c"\nstyle = "s"\n[[grid]]\nseed = [1, 2]\nalpha_beta = [1e-1]\n[[grid]]\nseed = [3]\n',
    )
    sweep = assemble({"spec": spec, "seed": (9,)}, cwd=tmp_path).sweep
    assert all("seed" not in grid for grid in sweep.grid)
    assert sweep.seed == (9,)
    assert sweep.grid[0]["alpha_beta"] == (0.1,)


BALANCE = """
[[balance]]
content = "c.png"
style = "s.png"
content_layer = "conv4_2"
style_layers = "conv1_1"
"""


@pytest.mark.parametrize("given", [["--warm-steps", "0"], ["--warm_steps=0"]])
def test_a_retired_flag_at_its_default_is_taken(given):
    parsed = parse(with_added(), [*given, "--seed", "3"], "jaxstyle.sweep")
    assert (parsed.named, parsed.value.seed) == (("seed",), (3,))
    with pytest.raises(JaxstyleError, match="--warm-steps: started cells from"):
        parse(with_added(), ["--warm-steps", "2"], "jaxstyle.sweep")


@pytest.mark.parametrize("value", [0, 0.0, np.int64(0), np.zeros(())], ids=repr)
def test_a_retired_setting_at_its_default_is_taken_from_python_too(value):
    retired = dict.fromkeys(RETIRED, value)
    assert Sweep(**IMAGES, **retired) == Sweep(**IMAGES)
    assert resolve(Sweep(**IMAGES, **retired)) == resolve(Sweep(**IMAGES))
    assert single_sweep("c.png", "s.png", retired) == single_sweep("c.png", "s.png", {})


@pytest.mark.parametrize("value", [2, "0", None, (0,), np.zeros((2, 2)), np.zeros(2)], ids=repr)
@pytest.mark.parametrize("make", [Sweep, lambda **given: single_sweep("c.png", "s.png", given)])
def test_a_retired_setting_with_another_value_is_one_line_from_python_too(make, value):
    with pytest.raises(JaxstyleError, match=r"^warm_steps: started cells from .* leave it out") as error:
        make(warm_steps=value)
    assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match="warm_step'"):
        Sweep(warm_step=0)


@pytest.mark.parametrize("text", ["0.12345678x", "0.1x", "1x", "1e-05x"])
def test_a_multiple_keeps_all_its_digits(text):
    assert resolve(Sweep(**IMAGES, alpha_beta=(text,))).alpha_beta == (text,)


def test_the_help_says_which_settings_of_the_look_count_at_the_papers_value():
    def counts(**named):
        return not _look(**named)[1]

    always = [name for name, value in defaults.PAPER.items() if counts(**{name: value})]
    others = [name for name in defaults.PAPER if name not in always]
    assert counts(network="normalised")
    assert counts(pool=("max",))
    assert counts(style_loss=("moments",))

    def listed(words, last):
        return f"{', '.join(words[:-1])} {last} {words[-1]}"

    flags = ["--" + name.replace("_", "-") for name in others]
    usual = [values.as_values(defaults.PAPER[name])[0] for name in others]
    said = helps()["alpha_beta"].partition(" if a setting of the look is given: this one, ")[2]
    assert said.endswith(f", or another {listed(flags, 'or')} than {listed(usual, 'and')}).")
    for name in defaults.PAPER:
        flag = "--" + name.replace("_", "-")
        assert (flag in said.partition(", or another ")[0]) == (name in always and name != "alpha_beta"), (
            name
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resume = true", "no run is named; give its directory with --out"),
        ("tolerance = 2", "tolerance: early stopping is not in this version"),
        ("warm_steps = 2", "warm_steps: started cells from their neighbours' pictures"),
        ("content = 5", "content: 5 is not a text"),
        ('preset = "nothing"', "preset: 'nothing' is not known in this version; use content-layer, deck"),
        ('log_format = "xml"', "log_format: 'xml' is not known; use text or json"),
        ('balance = "1x"', "balance: is written by a run; leave it out"),
        ("balance = [1]", "balance: is written by a run; leave it out"),
        ("grid = [1, 2]", "grid: a grid is a table of axes; write [[grid]]"),
        ("plugins = 3", "digests: 3 of a plugin is not a SHA-256"),
        ("[[balance]]\nalpha_beta = 1", "balance: a table has an unknown form; leave it out"),
        (
            BALANCE + "alpha_beta = -1.0\nweights = {conv1_1 = 1.0}",
            "balance: -1.0 is out of range; it must be at least 0",
        ),
        (
            BALANCE + "alpha_beta = 1.0\nweights = {conv2_1 = 1.0}",
            "balance: weights must name conv1_1, each",
        ),
        ("json = true", "json: is for printing the plan; give it together with --dry-run"),
    ],
)
def test_a_wrong_spec_is_one_line(tmp_path, text, expected):
    head = 'style = "s"\n' if text.startswith("content") else 'content = "c"\nstyle = "s"\n'
    with pytest.raises(JaxstyleError) as error:
        assemble({"spec": write_spec(tmp_path, head + text)}, cwd=tmp_path)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", RETIRED)
def test_a_retired_setting_at_its_default_means_nothing(tmp_path, name):
    text = 'content = "c"\nstyle = "s"\n'
    plain = assemble({"spec": write_spec(tmp_path, text)}, cwd=tmp_path)
    retired = write_spec(tmp_path, f"{text}{name} = {RETIRED[name].default}\n")
    assert assemble({"spec": retired}, cwd=tmp_path) == plain
    assert name not in to_toml(plain.sweep, {})


def test_spec_toml_reads_back_as_the_same_sweep(tmp_path):
    nasty = 'a "quoted" \\ back.png'
    sweep = resolve(
        Sweep(
            content=(str(tmp_path / nasty),),
            style=(str(tmp_path / "ü.png"),),
            seed=("0:3",),
            alpha_beta=(1e-3, 0.1),
            steps=(3, 9),
            size="64x48",
            grid=(
                {"init": ["noise"], "zip": ["seed", "learning_rate"], "learning_rate": [1, 2, 3]},
                {"content_layer": ["conv2_2"]},
            ),
        )
    )
    digests = {sweep.content[0]: "0" * 64}
    path = tmp_path / "spec.toml"
    path.write_text(to_toml(sweep, digests))
    tomllib.loads(path.read_text())
    again = assemble({"spec": str(path)}).sweep
    for name in SWEEP_KEYS:
        if name != "digests":
            assert getattr(again, name) == getattr(sweep, name), name
    assert again.digests == digests


def test_every_setting_has_a_help_text():
    for kind in (Sweep, RunOptions):
        for name in kind.__dataclass_fields__:
            assert helps()[name].endswith((".", ")", "default.")), name


def test_layer_names_are_the_papers():
    assert all(values.layer_name("x", name) == name for name in layers.NAMES)


def test_presets_say_what_they_cost_as_a_plan_does():
    units = {"s": 1, "min": 60, "h": 3600}
    for name, (about, cost) in preset_heads().items():
        assert about
        found = dict(re.findall(r"(CPU|GPU) (\d+ (?:s|min|h))", cost))
        claimed = {k: int(v.split()[0]) * units[v.split()[1]] for k, v in found.items()}
        sweep = assemble({"preset": name}).sweep
        cells = sweep_cells(sweep)
        pictures = Pictures(sweep, cells)
        shapes = {cell.shaped_by: pictures.shape(cell) for cell in cells}
        for platform, key in (("cpu", "CPU"), ("gpu", "GPU")):
            plan = make_plan(
                sweep, cells, shapes, platform=platform, choose_width=lambda *_: 1, fits=lambda _: True
            )
            planned = plan.flops / NOMINAL_FLOPS[platform] + COMPILE_SECONDS[platform]
            # Nominal rates are half of what two cores do and unmeasured on a GPU.
            assert planned / 4 < claimed[key] < planned * 2, (name, key, planned)


# --- values from Python ---------------------------------------------------------------------------


def settings_of(**settings):
    """The named settings of a resolved sweep."""
    resolved = resolve(Sweep(**{"content": ("c.png",), "style": ("s.png",), **settings}))
    return {name: getattr(resolved, name) for name in settings}


@pytest.mark.parametrize("made", [tuple, list, lambda a: a, jnp.asarray])
def test_numbers_of_numpy_and_jax_are_numbers(made):
    assert settings_of(seed=made(np.arange(3)), steps=made(np.array([5, 2]))) == {
        "seed": (0, 1, 2),
        "steps": (2, 5),
    }
    # 32-bit numbers, as they are printed: 0.1 and not 0.10000000149011612.
    ratios = made(np.array([0.1, 1e-5], np.float32))
    assert settings_of(alpha_beta=ratios)["alpha_beta"] == (0.1, 1e-5)
    assert all(type(v) is float for v in settings_of(alpha_beta=ratios)["alpha_beta"])


def test_single_values_of_numpy_are_values():
    given = {
        "size": np.int64(64),
        "noise_std": np.float32(0.1),
        "clamp": np.bool_(True),
        "beta": jnp.float32(2),
    }
    assert settings_of(**given) == {"size": "64", "noise_std": (0.1,), "clamp": (True,), "beta": 2.0}
    assert settings_of(seed=range(2), learning_rate=np.float64(5)) == {
        "seed": (0, 1),
        "learning_rate": (5.0,),
    }
    assert settings_of(pool=np.str_("max"), grid=({"seed": np.arange(2)},))["grid"] == ({"seed": (0, 1)},)
    options = check_options(RunOptions(out="run", devices="2", quiet=np.bool_(True)))
    assert (options.devices, options.quiet) == (2, True)


PIXELS = np.zeros((72, 96, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("content", (PIXELS,), "an array of uint8 (72, 96, 3) is not a path"),
        ("content", PIXELS, "an array of uint8 (72, 96, 3) is not a path"),
        ("style", Image.fromarray(PIXELS), "a PIL image is not a path"),
        ("init", ("noise", jnp.asarray(PIXELS)), "an array of uint8 (72, 96, 3) is not a path"),
        ("seed", PIXELS, "an array of uint8 (72, 96, 3) is not a whole number"),
        ("pool", PIXELS, "an array of uint8 (72, 96, 3) is not known"),
        ("size", PIXELS, "an array of uint8 (72, 96, 3)"),
        ("weights", PIXELS, "an array of uint8 (72, 96, 3) is not a text"),
        ("content_layer", PIXELS, "VGG19 has no layer an array of uint8 (72, 96, 3)"),
        ("clamp", {"on": list(range(1000))}, "neither true nor false"),
        ("beta", object(), "object is not a number"),
        pytest.param("beta", 10**5000, "an integer of 16610 bits is not a number", id="a huge number"),
        pytest.param("seed", 10**5000, "an integer of 16610 bits is out of range", id="a huge seed"),
        ("pool", "x" * 5000, "is not known; use avg or max"),
        ("grid", np.arange(3), "an array of int64 (3,) is not a list of tables"),
        ("grid", [object], "a grid is a table of axes"),
        ("grid", [{object: 1}], "is not the name of an axis"),
        ("digests", [1], "write a table"),
    ],
)
def test_what_is_no_value_is_refused_in_one_short_line(name, value, said):
    with pytest.raises(JaxstyleError) as error:
        settings_of(**{name: value})
    assert said in str(error.value)
    assert len(str(error.value)) < 260


@pytest.mark.parametrize("name", ["devices", "out", "shard", "cluster", "log_format", "quiet"])
def test_options_that_are_no_values_are_refused_in_one_short_line(name):
    with pytest.raises(JaxstyleError, match=r"an array of uint8 \(72, 96, 3\)") as error:
        check_options(RunOptions(**{name: PIXELS}))
    assert len(str(error.value)) < 160
