"""Paths of a run's files: how they are taken from a user, written into the run, and found after a move.

A run that lies in its project's folder with its pictures goes on when the folder is moved: paths under the
run's parent are written relative to the run. A file that is no longer where it was is looked for by its
SHA-256: the same bytes are the same picture, wherever they lie.

Nothing here needs JAX.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def taken_from(base: Path | str, text: str) -> str:
    """The absolute path that `text` means in the folder `base`; `~` is the user's home, as in a shell."""
    return os.path.abspath(os.path.join(base, os.path.expanduser(text)))


def spelled(path: str, run: Path) -> str:
    """An absolute path as it is written into a run: relative to it where it lies under the run's parent.

    The run and the file may have been named by different links to one folder.
    """
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    for file, own in ((path, os.path.abspath(run)), (real, os.path.realpath(run))):
        project = os.path.dirname(own)
        if project != os.sep and os.path.commonpath([project, file]) == project:
            relative = os.path.relpath(file, own)
            above = relative.startswith(os.pardir + os.sep)
            return relative if above else os.path.join(os.curdir, relative)
    return path


def sha256(path: str) -> str | None:
    """The SHA-256 of a regular file; None for anything else, or what cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would block
            return None
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None


def moved(
    digests: Mapping[str, str], *, places: Sequence[Path | str], among: Iterable[str] = ()
) -> dict[str, str]:
    """By the path that each had, where files are now that have gone from there.

    A file that stood at /a/b/c.png is looked for at a/b/c.png, b/c.png and c.png of each of `places`, and
    then among the files of `among`.

    Args:
        digests: the SHA-256 of files by the absolute path that they had.
        places: folders.
        among: paths of files.
    """
    gone = {path: digest for path, digest in digests.items() if not os.path.isfile(path)}
    if not gone:
        return {}
    others = {found: path for path in among if (found := sha256(path)) is not None}
    now = {}
    for path, digest in gone.items():
        parts = Path(path).parts[1:]
        ends = (os.path.join(*parts[start:]) for start in range(len(parts)))
        every = (os.path.abspath(os.path.join(place, end)) for end in ends for place in places)
        found = next((here for here in every if sha256(here) == digest), others.get(digest))
        if found is not None:
            now[path] = found
    return now
