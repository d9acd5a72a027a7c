"""The Python API beside the numbers: events, tables, notebooks, and the recipes of docs/python.md."""

import dataclasses
import json
import os
import re
import shutil
import sys
import threading

import h5py
import numpy as np
import pandas
import pytest
from conftest import EXAMPLES, ROOT, SHALLOW, random_image, run_forked, run_python
from made_runs import make_run
from PIL import Image

import jaxstyle
from jaxstyle.console.progress import Display, listening
from jaxstyle.run.finished import with_one_type_each
from jaxstyle.spec.errors import JaxstyleError

PAGE = (ROOT / "docs" / "python.md").read_text()
OWN = {"content_layer": ("conv2_2",), "style_layers": ("conv1_1+conv2_1",), "alpha_beta": (1e-3,)}
SETTINGS = jaxstyle.Sweep(
    content=(str(EXAMPLES / "cat.jpg"),),
    style=(str(EXAMPLES / "glass.jpg"),),
    seed=("0:3",),
    size="64",
    steps=(2,),
    optimizer="adam",
    **OWN,
)


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """A run of three cells, the events that its listener was told, and the file of `events`."""
    folder = tmp_path_factory.mktemp("heard")
    events = []
    options = jaxstyle.RunOptions(out=str(folder / "run"), quiet=True, events=str(folder / "log"))
    run = jaxstyle.run_sweep(SETTINGS, options, on_event=events.append)
    return run, events, folder / "log"


def test_a_listener_and_a_file_are_told_what_the_run_records(heard):
    run, events, log = heard
    for path in (run.path / "events.jsonl", log):
        assert [json.loads(line) for line in path.read_text().splitlines()] == events
    names = [event["event"] for event in events]
    assert names[0] == "plan"
    assert names[-2:] == ["done", "sheet"]
    chunks = [event for event in events if event["event"] == "chunk"]
    assert sorted(cell for chunk in chunks for cell in chunk["cells"]) == [0, 1, 2]
    assert all(os.path.isfile(chunk["path"]) for chunk in chunks)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_picture_that_a_step_made_much_worse_is_told_with_the_way_out(tmp_path, keep):
    events = []
    changes = {"init": ("content",), "seed": (0,), "learning_rate": (1.0, 250.0), "alpha_beta": (10.0,)}
    sweep = dataclasses.replace(SETTINGS, **changes, keep=keep)
    options = jaxstyle.RunOptions(out=str(tmp_path / "run"), quiet=True)
    run = jaxstyle.run_sweep(sweep, options, on_event=events.append)
    told = [event for event in events if event["event"] == "note" and "cells" in event]
    ratios = [float(row["loss_total"] / row["loss_best"]) for row in run.rows]
    assert all("--keep best" in event["text"] for event in told)
    assert [event["cells"] for event in told] == ([[1]] if keep == "last" else [])
    assert (ratios[1] > 1.5) == (keep == "last")
    assert ratios[0] < 1.5


def test_options_of_commands_are_refused_and_a_run_goes_on_by_its_directory_alone(heard, tmp_path):
    run, _, _ = heard
    for options in ({"dry_run": True}, {"spec": "nowhere.toml"}, {"preset": "demo"}):
        with pytest.raises(JaxstyleError, match=r"is for python -m jaxstyle\.sweep"):
            jaxstyle.run_sweep(SETTINGS, jaxstyle.RunOptions(out=str(tmp_path / "run"), **options))
    assert not (tmp_path / "run").exists()
    copy = shutil.copytree(run.path, tmp_path / "copy")
    (copy / "chunks" / "000000.h5").unlink()
    again = jaxstyle.RunOptions(out=str(copy), resume=True, quiet=True)
    assert list(jaxstyle.run_sweep(jaxstyle.Sweep(), again).rows) == list(run.rows)
    assert (copy / "results.h5").read_bytes() == (run.path / "results.h5").read_bytes()


