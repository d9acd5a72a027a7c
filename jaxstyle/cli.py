"""Common parts of all commands: parsing of flags by tyro, errors in one line, exit codes.

For a flag that it cannot parse tyro draws a box, which becomes one line here; of a flag given twice it
takes the last value, and here that is an error. Nothing here needs JAX.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import functools
import io
import mmap
import os
import re
import select
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_type_hints

import tyro

from jaxstyle.console import limits
from jaxstyle.early import SIGNALS, words
from jaxstyle.spec.errors import JaxstyleError, UnfitEnvironment, encodable, one_line
from jaxstyle.spec.keys import unknown_key
from jaxstyle.spec.values import ASCII_NAMES

T = TypeVar("T")
SHORT = {"-o": "--out"}
"""Flags by their short forms."""


@dataclass(frozen=True)
class Parsed(Generic[T]):
    """The values of a command line and the names of those that it gave."""

    value: T
    named: tuple[str, ...]
    """Names of the fields whose flags were given, in order."""


def parse(command: type[T], arguments: Sequence[str], program: str) -> Parsed[T]:
    """Parse `arguments` into the dataclass `command`; `--help` prints its text and exits.

    Raises:
        JaxstyleError: for an unknown flag, one given twice, or a value of the wrong type.
    """
    flags, positional = _flags(command), _flags(command, tyro.conf.Positional)
    named = []
    for argument in arguments:
        argument = SHORT.get(argument, argument)
        if argument == "--help" or not re.match(r"--[A-Za-z]", argument):
            continue
        name = argument[2:].partition("=")[0].replace("-", "_")
        if name.startswith("tyro_"):
            continue
        flag = "--" + name.replace("_", "-")
        if name in positional:
            raise JaxstyleError(flag, "is a positional argument, without a flag; see --help")
        if name not in flags:
            raise unknown_key(name, flags, what=flag, positional=positional)
        if name in named:
            raise JaxstyleError(flag, "is given twice; give all its values after one flag")
        named.append(name)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            value = tyro.cli(
                command,
                prog=f"python -m {program}",
                args=list(arguments),
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        line = _first_line(box.getvalue())
        if "nrecognized" in line:
            # Flags with one dash, such as -content_image, come from other projects.
            words = re.split(r"[\s,;]+", line)
            if alien := next(
                (a for a in arguments if re.fullmatch(r"-[A-Za-z]\w*", a) and a in words), None
            ):
                raise unknown_key(alien[1:], flags, what=alien, positional=positional) from None
        raise JaxstyleError("command line", line) from None
    return Parsed(value, tuple(named))


def _flags(command: type, only: Any = None) -> tuple[str, ...]:
    """Names of the flags of `command` and of its nested dataclasses, or only of those marked `only`."""
    names: list[str] = []
    hints = get_type_hints(command, include_extras=True)
    for f in dataclasses.fields(command):
        inner = hints[f.name]
        if dataclasses.is_dataclass(inner):
            names += _flags(inner, only)  # pyright: ignore[reportArgumentType]
        elif (
            only in (marks := (None, *getattr(inner, "__metadata__", ())))
            and tyro.conf.Suppress not in marks
        ):
            names.append(f.name)
    return tuple(names)


def _first_line(box: str) -> str:
    """The text of tyro's box, up to its first horizontal rule, on one line."""
    lines, titled = [], "╭" in box
    for line in box.splitlines():
        text = line.strip().strip("│").strip()
        if text.startswith("╭") or not text:
            continue
        if set(text) <= {*"─-"} or text.startswith("╰"):
            if titled:
                break
            lines, titled = [], True  # if stdout is not UTF-8, tyro prints a title and a rule, not a box
            continue
        lines.append(text)
    return (" ".join(lines) or "it could not be understood").rstrip(".") + "; see --help"


ALLOCATOR_RESERVE = 2**31
"""Bytes of address space reserved in huge pages; they become memory only when they are used."""
RESERVED_SHARE = 4
"""Divisor of a limit on address space or data that gives the most to reserve. The whole reserve counts
towards the limit, and libraries, compiler and thread stacks need the rest."""
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
"""Constants of glibc's malloc.h."""


