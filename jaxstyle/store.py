"""A run on disk: its lock, its chunk files, and the tables merged from them.

A chunk file is whole or absent: its bytes are made in memory, written to a temporary file, flushed to
the disk and renamed. HDF5 itself never writes a chunk to the disk, because it leaves unreadable files
behind when it is killed and crashes the interpreter when the disk fills up. Chunks and `results.*`
contain no time, host or device: the same cells give the same bytes.

Nothing here needs JAX.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import dataclasses
import errno
import fcntl
import functools
import hashlib
import io
import itertools
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import h5py
import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxstyle.fingerprints import SCHEMA, Sources, as_narrow, fingerprint
from jaxstyle.inputs import encode
from jaxstyle.plan.cells import Cell, axes_of, sweep_cells, terms_of
from jaxstyle.plan.chunks import Plan, from_record
from jaxstyle.spec import paths, plugins, tables
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.options import Share
from jaxstyle.spec.settings import AXES, PATH_AXES, Sweep
from jaxstyle.spec.tables import LAYER_CURVE, LOSSES

LOCK = "run.lock"
LOCKS = "locks"
"""The folder that holds one lock for each share of a run."""
FOR_A_MOMENT = ", for a moment"
"""Ending of the text in a `run.lock` whose holder will give it back soon, so that waiting is worthwhile."""
TRIES = 10
"""Attempts at making a run directory that other processes keep removing."""
POLL_S = 0.2
"""Seconds between two attempts at a lock that is waited for, before random variation."""
BELIEVED_S = 3.0
"""Seconds for which an awaited `run.lock` must name the same run as its holder before that is believed.

The text may have been left by a process that died, while the present holder has yet to sign.
"""
LEFTOVER = re.compile(r"\..*\.tmp-")
"""Beginning of the names of temporary files."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Errors of `flock`, and so of HDF5, on a file system that has no locks."""
UNSYNCED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Errors of `fsync` on a file system that does not support it and can do no more for a written file."""
FOLDER_UNSYNCED = (*UNSYNCED, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)
"""Errors of opening a folder, or of `fsync` on it, where folders cannot be flushed."""
CHECKPOINTS = "checkpoints"
"""The folder of the checkpoints of chunks that are not done."""
OF_ANOTHER_RUN = "belongs to another run; --resume sets it aside and computes it again"
LIBVER = ("v110", "v110")
MERGED_IN_MEMORY = 64 * 2**20
"""Total size of the chunk files, in bytes, up to which `results.h5` is made in memory."""
TOGETHER, SYNCED = 256, 16
"""Pictures that are written as one batch, and threads that flush them to the disk.

A picture of 32 px took 0.58 to 0.86 ms when written by itself and 0.16 ms in such a batch; with 4 or 64
threads it took 0.22 to 0.28 ms (ext4, two cores).
"""
PER_CELL = ("diverged_step", "loss_best", "step_best", "evaluations", "steps")
"""Numbers that are stored once for each cell, beside its images and curves."""


class NoLocks(JaxstyleError):
    """The file system of a run directory has no locks."""


class DirectoryInUse(JaxstyleError):
    """Another process is working in the run directory: exit code 3."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers and coordinates of those cells of one chunk that share an image shape."""

    cell: Int[np.ndarray, " cells"]
    snapshot: tuple[int, ...]
    """The steps at which images were kept."""
    step: tuple[int, ...]
    """The steps at which losses were kept."""
    layer: tuple[str, ...]
    """The layers of `style_layer_loss`."""
    losses: tuple[str, ...] = LOSSES
    """The names of the loss curves: first those that every run has, then those of optional terms."""
    diverged_step: Int[np.ndarray, " cells"]
    """The step at which a cell diverged, or -1 if it did not."""
    loss_best: Float[np.ndarray, " cells"]
    """The smallest total loss over all steps, including those that the curves do not keep."""
    step_best: Int[np.ndarray, " cells"]
    """The step of `loss_best`, or -1 if there is none."""
    evaluations: Float[np.ndarray, " cells"]
    """Evaluations of the loss and its gradient; those of coarser stages count by their share of pixels."""
    steps: Int[np.ndarray, " cells"]
    """The length of each cell's trajectory; its curves are NaN after that."""
    loss_final: Float[np.ndarray, "cells losses"]
    """The values of all `losses` for the last image kept."""


@dataclass(frozen=True, kw_only=True)
class ChunkResult(Numbers):
    """All results for those cells of one chunk that share an image shape."""

    image: UInt8[np.ndarray, "cells snapshots h w 3"]
    curves: Mapping[str, Float[np.ndarray, "cells steps"]]
    """The curves of all `losses`, by name."""
    style_layer_loss: Float[np.ndarray, "cells steps layers"]
    """E_l of every layer; NaN for layers that a cell does not use."""

    @property
    def shape(self) -> str:
        """`HxW`."""
        return f"{self.image.shape[2]}x{self.image.shape[3]}"


@dataclass(frozen=True, kw_only=True)
class Outline(Numbers):
    """The same as `ChunkResult` but for pictures and curves, which stay on the disk."""

    height_px: int
    width_px: int

    @property
    def shape(self) -> str:
        """`HxW`."""
        return f"{self.height_px}x{self.width_px}"


