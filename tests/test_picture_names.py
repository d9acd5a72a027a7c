"""Readable names of pictures: safe everywhere, the same in every process, right after every change."""

import os
import re
import string

import pytest
from conftest import EXAMPLES, FIVE_CHUNKS, Told, run_forked

from jaxstyle.plan.cells import sweep_cells
from jaxstyle.rundir import files, image_files
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.image_files import names_of
from jaxstyle.rundir.picture_names import ENDING, PictureNames, number_text, safe
from jaxstyle.rundir.records import open_record
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import Sweep

ALLOWED = {*string.ascii_letters, *string.digits, *"._-+"}


def names(**settings):
    sweep = resolve(Sweep(**{"content": "cat.jpg", "style": "monet.png", **settings}))
    cells = sweep_cells(sweep)
    made = PictureNames(cells, sweep.steps, sweep.given)
    return [made.name(cell.id, step) for cell in cells for step in sweep.steps]


def test_a_name_says_what_varies_and_ends_in_the_cells_number():
    assert names() == ["pictures/cat__monet__000000.png"]
    found = names(alpha_beta=(1e-2, "0.1x", 0.5, 0), seed=(3, 12))
    assert found[0] == "pictures/cat__monet__ab1e-2_s3__000000.png"
    values = "1e-2_s3 1e-2_s12 0.1x_s3 0.1x_s12 0.5_s3 0.5_s12 0_s3 0_s12"
    assert [name.split("__")[2] for name in found] == [f"ab{value}" for value in values.split()]
    assert names(steps=(50, 1000)) == [
        "pictures/cat__monet__step0050__000000.png",
        "pictures/cat__monet__step1000__000000.png",
    ]
    found = names(init=("noise", "photos/Käse.jpg"), content_layer=("conv2_2", "conv4_2"))
    assert [name.split("__")[2] for name in found] == [
        "conv2_2_noise",
        "conv2_2_Kaese",
        "conv4_2_noise",
        "conv4_2_Kaese",
    ]
    assert names(tv_weight=1e-3, learning_rate=(1, 2.5))[1].split("__")[2] == "lr2.5"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Käse & Brot", "Kaese_Brot"),
        ("Ka\u0308se", "Kaese"),  # as macOS writes it
        ("#1 100%?", "1_100"),
        ("a__b//c", "a_b_c"),
        ("-rf .hidden", "rf_.hidden"),
        ("Čapek, Łódź", "Capek_Lodz"),
        ("東京", ""),
        ("x" * 300, "x" * 40),
    ],
)
def test_texts_become_safe(given, expected):
    assert safe(given, 40) == expected


def test_names_are_safe_unique_and_of_bounded_length():
    layers = ("+".join(f"conv{n}_1:0.123456" for n in range(1, 6)), "conv1_1")
    paths = tuple(f"/photos/{i}/{text}.jpg" for i, text in enumerate(["東京", "京都", "ä" * 200, "con"]))
    found = names(
        content=paths, style=paths, style_layers=layers, init=("noise", *paths), alpha_beta=(1e-3, 1e-30),
        learning_rate=(1, 2), seed=(0, 2**32 - 1), steps=(1, 10_000_000),
    )  # fmt: skip
    assert len({name.casefold() for name in found}) == 4 * 4 * 2 * 5 * 2 * 2 * 2 * 2
    assert max(len(name) for name in found) < 220
    assert {character for name in found for character in name.removeprefix("pictures/")} <= ALLOWED
    for cell, name in enumerate(found):
        ending = ENDING.search(name)
        assert ending is not None
        assert int(ending[1]) == cell // 2
    assert found[0].startswith("pictures/content1__style1__")


def test_numbers_are_short():
    values = (1e-2, 0.1, 1.0, 12.0, 2.5e-4, 1e5, 0.0, 123456.7, 1e-30)
    expected = ["1e-2", "0.1", "1", "12", "2.5e-4", "1e5", "0", "1.23457e5", "1e-30"]
    assert list(map(number_text, values)) == expected


def pictures(run):
    return sorted(path.name for path in (run / "pictures").iterdir())


def agree(run):
    """Check that `pictures/` has every picture of a run by its present name, and nothing else."""
    record = open_record(run)
    images = sorted((run / "images").iterdir())
    expected = {names_of(record).name(int(path.stem), record.sweep.steps[-1]): path for path in images}
    assert {f"pictures/{name}" for name in pictures(run)} == expected.keys()
    for name, path in expected.items():
        assert os.path.samefile(run / name, path)
    assert not re.search(r"\.tmp-", " ".join(pictures(run)))
    return expected


def test_names_survive_a_kill_a_resume_a_report_and_an_extension(tmp_path):
    out = tmp_path / "run"
    command = Told("-m", "jaxstyle.sweep", *FIVE_CHUNKS, "--out", out)
    assert command.until(lambda: len(command.named("chunk")) == 2)
    command.process.kill()
    command.end()
    there = pictures(out)
    assert 2 <= len(there) <= 4
    assert there[1] == "pagoda__cafe__s1__000001.png"
    (out / "pictures" / there[0]).unlink()
    (out / "pictures" / "mine.png").write_bytes(b"mine")
    run_forked("-m", "jaxstyle.sweep", *FIVE_CHUNKS, "--out", out, "--resume", "--quiet", check=True)
    (out / "pictures" / "mine.png").unlink()
    assert len(agree(out)) == 5
    (out / "pictures" / "stale__000000.png").write_bytes(b"of an earlier name")
    others = out / "pictures" / "pagoda__cafe__s9__000009.png"  # a share at work has just written it
    others.touch()
    with RunDirectory(out) as run:
        image_files.name_pictures(run, open_record(out), range(5))
    others.unlink()
    assert len(agree(out)) == 5
    styles = ("--style", EXAMPLES / "cafe.jpg", "--alpha-beta", "1e-3", "1e-2", "--seed", "0:2")
    run_forked(
        "-m", "jaxstyle.sweep", *FIVE_CHUNKS[:2], *styles, *FIVE_CHUNKS[6:], "--out", out, "--extend",
        "--quiet", check=True,
    )  # fmt: skip
    found = agree(out)
    assert len(found) == 7
    assert "pictures/pagoda__cafe__ab1e-3_s1__000001.png" in found


def test_a_file_system_without_links_gets_copies(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(1, "Operation not permitted")

    (tmp_path / "a.png").write_bytes(b"picture")
    pair = [(tmp_path / "a.png", tmp_path / "names" / "b.png")]
    monkeypatch.setattr(os, "link", link)
    files.link_together(pair)
    assert not os.path.samefile(*pair[0])
    assert pair[0][1].read_bytes() == b"picture"
    monkeypatch.undo()
    files.link_together(pair)
    files.link_together(pair)  # and once more, where both are names of one file
    assert os.path.samefile(*pair[0])
    assert [path.name for path in (tmp_path / "names").iterdir()] == ["b.png"]
