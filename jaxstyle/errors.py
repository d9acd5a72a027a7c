"""What goes wrong through no fault of this package, in one line for whoever gave the command.

Nothing here needs JAX.
"""

from __future__ import annotations

from typing import Any

MAX_LINE = 2000
"""Characters of an error."""


def one_line(text: str) -> str:
    """`text` for a terminal: on one line, no control characters, the middle of a long one left out."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    half = MAX_LINE // 2
    return text if len(text) <= MAX_LINE else f"{text[:half]} [...] {text[-half:]}"


def encodable(text: str, encoding: str | None) -> str:
    """`text` for a stream of an encoding (UTF-8 if None): what that has not is escaped, as in `\\u03b1`."""
    return text.encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")


class JaxstyleError(ValueError):
    """Bad input or configuration: one line for the user, exit code 2."""

    exit_code = 2

    def __init__(self, what: str, why: str):
        super().__init__(one_line(f"{what}: {why}"))

    def __reduce__(self) -> tuple[Any, ...]:  # another process gets it as it stands
        return type(self), tuple(str(self).split(": ", 1))


class UnfitEnvironment(JaxstyleError):
    """A machine or an installation that cannot run what is asked for: exit code 4."""

    exit_code = 4
