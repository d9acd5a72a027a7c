"""The first moments of a command: a signal that comes while its modules are imported is one line too.

Imports take up to half a second, and Python's own answer to SIGTERM is to die without a word.
"""

from __future__ import annotations

import os
import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that ask a command to end; batch schedulers send the last one."""
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def words(number: int) -> str:
    """A signal in words, for the line that says why a command ended."""
    return WORDS.get(signal.Signals(number), f"stopped by {signal.Signals(number).name}")


def catch() -> None:
    """Have a signal end this process with a line, until `cli.run` has better means."""

    def end(number: int, _: object) -> None:
        os.write(2, f"jaxstyle: error: {words(number)}\n".encode())
        os._exit(128 + number)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
