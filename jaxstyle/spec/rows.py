"""Rows of tables, and tables: the common part of everything that comes in kinds."""

from __future__ import annotations

import collections
import dataclasses
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from jaxstyle.spec.errors import JaxstyleError

Function = Callable[..., Any] | str | None
"""A function, `module:function`, or None in a row that was read from a manifest."""


def function(of: Function) -> Any:
    """The function that a row names or holds; None if it has none."""
    if not isinstance(of, str):
        return of
    module, _, name = of.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Origin:
    """The source of a plugin's row."""

    file: str
    """Path of the source file."""
    sha256: str
    """SHA-256 of that file, or of the row itself where it was registered in another way."""
    of_row: bool = False
    """Whether it is that of the row."""


NAMES = "use up to 40 lower-case letters, digits and _"
"""Characters of a name, in words."""


def is_name(value: Any) -> bool:
    """Whether a value can be the name of a row or of an axis."""
    return isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,39}", value) is not None


@dataclass(frozen=True)
class NamedRow:
    """Fields that every row has."""

    name: str
    """Name in settings and flags: lower-case letters, digits and `_`."""
    title: str = field(default="", kw_only=True)
    """Name for people; `name` if not given."""
    origin: Origin | None = field(default=None, kw_only=True, compare=False)
    """The plugin that it belongs to, filled in when it is registered; None for a row of jaxstyle."""

    what: ClassVar[str]
    """Kind of row, in words."""
    internal: ClassVar[tuple[str, ...]] = ()
    """Names of fields that only jaxstyle's own rows have."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Names of texts that a manifest has only where they are given: earlier versions did not write them."""
    functions: ClassVar[tuple[str, ...]]
    """Names of the fields that hold functions; only the first is required."""

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise JaxstyleError(self.what, f"{self.name!r} is not a name; {NAMES}")
        if not isinstance(self.title, str) or not self.title.isprintable():
            raise JaxstyleError(f"{self.what} {self.name}", f"{self.title!r} is not a title; give a text")
        if not isinstance(text := getattr(self, "help", ""), str):
            raise JaxstyleError(f"{self.what} {self.name}", f"help is {text!r}; give a text")

    @property
    def words(self) -> str:
        """Its title, or its name."""
        return self.title or self.name.replace("_", " ")

    @property
    def where(self) -> str:
        """Its kind, name and file, as the beginning of an error message."""
        of = f" of {self.origin.file}" if self.origin else ""
        return f"{self.what} {self.name}{of}"

    def _function(self, name: str, *, needed: bool = True) -> None:
        value = getattr(self, name)
        if not (isinstance(value, str) or callable(value) or (value is None and not needed)):
            raise JaxstyleError(f"{self.what} {self.name}", f"{name} is {value!r}, not a function")

    @classmethod
    def recorded(cls) -> tuple[str, ...]:
        """Names of the fields that are written into a run's manifest: not functions, nor internal ones."""
        fields = (f.name for f in dataclasses.fields(cls))
        return tuple(name for name in fields if name not in (*cls.functions, "origin", *cls.internal))

    def record(self) -> dict[str, Any]:
        """Its entry in a run's manifest."""
        given = {name: getattr(self, name) for name in self.recorded()}
        return {name: value for name, value in given.items() if value or name not in self.optional}


Row = TypeVar("Row", bound=NamedRow)


class Table(Generic[Row]):
    """Rows by name: those of jaxstyle, followed by those of plugins."""

    def __init__(self, kind: type[Row], rows: Iterable[Row]):
        self.kind = kind
        self._rows: dict[str, Row] = {row.name: row for row in rows}
        self.turns = collections.Counter[str]()
        """Number of times that a row of each name was registered: what it reads may have changed since."""
        self._built_in = frozenset(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(tuple(self._rows.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __getitem__(self, name: str) -> Row:
        return self._rows[name]

    def get(self, name: str) -> Row | None:
        """The row of a name; None if there is none."""
        return self._rows.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rows, in order."""
        return tuple(self._rows)

    @property
    def added(self) -> tuple[Row, ...]:
        """The rows of plugins."""
        return tuple(row for row in self if row.name not in self._built_in)

    def check(self, row: Row) -> None:
        """Raise JaxstyleError if jaxstyle itself has a row of this name."""
        if row.name in self._built_in:
            raise JaxstyleError(f"{row.what} {row.name}", "is jaxstyle's own; give another name")

    def add(self, row: Row) -> None:
        """Append a row, or replace the plugin's row of the same name; see `check`."""
        self.check(row)
        self._rows[row.name] = row

    def reset(self, rows: Mapping[str, Row]) -> None:
        """Restore the rows that `copy` returned."""
        self._rows = dict(rows)

    def copy(self) -> dict[str, Row]:
        """A copy of its rows by name, for `reset`."""
        return dict(self._rows)