@functools.cache
def keep_freed_memory() -> bool:
    """Make glibc keep freed memory, in huge pages; only for a process that does nothing else.

    XLA's CPU runtime allocates tens of megabytes in every step and frees them. By default each such piece
    is mapped anew, and the kernel fills it with zeros page by page: at 256 px some 13,000 page faults a
    step (docs/performance.md has the cost and the command that measures it). With this, the process keeps
    its peak memory until it ends. Nothing is done without glibc, or if the user has tuned it.

    Returns:
        Whether the allocator accepted the settings.
    """
    if any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.free.argtypes = [ctypes.c_void_p]
        libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        reserve = min([ALLOCATOR_RESERVE, *(left // RESERVED_SHARE for left in limits.ulimits().values())])
        pad = min(2**28, reserve // 8)
        settings = {_M_TRIM_THRESHOLD: -1, _M_TOP_PAD: pad, _M_MMAP_MAX: 0, _M_ARENA_MAX: 1}
        if not all(libc.mallopt(key, value) for key, value in settings.items()):
            return False
        # Allocate and free one large piece, so that it belongs to the heap as empty huge pages.
        huge = 2**21
        if reserve > huge and (start := libc.malloc(reserve)):
            aligned = -(-start // huge) * huge
            libc.madvise(aligned, reserve - huge, mmap.MADV_HUGEPAGE)
            libc.free(start)
    except (AttributeError, OSError):
        return False
    return True


# --- signals --------------------------------------------------------------------------------------

GRACE_S = 8.0
"""Seconds that a command may take to end after a signal."""


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
        return words(self.number) + (f": {self.mend}" if self.mend else "")


class _Signals:
    """The signal that has come, if any, and whether it is held back.

    A handler written in Python runs only when the main thread returns from compiled code. To end the
    process in time in any case, the signal also wakes a thread, which ends the process after `GRACE_S` or
    at the second signal.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.held = 0

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
        _fail(str(Interrupted(number)), 0)
        os._exit(128 + number)


_signals = _Signals()


@contextlib.contextmanager
def signals_held() -> Iterator[Callable[[], Interrupted | None]]:
    """Hold back signals inside, where an exception would lose work.

    Yields:
        A function that returns the exception of a signal that has come, or None, so that the caller can
        save the work and then raise it. It is raised at the end in any case.
    """

    def asked() -> Interrupted | None:
        return None if _signals.number is None else Interrupted(_signals.number)

    _signals.held += 1
    try:
        yield asked
    finally:
        _signals.held -= 1
    if (stop := asked()) is not None:
        raise stop


# --- output ---------------------------------------------------------------------------------------

RAISING = ("strict", "surrogateescape", "surrogatepass")
"""Error handlers of a stream that may raise at a character that its encoding lacks."""


@contextlib.contextmanager
def _escaped() -> Iterator[None]:
    """Escape characters that the encoding of stdout or stderr lacks, as in `\\u03b1`, while inside.

    In a C locale or with `PYTHONIOENCODING=latin-1` Python would raise at such a character, after all the
    work is done.
    """
    changed: list[tuple[io.TextIOWrapper, str]] = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (errors := stream.errors) in RAISING:
            changed.append((stream, errors))
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in changed:
            with contextlib.suppress(OSError, ValueError):  # closed meanwhile, or its reader is gone
                stream.reconfigure(errors=errors)


UNFIT, FAULT = UnfitEnvironment.exit_code, 70
"""Exit codes: an environment that cannot run the command; an internal error (EX_SOFTWARE of sysexits.h)."""


def run(command: Callable[[], int]) -> None:
    """Run a command and exit with its code; any failure is told in one line on stderr."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before the start: discard what is written to it
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    if not faulthandler.is_enabled():
        with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr is not a file
            faulthandler.enable()  # shows where a library crashes
    try:
        with _escaped(), _signals.caught():
            code = command()
    except JaxstyleError as error:
        code = _fail(str(error), error.exit_code)
    except UnicodeEncodeError as error:  # probably the path of a run's image in a C locale
        ours = error.encoding != sys.getfilesystemencoding()
        said = f"{error.object}: {ASCII_NAMES.format(error.encoding)}"
        code = _tell_fault(error) if ours else _fail(said, 2)
    except BrokenPipeError:  # the reader of a help text or a plan has seen enough
        code = 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _fail(f"{where}{error.strerror or error}", 2)
    except Interrupted as stop:
        code = _fail(str(stop), stop.exit_code)
    except KeyboardInterrupt:
        code = _fail("interrupted", 128 + signal.SIGINT)
    except ImportError as error:
        code = _fail(f"{error.name or 'Python'}: cannot be imported: {error}; install it anew", UNFIT)
    except SystemError as error:  # raised by a compiled module, mostly for lack of memory
        code = _fail(
            f"Python: a compiled library failed: {error}; check the free memory and ulimit -v", UNFIT
        )
    except MemoryError as error:
        code = _fail(f"memory: there is not enough: {error}; give a smaller --size", UNFIT)
    except Exception as error:  # the last resort: the user sees one line, and the traceback is kept
        code = _tell_fault(error)
    try:
        sys.stdout.flush()
    except OSError:  # nobody is there to read it; the interpreter would complain when it ends
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    raise SystemExit(code)


def _tell_fault(error: Exception) -> int:
    """Report an unexpected error in one line, with the place of its traceback, and return the exit code."""
    said = (str(error).strip() or "no message").splitlines()[0]
    trace = "".join(traceback.format_exception(error))
    where = traceback.extract_tb(error.__traceback__)[-1]
    try:
        handle, place = tempfile.mkstemp(prefix="jaxstyle-traceback-", suffix=".txt")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{' '.join(sys.argv)}\nPython {sys.version}\n\n{trace}")
        kept = f"its traceback is in {place}"
    except OSError as full:
        kept = f"its traceback could not be written ({full.strerror})"
    what = f"{type(error).__name__}: {said} ({os.path.basename(where.filename)}:{where.lineno})"
    if asked := [name for name in os.environ if name.startswith("JAX_") and name != "JAX_PLATFORMS"]:
        kept += f"; it may work without {', '.join(sorted(asked))}"
    if _is_of_jax(error):
        return _fail(f"JAX: the device or its driver failed: {what}; {kept}", UNFIT)
    return _fail(f"jaxstyle: an internal error, please report it: {what}; {kept}", FAULT)


def _is_of_jax(error: Exception) -> bool:
    """Whether XLA's runtime raised an exception, mostly because of a driver, a device or its memory."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(error, jax.errors.JaxRuntimeError)


def say_diverged(what: str) -> int:
    """Print `what` on stderr and return 1, the exit code of a finished command with diverged cells."""
    with contextlib.suppress(OSError):
        said = f"jaxstyle: {one_line(what)}"
        print(encodable(said, getattr(sys.stderr, "encoding", None)), file=sys.stderr, flush=True)
    return 1


def _fail(line: str, code: int) -> int:
    with contextlib.suppress(OSError):
        said = f"jaxstyle: error: {one_line(line)}"
        print(encodable(said, getattr(sys.stderr, "encoding", None)), file=sys.stderr, flush=True)
    return code
