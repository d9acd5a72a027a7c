"""Commands that go on with a run: what they name, what they leave to the run, and what they add."""

import json
import os

import pytest
from conftest import EXAMPLES, random_image, run_forked
from PIL import Image

import jaxstyle
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.spec.assemble import assemble

PAIR = ("--content", EXAMPLES / "cat.jpg", "--style", EXAMPLES / "brick.jpg")
SMALL = ("--size", 32, "--steps", 2, "--content-layer", "conv2_2", "--style-layers", "conv1_1+conv2_1")
SMALL += ("--conv", "plain")


def sweep(*arguments, check=True):
    """What a sweep said on standard error."""
    done = run_forked("-m", "jaxstyle.sweep", "--quiet", *arguments)
    assert not check or done.returncode == 0, done.stderr
    return done.stderr


def rows_of(path, *names):
    return [tuple(row[name] for name in names) for row in jaxstyle.open_run(path).rows]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of one cell whose command names nothing of the look."""
    out = tmp_path_factory.mktemp("begun") / "run"
    sweep(*PAIR, *SMALL, "--out", out)
    return out


@pytest.mark.parametrize("full", [False, True], ids=["alone", "with the full command"])
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--pool", "max"), "pool is avg there and max here"),
        (("--no-clamp",), "clamp is True there and False here"),
        (("--network", "normalised"), "network is raw there and normalised here"),
        (("--alpha-beta", "1x"), "alpha_beta is 0.1x there and 1x here"),
    ],
)
def test_what_a_command_names_of_the_look_is_compared_with_the_run(begun, flags, says, full):
    named = (*PAIR, *SMALL) if full else ()
    assert says in sweep(*named, *flags, "--out", begun, "--resume", check=False)


def test_a_run_of_the_default_look_is_extended_by_ratios_and_seeds(tmp_path):
    out = tmp_path / "run"
    sweep(*PAIR, *SMALL, "--out", out)
    sweep("--out", out, "--extend", "--seed", "0:2")
    sweep(*PAIR, *SMALL, "--seed", "0:3", "--out", out, "--extend")
    assert rows_of(out, "seed", "alpha_beta_given") == [(0, "0.1x"), (1, "0.1x"), (2, "0.1x")]
    sweep(*PAIR, *SMALL, "--seed", "0:3", "--out", out, "--resume")
    sweep("--out", out, "--extend", "--alpha-beta", "1x")
    ratios = rows_of(out, "alpha_beta")
    assert [of for (of,) in rows_of(out, "alpha_beta_given")] == ["0.1x"] * 3 + ["1x"] * 3
    assert ratios[3][0] == pytest.approx(10 * ratios[0][0])


def test_settings_that_are_not_named_are_the_runs(tmp_path):
    out, glass = tmp_path / "run", EXAMPLES / "glass.jpg"
    given = (*SMALL, "--seed", "3:5", "--alpha-beta", "1e-2")
    sweep(*PAIR, *given, "--out", out)
    before = json.loads((out / "manifest.json").read_text())["plan"]
    sweep(*PAIR, "--out", out, "--resume")
    sweep("--style", EXAMPLES / "brick.jpg", "--out", out, "--resume")
    assert json.loads((out / "manifest.json").read_text())["plan"] == before
    sweep("--style", glass, "--out", out, "--extend")
    assert [(s.rsplit("/")[-1], n) for s, n in rows_of(out, "style", "seed")] == [
        ("brick.jpg", 3),
        ("brick.jpg", 4),
        ("glass.jpg", 3),
        ("glass.jpg", 4),
    ]
    said = sweep(*PAIR, "--seed", 5, "--out", out, "--resume", check=False)
    assert "seed is 3, 4 there and 5 here" in said


def test_a_fast_run_goes_on_by_the_command_that_began_it(tmp_path):
    given = (*PAIR, *SMALL, "--optimizer", "adam", "--fast", "--out", tmp_path / "run")
    sweep(*given)
    sweep(*given, "--resume")
    assert jaxstyle.open_run(tmp_path / "run").rows[0]["steps"] == 1  # a quarter of 2
    said = sweep(*PAIR, "--optimizer", "adam", "--out", tmp_path / "run", "--resume", check=False)
    assert "optimizer is lbfgs there and adam here" in said


def test_a_fast_run_goes_on_by_any_part_of_its_command(tmp_path):
    given = ("--optimizer", "adam", "--steps", 8, "--fast")
    out = ("--out", tmp_path / "run")
    sweep(*PAIR, *SMALL[:2], *SMALL[4:], *given, *out)
    for part in (
        given,
        ("--steps", 8, "--fast"),
        ("--fast",),
        ("--optimizer", "adam", "--steps", 8, "--fast"),
    ):
        sweep("--resume", *out, *part)
    said = sweep("--resume", *out, "--steps", 16, "--fast", check=False)
    assert "steps is 2 there and 4 here" in said
    sweep("--extend", *out, "--fast", "--seed", "0:2")
    assert rows_of(tmp_path / "run", "seed", "steps") == [(0, 2), (1, 2)]
    said = sweep("--resume", *out, "--optimizer", "adam", check=False)
    assert "optimizer is lbfgs there and adam here" in said


def test_settings_of_an_optimizer_that_a_flag_replaces_are_not_those_of_the_other(tmp_path):
    sweep(*PAIR, *SMALL, "--out", tmp_path / "run")
    of_run = assemble({"spec": str(tmp_path / "run" / "spec.toml"), "optimizer": "adam"}).sweep
    assert (of_run.optimizer, of_run.lbfgs_memory, of_run.steps) == ("adam", None, (2,))


def test_a_run_whose_place_its_spec_names_goes_on_by_that_spec(tmp_path):
    spec = tmp_path / "plan.toml"
    content, style = PAIR[1], PAIR[3]
    spec.write_text(f'out = "runs/own"\ncontent = "{content}"\nstyle = "{style}"\n')
    sweep("--spec", spec, *SMALL)
    assert rows_of(tmp_path / "runs" / "own", "seed") == [(0,)]
    sweep("--spec", spec, "--resume")
    sweep("--spec", spec, "--extend", "--seed", 1)
    assert rows_of(tmp_path / "runs" / "own", "seed", "width") == [(0, 32), (1, 32)]
    said = sweep("--spec", spec, "--resume", "--size", 48, check=False)
    assert "size is 32 there and 48 here" in said


def test_zipped_folders_of_a_grid_may_grow_while_a_run_goes_on(tmp_path):
    def add(name):
        for folder, seed in (("photos", 1), ("paintings", 2)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(random_image(32, 40, seed)).save(tmp_path / folder / f"{name}.png")

    add("b")
    spec = tmp_path / "zipped.toml"
    grid = '[[grid]]\ncontent = ["photos"]\nstyle = ["paintings"]\nzip = ["content", "style"]\n'
    spec.write_text(grid)
    sweep("--spec", spec, *SMALL, "--out", tmp_path / "run")
    add("a")
    add("c")
    sweep("--spec", spec, *SMALL, "--out", tmp_path / "run", "--resume")
    assert rows_of(tmp_path / "run", "content", "style") == [("photos/b.png", "paintings/b.png")]
    sweep("--spec", spec, *SMALL, "--out", tmp_path / "run", "--extend")
    pairs = [(f"photos/{name}.png", f"paintings/{name}.png") for name in "bac"]
    assert rows_of(tmp_path / "run", "content", "style") == pairs


def test_a_dry_run_refuses_what_the_run_would(tmp_path):
    out = ("--out", tmp_path / "run")
    said = sweep(*PAIR, *SMALL, *out, "--shard", "3/4", "--dry-run", check=False)
    assert "3/4 has nothing to do: the run has 1 chunk" in said
    sweep(*PAIR, *SMALL, "--seed", "0:2", *out)
    (chunk,) = (tmp_path / "run" / "chunks").iterdir()
    chunk.unlink()
    said = sweep("--extend", *out, "--seed", 2, "--dry-run", check=False)
    assert "is not done; --resume it before you extend it" in said


def test_who_asks_for_a_balance_in_a_run_that_did_without_is_refused(tmp_path):
    Image.new("RGB", (64, 48), (90, 120, 150)).save(tmp_path / "flat.png")
    flat = ("--content", tmp_path / "flat.png", "--style", tmp_path / "flat.png", *SMALL)
    sweep(*flat, "--out", tmp_path / "run")
    assert rows_of(tmp_path / "run", "alpha_beta") == [(pytest.approx(1e-3),)]
    named = ("--spec", tmp_path / "run/spec.toml", "--alpha-beta", "1x")
    said = sweep(*named, "--out", tmp_path / "b", check=False)
    assert "cannot be balanced" in said
    assert not (tmp_path / "b").exists()


def test_a_size_that_is_auto_and_the_same_number_of_px_are_one_cell(tmp_path):
    Image.fromarray(random_image(40, 56, 1)).save(tmp_path / "c.png")
    given = {"content": [str(tmp_path / "c.png")], "style": [str(tmp_path / "c.png")], "size": "48"}
    both = assemble({**given, "style_size": ["auto", 48, 64]}).sweep
    assert [cell.style_size for cell in sweep_cells(both)] == ["auto", 64]


@pytest.mark.parametrize("name", ["two\nlines", "a\ttab"])
def test_a_directory_of_any_name_can_be_gone_on_with(tmp_path, name):
    out = tmp_path / name
    sweep(*PAIR, *SMALL, "--out", out)
    sweep("--out", out, "--extend", "--seed", 1)
    assert len(jaxstyle.open_run(out).rows) == 2


def test_a_folder_that_no_record_can_name_is_refused_before_anything_is_written(tmp_path):
    place = str(tmp_path).encode() + b"/not\xff"
    os.mkdir(place)
    done = run_forked("-m", "jaxstyle.sweep", *PAIR, *SMALL, cwd=os.fsdecode(place))
    assert done.returncode == 2
    assert "is not a path in UTF-8; give one" in done.stderr
    assert os.listdir(place) == []
