"""Files of a run: whole or absent, the same bytes for the same result, readable by others."""

import dataclasses
import fcntl
import itertools
import multiprocessing
import os
import pickle
import signal
import socket
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
from conftest import run_python
from made_runs import write_run

from jaxstyle.plan.cells import sweep_cells
from jaxstyle.rundir import checkpoints, directory, image_files, locks, results_h5, resume
from jaxstyle.rundir import files as rundir_files
from jaxstyle.rundir.checkpoints import Checkpoint
from jaxstyle.rundir.chunks import PER_CELL, ChunkResult, chunk_bytes, read_chunk, read_outlines
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.image_files import write_images
from jaxstyle.rundir.locks import DirectoryInUse
from jaxstyle.rundir.picture_names import PictureNames
from jaxstyle.rundir.records import open_record
from jaxstyle.rundir.results_csv import read_rows, write_csv
from jaxstyle.spec import tables
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import AXES, Sweep
from jaxstyle.spec.shares import Share


def result(cells, shape=(16, 24), snapshot=(2, 5), layer=("conv1_1", "conv4_1"), diverged=()):
    """A chunk of made-up numbers, different for every cell."""
    random = np.random.default_rng(list(cells))
    n, steps = len(cells), snapshot[-1] + 1
    curves = random.random((3, n, steps), np.float32)
    return ChunkResult(
        cell=np.array(cells, np.int64),
        image=random.integers(0, 256, (n, len(snapshot), *shape, 3)).astype(np.uint8),
        snapshot=snapshot,
        step=tuple(range(steps)),
        layer=layer,
        curves=dict(zip(tables.LOSSES, curves, strict=True)),
        style_layer_loss=random.random((n, steps, len(layer)), np.float32),
        diverged_step=np.array([3 if c in diverged else -1 for c in cells], np.int64),
        loss_best=curves[0].min(1),
        step_best=curves[0].argmin(1).astype(np.int64),
        evaluations=np.full(n, steps, np.float32),
        steps=np.full(n, snapshot[-1], np.int64),
        loss_final=curves[:, :, -1].T.copy(),
    )


def fill(path, chunks, **settings):
    """A run directory with the spec, manifest and `chunks` of a sweep."""
    settings = {"content": ("/a b.png", "/c.png"), "style": ("/s.png",), "seed": (0, 1), **settings}
    sweep = resolve(Sweep(**{"alpha_beta": (1e-3,), **settings}, steps=(2, 5)))
    given = {"content": {"/a b.png": "a b.png"}}
    return write_run(path, sweep, [[chunk] for chunk in chunks], manifest={"given": given}, shape=(32, 32))


def assert_same(one, other):
    """Two results are equal in every array."""
    for f in dataclasses.fields(ChunkResult):
        a, b = getattr(one, f.name), getattr(other, f.name)
        parts = [(a[name], b[name]) for name in {*a, *b}] if f.name == "curves" else [(a, b)]
        for own, its in parts:
            np.testing.assert_array_equal(own, its, err_msg=f.name)


def test_chunks_read_back_as_they_were_written(tmp_path):
    chunk = result([3, 7])
    rundir_files.write_atomic(tmp_path / "c.h5", chunk_bytes([chunk], width=1))
    (again,) = read_chunk(tmp_path / "c.h5")
    assert_same(again, chunk)


def test_equal_results_are_equal_bytes():
    assert chunk_bytes([result([0, 1])], width=1) == chunk_bytes([result([0, 1])], width=1)
    assert chunk_bytes([result([0, 1])], width=1) != chunk_bytes([result([0, 2])], width=1)


def test_a_damaged_chunk_is_named(tmp_path):
    data = bytearray(chunk_bytes([result([0, 1])], width=1))
    pixels = bytes(result([0, 1]).image[0].tobytes())
    at = bytes(data).index(pixels)
    data[at + 10] ^= 1
    (tmp_path / "000000.h5").write_bytes(bytes(data))
    with pytest.raises(JaxstyleError, match=r"000000\.h5: is damaged"):
        read_chunk(tmp_path / "000000.h5")
    (tmp_path / "000001.h5").write_bytes(bytes(data[:500]))
    with pytest.raises(JaxstyleError, match=r"000001\.h5: is damaged"):
        read_chunk(tmp_path / "000001.h5")


