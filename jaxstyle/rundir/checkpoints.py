"""Checkpoints of a chunk in progress: files of arrays, each an `.npz` after its SHA-256."""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxstyle.rundir.directory import CHECKPOINTS, RunDirectory
from jaxstyle.rundir.files import opened, raise_of_the_machine, set_aside
from jaxstyle.spec.errors import JaxstyleError

OTHER = "other"
"""The ending of whole checkpoints that another version, or other devices, could still use."""
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
            fingerprint is not loaded.
        together: the numbers of the chunks that are computed with it, and its own.
    """

    def __init__(self, run: RunDirectory, chunk: int, fingerprint: str, together: Sequence[int] = ()):
        self._run, self._fingerprint, self._together = run, fingerprint, tuple(together)
        self._folder = f"{CHECKPOINTS}/{chunk:06d}"
        self.of_another = False
        """Whether `load` has found one with another fingerprint."""
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
            self.of_another = str(state.pop("fingerprint")) != self._fingerprint
            if self.of_another:
                return None
            state.pop("together")
            digests = [bytes(digest) for digest in state.pop("parts")]
            # Another process may have continued from an older state and overwritten later parts: each must
            # be the one that this state was saved with.
            parts = [_read_arrays(self._run.path / self._part(i), digest=d) for i, d in enumerate(digests)]
        except _UNREADABLE as error:
            raise_of_the_machine(error, path)
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
            "together": np.array(self._together, np.int64),
            "parts": np.array([list(digest) for digest in self._parts], np.uint8),
            **state,
        }
        self._run.write(f"{self._folder}/state.npz", _array_bytes(whole))

    def _part(self, number: int) -> str:
        return f"{self._folder}/part-{number:04d}.npz"

    def set_aside(self, ending: str = "bad") -> Path:
        """Rename the folder of a checkpoint that cannot be used, and return its new path.

        Args:
            ending: `bad` for a damaged one; `OTHER` for a whole one, which stays until the run is done.
        """
        self._parts, self.of_another = [], False
        return set_aside(self._run.path / self._folder, ending)

    def clear(self) -> None:
        """Remove the checkpoint, because the chunk is done."""
        self._parts = []
        shutil.rmtree(self._run.path / self._folder, ignore_errors=True)


def clear_others(run: RunDirectory) -> None:
    """Remove the whole checkpoints that were set aside, because the run is done."""
    for path in (run.path / CHECKPOINTS).glob(f"*.{OTHER}*"):
        shutil.rmtree(path, ignore_errors=True)


class Saved(NamedTuple):
    """A state as a process saved it."""

    fingerprint: str
    together: tuple[int, ...]
    """The chunks that were computed together; none in states of earlier versions."""
    progress: tuple[int, ...]
    """Launches done, stages done (the coarser ones left, negative) and passes done; more is larger."""


def saved(folder: Path) -> Saved | None:
    """The marks of the state in a folder; None if it is damaged."""
    try:
        state = _read_arrays(folder / "state.npz")
        launch, coarser, passes = (int(state[name]) for name in ("launch", "coarser", "passes"))
        together = tuple(map(int, state.get("together", ())))
        return Saved(str(state["fingerprint"]), together, (launch, -coarser, passes))
    except _UNREADABLE as error:
        raise_of_the_machine(error, folder)
        return None


def _array_bytes(arrays: Arrays) -> bytes:
    """An `.npz` file after its SHA-256, since damage to a zip archive's own structures can hide entries."""
    buffer = io.BytesIO()
    # NumPy before 2.3 has no allow_pickle here, and would keep it as one array more.
    assert not any(array.dtype.hasobject for array in arrays.values())
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    data = buffer.getvalue()
    return hashlib.sha256(data).digest() + data


def _read_arrays(path: Path, *, digest: bytes | None = None) -> Arrays:
    with opened(path) as file:
        data = file.read()
    if hashlib.sha256(data[32:]).digest() != data[:32] or digest not in (None, data[:32]):
        raise ValueError(f"{path.name} is not what its SHA-256 says")
    with np.load(io.BytesIO(data[32:]), allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name != "allow_pickle"}
