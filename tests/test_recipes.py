"""The recipes of docs/architecture.md, applied as they stand to a copy of the package."""

import csv
import json
import re
import shutil

import h5py
import numpy as np
import pytest
from conftest import EXAMPLES, ROOT, run_forked, run_python

DOCS = (ROOT / "docs" / "architecture.md").read_text()
RECIPES = dict(re.findall(r"### ([^\n]*)\n.*?```diff\n(.*?)```", DOCS, re.DOTALL))


def parts(diff):
    """The old and the new text of every hunk of a diff, by the path of its file."""
    found = {}
    for text in re.split(r"^--- ", diff, flags=re.MULTILINE)[1:]:
        path = re.search(r"^\+\+\+ b/(\S+)$", text, re.MULTILINE)[1]  # pyright: ignore[reportOptionalSubscript]
        hunks = re.split(r"^@@[^\n]*\n", text, flags=re.MULTILINE)[1:]
        lines = [[line for line in hunk.splitlines() if line] for hunk in hunks]
        found[path] = [
            tuple("".join(f"{line[1:]}\n" for line in hunk if line[0] in signs) for signs in (" -", " +"))
            for hunk in lines
        ]
    return found


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """A copy of the package that every recipe has been applied to."""
    root = tmp_path_factory.mktemp("recipes")
    shutil.copytree(ROOT / "jaxstyle", root / "jaxstyle", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "weights", root / "weights")
    for diff in RECIPES.values():
        for name, hunks in parts(diff).items():
            path = root / name
            text = path.read_text() if path.exists() else ""
            for old, new in hunks:
                assert not old or text.count(old) == 1, f"{name} has not once:\n{old}"
                text = text.replace(old, new) if old else new
            path.write_text(text)
    return root


def test_a_recipe_is_short_and_touches_few_places():
    places = {name: [len(hunks) for hunks in parts(diff).values()] for name, diff in RECIPES.items()}
    assert all(len(diff.splitlines()) <= 40 for diff in RECIPES.values())
    assert places == {
        "A loss term": [1, 1],
        "An axis": [1, 1, 1],
        "A setting": [1, 1],
        "An optimizer": [1, 1],
        "A derived file": [2],
    }


def test_what_the_recipes_add_is_swept_shown_and_told(changed, tmp_path):
    out = tmp_path / "run"
    arguments = ("--content", EXAMPLES / "pagoda.jpg", "--style", EXAMPLES / "cafe.jpg", "--size", 48)
    arguments = (*arguments, "--content-layer", "conv1_2", "--style-layers", "conv1_1", "--out", out)
    arguments = (*arguments, "--optimizer", "lion", "--lion-b1", 0.8, "--steps", 20, "--schedule", "decay")
    arguments = (*arguments, "--decay-share", 0.5, "--mean-weight", 0, "1e9", "--noise-scale", 1, 40)
    run_python("-m", "jaxstyle.sweep", *arguments, check=True, cwd=changed, PYTHONPATH=str(changed))
    with (out / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["noise_scale"], row["mean_weight"]) for row in rows] == [
        ("1.0", "0.0"), ("1.0", "1000000000.0"), ("40.0", "0.0"), ("40.0", "1000000000.0")
    ]  # fmt: skip
    means = [float(row["loss_mean"]) for row in rows]
    assert means[1] < 0.5 * means[0]
    assert means[3] < 0.5 * means[2]
    medians = json.loads((out / "medians.json").read_text())
    assert medians["loss_mean"] == pytest.approx(np.median(means), rel=1e-5)
    spec = (out / "spec.toml").read_text()
    assert "decay_share = 0.5" in spec
    assert "lion_b1 = 0.8" in spec
    with h5py.File(out / "results.h5") as file:
        group = file["32x48"]
        assert group["loss_mean"].shape == (4, 21)
        start = group["loss_style"][:, 0]
        assert start[0] != start[2]  # from different noise
    page = (out / "report.html").read_text()
    assert "mean colour" in page
    assert "noise scale" in page
    run_python("-m", "jaxstyle.report", out, check=True, cwd=changed, PYTHONPATH=str(changed))


def test_a_version_with_the_recipes_goes_on_with_a_run_of_one_without(changed, tmp_path):
    """None of them is in a fingerprint, a table or a program of a run that does not use it."""
    out = tmp_path / "run"
    arguments = ("--content", EXAMPLES / "pagoda.jpg", "--style", EXAMPLES / "cafe.jpg", "--size", 32)
    arguments = (*arguments, "--content-layer", "conv1_2", "--style-layers", "conv1_1", "--seed", "0:2")
    arguments = (*arguments, "--optimizer", "adam", "--steps", 2, "--checkpoint-every", 0.1, "--out", out)
    run_forked("-m", "jaxstyle.sweep", *arguments, check=True)
    before = {path: path.read_bytes() for path in sorted(out.glob("chunks/*.h5"))}
    table = (out / "results.csv").read_bytes()
    last = max(before)
    last.unlink()
    run_python(
        "-m", "jaxstyle.sweep", "--resume", "--out", out, check=True, cwd=changed, PYTHONPATH=str(changed)
    )
    assert {path: path.read_bytes() for path in sorted(out.glob("chunks/*.h5"))} == before
    assert (out / "results.csv").read_bytes() == table
