"""Locks of a run directory and of the shares of a run.

A lock is `flock` on a file, which the system gives back when a process dies. The text in the file says who
holds it, for messages; it may be that of an earlier holder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from jaxstyle.rundir.files import sync_file
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.shares import Share

LOCK = "run.lock"
LOCKS = "locks"
"""The folder that holds one lock for each share of a run."""
BRIEF_NOTE = ", for a moment"
"""Ending of the text in a `run.lock` whose holder will give it back soon, so that waiting is worthwhile."""


class NoLocks(JaxstyleError):
    """The file system of a run directory has no locks."""


class DirectoryInUse(JaxstyleError):
    """Another process is working in the run directory: exit code 3."""

    exit_code = 3


def try_lock(lock: int, path: Path, kind: int = fcntl.LOCK_EX) -> bool:
    """Take the lock of the file at `path` and return True, or False if another process has it.

    Raises:
        NoLocks: if the file system has no locks.
    """
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        mend = "put the run on a file system that has locks, or give --no-lock and make sure that only one"
        mend += " process writes there"
        raise NoLocks(str(path), f"cannot be locked ({error.strerror}); {mend}") from None
    return True


def open_lock(path: Path, *, only_look: bool = False) -> int:
    """A handle of a lock file; made if missing and opened for writing, unless it is only looked at."""
    try:
        if only_look:
            return os.open(path, os.O_RDONLY)
        with contextlib.suppress(FileNotFoundError):
            # O_CREAT may be refused for a file that exists and is another user's (proc_sys_fs(5),
            # protected_regular).
            return os.open(path, os.O_RDWR)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # minus the umask
    except PermissionError as error:
        to = "read" if only_look else "written"
        mend = f"have its owner give you access (chmod g+{to[0]})"
        raise JaxstyleError(str(path), f"cannot be {to} ({error.strerror}); {mend}") from None


def begun_without_locks(path: Path) -> bool:
    """Whether the run at `path` was begun with --no-lock, which then holds for all who continue it."""
    try:
        manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("locking") == "none"


UNTIL_FREE = "; wait until it ends, or use another directory"
"""End of the message on a directory that another process holds."""


def read_holder(lock: int) -> str:
    """The text that the holder of a lock, or the holder before it, wrote into it."""
    return os.pread(lock, 128, 0).decode("utf-8", "replace").strip()


def holder_text(holder: str) -> str:
    """The holder of a lock, in words."""
    return f"process {holder.removesuffix(BRIEF_NOTE)}" if holder else "another process"


def in_use_error(path: Path, holder: str) -> DirectoryInUse:
    """The error for a run directory that another process holds."""
    return DirectoryInUse(
        str(path), f"is in use by {holder_text(holder)}; wait until it ends, or use another directory"
    )


def write_holder(lock: int, path: Path, note: str = "") -> None:
    """Write into a lock which process has it."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()} on {socket.gethostname()}{note}\n".encode(), 0)
    sync_file(lock, path)  # for the other machines of a network file system


def check_not_held(path: Path, *, no_lock: bool = False) -> None:
    """Raise DirectoryInUse if a run is at work in the directory at `path`.

    Args:
        no_lock: skip the check.
    """
    if not no_lock and (path / LOCK).is_file():
        try:
            with _looked_at(path / LOCK) as holder:
                if holder is not None:
                    raise in_use_error(path, holder)
                check_no_share(path)
        except NoLocks:
            if not begun_without_locks(path):
                raise


@contextlib.contextmanager
def _looked_at(path: Path) -> Iterator[str | None]:
    """The text that the holder of a lock wrote into it; None if it is free, as it then stays meanwhile."""
    lock = open_lock(path, only_look=True)
    try:
        free = try_lock(lock, path, fcntl.LOCK_SH)  # shared, so that others can look at the same time
        yield None if free else read_holder(lock)
    finally:
        os.close(lock)


def share_name(share: Share) -> str:
    """The part of file names that stands for a share: `002-of-008`."""
    return f"{share.index:03d}-of-{share.count:03d}"


def share_events(share: Share) -> str:
    """The file of the events of a share, relative to its run."""
    return f"events-{share_name(share)}.jsonl"


@contextlib.contextmanager
def share_held(path: Path, share: Share, *, no_lock: bool = False) -> Iterator[None]:
    """Hold the lock of a share of the run at `path`, which this process holds too.

    A process that checks whether a share is at work touches the share's lock for a moment. Both that check
    and the taking of a share happen under `run.lock`, so a check is never mistaken for a share at work.

    Raises:
        DirectoryInUse: if another process has the share, or a share of another count is at work: it would
            compute some of the same chunks.
    """
    (path / LOCKS).mkdir(exist_ok=True)
    name = path / LOCKS / f"shard-{share_name(share)}.lock"
    lock = open_lock(name)
    try:
        if not no_lock and not try_lock(lock, name):
            raise in_use_error(Path(f"shard {share} of {path}"), read_holder(lock))
        for other, who in () if no_lock else _at_work(path):
            if (count := int(other.rpartition("-")[2])) != share.count:
                raise DirectoryInUse(
                    str(path),
                    f"is being computed in {count} shares, by {who}; give --shard I/{count} with the number"
                    " of a share that is missing, or wait until it is done",
                )
        write_holder(lock, name)
        yield
    finally:
        os.close(lock)


def _at_work(path: Path) -> Iterator[tuple[str, str]]:
    """The name of each share of the run that is at work, as `shard-002-of-008`, and its process."""
    for held in sorted((path / LOCKS).glob("shard-*.lock")):
        with _looked_at(held) as holder:
            if holder is not None:
                yield held.stem, holder_text(holder)


def shares_at_work(path: Path) -> list[str]:
    """Descriptions of the shares of the run at `path` that are at work, each with its process."""
    return [f"{name.replace('-', ' ')}, {who}" for name, who in _at_work(path)]


def check_no_share(path: Path) -> None:
    """Raise DirectoryInUse if a share of the run at `path` is at work."""
    if at_work := shares_at_work(path):
        raise DirectoryInUse(
            str(path), f"is in use by {at_work[0]}; wait until it ends, or use another directory"
        )
