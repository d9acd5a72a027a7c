"""A real Ray cluster of several nodes on this machine gives one process's bytes, whatever dies.

Needs the extra `cluster`: `make test-cluster`.
"""

import collections
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time

import pytest
from conftest import EXAMPLES, ROOT, Told
from torture import digests

from jaxstyle.run import worker as run_worker

pytestmark = pytest.mark.cluster
pytest.importorskip("ray")

PICTURES = [EXAMPLES / name for name in ("pagoda.jpg", "cafe.jpg")]
SWEEP = ["--content", str(PICTURES[0]), "--style", str(PICTURES[1]), "--size", "48", "--optimizer", "adam"]
SWEEP += ["--steps", "60", "--seed", "0:24", "--checkpoint-every", "1", "--conv", "plain"]
"""24 cells of about a second, in chunks of one or two."""
DEADLY = """
import importlib.abc, importlib.util, os, sys

class Deadly(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name != WORKER:
            return None
        sys.meta_path.remove(self)
        self.real = importlib.util.find_spec(name)
        return importlib.util.spec_from_loader(name, self, origin=self.real.origin)

    def create_module(self, spec):
        return importlib.util.module_from_spec(self.real)

    def exec_module(self, module):
        self.real.loader.exec_module(module)
        module.Worker.compute = lambda self, block, **more: os._exit(9)

if any("default_worker" in argument for argument in sys.orig_argv):
    sys.meta_path.insert(0, Deadly())
""".replace("WORKER", repr(run_worker.__name__))
"""A module that a Ray worker may import first, which makes it die at its first chunk."""
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "NPROC": "1",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def sweep(out, *more, **environment):
    return Told("-m", "jaxstyle.sweep", *SWEEP, "--out", out, *more, **{**ENVIRONMENT, **environment})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of a single process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert sweep(out).end() == (0, "")
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


def workers_at_work(process):
    """The process ids of workers that have begun and are not lost, according to the run's events."""
    lost = {event["worker"] for event in process.named("worker-lost")}
    alive = [event for event in process.named("worker") if event["worker"] not in lost]
    return [int(event["where"].split()[0]) for event in alive]


def manifest_of(out):
    return json.loads((out / "manifest.json").read_text())


def test_two_nodes_give_the_bytes_of_one_process(nodes, whole, tmp_path):
    out = tmp_path / "run"
    process = sweep(out, "--cluster", nodes.address)
    assert process.end() == (0, "")
    assert digests(out) == digests(whole)
    manifest = manifest_of(out)
    assert manifest["status"] == "done"
    assert len(manifest["workers"]) == 2
    assert sum(worker["cells"] for worker in manifest["workers"].values()) == 24
    assert all(worker["cells"] for worker in manifest["workers"].values())
    (program,) = manifest["programs"]
    assert program["step_traces"] == 1
    chunks = [event["chunk"] for event in process.named("chunk")]
    assert sorted(chunks) == list(range(len(list((out / "chunks").iterdir()))))


def test_chunks_are_shipped_to_a_driver_whose_directory_no_worker_sees(nodes, whole, tmp_path):
    out = tmp_path / "run"
    assert sweep(out, "--cluster", nodes.address, "--collect", "--devices", 1).end() == (0, "")
    assert digests(out) == digests(whole)
    assert not (out / "checkpoints").exists()
    assert len(manifest_of(out)["workers"]) == 1


def test_a_killed_worker_costs_nothing(nodes, whole, tmp_path):
    out = tmp_path / "run"
    process = sweep(out, "--cluster", nodes.address)
    assert process.until(lambda: process.named("chunk"))
    os.kill(workers_at_work(process)[0], signal.SIGKILL)
    assert process.end() == (0, "")
    assert len(process.named("worker-lost")) == 1
    assert digests(out) == digests(whole)


def test_a_killed_node_costs_nothing_and_one_that_joins_is_used(nodes, whole, tmp_path):
    out = tmp_path / "run"
    process = sweep(out, "--cluster", nodes.address)
    assert process.until(lambda: len(workers_at_work(process)) == 2 and process.named("checkpoint"))
    nodes.remove_node(nodes.worker_nodes.copy().pop(), allow_graceful=False)
    assert process.until(lambda: process.named("worker-lost"))
    nodes.add_node(num_cpus=1)
    assert process.end() == (0, "")
    assert len(process.named("worker-lost")) == 1
    assert len(process.named("worker")) == 3
    assert digests(out) == digests(whole)


def test_a_driver_that_is_told_to_end_saves_and_one_that_is_killed_is_gone_on_with(nodes, whole, tmp_path):
    out = tmp_path / "run"
    process = sweep(out, "--cluster", nodes.address)
    assert process.until(lambda: process.named("chunk"))
    process.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    code, said = process.end()
    assert time.monotonic() - began < 10
    assert code == 143
    assert said.count("\n") == 1
    assert "--resume" in said
    process = sweep(out, "--cluster", nodes.address, "--resume")
    assert process.until(lambda: process.named("chunk"))
    process.process.kill()
    assert process.end() == (-signal.SIGKILL, "")
    # The rest is computed by this process alone, without a cluster.
    assert sweep(out, "--resume").end() == (0, "")
    assert digests(out) == digests(whole)


def test_a_chunk_that_kills_every_worker_ends_the_run_in_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    process = sweep(tmp_path / "run", "--cluster", "local", PYTHONPATH=f"{tmp_path}:{ROOT}")
    code, said = process.end()
    assert code == 2
    assert said.startswith("jaxstyle: error: cluster: 8 workers died at chunk ")
    assert said.count("\n") == 1


def test_no_cell_is_lost_over_twenty_kills(nodes, whole, tmp_path):
    chance, kills = random.Random(7), 0
    for number in range(40):
        out = tmp_path / f"run{number}"
        process = sweep(out, "--cluster", nodes.address)
        told = iter(process)
        while kills < 20:
            # Between two kills one of the two workers must finish something; then kill at random.
            if not any(event["event"] == "chunk" for event in told):
                break
            collections.deque(itertools.islice(told, chance.randrange(4)), maxlen=0)
            if not (there := workers_at_work(process)) or process.process.poll() is not None:
                continue
            if chance.random() < 0.25:
                nodes.remove_node(chance.choice(sorted(nodes.worker_nodes, key=str)), allow_graceful=False)
                nodes.add_node(num_cpus=1)
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(there), signal.SIGKILL)
            kills += 1
        assert process.end() == (0, "")
        assert digests(out) == digests(whole)
        print(f"run {number}: {kills} kills so far, {len(process.named('worker-lost'))} workers lost in it")
        shutil.rmtree(out)
        if kills == 20:
            return
    raise AssertionError(f"only {kills} kills")


def test_a_ray_without_its_private_setting_is_no_error(monkeypatch):
    from ray._private import worker

    from jaxstyle.run.ray_nodes import print_worker_logs

    assert print_worker_logs(True)
    assert worker._worker_logs_enabled
    monkeypatch.delattr(worker, "_worker_logs_enabled")
    assert not print_worker_logs(False)
    monkeypatch.setitem(sys.modules, "ray._private", None)
    assert not print_worker_logs(False)
