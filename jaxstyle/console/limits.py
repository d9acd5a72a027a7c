"""Memory and cores that containers, jobs and shells leave to this process.

A process that takes more memory than its control group may have is killed by the kernel without a word, and
more threads than the group's share of the cores slow each other down. A *control group* (cgroup) is a
folder of a hierarchy; its limits, and those of every folder above it, all apply. There are two versions:

| | version 2 | version 1 |
|---|---|---|
| bytes | `memory.max`, `memory.high` | `memory.limit_in_bytes` |
| the least of its own and those above | | `hierarchical_memory_limit` of `memory.stat` |
| cores = quota / period | `cpu.max` | `cpu.cfs_quota_us`, `cpu.cfs_period_us` |

`/proc/self/cgroup` names the group of this process and `/proc/self/mountinfo` says where its hierarchy is
mounted: in a container often only from the group itself downwards, whatever it is called outside
(cgroups(7)).

`root` is the folder of the kernel's files; tests use one of their own.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jaxstyle.spec.errors import UnfitEnvironment
from jaxstyle.spec.jax_state import is_jax_running

ROOT = Path("/")
RAM, CGROUP = "RAM", "the memory limit of this process's control group"
"""Names of the limits that are not a `ulimit`."""
_ULIMITS = {"RLIMIT_AS": "ulimit -v", "RLIMIT_DATA": "ulimit -d"}
_MENDS = {
    RAM: "",
    CGROUP: " or give the container or job more memory",
    "ulimit -v": " or raise ulimit -v",
    "ulimit -d": " or raise ulimit -d",
}
_OVERHEAD = {RAM: 250_000_000, CGROUP: 250_000_000, "ulimit -v": 600_000_000, "ulimit -d": 250_000_000}
"""Bytes of each limit that Python, the libraries and the weights take. When a plan was made on two cores,
263 MB were resident, and 634 MB of address space and 257 MB of data in use, not counting what the allocator
had reserved (`/proc/self/status`)."""
_LEAST = {"ulimit -v": 1_100_000_000, "ulimit -d": 400_000_000}
"""Bytes that JAX needs to start and to plan (on two cores; with less of either the process was aborted)."""
_PERIOD_US = 100_000
"""The period of a quota of version 2 that names none."""


class Limit(NamedTuple):
    """A limit on the memory of this process."""

    bytes: int
    name: str

    @property
    def overhead(self) -> int:
        """Bytes of it that are in use before anything is computed."""
        return _OVERHEAD[self.name]

    @property
    def mend(self) -> str:
        """A hint for errors: the remedy other than asking for less."""
        return _MENDS[self.name]


def memory_limits(root: Path = ROOT) -> list[Limit]:
    """Every limit on the memory of this process, the smallest first; the machine's RAM is always one."""
    found = [Limit(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), RAM)]
    found += [Limit(number, CGROUP) for number in _cgroup_bytes(root)]
    found += [Limit(number, name) for name, number in ulimits().items()]
    return sorted(found)


def memory(root: Path = ROOT) -> Limit:
    """The smallest of the limits on the memory of this process."""
    return memory_limits(root)[0]


def ulimits() -> dict[str, int]:
    """Bytes of address space and of data that the shell allows this process, by name of the `ulimit`."""
    found = {name: resource.getrlimit(getattr(resource, kind))[0] for kind, name in _ULIMITS.items()}
    return {name: number for name, number in found.items() if number != resource.RLIM_INFINITY}


def _cgroup_bytes(root: Path) -> Iterator[int]:
    for folders in _cgroups(root, "memory"):
        # This also covers groups above the container's own, which it cannot see, and leaves out those
        # whose limits do not apply.
        every = re.search(r"^hierarchical_memory_limit (\d+)$", _read(folders[0] / "memory.stat"), re.M)
        if every:
            yield int(every[1])
        for folder in folders[: 1 if every else None]:
            for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
                if (text := _read(folder / name).strip()).isdecimal():  # not "max"
                    yield int(text)


