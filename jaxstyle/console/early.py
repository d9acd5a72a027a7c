"""The start of a command: a signal during the imports, or Windows, is reported in one line too.

Imports take up to half a second, and Python by itself dies of SIGTERM without a word.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from jaxstyle.spec.errors import WINDOWS, UnfitEnvironment

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
"""Signals that ask a command to end: a terminal that is closed sends SIGHUP, batch schedulers SIGUSR1."""
WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "the terminal was closed"}
_began: float | None = None


def began() -> float | None:
    """The time at which this process began as a command, in seconds since the epoch; None if it is none."""
    return _began


def signal_words(number: int) -> str:
    """Name of a signal for the line that says why a command ended."""
    name = signal.Signals(number).name
    return WORDS.get(name, f"stopped by {name}")


def catch() -> None:
    """Make a signal end this process with a line that says why, until `command.run_command` takes over.

    The time is noted, too, for this process is a command.

    Raises:
        SystemExit: on Windows, after a line that says what to do.
    """
    global _began
    _began = time.time()
    if sys.platform == "win32":
        os.write(2, f"jaxstyle: error: {': '.join(WINDOWS)}\n".encode())
        raise SystemExit(UnfitEnvironment.exit_code)

    def end(number: int, _: object) -> None:
        with contextlib.suppress(OSError):  # the terminal may be the one that was closed
            os.write(2, f"jaxstyle: error: {signal_words(number)}\n".encode())
        os._exit(128 + number)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
