"""Contact sheets: the place of every picture, and that reports need no JAX and no lock-step."""

import hashlib
import json
import os
import shutil

import h5py
import numpy as np
import pytest
from conftest import ROOT, run_forked, run_python
from made_runs import make_run, write_run
from PIL import Image
from test_store import fill, result

import jaxstyle
from jaxstyle import report
from jaxstyle.derived import drawing
from jaxstyle.derived.build import build_derived
from jaxstyle.derived.sheets import MAX_COLUMNS, MAX_ROWS, lay_out
from jaxstyle.derived.tiles import Tile, axis_names, group_axes, place_tiles
from jaxstyle.metrics.build import score_run
from jaxstyle.rundir import directory
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.manifest import share_reports
from jaxstyle.rundir.records import open_record
from jaxstyle.rundir.results_csv import read_rows
from jaxstyle.rundir.results_h5 import merge, merge_into
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import Sweep
from jaxstyle.study.build import build_study


def layout(tmp_path, chunks_of, **settings):
    record = fill(tmp_path / "run", chunks_of, **settings)
    present = [int(c) for chunk in chunks_of for c in chunk.cell]
    return record, lay_out(record, place_tiles(record, present))


def test_slower_axes_go_down_and_faster_ones_across(tmp_path):
    _, (sheet,) = layout(tmp_path, [result(range(4))])
    # Contents are the slowest axis, then seeds, then the two snapshots.
    assert [line.label for line in sheet.rows] == ["a b", "c"]
    assert [line.label for line in sheet.columns] == [
        "seed 0\nsteps 2",
        "seed 0\nsteps 5",
        "seed 1\nsteps 2",
        "seed 1\nsteps 5",
    ]
    assert sheet.rows[0].pictures == ("/a b.png",)
    assert [sheet.tiles[i, j].cell for i in range(2) for j in (0, 2)] == [0, 1, 2, 3]
    assert [sheet.tiles[1, j].snapshot for j in range(4)] == [0, 1, 0, 1]


def test_a_page_is_as_square_as_its_axes_allow(tmp_path):
    record = fill(tmp_path / "run", [], seed=("0:3",), alpha_beta=(1.0, 2.0, 3.0, 4.0))
    (sheet,) = lay_out(record, place_tiles(record, range(24)))
    assert (len(sheet.rows), len(sheet.columns)) == (8, 6)


def test_zipped_axes_are_one(tmp_path):
    settings = {
        "grid": ({"content": ["/a", "/b"], "style": ["/x", "/y"], "zip": ["content", "style"]},),
        "seed": (0, 1, 2),
    }
    record, _ = layout(tmp_path, [result(range(6))], **settings)
    tiles = place_tiles(record, range(6))
    assert group_axes(tiles) == [("content", "style"), ("seed",), ("steps",)]


def test_cells_that_are_not_there_leave_a_gap(tmp_path):
    _, (sheet,) = layout(tmp_path, [result([0, 3, 4, 5])], alpha_beta=(1.0, 2.0))
    assert {t.cell for t in sheet.tiles.values()} == {0, 3, 4, 5}
    assert len(sheet.tiles) == 8
    assert len(sheet.rows) * len(sheet.columns) > 8


def test_one_axis_alone_is_wrapped_with_captions(tmp_path):
    record = fill(tmp_path / "run", [], content=("/a",), seed=("0:10",))
    tiles = [Tile(cell=i, snapshot=0, place={"seed": str(i)}) for i in range(10)]  # as for one snapshot
    (sheet,) = lay_out(record, tiles)
    assert len(sheet.columns) == 4
    assert len(sheet.rows) == 3
    assert sheet.captions[2, 1] == "seed 9"


def test_large_grids_are_split_into_pages(tmp_path):
    record = fill(tmp_path / "run", [], seed=("0:100",), alpha_beta=tuple(float(i) for i in range(50)))
    pages = lay_out(record, place_tiles(record, range(2 * 100 * 50)))
    assert all(len(p.rows) <= MAX_ROWS and len(p.columns) <= MAX_COLUMNS for p in pages)
    found = [(t.cell, t.snapshot) for p in pages for t in p.tiles.values()]
    assert len(found) == len(set(found)) == 2 * 2 * 100 * 50


def test_names_that_collide_are_given_in_full(tmp_path):
    record = fill(tmp_path / "run", [], content=("/x/cat.png", "/y/cat.png"))
    assert set(axis_names(record, "content").values()) == {"/x/cat.png", "/y/cat.png"}


def test_two_grids_that_share_no_row_and_no_column_leave_no_empty_sheet(tmp_path):
    """The blank sheet between them could not be drawn, and the run never ended."""
    names = [f"/{i}" for i in range(60)]
    grid = ({"content": names[:30], "seed": ["0:50"]}, {"content": names[30:], "seed": ["50:100"]})
    record = fill(tmp_path / "run", [], content=tuple(names), grid=grid)
    pages = lay_out(record, place_tiles(record, range(3000), [0]))
    assert all(page.tiles for page in pages)
    assert len([tile for page in pages for tile in page.tiles.values()]) == 3000


