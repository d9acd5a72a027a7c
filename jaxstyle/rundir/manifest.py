"""The contents of `manifest.json` beside the plan: the code, the machine and the programs of a run.

Nothing here needs JAX, except for `machine`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform as host
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py

from jaxstyle.console import limits
from jaxstyle.plan.programs import Program
from jaxstyle.rundir.chunks import chunk_width
from jaxstyle.rundir.records import Record
from jaxstyle.spec.jax_state import is_jax_running
from jaxstyle.spec.presets import PACKAGE
from jaxstyle.spec.settings import BALANCED_AXES, LATER, Sweep

ENVIRONMENT = (
    *(
        "XLA_",
        "JAX_",
        "TF_CPP",
        "TF_CUDNN",
        "TF_DETERMINISTIC",
        "TF_ENABLE",
        "TF_FORCE",
        "TF_GPU",
        "TF_XLA",
    ),
    *("NVIDIA_TF32", "CUBLAS_", "CUDNN_", "OMP_", "NPROC"),
)
"""Beginnings of the names of environment variables that can change a result.

Of TF_ only those of XLA: Terraform's also begin so, and may hold secrets.
"""
KEPT_OF_EARLIER = (
    "began",
    "status",
    "command",
    "versions",
    "code_sha256",
    "device",
    "host",
    "threads",
    "environment",
    "timings",
    "workers",
)
"""Entries that are kept of an earlier process of a run."""
VERSIONED = ("jaxstyle", "jax", "jaxlib", "flax", "optax", "numpy", "h5py", "pillow", "tyro")
"""Packages whose versions the manifest records."""
MEASURED = ("step_traces", "target_traces", "compile_s", "device_bytes", "coarser")
"""Entries that may differ between processes that compiled the same program."""


def text(values: Mapping[str, Any]) -> str:
    """The text of a manifest as it is written to the disk."""
    return json.dumps(values, indent=1) + "\n"


def measured(sweep: Sweep) -> dict[str, Any]:
    """Entries on what was measured before a run, or taken from its spec: nothing where there is nothing.

    `balance` has the ratio that 1x stands for, and `style_layer_weights` w_l by layer, each in a table for
    every pair of images and their layers. Images are named as they were given.
    """
    if not sweep.balance:
        return {}
    alike = {name for name in LATER if name in BALANCED_AXES and len({t[name] for t in sweep.balance}) == 1}
    axes = [axis for axis in BALANCED_AXES if axis not in alike]
    named = [
        {axis: sweep.given.get((axis, table[axis]), table[axis]) for axis in axes}
        for table in sweep.balance
    ]
    kinds = {"balance": "alpha_beta", "style_layer_weights": "weights"}
    return {
        entry: [about | {key: table[key]} for about, table in zip(named, sweep.balance, strict=True)]
        for entry, key in kinds.items()
    }


# --- code and machine -----------------------------------------------------------------------------


def thread_count() -> int:
    """The number of threads that XLA's CPU runtime has, or will have when JAX starts."""
    if not is_jax_running():
        return limits.threads()  # which `start.start_jax` will set
    count, jax = limits.xla_threads(), sys.modules["jax"]
    return max(count, jax.local_device_count()) if jax.default_backend() == "cpu" else count


