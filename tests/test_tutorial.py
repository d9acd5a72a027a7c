"""The tutorial works as it stands: its blocks run in their order, in one folder and one namespace.

So does the page on stimuli, with smaller pictures.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from jaxstyle import EXAMPLES
from jaxstyle.console import early

PAGE = (ROOT / "docs" / "tutorial.md").read_text()


def blocks(page):
    """The kind and the text of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="its shell is bash")


def shell(text, folder):
    """Run a block as a user's shell would, `python` being this one."""
    tools = folder / ".bin"
    tools.mkdir(exist_ok=True)
    if not (tools / "python").exists():
        (tools / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (tools / "python").chmod(0o755)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-e", "-c", text], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def run_blocks(page, folder):
    """Run the blocks of a page; what they named in Python, and what the shell said."""
    names, said = {}, ""
    for kind, text in blocks(page):
        if kind == "sh":
            said += shell(text, folder)
        elif kind == "toml":
            name = re.match(r"# (\S+\.toml)\n", text)[1]
            (folder / name).write_text(text)
        else:
            exec(compile(text, "a page", "exec"), names)
    return names, said


@needs_bash
def test_the_tutorial_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(early, "_began", time.time())  # as commands, whose programs are kept for it
    assert {kind for kind, _ in blocks(PAGE)} == {"sh", "python", "toml"}
    names, said = run_blocks(PAGE, tmp_path)
    assert names["picture"].shape == (45, 60, 3)
    assert len(names["run"].rows) == 4
    for word in ("out.png", "4 cells", "6 cells", "features.png"):
        assert word in said + capsys.readouterr().out
    made = {p.name for p in tmp_path.iterdir()} - {".bin"}
    assert made == {
        "brushwork.jpg", "cat.jpg", "features.png", "glass.jpg", "out.png", "runs", "study.toml"
    }  # fmt: skip
    assert [p.name for p in Path("runs").iterdir()] == ["first"]


def test_the_page_is_one_page_and_is_linked():
    assert len(PAGE.splitlines()) <= 180
    assert "docs/tutorial.md" in (ROOT / "README.md").read_text()


@needs_bash
def test_the_page_on_stimuli_runs_with_smaller_pictures(tmp_path, monkeypatch):
    """Every trial has the synthesis where it says, beside two crops of its texture, all of one light."""
    page = (ROOT / "docs" / "stimuli.md").read_text()
    small = {
        '"128x128"': '"32x32"',
        "256\n": "64\nsteps = [40]\n",
        '"0:4"': '"0:2"',
        "crops = 16": "crops = 4",
    }
    for old, new in small.items():
        assert page.count(old) == 1
        page = page.replace(old, new)
    for name in ("brick", "grass", "gravel"):
        shutil.copy(EXAMPLES / f"{name}.jpg", tmp_path)
    monkeypatch.chdir(tmp_path)
    names, _ = run_blocks(page, tmp_path)
    with open("trials.csv", newline="") as file:
        trials = list(csv.DictReader(file))
    assert len(trials) == sum(row["failed"] == "0" for row in names["stimuli"]) >= 6
    light = {row["image"]: row for row in names["stimuli"] + names["crops"]}
    for trial in trials:
        images = [trial[f"image_{n}"].removeprefix("runs/experiment/") for n in (1, 2, 3)]
        odd = images.pop(int(trial["odd"]) - 1)
        assert [light[odd][name] for name in ("style", "style_layers", "seed")] == [
            trial[name] for name in ("texture", "layers", "seed")
        ]
        assert len({*images}) == 2
        assert {light[image]["style"] for image in images} == {trial["texture"]}
        for image in (odd, *images):
            assert float(light[image]["rms_contrast"]) == pytest.approx(0.4, rel=0.05)
