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

from jaxstyle.errors import JaxstyleError


def at_home(text: str) -> str:
    """A path with the user's home for a leading `~`, as in a shell, and as it is where no such user exists.

    Raises:
        JaxstyleError: if the user has no home: a folder called `~` is what nobody wants.
    """
    if not text.startswith("~"):
        return text
    own = text[1:2] in ("", os.sep)
    found = text if own and os.environ.get("HOME") == "" else os.path.expanduser(text)
    if own and found.startswith("~"):
        raise JaxstyleError(text, "there is no home for ~ to stand for; give the whole path")
    return found


def taken_from(base: Path | str, text: str) -> str:
    """The absolute path that `text` means in the folder `base`, or in the user's home after a `~`."""
    return os.path.abspath(os.path.join(base, at_home(text)))


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
    then among the files of `among`, of which each stands for one that has gone while there are several.

    Args:
        digests: the SHA-256 of files by the absolute path that they had.
        places: folders.
        among: paths of files.
    """
    gone = {path: digest for path, digest in digests.items() if not os.path.isfile(path)}
    if not gone:
        return {}
    others: dict[str, list[str]] = {}
    for path in among:
        if (found := sha256(path)) is not None:
            others.setdefault(found, []).append(path)
    now: dict[str, str] = {}
    for path, digest in gone.items():
        parts = Path(path).parts[1:]
        ends = (os.path.join(*parts[start:]) for start in range(len(parts)))
        every = (os.path.abspath(os.path.join(place, end)) for end in ends for place in places)
        found = next((here for here in every if sha256(here) == digest), None)
        if found is None and (equal := others.get(digest)):
            found = equal.pop(0) if len(equal) > 1 else equal[0]
        if found is not None:
            now[path] = found
    return now