def test_files_given_by_one_name_in_two_folders_stay_apart(tmp_path):
    paths = ("/x/cat.png", "/y/cat.png")
    sweep = resolve(Sweep(content=paths, style=("/s.png",), alpha_beta=(1.0,)))
    given = {"content": dict.fromkeys(paths, "cat.png")}
    record = write_run(tmp_path / "run", sweep, [], manifest={"given": given}, shape=(32, 32))
    assert axis_names(record, "content") == {path: path for path in paths}


@pytest.mark.parametrize("text", ["Vincent_van_Gogh_-_The_Starry_Night_-_Google", "x" * 90, "é 猫 " * 30])
def test_long_texts_of_sheets_are_broken(text):
    found = drawing.wrapped(text, 160)
    assert max(drawing.extent(line)[0] for line in found.split("\n")) <= 160
    assert "".join(found.split()) == "".join(drawing.readable(text).split())
    assert drawing.wrapped("seed 0\nsteps 2", 160) == "seed 0\nsteps 2"


def test_sheets_show_small_pictures_pixel_for_pixel(tmp_path):
    chunk = result(range(4), shape=(40, 60))
    record = fill(tmp_path / "run", [chunk])
    with RunDirectory(tmp_path / "run") as run:
        built = build_derived(run)
    assert [p.name for p in built.sheets] == ["contact.png"]
    page = np.asarray(Image.open(built.sheets[0]))
    windows = np.lib.stride_tricks.sliding_window_view(page[:, :, 0], (1, 60))[:, :, 0]
    for pixels in chunk.image.reshape(-1, 40, 60, 3):
        assert (windows == pixels[0, :, 0]).all(-1).any()
    for cell in range(4):
        saved = np.asarray(Image.open(tmp_path / "run" / "images" / f"{cell:06d}.png"))
        np.testing.assert_array_equal(saved, chunk.image[cell, 1])
        early = np.asarray(Image.open(tmp_path / "run" / "images" / f"{cell:06d}-step000002.png"))
        np.testing.assert_array_equal(early, chunk.image[cell, 0])
    assert len(read_rows(record)) == 4


def test_report_rebuilds_the_same_bytes_without_jax(tmp_path):
    fill(tmp_path / "run", [result([0, 1]), result([2, 3])])
    code = (
        "import sys; sys.argv = ['report', sys.argv[1]]\n"
        "from jaxstyle import report\n"
        "try: report.main()\n"
        "except SystemExit as stop: assert stop.code == 0, stop.code\n"
        "assert not any(m.split('.')[0] in ('jax', 'jaxlib', 'flax') for m in sys.modules)\n"
    )
    derived = ("results.csv", "results.h5", "sheets/contact.png", "images/000003.png")
    run_python("-c", code, tmp_path / "run", check=True)
    first = [(tmp_path / "run" / name).read_bytes() for name in derived]
    for name in derived:
        (tmp_path / "run" / name).unlink()
    run_python("-c", code, tmp_path / "run", check=True)
    assert first == [(tmp_path / "run" / name).read_bytes() for name in derived]


@pytest.mark.parametrize(
    ("make", "code", "expected"),
    [
        (lambda path: None, 2, "is not a run directory"),
        (lambda path: fill(path, []), 2, "no chunk has been computed yet"),
        (lambda path: fill(path, [result([0, 1, 2, 3], diverged=(1,))]), 1, "1 of 4 cells diverged"),
    ],
)
def test_report_exits_as_promised(tmp_path, capsys, make, code, expected):
    make(tmp_path / "run")
    with pytest.raises(SystemExit) as stop:
        report.main([str(tmp_path / "run")])
    assert stop.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxstyle: error: " if code == 2 else "jaxstyle: ")
    assert expected in line


def test_report_command_has_help():
    done = run_forked("-m", "jaxstyle.report", "--help", check=True, cwd=ROOT)
    assert "RUN" in done.stdout


# --- which files count ----------------------------------------------------------------------------


