"""What every command line shares: flags parsed by tyro, errors in one line, exit codes.

tyro draws a box for a flag it cannot parse, and takes a flag given twice by its last value; here the
box becomes one line and the second a mistake. Nothing here needs JAX.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import io
import mmap
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, get_type_hints

import tyro

from jaxstyle.config import JaxstyleError, unknown_key

T = TypeVar("T")

INTERRUPTED, TERMINATED = 130, 143


@dataclass(frozen=True)
class Parsed(Generic[T]):
    """A command line: its values, and which of them it named."""

    value: T
    named: tuple[str, ...]
    """Field names of the flags that were given, in order."""


def parse(command: type[T], arguments: Sequence[str], program: str) -> Parsed[T]:
    """Parse `arguments` into the dataclass `command`.

    `--help` prints and exits as tyro does.

    Raises:
        JaxstyleError: for an unknown flag, one given twice, or a value of the wrong type.
    """
    flags = _flags(command)
    named = []
    for argument in arguments:
        if argument == "--help" or not re.match(r"--[A-Za-z]", argument):
            continue
        name = argument[2:].partition("=")[0].replace("-", "_")
        if name.startswith("tyro_"):
            continue
        flag = "--" + name.replace("_", "-")
        if name not in flags:
            raise unknown_key(name, flags, what=flag)
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
        raise JaxstyleError("command line", _first_line(box.getvalue())) from None
    return Parsed(value, tuple(named))


def _flags(command: type) -> tuple[str, ...]:
    """The names of all flags of `command`, nested dataclasses being flat."""
    names: list[str] = []
    hints = get_type_hints(command, include_extras=True)
    for f in dataclasses.fields(command):
        inner = hints[f.name]
        if dataclasses.is_dataclass(inner):
            names += _flags(inner)  # pyright: ignore[reportArgumentType]
        elif tyro.conf.Suppress not in getattr(inner, "__metadata__", ()):
            names.append(f.name)
    return tuple(names)


def _first_line(box: str) -> str:
    """What tyro's box says, up to its first rule, on one line."""
    lines = []
    for line in box.splitlines():
        text = line.strip().strip("│").strip()
        if text.startswith("╭") or not text:
            continue
        if set(text) <= {"─"} or text.startswith("╰"):
            break
        lines.append(text)
    return (" ".join(lines) or "it could not be understood").rstrip(".") + "; see --help"


ALLOCATOR_RESERVE = 2**31
"""Bytes of address space put into huge pages; they become memory only when they are used."""
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
"""Of glibc's malloc.h."""


@functools.cache
def keep_freed_memory() -> bool:
    """Have glibc keep freed memory and put it in huge pages; for a process that is all ours.

    XLA's CPU runtime takes tens of megabytes in every step and gives them back. By default each such
    piece is mapped anew, and the kernel fills it with zeros page by page: at 256 px some 13,000 page faults
    a step (docs/performance.md has the cost and its command). The process then keeps its peak memory to its
    end. Nothing is done without glibc, or if the user has tuned it.

    Returns:
        Whether the allocator took the settings.
    """
    if any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.free.argtypes = [ctypes.c_void_p]
        libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        settings = {_M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 2**28, _M_MMAP_MAX: 0, _M_ARENA_MAX: 1}
        if not all(libc.mallopt(key, value) for key, value in settings.items()):
            return False
        # The heap grows by one large piece, which then belongs to it, empty, its pages huge.
        if start := libc.malloc(ALLOCATOR_RESERVE):
            huge = 2**21
            aligned = -(-start // huge) * huge
            libc.madvise(aligned, ALLOCATOR_RESERVE - huge, mmap.MADV_HUGEPAGE)
            libc.free(start)
    except (AttributeError, OSError):
        return False
    return True


class _Terminated(BaseException):
    """SIGTERM, as an exception."""


def _terminate(*_: object) -> None:
    raise _Terminated


def run(command: Callable[[], int]) -> None:
    """Run a command and leave with its exit code; every expected failure is one line on stderr."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = command()
    except JaxstyleError as error:
        code = _fail(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of a help text or a plan has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        code = 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _fail(f"{where}{error.strerror or error}", 2)
    except KeyboardInterrupt:
        code = _fail("interrupted", INTERRUPTED)
    except _Terminated:
        code = _fail("terminated", TERMINATED)
    raise SystemExit(code)


def _fail(line: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"jaxstyle: error: {' '.join(line.split())}", file=sys.stderr, flush=True)
    return code
