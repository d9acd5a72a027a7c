"""The README and the pages: their links, their commands, and what they say of a run's files."""

import ast
import glob
import json
import re
import runpy
import shlex
import shutil
import tomllib
from pathlib import Path

import h5py
import pytest
from conftest import EXAMPLES, ROOT
from packaging.requirements import Requirement

import jaxstyle
from bench.__main__ import COMMANDS as BENCHES
from jaxstyle import calibrate, features, report, score, sweep, targets, transfer, variance
from jaxstyle.console import parsing
from jaxstyle.derived import scores
from jaxstyle.inputs import decode
from jaxstyle.run.job import TIMERS
from jaxstyle.run.one_cell import accepted_settings, single_sweep
from jaxstyle.spec import blends, fields, regions, shares, values
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.settings import OPTION_KEYS, Sweep
from jaxstyle.study import tables

README = ROOT / "README.md"
PAGES = {
    str(p.relative_to(ROOT)): p for p in [README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
}
TEXTS = {name: path.read_text() for name, path in PAGES.items()}
NUMBERS = TEXTS["docs/numbers.md"]
MAKEFILE = (ROOT / "Makefile").read_text()
ACCEPTS = {
    "sweep": sweep.accepts,
    "transfer": transfer.accepts,
    "calibrate": calibrate.accepts,
    "features": features.accepts,
    "targets": targets.accepts,
    "report": lambda: report.Report,
    "score": lambda: score.Score,
    "variance": lambda: variance.Variance,
}
OTHERS = "array b gres worker command help xla"
"""Flags of other programs: sbatch, gcloud, and those that begin with these."""
RECIPES = "lion-b mean-weight palette-weight warm-steps"
"""Flags that the recipes of a page add, and one of the past."""


# --- the first screen -----------------------------------------------------------------------------


def test_the_readme_is_short_and_begins_with_what_there_is_to_do():
    text = TEXTS["README.md"]
    assert len(text.split()) < 900
    screen = "\n".join(text.splitlines()[:40])
    for words in ("](docs/demo.png)", "make demo", "make test", "pip install .", "jaxstyle.transfer"):
        assert words in screen, words
    assert screen.index("make demo") < screen.index("activate") < screen.index("jaxstyle.transfer")
    for door in ("artist", "student", "lab", "cluster"):
        assert re.search(rf"^\*\*An? [^*]*\b{door}\b", text, re.MULTILINE), door


def test_every_page_is_in_the_index():
    index = TEXTS["docs/README.md"]
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"({path.name})" in index, path.name


def test_the_page_of_the_api_is_that_of_the_docstrings():
    import runpy

    written = runpy.run_path(str(ROOT / "scripts" / "api_page.py"))
    assert {*written["ORDER"], "EXAMPLES", "__version__"} == {*jaxstyle.__all__}
    assert written["page"]() == TEXTS["docs/api.md"], "make docs"


def test_the_limits_on_the_page_are_those_of_the_code():
    page = (ROOT / "docs" / "sweeps.md").read_text().split("## Limits")[1].split("\n## ")[0]
    limits = [
        values.MIN_SIZE_PX,
        values.MAX_SIZE_PX,
        Sweep.max_cells,
        fields.MAX_CELLS,
        fields.MAX_STEPS,
        fields.MAX_PYRAMID,
        fields.MAX_LBFGS_MEMORY,
        fields.MAX_CROPS,
        blends.MAX_PARTS,
        regions.MAX_REGIONS,
        shares.MAX_SHARES,
        targets.MAX_RUNGS,
        targets.MAX_DRAWS,
        decode.MAX_PIXELS >> 20,
        decode.MAX_FILE_BYTES >> 20,
        2**32 - 1,
    ]
    told = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\d|\d", page)}
    assert {*limits} <= told
    assert told - {*limits} <= {0, 1, 2}


def test_the_words_of_this_project_are_explained():
    heads = re.findall(r"^\*\*(.+?)\.\*\*", TEXTS["docs/words.md"], re.MULTILINE)
    named = {word for head in heads for word in head.lower().split(", ")}
    assert {"twin", "balance", "share", "launch", "canvas", "floor", "snapshot", "taps"} <= named
    ordered = [head.lower().replace("α/β", "alpha") for head in heads]
    assert ordered == sorted(ordered)


# --- links ----------------------------------------------------------------------------------------


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", plain(text), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        found.add(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return found


@pytest.mark.parametrize("name", PAGES)
def test_every_relative_link_leads_somewhere(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (PAGES[name].parent / path).resolve() if path else PAGES[name]
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text()), target


# --- commands -------------------------------------------------------------------------------------


def plain(text):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(text):
    """The code within the sentences of a page."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", plain(text))]


def blocks(text):
    """The fenced blocks of a page that are for a shell."""
    return [
        body for kind, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S) if kind in ("", "sh")
    ]


def commands(text, program):
    """The argument lists of all commands of a page that begin with `program`, also within sentences."""
    lines = [line for block in blocks(text) for line in block.replace("\\\n", " ").splitlines()]
    for line in (*spans(text), *lines):
        found = re.search(rf"{program}(?: (.*)|$)", line)
        if found and "NAME" not in line and "…" not in line and "..." not in line:
            yield shlex.split(re.sub(r"(\s#|, then ).*", "", found[1] or "").replace("$I", "0").rstrip("'"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with every file that the commands of the pages name."""
    here = tmp_path_factory.mktemp("pages")
    (here / "shared").mkdir()
    for name in (
        "photo",
        "painting",
        "cat",
        "monet",
        "munch",
        "brick",
        "grass",
        "brushwork",
        "pagoda",
        "glass",
        "a",
        "b",
    ):
        shutil.copy(EXAMPLES / "cat.jpg", here / f"{name}.jpg")
    shutil.copy(EXAMPLES / "checkerboard.png", here)
    for name in ("ladder-00.npz", "ladder-01.npz"):
        (here / name).touch()
    for name in ("photos", "textures", "RUN", "docs", "/shared"):
        (here / name.lstrip("/")).mkdir(exist_ok=True)
    for name in ("photos", "textures"):
        for number in range(2):
            shutil.copy(EXAMPLES / "glass.jpg", here / name / f"{number}.jpg")
    study = 'content = ["photo.jpg"]\nstyle = ["painting.jpg"]\n'
    for name in ("study.toml", "ladder.toml", "experiment.toml", "shared/study.toml", "RUN/spec.toml"):
        up = "../" if "/" in name else ""
        (here / name).write_text(study.replace('["', f'["{up}'))
    for name in ("seed-study.toml", "deck-today.toml"):
        shutil.copy(ROOT / "docs" / name, here / "docs")
    shutil.copytree(EXAMPLES, here / "jaxstyle" / "examples")
    return here


@pytest.mark.parametrize("name", PAGES)
def test_every_command_is_accepted(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    seen = 0
    for command, accepts in ACCEPTS.items():
        for given in commands(TEXTS[name], rf"jaxstyle[. ]{command}"):
            given = [re.sub("^/shared", "shared", word) for word in given]
            given = [
                match for word in given for match in (sorted(glob.glob(word)) if "*" in word else [word])
            ]
            if "--help" in given or "--plugin" in given or (not given and command != "sweep"):
                continue  # plugins are run by test_plugins.py
            parsed, seen = parsing.parse(accepts(), given, f"jaxstyle.{command}"), seen + 1
            if command == "sweep" and not {"--resume", "--extend"} & {*given}:
                value = parsed.value
                flags = {
                    n: getattr(value.run if n in OPTION_KEYS else value.axes_and_settings, n)
                    for n in parsed.named
                }
                assert assemble(flags).sweep.style
            elif command == "transfer":
                own = {n: getattr(parsed.value, n) for n in parsed.named if n in accepted_settings()}
                single_sweep(parsed.value.content, parsed.value.style, own)
    assert seen >= {"README.md": 6, "docs/sweeps.md": 3, "docs/running.md": 5, "docs/why.md": 2}.get(
        name, 0
    )


@pytest.mark.parametrize("name", PAGES)
def test_every_benchmark_and_every_make_target_exists(name):
    for given in commands(TEXTS[name], "python -m bench"):
        assert not given or given[0] in BENCHES or given[0].startswith("-"), given
    code = "\n".join((*spans(TEXTS[name]), *blocks(TEXTS[name])))
    for word in re.findall(r"^make ([a-z][a-z0-9-]*)", code, re.MULTILINE):
        assert re.search(rf"^{word}:", MAKEFILE, re.MULTILINE), word


def flags():
    """All flags of all commands and benchmarks, without the dashes."""
    known = {f.replace("_", "-") for accepts in ACCEPTS.values() for f in parsing._flags(accepts())}
    known |= {f"no-{f}" for f in known}
    for path in (
        *(ROOT / "bench").glob("*.py"),
        *(ROOT / "tests").glob("*.py"),
        *(ROOT / "scripts").glob("*.py"),
    ):
        known |= {*re.findall(r'"--([a-z-]+)"', path.read_text())}
    return known


@pytest.mark.parametrize("name", PAGES)
def test_every_flag_that_a_page_names_exists(name):
    named = {*re.findall(r"(?<![\w-])--([a-z][a-z-]*)", TEXTS[name])}
    assert named - flags() - {*OTHERS.split(), *RECIPES.split()} == set()


def test_extras_that_the_pages_install_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for text in TEXTS.values():
        for extra in re.findall(r"'\.\[(\w+)\]'", text):
            assert extra in extras
        assert "pip install jaxstyle" not in text  # the name is not on PyPI
        assert "'jaxstyle[" not in text


def test_pythons_that_the_tests_do_not_run_on_are_held_to_no_version(tmp_path):
    fakes = []
    for python, versions in (("3.11", {"a": "1", "b": "1"}), ("3.12", {"a": "1", "b": "2", "c": "3"})):
        fakes.append(tmp_path / python)
        fakes[-1].write_text(f"#!/bin/sh\necho '{json.dumps({'python': python, 'versions': versions})}'\n")
        fakes[-1].chmod(0o755)
    made = runpy.run_path(str(ROOT / "scripts" / "lock.py"))["locked"](fakes)

    def held(text, python):
        needed = [Requirement(line) for line in text.splitlines() if not line.startswith("#")]
        return {
            f"{one.name}{one.specifier}"
            for one in needed
            if one.marker is None or one.marker.evaluate({"python_version": python})
        }

    found = [held(made, python) for python in ("3.11", "3.12", "3.13")]
    assert found == [{"a==1", "b==1"}, {"a==1", "b==2", "c==3"}, set()]
    written = (ROOT / "constraints.txt").read_text()
    assert not held(written, "3.13")
    assert len(held(written, "3.11")) > 50


@pytest.mark.parametrize("name", PAGES)
def test_python_on_the_pages_compiles_and_names_what_there_is(name):
    for body in re.findall(r"^```python\n(.*?)^```", TEXTS[name], re.MULTILINE | re.DOTALL):
        tree = ast.parse(body)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "jaxstyle"
            ):
                assert hasattr(jaxstyle, node.attr), node.attr


# --- what the numbers mean ------------------------------------------------------------------------


def undescribed(names):
    """The names that stand in no code on the page of numbers."""
    code = " ".join(spans(NUMBERS))
    return [name for name in names if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", code)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run with snapshots, of the real network's first layers."""
    path = tmp_path_factory.mktemp("numbers") / "run"
    asked = jaxstyle.Sweep(
        content=(str(EXAMPLES / "cat.jpg"),),
        style=(str(EXAMPLES / "glass.jpg"),),
        content_layer=("conv1_1",),
        style_layers=("conv1_1",),
        size="32",
        steps=(1, 2),
        optimizer="adam",
    )
    jaxstyle.run_sweep(asked, jaxstyle.RunOptions(out=str(path), quiet=True))
    return path


def test_every_file_of_a_run_is_described(run):
    found = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert {"results.csv", "results.h5", "spec.toml", "images/000000-step000001.png"} <= found
    names = {Path(name).parts[0] + ("/" if "/" in name else "") for name in found}
    assert [name for name in names if f"`{name}" not in NUMBERS] == []


def test_every_column_is_described(run):
    columns = (run / "results.csv").read_text().splitlines()[0].split(",")
    assert undescribed((*columns, *scores.COLUMNS, *tables.COLUMNS)) == []


def test_every_dataset_is_described(run):
    for path in (run / "results.h5", run / "chunks" / "000000.h5"):
        names = set()
        with h5py.File(path) as file:
            file.visit(names.add)
            names |= {*file.attrs}
        assert undescribed(name.split("/")[1] for name in names if "/" in name) == []
        assert undescribed(name for name in names if not re.search("/|x", name)) == []
    calls = [n for n in ast.walk(ast.parse(Path(tables.__file__).read_text())) if isinstance(n, ast.Call)]
    puts = [c.args[1] for c in calls if isinstance(c.func, ast.Name) and c.func.id == "_put"]
    study = [name.value for name in puts if isinstance(name, ast.Constant)]
    assert len(study) > 15
    assert undescribed(study) == []


def test_every_entry_of_the_manifest_is_described(run):
    manifest = json.loads((run / "manifest.json").read_text())
    assert undescribed((*manifest, *manifest["timings"], *TIMERS)) == []
