"""Results that commands keep in the user's cache directory for later commands.

A file is found by a digest of everything that its content follows from: what the caller names, the source
files of this package, the versions of those that it uses, JAX's settings, the machine and its devices. So
nothing that is kept is ever out of date; it only stops being used. Every file begins with the SHA-256
of the rest, and a damaged one counts as absent.

Only commands keep anything. Other programs, and plugins, may have replaced functions of this package,
which no source file shows. And commands keep it only where they compute on a CPU, as none of this has been
tried elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax

from jaxstyle.console import limits
from jaxstyle.rundir import manifest
from jaxstyle.rundir.files import write_atomic
from jaxstyle.spec import tables
from jaxstyle.spec.presets import PACKAGE

USED = ("jax", "jaxlib", "flax", "optax", "numpy", "ml_dtypes", "h5py", "pillow")
"""The packages whose versions are part of every key."""
DIGEST_BYTES = 32
_place: tuple[Path, str] | None = None
"""The folder, and the part that every key has; None where nothing is kept."""
_reads_only = False
"""Whether nothing new is kept, while what is there is used."""


@contextlib.contextmanager
def only_read() -> Iterator[None]:
    """The time in which nothing is saved, and no file is touched."""
    global _reads_only
    before, _reads_only = _reads_only, True
    try:
        yield
    finally:
        _reads_only = before


def keep_in(folder: Path | None, began: float | None) -> None:
    """Keep results in a folder from now on, or nowhere.

    Args:
        folder: the folder, which need not exist; None for nowhere.
        began: the time, in seconds since the epoch, before which this process had imported nothing; None if
            it is no command. If a source file is younger, the package may be another one than that file.
    """
    global _place
    _place = None
    if folder is None or began is None or jax.default_backend() != "cpu":
        return
    if all(path.stat().st_mtime < began for path in PACKAGE.rglob("*.py")):
        _place = folder, _surroundings()


def _surroundings() -> str:
    """Code, versions, settings and machine, from which any result may follow."""
    devices = jax.local_devices()
    about = (
        manifest.code_digest(),
        manifest.versions(*USED),
        manifest.environment(),
        sorted((name, str(value)) for name, value in jax.config.values.items()),
        platform.machine(),
        _processor(),
        limits.xla_threads(),
        [(device.platform, device.device_kind) for device in devices],
        devices[0].client.platform_version,
    )
    return repr(about)


def _processor() -> list[str]:
    """Model and features of the processor, as far as the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return [platform.processor()]
    return sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})


def _path(kind: str, key: str) -> Path | None:
    """The file of a key; None if nothing is kept."""
    if _place is None or any(table.added for table in tables.EVERY):
        return None
    folder, surroundings = _place
    return folder / kind / hashlib.sha256(f"{surroundings}\n{key}".encode()).hexdigest()


def keeps() -> bool:
    """Whether anything is kept."""
    return _path("", "") is not None


def load(kind: str, key: str) -> bytes | None:
    """The data that an earlier command saved under this key; None if there are none."""
    path = _path(kind, key)
    if path is None:
        return None
    try:
        data = path.read_bytes()
        with contextlib.suppress(OSError):
            if not _reads_only:
                os.utime(path)  # those that nobody has asked for longest go first
        digest, packed = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        return zlib.decompress(packed) if hashlib.sha256(packed).digest() == digest else None
    except OSError:
        return None


def save(kind: str, key: str, data: bytes, *, level: int = 1, limit_bytes: int | None = None) -> None:
    """Keep data for later commands, if the disk lets it.

    Args:
        kind: name of a folder.
        key: everything, beside what every key has, that the data follow from.
        data: the data.
        level: how hard to compress them, 0 (not) to 9.
        limit_bytes: the size that the folder may have; the files that were not asked for longest go.
    """
    path = _path(kind, key)
    if path is None or _reads_only:
        return
    packed = zlib.compress(data, level)
    if limit_bytes is not None and DIGEST_BYTES + len(packed) > limit_bytes:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, hashlib.sha256(packed).digest() + packed, durable=False)
        if limit_bytes is not None:
            _cut(path.parent, limit_bytes)


def _cut(folder: Path, limit_bytes: int) -> None:
    """Delete the files of a folder that were not asked for longest, until it has at most this size."""
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # which another process has deleted or renamed
            files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
    size = sum(bytes_ for _, bytes_, _ in files)
    for _, bytes_, path in sorted(files):
        if size <= limit_bytes:
            return
        path.unlink(missing_ok=True)
        size -= bytes_
