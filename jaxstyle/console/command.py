"""A command from start to end: its errors as one line, its exit codes."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator

from jaxstyle.console.early import began
from jaxstyle.console.signals import Interrupted, handling
from jaxstyle.console.stderr import say_error
from jaxstyle.spec.errors import JaxstyleError, UnfitEnvironment
from jaxstyle.spec.values import ASCII_NAMES

UNFIT, FAULT = UnfitEnvironment.exit_code, 70
"""Exit codes: an environment that cannot run the command; an internal error (EX_SOFTWARE of sysexits.h)."""
RAISING = ("strict", "surrogateescape", "surrogatepass")
"""Error handlers of a stream that may raise at a character that its encoding lacks."""


def run_command(command: Callable[[], int]) -> None:
    """Run a command and exit with its code; any failure is told in one line on stderr."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before the start: discard what is written to it
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    if not faulthandler.is_enabled():
        with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr is not a file
            faulthandler.enable()  # shows where a library crashes
    try:
        with _escaped(), handling.caught():
            code = command()
    except JaxstyleError as error:
        code = say_error(str(error), error.exit_code)
    except UnicodeEncodeError as error:  # probably the path of a run's image in a C locale
        ours = error.encoding != sys.getfilesystemencoding()
        said = f"{error.object}: {ASCII_NAMES.format(error.encoding)}"
        code = _tell_fault(error) if ours else say_error(said, 2)
    except BrokenPipeError as error:  # the reader of a help text or a plan has seen enough
        code = say_error(f"{error.filename}: {error.strerror}", 2) if error.filename else 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = say_error(f"{where}{error.strerror or error}", 2)
    except Interrupted as stop:
        code = say_error(str(stop), stop.exit_code)
    except KeyboardInterrupt:
        code = say_error("interrupted", 128 + signal.SIGINT)
    except ImportError as error:
        code = say_error(f"{error.name or 'Python'}: cannot be imported: {error}; reinstall it", UNFIT)
    except SystemError as error:  # raised by a compiled module, mostly for lack of memory
        code = say_error(
            f"Python: a compiled library failed: {error}; check the free memory and ulimit -v", UNFIT
        )
    except MemoryError as error:
        code = say_error(f"memory: there is not enough: {error}; give a smaller --size", UNFIT)
    except Exception as error:  # the last resort: the user sees one line, and the traceback is kept
        code = _tell_fault(error)
    try:
        sys.stdout.flush()
    except OSError:  # nobody is there to read it; the interpreter would complain when it ends
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if code and began() is not None:
        # XLA's threads may still compute what was just given up, and the interpreter would end under them:
        # one time in five a signal then ended in a segmentation fault.
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


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
        return say_error(f"JAX: the device or its driver failed: {what}; {kept}", UNFIT)
    return say_error(f"jaxstyle: an internal error, please report it: {what}; {kept}", FAULT)


def _is_of_jax(error: Exception) -> bool:
    """Whether XLA's runtime raised an exception, mostly because of a driver, a device or its memory."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(error, jax.errors.JaxRuntimeError)
