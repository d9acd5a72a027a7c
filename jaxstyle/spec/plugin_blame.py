"""The blame for an exception in a plugin's code: one line that names its file and the line there."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterable, Iterator

from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.rows import NamedRow, Origin
from jaxstyle.vgg import layers


@contextlib.contextmanager
def blamed(origin: Origin | None) -> Iterator[None]:
    """Blame a row's plugin for an exception inside: one line that names the plugin's file and line.

    Raises:
        JaxstyleError: for any exception, if the row is a plugin's; of jaxstyle's own it passes unchanged.
    """
    try:
        yield
    except JaxstyleError:
        raise
    except Exception as error:  # a plugin's code may raise anything
        if origin is None:
            raise
        raise JaxstyleError(at_fault(origin.file, error), error_words(error)) from error


@contextlib.contextmanager
def blamed_together(rows: Iterable[NamedRow]) -> Iterator[None]:
    """Blame the plugins of rows that are traced together, for a mistake that is of no single line.

    Raises:
        JaxstyleError: for any exception but that of a device, if some row is a plugin's.
    """
    try:
        yield
    except JaxstyleError:
        raise
    except Exception as error:  # a derivative that JAX cannot take, for example
        files = sorted({row.origin.file for row in rows if row.origin is not None})
        if not files or type(error).__name__ == "JaxRuntimeError":
            raise
        raise JaxstyleError(" or ".join(at_fault(f, error) for f in files), error_words(error)) from error


def at_fault(file: str, error: BaseException) -> str:
    """`FILE, line N` for the last line of a file that an exception passed through; else `FILE`."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{file}, line {error.lineno}"
    lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == file]
    return f"{file}, line {lines[-1]}" if lines else file


def error_words(error: BaseException) -> str:
    """The type and the message of an exception on one line."""
    lines = str(error).strip().splitlines()
    text = error.msg if isinstance(error, SyntaxError) else lines[0] if lines else ""
    if isinstance(error, KeyError) and error.args and error.args[0] in layers.TAPS:
        text += "; a view holds only the layers that the term names in taps"
    if type(error).__name__ == "TracerBoolConversionError":
        text += " use jnp.where"
    if type(error).__name__ == "UnexpectedTracerError":
        text = "a value that was made while one program was traced is used in another; keep NumPy's arrays"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
