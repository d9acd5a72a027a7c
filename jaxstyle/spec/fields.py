"""The kinds of fields that `settings` has, an `Axis` or a `Setting`, with their limits and checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from jaxstyle.spec import tables
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.paths import taken_from
from jaxstyle.spec.values import as_choice, as_integer, as_number, as_text

MAX_STEPS = 10_000_000
MAX_PYRAMID = 8
MAX_CELLS = 10**7
MAX_CROPS = 10_000
MAX_LBFGS_MEMORY = 200
MIN_CHECKPOINT_S = 0.1
MAX_DEVICES = 2**20
NETWORKS = ("raw", "normalised")
"""The scalings of the network's weights."""

PRECISE = ("png16", "npy", "tiff")
"""The formats of pictures that are not rounded to 8 bits."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A quantity that a grid may vary: a field of `Sweep` with several values, and of `Cell` with one."""

    parse: Callable[[str, Any, int], list[Any]]
    """Function of the axis' name, a given value and the most values allowed: the checked values."""
    title: str = ""
    """Name for people; the field's name if not given."""
    short: str | None = None
    """Label before a value where there is little room, possibly empty; the title if not given."""
    plural: str = ""
    """Name for several of its values; the title and `s` if not given."""
    path: bool = False
    """Whether its values are paths of images, except for `values.WORDS` and `blends`."""
    thumbnail: bool = False
    """Whether rows and columns of the page show its values as pictures."""
    same: Callable[[Any], Any] = lambda value: value
    """Function of a value; two values for which it returns the same count as equal."""
    balance: bool = False
    """Whether a balance depends on it."""
    later: bool = False
    """Whether runs that may be resumed are older than it. It then has one default value, and as long as no
    cell has another one, it is in no fingerprint and no table."""
    was_setting: bool = False
    """Whether it was a setting before, with one value for all cells of a run. As long as it has one, specs
    and fingerprints hold it as a setting, and tables leave it out."""
    unsaid: Any = None
    """The value at which fingerprints leave it out, if it was a setting before and `later` as such."""
    single: type = str
    """Type of its flag in commands that take one value."""
    single_help: str = ""
    """Its help in commands that take one value, if different."""
    commands: tuple[str, ...] = ("sweep",)
    """Commands that have it; all but `sweep` take one value."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting with one value for all cells of a run."""

    check: Callable[[str, Any], Any] | None = None
    """Function of its name and a value that returns the checked value; None if checked with others."""
    numbers: bool = True
    """Whether the numbers of a cell depend on it; if so, fingerprints contain it."""
    same: bool = True
    """Whether it must keep its value when a run is resumed."""
    later: bool = False
    """Whether runs that may be resumed are older than it: at its default it is in no fingerprint."""
    balance: bool = False
    """Whether a balance depends on it."""
    single_help: str = ""
    """Its help for a single picture, if different."""
    alone: str = ""
    """Reason why it means nothing for a single picture, if so."""
    commands: tuple[str, ...] = ("sweep", "transfer")
    """Commands that have it."""


def one_of(*allowed: str) -> Callable[[str, Any], str]:
    """The check of a setting that is one of a few words."""
    return lambda what, value: as_choice(what, value, allowed)


def integer_in(minimum: int, maximum: int) -> Callable[[str, Any], int]:
    """The check of an integer within two bounds."""
    return lambda what, value: as_integer(what, value, minimum=minimum, maximum=maximum)


def number_from(minimum: float, *, above: bool = False) -> Callable[[str, Any], float]:
    """The check of a number of at least `minimum`, or with `above` of more."""
    return lambda what, value: as_number(what, value, minimum=minimum, above=above)


def each(parse: Callable[[str, Any], Any]) -> Callable[[str, Any, int], list[Any]]:
    """A parser of an axis from a parser of one of its values."""
    return lambda axis, value, most: [parse(axis, value)]


def as_steps(what: str, given: Sequence[Any]) -> tuple[int, ...]:
    """Numbers of steps, ascending. Raises JaxstyleError for none, and for one that is repeated."""
    steps = tuple(as_integer(what, n, minimum=1, maximum=MAX_STEPS) for n in given)
    if not steps:
        raise JaxstyleError(what, "no value; give at least one")
    if len(set(steps)) != len(steps):
        raise JaxstyleError(what, f"{list(steps)} repeats a value; give each once")
    return tuple(sorted(steps))


def as_files(what: str, given: Any) -> tuple[str, ...]:
    """Absolute paths of one or several files."""
    several = given if isinstance(given, list | tuple) else (given,)
    return tuple(as_path(what, path) for path in several)


def as_path(what: str, given: Any) -> str:
    """The absolute path of a file."""
    return taken_from("", as_text(what, given))


def as_share(what: str, given: Any) -> float:
    """A number above 0 and below 1."""
    share = as_number(what, given, minimum=0.0, above=True)
    if share >= 1:
        raise JaxstyleError(what, f"{share} must be below 1")
    return share


def row_of(table: tables.Table[Any]) -> Callable[[str, Any], str]:
    """The check of a setting that is the name of a row of a table."""
    return lambda what, value: as_choice(what, value, table.names)


CELLS, DIRECTORY = "is for several cells", "is for run directories"
WRITTEN = Setting(numbers=False, same=False, commands=(), alone=DIRECTORY)
"""The row of a field that is in specs but has no flag."""


def rows_of(of: type) -> dict[str, Any]:
    """The `Axis` or `Setting` in the annotation of each field of a dataclass, by the field's name."""
    hints = get_type_hints(of, include_extras=True)
    marks = {f.name: getattr(hints[f.name], "__metadata__", ()) for f in dataclasses.fields(of)}
    return {name: mark for name, own in marks.items() for mark in own if isinstance(mark, Axis | Setting)}
