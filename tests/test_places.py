"""Limited file systems, colleagues who share a run, and directories that several processes claim."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest
from conftest import EXAMPLES, ROOT, SHALLOW, run_python

import jaxstyle
from jaxstyle import sweep
from jaxstyle.console import limits
from jaxstyle.run.dry_run import space_note
from jaxstyle.rundir import directory, locks
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.files import check_space, write_together
from jaxstyle.rundir.hdf5 import open_h5
from jaxstyle.rundir.locks import NoLocks
from jaxstyle.rundir.results_csv import write_csv
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.options import check_options
from jaxstyle.spec.settings import RunOptions, Sweep

SMALL = ("--content", EXAMPLES / "pagoda.jpg", "--style", EXAMPLES / "cafe.jpg", "--size", 64, "--steps", 3)
SMALL += ("--optimizer", "adam", *SHALLOW)
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
static int asked(const char *name) { const char *value = getenv(name); return value ? atoi(value) : 0; }
int flock(int fd, int how) {
    int (*real)(int, int) = dlsym(RTLD_NEXT, "flock"), fails = asked("FLOCK_ERRNO");
    return fails ? (errno = fails, -1) : real(fd, how);
}
int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    struct stat about;
    int fails = asked(!fstat(fd, &about) && S_ISDIR(about.st_mode) ? "FOLDER_ERRNO" : "FSYNC_ERRNO");
    return fails ? (errno = fails, -1) : real(fd);
}
"""
WAY_OUT = "put the run on a file system that has locks, or give --no-lock"


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    """A library that makes `flock` and `fsync` fail as environment variables say."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    library = folder / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "shim.c", "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)}


COMMANDS = """
import sys
from jaxstyle import report, sweep, variance
for line in sys.stdin.read().splitlines():
    name, *arguments = line.split("\\t")
    try:
        {"report": report, "sweep": sweep, "variance": variance}[name].main(arguments)
    except SystemExit as stop:
        print("code", stop.code, flush=True)