# --- files ----------------------------------------------------------------------------------------


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path`, whole or not at all, even if this process is killed meanwhile.

    Args:
        durable: also wait until the data is on the disk, so that the same holds if the machine crashes.
    """
    temporary = _temporary(path)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # minus the umask
    try:
        try:
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(handle, view) :]
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from None
            if durable:
                _sync(handle, path)
        finally:
            os.close(handle)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    """A temporary name for a file that is not whole yet.

    It has a random part, because processes on several machines or in several containers may share an id.
    """
    return path.with_name(f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")


def _sync(handle: int, path: Path) -> None:
    """Flush a file to the disk, if its file system supports that."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise OSError(error.errno, error.strerror, str(path)) from None


def _sync_folder(path: Path) -> None:
    """Flush the names of the files in a folder to the disk, if its file system supports that."""
    try:
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno not in FOLDER_UNSYNCED:
            raise OSError(error.errno, error.strerror, str(path)) from None


def open_h5(path: Path) -> h5py.File:
    """Open a merged file of a run for reading.

    The file needs no lock, because whoever makes it anew replaces it. HDF5 takes one all the same, and
    refuses to open a file both with and without a lock, so it goes without one only where there are none.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if not lacks_locks(error):
            raise
        return h5py.File(path, "r", locking=False)


def lacks_locks(error: OSError) -> bool:
    """Whether a file can only be opened without a lock: none exist, or this process has it open without."""
    return error.errno in NO_LOCKS or "locking flag values don't match" in str(error)


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
                if isinstance(error, FileNotFoundError) and self._create and attempt < TRIES:
                    continue  # the same race as where `_open` returns None, lost a moment earlier
                self._unmake()
                raise
        try:
            # Whoever reads the lock must find this process in it and not one that died.
            _sign(lock, self.path / LOCK, FOR_A_MOMENT if self._briefly else "")
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
        lock = _open_lock(self.path / LOCK)
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
            holder, now = _signature(lock), time.monotonic()
            if not self._briefly:
                raise _in_use(self.path, holder)
            if holder != said:
                said, since = holder, now
            if holder and not holder.endswith(FOR_A_MOMENT) and now - since >= BELIEVED_S:
                raise _in_use(self.path, holder)
            if not told and holder.endswith(FOR_A_MOMENT):
                self._on_wait(_who(holder))
                told = True
            time.sleep(POLL_S * random.uniform(0.5, 1.5))

    def _is_free(self, lock: int) -> bool:
        """Whether the directory is free; takes the lock, unless the run was begun without locks."""
        try:
            return self.no_lock or _locked(lock, self.path / LOCK)
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


def _locked(lock: int, path: Path, kind: int = fcntl.LOCK_EX) -> bool:
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


def _open_lock(path: Path, *, only_look: bool = False) -> int:
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


def _signature(lock: int) -> str:
    """The text that the holder of a lock, or the holder before it, wrote into it."""
    return os.pread(lock, 128, 0).decode("utf-8", "replace").strip()


def _who(holder: str) -> str:
    return f"process {holder.removesuffix(FOR_A_MOMENT)}" if holder else "another process"


def _in_use(path: Path, holder: str) -> DirectoryInUse:
    return DirectoryInUse(str(path), f"is in use by {_who(holder)}; wait, or give another --out")


def _sign(lock: int, path: Path, note: str = "") -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()} on {socket.gethostname()}{note}\n".encode(), 0)
    _sync(lock, path)  # for the other machines of a network file system


def check_not_held(path: Path, *, no_lock: bool = False) -> None:
    """Raise DirectoryInUse if a run is at work in the directory at `path`.

    Args:
        no_lock: skip the check.
    """
    if not no_lock and (path / LOCK).is_file():
        try:
            with _looked_at(path / LOCK) as holder:
                if holder is not None:
                    raise _in_use(path, holder)
                check_no_share(path)
        except NoLocks:
            if not begun_without_locks(path):
                raise


@contextlib.contextmanager
def _looked_at(path: Path) -> Iterator[str | None]:
    """The text that the holder of a lock wrote into it; None if it is free, as it then stays meanwhile."""
    lock = _open_lock(path, only_look=True)
    try:
        free = _locked(lock, path, fcntl.LOCK_SH)  # shared, so that others can look at the same time
        yield None if free else _signature(lock)
    finally:
        os.close(lock)


# --- shares of a run ------------------------------------------------------------------------------


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
        DirectoryInUse: if another process has the share.
    """
    (path / LOCKS).mkdir(exist_ok=True)
    name = path / LOCKS / f"shard-{share_name(share)}.lock"
    lock = _open_lock(name)
    try:
        if not no_lock and not _locked(lock, name):
            raise _in_use(Path(f"shard {share} of {path}"), _signature(lock))
        _sign(lock, name)
        yield
    finally:
        os.close(lock)


def shares_at_work(path: Path) -> list[str]:
    """Descriptions of the shares of the run at `path` that are at work, each with its process."""
    found = []
    for held in sorted((path / LOCKS).glob("shard-*.lock")):
        with _looked_at(held) as holder:
            if holder is not None:
                found.append(f"{held.stem.replace('-', ' ')}, {_who(holder)}")
    return found


def check_no_share(path: Path) -> None:
    """Raise DirectoryInUse if a share of the run at `path` is at work."""
    if at_work := shares_at_work(path):
        raise DirectoryInUse(str(path), f"is in use by {at_work[0]}; wait, or give another --out")


def _leftovers(path: Path) -> Iterator[Path]:
    """The temporary files that killed writers left behind."""
    for folder in (path, *_folders(path), *_folders(path / CHECKPOINTS)):
        yield from (entry for entry in _listed(folder) if LEFTOVER.match(entry.name))


def _folders(path: Path) -> list[Path]:
    return [entry for entry in _listed(path) if entry.is_dir()]


def _listed(path: Path) -> list[Path]:
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
            mend = "have its owner change that (chmod g+w), or give --out elsewhere"
            raise JaxstyleError(str(place), f"is not writable; {mend}")


def check_space(path: Path, needed: int) -> None:
    """Raise JaxstyleError if the disk under `path` has less than `needed` bytes free."""
    existing = next(p for p in (path, *path.parents) if p.exists())
    total, _, free = shutil.disk_usage(existing)
    if free < needed and total:  # some file systems in user space report 0 for everything: unknown
        raise JaxstyleError(
            str(path),
            f"{needed / 1e6:.0f} MB are needed, but only {free / 1e6:.0f} MB are free; make space",
        )


NUMBERED = re.compile(r"([0-9]{4,})-(.*)", re.DOTALL)
"""The pattern of the names of fresh directories."""


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


# --- chunks ---------------------------------------------------------------------------------------


def dataset(node: h5py.File | h5py.Group, name: str) -> h5py.Dataset:
    """The dataset `name` of `node`, stored in this very file. Raises KeyError if there is none."""
    found = node[name] if isinstance(node.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise KeyError(name)
    return found


def members(node: h5py.File | h5py.Group) -> list[Any]:
    """The groups and datasets of `node`, in order.

    h5py's own `values()` holds the lock of all of h5py until it has given the last one. After an exception
    it holds the lock until the iterator is collected, perhaps by a thread that then waits for this one.
    """
    return [node[name] for name in list(node)]


def take(data: h5py.Dataset, rows: Sequence[int], *rest: Any) -> np.ndarray:
    """Some distinct rows of a dataset, in the order given; HDF5 wants them ascending."""
    order = np.argsort(rows)
    found = data[(np.sort(rows), *rest)]
    return found[np.argsort(order)]


def chunk_name(number: int) -> str:
    """The file of a chunk, relative to its run."""
    return f"chunks/{number:06d}.h5"


def chunk_bytes(parts: Sequence[ChunkResult], *, width: int, fingerprint: str = "") -> bytes:
    """The HDF5 file of a chunk; the same results give the same bytes.

    Args:
        parts: the results; each becomes a group of the file, named by its image shape.
        width: the cells advanced together when they were computed; kept as an attribute.
        fingerprint: the digest of everything that decides the results; kept as an attribute too.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=LIBVER) as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["width"] = width
        file.attrs["fingerprint"] = np.bytes_(fingerprint.encode())
        for result in parts:
            group = file.create_group(result.shape)
            group.attrs["layer"] = np.bytes_(",".join(result.layer).encode())
            if added := result.losses[len(LOSSES) :]:
                group.attrs["losses"] = np.bytes_(",".join(added).encode())
            own = ("snapshot", "step", "cell", "image"), (LAYER_CURVE, *PER_CELL, "loss_final")
            before, after = ({name: getattr(result, name) for name in names} for names in own)
            for name, of in {**before, **result.curves, **after}.items():
                values = np.asarray(of)
                # A checksum needs chunked storage, and an HDF5 chunk must stay under 4 GiB. HDF5's own
                # structures carry checksums (libver v110), except for the heap, where texts of variable
                # length go. Texts here have a fixed length, so that no bit can change unnoticed.
                shape = values.shape if values.ndim == 1 else (1, *values.shape[1:])
                group.create_dataset(name, data=values, chunks=shape, fletcher32=True)
    return buffer.getvalue()


def read_chunk(path: Path, *, fingerprint: str | None = None) -> list[ChunkResult]:
    """The contents of a chunk file.

    Args:
        path: the file.
        fingerprint: the fingerprint that the file must carry, if given.

    Raises:
        JaxstyleError: if the file is damaged, was written by another version, or belongs to another run.
    """
    with _reading(path, fingerprint) as file:
        return [_read_part(group) for group in members(file)]


def check_listed(path: Path, sha256: str | None) -> None:
    """Raise JaxstyleError unless a chunk file has the digest that the manifest lists for it, if any.

    A different file may be whole and belong to this run: made on another machine, by another version of the
    package, or by hand.
    """
    if sha256 is None:
        return
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise JaxstyleError(str(path), f"cannot be read: {error.strerror or error}") from None
    if found != sha256:
        read_chunk(path)  # reports damage, if that is the reason
        why = f"is not the file that manifest.json lists (sha256 {found[:12]}..., not {sha256[:12]}...)"
        raise JaxstyleError(str(path), f"{why}; --resume sets it aside and computes it again")


def chunk_width(path: Path) -> int:
    """The width that a chunk was computed with. Raises JaxstyleError if its file is damaged."""
    with _reading(path) as file:
        width: Any = file.attrs["width"]
        return int(width)


def chunk_parts(data: bytes, path: Path) -> list[ChunkResult]:
    """The results from which `chunk_bytes` made `data`, the contents of the file at `path`."""
    with _reading(path, data=data) as file:
        return [_read_part(group) for group in members(file)]


def read_outlines(path: Path) -> list[Outline]:
    """The contents of a chunk file but for pictures and curves, which are neither read nor checked.

    Raises:
        JaxstyleError: if it is damaged or was written by another version.
    """
    with _reading(path) as file:
        return [_read_outline(group) for group in members(file)]


@contextlib.contextmanager
def _reading(
    path: Path, fingerprint: str | None = None, *, data: bytes | None = None
) -> Iterator[h5py.File]:
    """A chunk file opened for reading, only as much as is asked for; errors name the file."""
    try:
        if data is None and not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would block
            raise OSError("it is not a regular file")
        with open(path, "rb") if data is None else io.BytesIO(data) as raw, h5py.File(raw, "r") as file:
            if (schema := str(file.attrs["schema"])) != str(SCHEMA):
                raise JaxstyleError(
                    str(path), f"has schema {schema}, this version needs {SCHEMA}; run it again"
                )
            if fingerprint is not None and _attribute(file, "fingerprint") != fingerprint:
                raise JaxstyleError(str(path), OF_ANOTHER_RUN)
            if any(not isinstance(file.get(name, getlink=True), h5py.HardLink) for name in list(file)):
                raise KeyError("it holds a link")
            yield file
    except JaxstyleError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError, OverflowError) as error:
        raise JaxstyleError(
            str(path), f"is damaged: {error}; --resume sets it aside and computes it again"
        ) from None


def set_aside(path: Path) -> Path:
    """Rename a file so that its name ends in `.bad`, or `.bad-2` and so on, and return the new path."""
    names = itertools.chain([f"{path.name}.bad"], (f"{path.name}.bad-{n}" for n in itertools.count(2)))
    aside = next(p for p in map(path.with_name, names) if not p.exists())
    os.replace(path, aside)
    return aside


# --- checkpoints ----------------------------------------------------------------------------------

Arrays = dict[str, np.ndarray]
_UNREADABLE = (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile)
"""Exceptions that reading a damaged file of arrays raises."""


class Checkpoint:
    """The saved progress of a chunk that is not done: parts, which only accumulate, and a state.

    Each `part-NNNN.npz` is written once; `state.npz` is replaced and lists the parts that it builds on. A
    process that is killed between the two writes leaves a part that nothing refers to; it is overwritten.

    Args:
        run: the run directory, held.
        chunk: the number of the chunk.
        fingerprint: the digest of everything that decides the chunk's results; a checkpoint with another
            fingerprint is ignored.
    """

    def __init__(self, run: RunDirectory, chunk: int, fingerprint: str):
        self._run, self._fingerprint = run, fingerprint
        self._folder = f"{CHECKPOINTS}/{chunk:06d}"
        self._parts: list[bytes] = []
        """The SHA-256 of each part."""

    def load(self) -> tuple[list[Arrays], Arrays] | None:
        """The parts and the state that were saved last, or None if there are none with this fingerprint.

        Raises:
            JaxstyleError: if they are damaged.
        """
        path = self._run.path / self._folder / "state.npz"
        if not path.exists():
            return None
        try:
            state = _read_arrays(path)
            if str(state.pop("fingerprint")) != self._fingerprint:
                return None
            digests = [bytes(digest) for digest in state.pop("parts")]
            # Another process may have continued from an older state and overwritten later parts: each must
            # be the one that this state was saved with.
            parts = [_read_arrays(self._run.path / self._part(i), digest=d) for i, d in enumerate(digests)]
        except _UNREADABLE as error:
            raise JaxstyleError(str(path), f"is damaged: {error}") from None
        self._parts = digests
        return parts, state

    def save(self, part: Arrays, state: Arrays) -> None:
        """Add a part and replace the state; if that is cut short, the old state still stands."""
        data = _array_bytes(part)
        self._run.write(self._part(len(self._parts)), data)
        self._parts.append(data[:32])
        whole = {
            "fingerprint": np.array(self._fingerprint),
            "parts": np.array([list(digest) for digest in self._parts], np.uint8),
            **state,
        }
        self._run.write(f"{self._folder}/state.npz", _array_bytes(whole))

    def _part(self, number: int) -> str:
        return f"{self._folder}/part-{number:04d}.npz"

    def set_aside(self) -> Path:
        """Rename the folder of a damaged checkpoint and return its new path."""
        self._parts = []
        return set_aside(self._run.path / self._folder)

    def clear(self) -> None:
        """Remove the checkpoint, because the chunk is done or begins anew."""
        self._parts = []
        shutil.rmtree(self._run.path / self._folder, ignore_errors=True)


def _array_bytes(arrays: Arrays) -> bytes:
    """An `.npz` file after its SHA-256, since damage to a zip archive's own structures can hide entries."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)  # pyright: ignore[reportArgumentType]
    data = buffer.getvalue()
    return hashlib.sha256(data).digest() + data


def _read_arrays(path: Path, *, digest: bytes | None = None) -> Arrays:
    data = path.read_bytes()
    if hashlib.sha256(data[32:]).digest() != data[:32] or digest not in (None, data[:32]):
        raise ValueError(f"{path.name} is not what its SHA-256 says")
    with np.load(io.BytesIO(data[32:]), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _attribute(node: h5py.Group, name: str) -> str:
    value: Any = node.attrs[name]
    return bytes(value).decode()


def _checked(group: h5py.Group, name: str, values: Any, shape: tuple[int, ...]) -> Any:
    """`values`, an array or a dataset; raises ValueError unless they are numbers of the given `shape`."""
    if values.shape != shape or values.dtype.kind not in "iuf":
        raise ValueError(f"{group.name}/{name} has shape {values.shape} and type {values.dtype}")
    return values


def _read_outline(group: Any) -> Outline:
    if not isinstance(group, h5py.Group):
        raise KeyError("it holds no group")
    cell, image = dataset(group, "cell")[()], dataset(group, "image")
    snapshot, step = (tuple(int(n) for n in dataset(group, name)[()]) for name in ("snapshot", "step"))
    _checked(group, "cell", cell, (len(cell),))
    _checked(group, "image", image, (len(cell), len(snapshot), *image.shape[2:4], 3))
    if image.dtype != np.uint8:
        raise ValueError(f"{group.name}/image has type {image.dtype}")
    added = _attribute(group, "losses").split(",") if "losses" in group.attrs else ()
    losses = (*LOSSES, *added)
    shapes = {**dict.fromkeys(PER_CELL, cell.shape), "loss_final": (len(cell), len(losses))}
    numbers = {
        name: _checked(group, name, dataset(group, name)[()], shape) for name, shape in shapes.items()
    }
    layer = tuple(_attribute(group, "layer").split(","))
    height, width = image.shape[2:4]
    return Outline(
        height_px=height,
        width_px=width,
        snapshot=snapshot,
        step=step,
        layer=layer,
        losses=losses,
        cell=cell,
        **numbers,
    )


def _read_part(group: Any) -> ChunkResult:
    outline = _read_outline(group)
    steps = (len(outline.cell), len(outline.step))
    shapes = {**dict.fromkeys(outline.losses, steps), LAYER_CURVE: (*steps, len(outline.layer))}
    curves = {
        name: _checked(group, name, dataset(group, name)[()], shape) for name, shape in shapes.items()
    }
    values = {f.name: getattr(outline, f.name) for f in dataclasses.fields(Numbers)}
    per_layer = curves.pop(LAYER_CURVE)
    return ChunkResult(
        image=dataset(group, "image")[()], curves=curves, style_layer_loss=per_layer, **values
    )


# --- reading a run back ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """A run directory as it stands: its settings, its manifest and the chunks that there are."""

    path: Path
    sweep: Sweep
    cells: tuple[Cell, ...]
    manifest: Mapping[str, Any]
    chunk_paths: tuple[Path, ...]
    """The chunk files that the plan names and that exist; other files are ignored."""
    moved: Mapping[str, str] = field(default_factory=dict)
    """The present paths of images and weights that have moved, by the path that the run's files name."""
    rows: tuple[Any, ...] = ()
    """The rows of the plugins that the run was made with, without their functions."""
    sound: set[Path] = field(default_factory=set, repr=False, compare=False)
    """The chunk files that have been verified to belong to this run."""

    @functools.cached_property
    def plan(self) -> Plan:
        """The plan that the run was begun with. Raises JaxstyleError if its manifest has none."""
        try:
            return from_record(self.sweep, self.cells, self.manifest["plan"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise no_plan(self.path, str(error)) from None

    @functools.cached_property
    def sources(self) -> Sources:
        """The inputs that the run computes from, with the digests in its manifest."""
        try:
            listed = self.manifest["images"].items()
            images = {self.file(path): str(about["sha256"]) for path, about in listed}
            weights = str(self.manifest["weights"]["sha256"])
        except (KeyError, TypeError, AttributeError) as error:
            raise no_plan(self.path, f"it has no digests: {error}") from None
        return Sources(self.sweep, {**images, **self.sweep.digests}, weights)

    def file(self, path: str) -> str:
        """The present path of an image, given the path by which the manifest names it."""
        about = self.manifest.get("images", {}).get(path, {})
        path = paths.taken_from(self.path, about.get("place", path))
        return self.moved.get(path, path)

    @functools.cached_property
    def texts(self) -> dict[tuple[str, str], str]:
        """The text by which the user named each image, by axis and absolute path."""
        given = self.manifest.get("given", {})
        return {(axis, self.file(path)): text for axis, own in given.items() for path, text in own.items()}

    def check(self, path: Path) -> None:
        """Raise JaxstyleError unless a chunk file is the one that this run wrote."""
        if path in self.sound:
            return
        number, listed = int(path.stem), self.manifest.get("chunks_sha256")
        with _reading(path) as file:
            width: Any = file.attrs["width"]
            mark = _attribute(file, "fingerprint")
        if mark != fingerprint(self.sources, as_narrow(self.plan, number, int(width)), number):
            raise JaxstyleError(str(path), OF_ANOTHER_RUN)
        check_listed(path, (listed or {}).get(chunk_name(number)))
        self.sound.add(path)

    def chunks(self) -> Iterator[ChunkResult]:
        """The results of all chunks in order, with one chunk file in memory at a time."""
        return (part for path in self._checked_paths() for part in read_chunk(path))

    def outlines(self) -> Iterator[Outline]:
        """The results of all chunks in order, without pictures and curves."""
        return (outline for path in self._checked_paths() for outline in read_outlines(path))

    def _checked_paths(self) -> Iterator[Path]:
        for path in self.chunk_paths:
            self.check(path)
            yield path

    @functools.cached_property
    def axes(self) -> tuple[str, ...]:
        """The axes of its cells: those of every run, then the weights of the optional terms in use."""
        return axes_of(self.cells)

    @functools.cached_property
    def losses(self) -> dict[str, str]:
        """The titles of its loss curves, by name, as the run has them, whatever is registered now."""
        told = {row.name: row for row in self.rows if isinstance(row, tables.LossTerm)}
        names = terms_of(self.cells)
        return tables.curves(told.get(name) or tables.TERMS[name] for name in names)

    @functools.cached_property
    def values(self) -> dict[str, tuple[Any, ...]]:
        """The distinct values of each axis as the user gave them, in the order of the cells."""
        return {axis: tuple(dict.fromkeys(c.label(axis) for c in self.cells)) for axis in self.axes}

    def given(self, axis: str, path: str) -> str:
        """The text by which the user named an image of `axis`."""
        return self.texts.get((axis, path), path)


def open_record(path: Path, *, among: Iterable[str] = ()) -> Record:
    """The run at `path`. Raises JaxstyleError if there is none.

    Args:
        path: its directory.
        among: files among which to look for images and weights of the run that have moved.
    """
    spec, manifest = path / "spec.toml", path / "manifest.json"
    if not spec.is_file() or not manifest.is_file():
        raise JaxstyleError(str(path), "is not a run directory; it has no spec.toml and manifest.json")
    try:
        values = json.loads(manifest.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise JaxstyleError(str(manifest), f"cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise JaxstyleError(str(manifest), "is not a manifest")
    begun_at = _directory(values)  # the run may have been moved away from there without its images
    places = () if begun_at is None else (begun_at,)
    rows = plugins.told(values.get("plugins", ()))
    plugins.know(rows)
    assembled = assemble({"spec": str(spec.absolute())}, places=places, among=among)
    sweep = assembled.sweep
    chunk_paths = _chunk_paths(path, values)
    return Record(path, sweep, sweep_cells(sweep), values, chunk_paths, assembled.moved, rows)


def _directory(manifest: Mapping[str, Any]) -> Path | None:
    """The directory that a run was in when it was last at work; None for older runs, which do not say."""
    directory = manifest.get("directory")
    return Path(directory) if isinstance(directory, str) and os.path.isabs(directory) else None


def no_plan(path: Path, why: str) -> JaxstyleError:
    """The error for a run whose manifest is not as a run of this version writes it."""
    return JaxstyleError(str(path / "manifest.json"), f"has no plan to continue: {why}; start a new run")


def _chunk_paths(path: Path, manifest: Mapping[str, Any]) -> tuple[Path, ...]:
    """The chunk files of a run, by the exact names that its plan gives them.

    Other files may lie beside them: files set aside, copies, or those a synchroniser made of a conflict.
    """
    plan = manifest.get("plan")
    chunks = plan.get("chunks") if isinstance(plan, dict) else None
    if not isinstance(chunks, list):
        raise no_plan(path, "it lists no chunks")
    there = {entry.name for entry in _listed(path / "chunks")}
    names = (path / chunk_name(number) for number in range(len(chunks)))
    return tuple(name for name in names if name.name in there)


# --- results.csv ----------------------------------------------------------------------------------

COLUMNS = (
    "cell",
    *AXES,
    "steps",
    "height",
    "width",
    "status",
    *LOSSES,
    "image",
    "diverged_step",
    "loss_best",
    "step_best",
    "evaluations",
    "start_cell",
    "alpha_beta_given",
    "style_layer_weights",
)


def image_name(cell: int, step: int, last: int) -> str:
    """The path of a cell's PNG, relative to its run; images before the last step have the step in it."""
    return f"images/{cell:06d}.png" if step == last else f"images/{cell:06d}-step{step:06d}.png"


def image_step(name: str) -> int | None:
    """The step in the name of a PNG, or None if the name has none."""
    found = re.fullmatch(r"\d{6,}-step(\d{6,})\.png", name)
    return int(found[1]) if found else None


class Rows(Sequence[dict[str, Any]]):
    """The rows of `results.csv`, ascending by cell, for the cells that have been computed.

    This is like a list of dictionaries, but the numbers are kept in arrays and each dictionary is made when
    it is asked for.

    Args:
        record: the run.
        outlines: the outlines of its chunks.
    """

    def __init__(self, record: Record, outlines: Iterable[Outline]):
        self._record = record
        found = list(outlines)
        cells = np.concatenate([np.zeros(0, np.int64), *(outline.cell for outline in found)])
        order = np.argsort(cells, kind="stable")

        def column(values: Callable[[Outline], np.ndarray]) -> np.ndarray:
            return np.concatenate([values(outline) for outline in found])[order] if found else cells

        self.cell = cells[order]
        """The ids of the cells."""
        self.losses = column(lambda outline: _in_columns(outline, tuple(record.losses)))
        """The record's losses of the last image kept, (cells, losses)."""
        self.diverged = column(lambda outline: outline.diverged_step) >= 0
        """Whether each cell diverged."""
        self._numbers = {name: column(lambda o, name=name: getattr(o, name)) for name in PER_CELL}
        self._shape = column(lambda o: np.full((len(o.cell), 2), (o.height_px, o.width_px), np.int32))

    def __len__(self) -> int:
        return len(self.cell)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self._line(i) for i in range(*index.indices(len(self)))]
        return self._line(range(len(self))[index])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"<{len(self)} rows>"

    def __reduce__(self) -> Any:
        return list, (list(self),)

    def find(self, cell: int) -> dict[str, Any] | None:
        """The row of a cell, or None if the cell has not been computed."""
        index = int(np.searchsorted(self.cell, cell))
        return self._line(index) if index < len(self) and self.cell[index] == cell else None

    def _line(self, index: int) -> dict[str, Any]:
        cell = self._record.cells[int(self.cell[index])]
        number = {name: values[index] for name, values in self._numbers.items()}
        diverged, step_best = int(number["diverged_step"]), int(number["step_best"])
        values: dict[str, Any] = {"cell": cell.id}
        for axis in self._record.axes:
            value = getattr(cell, axis)
            values[axis] = self._record.given(axis, value) if axis in PATH_AXES else value
        values |= {
            "steps": int(number["steps"]),
            "height": int(self._shape[index, 0]),
            "width": int(self._shape[index, 1]),
            "status": "done" if diverged < 0 else "diverged",
            **dict(zip(self._record.losses, self.losses[index], strict=True)),
            "image": image_name(cell.id, 0, 0),
            "diverged_step": "" if diverged < 0 else diverged,
            "loss_best": number["loss_best"],
            "step_best": "" if step_best < 0 else step_best,
            "evaluations": number["evaluations"],
            "start_cell": "",  # earlier versions, with `warm_steps`, put here the cell it started from
            "alpha_beta_given": cell.label("alpha_beta"),
            "style_layer_weights": "+".join(f"{name}:{w!r}" for name, w in cell.layer_weights.items()),
        }
        return values

    @property
    def columns(self) -> tuple[str, ...]:
        """The column names of `results.csv`: first those of every run, then those of optional terms."""
        more = (*self._record.axes, *self._record.losses)
        return (*COLUMNS, *(name for name in more if name not in COLUMNS))


def _in_columns(outline: Outline, losses: Sequence[str]) -> np.ndarray:
    """The final losses of a chunk's cells, (cells, losses); NaN for losses that the chunk does not have."""
    found = np.full((len(outline.cell), len(losses)), np.nan, np.float32)
    found[:, [losses.index(name) for name in outline.losses]] = outline.loss_final
    return found


def rows(record: Record) -> Rows:
    """The rows of `results.csv`. Raises JaxstyleError if a chunk is damaged."""
    return Rows(record, record.outlines())


def _write_lines(file: io.TextIOBase, lines: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write a CSV table, with float32 numbers in the shortest form that reads back as the same number."""
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        numbers = {name: str(value) for name, value in line.items() if isinstance(value, np.floating)}
        writer.writerow({**line, **numbers})


def write_csv(
    run: RunDirectory, lines: Iterable[Mapping[str, Any]], columns: Sequence[str] = COLUMNS
) -> Path:
    """Write `results.csv` row by row, whole or not at all."""
    path = run.path / "results.csv"
    with _replacing(path) as temporary, open(temporary, "x", encoding="utf-8", newline="") as file:
        _write_lines(file, lines, columns)
    return path


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give the path of a temporary file; when the block ends, flush that file and rename it to `path`."""
    temporary = _temporary(path)
    try:
        yield temporary
        with open(temporary, "r+b") as file:  # for writing: SMB refuses fsync on a file open for reading
            _sync(file.fileno(), path)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


# --- results.h5 -----------------------------------------------------------------------------------


@dataclass
class _Group:
    """The cells and coordinates of one image shape in `results.h5`, known before it is filled."""

    cells: list[int]
    layers: tuple[str, ...]
    snapshot: tuple[int, ...]
    step: tuple[int, ...]


def _survey(record: Record) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    for chunk in record.outlines():
        group = groups.setdefault(chunk.shape, _Group([], (), chunk.snapshot, chunk.step))
        group.cells.extend(chunk.cell.tolist())
        group.layers = tuple(sorted({*group.layers, *chunk.layer}))
    for group in groups.values():
        group.cells.sort()
    return groups


def _coordinate(group: h5py.Group, name: str, values: Any) -> None:
    group.create_dataset(name, data=values).make_scale(name)


def _texts(values: Sequence[str]) -> np.ndarray:
    return np.array(list(values), dtype=h5py.string_dtype())


def _variable(
    group: h5py.Group, name: str, shape: tuple[int, ...], dtype: Any, dims: str, *, fill: Any = None
) -> h5py.Dataset:
    data = group.create_dataset(name, shape, dtype, fillvalue=fill)
    for index, dim in enumerate(dims.split()):
        data.dims[index].attach_scale(group[dim])
    return data


def _create_group(file: h5py.File, shape: str, group: _Group, record: Record) -> h5py.Group:
    height, width = (int(n) for n in shape.split("x"))
    h5 = file.create_group(shape)
    n, s, t, k = len(group.cells), len(group.snapshot), len(group.step), len(group.layers)
    _coordinate(h5, "cell", np.array(group.cells, np.int64))
    _coordinate(h5, "snapshot", np.array(group.snapshot, np.int64))
    _coordinate(h5, "step", np.array(group.step, np.int64))
    _coordinate(h5, "layer", _texts(group.layers))
    _coordinate(h5, "y", np.arange(height, dtype=np.int64))
    _coordinate(h5, "x", np.arange(width, dtype=np.int64))
    _coordinate(h5, "channel", _texts("RGB"))
    cells = [record.cells[i] for i in group.cells]
    for axis in record.axes:
        values: Any = [getattr(cell, axis) for cell in cells]
        if axis in PATH_AXES:
            values = [record.given(axis, value) for value in values]
        data = _texts(values) if isinstance(values[0], str) else np.array(values)
        h5.create_dataset(axis, data=data).dims[0].attach_scale(h5["cell"])
    _variable(h5, "image", (n, s, height, width, 3), np.uint8, "cell snapshot y x channel")
    for name in record.losses:
        fill = None if name in LOSSES else np.nan
        _variable(h5, name, (n, t), np.float32, "cell step", fill=fill)
    _variable(h5, LAYER_CURVE, (n, t, k), np.float32, "cell step layer", fill=np.nan)
    _variable(h5, "diverged_step", (n,), np.int64, "cell")
    _variable(h5, "loss_best", (n,), np.float32, "cell")
    _variable(h5, "step_best", (n,), np.int64, "cell")
    _variable(h5, "evaluations", (n,), np.float32, "cell")
    _variable(h5, "steps", (n,), np.int64, "cell")
    # This makes the per-cell axes coordinates in xarray and other readers of the CF conventions.
    for name in ("image", *record.losses, LAYER_CURVE, *PER_CELL):
        h5[name].attrs["coordinates"] = " ".join(record.axes)
    return h5


def merge(record: Record) -> None:
    """Make `results.h5` from the chunks.

    A small file is made in memory. A large one is streamed by a separate process, with one chunk in memory
    at a time, because HDF5 crashes the process that is writing when the disk fills up.

    Raises:
        JaxstyleError: if the disk has too little space for it, or a chunk is damaged.
    """
    for path in record.chunk_paths:
        record.check(path)
    size = sum(path.stat().st_size for path in record.chunk_paths)
    path = record.path / "results.h5"
    if size <= MERGED_IN_MEMORY:
        buffer = io.BytesIO()
        with h5py.File(buffer, "w", libver=LIBVER) as file:
            _fill(file, record)
        write_atomic(path, buffer.getvalue())
        return
    with _replacing(path) as temporary:
        check_space(record.path, int(1.2 * size) + 16 * 2**20)
        done = subprocess.run(
            [sys.executable, "-P", "-c", _MERGE, record.path, temporary, str(os.getpid())],
            input="\0".join(chunk.name for chunk in record.chunk_paths),  # shares may add chunks meanwhile
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise JaxstyleError(
                str(path),
                f"could not be made: {said[-1] if said else f'exit code {done.returncode}'};"
                " the chunks are kept, make space and --resume",
            )


_MERGE = f"""
import sys
from pathlib import Path
import {__name__} as own
own.end_with(int(sys.argv[3]))
try:
    own.merge_into(Path(sys.argv[1]), Path(sys.argv[2]), sys.stdin.read().split("\\0"))
except own.JaxstyleError as error:
    raise SystemExit(str(error)) from None
"""


def end_with(parent: int) -> None:
    """Have the system kill this process when the process `parent` dies, where that is possible (Linux)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        raise SystemExit("the process that asked for it is gone")


def merge_into(run: Path, temporary: Path, chunks: Collection[str] | None = None) -> None:
    """Write the `results.h5` of the run at `run` to `temporary`, from all chunk files or the named ones."""
    record = open_record(run)
    if chunks is not None:
        record = replace(record, chunk_paths=tuple(p for p in record.chunk_paths if p.name in {*chunks}))
    with h5py.File(temporary, "w", libver=LIBVER, locking=False) as file:  # no other process opens it
        _fill(file, record)


def _fill(file: h5py.File, record: Record) -> None:
    """Write everything that `results.h5` holds, with one chunk in memory at a time."""
    groups = _survey(record)
    file.attrs["schema"] = SCHEMA
    names = ("image", *record.losses, *PER_CELL, LAYER_CURVE)
    made = {}
    for shape, group in groups.items():
        h5 = _create_group(file, shape, group, record)
        made[shape] = {name: dataset(h5, name) for name in names}
    for chunk in record.chunks():
        data, group = made[chunk.shape], groups[chunk.shape]
        where = np.searchsorted(group.cells, chunk.cell)
        for start, stop in _runs(where):
            target = slice(int(where[start]), int(where[start]) + stop - start)
            for name in ("image", *PER_CELL):
                data[name][target] = getattr(chunk, name)[start:stop]
            for name, curve in chunk.curves.items():
                data[name][target] = curve[start:stop]
            # All layers at once: writing them one at a time would take a write for every number.
            own = chunk.style_layer_loss[start:stop]
            every = np.full((*own.shape[:2], len(group.layers)), np.nan, np.float32)
            every[:, :, [group.layers.index(layer) for layer in chunk.layer]] = own
            data[LAYER_CURVE][target] = every


def _runs(positions: np.ndarray) -> Iterator[tuple[int, int]]:
    """The index ranges [start, stop) over which `positions` rise by one."""
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    yield from itertools.pairwise([0, *breaks.tolist(), len(positions)])


def write_images(
    run: RunDirectory,
    chunk: ChunkResult,
    *,
    missing: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Write the PNGs of a chunk's cells, one for every snapshot.

    Args:
        missing: write only those that do not exist.
        stop: asked before each one whether to stop; a run that is told to end need not wait for files that
            can be rebuilt.
    """
    last = chunk.snapshot[-1]
    named = (
        (image_name(int(cell), step, last), pixels)
        for cell, snapshots in zip(chunk.cell, chunk.image, strict=True)
        for step, pixels in zip(chunk.snapshot, snapshots, strict=True)
    )
    left = (
        (run.path / name, encode.png_bytes(pixels))
        for name, pixels in itertools.takewhile(lambda _: not stop(), named)
        if not (missing and (run.path / name).exists())
    )
    while batch := list(itertools.islice(left, TOGETHER)):
        _write_together(batch)


def _write_together(files: Sequence[tuple[Path, bytes]]) -> None:
    """Write files of one folder as `write_atomic` does, but flush them to the disk together.

    A disk takes about as long for many small files at once as for a single one.
    """
    folder = files[0][0].parent
    folder.mkdir(exist_ok=True)
    made: list[tuple[Path, Path]] = []

    def sync(temporary: Path) -> None:
        with open(temporary, "r+b") as file:  # as in `_replacing`
            _sync(file.fileno(), temporary)

    try:
        for path, data in files:
            made.append((_temporary(path), path))
            with open(made[-1][0], "xb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[os.write(file.fileno(), view) :]
        with ThreadPoolExecutor(min(SYNCED, len(made))) as pool:
            list(pool.map(sync, (temporary for temporary, _ in made)))
        while made:
            temporary, path = made[-1]
            os.replace(temporary, path)
            made.pop()
        _sync_folder(folder)
    finally:
        for temporary, _ in made:
            temporary.unlink(missing_ok=True)
