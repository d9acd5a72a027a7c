"""A mesh of virtual devices: one device's bytes, and no device that waits for another's data."""

import json
import os
import re
import shutil
import signal

import pytest
import torture
from conftest import FIVE_CHUNKS, ROOT, run_python
from torture import digests

MESH = """
import hashlib, re, sys, jax, numpy as np, test_engine, conftest
from jaxstyle import engine
width = int(sys.argv[1])
optimizer = {"optimizer": "lbfgs", "pyramid": 1} if width > 1 else {}
weights = conftest.narrow_weights()
settings = {"content": ("/c0", "/c1"), "style": ("/s0", "/s1"), "seed": ("0:5",), **optimizer}
one = test_engine.Bench(weights, width=width, shape=(64, 80), **settings)
many = test_engine.Bench(weights, width=width, shape=(64, 80), **settings)
many.engine = engine.Engine(weights, cell_shapes=[(64, 80)], winograd=False, device=jax.devices())
ids = list(range(len(one.cells)))
groups = [ids[i : i + width] for i in range(0, len(ids), width)]
for start in range(0, len(groups), 8):
    part = groups[start : start + 8]
    launch = drive.side_by_side([many.launch(group) for group in part], width)
    course = many.engine.course(many.program, launch, (2, 4))
    kept = [segment.progress() for segment in course]
    outcome = course.outcome
    again = many.engine.course(many.program, launch, (2, 4), begin=kept[len(kept) // 2]).finish()
    test_engine.same(outcome, again)
    for i, group in enumerate(part):
        alone = one.run(group, (2, 4))
        test_engine.same(alone, jax.tree.map(lambda a: a[i * width : i * width + len(group)], outcome))
compiled, fresh = many.engine.compile(many.program)
assert not fresh
collectives = re.findall(r"all-\\w+|collective-\\w+|reduce-scatter", compiled.segment.as_text())
single, _ = one.engine.compile(one.program)
print(len(jax.devices()), compiled.step_traces, collectives, compiled.device_bytes == single.device_bytes)
"""


def devices(count):
    """Environment with that many virtual devices, and as many threads."""
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "NPROC": str(count)}


@pytest.mark.parametrize("width", [1, 2])
def test_eight_devices_give_the_bytes_of_one_without_a_collective(width):
    paths = f"{ROOT}:{ROOT / 'tests'}"
    done = run_python("-c", MESH, width, check=True, PYTHONPATH=paths, **devices(8))
    assert done.stdout.split("\n")[0] == "8 1 [] True"


def sweep(out, *more):
    """Run the sweep on two devices: its five chunks are two blocks of two and one of one."""
    return run_python("-m", "jaxstyle.sweep", *FIVE_CHUNKS, "--quiet", "--out", out, *more, **devices(2))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The sweep on the first of the devices."""
    out = tmp_path_factory.mktemp("one") / "run"
    assert sweep(out, "--devices", 1).returncode == 0
    assert json.loads((out / "manifest.json").read_text())["device"]["used"] == 1
    return out


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The sweep on all of them."""
    out = tmp_path_factory.mktemp("both") / "run"
    done = sweep(out)
    assert (done.returncode, done.stderr) == (0, "")
    return out


def test_a_sweep_on_two_devices_is_that_of_one(one, both):
    assert digests(both) == digests(one)
    manifest, alone = (json.loads((out / "manifest.json").read_text()) for out in (both, one))
    assert manifest["device"]["used"] == 2
    assert manifest["plan"] == alone["plan"]
    (program,) = manifest["programs"]
    assert program["step_traces"] == 1
    assert len(manifest["plan"]["chunks"]) == 5


def test_a_block_that_is_half_on_the_disk_is_gone_on_with(one, both, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(both, out)
    for number in (1, 2, 4):
        os.unlink(out / "chunks" / f"{number:06d}.h5")
    done = sweep(out, "--resume")
    assert (done.returncode, done.stderr) == (0, "")
    assert digests(out) == digests(one)
    os.unlink(out / "chunks" / "000004.h5")
    assert sweep(out, "--resume", "--devices", 1).returncode == 0
    assert digests(out) == digests(one)


def test_a_block_whose_first_chunk_alone_is_on_the_disk_is_not_computed_again(one, tmp_path, monkeypatch):
    out = tmp_path / "run"
    for name, value in devices(2).items():
        monkeypatch.setenv(name, value)
    killed = torture.start(out, point="chunk: before its name", count=2, settings=[*map(str, FIVE_CHUNKS)])
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in (out / "chunks").glob("*.h5")] == ["000000.h5"]
    done = sweep(out, "--resume")
    assert (done.returncode, done.stderr) == (0, "")
    events = map(json.loads, (out / "events.jsonl").read_text().splitlines())
    (gone_on,) = [event for event in events if event["event"] == "continue"]
    assert gone_on["cells"] == [0, 1]
    assert gone_on["passes"] == 16  # all of them
    assert digests(out) == digests(one)


def test_more_devices_than_there_are_are_refused(tmp_path):
    done = sweep(tmp_path / "run", "--devices", 3)
    assert done.returncode == 2
    assert re.search(r"^jaxstyle: error: devices: 3: there are 2 here \(cpu\)\n$", done.stderr)
    assert not list(tmp_path.iterdir())


def test_the_plan_of_several_devices_says_so(tmp_path):
    done = sweep(tmp_path / "run", "--dry-run", "--json")
    assert json.loads(done.stdout)["devices"] == 2
    alone = sweep(tmp_path / "run", "--dry-run", "--json", "--devices", 1)
    assert json.loads(alone.stdout)["time_s"] > json.loads(done.stdout)["time_s"]
