"""Folders as contents and styles: what is in them, what is left out, and what a resume takes them for."""

import json
import os

import numpy as np
import pytest
from conftest import EXAMPLES, random_image, run_forked
from PIL import Image

import jaxstyle
from jaxstyle.run.checked import check_run
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.folders import images_in, natural_key
from jaxstyle.spec.options import check_options
from jaxstyle.spec.settings import RunOptions, Sweep

STYLE = str(EXAMPLES / "cafe.jpg")
SMALL = {
    "size": "32",
    "steps": (2,),
    "pyramid": 0,
    "style_layers": ("conv1_1",),
    "content_layer": ("conv1_2",),
}
FLAGS = ["--size", "32", "--steps", "2", "--pyramid", "0", "--style-layers", "conv1_1"]
FLAGS += ["--content-layer", "conv1_2", "--quiet"]
NAMES = ("img10.jpg", "IMG2.JPG", "b #1 100%.png", "Käse.png", "sub/img1.png", "sub/.no/x.png")
OTHERS = (".DS_Store", "Thumbs.db", "img2.xmp", "img2.json", "notes.txt", "._img2.jpg", "film.mov")


def draw(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_image(32, 40, seed)).save(path)


@pytest.fixture
def photos(tmp_path):
    """A folder of pictures of every kind of name, of sidecars and of a run."""
    folder = tmp_path / "photos"
    for seed, name in enumerate(NAMES):
        draw(folder / name, seed)
    for name in OTHERS:
        (folder / name).write_bytes(b"no picture")
    for name in ("spec.toml", "manifest.json", "images/000000.png"):
        (folder / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "run" / name).write_bytes(b"")
    return folder


def test_names_are_sorted_as_people_sort_them():
    names = ["img10", "img2", "IMG1", "img", "2", "10", "a1b10", "a1b9", "a01b9", "\u0661"]
    expected = ["2", "10", "a01b9", "a1b9", "a1b10", "img", "IMG1", "img2", "img10", "\u0661"]
    assert sorted(names, key=natural_key) == expected


def test_a_folder_is_its_images_in_natural_order(photos):
    flat = ["b #1 100%.png", "IMG2.JPG", "img10.jpg", "Käse.png"]
    assert images_in(str(photos)) == flat
    assert images_in(str(photos), recursive=True) == [*flat, os.path.join("sub", "img1.png")]


def test_folders_in_flags_specs_grids_and_python_are_the_same(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    expected = tuple(str(photos / name) for name in images_in(str(photos)))
    (photos.parent / "spec.toml").write_text(f'content = "photos"\nstyle = ["{STYLE}"]\n')
    (photos.parent / "grid.toml").write_text(f'[[grid]]\ncontent = ["photos/"]\nstyle = ["{STYLE}"]\n')
    spec = assemble({"spec": "spec.toml"}).sweep
    assert spec.content == expected
    assert assemble({"spec": "grid.toml"}).sweep.grid[0]["content"] == expected
    flags = assemble({"content": ("photos",), "style": (STYLE,)}).sweep
    assert flags.content == expected
    assert flags.folders == {"content": (str(photos),)}
    assert flags.given["content", expected[0]] == os.path.join("photos", "b #1 100%.png")
    for given in ("photos", photos, ("photos",)):
        checked = check_run(Sweep(content=given, style=(STYLE,), **SMALL), RunOptions(), "sweep")
        assert checked.sweep.content == expected
    deep = assemble({"content": ("photos",), "style": (STYLE,), "recursive": True}).sweep
    assert len(deep.content) == 5
    # A stronger source replaces an axis, and with it what its folders mean for a resume.
    assert assemble({"spec": "spec.toml", "content": (expected[1],)}).sweep.folders == {}


def test_a_folder_named_like_a_word_is_the_word(photos, monkeypatch):
    draw(photos / "none" / "a.png")
    monkeypatch.chdir(photos)
    assert assemble({"content": ("none",), "style": (STYLE,), "size": "64"}).sweep.content == ("none",)
    (own,) = assemble({"content": ("./none",), "style": (STYLE,)}).sweep.content
    assert own == str(photos / "none" / "a.png")


def test_folders_without_images_are_one_line(photos):
    (photos.parent / "empty").mkdir()
    (photos.parent / "empty" / "notes.txt").write_text("x")
    with pytest.raises(JaxstyleError, match=r"empty: there is no image in this folder, .*--recursive"):
        images_in(str(photos.parent / "empty"))
    with pytest.raises(JaxstyleError, match=r"empty: there is no image in this folder$"):
        images_in(str(photos.parent / "empty"), recursive=True)
    done = run_forked("-m", "jaxstyle.sweep", "--content", photos.parent / "empty", "--style", STYLE)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    for command in ("transfer", "calibrate", "features"):
        others = () if command == "features" else (STYLE,)
        out = ("-o", photos / "out.png") if command == "transfer" else ()
        done = run_forked("-m", f"jaxstyle.{command}", photos, *others, *out)
        assert done.returncode == 2
        assert done.stderr.endswith(
            "give an image file (jaxstyle.sweep takes folders as content or style)\n"
        )


def checked(content, *, style=STYLE, **options):
    sweep = Sweep(content=content, style=style, **SMALL)
    return check_run(sweep, check_options(RunOptions(quiet=True, **options)), "sweep")


def test_a_bad_image_is_named_and_skipping_leaves_it_out(photos, tmp_path):
    bad, tiny = photos / "img3.png", photos / "img4.png"
    bad.write_bytes((photos / "b #1 100%.png").read_bytes()[:500])
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tiny)
    with pytest.raises(JaxstyleError, match=r"img3.png: is damaged .*; or give --skip-bad to go on"):
        checked(str(photos))
    found = checked(str(photos), skip_bad=True)
    assert list(found.skipped) == [str(bad), str(tiny)]
    assert "too small" in found.skipped[str(tiny)]
    left = [path for path in images_in(str(photos)) if path not in ("img3.png", "img4.png")]
    assert [cell.content for cell in found.cells] == [str(photos / name) for name in left]
    assert found.pictures.sha256.keys() == {*found.sweep.content, STYLE}
    # One image alone is no folder that could go on without it; nor does anything go on without any.
    for option in ({}, {"skip_bad": True}):
        with pytest.raises(JaxstyleError) as error:
            checked(str(bad), **option)
        assert "--skip-bad" not in str(error.value)
    with pytest.raises(JaxstyleError, match=r"content: none of its images can be read; .*img3.png: is dam"):
        checked((str(bad), str(tiny)), skip_bad=True)
    # A file that is not the one that a spec names is no bad file.
    named = Sweep(content=str(photos), style=STYLE, digests={str(photos / "IMG2.JPG"): "0" * 64}, **SMALL)
    with pytest.raises(JaxstyleError, match=r"IMG2\.JPG: has sha256"):
        check_run(named, check_options(RunOptions(skip_bad=True)), "sweep")
    # Zipped axes lose both values.
    pairs = [str(bad), str(photos / "IMG2.JPG")], [STYLE, str(EXAMPLES / "glass.jpg")]
    grid = {"content": pairs[0], "style": pairs[1], "zip": ["content", "style"]}
    found = check_run(Sweep(grid=(grid,), **SMALL), check_options(RunOptions(skip_bad=True)), "sweep")
    assert [(cell.content, cell.style) for cell in found.cells] == [(pairs[0][1], pairs[1][1])]
    assert STYLE not in found.pictures.sha256
    assert not (tmp_path / "runs").exists()


