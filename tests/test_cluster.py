"""A real Ray cluster of several nodes on this machine: its bytes are one process's, whatever dies.

Needs the extra `cluster`: `make test-cluster`.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.cluster
pytest.importorskip("ray")

PICTURES = [ROOT / "jaxstyle/examples" / name for name in ("pagoda.jpg", "cafe.jpg")]
SWEEP = ["--content", str(PICTURES[0]), "--style", str(PICTURES[1]), "--size", "48", "--optimizer", "adam"]
SWEEP += ["--steps", "60", "--seed", "0:24", "--checkpoint-every", "1", "--conv", "plain", "--quiet"]
"""24 cells of about a second, in chunks of one or two."""
DEADLY = """
import os, sys, threading, time

def watch():
    while not hasattr(sys.modules.get("jaxstyle.worker"), "compute"):
        time.sleep(0.01)
    sys.modules["jaxstyle.worker"].Worker.compute = lambda self, block: os._exit(9)

if any("default_worker" in argument for argument in sys.orig_argv):
    threading.Thread(target=watch, daemon=True).start()
"""
"""What a worker of Ray may import first: it dies at the first chunk that it is given."""
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "NPROC": "1",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def command(out, *more):
    return [sys.executable, "-m", "jaxstyle.sweep", *SWEEP, "--out", str(out), *map(str, more)]


def sweep(out, *more, **popen):
    return subprocess.Popen(
        command(out, *more), env=ENVIRONMENT, text=True, stderr=subprocess.PIPE, **popen
    )


def ended(process, seconds=400):
    """The exit code and the last words of a sweep."""
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, said


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of a single process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert ended(sweep(out)) == (0, "")
    return out


@pytest.fixture
def nodes(monkeypatch):
    """A cluster of a head that computes nothing and two nodes with a CPU each."""
    from ray.cluster_utils import Cluster

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    hurry = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    hurry |= {"health_check_initial_delay_ms": 0}
    cluster = Cluster(True, head_node_args={"num_cpus": 0, "_system_config": hurry})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def events(out, name):
    """The events of a name that are in a run's file."""
    path = Path(out) / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [event for event in found if event["event"] == name]


def wait_for(condition, process, seconds=120):
    """Until something is so, or the sweep has ended."""
    until = time.monotonic() + seconds
    while not (found := condition()) and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


def files(run):
    """What of a run must not depend on how it came about."""
    names = [p for folder in ("chunks", "images") for p in (run / folder).iterdir()]
    names += [run / "results.csv", run / "results.h5"]
    return {str(path.relative_to(run)): path.read_bytes() for path in names}


def same(run, whole):
    mine, theirs = files(run), files(whole)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []


def workers_at_work(out):
    """The process ids of workers that have begun and are not lost, as far as the run has told."""
    lost = {event["worker"] for event in events(out, "worker-lost")}
    alive = [e for e in events(out, "worker") if e["worker"] not in lost]
    return [int(e["where"].split()[0]) for e in alive]


def test_two_nodes_give_the_bytes_of_one_process(nodes, whole, tmp_path):
    out = tmp_path / "run"
    assert ended(sweep(out, "--cluster", nodes.address)) == (0, "")
    same(out, whole)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert len(manifest["workers"]) == 2
    assert sum(worker["cells"] for worker in manifest["workers"].values()) == 24
    assert all(worker["cells"] for worker in manifest["workers"].values())
    (program,) = manifest["programs"]
    assert program["step_traces"] == 1
    assert {event["chunk"] for event in events(out, "chunk")} == set(
        range(len(list((out / "chunks").iterdir())))
    )


def test_chunks_are_shipped_to_a_driver_whose_directory_no_worker_sees(nodes, whole, tmp_path):
    out = tmp_path / "run"
    assert ended(sweep(out, "--cluster", nodes.address, "--collect", "--devices", 1)) == (0, "")
    same(out, whole)
    assert not (out / "checkpoints").exists()
    assert len(json.loads((out / "manifest.json").read_text())["workers"]) == 1


