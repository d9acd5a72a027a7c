"""Single lines on standard error: an error, or cells that diverged."""

from __future__ import annotations

import contextlib
import sys

from jaxstyle.spec.errors import encodable, one_line


def say_error(line: str, code: int) -> int:
    """Print an error as one line; the exit code given."""
    say(f"error: {line}")
    return code


def say_diverged(what: str) -> int:
    """Print `what` and return 1, the exit code of a finished command with diverged cells."""
    say(what)
    return 1


def say(what: str) -> None:
    """Print `what` as one line."""
    line = f"jaxstyle: {one_line(what)}"
    with contextlib.suppress(OSError):
        print(encodable(line, getattr(sys.stderr, "encoding", None)), file=sys.stderr, flush=True)
