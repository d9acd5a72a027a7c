"""HDF5 as a run directory needs it: opened without locks where there are none, and checked when read.

A dataset that a file only links to counts as missing: nothing from outside a run is taken for its own.
"""

from __future__ import annotations

import errno
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jaxstyle.spec.errors import JaxstyleError

LIBVER = ("v110", "v110")
"""The oldest and the newest version of HDF5 whose structures are written; they carry checksums."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Errors of `flock`, and so of HDF5, on a file system that has no locks."""


def open_h5(path: Path) -> h5py.File:
    """Open a merged file of a run for reading.

    The file needs no lock, because whoever makes it anew replaces it. HDF5 takes one all the same, and
    refuses to open a file both with and without a lock, so it goes without one only where there are none.

    Raises:
        JaxstyleError: if it is there but no HDF5 file, or a damaged one.
    """
    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise
    except OSError as error:
        if not lacks_locks(error):
            command = f"python -m jaxstyle.report {shlex.quote(str(path.parent))}"
            why = f"cannot be read ({error}); {command} makes it from the chunks there"
            raise JaxstyleError(str(path), why) from None
        return h5py.File(path, "r", locking=False)


def lacks_locks(error: OSError) -> bool:
    """Whether a file can only be opened without a lock: none exist, or this process has it open without."""
    return error.errno in NO_LOCKS or "locking flag values don't match" in str(error)


def members(node: h5py.File | h5py.Group) -> list[Any]:
    """The groups and datasets of `node`, in order.

    h5py's own `values()` holds the lock of all of h5py until it has given the last one. After an exception
    it holds the lock until the iterator is collected, perhaps by a thread that then waits for this one.
    """
    return [node[name] for name in list(node)]


def dataset(node: h5py.File | h5py.Group, name: str) -> h5py.Dataset:
    """The dataset `name` of `node`, stored in this very file. Raises KeyError if there is none."""
    found = node[name] if isinstance(node.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise KeyError(name)
    return found


def attribute(node: h5py.Group, name: str) -> str:
    """A text attribute of an HDF5 group."""
    value: Any = node.attrs[name]
    return bytes(value).decode()


def checked_dataset(group: h5py.Group, name: str, values: Any, shape: tuple[int, ...]) -> Any:
    """`values`, an array or a dataset; raises ValueError unless they are numbers of the given `shape`."""
    if values.shape != shape or values.dtype.kind not in "iuf":
        raise ValueError(f"{group.name}/{name} has shape {values.shape} and type {values.dtype}")
    return values


def rows_in_order(data: h5py.Dataset, rows: Sequence[int], *rest: Any) -> np.ndarray:
    """Some distinct rows of a dataset, in the order given; HDF5 wants them ascending."""
    order = np.argsort(rows)
    found = data[(np.sort(rows), *rest)]
    return found[np.argsort(order)]


def texts(values: Sequence[str]) -> np.ndarray:
    """Texts as an array that HDF5 stores with variable length."""
    return np.array(list(values), dtype=h5py.string_dtype())