"""


def commands(*lines, wrap=(), **environment):
    """The exit codes of several commands in one process, and its standard error."""
    done = subprocess.run(
        [*wrap, sys.executable, "-c", COMMANDS],
        input="\n".join("\t".join(map(str, line)) for line in lines),
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    codes = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("code ")]
    return codes, done.stderr.splitlines()


def locking(path):
    return json.loads((path / "manifest.json").read_text())["locking"]


# --- no locks -------------------------------------------------------------------------------------


def test_without_locks_a_run_is_refused_with_the_way_out_and_goes_on_all_its_life_with_no_lock(
    shim, tmp_path
):
    run, other = tmp_path / "run", tmp_path / "deep" / "other"
    shares = [("sweep", *SMALL, "--out", tmp_path / "shared", "--shard", f"{i}/2") for i in range(2)]
    new = ("sweep", *SMALL, "--seed", "0:2", "--checkpoint-every", "0.1")
    codes, said = commands(
        (*new, "--out", other),
        (*new, "--out", run, "--no-lock"),
        ("sweep", "--resume", "--out", run),
        ("report", run),
        ("variance", run, "--no-floor"),
        ("sweep", *SMALL, "--checkpoint-every", "0.1", "--seed", "0:3", "--extend", "--out", run),
        (*shares[0], "--no-lock", "--seed", "0:2", "--checkpoint-every", "0.1"),
        (*shares[1], "--seed", "0:2", "--checkpoint-every", "0.1"),
        **shim,
        FLOCK_ERRNO=str(errno.ENOLCK),
    )
    assert codes == [2, 0, 0, 0, 0, 0, 0, 0]
    (line,) = said
    assert line.startswith(f"jaxstyle: error: {other / 'run.lock'}: cannot be locked (No locks available)")
    assert WAY_OUT in line
    assert not (tmp_path / "deep").exists()
    assert locking(run) == locking(tmp_path / "shared") == "none"
    for path in (run, tmp_path / "shared"):
        assert (path / "report.html").exists()
        assert not list(path.rglob("*.tmp-*"))


def test_a_run_begun_with_locks_is_looked_at_without_and_changed_only_when_asked_to(
    shim, tmp_path, plain_run
):
    run = tmp_path / "run"
    shutil.copytree(plain_run, run)
    assert locking(run) == "flock"
    code = (
        "import jaxstyle\n"
        f"run = jaxstyle.open_run({str(run)!r})\n"
        "data = run.dataset()\n"
        "assert len(run.losses(0)['loss_total']) == data.sizes['step']\n"
    )
    unlocked = {**shim, "FLOCK_ERRNO": str(errno.EOPNOTSUPP)}
    run_python("-c", code, check=True, **unlocked)
    codes, said = commands(
        ("report", run),
        ("variance", run, "--no-floor"),
        ("sweep", "--resume", "--out", run),
        ("sweep", "--extend", *SMALL, "--seed", "1", "--out", run),
        ("report", run, "--no-lock"),
        **unlocked,
    )
    assert codes == [2, 2, 2, 2, 0]
    assert len(said) == 4
    assert all(f"{run / 'run.lock'}: cannot be locked" in line and WAY_OUT in line for line in said)


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    """A small run."""
    out = tmp_path_factory.mktemp("plain") / "run"
    with pytest.raises(SystemExit) as stop:
        sweep.main([str(a) for a in (*SMALL, "--seed", "0:2", "--out", out, "--quiet")])
    assert stop.value.code == 0
    return out


def test_no_lock_is_a_switch():
    assert assemble({"no_lock": True}).options.no_lock is True
    with pytest.raises(JaxstyleError, match="no_lock: 'yes' is neither true nor false"):
        check_options(RunOptions(no_lock="yes"))  # pyright: ignore[reportArgumentType]


def test_a_file_that_is_open_without_a_lock_can_be_opened_again(plain_run, monkeypatch):
    import h5py

    path = plain_run / "results.h5"
    for own in ({}, {"locking": False}):
        with h5py.File(path, "r", **own), open_h5(path) as again:
            assert list(again)
    with pytest.raises(FileNotFoundError):
        open_h5(plain_run / "none.h5")


# --- no fsync -------------------------------------------------------------------------------------


def test_what_cannot_be_fsynced_is_written_all_the_same_and_a_broken_disk_is_told_of(tmp_path, monkeypatch):
    with RunDirectory(tmp_path / "run", create=True) as run:
        for number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            monkeypatch.setattr(os, "fsync", failing(number))
            assert run.write(f"{number}", "text").read_text() == "text"
            write_together([(run.path / "images" / f"{number}.png", b"png")])
            write_csv(run, [])
        for number in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            monkeypatch.setattr(os, "fsync", failing(number))
            with pytest.raises(OSError, match=os.strerror(number)) as error:
                run.write("lost", "text")
            assert error.value.filename == str(run.path / "lost")
            assert not (run.path / "lost").exists()
        monkeypatch.undo()
    assert not list((tmp_path / "run").rglob("*.tmp-*"))


def failing(number):
    def fsync(handle):
        raise OSError(number, os.strerror(number))

    return fsync


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.EACCES, errno.EOPNOTSUPP])
def test_a_folder_that_cannot_be_fsynced_is_no_failure(shim, tmp_path, number):
    code = (
        "import sys\nfrom pathlib import Path\nfrom jaxstyle.rundir import directory, files, results_csv\n"
        "folder = Path(sys.argv[1])\n"
        "files.write_atomic(folder / 'a', b'a')\n"
        "with directory.RunDirectory(folder / 'run', create=True) as run:\n"
        "    run.write('chunks/000000.h5', b'b')\n"
        "    files.write_together([(folder / 'run' / 'images' / '0.png', b'c')])\n"
        "    results_csv.write_csv(run, [])\n"
    )
    run_python("-c", code, tmp_path, check=True, **shim, FOLDER_ERRNO=str(number))
    assert (tmp_path / "run" / "images" / "0.png").read_bytes() == b"c"


def test_a_disk_that_does_not_tell_its_size_is_not_taken_for_a_full_one(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 0))
    check_space(tmp_path, 10**9)


def test_a_plan_notes_a_disk_that_may_be_too_full_for_unfinished_pictures(tmp_path, monkeypatch, capsys):
    """Only a note, for a short run saves no state, and one that goes on has its state there already."""
    run = (*map(str, SMALL), "--out", str(tmp_path / "run"))

    def said(free, *more):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, int(free))
        )
        with pytest.raises(SystemExit) as stop:
            sweep.main([*run, *more])
        assert stop.value.code == 0
        return capsys.readouterr().out

    plan = json.loads(said(10**9, "--dry-run", "--json"))
    both = plan["disk_bytes"] + plan["state_bytes"]
    assert "are needed while pictures are unfinished" not in said(both, "--dry-run")
    assert "are needed while pictures are unfinished" in said(both - 1, "--dry-run")
    state = tmp_path / "begun" / "checkpoints" / "000000" / "state.npz"
    state.parent.mkdir(parents=True)
    state.write_bytes(bytes(1))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, both - 1))
    assert "unfinished" in space_note(tmp_path, plan)
    assert not space_note(tmp_path / "begun", plan)


def test_a_plan_says_that_the_disk_is_too_full_for_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    for more, code in ((("--dry-run",), 0), ((), 2)):
        with pytest.raises(SystemExit) as stop:
            sweep.main([*map(str, SMALL), "--out", str(tmp_path / "run"), *more])
        assert stop.value.code == code
        said = capsys.readouterr()
        assert "are needed, but only 0.001 MB are free" in (said.out if more else said.err)
    assert not (tmp_path / "run").exists()


def test_a_file_of_events_that_a_spec_names_stands_beside_it(tmp_path, monkeypatch):
    images = f'content = ["{EXAMPLES / "cat.jpg"}"]\nstyle = ["{EXAMPLES / "cafe.jpg"}"]\n'
    (tmp_path / "spec.toml").write_text(f'events = "log.jsonl"\nout = "run"\n{images}')
    monkeypatch.chdir("/")
    options = assemble({"spec": str(tmp_path / "spec.toml")}).options
    assert (options.events, options.out) == (str(tmp_path / "log.jsonl"), str(tmp_path / "run"))


# --- colleagues -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o002, 0o664, 0o775), (0o077, 0o600, 0o700)])
def test_files_have_what_the_umask_leaves(tmp_path, mask, file, folder):
    before = os.umask(mask)
    try:
        arguments = [str(a) for a in (*SMALL, "--out", tmp_path / "run", "--shard", "0/2", "--quiet")]
        with pytest.raises(SystemExit) as stop:
            sweep.main(arguments)
        with RunDirectory(tmp_path / "run", briefly=True) as run:
            run.write("one", "1")
    finally:
        os.umask(before)
    assert stop.value.code == 0
    modes = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "run").rglob("*")}
    assert {str(p): m for p, m in modes.items() if m != (folder if p.is_dir() else file)} == {}
    assert tmp_path / "run" / "locks" / "shard-000-of-002.lock" in modes


def as_user(number, mask):
    """Command prefix that makes a user of a group, who may read everything, as tools may lie in a home."""
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("only root can be several users")
    reads = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
    user = ("setpriv", f"--reuid={number}", "--regid=4242", "--clear-groups", *reads)
    return (*user, "sh", "-c", f'umask {mask:o}; exec "$@"', "sh")


def test_a_colleague_of_the_group_reports_resumes_and_extends_a_run(tmp_path, plain_run):
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o055)  # pytest's own, which only its user may enter
    tmp_path.chmod(0o755)
    run, home = tmp_path / "run", {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    shutil.copytree(plain_run, run)
    for path in (run, *run.rglob("*")):  # as umask 0002 leaves it
        path.chmod(0o2775 if path.is_dir() else 0o664)
        os.chown(path, 1111, 4242)
    others = {name: tmp_path / name.replace("/", "-") for name in ("events.jsonl", "images", "run.lock")}
    for name, other in others.items():
        subprocess.run(["cp", "-a", run, other], check=True)
        (other / name).chmod((other / name).stat().st_mode & ~0o022)
    codes, said = commands(
        ("report", run),
        ("sweep", "--resume", "--out", run),
        ("sweep", *SMALL, "--seed", "0:3", "--extend", "--out", run),
        *(("sweep", "--resume", "--out", other) for other in others.values()),
        ("report", others["run.lock"]),
        ("variance", others["images"]),
        wrap=as_user(2222, 0o002),
        **home,
    )
    assert codes == [0, 0, 0, 2, 2, 2, 2, 2]
    assert len((run / "results.csv").read_text().splitlines()) == 4
    for line, name in zip(said, (*others, "run.lock", "images"), strict=True):
        mend = "is not writable; have its owner change that (chmod g+w), or use another directory"
        assert line == f"jaxstyle: error: {others[name] / name}: {mend}"
    look = f"import jaxstyle; assert len(jaxstyle.open_run({str(others['run.lock'])!r}).rows) == 2"
    user = [*as_user(3333, 0o002), sys.executable, "-c", look]
    subprocess.run(user, env={**os.environ, "PYTHONPATH": str(ROOT), **home}, check=True)


def test_a_lock_that_may_not_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "run.lock").touch()
    opened = os.open

    def refuse(path, flags, *mode):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        JaxstyleError, match=r"run\.lock: cannot be written \(Permission denied\); have its owner"
    ):
        RunDirectory(tmp_path).__enter__()
    locks.check_not_held(tmp_path)  # which only reads


# --- fresh directories ----------------------------------------------------------------------------


def test_a_fresh_number_is_taken_by_one_alone_whatever_it_is_called(tmp_path):
    made, start = [], threading.Barrier(8)

    def make(name):
        path = directory.fresh_path(name, root=tmp_path / "runs")
        start.wait()
        made.append(directory.make_fresh(path))

    for _ in range(5):
        threads = [threading.Thread(target=make, args=(f"name-{i % 3}",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(made)) == 40
    assert len({path.name.partition("-")[0] for path in made}) == 40
    assert {path.name for path in made} == set(os.listdir(tmp_path / "runs"))
    (tmp_path / "runs" / "9999-x").mkdir()
    path = directory.make_fresh(tmp_path / "runs" / "9999-x")
    assert path.name == "10000-x"
    assert directory.fresh_path("y", root=tmp_path / "runs").name == "10001-y"


@pytest.mark.usefixtures("plain_run")  # which leaves their program: each would compile it
def test_sweeps_that_are_started_at_once_without_a_directory_are_runs_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = Sweep(
        content=(str(EXAMPLES / "pagoda.jpg"),),
        style=(str(EXAMPLES / "cafe.jpg"),),
        content_layer=("conv2_2",),
        style_layers=("conv1_1+conv2_1",),
        style_weights="equal",
        size="64",
        steps=(3,),
        optimizer="adam",
        conv="plain",
    )
    paths, make = [], directory.make_fresh
    all_planned = threading.Barrier(3)

    def wait(path):
        all_planned.wait(120)  # all are about to take the same number
        return make(path)

    monkeypatch.setattr(directory, "make_fresh", wait)

    def run():
        paths.append(jaxstyle.run_sweep(wanted, RunOptions(quiet=True)).path)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in paths) == ["0001-sweep", "0002-sweep", "0003-sweep"]
    assert all((path / "report.html").exists() for path in paths)


@pytest.mark.parametrize("wrong", [None, "memory", "steps"])
def test_a_number_is_not_taken_before_a_run_can_begin(tmp_path, monkeypatch, capsys, wrong):
    monkeypatch.chdir(tmp_path)
    line = [str(a) for a in SMALL]
    if wrong == "memory":
        monkeypatch.setattr(limits, "memory_limits", lambda root=None: [limits.Limit(10**8, limits.CGROUP)])
    elif wrong == "steps":
        line[line.index("--steps") + 1] = "0"
    with pytest.raises(SystemExit) as stop:
        sweep.main([*line, *([] if wrong else ["--dry-run"])])
    assert stop.value.code == (2 if wrong else 0)
    assert not list(tmp_path.iterdir())
    said = capsys.readouterr()
    assert "would write runs/0001-sweep" in said.out if wrong is None else wrong in said.err


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_directory_that_cannot_be_locked_is_not_left_behind(tmp_path, monkeypatch, number):
    def fail(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fail)
    for settings in ({"create": True}, {"create": True, "fresh": True}):
        with pytest.raises(NoLocks, match=WAY_OUT), RunDirectory(tmp_path / "runs" / "0001-x", **settings):
            pass
        assert not list(tmp_path.iterdir())
    (tmp_path / "own").mkdir()
    with pytest.raises(NoLocks), RunDirectory(tmp_path / "own", create=True):
        pass
    assert (tmp_path / "own").is_dir()  # it was the user's
    with RunDirectory(tmp_path / "own", create=True, no_lock=True) as run:
        assert run.no_lock
