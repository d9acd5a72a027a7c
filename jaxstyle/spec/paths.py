"""Paths of a run's files: read from a user's text, written into the run, and found again after a move.

Paths under the run's parent are written relative to the run, so that a project's folder with the run and
its pictures in it can be moved. A file that is no longer where it was is looked for by its SHA-256: the
same bytes are the same picture, wherever they are.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxstyle.spec.errors import JaxstyleError


def at_home(text: str) -> str:
    """A path whose leading `~` or `~USER` is expanded as in a shell; unchanged if no such user exists.

    Raises:
        JaxstyleError: if this user has no home, since nobody wants a folder called `~`.
    """
    if not text.startswith("~"):
        return text
    own = text[1:2] in ("", os.sep)
    found = text if own and os.environ.get("HOME") == "" else os.path.expanduser(text)
    if own and found.startswith("~"):
        raise JaxstyleError(text, "~ stands for your home directory, but none is set; give the whole path")
    return found


def taken_from(base: Path | str, text: str) -> str:
    """The absolute path that `text` means in the folder `base`, or in a home if it begins with `~`.

    `..` after a link that `text` names leads, as everywhere, to the folder of what it points to.
    """
    text = at_home(text)
    if os.pardir not in (parts := text.split(os.sep)):
        return os.path.abspath(os.path.join(base, text))
    found = os.sep if os.path.isabs(text) else os.path.abspath(base)
    own = 0  # parts of `found` that are of `text`
    for part in parts:
        if part == os.pardir:
            found = os.path.dirname(os.path.realpath(found) if own > 0 and os.path.islink(found) else found)
            own = max(own - 1, 0)
        elif part not in ("", os.curdir):
            found, own = os.path.join(found, part), own + 1
    return found


def spelled(path: str, run: Path) -> str:
    """An absolute path as it is written into a run: relative to the run if it is under the run's parent.

    The run and the file may have been named through different links to the same folder.
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
    """The SHA-256 of a regular file; None for anything else and for a file that cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would block
            return None
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None


def find_moved(
    digests: Mapping[str, str], *, places: Sequence[Path | str], among: Iterable[str] = ()
) -> dict[str, str]:
    """New paths of the files that are no longer where they were, by their old paths.

    A file that was /a/b/c.png is looked for as a/b/c.png, b/c.png and c.png in each of `places`, and then
    among the files of `among`. Several of those with the same bytes replace one lost file each; the last of
    them replaces all that remain.

    Args:
        digests: SHA-256 of files by their old absolute paths.
        places: folders to look in.
        among: files to compare with.
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
