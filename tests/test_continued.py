"""Commands that go on with a run: what they name, what they leave to the run, and what they add."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import EXAMPLES, random_image, run_forked
from made_runs import make_run
from PIL import Image

import jaxstyle
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.run.dry_run import dry_run
from jaxstyle.rundir import resume
from jaxstyle.rundir.records import open_record
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import RunOptions

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


def goes_on(out, *, extend=False, **flags):
    """The sweep that a command with these flags would go on with in a run, without computing it."""
    record = open_record(Path(out))
    how = "extend" if extend else "resume"
    sweep = assemble({**flags, "out": str(out), how: True}).sweep
    return resume.continued_sweep(record, sweep, extend=extend)


def test_a_fast_run_goes_on_by_any_part_of_its_command(tmp_path):
    given = {"optimizer": "adam", "steps": (8,), "fast": True}
    out = make_run(tmp_path / "run", content=("cat.jpg",), style=("glass.jpg",), **given).path
    own = open_record(out).sweep
    assert (own.optimizer, own.steps, own.pyramid) == ("lbfgs", (2,), 2)
    for names in (given, ("steps", "fast"), ("fast",), ("optimizer", "steps", "fast"), ()):
        found = goes_on(out, **{name: given[name] for name in names})
        assert replace(found, given={}) == replace(own, given={})
    (tmp_path / "adam.toml").write_text('optimizer = "adam"\nsteps = [8]\npyramid = 0\n')
    by_spec = {"spec": str(tmp_path / "adam.toml"), "fast": True}
    assert replace(goes_on(out, **by_spec), given={}) == replace(own, given={})
    assert replace(goes_on(out, **by_spec, pyramid=0), given={}) == replace(own, given={})
    with pytest.raises(JaxstyleError, match="steps is 2 there and 4 here"):
        goes_on(out, steps=(16,), fast=True)
    adams = make_run(tmp_path / "adams", content=("cat.jpg",), style=("glass.jpg",), optimizer="adam").path
    with pytest.raises(JaxstyleError, match="optimizer is adam there and lbfgs here"):
        goes_on(adams, fast=True)
    more = goes_on(out, extend=True, fast=True, seed=("0:2",))
    assert [(cell.seed, more.steps) for cell in sweep_cells(more)] == [(0, (2,)), (1, (2,))]
    with pytest.raises(JaxstyleError, match="optimizer is lbfgs there and adam here"):
        goes_on(out, optimizer="adam")
    of_spec = assemble({"spec": str(out / "spec.toml"), "optimizer": "adam"}).sweep
    assert (of_spec.optimizer, of_spec.lbfgs_memory, of_spec.steps) == ("adam", None, (2,))
    (tmp_path / "memory.toml").write_text('content = "/c.png"\nstyle = "/s.png"\nlbfgs_memory = 20\n')
    kept = assemble({"spec": str(tmp_path / "memory.toml"), "optimizer": "lbfgs"}).sweep
    assert kept.lbfgs_memory == 20


def test_a_run_whose_place_its_spec_names_goes_on_by_that_spec(tmp_path):
    about = {"content": ("cat.jpg",), "style": ("glass.jpg",), "size": "48"}
    own = make_run(tmp_path / "runs" / "own", **about).sweep
    (tmp_path / "plan.toml").write_text(f'out = "runs/own"\ncontent = "{own.content[0]}"\n')
    flags = {"spec": str(tmp_path / "plan.toml")}
    for key in ("resume", "extend"):
        found = assemble({**flags, key: True})
        assert (found.sweep.size, found.options.out) == ("48", str(tmp_path / "runs" / "own"))
    (tmp_path / "plan.toml").write_text('out = "runs/own"\nresume = true\nsize = 64\n')
    assert assemble(flags).sweep == replace(own, size="64", given=assemble(flags).sweep.given)


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

    def pairs(of):
        return [(Path(cell.content).name[0], Path(cell.style).name[0]) for cell in sweep_cells(of)]

    assert pairs(goes_on(tmp_path / "run", spec=str(spec))) == [("b", "b")]
    grown = goes_on(tmp_path / "run", spec=str(spec), extend=True)
    assert pairs(grown) == [("b", "b"), ("a", "a"), ("c", "c")]


def test_a_dry_run_refuses_what_the_run_would(begun, tmp_path):
    asked = RunOptions(out=str(tmp_path / "new"), shard="3/4", dry_run=True)
    with pytest.raises(JaxstyleError, match="3/4 has nothing to do: the run has 1 chunk"):
        dry_run(open_record(begun).sweep, asked)
    run = shutil.copytree(begun, tmp_path / "run")
    (chunk,) = (run / "chunks").iterdir()
    chunk.unlink()
    more = replace(open_record(run).sweep, seed=(0, 1))
    with pytest.raises(JaxstyleError, match="is not done; --resume it before you extend it"):
        dry_run(more, RunOptions(out=str(run), extend=True, dry_run=True))


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
