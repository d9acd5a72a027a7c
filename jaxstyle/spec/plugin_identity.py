"""The identity of functions that a script or a notebook registers: their text, and what they read."""

from __future__ import annotations

import inspect
import sysconfig
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxstyle.spec.presets import PACKAGE

LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(PACKAGE))
"""Folders of code whose version is in a run's manifest, or belongs to Python."""


def identity(of: Any, around: tuple[Any, ...] = ()) -> bytes:
    """Bytes that identify code, a function or a value, the same in every process where possible.

    Args:
        of: what is to be identified.
        around: the functions and collections that contain it.
    """
    if any(of is outer for outer in around):  # a function that refers to itself
        return b""
    around = (*around, of)
    if callable(of) and (code := _code(of)) is not None:
        parts = (code, *_bound(of), *_globals_of(of, code))
        return b"\0".join(identity(part, around) for part in parts)
    if hasattr(of, "__array__") and not isinstance(of, type):  # of NumPy, JAX and others
        array = np.asarray(of)
        return f"{array.dtype} {array.shape}".encode() + array.tobytes()
    if isinstance(of, Mapping):
        return b"\0".join(identity(part, around) for item in of.items() for part in item)
    if isinstance(of, list | tuple):
        return b"\0".join([type(of).__name__.encode(), *(identity(part, around) for part in of)])
    if isinstance(of, types.ModuleType):
        return of.__name__.encode()
    if not isinstance(of, types.CodeType):
        text = repr(of)
        # Where an object lies in memory is no part of what it is.
        return (type(of).__qualname__ if " at 0x" in text else text).encode()
    try:
        return inspect.getsource(of).encode()
    except (TypeError, OSError):
        return b"\0".join(
            [of.co_code, repr(of.co_names).encode(), *(identity(c, around) for c in of.co_consts)]
        )


def _globals_of(function: Any, code: types.CodeType) -> list[tuple[str, Any]]:
    """The global variables that a function reads, by name and value; of a library's function none.

    A function or a class of a library stands there by its name.
    """
    if _is_library(code):
        return []
    while not hasattr(function, "__globals__"):
        function = getattr(function, "func", None) or getattr(function, "__wrapped__", None)
        if function is None:
            return []
    inner = [code, *(const for const in code.co_consts if isinstance(const, types.CodeType))]
    names = {name for own in inner for name in own.co_names} & function.__globals__.keys()
    found = []
    for name in sorted(names):
        value = function.__globals__[name]
        own = _code(value) if callable(value) else None
        if callable(value) and (own is None or _is_library(own)):
            value = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
        found.append((name, value))
    return found


def _is_library(code: types.CodeType) -> bool:
    return any(Path(code.co_filename).is_relative_to(folder) for folder in LIBRARIES)


def _code(function: Any) -> Any:
    """The code of a function, without decorators, compilation and partial application; None for others."""
    function = inspect.unwrap(function)
    while hasattr(function, "func"):
        function = inspect.unwrap(function.func)
    return getattr(function, "__code__", None)


def _bound(function: Any) -> list[Any]:
    """Values of a function besides its code: defaults, arguments of `partial`, closure variables."""
    found: list[Any] = []
    while function is not None:
        found += [*getattr(function, "args", ()), *sorted(getattr(function, "keywords", {}).items())]
        found += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        found += getattr(function, "__defaults__", None) or ()
        found += sorted((getattr(function, "__kwdefaults__", None) or {}).items())
        function = getattr(function, "func", None) or getattr(function, "__wrapped__", None)
    return found
