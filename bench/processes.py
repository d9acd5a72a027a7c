"""The processes of benchmarks: for a single answer, in turns with others, or a group with a time limit."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def in_process(target: Any, *arguments: Any) -> Any:
    """Run `target` in its own process; what it sends through the pipe that is its first argument.

    Raises:
        TurnError: if it sends nothing.
    """
    mine, other = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(other, *arguments))
    process.start()
    other.close()
    try:
        return mine.recv()
    except EOFError:
        raise TurnError(f"the process of {target.__name__} died") from None
    finally:
        process.join()


def run_group(
    command: Sequence[str], log: Path, limit_s: float, environment: dict[str, str] | None = None
) -> int | None:
    """Run a command whose own processes end with it, and with this one.

    Args:
        command: the program and its arguments.
        log: the file that what it prints goes to.
        limit_s: seconds after which it is ended.
        environment: its variables, if not those of this process.

    Returns:
        Its exit code, or None if it was ended at its limit.
    """
    with log.open("wb") as written:
        process = subprocess.Popen(
            command,
            stdout=written,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Turn:
    """A process that works only when it is told to, and is stopped in between.

    Args:
        target: called with a pipe and `arguments`. It sends a message when it is ready, and then an answer
            to every message that it gets.
        name: name for messages.
        arguments: arguments of `target`.
        patience_s: seconds that an answer may take.
    """

    def __init__(self, target: Any, name: str, *arguments: Any, patience_s: float | None = None):
        self.name, self._patience_s = name, patience_s
        self._pipe, other = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=target, args=(other, *arguments), daemon=True
        )
        self._process.start()
        other.close()

    def ready(self) -> Any:
        """Wait until the process is ready; its message."""
        return self._answer()

    def run(self, message: Any) -> Any:
        """Send a message and return the answer."""
        self._signal(signal.SIGCONT)
        try:
            self._pipe.send(message)
        except OSError:
            raise TurnError(f"the process of {self.name} died") from None
        return self._answer()

    def end(self) -> None:
        """End the process."""
        self._process.kill()  # which ends a stopped process too
        self._process.join()

    def _answer(self) -> Any:
        if not self._pipe.poll(self._patience_s):
            raise TurnError(f"{self.name} did not answer within {self._patience_s:.0f} s")
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise TurnError(f"the process of {self.name} died") from None
        self._signal(signal.SIGSTOP)
        return answer

    def _signal(self, number: int) -> None:
        if self._process.is_alive() and self._process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


class TurnError(RuntimeError):
    """Raised when a process gives no answer."""