def test_what_is_not_there_yet_is_told_in_a_line_and_tables_keep_their_types(heard, tmp_path):
    run, _, _ = heard
    copy = shutil.copytree(run.path, tmp_path / "copy")
    with h5py.File(copy / "results.h5", "r+") as file:
        (cells,) = (group["cell"] for group in file.values())
        cells[...] = cells[()] + 7  # as in a file from before these cells were computed
    begun = jaxstyle.open_run(copy)
    with pytest.raises(JaxstyleError, match=r"has no cell 2 yet; python -m jaxstyle\.report"):
        begun.losses(2)
    begun.sheets[0].unlink()
    assert "<img" not in begun._repr_html_()
    shutil.rmtree(copy / "chunks")
    empty = jaxstyle.open_run(copy).to_pandas()
    assert len(empty) == 0
    assert "loss_total" in empty
    axes = {"content": ("cat.jpg",), "style": ("cafe.jpg",), "seed": (0, 1, 2), "size": "64"}
    table = jaxstyle.open_run(make_run(tmp_path / "made", **axes, diverged=(1,)).path).to_pandas()
    assert table["diverged_step"].dtype == pandas.Int64Dtype()
    assert table["diverged_step"].isna().tolist() == [True, False, True]
    assert table["alpha_beta"].tolist() == [1e-3] * 3
    whole = jaxstyle.open_run(make_run(tmp_path / "whole", **axes).path).to_pandas()
    assert whole["diverged_step"].isna().all()
    assert whole["start_cell"].isna().all()
    assert whole.dtypes.to_dict() == table.dtypes.to_dict()
    ratios = with_one_type_each(
        pandas.DataFrame({"given": [1e-3, "0.1x"], "style": ["a", "b"], "n": [1, 2]})
    )
    assert ratios["given"].tolist() == ["0.001", "0.1x"]
    assert ratios["n"].tolist() == [1, 2]


def test_a_listener_hears_only_what_is_begun_while_it_listens():
    heard = []
    with listening(heard.append), Display(quiet=True) as inside:
        inside.event("note", "one")
    with Display(quiet=True) as outside:
        outside.event("note", "two")
    assert [event["event"] for event in heard] == ["note"]


def test_what_a_listener_raises_ends_a_run_that_goes_on_later(tmp_path, heard):
    def stop(event):
        if event["event"] == "chunk":
            raise KeyError("enough")

    out = jaxstyle.RunOptions(out=str(tmp_path / "run"), quiet=True)
    with pytest.raises(KeyError, match="enough"):
        jaxstyle.run_sweep(SETTINGS, out, on_event=stop)
    assert threading.active_count() < 20
    resumed = jaxstyle.RunOptions(out=str(tmp_path / "run"), quiet=True, resume=True)
    run = jaxstyle.run_sweep(SETTINGS, resumed)
    for name in ("results.csv", "results.h5"):
        assert (run.path / name).read_bytes() == (heard[0].path / name).read_bytes()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"width": 0}, "^width: 0 is not a number of cells"),
        ({"width": -1}, "^width: -1 is not"),
        ({"width": True}, "^width: True is not"),
    ],
)
def test_arguments_that_only_python_has_are_checked_before_anything_is_written(tmp_path, given, error):
    with pytest.raises(jaxstyle.JaxstyleError, match=error):
        jaxstyle.run_sweep(SETTINGS, jaxstyle.RunOptions(out=str(tmp_path / "run")), **given)
    assert not list(tmp_path.iterdir())


def test_a_stream_that_is_no_file_is_told_lines(monkeypatch):
    class Tee:
        def __init__(self):
            self.said = ""

        def write(self, text):
            self.said += text

        def flush(self):
            pass

    tee = Tee()
    monkeypatch.setattr(sys, "stdout", tee)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Display() as display:
        display.start(image_steps=4, cells=1)
        display.event("note", "half of it")
        display.finish()
    assert "half of it" in tee.said
    assert "\x1b" not in tee.said


def test_a_reader_of_events_that_goes_away_does_not_end_the_run(tmp_path, heard):
    pipe, read, events = tmp_path / "pipe", [], []
    os.mkfifo(pipe)

    def reader():
        with open(pipe) as file:
            read.append(file.readline())

    thread = threading.Thread(target=reader)
    thread.start()
    options = jaxstyle.RunOptions(out=str(tmp_path / "run"), quiet=True, events=str(pipe))
    run = jaxstyle.run_sweep(SETTINGS, options, on_event=events.append)
    thread.join()
    assert [json.loads(line)["event"] for line in read] == ["plan"]
    assert (run.path / "results.csv").read_bytes() == (heard[0].path / "results.csv").read_bytes()
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert notes == [f"nobody reads {pipe} any more: no further events go there"]


@pytest.mark.parametrize("where", ["", "nowhere/log"], ids=["a folder", "a folder that is not there"])
def test_a_file_of_events_that_cannot_be_written_is_one_line_before_anything_is(tmp_path, where):
    options = jaxstyle.RunOptions(out=str(tmp_path / "run"), events=str(tmp_path / where))
    with pytest.raises(jaxstyle.JaxstyleError, match=r"^events: .* cannot be written"):
        jaxstyle.run_sweep(SETTINGS, options)
    assert not list(tmp_path.iterdir())