def test_no_flipped_bit_of_a_chunk_goes_unseen(tmp_path):
    data, path = (
        chunk_bytes([result([0, 1], shape=(3, 4))], width=1, fingerprint="abc"),
        tmp_path / "c.h5",
    )
    path.write_bytes(data)
    (expected,) = read_chunk(path, fingerprint="abc")
    random, found = np.random.default_rng(0), 0
    for _ in range(2000):
        damaged = bytearray(data)
        at = int(random.integers(len(data)))
        damaged[at] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            (read,) = read_chunk(path, fingerprint="abc")
        except JaxstyleError:
            found += 1
            continue
        assert_same(read, expected)  # the change hit bytes without meaning
    assert found > 1000


def test_a_chunk_of_another_run_is_refused_by_its_fingerprint(tmp_path):
    path = tmp_path / "c.h5"
    path.write_bytes(chunk_bytes([result([0])], width=1, fingerprint="this"))
    assert len(read_chunk(path)) == len(read_chunk(path, fingerprint="this")) == 1
    with pytest.raises(JaxstyleError, match="another run"):
        read_chunk(path, fingerprint="that")


def test_files_set_aside_keep_each_other(tmp_path):
    for text in ("first", "second", "third"):
        (tmp_path / "c.h5").write_text(text)
        rundir_files.set_aside(tmp_path / "c.h5")
    kept = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert kept == {"c.h5.bad": "first", "c.h5.bad-2": "second", "c.h5.bad-3": "third"}


def test_a_whole_checkpoint_that_is_set_aside_stays_until_the_run_is_done(tmp_path):
    with RunDirectory(tmp_path / "run", create=True) as run:
        for _ in range(2):
            checkpoint = checkpoints.Checkpoint(run, 3, "abc")
            checkpoint.save({"a": np.arange(3)}, {"x": np.array(1.5)})
            checkpoint.set_aside(checkpoints.OTHER)
        other = checkpoints.Checkpoint(run, 4, "abc")
        other.save({"a": np.arange(3)}, {"x": np.array(1.5)})
        other.set_aside()
        there = [path.name for path in sorted((run.path / "checkpoints").iterdir())]
        assert there == ["000003.other", "000003.other-2", "000004.bad"]
        checkpoint.clear()
        other.clear()
        assert [path.name for path in sorted((run.path / "checkpoints").iterdir())] == there
        checkpoints.clear_others(run)
        assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["000004.bad"]


def test_a_checkpoint_is_what_was_saved_last(tmp_path):
    with RunDirectory(tmp_path / "run", create=True) as run:
        checkpoint = checkpoints.Checkpoint(run, 3, "abc")
        assert checkpoint.load() is None
        checkpoint.save({"a": np.arange(3)}, {"x": np.array(1.5)})
        checkpoint.save({"b": np.arange(2.0)}, {"x": np.array(2.5)})
        # Killed between a part and its state: the part is written anew.
        run.write("checkpoints/000003/part-0002.npz", b"half")
        again = checkpoints.Checkpoint(run, 3, "abc")
        parts, state = again.load()
        assert [sorted(part) for part in parts] == [["a"], ["b"]]
        assert state == {"x": 2.5}
        again.save({"c": np.zeros(1)}, {"x": np.array(3.5)})
        parts, state = checkpoints.Checkpoint(run, 3, "abc").load()
        assert [sorted(part) for part in parts] == [["a"], ["b"], ["c"]]
        assert checkpoints.Checkpoint(run, 3, "other").load() is None
        assert checkpoints.Checkpoint(run, 4, "abc").load() is None


