"""Limits that containers, jobs and shells set: read from imitated kernel files, and in real groups."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from conftest import EXAMPLES, ROOT, SHALLOW, run_python

from jaxstyle import Sweep, sweep
from jaxstyle.console import limits
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.planner import make_plan
from jaxstyle.plan.programs import Memory
from jaxstyle.run.inputs import read_inputs
from jaxstyle.run.planning import Planned, check_memory, plan_for
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve

SMALL = ("--content", EXAMPLES / "pagoda.jpg", "--style", EXAMPLES / "cafe.jpg", "--size", 64, "--steps", 3)
SMALL += ("--optimizer", "adam", *SHALLOW)
MB = 1_000_000
NONE_V1 = 9223372036854771712


def lay_out(root, cgroup, mounts, files):
    """Write /proc/self and the files of control groups as a process in one of them sees them."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(cgroup)
    (root / "proc" / "self" / "mountinfo").write_text(mounts)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
JOB = "sys/fs/cgroup/system.slice/job"
MEMORY = {
    "version 2": ("0::/system.slice/job\n", V2, {f"{JOB}/memory.max": 900 * MB}, 900),
    "version 2, above it": (
        "0::/system.slice/job\n",
        V2,
        {f"{JOB}/memory.max": "max", "sys/fs/cgroup/system.slice/memory.max": 800 * MB},
        800,
    ),
    "version 2, throttled": (
        "0::/system.slice/job\n",
        V2,
        {f"{JOB}/memory.max": 900 * MB, f"{JOB}/memory.high": 700 * MB},
        700,
    ),
    "version 2, none": ("0::/system.slice/job\n", V2, {f"{JOB}/memory.max": "max"}, None),
    "a container's own root": ("0::/\n", V2, {"sys/fs/cgroup/memory.max": 900 * MB}, 900),
    "a name of outside": ("0::/docker/1f\n", V2, {"sys/fs/cgroup/memory.max": 900 * MB}, 900),
    "outside of the namespace": ("0::/../job\n", V2, {"sys/fs/cgroup/memory.max": 900 * MB}, 900),
    "version 1": (
        "4:memory:/job\n0::/\n",
        V1.format(top="/"),
        {"sys/fs/cgroup/memory/job/memory.limit_in_bytes": 900 * MB},
        900,
    ),
    "version 1, mounted from the container's group": (
        "4:memory:/docker/1f\n",
        V1.format(top="/docker/1f"),
        {"sys/fs/cgroup/memory/memory.limit_in_bytes": 900 * MB},
        900,
    ),
    "version 1, of another name": (
        "4:memory:/docker/1f\n",
        V1.format(top="/kubepods/pod"),
        {"sys/fs/cgroup/memory/memory.limit_in_bytes": 900 * MB},
        900,
    ),
    "version 1, above what is seen": (
        "4:memory:/\n",
        V1.format(top="/"),
        {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": NONE_V1,
            "sys/fs/cgroup/memory/memory.stat": f"cache 0\nhierarchical_memory_limit {600 * MB}",
        },
        600,
    ),
    "version 1, above it": (
        "4:cpu,memory:/a/b\n",
        V1.format(top="/").replace("rw,memory", "rw,cpu,memory"),
        {
            "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": NONE_V1,
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": 500 * MB,
        },
        500,
    ),
    "version 1, none": (
        "4:memory:/\n",
        V1.format(top="/"),
        {"sys/fs/cgroup/memory/memory.limit_in_bytes": NONE_V1},
        None,
    ),
    "a folder of spaces": (
        "0::/a b\n",
        V2.replace("/sys/fs/cgroup", r"/sys/fs/c\040g"),
        {"sys/fs/c g/a b/memory.max": 900 * MB},
        900,
    ),
    "nothing to be seen": ("", "", {}, None),
    "no sense": ("0\n::\n:::\n", "1 2 3\n - \n", {}, None),
}


@pytest.mark.parametrize("case", MEMORY)
def test_the_memory_of_a_control_group_counts(tmp_path, case):
    *laid_out, expected = MEMORY[case]
    found = limits.memory(lay_out(tmp_path, *laid_out))
    if expected is None:
        assert found == limits.Limit(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), limits.RAM)
    else:
        assert found == limits.Limit(expected * MB, limits.CGROUP)


