"""Nodes and workers of a Ray cluster, as the driver sees them."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, field
from typing import Any

import ray  # pyright: ignore[reportMissingImports]
import ray.exceptions  # pyright: ignore[reportMissingImports]

from jaxstyle.console import limits
from jaxstyle.run.inputs import Inputs
from jaxstyle.run.work import Block
from jaxstyle.rundir import manifest
from jaxstyle.spec.errors import JaxstyleError

ANSWER_S = 10.0
"""Seconds that the head of a cluster may take to answer."""
MAX_PORT = 65_535


@dataclass(frozen=True)
class WorkerNeeds:
    """Resources that Ray reserves for a worker."""

    resource: str
    """`GPU`, `TPU` or `CPU`."""
    amount: float

    def __str__(self) -> str:
        return f"{self.amount:g} {self.resource}"

    def room(self) -> int:
        """Number of workers that the nodes alive can hold."""
        return sum(int(node.get(self.resource, 0.0) / self.amount) for node in node_resources())

    @property
    def options(self) -> dict[str, Any]:
        """The resources as arguments of Ray's `options`."""
        if self.resource == "GPU":
            return {"num_cpus": 0, "num_gpus": self.amount}
        if self.resource == "TPU":
            return {"num_cpus": 0, "resources": {"TPU": self.amount}}
        return {"num_cpus": self.amount}


def worker_needs(devices: int | None, threads: Any) -> tuple[WorkerNeeds, int]:
    """Needs of a worker, and on a CPU its threads: as before, from NPROC, or a fair part of a node.

    Args:
        devices: the number of workers that the user asks for.
        threads: those of the run that is resumed, if any.
    """
    nodes = node_resources()
    if not os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        if any(node.get("GPU", 0) >= 1 for node in nodes):
            return WorkerNeeds("GPU", 1), 0
        if tpus := [node["TPU"] for node in nodes if node.get("TPU", 0) >= 1]:
            return WorkerNeeds("TPU", min(tpus)), 0
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        raise JaxstyleError("cluster", "no node has a CPU or a GPU for a worker; add one")
    if not isinstance(threads, int) and (threads := limits.nproc()) is None:
        fits = (n for n in range(min(cpus), 1, -1) if sum(cpu // n for cpu in cpus) >= (devices or 1))
        threads = next(fits, 1)
    return WorkerNeeds("CPU", threads), threads


def join(address: str) -> None:
    """Start Ray on this machine (`local`), or join a cluster. Raises JaxstyleError if that fails."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == "local":
            cpus = max(limits.cores(), limits.threads())  # NPROC may ask for more than there are
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
        else:
            _check_answers(address)
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise JaxstyleError("cluster", f"{address}: {error}") from None


def _check_answers(address: str) -> None:
    """Raise OSError if nothing answers at an address `HOST:PORT`; Ray would try for two minutes."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host.strip("[]"), min(int(port), MAX_PORT)), timeout=ANSWER_S).close()


def print_worker_logs(on: bool) -> bool:
    """Whether Ray could be told to print what its workers say, or to print nothing of it.

    Ray has no public setting for it; its debugger uses this one. A version without it is no error.
    """
    try:
        from ray._private import worker  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    there = hasattr(worker, "_worker_logs_enabled")
    if there:
        worker._worker_logs_enabled = on
    return there


def node_resources() -> list[dict[str, float]]:
    """The resources of every node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def plain_inputs(inputs: Inputs) -> Inputs:
    """The inputs of cells, without the fields that only the driver has."""
    return Inputs(inputs.sweep, inputs.cells, inputs.pictures, inputs.weights)


def as_begun(machine: dict[str, Any]) -> dict[str, Any]:
    """`machine` of a worker without the environment variables that Ray sets; the driver's are kept."""
    own = {*manifest.environment(), "XLA_FLAGS"}
    return {**machine, "environment": {k: v for k, v in machine["environment"].items() if k in own}}


def error_cause(error: BaseException) -> BaseException:
    """The exception that was raised in a worker, without Ray's wrapper."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def error_text(error: BaseException) -> str:
    """An error of a worker or of Ray, in a few words."""
    cause = error_cause(error)
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(cause)).split())
    return f"{type(cause).__name__}: {text if len(text) <= 300 else '[...] ' + text[-300:]}"


@dataclass(eq=False)
class WorkerHandle:
    """A worker as the driver sees it."""

    name: str
    actor: Any
    ready: bool = False
    telling: bool = False
    """Whether it has been asked for its reports and has not answered yet."""
    blocks: list[Block] = field(default_factory=list)
    """Blocks that it has been given and has not finished, in order."""
    program: int = -1
    """Program of the block that it was given last; -1 before the first."""
    steps: float = 0.0
    """Image-steps that it has reported as done, of blocks that it has not finished."""
    skipped: float = 0.0
    """Image-steps that it has reported as not to be done, of the same blocks."""
