"""Signals that end a command: kept until a good moment, for a while at most."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from jaxstyle.console.early import SIGNALS, signal_words
from jaxstyle.console.stderr import say_error

GRACE_S = 8.0
"""Seconds that a command may take to end after a signal."""


MEND_S = 0.5
"""Seconds that finding out how to go on may take then."""


class Interrupted(BaseException):
    """A signal as an exception: exit code 128 + its number."""

    def __init__(self, number: int, mend: str = ""):
        super().__init__(number, mend)
        self.number, self.mend = number, mend

    @property
    def exit_code(self) -> int:
        """128 + the number of the signal."""
        return 128 + self.number

    def __str__(self) -> str:
        return signal_words(self.number) + (f": {self.mend}" if self.mend else "")


class _Signals:
    """The signal that has come, if any, and whether it is held back.

    A handler written in Python runs only when the main thread returns from compiled code. To end the
    process in time in any case, the signal also wakes a thread, which ends the process after `GRACE_S` or
    at the second signal.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.held = 0
        self.mend: Callable[[], str] | None = None
        """The way to go on after a signal, which whoever ends the process says."""

    def _handle(self, number: int, _: object) -> None:
        self.number = self.number or number
        if not self.held:
            raise Interrupted(number)

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Catch `SIGNALS` inside; does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.number, self.held = None, 0
        ours = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._handle) for number in ours}
        said = sys.unraisablehook

        def say(unraisable: sys.UnraisableHookArgs) -> None:
            # A finaliser or a callback of the garbage collector swallows exceptions. This one is raised
            # again at the end of `signals_held`; a process that does not get there is ended by the watcher.
            if not isinstance(unraisable.exc_value, Interrupted):
                said(unraisable)

        sys.unraisablehook = say
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._watch, args=(reader,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            self.number = None
            signal.set_wakeup_fd(wakeup)
            os.close(writer)
            watcher.join()
            sys.unraisablehook = said
            for number, handler in before.items():
                signal.signal(number, handler)

    def _watch(self, reader: int) -> None:
        """End the process if it has not ended in time after a signal, or at the second one."""
        with open(reader, "rb", buffering=0) as pipe:
            if not (first := pipe.read(1)):
                return
            number, (ready, _, _) = first[0], select.select([pipe], [], [], GRACE_S)
            if ready and not pipe.read(1):
                return  # the pipe was closed at the end of `caught`: no second signal
        said = [""]

        def ask() -> None:
            if self.mend is not None:
                said[0] = self.mend()

        # A disk that does not answer must not hold this up.
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(MEND_S)
        say_error(str(Interrupted(number, said[0])), 0)
        os._exit(128 + number)


handling = _Signals()
"""The signals of this process."""


@contextlib.contextmanager
def mended(mend: Callable[[], str]) -> Iterator[None]:
    """Say how to go on, `mend`, when a signal ends what happens inside; the outermost mend counts."""
    if handling.mend is not None:
        yield
        return
    handling.mend = mend
    try:
        yield
    except Interrupted as stop:
        raise Interrupted(stop.number, mend()) from None
    finally:
        handling.mend = None


@contextlib.contextmanager
def signals_held() -> Iterator[Callable[[], Interrupted | None]]:
    """Hold back signals inside, where an exception would lose work.

    Yields:
        A function that returns the exception of a signal that has come, or None, so that the caller can
        save the work and then raise it. It is raised at the end in any case.
    """

    def asked() -> Interrupted | None:
        return None if handling.number is None else Interrupted(handling.number)

    handling.held += 1
    try:
        yield asked
    finally:
        handling.held -= 1
    if (stop := asked()) is not None:
        raise stop
