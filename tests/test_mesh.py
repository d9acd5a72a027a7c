"""A mesh of virtual devices: one device's bytes, and no device that waits for another's data."""

import json
import os
import shutil
import signal

import pytest
from conftest import FIVE_CHUNKS, ROOT, run_forked
from torture import digests

MESH = """
import hashlib, re, sys
sys.path.insert(0, "tests")
import jax, numpy as np, test_engine, conftest
from jaxstyle.device import drive, engine
width = int(sys.argv[1])
solver = {"optimizer": "lbfgs", "pyramid": 0} if width > 1 else {"optimizer": "adam", "pyramid": 1}
weights = conftest.narrow_weights()
settings = {"content": ("/c0", "/c1"), "seed": ("0:5",), **solver}
one = test_engine.Bench(weights, width=width, shape=(40, 64), **settings)
many = test_engine.Bench(weights, width=width, shape=(40, 64), **settings)
assert many.program.coarser == (width == 1)
many.engine = engine.Engine(weights, winograd=False, device=jax.devices())
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
    done = run_forked("-c", MESH, width, check=True, cwd=ROOT, **devices(8))
    assert done.stdout.split("\n")[0] == "8 1 [] True"


SWEEPS = """
import json, sys
from jaxstyle import sweep
for arguments in json.loads(sys.argv[1]):
    try:
        sweep.main(arguments)
    except SystemExit as stop:
        print("code", stop.code, file=sys.stderr)
"""


def sweeps(out, *times):
    """Run the sweep on two devices, once for each set of further flags, in one process.

    Its five chunks are two blocks of two and one of one. To start JAX with two devices, whose flags are
    tried by yet another process, takes longer than the sweep.
    """
    lines = [[*map(str, (*FIVE_CHUNKS, "--quiet", "--out", out, *more))] for more in times]
    done = run_forked("-c", SWEEPS, json.dumps(lines), check=True, **devices(2))
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The sweep on the first of the devices."""
    out = tmp_path_factory.mktemp("one") / "run"
    assert sweeps(out, ["--devices", 1]) == ("", "code 0\n")
    assert json.loads((out / "manifest.json").read_text())["device"]["used"] == 1
    return out


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The sweep on all of them, as a command."""
    out = tmp_path_factory.mktemp("both") / "run"
    done = run_forked("-m", "jaxstyle.sweep", *FIVE_CHUNKS, "--quiet", "--out", out, **devices(2))
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
    assert sweeps(out, ["--resume"]) == ("", "code 0\n")
    assert digests(out) == digests(one)
    os.unlink(out / "chunks" / "000004.h5")
    assert sweeps(out, ["--resume", "--devices", 1]) == ("", "code 0\n")
    assert digests(out) == digests(one)


def test_a_block_whose_first_chunk_alone_is_on_the_disk_is_not_computed_again(one, tmp_path):
    out = tmp_path / "run"
    killed = ("-m", "tests.torture", "--child", "chunk: before its name=2", *FIVE_CHUNKS, "--out", out)
    assert run_forked(*killed, cwd=ROOT, **devices(2)).returncode == -signal.SIGKILL
    assert [path.name for path in (out / "chunks").glob("*.h5")] == ["000000.h5"]
    assert sweeps(out, ["--resume"]) == ("", "code 0\n")
    events = map(json.loads, (out / "events.jsonl").read_text().splitlines())
    (gone_on,) = [event for event in events if event["event"] == "continue"]
    assert gone_on["cells"] == [1]  # of the two, the one that is not on the disk
    assert gone_on["passes"] == 16  # all of them
    assert digests(out) == digests(one)


def test_more_devices_than_there_are_are_refused(tmp_path):
    refusal = "jaxstyle: error: devices: 3: there are 2 here (cpu)\n"
    assert sweeps(tmp_path / "run", ["--devices", 3]) == ("", f"{refusal}code 2\n")
    assert not list(tmp_path.iterdir())


def test_the_plan_of_several_devices_says_so(tmp_path):
    plan = ["--dry-run", "--json"]
    said, _ = sweeps(tmp_path / "run", plan, [*plan, "--devices", 1])
    together, alone = map(json.loads, said.replace("}\n{", "}\0{").split("\0"))
    assert together["devices"] == 2
    assert alone["time_s"] > together["time_s"]