CPU_V1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
QUOTAS = {
    "two cores": ("0::/system.slice/job\n", V2, {f"{JOB}/cpu.max": "200000 100000"}, 2),
    "one and a half": ("0::/system.slice/job\n", V2, {f"{JOB}/cpu.max": "150000 100000"}, 2),
    "a tenth": ("0::/system.slice/job\n", V2, {f"{JOB}/cpu.max": "10000 100000"}, 1),
    "none": ("0::/system.slice/job\n", V2, {f"{JOB}/cpu.max": "max 100000"}, 64),
    "above it": (
        "0::/system.slice/job\n",
        V2,
        {f"{JOB}/cpu.max": "max 100000", "sys/fs/cgroup/system.slice/cpu.max": "300000 100000"},
        3,
    ),
    "more than there are": ("0::/system.slice/job\n", V2, {f"{JOB}/cpu.max": "9900000 100000"}, 64),
    "version 1": (
        "2:cpu,cpuacct:/job\n",
        CPU_V1,
        {
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": 500_000,
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": 100_000,
        },
        5,
    ),
    "version 1, none": (
        "2:cpu,cpuacct:/job\n",
        CPU_V1,
        {
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": -1,
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": 100_000,
        },
        64,
    ),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_a_quota_on_cores_sets_the_threads_and_what_the_user_says_comes_before_it(
    tmp_path, monkeypatch, case
):
    *laid_out, expected = QUOTAS[case]
    root = lay_out(tmp_path, *laid_out)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.delenv("NPROC", raising=False)
    assert limits.cores(root) == limits.threads(root) == expected
    assert limits.xla_threads() == 64
    monkeypatch.setenv("NPROC", " 7")
    assert limits.threads(root) == limits.xla_threads() == 7
    for unread in ("many", "", "٣", "1.5", "99999999999"):
        monkeypatch.setenv("NPROC", unread)
        assert limits.threads(root) == expected


def hierarchy(controller):
    """The folder of a hierarchy, of version 1 or 2, in which groups can be made."""
    for mount in limits._mounts(limits.ROOT):
        if controller in mount.controllers:
            return Path(mount.at)
        if mount.version == 2:
            given = Path(mount.at) / "cgroup.subtree_control"
            if given.is_file() and controller in given.read_text().split():
                return Path(mount.at)
    return None


@pytest.fixture
def group():
    """Run a command in a new control group."""
    made = []

    def run(files, *arguments, **environment):
        folders = {hierarchy(name.partition(".")[0]) for name, _ in files}
        if os.geteuid() or None in folders:
            pytest.skip("no control group can be made here")
        for folder in folders:
            made.append(folder / f"jaxstyle-test-{os.getpid()}-{len(made)}")
            try:
                made[-1].mkdir()
            except OSError:
                made.pop()
                pytest.skip("no control group can be made here")
            for name, value in files:
                if (made[-1] / name).is_file():
                    (made[-1] / name).write_text(str(value))
        join = "; ".join(f"echo $$ > {folder}/cgroup.procs" for folder in made)
        return subprocess.run(
            ["sh", "-c", f'{join}; exec "$@"', "sh", sys.executable, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    yield run
    for folder in made:
        folder.rmdir()


def test_a_plan_of_more_than_the_control_group_may_have_is_refused_by_name_and_nothing_written(
    group, tmp_path
):
    files = [("memory.max", 900 * MB), ("memory.limit_in_bytes", 900 * MB)]
    large = ["--size", "800", "--content", EXAMPLES / "pagoda.jpg", "--style", EXAMPLES / "cafe.jpg"]
    done = group(files, "-m", "jaxstyle.sweep", *large, "--quiet", "--out", tmp_path / "run")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert (
        "of memory and there are 0.90 GB by the memory limit of this process's control group; give" in line
    )
    assert "or give the container or job more memory" in line
    assert not list(tmp_path.iterdir())


def test_a_run_has_the_threads_of_its_quota(group, tmp_path):
    if limits.cores() < 2:
        pytest.skip("there is one core")
    out, files = tmp_path / "run", [("cpu.max", "100000 100000"), ("cpu.cfs_quota_us", 100_000)]
    code = (
        "import os\nfrom jaxstyle import sweep\n"
        "def name(thread):\n"
        "    try: return open(f'/proc/self/task/{thread}/comm').read()\n"
        "    except OSError: return ''\n"  # a thread that ended meanwhile
        "try: sweep.main()\n"
        "finally: print(sum('XLAEigen' in name(thread) for thread in os.listdir('/proc/self/task')))\n"
    )
    done = group(files, "-c", code, *SMALL, "--out", out, NPROC="")
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "manifest.json").read_text())["threads"] == 1
    assert done.stdout.splitlines()[-1] == "1"


@pytest.mark.parametrize(("flag", "size"), [("v", 700), ("d", 900)])
def test_a_ulimit_is_named_by_the_flag_that_raises_it(tmp_path, flag, size):
    arguments = [sys.executable, "-m", "jaxstyle.sweep", *SMALL[:5], size, "--dry-run"]
    line = " ".join(map(str, arguments))
    done = subprocess.run(
        ["sh", "-c", f"ulimit -{flag} 1600000; exec {line}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "NPROC": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert f"GB by ulimit -{flag}; give a smaller --size or raise ulimit -{flag}" in said


def test_the_allocators_reserve_leaves_room_under_a_ulimit(tmp_path):
    code = (
        "import resource as r\n"
        "r.setrlimit(r.RLIMIT_AS, (2_300_000_000, r.getrlimit(r.RLIMIT_AS)[1]))\n"
        "from jaxstyle import sweep\nsweep.main()\n"
    )
    done = run_python("-c", code, *SMALL, "--out", tmp_path / "run", NPROC="1")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["host"]["memory_limit"] == {"bytes": 2_300_000_000, "name": "ulimit -v"}


def test_where_compiling_may_not_fit_it_is_said_before(monkeypatch, capsys):
    monkeypatch.setattr(limits, "memory_limits", lambda root=None: [limits.Limit(10**9, limits.CGROUP)])
    with pytest.raises(SystemExit) as stop:
        sweep.main([*map(str, SMALL), "--dry-run"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "of the 1.00 GB by the memory limit of this process's control group, and compiling up to" in said
    assert "if the system ends the process, give a smaller --size or give the container or job more" in said


class Gpu:
    """A device with two gigabytes, as far as a plan looks at it."""

    platform = "gpu"

    def memory_stats(self):
        return {"bytes_limit": 2 * 10**9}


@pytest.mark.parametrize(("per_cell", "fits"), [(400 * MB, True), (1900 * MB, False)])
def test_a_gpu_needs_memory_for_one_cell_because_a_launch_too_wide_is_halved(per_cell, fits):
    settings = resolve(Sweep(content=("c",), style=("s",), seed=("0:64",), size="512"))
    cells = list(sweep_cells(settings))
    plan = make_plan(
        settings, cells, {cells[0].content: (512, 512)}, platform="gpu", choose_width=lambda *_: 64
    )
    planned = Planned(plan, (Memory(200 * MB, per_cell),))
    if fits:
        assert check_memory(planned, Gpu()) == ""
    else:
        with pytest.raises(
            JaxstyleError, match=r"a 512x512 image needs about 2.10 GB .* there are 2.00 GB;"
        ):
            check_memory(planned, Gpu())


def test_the_memory_of_the_largest_style_is_in_the_plan():
    """The pass over a style may take more than the steps."""
    about = {"content": (str(EXAMPLES / "cat.jpg"),), "style": (str(EXAMPLES / "brushwork.jpg"),)}
    about |= {"size": "48", "steps": (2,), "pyramid": 0, "alpha_beta": (1e-3,)}
    found = {}
    for px in (64, 1024, 2048):
        inputs = read_inputs(resolve(Sweep(**about, style_size=(px,))))
        found[px] = plan_for(inputs, jax.devices("cpu")[0])
    assert [planned.style for planned in found.values()] == ["64x51", "1024x820", "2048x1640"]
    small, large, larger = (planned.target_bytes for planned in found.values())
    assert small < found[64].memory[0].fixed * 1.1
    assert (larger - small) / (large - small) == pytest.approx(4, rel=0.05)
    # 1.70 GB more than with 64 px at the peak of a process.
    assert large - small == pytest.approx(1.7e9, rel=0.2)
    huge = replace(found[2048], target_bytes=10**15)
    with pytest.raises(
        JaxstyleError, match=r"style_size: a style of 2048x1640 px needs about 1000000.* GB"
    ):
        check_memory(huge, jax.devices("cpu")[0])
