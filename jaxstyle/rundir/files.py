"""Files that are whole or absent, whatever kills the process that writes them, and the reading of HDF5."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py

from jaxstyle.spec.errors import JaxstyleError

MAKE_ATTEMPTS = 10
"""Attempts at making a run directory that other processes keep removing."""
LEFTOVER = re.compile(r"\..*\.tmp-")
"""Beginning of the names of temporary files."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Errors of `flock`, and so of HDF5, on a file system that has no locks."""
UNSYNCED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Errors of `fsync` on a file system that does not support it and can do no more for a written file."""
FOLDER_UNSYNCED = (*UNSYNCED, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)
"""Errors of opening a folder, or of `fsync` on it, where folders cannot be flushed."""
WRITE_BATCH, SYNC_THREADS = 256, 16
"""Pictures that are written as one batch, and threads that flush them to the disk.

A picture of 32 px took 0.58 to 0.86 ms when written by itself and 0.16 ms in such a batch; with 4 or 64
threads it took 0.22 to 0.28 ms (ext4, two cores).
"""


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
                sync_file(handle, path)
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


def sync_file(handle: int, path: Path) -> None:
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


def check_space(path: Path, needed: int) -> None:
    """Raise JaxstyleError if the disk under `path` has less than `needed` bytes free."""
    existing = next(p for p in (path, *path.parents) if p.exists())
    total, _, free = shutil.disk_usage(existing)
    if free < needed and total:  # some file systems in user space report 0 for everything: unknown
        raise JaxstyleError(
            str(path),
            f"{needed / 1e6:.0f} MB are needed, but only {free / 1e6:.0f} MB are free; make space",
        )


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


def set_aside(path: Path) -> Path:
    """Rename a file so that its name ends in `.bad`, or `.bad-2` and so on, and return the new path."""
    names = itertools.chain([f"{path.name}.bad"], (f"{path.name}.bad-{n}" for n in itertools.count(2)))
    aside = next(p for p in map(path.with_name, names) if not p.exists())
    os.replace(path, aside)
    return aside


def attribute(node: h5py.Group, name: str) -> str:
    """A text attribute of an HDF5 group."""
    value: Any = node.attrs[name]
    return bytes(value).decode()


def checked_dataset(group: h5py.Group, name: str, values: Any, shape: tuple[int, ...]) -> Any:
    """`values`, an array or a dataset; raises ValueError unless they are numbers of the given `shape`."""
    if values.shape != shape or values.dtype.kind not in "iuf":
        raise ValueError(f"{group.name}/{name} has shape {values.shape} and type {values.dtype}")
    return values


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a temporary file; when the block ends, flush that file and rename it to `path`."""
    temporary = _temporary(path)
    try:
        yield temporary
        with open(temporary, "r+b") as file:  # for writing: SMB refuses fsync on a file open for reading
            sync_file(file.fileno(), path)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_together(files: Sequence[tuple[Path, bytes]]) -> None:
    """Write files of one folder as `write_atomic` does, but flush them to the disk together.

    A disk takes about as long for many small files at once as for a single one.
    """
    folder = files[0][0].parent
    folder.mkdir(exist_ok=True)
    made: list[tuple[Path, Path]] = []

    def sync(temporary: Path) -> None:
        with open(temporary, "r+b") as file:  # as in `_replacing`
            sync_file(file.fileno(), temporary)

    try:
        for path, data in files:
            made.append((_temporary(path), path))
            with open(made[-1][0], "xb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[os.write(file.fileno(), view) :]
        with ThreadPoolExecutor(min(SYNC_THREADS, len(made))) as pool:
            list(pool.map(sync, (temporary for temporary, _ in made)))
        while made:
            temporary, path = made[-1]
            os.replace(temporary, path)
            made.pop()
        _sync_folder(folder)
    finally:
        for temporary, _ in made:
            temporary.unlink(missing_ok=True)
