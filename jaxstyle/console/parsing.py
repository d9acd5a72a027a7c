"""Command lines, parsed by tyro, with errors of one line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_type_hints

import tyro

from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.retired import RETIRED
from jaxstyle.spec.unknown_names import unknown_key

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
    switches = _flags(command, switches=True)
    arguments = _without_retired(arguments)
    named, off, known = [], [], list(arguments)
    for place, given in enumerate(arguments):
        argument = SHORT.get(given, given)
        if argument == "--help" or not re.match(r"--[A-Za-z]", argument):
            continue
        name = argument[2:].partition("=")[0].replace("-", "_")
        if name not in flags and (switch := f"no_{name}") in switches and "=" not in argument:
            name, known[place] = switch, "--" + switch.replace("_", "-")  # such as --lock, for --no-lock
            off.append(name)
        if name.startswith("tyro_"):
            continue
        if name not in flags and (switch := name.removeprefix("no_")) in switches:
            name = switch
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
                args=known,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        line = _first_line(box.getvalue())
        if "nrecognized" in line:
            # Flags with one dash, such as -content_image, come from other projects.
            words = re.split(r"[\s,;]+", line)
            if alien := next(
                (a for a in arguments if re.fullmatch(r"-[A-Za-z][\w-]*", a) and a in words), None
            ):
                key = alien[1:].replace("-", "_")
                if key in flags and key not in positional:
                    raise JaxstyleError(alien, f"no such setting; did you mean -{alien}?") from None
                raise unknown_key(key, flags, what=alien, positional=positional) from None
            # The words are named after a colon, up to the hint at the help.
            named_words = line.partition(": ")[2].partition(";")[0].replace(",", " ").split()
            bare = not any(word.startswith("-") for word in named_words)
            if bare and "content" in flags and "content" not in positional:
                line += "; images follow --content and --style"
        raise JaxstyleError("command line", line) from None
    return Parsed(_without(value, off), tuple(named))


def _without_retired(arguments: Sequence[str]) -> list[str]:
    """Arguments without the flags of settings that are gone, where they have what was the default."""
    kept, given = list[str](), list(arguments)
    while given:
        name, equals, value = given.pop(0).partition("=")
        argument = name + equals + value
        retired = RETIRED.get(name[2:].replace("-", "_")) if name.startswith("--") else None
        if retired is not None and (value if equals else "".join(given[:1])) == str(retired.default):
            del given[: 0 if equals else 1]
            continue
        kept.append(argument)
    return kept


def _without(value: Any, off: Sequence[str]) -> Any:
    """A command's dataclass in which the switches named in `off` are off."""
    changed = {
        f.name: False if f.name in off else _without(getattr(value, f.name), off)
        for f in dataclasses.fields(value)
        if f.name in off or dataclasses.is_dataclass(getattr(value, f.name))
    }
    return dataclasses.replace(value, **changed) if off else value


@functools.lru_cache(maxsize=64)  # Resolving the hints of a command takes 10 ms.
def _flags(command: type, only: Any = None, *, switches: bool = False) -> tuple[str, ...]:
    """Names of the flags of `command` and of its nested dataclasses.

    Args:
        only: a mark that they must have, if any.
        switches: whether to leave out those that take a value.
    """
    names: list[str] = []
    hints, kinds = get_type_hints(command, include_extras=True), get_type_hints(command)
    for f in dataclasses.fields(command):
        inner = hints[f.name]
        if dataclasses.is_dataclass(inner):
            names += _flags(inner, only, switches=switches)  # pyright: ignore[reportArgumentType]
            continue
        marks = (None, *getattr(inner, "__metadata__", ()))
        if only in marks and tyro.conf.Suppress not in marks and (kinds[f.name] is bool or not switches):
            names.append(f.name)
    return tuple(names)


def flag_names(command: type) -> list[str]:
    """All flags of a command as they are typed, such as `--no-clamp`; what is positional has none."""
    switches, positional = _flags(command, switches=True), _flags(command, tyro.conf.Positional)
    names = [name for name in _flags(command) if name not in positional]
    both = [*names, *(name[3:] if name.startswith("no_") else f"no_{name}" for name in switches)]
    return ["--" + name.replace("_", "-") for name in both]


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