def test_a_killed_worker_costs_nothing(nodes, whole, tmp_path):
    out = tmp_path / "run"
    process = sweep(out, "--cluster", nodes.address)
    wait_for(lambda: events(out, "chunk") and workers_at_work(out), process)
    os.kill(workers_at_work(out)[0], signal.SIGKILL)
    assert ended(process) == (0, "")
    assert len(events(out, "worker-lost")) == 1
    same(out, whole)


def test_a_killed_node_costs_nothing_and_one_that_joins_is_used(nodes, whole, tmp_path):
    out = tmp_path / "run"
    process = sweep(out, "--cluster", nodes.address)
    wait_for(lambda: len(workers_at_work(out)) == 2 and events(out, "checkpoint"), process)
    nodes.remove_node(nodes.worker_nodes.copy().pop(), allow_graceful=False)
    wait_for(lambda: events(out, "worker-lost"), process)
    nodes.add_node(num_cpus=1)
    assert ended(process) == (0, "")
    assert len(events(out, "worker-lost")) == 1
    assert len(events(out, "worker")) == 3
    same(out, whole)


def test_a_driver_that_is_told_to_end_saves_and_one_that_is_killed_is_gone_on_with(nodes, whole, tmp_path):
    out = tmp_path / "run"
    process = sweep(out, "--cluster", nodes.address)
    wait_for(lambda: events(out, "chunk"), process)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    code, said = ended(process)
    assert time.monotonic() - began < 10
    assert code == 143
    assert said.count("\n") == 1
    assert "--resume" in said
    done = len(list((out / "chunks").iterdir()))
    process = sweep(out, "--cluster", nodes.address, "--resume")
    wait_for(lambda: len(list((out / "chunks").glob("*.h5"))) > done, process)
    process.kill()
    ended(process)
    # What is left is computed by this process alone, without a cluster.
    assert ended(sweep(out, "--resume")) == (0, "")
    same(out, whole)


def test_a_chunk_that_kills_every_worker_ends_the_run_in_one_line(nodes, tmp_path, monkeypatch):
    out, broken = tmp_path / "run", tmp_path / "site"
    broken.mkdir()
    # Workers import this at their start: the first chunk they are given ends them.
    (broken / "sitecustomize.py").write_text(DEADLY)
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{broken}:{ROOT}"}
    process = subprocess.Popen(
        command(out, "--cluster", "local"), env=environment, text=True, stderr=subprocess.PIPE
    )
    code, said = ended(process)
    assert code == 2
    assert said.startswith("jaxstyle: error: cluster: 8 workers died at chunk ")
    assert said.count("\n") == 1


def test_no_cell_is_lost_over_twenty_kills(nodes, whole, tmp_path):
    chance, kills = random.Random(7), 0
    for number in range(40):
        out = tmp_path / f"run{number}"
        process = sweep(out, "--cluster", nodes.address)
        while kills < 20 and process.poll() is None:
            # Between two kills something must get done, if only by one of both workers.
            done = len(events(out, "chunk"))
            wait_for(lambda out=out, done=done: len(events(out, "chunk")) > done, process)
            time.sleep(chance.uniform(0, 2))
            if process.poll() is not None or not (there := workers_at_work(out)):
                continue
            if chance.random() < 0.25:
                nodes.remove_node(chance.choice(sorted(nodes.worker_nodes, key=str)), allow_graceful=False)
                nodes.add_node(num_cpus=1)
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(there), signal.SIGKILL)
            kills += 1
        code, said = ended(process)
        assert (code, said) == (0, ""), said
        same(out, whole)
        print(f"run {number}: {kills} kills so far, {len(events(out, 'worker-lost'))} workers lost in it")
        shutil.rmtree(out)
        if kills == 20:
            return
    raise AssertionError(f"only {kills} kills")
