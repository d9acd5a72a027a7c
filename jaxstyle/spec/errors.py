"""Errors that are not this package's fault, shown to the user in one line."""

from __future__ import annotations

from typing import Any

MAX_LINE = 2000
"""Most characters of an error; the middle of a longer one is left out."""

WINDOWS = ("Windows", "jaxstyle runs on Linux; install WSL2 by wsl --install, and jaxstyle within it")
"""The error of a system that has no such signals and locks as runs need: its subject, and the remedy."""


def one_line(text: str) -> str:
    """`text` on one line for a terminal: no control characters, and the middle left out if it is long."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    half = MAX_LINE // 2
    return text if len(text) <= MAX_LINE else f"{text[:half]} [...] {text[-half:]}"


def encodable(text: str, encoding: str | None) -> str:
    """`text` for a stream of an encoding (UTF-8 if None), with characters that it lacks as `\\u03b1`."""
    return text.encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")


class JaxstyleError(ValueError):
    """An error in the input or the configuration: one line for the user, exit code 2."""

    exit_code = 2

    def __init__(self, what: str, why: str):
        super().__init__(one_line(f"{what}: {why}"))

    def with_mend(self, mend: str) -> JaxstyleError:
        """The same error with one more remedy."""
        what, why = str(self).split(": ", 1)
        return type(self)(what, f"{why}; {mend}")

    def __reduce__(self) -> tuple[Any, ...]:  # by default pickle would call it with one argument
        return type(self), tuple(str(self).split(": ", 1))


class UnfitEnvironment(JaxstyleError):
    """An error of a machine or an installation that cannot run what was asked for: exit code 4."""

    exit_code = 4
