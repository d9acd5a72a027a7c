"""The share of a run that a process is asked to compute: `--shard I/N`, or that of a SLURM array."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import RunOptions
from jaxstyle.spec.values import shown

MAX_SHARES = 100_000


@dataclass(frozen=True)
class Share:
    """One of several parts of a run, each computed by a process that knows nothing of the others."""

    index: int
    """Number of this share, from 0."""
    count: int
    """Number of all shares."""
    of: str
    """Source of the numbers: `shard`, or SLURM's variables."""

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def asked_share(options: RunOptions, environment: Mapping[str, str] = os.environ) -> Share | None:
    """The share of a run that this process should compute; None for the whole run.

    In `--shard I/N`, I counts from 0 or from 1, since N/N is the same as 0/N. With `--shard slurm` it is
    the index of this task in its job array. A task without the option computes the whole run, because many
    launchers start a run of its own for each task of an array.

    Raises:
        JaxstyleError: for a value that is not a share.
    """
    if options.shard is None:
        return None
    text = options.shard if isinstance(options.shard, str) else shown(options.shard)
    if text == "slurm":
        return _slurm_share(environment)
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    index, count = map(int, found.groups()) if found else (0, 0)
    if not (1 <= count <= MAX_SHARES and index <= count):
        raise JaxstyleError("shard", f"{text!r} is not a share; give I/N, such as 0/8 or 8/8, or slurm")
    return Share(index % count, count, "shard") if count > 1 else None


def _slurm_share(environment: Mapping[str, str]) -> Share | None:
    """The share of this task of a SLURM job array."""
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "STEP")]
    task, count, first, stride = (environment.get(name, "") for name in names)
    if not task:
        raise JaxstyleError(
            "shard", "slurm: this is not a task of a job array (SLURM_ARRAY_TASK_ID is not set); give I/N"
        )
    if not (task.isdecimal() and count.isdecimal() and first.isdecimal()):
        raise JaxstyleError("SLURM_ARRAY_TASK_ID", f"{task!r} of {count!r} tasks; give --shard I/N")
    index, stride = int(task) - int(first), int(stride) if stride.isdecimal() else 1
    if stride < 1 or index % stride or not 0 <= index // stride < int(count) <= MAX_SHARES:
        raise JaxstyleError(
            "SLURM_ARRAY_TASK_ID", f"{task}, from {first}, is not one of {count} tasks; give --shard I/N"
        )
    return Share(index // stride, int(count), "SLURM's array") if int(count) > 1 else None


def run_share(options: RunOptions, environment: Mapping[str, str] = os.environ) -> Share | None:
    """`asked_share` of a run to be computed. Raises JaxstyleError for options that exclude shares."""
    if (found := asked_share(options, environment)) is None:
        return None
    if options.out is None and not options.dry_run:
        raise JaxstyleError(
            "shard", "no run is named; give its directory with --out, or leave --shard out for a new run"
        )
    if options.extend:
        raise JaxstyleError("extend", "replans the run; do that in one process, without --shard")
    if options.cluster is not None:
        raise JaxstyleError("shard", "--cluster divides the work itself; leave one of the two out")
    return found
