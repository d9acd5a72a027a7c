"""The tutorial works as it stands: its blocks run in their order, in one folder and one namespace."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


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


@pytest.mark.skipif(shutil.which("bash") is None, reason="its shell is bash")
def test_the_tutorial_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert {kind for kind, _ in BLOCKS} == {"sh", "python", "toml"}
    names, said = {}, ""
    for kind, text in BLOCKS:
        if kind == "sh":
            said += shell(text, tmp_path)
        elif kind == "toml":
            name = re.match(r"# (\S+\.toml)\n", text)[1]
            (tmp_path / name).write_text(text)
        else:
            exec(compile(text, "tutorial.md", "exec"), names)
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
