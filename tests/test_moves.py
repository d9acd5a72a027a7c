"""A run whose folder, pictures or links have moved: the same bytes are the same picture everywhere."""

import os
import shutil
import tomllib

import pytest
from conftest import random_image
from PIL import Image
from torture import digests

import jaxstyle
from jaxstyle import report, sweep
from jaxstyle.inputs import weights
from jaxstyle.rundir.records import open_record
from jaxstyle.spec import errors, paths

SETTINGS = ("--size", "48", "--steps", "2", "--optimizer", "adam", "--content-layer", "conv2_2")
SETTINGS += ("--style-layers", "conv1_1+conv2_1", "--style-weights", "equal", "--conv", "plain")
PICTURES = (
    "--content",
    "pics/c.png",
    "pics/d.png",
    "--style",
    "s.png",
    "--init",
    "noise",
    "pics/start.png",
)


def command(*arguments):
    """The exit code of a sweep in this process."""
    with pytest.raises(SystemExit) as stop:
        sweep.main([str(a) for a in (*arguments, "--quiet")])
    return stop.value.code


def spec_of(run):
    return tomllib.loads((run / "spec.toml").read_text())


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A project with pictures and its two runs of four cells: `run` beside them, and `runs/first`."""
    project = tmp_path_factory.mktemp("begun") / "proj"
    (project / "pics").mkdir(parents=True)
    for seed, name in enumerate(("pics/c.png", "pics/d.png", "pics/start.png", "s.png")):
        Image.fromarray(random_image(36, 48, seed)).save(project / name)
    here = os.getcwd()
    try:
        os.chdir(project)
        assert command(*PICTURES, *SETTINGS, "--out", "run") == 0
        assert command(*PICTURES, *SETTINGS, "--out", "runs/first") == 0
    finally:
        os.chdir(here)
    return project


@pytest.fixture
def project(begun, tmp_path, monkeypatch):
    """The project after a move, with a chunk of each run missing and nothing left in the old place."""
    shutil.copytree(begun, tmp_path / "proj")
    shutil.move(begun, begun.with_name("away"))
    monkeypatch.chdir(tmp_path / "proj")
    for run in ("run", "runs/first"):
        open_record(tmp_path / "proj" / run).chunk_paths[0].unlink()
    yield tmp_path / "proj"
    shutil.move(begun.with_name("away"), begun)


GIVEN = (*PICTURES, *SETTINGS)


def with_pictures(*pictures):
    return (*pictures, *SETTINGS)


def test_paths_under_the_parent_of_a_run_are_relative_to_it_and_others_absolute(begun):
    spec = spec_of(begun / "run")
    assert spec["content"] == ["../pics/c.png", "../pics/d.png"]
    assert spec["style"] == ["../s.png"]
    assert spec["init"] == ["noise", "../pics/start.png"]
    assert set(spec["digests"]) == {"../pics/c.png", "../pics/d.png", "../pics/start.png", "../s.png"}
    assert spec_of(begun / "runs" / "first")["style"] == [str(begun / "s.png")]


def test_a_path_is_relative_by_whatever_link_the_run_was_named(tmp_path):
    (tmp_path / "proj" / "noise").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "proj")
    run = tmp_path / "link" / "run"
    for base in ("proj", "link"):
        assert paths.spelled(str(tmp_path / base / "c.png"), run) == "../c.png"
    assert paths.spelled(str(tmp_path / "link" / "run" / "noise"), run) == "./noise"  # no kind of start
    assert paths.spelled("/elsewhere/c.png", run) == "/elsewhere/c.png"
    assert paths.spelled("/elsewhere/c.png", "/run") == "/elsewhere/c.png"  # "/" is nobody's project


@pytest.mark.parametrize("run", ["run", "runs/first"])
@pytest.mark.parametrize("named", [True, False])
def test_a_moved_project_goes_on(begun, project, run, named):
    assert command(*(GIVEN if named else ()), "--resume", "--out", run) == 0
    assert digests(project / run) == digests(begun.with_name("away") / run)
    rows = jaxstyle.open_run(project / run).rows
    assert [row["content"] for row in rows] == ["pics/c.png"] * 2 + ["pics/d.png"] * 2
    assert [row["init"] for row in rows] == ["noise", "pics/start.png"] * 2


@pytest.mark.parametrize("run", ["run", "runs/first"])
def test_a_moved_run_is_extended_and_repeated(project, run):
    assert command("--resume", "--out", run) == 0
    assert command("--extend", "--out", run, "--seed", "0:2") == 0
    rows = jaxstyle.open_run(project / run).rows
    assert len(rows) == 8
    assert {row["style"] for row in rows} == {"s.png"}
    assert command("--spec", f"{run}/spec.toml", "--out", "again") == 0
    again = jaxstyle.open_run("again")
    assert all((again.image(i) == jaxstyle.open_run(run).image(i)).all() for i in range(8))


def test_a_run_that_was_moved_alone_finds_its_pictures_where_it_was_begun(begun, tmp_path, monkeypatch):
    shutil.copytree(begun / "run", tmp_path / "archive")
    monkeypatch.chdir(tmp_path)
    open_record(tmp_path / "archive").chunk_paths[0].unlink()
    assert command("--resume", "--out", "archive") == 0
    assert digests(tmp_path / "archive") == digests(begun / "run")
    assert spec_of(tmp_path / "archive")["style"] == [str(begun / "s.png")]


@pytest.mark.parametrize("run", ["run", "runs/first"])
def test_a_moved_run_goes_on_from_any_folder(begun, project, monkeypatch, tmp_path, run):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command("--resume", "--out", project / run) == 0
    assert digests(project / run) == digests(begun.with_name("away") / run)
    assert command("--spec", project / run / "spec.toml", "--dry-run") == 0


def test_where_a_file_is_now_lasts_though_nothing_is_left_to_compute(project):
    assert command("--resume", "--out", "run") == 0
    os.rename("pics/d.png", "pics/e.png")
    given = [p.replace("d.png", "e.png") for p in GIVEN]
    assert command(*given, "--resume", "--out", "run") == 0
    assert spec_of(project / "run")["content"] == ["../pics/c.png", "../pics/e.png"]
    assert command("--resume", "--out", "run") == 0
    assert jaxstyle.open_run("run").rows[3]["content"] == "pics/d.png"


def test_files_of_equal_bytes_are_told_apart_and_handed_out_once(tmp_path):
    for name in ("a2.png", "b2.png", "a3.png"):
        (tmp_path / name).write_bytes(b"same")
    digest = paths.sha256(str(tmp_path / "a2.png"))
    gone = {f"/gone/{name}": digest for name in ("a.png", "b.png")}
    among = [str(tmp_path / name) for name in ("a2.png", "b2.png")]
    assert list(paths.find_moved(gone, places=(), among=among).values()) == among
    assert paths.find_moved({"/gone/a3.png": digest}, places=(tmp_path,)) == {
        "/gone/a3.png": str(tmp_path / "a3.png")
    }


def test_a_link_inside_what_was_moved_loses_no_text(begun, tmp_path, monkeypatch):
    shutil.copytree(begun, tmp_path / "x" / "proj", ignore=shutil.ignore_patterns("run*"))
    (tmp_path / "x" / "link").symlink_to("proj")
    monkeypatch.chdir(tmp_path / "x")
    given = ("--content", "proj/pics/c.png", "--style", "proj/s.png", "--out", "link/run")
    assert command(*with_pictures(*given)) == 0
    before = digests(tmp_path / "x" / "proj" / "run")
    monkeypatch.chdir(tmp_path)
    os.rename("x", "y")
    with pytest.raises(SystemExit):
        report.main(["y/proj/run"])
    assert digests(tmp_path / "y" / "proj" / "run") == before


def test_weights_are_the_same_by_their_bytes(project, tmp_path):
    shutil.copy(weights.packaged_path(), tmp_path / "w.h5")
    assert command("--resume", "--out", "run") == 0
    assert command("--resume", "--out", "run", "--weights", tmp_path / "w.h5") == 0
    assert "weights" not in spec_of(project / "run")


def test_another_link_or_a_copy_of_a_picture_is_that_picture(begun, project, tmp_path, capsys):
    (tmp_path / "link").symlink_to(project)
    shutil.copy("s.png", tmp_path / "painting.png")
    given = ("--content", tmp_path / "link" / "pics" / "c.png", project / "pics" / "d.png")
    given += ("--style", tmp_path / "painting.png", "--init", "noise", tmp_path / "link/pics/start.png")
    assert command(*with_pictures(*given), "--resume", "--out", "run") == 0
    assert digests(project / "run") == digests(begun.with_name("away") / "run")
    assert spec_of(project / "run")["style"] == ["../s.png"]


def test_a_picture_that_is_gone_is_found_among_those_that_are_given(project, tmp_path, capsys):
    there = tmp_path / "d, developed anew.png"
    shutil.move(project / "pics" / "d.png", there)
    assert command("--resume", "--out", "run") == 2
    assert "pics/d.png: cannot be read: No such file" in capsys.readouterr().err
    given = [str(there) if p == "pics/d.png" else p for p in GIVEN]
    assert command(*given, "--resume", "--out", "run") == 0
    assert spec_of(project / "run")["content"] == ["../pics/c.png", str(there)]
    assert jaxstyle.open_run("run").rows[3]["content"] == "pics/d.png"  # as when the run was begun
    assert command("--resume", "--out", "run") == 0


def test_another_picture_is_still_another_picture(project, capsys):
    other = [("s.png" if p == "pics/d.png" else p) for p in GIVEN]
    assert command(*other, "--resume", "--out", "run") == 2
    assert "content is" in capsys.readouterr().err
    Image.fromarray(random_image(36, 48, 9)).save("pics/d.png")
    assert command(*GIVEN, "--resume", "--out", "run") == 2
    assert "pics/d.png: has sha256" in capsys.readouterr().err


def test_a_report_needs_no_picture(project):
    assert command("--resume", "--out", "run") == 0
    before = digests(project / "run")
    shutil.rmtree("pics")
    with pytest.raises(SystemExit) as stop:
        report.main(["run"])
    assert stop.value.code == 0
    assert digests(project / "run") == before


# --- a home ---------------------------------------------------------------------------------------


def test_a_tilde_is_the_home_of_the_user(project, monkeypatch, tmp_path):
    home = tmp_path / "home"
    shutil.copytree("pics", home / "pics")
    monkeypatch.setenv("HOME", str(home))
    study = 'content = ["~/pics/c.png"]\nstyle = ["s.png"]\nout = "~/runs/x"\n'
    (project / "study.toml").write_text(study)
    assert command("--spec", "study.toml", *SETTINGS) == 0
    given = ("--content", "~/pics/c.png", "--style", "~/pics/d.png")
    assert command(*with_pictures(*given), "--out=~/runs/y") == 0
    assert sorted(p.name for p in (home / "runs").iterdir()) == ["x", "y"]
    assert jaxstyle.open_run("~/runs/y").rows[0]["content"] == "~/pics/c.png"
    with pytest.raises(SystemExit) as stop:
        report.main(["~/runs/y"])
    assert stop.value.code == 0
    assert not (project / "~").exists()
    monkeypatch.setenv("HOME", "")
    with pytest.raises(errors.JaxstyleError, match="~ stands for your home directory, but none is set"):
        jaxstyle.open_run("~/runs/y")
    assert paths.at_home("~no-such-user/x") == "~no-such-user/x"


def test_two_dots_after_a_link_lead_to_the_folder_of_what_it_points_to(tmp_path, monkeypatch):
    """As everywhere; a run's own path may be a link, and its spec's `..` leads back from that."""
    for name in ("far/deep", "here/own"):
        (tmp_path / name).mkdir(parents=True)
    here, far = tmp_path / "here", tmp_path / "far"
    (here / "link").symlink_to(far / "deep")
    (tmp_path / "near").symlink_to(far / "deep")
    for folder in (here, far):
        (folder / "x.png").write_text(folder.name)
    cases = {
        "link/../x.png": far,
        "./own/../link/../x.png": far,
        "own/../x.png": here,
        "../here/x.png": here,
        "../near/../x.png": far,
        "../far/deep/../x.png": far,
        f"{here}/link/../x.png": far,
        f"{here}/link/../../here/own/../x.png": here,
        "link/deeper/../../x.png": far,
    }
    (far / "deep" / "deeper").mkdir()
    for text, folder in cases.items():
        found = paths.taken_from(here, text)
        assert os.path.samefile(found, here / text), text
        assert found == str(folder / "x.png"), text
    (tmp_path / "runs").symlink_to(far / "deep")  # the run is deep, and was begun as runs
    assert paths.taken_from(tmp_path / "runs", "../here/x.png") == str(here / "x.png")
