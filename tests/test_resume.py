"""A run that is killed, starved or tampered with resumes to the same bytes; real kills, real disks."""

import contextlib
import dataclasses
import errno
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import jax
import numpy as np
import pytest
import torture
from conftest import ROOT, SHALLOW, random_image, run_forked, run_python
from made_runs import write_run
from PIL import Image

from jaxstyle import EXAMPLES, sweep
from jaxstyle.console import limits, signals
from jaxstyle.plan import programs
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.run import launcher, unfinished
from jaxstyle.rundir import checkpoints, chunks, files, results_h5, resume
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import Sweep

ONE_STAGE = (*torture.IMAGES, *SHALLOW, "--pyramid", "0")
CELLS = (*ONE_STAGE, "--seed", "0:2", "--steps", "40", "80", "--checkpoint-every", "0.1")
SWEEP = (*CELLS, "--side-by-side", "1")
"""Two cells in separate chunks, one after the other, each checkpointed at least once before it is done.

That is so where checkpoints may take all the time of a run, as in `whole` and `killed_at`.
"""
KILLED = """
from jaxstyle.plan import programs
from jaxstyle.run import unfinished
from tests import torture

programs.CHECKPOINT_SHARE = unfinished.CHECKPOINT_SHARE = 1.0
torture.main()
"""


def command(*arguments):
    """Run `jaxstyle.sweep` in this process and give its exit code."""
    with pytest.raises(SystemExit) as stop:
        sweep.main([str(a) for a in (*arguments, "--quiet")])
    return stop.value.code