def reported(path, capsys):
    """The exit code of `report`, its lines and its errors."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        report.main([str(path)])
    said = capsys.readouterr()
    return stop.value.code, said.out.splitlines(), said.err.splitlines()


@pytest.fixture(scope="module")
def four_cells(tmp_path_factory):
    """A run of two chunks, whose manifest has their digests."""
    path = tmp_path_factory.mktemp("made") / "run"
    record = make_run(path, content=("cat.jpg",), style=("glass.jpg",), seed=("0:4",), per_chunk=2)
    listed = {f"chunks/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in record.chunk_paths}
    (path / "manifest.json").write_text(json.dumps({**record.manifest, "chunks_sha256": listed}))
    return path


@pytest.fixture
def four(four_cells, tmp_path):
    """A copy of it."""
    shutil.copytree(four_cells, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("done", [True, False])
def test_copies_beside_the_chunks_count_for_nothing(four, capsys, done):
    names = ["000000 (1).h5", "000000.sync-conflict-20261124-101500-ABCDEFG.h5", "000000 copy.h5"]
    names += [
        "0000000.h5",
        "000007.h5",
        "000000.h5.bad",
        "000000.H5",
        "+00000.h5",
        "٠٠٠٠٠٠.h5",
        ".000000.h5",
    ]
    for name in names:
        shutil.copy(four / "chunks" / "000000.h5", four / "chunks" / name)
    if not done:
        (four / "chunks" / "000001.h5").unlink()
        manifest = json.loads((four / "manifest.json").read_text())
        (four / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    code, lines, errors = reported(four, capsys)
    assert (code, errors) == (0, [])
    assert lines[0].startswith("4 of 4 cells" if done else "2 of 4 cells")
    assert [row["cell"] for row in jaxstyle.open_run(four).rows] == ([0, 1, 2, 3] if done else [0, 1])
    assert sorted(p.name for p in (four / "images").iterdir())[-1] == (
        "000003.png" if done else "000001.png"
    )


def every_reader(path):
    """The readers of a run's chunks, each as a function without arguments."""
    return {
        "report": lambda: build_derived(directory.RunDirectory(path)),
        "open_run": lambda: jaxstyle.open_run(path),
        "merge": lambda: merge(open_record(path)),
        "merge of a large run": lambda: merge_into(path, path / "merged.h5"),
        "variance": lambda: build_study(directory.RunDirectory(path)),
        "score": lambda: score_run(directory.RunDirectory(path)),
    }


@pytest.mark.parametrize("reader", every_reader(None))
@pytest.mark.parametrize("other", ["seeds", "steps", "pool", "images"])
def test_a_chunk_of_another_run_is_refused_by_every_reader(four, tmp_path, reader, other):
    axes = {"content": ("cat.jpg",), "style": ("glass.jpg",), "seed": ("0:4",), "per_chunk": 2}
    changed = {
        "seeds": {"seed": ("4:8",)},
        "steps": {"steps": (20, 60)},
        "pool": {"pool": "max"},
        "images": {"style": ("brushwork.jpg",)},
    }
    foreign = make_run(tmp_path / "other", **(axes | changed[other])).chunk_paths[0]
    shutil.copy(foreign, four / "chunks" / "000000.h5")
    manifest = json.loads((four / "manifest.json").read_text())
    (four / "manifest.json").write_text(json.dumps({**manifest, "chunks_sha256": {}}))  # as of a killed run
    with pytest.raises(
        JaxstyleError, match=r"chunks/000000\.h5: belongs to another run; --resume sets it aside"
    ):
        every_reader(four)[reader]()


@pytest.mark.parametrize("reader", every_reader(None))
def test_a_chunk_that_the_manifest_does_not_list_is_refused_by_every_reader(four, reader):
    with h5py.File(four / "chunks" / "000001.h5", "a") as file:
        file["48x64/image"][0] = 255 - file["48x64/image"][0]  # HDF5 updates the checksum
    with pytest.raises(JaxstyleError, match=r"000001\.h5: is not the file that manifest\.json lists"):
        every_reader(four)[reader]()


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_what_is_no_file_is_a_damaged_chunk(four, capsys, kind):
    chunk = four / "chunks" / "000000.h5"
    chunk.unlink()
    {"fifo": os.mkfifo, "link": lambda p: p.symlink_to("nowhere"), "folder": os.mkdir}[kind](chunk)
    code, _, (line,) = reported(four, capsys)
    assert code == 2
    assert "000000.h5: is damaged: " in line
    assert "--resume sets it aside" in line


def test_a_manifest_without_a_plan_is_refused(four, capsys):
    manifest = json.loads((four / "manifest.json").read_text())
    for spoilt in ({}, {"chunks": 3}, {"chunks": [{"cells": "x"}, {}]}):
        (four / "manifest.json").write_text(json.dumps({**manifest, "plan": spoilt}))
        code, _, (line,) = reported(four, capsys)
        assert code == 2
        assert "manifest.json: has no plan to continue" in line


def test_other_files_beside_those_of_a_run_count_for_nothing(four, capsys):
    code, lines, _ = reported(four, capsys)
    shutil.copy(four / "sheets" / "contact.png", four / "sheets" / "contact (1).png")
    shutil.copy(four / "images" / "000000.png", four / "images" / "000000-step000010 (1).png")
    share = {"event": "share-timings", "timings": {"compute_s": 1.0}, "machine": {}}
    for name in ("events-000-of-002.jsonl", "events-000-of-002 (1).jsonl"):
        (four / name).write_text(json.dumps(share) + "\n")
    assert [told["share"] for told in share_reports(four)] == ["000-of-002"]
    assert (code, lines) == reported(four, capsys)[:2]
    run = jaxstyle.open_run(four)
    assert [sheet.name for sheet in run.sheets] == ["contact.png"]
    with pytest.raises(JaxstyleError, match="it has 60"):
        run.image(0, step=10)