def versions(*names: str) -> dict[str, str]:
    """The versions of Python and of the packages in `names`; "unknown" for one that is not installed."""
    found = {"python": host.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


@functools.cache
def code_digest() -> str:
    """The SHA-256 of the package's own source files and their relative paths."""
    names = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
    files = (name.encode() + (PACKAGE / name).read_bytes() for name in names)
    return hashlib.sha256(b"\0".join(files)).hexdigest()


def environment() -> dict[str, str]:
    """The environment variables that can change a result, except NPROC: threads are listed separately."""
    return {k: v for k, v in _of_libraries(os.environ).items() if k != "NPROC"}


def _of_libraries(environment: Mapping[str, str]) -> dict[str, str]:
    """The ones of some variables that can change a result; earlier versions recorded more."""
    return {name: value for name, value in sorted(environment.items()) if name.startswith(ENVIRONMENT)}


def device_text(platform: str, kind: str, count: int, threads: int) -> str:
    """The devices in words: `cpu (2 threads)`, `NVIDIA H100 80GB HBM3` or `8 x TPU v4`."""
    plural = "" if threads == 1 else "s"
    one = f"{kind} ({threads} thread{plural})" if platform == "cpu" else kind
    return f"{count} x {one}" if count > 1 else one


def devices_text(devices: Sequence[Any]) -> str:
    """JAX's `devices` in words, as in `device_text`."""
    return device_text(devices[0].platform, devices[0].device_kind, len(devices), thread_count())


def machine(devices: Sequence[Any]) -> dict[str, Any]:
    """The manifest's entries on this process: versions, code, host, threads and JAX's `devices`."""
    import jax

    device = devices[0]
    return {
        "versions": {**versions(*VERSIONED), "hdf5": h5py.version.hdf5_version},
        "code_sha256": code_digest(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "runtime": device.client.platform_version,
            "used": len(devices),
        },
        "host": {
            "machine": host.machine(),
            "system": host.platform(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "memory_limit": limits.memory()._asdict(),
        },
        "threads": thread_count(),
        "environment": environment(),
        "x64": bool(jax.config.read("jax_enable_x64")),
    }


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between a manifest and the present `machine` that can change a result."""
    both = {name: (was["versions"].get(name), version) for name, version in now["versions"].items()}
    both["device"] = was["device"].get("kind"), now["device"]["kind"]
    both["threads"] = was.get("threads"), now["threads"]
    both["jaxstyle's code"] = was.get("code_sha256"), now["code_sha256"]
    both["environment"] = _of_libraries(was.get("environment", {})), now["environment"]
    return [f"{name} was {old} and is {new}" for name, (old, new) in both.items() if old != new]


def whereabouts() -> str:
    """The process and its machine in words: `4711 on fermat`."""
    return f"{os.getpid()} on {socket.gethostname()}"


# --- programs -------------------------------------------------------------------------------------


def program(program: Program, stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The manifest's entry on a program that has been compiled.

    Args:
        stages: the entries on its stages, coarsest first (`Launcher.made`).
    """
    return {
        **program.facts(),
        "lbfgs_memory": program.lbfgs_memory,
        "content_taps": list(program.content_taps),
        "style_taps": list(program.style_taps),
        **stages[-1],
        "coarser": list(stages[:-1]),
    }


# --- chunks, shares and earlier processes ---------------------------------------------------------


def chunk_digests(record: Record, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """The SHA-256 of every chunk file, by its path in the run; `known` digests are not computed again."""
    names = {str(path.relative_to(record.path)): path for path in record.chunk_paths}
    return {
        name: (known or {}).get(name) or hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
    }


def is_complete(record: Record) -> bool:
    """Whether every chunk of a run has been computed."""
    names = {path.stem for path in record.chunk_paths}
    chunks = record.manifest.get("plan", {}).get("chunks")
    return chunks is not None and all(f"{number:06d}" in names for number in range(len(chunks)))


def finished_manifest(record: Record) -> dict[str, Any]:
    """The manifest of a run whose chunks are all there, with the reports of its shares."""
    plan = _as_done(record)
    values = {**record.manifest, "status": "done", "chunks_sha256": chunk_digests(record), "plan": plan}
    return with_shares(values, share_reports(record.path))


def _as_done(record: Record) -> dict[str, Any]:
    """The plan of a run with the widths that its chunks really have, which shares do not report."""
    plan = record.manifest["plan"]
    programs, chunks = list(plan["programs"]), list(plan["chunks"])
    for path in record.chunk_paths:
        number, width = int(path.stem), chunk_width(path)
        if number < len(chunks) and programs[chunks[number]["program"]]["width"] != width:
            own = {**programs[chunks[number]["program"]], "width": width}
            if own not in programs:
                programs.append(own)
            chunks[number] = {**chunks[number], "program": programs.index(own)}
    return {**plan, "programs": programs, "chunks": chunks}


def share_reports(run: Path) -> list[dict[str, Any]]:
    """The reports of the shares of the run at `run`, if it has any."""
    paths = sorted(run.glob("events-*-of-*.jsonl"))
    return [_share(path) for path in paths if re.fullmatch(r"events-\d+-of-\d+\.jsonl", path.name)]


def with_shares(values: dict[str, Any], shares: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A manifest with the reports from `share_reports` added."""
    if not shares:
        return values
    return {
        **values,
        "shares": [{k: v for k, v in share.items() if k != "programs"} for share in shares],
        "programs": _programs(values, [p for share in shares for p in share["programs"]]),
    }


def _share(path: Path) -> dict[str, Any]:
    """The report of a share, from the file of its events: its machines, its timings and its programs."""
    found: dict[str, Any] = {"share": path.stem.removeprefix("events-"), "programs": [], "processes": []}
    for line in path.read_text("utf-8", "replace").splitlines():
        try:
            event = json.loads(line)
            if event["event"] == "program":
                found["programs"].append({k: v for k, v in event.items() if k not in ("time", "event")})
            elif event["event"] == "share-timings":
                found["processes"].append({**event["machine"], "timings": event["timings"]})
        except (ValueError, KeyError, TypeError):  # a line that a killed process left unfinished
            continue
    return found


def _programs(manifest: Mapping[str, Any], told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The programs of all shares, each once, with the largest figures that any process reported."""
    plan, found = manifest["plan"], {p["index"]: dict(p) for p in manifest.get("programs", ())}
    every = json.loads(json.dumps(plan["programs"]))  # tuples become lists, as they are in `told`
    for about in told:
        if not about.keys() >= {*MEASURED}:  # an earlier version may have reported less
            continue
        own = {key: value for key, value in about.items() if key not in MEASURED}
        for index, planned in enumerate(every):
            same = {k: planned[k] for k in own.keys() & planned.keys()}
            same["shape"] = f"{planned['height_px']}x{planned['width_px']}"
            if own == {**own, **same} and len(about["coarser"]) == planned.get("coarser", 0):
                entry = found.setdefault(index, {"index": index, **about})
                entry |= {key: max(entry.get(key, 0), about[key]) for key in MEASURED[:-1]}
    chunks = plan["chunks"]
    for index, entry in found.items():
        cells = (stop - start for c in chunks if c["program"] == index for start, stop in c["cells"])
        entry["cells"] = sum(cells)
    return [found[index] for index in sorted(found)]


def earlier_processes(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The manifest's entries on earlier processes of a run, in the order in which they worked."""
    if not manifest:
        return []
    last = {key: manifest[key] for key in KEPT_OF_EARLIER if key in manifest}
    return [
        {**process, "environment": _of_libraries(process["environment"])}
        if "environment" in process
        else process
        for process in (*manifest.get("before", []), last)
    ]