def error_of(capsys):
    """The one line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxstyle: error: ")
    return line


def events(run, name):
    lines = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [event for event in lines if event["event"] == name]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sweep, undisturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patched:
        for module in (programs, unfinished):
            patched.setattr(module, "CHECKPOINT_SHARE", 1.0)
        assert command(*SWEEP, "--out", out) == 0
    assert {tuple(event["cells"]) for event in events(out, "checkpoint")} == {(0,), (1,)}
    assert not list((out / "checkpoints").iterdir())
    return out


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of it that a test may spoil."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


# --- kills ----------------------------------------------------------------------------------------


def killed_at(point, count, out, sweep=SWEEP):
    """The exit code of the sweep in a process that kills itself when it reaches `point`."""
    return run_forked(
        "-c", KILLED, "--child", f"{point}={count}", *sweep, "--out", out, cwd=ROOT
    ).returncode


@pytest.mark.parametrize(
    ("module", "number"),
    [(chunks, errno.EACCES), (chunks, errno.EMFILE), (checkpoints, errno.EIO)],
    ids=["chunk, no permission", "chunk, no descriptor", "state, bad link"],
)
def test_a_file_that_cannot_be_read_now_is_not_taken_for_a_damaged_one(
    whole, tmp_path, monkeypatch, capsys, module, number
):
    if module is chunks:
        out = shutil.copytree(whole, tmp_path / "run")
        (out / "chunks" / "000001.h5").unlink()
    else:
        out = tmp_path / "run"
        assert killed_at("checkpoint: half written", 3, out) == -signal.SIGKILL
    before = {p: p.read_bytes() for p in out.rglob("*") if p.suffix in (".h5", ".npz")}
    opened, failures = module.opened, iter([number])

    def fails_once(path):
        if path.suffix in (".h5", ".npz") and (error := next(failures, None)):
            raise OSError(error, os.strerror(error), str(path))
        return opened(path)

    monkeypatch.setattr(module, "opened", fails_once)
    assert command("--resume", "--out", out) == 2
    said = error_of(capsys)
    assert os.strerror(number) in said
    assert str(out) in said
    assert {p: p.read_bytes() for p in before} == before
    assert command("--resume", "--out", out) == 0
    for path in sorted((whole / "chunks").iterdir()):
        assert (out / "chunks" / path.name).read_bytes() == path.read_bytes()
    assert not list(out.rglob("*.bad*"))


def test_a_file_that_its_server_has_forgotten_is_opened_again(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"there")
    calls = []

    def forgotten_once(path, mode):
        calls.append(path)
        if len(calls) == 1:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return open(path, mode)

    monkeypatch.setattr(files, "open", forgotten_once, raising=False)
    with files.opened(tmp_path / "file") as file:
        assert file.read() == b"there"
    assert len(calls) == 2


def test_threads_of_a_plan_outlive_a_resume_on_other_devices(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    (out / "chunks" / "000001.h5").unlink()
    planned = json.loads((out / "manifest.json").read_text())["threads"]
    done = run_python(
        "-m", "jaxstyle.sweep", "--resume", "--out", out,
        XLA_FLAGS="--xla_force_host_platform_device_count=3", JAX_PLATFORMS="cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 x cpu" in done.stdout
    assert json.loads((out / "manifest.json").read_text())["threads"] == planned


@pytest.mark.parametrize(
    ("point", "count", "gone_on_with"),
    # A first checkpoint without its state is of no use; a chunk that was not yet renamed loses nothing.
    [
        ("checkpoint: half written", 2, 0),
        ("chunk: before its name", 2, 1),
        ("merge: half written", 1, 0),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(whole, tmp_path, point, count, gone_on_with):
    out = tmp_path / "run"
    assert killed_at(point, count, out) == -signal.SIGKILL
    assert not (out / "results.csv").exists()
    there = torture.digests(out)
    assert there.items() <= torture.digests(whole).items()
    assert command(*SWEEP, "--out", out, "--resume") == 0
    assert torture.digests(out) == torture.digests(whole)
    assert len(events(out, "continue")) == gone_on_with


@pytest.mark.parametrize(
    ("first", "then", "gone_on_with"), [("2", "2", [[0, 1]]), ("2", "1", []), ("1", "2", [[0]])]
)
def test_cells_side_by_side_go_on_to_the_bytes_of_one_at_a_time(whole, tmp_path, first, then, gone_on_with):
    out = tmp_path / "run"
    beside = (*CELLS, "--side-by-side", first)
    assert killed_at("checkpoint: half written", 3, out, beside) == -signal.SIGKILL
    assert {tuple(event["cells"]) for event in events(out, "checkpoint")} == {(0, 1)[: int(first)]}
    assert command(*CELLS, "--side-by-side", then, "--out", out, "--resume") == 0
    assert [event["cells"] for event in events(out, "continue")] == gone_on_with
    asides = [event["text"] for event in events(out, "set-aside")]
    lost = (first, then) == ("2", "1")
    assert (len(asides), "other cells side by side" in "".join(asides)) == (lost, lost)
    assert torture.digests(out) == torture.digests(whole)


def test_out_of_memory_spoils_no_state_and_what_follows_is_gone_on_with(
    whole, tmp_path, monkeypatch, capsys
):
    """The state of two at a time was written over in place; a kill then left a damaged one."""
    out, launch = tmp_path / "run", launcher.Launcher.launch
    assert killed_at("checkpoint: half written", 3, out, (*CELLS, "--side-by-side", "2")) == -signal.SIGKILL
    (state,) = (out / "checkpoints").glob("*/state.npz")
    before = state.read_bytes()
    capsys.readouterr()
    assert command(*CELLS, "--side-by-side", "2", "--dry-run", "--json") == 0
    planned = json.loads(capsys.readouterr().out)["state_bytes"]
    assert len(before) == pytest.approx(planned / 2, rel=0.1)  # half, for a new one is written beside it

    def launch_one(self, launches, program, **about):
        if len(launches) > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return launch(self, launches, program, **about)

    def save_and_end(self, progress):
        save(self, progress)
        raise signals.Interrupted(signal.SIGTERM)

    save = unfinished.Unfinished.save
    resume = (*CELLS, "--side-by-side", "2", "--out", out, "--resume")
    with monkeypatch.context() as patch:
        patch.setattr(launcher.Launcher, "launch", launch_one)
        patch.setattr(unfinished.Unfinished, "is_due", lambda self: True)
        patch.setattr(unfinished.Unfinished, "save", save_and_end)
        assert command(*resume) == 128 + signal.SIGTERM
    assert (out / "checkpoints" / "000001.other" / "state.npz").read_bytes() == before
    continued = [event["cells"] for event in events(out, "continue")]
    assert continued == [[0, 1]]  # before memory ran out
    with monkeypatch.context() as patch:
        patch.setattr(launcher.Launcher, "launch", launch_one)
        assert command(*resume) == 0
    assert [event["cells"] for event in events(out, "continue")] == [*continued, [0]]
    assert torture.digests(out) == torture.digests(whole)
    assert not list((out / "checkpoints").iterdir())


def test_a_process_killed_between_two_chunks_of_a_block_loses_neither(tmp_path):
    """The chunk that was done has targets of its own, which nobody needs any more."""
    style = torture.IMAGES[torture.IMAGES.index("--style") :]
    pair = ("--content", EXAMPLES / "pagoda.jpg", EXAMPLES / "cat.jpg", *style, *SHALLOW, "--pyramid", "0")
    pair += ("--steps", "40", "80", "--checkpoint-every", "0.1", "--side-by-side", "2")
    assert command(*pair, "--out", tmp_path / "whole") == 0
    out = tmp_path / "run"
    assert killed_at("chunk: before its name", 2, out, pair) == -signal.SIGKILL
    assert [path.name for path in (out / "chunks").glob("*.h5")] == ["000000.h5"]
    assert command("--resume", "--out", out) == 0
    assert [event["cells"] for event in events(out, "continue")] == [[1]]
    assert [event["chunk"] for event in events(out, "chunk")] == [
        1
    ]  # the first was killed before it said so
    assert not events(out, "set-aside")
    assert torture.digests(out) == torture.digests(tmp_path / "whole")


def test_a_state_that_other_code_saved_is_set_aside_and_named(whole, tmp_path, monkeypatch):
    """Hours of a long cell were once begun anew without a word, because the code had changed."""
    out = tmp_path / "run"
    assert killed_at("checkpoint: half written", 3, out) == -signal.SIGKILL
    (saved,) = (out / "checkpoints").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "code_digest", lambda: "0" * 64)
        assert command(*SWEEP, "--out", out, "--resume") == 0
    (aside,) = events(out, "set-aside")
    assert aside["text"].startswith(f"{saved}: was saved by other code of jaxstyle")
    assert aside["text"].endswith(f"set aside as {saved.name}.other until the run is done")
    assert not events(out, "continue")
    assert not list((out / "checkpoints").glob("*"))  # the run is done
    assert torture.digests(out) == torture.digests(whole)


def test_a_run_that_was_killed_before_its_plan_begins_anew(whole, tmp_path):
    out = tmp_path / "run"
    killed = torture.start(out, point="start-up", count=1, settings=SWEEP)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert command(*SWEEP, "--out", out, "--resume") == 0
    assert torture.digests(out) == torture.digests(whole)


def test_a_run_that_has_a_retired_setting_goes_on_where_it_is_at_its_default(copy, whole, capsys):
    spec = copy / "spec.toml"
    text = spec.read_text().replace("\nkeep = ", "\nwarm_steps = 0\nkeep = ")
    assert "warm_steps" in text
    spec.write_text(text)
    (copy / "chunks" / "000001.h5").unlink()
    assert command("--out", copy, "--resume") == 0
    assert torture.digests(copy) == torture.digests(whole)
    assert not events(copy, "set-aside")
    spec.write_text(text.replace("warm_steps = 0", "warm_steps = 5"))
    capsys.readouterr()
    assert command("--out", copy, "--resume") == 2
    assert "warm_steps: started cells from their neighbours' pictures" in error_of(capsys)


# --- what must be the same ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["--steps", "80", "81"], "steps is 40, 80 there and 80, 81 here"),
        (["--size", "48"], "size is 64 there and 48 here"),
        (["--seed", "0:3"], "seed is 0, 1 there and 0, 1, 2 here"),
        (["--checkpoint-every", "60"], "checkpoint_every is 0.1 there and 60.0 here"),
        (["--clamp"], "clamp is False there and True here"),
    ],
)
def test_other_settings_are_refused_and_the_difference_told(whole, capsys, settings, says):
    before = torture.digests(whole)
    assert command("--out", whole, "--resume", *settings) == 2
    assert says in error_of(capsys)
    assert torture.digests(whole) == before


def test_other_images_and_weights_are_refused(tmp_path, capsys):
    for name, source in (("c", "cat.jpg"), ("s", "glass.jpg")):  # whose program is compiled already
        shutil.copy(torture.EXAMPLES / source, tmp_path / f"{name}.png")
    out = tmp_path / "run"
    arguments = ["--content", tmp_path / "c.png", "--style", tmp_path / "s.png", "--size", "64"]
    arguments += [*SHALLOW, "--steps", "1", "--pyramid", "0", "--out", out]
    assert command(*arguments) == 0
    other = tmp_path / "vgg19.h5"
    shutil.copy(ROOT / "weights" / "vgg19.h5", other)
    with h5py.File(other, "r+") as file:
        file.attrs["note"] = "another digest"
    assert command(*arguments, "--resume", "--weights", other) == 2
    assert "weights is None there" in error_of(capsys)
    Image.fromarray(random_image(40, 48, 3)).save(tmp_path / "c.png")
    assert command(*arguments, "--resume") == 2
    line = error_of(capsys)
    assert "c.png" in line
    assert "sha256" in line


def test_a_run_is_gone_on_with_only_where_it_is_named(capsys):
    for flag in ("--resume", "--extend"):
        assert command(flag) == 2
        assert "--out" in error_of(capsys)
    assert command("--resume", "--out", "nowhere") == 2
    assert "nowhere holds no run yet; give settings to begin one" in error_of(capsys)
    assert command("--resume", "--extend", "--out", "x", *torture.IMAGES) == 2
    assert "leave --resume out" in error_of(capsys)


def test_a_run_without_a_plan_is_no_run_to_go_on_with(copy, capsys):
    manifest = json.loads((copy / "manifest.json").read_text())
    for damaged in ("", "[]", json.dumps({**manifest, "plan": {}})):
        (copy / "manifest.json").write_text(damaged)
        assert command("--out", copy, "--resume") == 2
        assert "manifest.json" in error_of(capsys)


# --- what is finished -----------------------------------------------------------------------------


def test_a_finished_run_is_rebuilt_without_jax(copy, whole):
    for name in ("results.csv", "images/000001.png"):
        (copy / name).unlink()
    code = (
        "import sys\nfrom jaxstyle import sweep\n"
        f"try: sweep.main(['--out', {str(copy)!r}, '--resume'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'jax' not in sys.modules"
    )
    run_python("-c", code, check=True)
    assert torture.digests(copy) == torture.digests(whole)


def test_a_run_keeps_the_threads_that_it_was_begun_with(copy, whole):
    manifest = json.loads((copy / "manifest.json").read_text())
    assert manifest["threads"] == limits.threads()
    if manifest["threads"] == 1:
        pytest.skip("there is one core: it cannot be begun with more threads")
    (copy / "chunks" / "000001.h5").unlink()
    core = min(os.sched_getaffinity(0))
    code = (
        f"import os\nos.sched_setaffinity(0, [{core}])\n"
        f"from jaxstyle import sweep\nsweep.main(['--out', {str(copy)!r}, '--resume'])"
    )
    run_python("-c", code, check=True)
    again = json.loads((copy / "manifest.json").read_text())
    assert again["threads"] == manifest["threads"]
    assert [before["command"] for before in again["before"]] == [manifest["command"]]
    assert again["chunks_sha256"] == manifest["chunks_sha256"]
    assert again["id"] == manifest["id"]
    assert torture.digests(copy) == torture.digests(whole)


def test_damaged_and_foreign_chunks_are_set_aside_named_and_computed_again(copy, whole):
    chunks = copy / "chunks"
    data = bytearray((chunks / "000001.h5").read_bytes())
    data[len(data) // 2] ^= 4
    (chunks / "000001.h5").write_bytes(data)
    shutil.copy(chunks / "000000.h5", chunks / "000002.h5")  # a number that the plan does not have
    done = run_forked("-m", "jaxstyle.sweep", "--out", copy, "--resume", check=True)
    assert "000001.h5: is damaged" in done.stdout
    assert {p.name for p in chunks.iterdir()} == {
        *("000000.h5", "000001.h5"),
        *("000001.h5.bad", "000002.h5.bad"),
    }
    assert (chunks / "000001.h5.bad").read_bytes() == data
    assert torture.digests(copy) == torture.digests(whole)
    # A chunk of this run under the name of another one.
    shutil.copy(chunks / "000000.h5", chunks / "000001.h5")
    assert command("--out", copy, "--resume") == 0
    assert (chunks / "000001.h5.bad-2").exists()
    # Copies and a synchroniser's files are nobody's chunks, and stay as they are.
    copies = ["000000 (conflicted copy).h5", "7.h5", "0000000.h5"]
    for name in copies:
        shutil.copy(chunks / "000000.h5", chunks / name)
    assert command("--out", copy, "--resume") == 0
    for name in copies:
        (chunks / name).unlink()
    assert torture.digests(copy) == torture.digests(whole)


def test_cells_are_added_behind_those_there_are(copy, whole, tmp_path):
    assert command("--out", copy, "--extend", "--seed", "1:4", "--alpha-beta", "1e-3") == 0
    lines = (copy / "results.csv").read_text().splitlines()
    seeds = [line.split(",")[8] for line in lines[1:]]
    assert seeds == ["0", "1", "2", "3"]
    assert lines[1:3] == (whole / "results.csv").read_text().splitlines()[1:]
    with h5py.File(copy / "results.h5") as file:
        (group,) = file.values()
        assert list(group["cell"]) == [0, 1, 2, 3]
        assert list(group["seed"]) == [0, 1, 2, 3]
        pictures = group["image"][()]
    # The spec that is there now makes the same cells from scratch.
    again = tmp_path / "again"
    assert command("--spec", copy / "spec.toml", "--out", again) == 0
    with h5py.File(again / "results.h5") as file:
        (group,) = file.values()
        np.testing.assert_array_equal(group["image"][()], pictures)
    # Nothing that is there already is added, and the spec does not grow with every call.
    before = torture.digests(copy)
    assert command("--out", copy, "--extend", "--seed", "0:4") == 0
    assert torture.digests(copy) == before
    assert (copy / "spec.toml").read_text().count("[[grid]]") == 2


def planned(path, **settings):
    """A run of which nothing has been computed."""
    settings = {"content": ("/c.png",), "style": ("/s.png",), "steps": (2, 5), **settings}
    return write_run(path, resolve(Sweep(**settings)), [], shape=(32, 32))


def test_an_extension_leaves_every_cell_its_number(tmp_path):
    record = planned(tmp_path / "run", seed=(3, 4))
    more = dataclasses.replace(record.sweep, seed=(0, 4, 1))
    cells = sweep_cells(resume.continued_sweep(record, more, extend=True))
    assert cells[:2] == record.cells
    assert [(cell.id, cell.seed) for cell in cells] == [(0, 3), (1, 4), (2, 0), (3, 1)]


def test_another_plugin_is_another_run(tmp_path):
    record = planned(tmp_path / "run", plugins=("a" * 64,))
    assert resume.continued_sweep(record, record.sweep, extend=False).plugins == record.sweep.plugins
    for plugins, says in (("b" * 64,), "those given have b{64}"), ((), "none is given"):
        with pytest.raises(JaxstyleError, match=f"begun with plugins of sha256 a{{64}}, but {says}"):
            resume.continued_sweep(record, dataclasses.replace(record.sweep, plugins=plugins), extend=False)


def test_a_run_that_is_not_done_is_not_extended(copy, capsys):
    (copy / "chunks" / "000000.h5").unlink()
    assert command("--out", copy, "--extend", "--seed", "5") == 2
    assert "is not done; --resume it before" in error_of(capsys)


def test_a_digest_that_another_spec_gives_is_checked(copy, tmp_path, capsys):
    spec = tmp_path / "study.toml"
    text = (copy / "spec.toml").read_text()
    digest = next(line for line in text.splitlines() if "cat.jpg" in line and '" = "' in line)
    spec.write_text(text.replace(digest, digest[:-9] + '00000000"'))
    for flag in ("--resume", "--extend"):
        assert command("--spec", spec, "--out", copy, flag) == 2
        assert "cat.jpg has another digest there" in error_of(capsys)


def test_another_image_under_a_name_of_the_run_spoils_nothing(tmp_path, capsys):
    own, out = tmp_path / "photo.jpg", tmp_path / "run"
    shutil.copy(EXAMPLES / "cat.jpg", own)
    cells = (
        "--content",
        own,
        "--style",
        EXAMPLES / "brick.jpg",
        *SHALLOW,
        "--pyramid",
        "0",
        "--size",
        "48",
    )
    assert command(*cells, "--steps", "3", "--out", out) == 0
    kept = {path.name: path.read_bytes() for path in (out / "chunks").iterdir()}
    shutil.copy(EXAMPLES / "bridge.jpg", own)
    spec = (out / "spec.toml").read_text().splitlines(keepends=True)
    (out / "spec.toml").write_text("".join(line for line in spec if '.jpg" = "' not in line))
    for flags in (["--resume"], ["--extend", "--seed", "7"]):
        capsys.readouterr()
        assert command("--out", out, *flags) == 2
        assert "photo.jpg: has sha256" in (said := error_of(capsys))
        assert said.endswith("; restore it")
    assert {path.name: path.read_bytes() for path in (out / "chunks").iterdir()} == kept


def test_an_extension_that_ends_before_it_is_written_says_to_give_it_again(copy):
    stopped = (
        "import os, signal; from jaxstyle import sweep; from jaxstyle.run import sweep as runs\n"
        "runs.resume_run = lambda *of: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"sweep.main({[*map(str, ('--out', copy, '--extend', '--seed', '7'))]})"
    )
    done = run_forked("-c", stopped)
    assert done.returncode == 143
    assert done.stderr.splitlines()[-1].endswith("terminated: give the same command again")
    again = stopped.replace("--extend', '--seed', '7'", "--resume'")
    assert "go on with --resume" in run_forked("-c", again).stderr.splitlines()[-1]


def test_the_last_line_counts_the_cells_that_were_computed(copy):
    max((copy / "chunks").iterdir()).unlink()
    done = run_forked("-m", "jaxstyle.sweep", "--out", copy, "--resume")
    assert done.returncode == 0
    assert "1 of 2 cells in " in done.stderr + done.stdout


def test_a_run_with_other_settings_is_not_extended(whole, capsys):
    assert command("--out", whole, "--extend", "--seed", "5", "--network", "normalised") == 2
    assert "network is raw there and normalised here" in error_of(capsys)


# --- signals, closed streams, locks ---------------------------------------------------------------


@contextlib.contextmanager
def running(out, *settings, until="checkpoint", first="", **streams):
    """A run of many steps in a separate process, once it has reported an event, after the lines `first`."""
    arguments = [*ONE_STAGE, "--steps", "50000", "--checkpoint-every", "0.5", *settings, "--out", out]
    code = (
        f"{first}import signal\nfrom jaxstyle import sweep\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a shell's `&` ignores
        f"sweep.main({list(map(str, arguments))})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        **{"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, **streams},
    )
    try:
        while process.poll() is None and not ((out / "events.jsonl").exists() and events(out, until)):
            os.sched_yield()
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "until"),
    [(signal.SIGINT, "checkpoint"), (signal.SIGTERM, "compile"), (signal.SIGUSR1, "checkpoint")],
)
def test_a_signal_saves_the_work_and_ends_the_run_within_ten_seconds(tmp_path, number, until):
    out = tmp_path / "run"
    with running(out, until=until) as process:
        began = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        took = time.monotonic() - began
    assert process.returncode == 128 + number
    assert took < 10
    assert len(err.splitlines()) == 1
    assert f"--resume --out {out}" in err or until == "compile"
    assert not list(out.rglob("*.tmp*"))
    if until == "checkpoint":
        assert json.loads((out / "manifest.json").read_text())["status"] == "interrupted"
        data = (out / "checkpoints" / "000000" / "state.npz").read_bytes()
        kept = np.load(io.BytesIO(data[32:]))  # after its SHA-256
        # The signal came after a checkpoint and caused another one.
        assert len(events(out, "checkpoint")) >= 2
        assert kept["passes"] > 0


@pytest.mark.parametrize("ignored", [False, True], ids=["closed", "nohup"])
def test_a_terminal_that_is_closed_costs_no_work(tmp_path, ignored):
    """A run that ignores SIGHUP goes on; its bar had nowhere to draw, which ended it like a full disk."""
    out = tmp_path / "run"
    ours, theirs = os.openpty()
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}

    first = "import fcntl, signal, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    first += f"signal.signal(signal.SIGHUP, signal.{'SIG_IGN' if ignored else 'SIG_DFL'})\n"
    with running(out, **streams, start_new_session=True, first=first) as process:
        os.close(theirs)
        before = len(events(out, "checkpoint"))
        os.close(ours)
        while ignored and process.poll() is None and len(events(out, "checkpoint")) < before + 3:
            os.sched_yield()
        if ignored:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + (signal.SIGTERM if ignored else signal.SIGHUP)
    assert json.loads((out / "manifest.json").read_text())["status"] == "interrupted"
    assert len(events(out, "checkpoint")) > before


def test_a_second_run_is_told_who_holds_the_directory(tmp_path, capsys):
    out = tmp_path / "run"
    with running(out, until="plan") as process:
        for flags in ((), ("--resume",), ("--extend",)):
            assert command(*SWEEP, "--out", out, *flags) == 3
            line = error_of(capsys)
            assert f"process {process.pid} on " in line


def test_nobody_needs_to_listen(whole, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [sys.executable, "-m", "jaxstyle.sweep", *SWEEP, "--out"]
    broken = subprocess.run([*arguments, tmp_path / "a"], stdout=writer, stderr=writer, cwd=ROOT)
    os.close(writer)
    line = " ".join(map(str, [*arguments, tmp_path / "b"]))
    closed = subprocess.run(["sh", "-c", f"{line} <&- >&- 2>&-"], cwd=ROOT)
    assert (broken.returncode, closed.returncode) == (0, 0)
    for name in ("a", "b"):
        assert torture.digests(tmp_path / name) == torture.digests(whole)


# --- disks ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A separate file system of a few hundred kilobytes, and a function that enlarges it."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        return subprocess.run(["mount", *options, place], capture_output=True).returncode == 0

    if os.geteuid() or not mount("-t", "tmpfs", "-o", "size=128k", "tmpfs"):
        pytest.skip("no file system can be mounted here")
    yield place, lambda size: mount("-o", f"remount,size={size}")
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_keeps_what_is_finished_and_the_run_goes_on_when_there_is_space(
    small_disk, whole, tmp_path
):
    place, grow = small_disk
    out = place / "run"
    # There is no room for the tables and a checkpoint, but there is for the results themselves.
    done = run_forked("-m", "jaxstyle.sweep", *SWEEP, "--out", out, cwd=ROOT)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line
    assert not list(out.rglob("*.tmp*"))
    assert torture.digests(out).items() <= torture.digests(whole).items()
    assert grow("64m")
    assert command(*SWEEP, "--out", out, "--resume") == 0
    assert torture.digests(out) == torture.digests(whole)


def test_a_disk_that_is_full_when_the_tables_are_made_costs_no_chunk(
    small_disk, whole, monkeypatch, capsys
):
    place, grow = small_disk
    assert grow("8m")
    out = place / "run"
    shutil.copytree(whole, out)
    (out / "results.h5").unlink()
    monkeypatch.setattr(results_h5, "MERGED_IN_MEMORY", 0)  # as in a large run: by a separate process
    assert command("--out", out, "--resume") == 2
    assert "make space" in error_of(capsys)
    assert not (out / "results.h5").exists()
    assert not list(out.rglob("*.tmp*"))
    # The space is there when it is checked and gone when HDF5 writes: that process dies, but not this one.
    monkeypatch.setattr(
        results_h5, "check_space", lambda path, size: (place / "other").write_bytes(bytes(fill(place)))
    )
    assert command("--out", out, "--resume") == 2
    assert "the chunks are kept, make space" in error_of(capsys)
    monkeypatch.undo()
    (place / "other").unlink()
    assert command("--out", out, "--resume") == 0
    assert torture.digests(out) == torture.digests(whole)


def fill(place):
    """The number of bytes that almost fills a file system."""
    return shutil.disk_usage(place).free - 2 * 4096


def test_a_limit_on_the_size_of_files_is_a_full_disk(whole, tmp_path):
    limit = 15_000
    assert (whole / "chunks" / "000000.h5").stat().st_size > limit
    code = (
        "import resource, sys\nfrom jaxstyle import sweep\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        f"sweep.main({[*SWEEP, '--no-compile-cache', '--out', str(tmp_path / 'run')]})"
    )
    done = run_forked("-c", code)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "File too large" in line
    assert command(*SWEEP, "--out", tmp_path / "run", "--resume") == 0
    assert torture.digests(tmp_path / "run") == torture.digests(whole)


def test_a_directory_that_goes_away_ends_the_run_in_one_line(tmp_path):
    out = tmp_path / "run"
    with running(out) as process:
        shutil.rmtree(out)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert len(err.splitlines()) == 1
    assert not out.exists()


def test_the_lock_outlives_no_process(copy):
    with open(copy / "run.lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert command("--out", copy, "--resume") == 0


STUCK = """
import sys, time
from jaxstyle.console import command, signals

signals.GRACE_S = 0.5

def mend():
    time.sleep(float(sys.argv[1]))  # the disk on which it looks for the run
    return "go on with --resume --out here"

def stuck():
    with signals.mended(mend), signals.signals_held():
        print("ready", flush=True)
        time.sleep(60)  # work that is not asked to end, as a compiler's
    return 0

command.run_command(stuck)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(("disk_s", "said_is"), [("0", "go on with --resume --out here"), ("60", "")])
def test_a_process_that_cannot_end_by_itself_says_how_to_go_on_if_the_disk_answers(number, disk_s, said_is):
    """Compiling may take longer than the grace of a signal, and it is then that people interrupt."""
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, disk_s],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    (line,) = said.splitlines()
    assert line == f"jaxstyle: error: {signals.Interrupted(number, said_is)}"