def check_start() -> None:
    """Raise UnfitEnvironment if a `ulimit` allows less than JAX needs: it would abort the process."""
    if is_jax_running():
        return
    for name, number in ulimits().items():
        if number < (least := _LEAST[name]):
            why = f"allows {number / 1e9:.2f} GB and JAX needs {least / 1e9:.1f} GB to start"
            raise UnfitEnvironment(name, f"{why}; raise it")


def cores(root: Path = ROOT) -> int:
    """Number of cores that this process may use: those it may run on, or its group's quota if less."""
    return min([_affinity(), *_quotas(root)])


def threads(root: Path = ROOT) -> int:
    """Number of threads that XLA's CPU runtime should have: NPROC if it is set, else one for each core."""
    return cores(root) if (asked := nproc()) is None else asked


def xla_threads() -> int:
    """Number of threads that XLA's CPU runtime takes by itself; it ignores control groups."""
    return _affinity() if (asked := nproc()) is None else asked


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def nproc() -> int | None:
    """Number of threads in the variable NPROC, read as XLA does (`absl::SimpleAtoi`); None if none."""
    text = os.environ.get("NPROC", "").strip()
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not -(2**31) <= int(text) < 2**31:
        return None
    return max(1, int(text))


def _quotas(root: Path) -> Iterator[int]:
    """The quotas of this process's groups in cores, rounded up to whole ones."""
    for folders in _cgroups(root, "cpu"):
        for folder in folders:
            quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
            if both := _read(folder / "cpu.max").split():
                quota, period = both[0], both[1] if len(both) > 1 else str(_PERIOD_US)
            if quota.isdecimal() and period.isdecimal() and int(period):  # not "max", not -1
                yield max(1, -(-int(quota) // int(period)))


class _Mount(NamedTuple):
    """A mounted hierarchy of control groups."""

    version: int
    controllers: frozenset[str]
    top: str
    """The group at the root of the mount."""
    at: str


def _cgroups(root: Path, controller: str) -> Iterator[list[Path]]:
    """This process's folder and the visible ones above it, for each hierarchy of a controller."""
    own = dict(_own_groups(root))
    for version in (2, 1):
        group = own.get((version, controller if version == 1 else ""))
        mounts = [
            mount
            for mount in _mounts(root)
            if mount.version == version and (version == 2 or controller in mount.controllers)
        ]
        if group is None or not mounts:
            continue
        # A mount whose root is not above the group by name shows the group, or one above it, as its root.
        for mount in [mount for mount in mounts if _is_below(group, mount.top)] or mounts:
            top = folder = root / mount.at.lstrip("/")
            if _is_below(group, mount.top):
                folder = top / PurePosixPath(group).relative_to(mount.top)
            while folder != top and not folder.is_dir():  # the group has been moved or removed meanwhile
                folder = folder.parent
            folders = [folder, *folder.parents]
            yield folders[: folders.index(top) + 1]


def _is_below(group: str, top: str) -> bool:
    """Whether a group is `top` or below it; a name that begins with `/..` is outside of the namespace."""
    return ".." not in group.split("/") and PurePosixPath(group).is_relative_to(top)


def _own_groups(root: Path) -> Iterator[tuple[tuple[int, str], str]]:
    """This process's groups by version and controller; version 2 has one group, under the controller ""."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, group = rest.partition(":")
        for name in names.split(","):
            yield (2 if number == "0" and not names else 1, name), group


def _mounts(root: Path) -> Iterator[_Mount]:
    """The mounted hierarchies, read as in proc_pid_mountinfo(5)."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        fields, _, about = (part.split() for part in line.partition(" - "))
        if len(fields) > 4 and about and about[0] in ("cgroup", "cgroup2"):
            version = 2 if about[0] == "cgroup2" else 1
            yield _Mount(version, frozenset(about[-1].split(",")), _plain(fields[3]), _plain(fields[4]))


def _plain(field: str) -> str:
    """A path of mountinfo with its escapes resolved, such as `\\040` for a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _read(path: Path) -> str:
    """The text of one of the kernel's files; empty if it cannot be read."""
    try:
        return path.read_text("utf-8", "surrogateescape")
    except OSError:
        return ""
