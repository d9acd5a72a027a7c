"""The identity of functions that a script or a notebook registers: their text, and what they read."""

from __future__ import annotations

import dataclasses
import dis
import functools
import hashlib
import inspect
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxstyle.spec.presets import PACKAGE

LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(PACKAGE))
"""Folders of code whose version is in a run's manifest, or belongs to Python."""
PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))


def identity(of: Any) -> bytes:
    """A SHA-256 of a function or a value: of its text, of what it holds, and of the globals that it reads.

    It is the same in every process. What belongs to a library is there by its name alone, and what cannot
    be told from another value, such as a generator of random numbers, by its type.
    """
    return _Identity().of(of)


class _Identity:
    """The identities of values that may refer to each other; each is looked into once."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, Any]] = {}
        """Numbers of the values in the order of meeting them, and the values, so that they live on."""

    def of(self, value: Any) -> bytes:
        """The identity of a value."""
        while type(value).__name__ == "PjitFunction":  # compiled, a function does the same
            value = value.__wrapped__
        if isinstance(value, PLAIN):
            return _sha256(type(value).__name__, repr(value))
        if id(value) in self._seen:
            return _sha256("again", str(self._seen[id(value)][0]))
        self._seen[id(value)] = len(self._seen), value
        for kind, look in _LOOKS:
            if isinstance(value, kind):
                return _sha256(str(kind), *look(self, value))
        if hasattr(value, "__array__") and not isinstance(value, type):
            return _sha256("array", *self._array(value))
        return _sha256("object", *self._object(value))

    def every(self, values: Any) -> list[bytes]:
        """The identities of several values."""
        return [self.of(value) for value in values]

    def mapping(self, value: Mapping[Any, Any]) -> list[bytes]:
        """The identities of the names and the values of a mapping, in its order."""
        return [part for item in value.items() for part in self.every(item)]

    def function(self, value: types.FunctionType) -> list[bytes]:
        """The identities of all that a function is made of; the name of a library's."""
        if _is_library(value.__code__.co_filename):
            return [_name(value)]
        held = []
        for cell in value.__closure__ or ():
            try:
                held.append(cell.cell_contents)
            except ValueError:  # nothing has been put in it yet
                continue
        read = {
            name: value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__
        }
        parts = value.__defaults__ or (), value.__kwdefaults__ or {}, held, read
        return [_text(value.__code__), *self.every(parts), *self._wrapped(value)]

    def type(self, value: type) -> list[bytes]:
        """The identities of a class, its bases and what it holds; the name of a library's."""
        if _of_library(value.__module__):
            return [_name(value)]
        own = {n: v for n, v in vars(value).items() if callable(v) or not n.startswith("__")}
        return [_name(value), *self.every(value.__bases__), *self.mapping(own)]

    def _wrapped(self, value: Any) -> list[bytes]:
        """The identities of the function under a wrapper, and of the rules for its derivatives."""
        own = {n: v for n, v in sorted(getattr(value, "__dict__", {}).items()) if callable(v)}
        return self.mapping(own)

    def _array(self, value: Any) -> list[bytes]:
        try:
            if "key" in str(getattr(value, "dtype", "")):  # a typed key of JAX
                value = sys.modules["jax"].random.key_data(value)
            array = np.asarray(value)
        except (RuntimeError, TypeError, ValueError):  # one that was given away, or lies on another device
            return [_name(type(value))]
        if array.dtype.hasobject:
            return [self.of(array.tolist())]
        return [_sha256(str(array.dtype), str(array.shape), np.ascontiguousarray(array).tobytes())]

    def _object(self, value: Any) -> list[bytes]:
        kind = type(value)
        if dataclasses.is_dataclass(value):
            fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
            return [self.of(kind), *self.mapping(fields)]
        if not _of_library(kind.__module__) or kind is types.SimpleNamespace:
            return [self.of(kind), *self.mapping(dict(getattr(value, "__dict__", {})))]
        text = repr(value) if not callable(value) else getattr(value, "__qualname__", "")
        # Where an object lies in memory is no part of what it is.
        return [_name(kind), b"" if " at 0x" in text else text.encode(), *self._wrapped(value)]


_LOOKS: tuple[tuple[Any, Callable[[_Identity, Any], Any]], ...] = (
    (Mapping, _Identity.mapping),
    (set, lambda self, value: sorted(_Identity().of(member) for member in value)),
    (frozenset, lambda self, value: sorted(_Identity().of(member) for member in value)),
    (list, _Identity.every),
    (tuple, _Identity.every),
    (types.ModuleType, lambda self, value: [value.__name__]),
    (types.FunctionType, _Identity.function),
    (types.MethodType, lambda self, value: self.every((value.__self__, value.__func__))),
    (staticmethod | classmethod, lambda self, value: self.every((value.__func__,))),
    (property, lambda self, value: self.every((value.fget, value.fset))),
    (functools.partial, lambda self, value: self.every((value.func, value.args, value.keywords))),
    (type, _Identity.type),
    (types.CodeType, lambda self, value: [_text(value)]),
)
"""Functions that look into values of a type, by type; the first that fits."""


def _sha256(*parts: bytes | str) -> bytes:
    """The SHA-256 of parts, each with its length."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        found.update(f"{len(data)} ".encode())
        found.update(data)
    return found.digest()


def _text(code: types.CodeType) -> bytes:
    """The text of code. Several lambdas may stand on one line, which are told apart by what they name."""
    consts = [repr(const) for const in code.co_consts if isinstance(const, PLAIN)]
    try:
        text: bytes | str = inspect.getsource(code)
    except (TypeError, OSError):
        text = code.co_code
        consts += [_text(const).hex() for const in code.co_consts if isinstance(const, types.CodeType)]
    if code.co_name != "<lambda>" and isinstance(text, str):
        return _sha256(text)
    return _sha256(text, *code.co_names, *code.co_varnames, *consts)


def _names(code: types.CodeType) -> list[str]:
    """The global variables that code and the functions in it read, sorted."""

    def read(code: types.CodeType) -> Iterator[str]:
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                yield str(instruction.argval)
        for const in code.co_consts:
            if isinstance(const, types.CodeType):
                yield from read(const)

    return sorted({*read(code)})


def _name(value: Any) -> bytes:
    return f"{value.__module__}.{value.__qualname__}".encode()


def _is_library(file: str) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in LIBRARIES)


def _of_library(module: str) -> bool:
    """Whether a module is a library's, or Python's own."""
    if module == "__main__":
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return module in sys.builtin_module_names or (file is not None and _is_library(file))