@pytest.mark.parametrize("name", ["state.npz", "part-0000.npz"])
def test_a_damaged_checkpoint_is_named_and_set_aside(tmp_path, name):
    with RunDirectory(tmp_path / "run", create=True) as run:
        checkpoint = checkpoints.Checkpoint(run, 0, "abc")
        checkpoint.save({"a": np.arange(300)}, {"x": np.arange(300)})
        path = run.path / "checkpoints" / "000000" / name
        data = path.read_bytes()
        for damaged in (data[:-5], data[:200] + bytes([data[200] ^ 1]) + data[201:], b"", None):
            path.write_bytes(damaged) if damaged is not None else path.unlink()
            if damaged is None and name == "state.npz":
                assert checkpoint.load() is None
            else:
                with pytest.raises(JaxstyleError, match="damaged"):
                    checkpoint.load()
        assert checkpoint.set_aside().name == "000000.bad"
        checkpoint.save({"a": np.arange(3)}, {"x": np.array(7)})
        assert checkpoint.load()[1] == {"x": 7}
        checkpoint.clear()
        assert checkpoint.load() is None


def test_leftovers_of_killed_writers_go_when_the_directory_is_taken_again(tmp_path):
    with RunDirectory(tmp_path / "run", create=True) as run:
        for name in (".spec.toml.tmp-1", "chunks/.000000.h5.tmp-22", "checkpoints/000000/.state.npz.tmp-3"):
            run.write(name, "half")
        run.write("chunks/000000.h5", "whole")
    with RunDirectory(tmp_path / "run"):
        pass
    files = {p.name for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert files == {"run.lock", "000000.h5"}


def test_a_directory_whose_run_was_killed_before_its_plan_is_free(tmp_path):
    with RunDirectory(tmp_path / "run", create=True) as run:
        run.write("spec.toml", "")
    directory.check_free(tmp_path / "run")
    (tmp_path / "run" / "run.lock").unlink()
    with pytest.raises(JaxstyleError, match="not empty"):  # a spec of the user's own
        directory.check_free(tmp_path / "run")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    rundir_files.write_atomic(path, b"old")

    def full(handle, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        rundir_files.write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_after_that(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace

    def synced(handle):
        done.append(("synced", os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))))
        fsync(handle)

    def named(source, target):
        done.append(("named", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", named)
    rundir_files.write_atomic(tmp_path / "file", b"data")
    (_, temporary), *then = done
    assert temporary.startswith(".file.tmp-")
    assert then == [("named", "file"), ("synced", tmp_path.name)]


def _write_for_ever(path, started):
    data = [bytes([i]) * 2_000_000 for i in range(4)]
    started.set()
    while True:
        for block in data:
            rundir_files.write_atomic(Path(path), block)


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    context = multiprocessing.get_context("spawn")
    for delay in (0.0, 0.01, 0.02, 0.05, 0.1):
        started = context.Event()
        writer = context.Process(target=_write_for_ever, args=(str(tmp_path / "file"), started))
        writer.start()
        assert started.wait(60)
        writer.join(0.05 + delay)  # still at work: this only lets time pass
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        data = (tmp_path / "file").read_bytes()
        assert len(data) == 2_000_000
        assert len(set(data)) == 1


def _hold(path, held, release):
    with RunDirectory(Path(path), create=True):
        held.set()
        release.wait(60)


def test_the_text_of_a_process_that_died_is_not_believed_at_once(tmp_path, monkeypatch):
    path = tmp_path / "run"
    with RunDirectory(path, create=True):
        pass
    assert (path / "run.lock").read_text() == ""
    asked, told = [], []
    with open(path / "run.lock", "r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("1 on fermat\n")
        held.flush()

        def sleep(seconds):
            asked.append(seconds)
            if len(asked) == 2:
                locks.write_holder(held.fileno(), path / "run.lock", locks.BRIEF_NOTE)
            if len(asked) == 4:
                fcntl.flock(held, fcntl.LOCK_UN)

        monkeypatch.setattr("time.sleep", sleep)
        with RunDirectory(path, briefly=True, on_wait=told.append):
            assert (path / "run.lock").read_text().strip().endswith(locks.BRIEF_NOTE)
        assert len(asked) == 4
        assert told == [f"process {os.getpid()} on {socket.gethostname()}"]
        assert len(set(asked)) == 4
        fcntl.flock(held, fcntl.LOCK_EX)
        locks.write_holder(held.fileno(), path / "run.lock")
        monkeypatch.setattr(directory, "HOLDER_CONFIRM_S", 0.0)
        with (
            pytest.raises(DirectoryInUse, match=f"process {os.getpid()}"),
            RunDirectory(path, briefly=True),
        ):
            pass


def test_a_look_for_shares_at_work_keeps_others_from_beginning_meanwhile(tmp_path, monkeypatch):
    share, looked = Share(0, 2, "shard"), []
    with RunDirectory(tmp_path, create=True), locks.share_held(tmp_path, share):
        assert locks.shares_at_work(tmp_path) == [
            f"shard 000 of 002, process {os.getpid()} on {socket.gethostname()}"
        ]
    look = locks.check_no_share

    def watched(path):
        with open(path / "run.lock") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a share needs it to begin
        looked.append(path)
        look(path)

    for module in (directory, locks):
        monkeypatch.setattr(module, "check_no_share", watched)
    locks.check_not_held(tmp_path)
    with RunDirectory(tmp_path):
        pass
    assert looked == [tmp_path, tmp_path]


def test_a_checkpoint_that_goes_while_it_is_looked_at_is_no_matter(tmp_path, monkeypatch):
    for name in (
        "images/.a.png.tmp-1",
        "checkpoints/000000/.b.tmp-2",
        "checkpoints/000001/.c.tmp-3",
        ".d.tmp-4",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = directory._leftovers(tmp_path)
    assert {path.name for path in [next(found), next(found)]} == {".a.png.tmp-1", ".d.tmp-4"}
    Checkpoint(RunDirectory(tmp_path), 0, "").clear()
    assert [path.name for path in found] == [".c.tmp-3"]
    listdir = os.listdir

    def cleared(path):
        names = listdir(path)
        if Path(path).name == "checkpoints":
            Checkpoint(RunDirectory(tmp_path), 1, "").clear()
        return names

    monkeypatch.setattr("os.listdir", cleared)
    assert {path.name for path in directory._leftovers(tmp_path)} == {".a.png.tmp-1", ".d.tmp-4"}


def test_a_run_that_another_process_is_planning_is_none_yet(tmp_path):
    with RunDirectory(tmp_path, create=True, briefly=True) as run:
        run.write("spec.toml", "")
        (tmp_path / "half made").touch()
        assert not directory.is_unbegun(tmp_path)
        assert resume.find(tmp_path, beside=True) is None
        directory.check_free(tmp_path, beside=True)


def test_a_held_directory_is_in_use_until_its_holder_is_gone(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path / "run"), held, release))
    holder.start()
    assert held.wait(60)
    with pytest.raises(DirectoryInUse) as error, RunDirectory(tmp_path / "run"):
        pass
    assert f"process {holder.pid}" in str(error.value)
    assert error.value.exit_code == 3
    with pytest.raises(DirectoryInUse):
        directory.check_free(tmp_path / "run")
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with RunDirectory(tmp_path / "run"):
        pass


def test_a_directory_that_was_filled_since_it_was_found_free_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    directory.check_free(tmp_path / "run")
    (tmp_path / "run" / "results.csv").touch()
    with pytest.raises(JaxstyleError, match="is not empty"), RunDirectory(tmp_path / "run", create=True):
        pass


def test_only_a_new_or_an_empty_directory_is_free(tmp_path):
    directory.check_free(tmp_path / "new" / "deep")
    (tmp_path / "empty").mkdir()
    directory.check_free(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    for name, expected in (
        ("full", "is not empty"),
        ("file", "is a file"),
        ("file/sub", "is a file|Not a dir"),
    ):
        with pytest.raises(JaxstyleError, match=expected):
            directory.check_free(tmp_path / name)
    assert not (tmp_path / "new").exists()


def test_fresh_paths_count_up(tmp_path):
    assert directory.fresh_path("demo", root=tmp_path / "runs").name == "0001-demo"
    for name in ("0001-demo", "0007-x", "notes"):
        (tmp_path / name).mkdir()
    assert directory.fresh_path("demo", root=tmp_path).name == "0008-demo"


def test_too_little_space_is_one_line(tmp_path):
    with pytest.raises(JaxstyleError, match="MB are needed"):
        rundir_files.check_space(tmp_path / "not" / "there", 10**18)


def test_merged_rows_stand_in_cell_order_whatever_the_chunks(tmp_path):
    # Cells 0 and 2 in one chunk, 3 and 1 computed before them in others, as programs interleave.
    chunks = [result([1, 3]), result([0]), result([2])]
    record = fill(tmp_path / "run", chunks)
    results_h5.merge(record)
    with h5py.File(tmp_path / "run" / "results.h5") as file:
        group = file["16x24"]
        assert group["cell"].dtype == np.int64
        assert list(group["cell"]) == [0, 1, 2, 3]
        for chunk in chunks:
            for i, cell in enumerate(chunk.cell):
                np.testing.assert_array_equal(group["image"][cell], chunk.image[i])
                np.testing.assert_array_equal(group["loss_style"][cell], chunk.curves["loss_style"][i])
                np.testing.assert_array_equal(group["style_layer_loss"][cell], chunk.style_layer_loss[i])
    with RunDirectory(tmp_path / "run") as run:
        lines = write_csv(run, read_rows(record)).read_text("utf-8").splitlines()
    assert [line.split(",")[0] for line in lines] == ["cell", "0", "1", "2", "3"]
    assert not list((tmp_path / "run").glob(".*tmp*"))


def test_a_large_merge_in_a_process_of_its_own_gives_the_same_data(tmp_path, monkeypatch):
    record = fill(tmp_path / "run", [result([0, 3]), result([1, 2], shape=(8, 8))])
    results_h5.merge(record)
    expected = contents(record.path / "results.h5")
    (record.path / "results.h5").unlink()
    monkeypatch.setattr(results_h5, "MERGED_IN_MEMORY", 0)
    results_h5.merge(record)
    found = contents(record.path / "results.h5")
    assert sorted(found) == sorted(expected)
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name])
    assert not list(record.path.glob("*.tmp*"))


def contents(path):
    values = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, node: values.update({name: node[()]}) if isinstance(node, h5py.Dataset) else None
        )
    return values


def test_merging_twice_gives_the_same_bytes(tmp_path):
    record = fill(tmp_path / "run", [result([0, 1]), result([2, 3])])
    results_h5.merge(record)
    first = (tmp_path / "run" / "results.h5").read_bytes()
    results_h5.merge(record)
    assert (tmp_path / "run" / "results.h5").read_bytes() == first


def test_xarray_reads_the_results_with_their_coordinates(tmp_path):
    chunks = [result([0, 1]), result([2, 3], shape=(24, 16), layer=("conv2_1",))]
    results_h5.merge(fill(tmp_path / "run", chunks))
    path = tmp_path / "run" / "results.h5"
    with xarray.open_dataset(path, group="16x24", engine="h5netcdf") as data:
        assert dict(data.sizes) == {
            "cell": 2, "snapshot": 2, "step": 6, "layer": 2, "y": 16, "x": 24, "channel": 3,
        }  # fmt: skip
        assert data.image.dims == ("cell", "snapshot", "y", "x", "channel")
        assert data.loss_total.dims == ("cell", "step")
        assert data.style_layer_loss.dims == ("cell", "step", "layer")
        assert data.image.dtype == np.uint8
        assert data.loss_total.dtype == np.float32
        assert list(data.snapshot.values) == [2, 5]
        assert list(data.layer.values) == ["conv1_1", "conv4_1"]
        assert list(data.content.values) == ["a b.png", "a b.png"]
        assert set(AXES) <= set(data.coords)
        assert list(data.seed.values) == [0, 1]
        by_seed = data.set_index(cell="seed").sel(cell=1).loss_total
        np.testing.assert_array_equal(by_seed.values, chunks[0].curves["loss_total"][1])
    with xarray.open_dataset(path, group="24x16", engine="h5netcdf") as data:
        assert list(data.cell.values) == [2, 3]
        assert list(data.layer.values) == ["conv2_1"]


def test_layers_of_programs_of_one_shape_are_united_with_nan(tmp_path):
    chunks = [result([0, 1], layer=("conv1_1",)), result([2, 3], layer=("conv1_1", "conv5_1"))]
    results_h5.merge(fill(tmp_path / "run", chunks))
    with h5py.File(tmp_path / "run" / "results.h5") as file:
        values = file["16x24/style_layer_loss"][()]
        assert [s.decode() for s in file["16x24/layer"]] == ["conv1_1", "conv5_1"]
    assert np.isnan(values[:2, :, 1]).all()
    assert np.isfinite(values[2:]).all()


def test_csv_numbers_read_back_as_the_same_float32(tmp_path):
    record = fill(tmp_path / "run", [result([0, 1, 2, 3], diverged=(2,))])
    with RunDirectory(tmp_path / "run") as run:
        lines = write_csv(run, read_rows(record)).read_text("utf-8").splitlines()
    head = lines[0].split(",")
    assert tuple(head[: len(AXES) + 11]) == (
        "cell", *AXES, "steps", "height", "width", "status",
        "loss_total", "loss_content", "loss_style", "image", "diverged_step", "loss_best", "step_best",
    )[: len(AXES) + 11]  # fmt: skip
    chunk = next(record.chunks())
    for i, line in enumerate(lines[1:]):
        row = dict(zip(head, line.split(","), strict=True))
        assert np.float32(row["loss_style"]) == chunk.loss_final[i, 2]
        assert row["status"] == ("diverged" if i == 2 else "done")
        assert row["diverged_step"] == ("3" if i == 2 else "")
        assert row["image"] == f"images/{i:06d}.png"
        assert row["start_cell"] == ""
    assert not list((tmp_path / "run").glob(".*tmp*"))


def test_rows_are_a_list_of_dictionaries_that_is_made_when_it_is_asked_for(tmp_path):
    chunks = [result([2, 3], diverged=(3,)), result([0])]
    rows = read_rows(fill(tmp_path / "run", chunks))
    assert len(rows) == 3
    assert [row["cell"] for row in rows] == [0, 2, 3]
    assert rows[-1] == list(rows)[2]
    assert rows[1:] == [rows[1], rows[2]]
    assert rows == list(rows)
    assert rows != list(rows)[:2]
    assert rows.find(2) == rows[1]
    assert rows.find(1) is rows.find(9) is None
    assert rows.diverged.tolist() == [False, False, True]
    assert pickle.loads(pickle.dumps(rows)) == list(rows)
    assert rows[1]["loss_style"] == chunks[0].loss_final[0, 2]
    assert type(rows[1]["loss_style"]) is np.float32
    with pytest.raises(IndexError):
        rows[3]
    assert list(read_rows(fill(tmp_path / "none", []))) == []


def test_a_csv_that_fails_half_way_leaves_the_old_one(tmp_path):
    record = fill(tmp_path / "run", [result([0, 3])])

    def lines():
        yield read_rows(record)[0]
        raise OSError(28, "No space left on device")

    with RunDirectory(tmp_path / "run") as run:
        run.write("results.csv", "old")
        with pytest.raises(OSError, match="No space left"):
            write_csv(run, lines())
    assert (tmp_path / "run" / "results.csv").read_text() == "old"
    assert not list((tmp_path / "run").glob(".*tmp*"))


def test_tables_read_no_pictures_and_a_merge_holds_one_chunk_at_a_time(tmp_path):
    # Six chunks of 3.1 MB. Tables need some kilobytes of each; a merge has one in memory, a second one
    # while the next is read, and for a while what its largest field takes.
    chunks = [result([i], shape=(512, 1024)) for i in range(6)]
    record = fill(tmp_path / "run", chunks, seed=("0:3",))
    size = chunks[0].image.nbytes
    assert len(record.chunk_paths) == 6
    tracemalloc.start()
    try:
        assert len(read_rows(record)) == 6
        assert tracemalloc.get_traced_memory()[1] < size / 10
        results_h5.merge_into(record.path, tmp_path / "merged.h5")
        assert tracemalloc.get_traced_memory()[1] < 3.2 * size
    finally:
        tracemalloc.stop()
    with h5py.File(tmp_path / "merged.h5") as file:
        for i, chunk in enumerate(chunks):
            np.testing.assert_array_equal(file["512x1024/image"][i], chunk.image[0])


def test_an_outline_is_checked_like_a_chunk(tmp_path):
    path = tmp_path / "c.h5"
    path.write_bytes(chunk_bytes([result([3, 7]), result([1], shape=(8, 8))], width=1))
    outlines, parts = read_outlines(path), read_chunk(path)
    for outline, part in zip(outlines, parts, strict=True):
        assert outline.shape == part.shape
        for name in ("cell", "snapshot", "step", "layer", *PER_CELL, "loss_final"):
            np.testing.assert_array_equal(getattr(outline, name), getattr(part, name))
    with h5py.File(path, "a") as file:
        del file["16x24/steps"]
        file["16x24/steps"] = np.zeros(3, np.int64)
    with pytest.raises(JaxstyleError, match=r"c\.h5: is damaged: .*steps has shape"):
        read_outlines(path)


def test_pictures_are_written_together_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "WRITE_BATCH", 3)
    chunk = result(range(4))
    sweep = resolve(Sweep(content=("c.png",), style=("s.png",), seed=("0:8",), steps=chunk.snapshot))
    names = PictureNames(sweep_cells(sweep), sweep.steps, sweep.given)
    with RunDirectory(tmp_path / "run", create=True) as run:
        asked = iter(range(100))
        write_images(run, chunk, names, stop=lambda: next(asked) >= 5)
        images = sorted((run.path / "images").iterdir())
        assert len(images) == 5  # as many as were begun before it was told to stop
        images[0].write_bytes(b"kept")
        images[4].unlink()
        write_images(run, chunk, names, missing=True)
        again = sorted((run.path / "images").iterdir())
        assert len(again) == 8
        assert again[0].read_bytes() == b"kept"
        whole = {path.name: path.read_bytes() for path in again}
        real, count = os.write, iter(range(100))

        def full(handle, data):
            if next(count) == 4:
                raise OSError(28, "No space left on device")
            return real(handle, data)

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            write_images(run, result(range(4, 8)), names)
        monkeypatch.undo()
        left = {path.name: path.read_bytes() for path in (run.path / "images").iterdir()}
        assert len(left) == 8 + 3  # the first three; of the others nothing, not even a temporary file
        assert whole.items() <= left.items()
        for (cell, step), image in zip(itertools.product(range(4), chunk.snapshot), again, strict=True):
            assert os.path.samefile(image, run.path / names.name(cell, step))
        assert len(list((run.path / "pictures").iterdir())) == 8 + 3


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(JaxstyleError, match="is not a run directory"):
        open_record(tmp_path)


def test_cells_of_a_record_are_those_of_its_spec(tmp_path):
    record = fill(tmp_path / "run", [result([0])])
    assert record.cells == sweep_cells(record.sweep)
    assert len(record.cells) == 4


WITHOUT_THREADS = """
import resource, sys, threading
from pathlib import Path
from jaxstyle.rundir.files import write_together

size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**20,) * 2)
try:
    threading.Thread(target=print).start()
except RuntimeError:
    write_together([(Path(sys.argv[1]) / name, name.encode()) for name in ("a", "b", "c")])
"""


def test_files_are_written_without_memory_for_a_thread(tmp_path):
    done = run_python("-c", WITHOUT_THREADS, tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {n: n for n in "abc"}
