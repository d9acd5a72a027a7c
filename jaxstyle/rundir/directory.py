"""A run directory: found free, made, held by one process at a time, and written into."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxstyle.rundir.files import LEFTOVER, write_atomic
from jaxstyle.rundir.locks import (
    BRIEF_NOTE,
    LOCK,
    LOCKS,
    NoLocks,
    begun_without_locks,
    check_no_share,
    check_not_held,
    holder_text,
    in_use_error,
    open_lock,
    read_holder,
    share_name,
    shares_at_work,
    try_lock,
    write_holder,
)
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.shares import Share

POLL_S = 0.2
"""Seconds between two attempts at a lock that is waited for, before random variation."""
HOLDER_CONFIRM_S = 3.0
"""Seconds for which an awaited `run.lock` must name the same run as its holder before that is believed.

The text may have been left by a process that died, while the present holder has yet to sign.
"""
MAKE_ATTEMPTS = 10
"""Attempts at making a run directory that other processes keep removing."""
CHECKPOINTS = "checkpoints"
"""The folder of the checkpoints of chunks that are not done."""
NUMBERED = re.compile(r"([0-9]{4,})-(.*)", re.DOTALL)
"""The pattern of the names of fresh directories."""


class RunDirectory:
    """A run directory, held by one process at a time.

    It is a context manager: entering takes `run.lock`; leaving, or dying, gives it back. Processes that
    compute chunks handed out by another process, or a share of a run, write into it without that lock.

    Args:
        path: the directory.
        create: make the directory and its parents; otherwise it must hold a run.
        briefly: hold it only to plan the run or to rebuild derived files, even while shares of it are at
            work; wait for other processes that do the same.
        on_wait: called once, with a description of the process that is waited for.
        no_lock: take no lock. None is taken either where the file system has none and the run was begun
            without.
        fresh: make the directory, or `runs/NNNN-name` with the next number if its number has been taken.
    """

    def __init__(
        self,
        path: Path,
        *,
        create: bool = False,
        briefly: bool = False,
        on_wait: Callable[[str], None] = lambda who: None,
        no_lock: bool = False,
        fresh: bool = False,
    ):
        self.path = path
        self.no_lock = no_lock
        """Whether the directory is, or is to be, held without a lock."""
        self._create, self._briefly, self._on_wait, self._fresh = create, briefly, on_wait, fresh
        self._lock: int | None = None
        self._made: list[Path] = []
        """The folders that were made for the run, innermost first."""

    def __enter__(self) -> RunDirectory:
        if self._fresh:
            self._made = _make(self.path.parent)
            self.path = make_fresh(self.path)
            self._made.insert(0, self.path)
        lock, attempt = None, 0
        while lock is None:
            attempt += 1
            if self._create and not self._fresh:
                self._made = _make(self.path)
            try:
                self._lock = lock = self._open()
            except BaseException as error:
                if isinstance(error, FileNotFoundError) and self._create and attempt < MAKE_ATTEMPTS:
                    continue  # the same race as where `_open` returns None, lost a moment earlier
                self._unmake()
                raise
        try:
            # Whoever reads the lock must find this process in it and not one that died.
            write_holder(lock, self.path / LOCK, BRIEF_NOTE if self._briefly else "")
            if not (self._briefly or self.no_lock):
                check_no_share(self.path)
            begun = self._briefly and (self.path / "manifest.json").is_file()
            if self._create and not begun and not is_unbegun(self.path):
                # Another run has come and gone since the directory was found to be free.
                raise JaxstyleError(str(self.path), "is not empty; give a new or an empty directory")
            # A share that joins a run leaves the cleaning, which lists all pictures, to the process that
            # merges it. Without locks nobody knows who is at work, so only a process that has the whole run
            # removes anything.
            alone = not self._briefly if self.no_lock else not shares_at_work(self.path)
            if not (self._create and begun) and alone:
                for leftover in _leftovers(self.path):
                    leftover.unlink(missing_ok=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open(self) -> int | None:
        """Take the lock and return its handle; None if its last holder removed it with the directory."""
        lock = open_lock(self.path / LOCK)
        try:
            self._take(lock)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), os.stat(self.path / LOCK)):
                    return lock
        except BaseException as error:
            os.close(lock)
            if self._made and isinstance(error, NoLocks):
                (self.path / LOCK).unlink(missing_ok=True)
            raise
        os.close(lock)
        return None

    def _unmake(self) -> None:
        """Remove the folders that were made, except those in which another process has begun something."""
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    def discard(self, share: Share) -> None:
        """Remove everything made for a run that this share is not to begin after all; it is still held."""
        if not self._made:
            return
        with contextlib.suppress(OSError):  # another share may have files there
            (self.path / LOCKS / f"shard-{share_name(share)}.lock").unlink(missing_ok=True)
            (self.path / LOCKS).rmdir()
            (self.path / LOCK).unlink()
            self._unmake()

    def _take(self, lock: int) -> None:
        """Take the lock, waiting for holders that need it only briefly; otherwise raise DirectoryInUse."""
        said, since, told = "", 0.0, False
        while not self._is_free(lock):
            holder, now = read_holder(lock), time.monotonic()
            if not self._briefly:
                raise in_use_error(self.path, holder)
            if holder != said:
                said, since = holder, now
            if holder and not holder.endswith(BRIEF_NOTE) and now - since >= HOLDER_CONFIRM_S:
                raise in_use_error(self.path, holder)
            if not told and holder.endswith(BRIEF_NOTE):
                self._on_wait(holder_text(holder))
                told = True
            time.sleep(POLL_S * random.uniform(0.5, 1.5))

    def _is_free(self, lock: int) -> bool:
        """Whether the directory is free; takes the lock, unless the run was begun without locks."""
        try:
            return self.no_lock or try_lock(lock, self.path / LOCK)
        except NoLocks:
            if not begun_without_locks(self.path):
                raise
            self.no_lock = True
            return True

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):  # a full disk must not raise here, when all is done
                os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def write(self, name: str, data: bytes | str, *, durable: bool = True) -> Path:
        """Write a file of the run, whole or not at all (see `write_atomic`)."""
        path = self.path / name
        for folder in reversed(path.relative_to(self.path).parents[:-1]):
            (self.path / folder).mkdir(exist_ok=True)  # but never the run directory, should it have gone
        write_atomic(path, data.encode() if isinstance(data, str) else data, durable=durable)
        return path


def _leftovers(path: Path) -> Iterator[Path]:
    """The temporary files that killed writers left behind."""
    for folder in (path, *_folders(path), *_folders(path / CHECKPOINTS)):
        yield from (entry for entry in list_folder(folder) if LEFTOVER.match(entry.name))


def _folders(path: Path) -> list[Path]:
    return [entry for entry in list_folder(path) if entry.is_dir()]


def list_folder(path: Path) -> list[Path]:
    """The contents of a folder; none if it has gone, as a checkpoint goes when its chunk is done."""
    try:
        return [path / name for name in os.listdir(path)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_unbegun(path: Path) -> bool:
    """Whether a directory is empty, or holds only the remains of a run killed before it had a plan."""
    if (path / "manifest.json").is_file():
        return False
    leftovers, there = set(_leftovers(path)), set(path.iterdir())
    if path / LOCK in there:
        leftovers |= {path / LOCK, path / LOCKS, path / "spec.toml", *path.glob("events*.jsonl")}
    return there <= leftovers


def check_free(path: Path, *, beside: bool = False, no_lock: bool = False) -> None:
    """Raise unless `path` can become a run directory: absent or empty, its parent writable.

    Args:
        path: the directory.
        beside: whether other processes may be about to begin the same run there.
        no_lock: do not check whether another process is at work there.

    Raises:
        DirectoryInUse: if a run is at work there.
        JaxstyleError: if it is not empty or cannot be made.
    """
    what = str(path)
    try:
        if path.exists() or path.is_symlink():
            if not path.is_dir():
                raise JaxstyleError(what, "is a file; give a new or an empty directory")
            if not beside:
                check_not_held(path, no_lock=no_lock)
            if not is_unbegun(path) and not (beside and (path / LOCK).exists()):
                raise JaxstyleError(
                    what, "is not empty; give a new or an empty directory, or --resume to continue its run"
                )
        parent = next(p for p in (path, *path.parents) if p.exists())
        if not parent.is_dir():
            raise JaxstyleError(what, f"{parent} is a file; give a new or an empty directory")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise JaxstyleError(what, f"{parent} is not writable; give --out elsewhere")
    except OSError as error:
        raise JaxstyleError(what, f"cannot be used: {error.strerror or error}") from None


def check_writable(path: Path, *more: str) -> None:
    """Raise JaxstyleError unless a run directory is writable, and so are the files that change in place.

    Args:
        path: the directory.
        more: names of files in it, in addition to the lock, that are changed in place and not replaced.
    """
    folders = [path, *_folders(path), *_folders(path / CHECKPOINTS)]
    needed = dict.fromkeys(folders, os.W_OK | os.X_OK) | {path / name: os.W_OK for name in (LOCK, *more)}
    for place, mode in needed.items():
        if not os.access(place, mode) and place.exists():  # a checkpoint may go while we look
            mend = "have its owner change that (chmod g+w), or use another directory"
            raise JaxstyleError(str(place), f"is not writable; {mend}")


def _numbered(root: Path) -> list[int]:
    """The numbers of the directories in `root`."""
    found = (NUMBERED.fullmatch(p.name) for p in (root.iterdir() if root.is_dir() else ()))
    return [int(match[1]) for match in found if match]


def fresh_path(name: str, *, root: Path) -> Path:
    """The next `runs/NNNN-name` that does not exist."""
    return root / f"{max(_numbered(root), default=0) + 1:04d}-{name}"


def make_fresh(path: Path) -> Path:
    """Make the directory that `fresh_path` gave, or the next one if another process took its number.

    Making the directory takes its number. If two processes take the same number under different names,
    they do not both keep it: the later one sees the other's directory and tries again.
    """
    name = NUMBERED.fullmatch(path.name)
    assert name is not None, path
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            number = NUMBERED.fullmatch(path.name)
            assert number is not None
            if _numbered(path.parent).count(int(number[1])) == 1:
                return path
            path.rmdir()
            time.sleep(random.uniform(0, POLL_S / 10))
        path = fresh_path(name[2], root=path.parent)


def _make(path: Path) -> list[Path]:
    """Make a directory and its parents, and return those that were missing, innermost first."""
    missing = list(itertools.takewhile(lambda p: not p.exists(), (path, *path.parents)))
    path.mkdir(parents=True, exist_ok=True)
    return missing