def test_a_chunk_is_told_when_it_is_on_the_disk_not_when_the_next_is_done_too(tmp_path):
    events = []
    every = dataclasses.replace(SETTINGS, seed=(0, 1), steps=(40,), checkpoint_every=0.1)
    options = jaxstyle.RunOptions(out=str(tmp_path / "run"), quiet=True, side_by_side=1)
    jaxstyle.run_sweep(every, options, on_event=events.append)
    told = [(event["event"], event.get("chunk", event.get("cells"))) for event in events]
    *_, last = (place for place, event in enumerate(told) if event == ("checkpoint", [1]))
    assert told.index(("chunk", 0)) < last < told.index(("chunk", 1))


def test_rows_are_a_table_of_pandas(heard):
    run = heard[0]
    table = run.to_pandas()
    assert list(table.index) == [0, 1, 2]
    assert table["loss_total"].tolist() == [row["loss_total"] for row in run.rows]
    assert list(table.columns) == [name for name in run.rows[0] if name != "cell"]


def test_a_notebook_shows_the_sheet_the_rows_that_differ_and_the_page(heard):
    run = heard[0]
    shown = run._repr_html_()
    assert "data:image/jpeg;base64," in shown
    assert str(run.path / "report.html") in shown
    heads = re.findall("<th>(.*?)</th>", shown)
    assert {"cell", "seed", "status", "loss_total"} <= {*heads}
    assert not {"content", "style", "alpha_beta"} & {*heads}  # the same in every row
    assert shown.count("<tr>") == 1 + 3


def test_what_a_notebook_shows_is_text_not_markup(tmp_path, heard):
    from jaxstyle.derived.notebook import html_of

    rows = [{"cell": i, "content": f"<script>{i}", "status": "done", "loss_total": 1.0} for i in range(12)]
    shown = html_of(tmp_path / "a&b", rows, [])
    assert "<script>" not in shown
    assert "&lt;script&gt;0" in shown
    assert "a&amp;b" in shown
    assert "and 2 cells more" in shown
    assert html_of(tmp_path, [], []).count("<tr>") == 1


def test_stylize_prints_only_when_asked(capsys):
    one = {name: value[0] for name, value in OWN.items()}
    images = random_image(48, 64, 1), random_image(40, 64, 2)
    asked = {"size": 64, "steps": 2, "optimizer": "adam", **one}
    silent = jaxstyle.stylize(*images, **asked)
    assert capsys.readouterr().out == ""
    told = jaxstyle.stylize(Image.fromarray(images[0]), images[1], progress=True, **asked)
    assert "compiling the 48x64 step" in capsys.readouterr().out
    np.testing.assert_array_equal(silent, told)


def test_the_package_names_what_it_has_and_says_that_it_is_typed():
    assert {*jaxstyle.__all__} <= {*dir(jaxstyle)}
    assert all(hasattr(jaxstyle, name) for name in dir(jaxstyle))
    assert (ROOT / "jaxstyle" / "py.typed").exists()


def test_the_command_appends_events_to_a_file_that_is_named(tmp_path):
    flags = (
        "--content",
        EXAMPLES / "cat.jpg",
        "--style",
        EXAMPLES / "glass.jpg",
        "--size",
        64,
        "--steps",
        2,
    )
    flags += ("--optimizer", "adam", *SHALLOW, "--alpha-beta", 1e-3, "--quiet")
    (tmp_path / "log").write_text("before\n")
    run_forked("-m", "jaxstyle.sweep", *flags, "--events", "log", "--out", "run", cwd=tmp_path, check=True)
    first, *rest = (tmp_path / "log").read_text().splitlines()
    assert first == "before"
    assert rest == (tmp_path / "run" / "events.jsonl").read_text().splitlines()


def test_the_pages_code_runs_as_it_stands(tmp_path):
    """All of it in one process, with the real TensorBoard writer and the real Parquet file."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    own = {**OWN, "size": "64", "steps": (3,), "optimizer": "adam"}
    one = {name: value if isinstance(value, str) else value[0] for name, value in own.items()}
    code = code.replace("size=256", f"**{one}").replace('seed=("0:4",)', f'seed=("0:4",), **{own}')
    for name in ("photo", "painting"):
        Image.fromarray(random_image(48, 64, len(name))).save(tmp_path / f"{name}.jpg")
    run_python("-c", code, cwd=tmp_path, check=True)
    assert (tmp_path / "four.parquet").stat().st_size > 1000
    (written,) = (tmp_path / "tensorboard").iterdir()
    assert written.read_bytes().count(b"loss_total/3") == 4  # steps 0 to 3 of the last cell