def test_a_run_of_a_folder_names_what_it_left_out_and_resumes_its_own_list(photos, tmp_path):
    bad, out = photos / "img3.png", tmp_path / "run"
    bad.write_bytes(b"\x89PNG")
    flags = ["--content", photos, "--style", STYLE, *FLAGS, "--out", out]
    first = run_forked(
        "-m", "jaxstyle.sweep", *(f for f in flags if f != "--quiet"), "--skip-bad", check=True
    )
    assert first.stdout.splitlines()[-1] == f"left out: {bad} (is damaged or cut short; save it again)"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["skipped"] == {str(bad): "is damaged or cut short; save it again"}
    assert f"<li>{bad}: is damaged" in (out / "report.html").read_text()
    before = {path.name: path.read_bytes() for path in (out / "images").iterdir()}
    assert len(before) == 4
    # The folder changes: a resume is of the list that the run has, and says what it has not.
    draw(photos / "a.png", 9)
    again = ["-m", "jaxstyle.sweep", *flags, "--resume"]
    done = run_forked(*(f for f in again if f != "--quiet"), check=True)
    assert f"1 image of its folders is not in this run, such as {photos / 'a.png'}" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("left out: ")
    # Files named one by one, as by a shell, may be those of the run and the one that it left out.
    named = [str(photos / n) for n in ("b #1 100%.png", "IMG2.JPG", "img3.png", "img10.jpg", "Käse.png")]
    whole = list(checked(str(photos), out=str(out), shard="1/2").sweep.content)
    assert list(checked(named, out=str(out), resume=True).sweep.content) == whole
    with pytest.raises(JaxstyleError, match="content is"):
        checked(named[1:], out=str(out), resume=True)
    (photos / "img10.jpg").rename(photos / "z.jpg")  # is found by its bytes
    moved = [path.replace("img10.jpg", "z.jpg") for path in whole]
    assert list(checked(str(photos), out=str(out), resume=True).sweep.content) == moved
    (photos / "z.jpg").rename(photos / "img10.jpg")
    assert before == {path.name: path.read_bytes() for path in (out / "images").iterdir()}
    # Extending adds what is new, and what can be read by now.
    draw(bad, 7)
    run_forked("-m", "jaxstyle.sweep", *flags, "--extend", check=True)
    rows = jaxstyle.open_run(out).rows
    assert [os.path.basename(row["content"]) for row in rows[4:]] == ["a.png", "img3.png"]
    assert all((out / "images" / name).read_bytes() == data for name, data in before.items())
    assert "skipped" not in json.loads((out / "manifest.json").read_text())
