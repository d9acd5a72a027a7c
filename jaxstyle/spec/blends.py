"""Blends: values of the axis of styles that name several files, each with its weight.

A user writes `a.jpg+b.jpg`, `a.jpg:0.7+b.jpg:0.3` or, in TOML and Python, a table of weights by path. A
text that is a file's name is that file. A checked blend is a text again, which is told from a path by its
beginning, `blend:/styles/a.jpg:0.7+/styles/b.jpg:0.3`; `+`, `:` and `%` in its paths stand as in an
address. Its weights sum to 1, and none is 0.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.paths import taken_from
from jaxstyle.spec.values import (
    BLEND,
    NONE,
    WORDS,
    as_file,
    as_number,
    as_text,
    is_path,
    plain_value,
    shown,
)

AXIS = "style"
"""The axis that has blends."""
MAX_PARTS = 100
TARGET_SUFFIX = ".npz"
"""End of the name of a file of targets, which stands wherever a style image may."""
_ESCAPES = (("%", "%25"), ("+", "%2B"), (":", "%3A"))
_ROUNDING = 1e-9
"""The difference of a sum from 1 up to which weights are kept as they are."""


def is_blend(value: Any) -> bool:
    """Whether a checked value of an axis of paths names several files."""
    return isinstance(value, str) and value.startswith(BLEND)


def parts_of(value: str) -> tuple[tuple[str, float], ...]:
    """The files that a checked value names, each with its weight; none for a word."""
    if not is_blend(value):
        return ((value, 1.0),) if is_path(value) else ()
    found = []
    for part in value.removeprefix(BLEND).split("+"):
        path, _, weight = part.partition(":")
        for sign, escape in reversed(_ESCAPES):
            path = path.replace(escape, sign)
        found.append((path, float(weight)))
    return tuple(found)


def files_of(value: str) -> tuple[str, ...]:
    """The files that a checked value of an axis of paths names; none for a word."""
    return tuple(path for path, _ in parts_of(value))


def is_targets(path: str) -> bool:
    """Whether a style is a file of targets, and no image."""
    return path.lower().endswith(TARGET_SUFFIX)


def is_image(value: str) -> bool:
    """Whether a checked style is one image."""
    return is_path(value) and not is_targets(value)


def blended(what: str, parts: Iterable[tuple[str, float]]) -> str:
    """The checked form of files with weights; of those, a single one that is not 0 is the file itself.

    Raises:
        JaxstyleError: for a file that is there twice, and if all weights are 0.
    """
    parts = tuple(parts)
    for path in {path for path, _ in parts}:
        if sum(path == other for other, _ in parts) > 1:
            raise JaxstyleError(what, f"a blend names {path} twice; name each file once")
    total = math.fsum(weight for _, weight in parts)
    if not total > 0:
        raise JaxstyleError(what, f"the weights of {_joined(parts)} are all 0; give one that is not")
    scale = 1.0 if abs(total - 1.0) <= _ROUNDING else total
    own = [(path, weight / scale) for path, weight in parts if weight / scale > 0]
    if len(own) == 1:
        return own[0][0]
    escaped = []
    for path, weight in own:
        for sign, escape in _ESCAPES:
            path = path.replace(sign, escape)
        escaped.append((path, weight))
    return BLEND + _joined(escaped)


def _joined(parts: Iterable[tuple[str, float]]) -> str:
    return "+".join(f"{path}:{weight!r}" for path, weight in parts)


def taken(axis: str, value: Any, base: Path | str, known: Collection[str] = ()) -> Any:
    """The absolute path or the blend that a given value means in the folder `base`; a word as it is.

    Args:
        axis: the axis of paths that has the value.
        value: as a user gives it; what is neither a text nor a table is not changed.
        base: the folder that relative paths start from.
        known: absolute paths that are known to be files.

    Raises:
        JaxstyleError: for a blend that is wrong.
    """
    if (parts := _given_parts(axis, value, base, known)) is not None:
        return blended(axis, ((taken_from(base, name), weight) for name, weight in parts))
    if not isinstance(value, str) or not value or value in WORDS.get(axis, ()) or is_blend(value):
        return value
    return taken_from(base, value)


def written_files(
    axis: str, value: Any, base: Path | str = "", known: Collection[str] = ()
) -> dict[str, str]:
    """The files that a given value names, in its order, with those of weight 0; see `taken`.

    Returns:
        The texts that name them, by absolute path.
    """
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if (parts := _given_parts(axis, value, base, known)) is not None:
        return {taken_from(base, name): name for name, _ in parts}
    found = taken(axis, value, base, known) if isinstance(value, str) else ""
    return {path: path if is_blend(value) else value for path in files_of(found)}


def _given_parts(
    axis: str, value: Any, base: Path | str, known: Collection[str]
) -> list[tuple[str, float]] | None:
    """The names of files and the weights of a blend as it is given; None for any other value."""
    if axis == AXIS and isinstance(value, Mapping):
        return _of_table(axis, value)
    if axis != AXIS or not isinstance(value, str) or value in ("", *WORDS[AXIS]) or is_blend(value):
        return None
    return _of_text(axis, value, base, known)


def _of_table(what: str, table: Mapping[Any, Any]) -> list[tuple[str, float]]:
    if not table:
        raise JaxstyleError(what, 'a blend without files; write {"a.jpg" = 0.7, "b.jpg" = 0.3}')
    found = []
    for name, weight in table.items():
        path = _checked(what, as_text(what, name), f"a table of {len(table)}")
        found.append((path, _weight(what, path, plain_value(weight))))
    return found


def _of_text(
    what: str, text: str, base: Path | str, known: Collection[str]
) -> list[tuple[str, float]] | None:
    """The names and weights in a text; None if it names a single file."""

    def is_file(name: str) -> bool:
        path = taken_from(base, name)
        return path in known or os.path.exists(path)

    if not {"+", ":"} & {*text} or "\0" in text or is_file(text):
        return None
    pieces = text.split("+")
    if len(pieces) > MAX_PARTS:
        raise JaxstyleError(what, f"{shown(text)} has over {MAX_PARTS} parts; average them first")
    found: list[tuple[str, str]] = []
    begin = 0
    while begin < len(pieces):
        end = len(pieces)  # names may have a + themselves: the longest that is a file's name is taken
        name, weight = _split("+".join(pieces[begin:end]).strip(), is_file)
        while end > begin + 1 and not is_file(name):
            end -= 1
            name, weight = _split("+".join(pieces[begin:end]).strip(), is_file)
        found.append((name, weight))
        begin = end
    if len(found) == 1 and not (found[0][1] and is_file(found[0][0])):
        return None
    if len({not weight for _, weight in found}) > 1:
        raise JaxstyleError(what, f"{text!r}: give every file of a blend a weight, or none")
    return [(_checked(what, name, text), _weight(what, name, weight or 1.0)) for name, weight in found]


def _split(part: str, is_file: Callable[[str], bool]) -> tuple[str, str]:
    """The name and the weight in `a.jpg:0.7`; the weight is empty if there is none."""
    name, colon, weight = part.rpartition(":")
    if is_file(part) or not colon:
        return part, ""
    try:
        float(weight)
    except ValueError:
        return part, ""
    return name, weight


def _checked(what: str, name: str, text: str) -> str:
    if not name or name in WORDS[AXIS]:
        named = f"{name} is" if name == NONE else "an empty name is"
        raise JaxstyleError(what, f"{named} no part of a blend, as in {shown(text)}; name a file")
    return name


def _weight(what: str, name: str, value: Any) -> float:
    return as_number(f"{what}: weight of {name}", value, minimum=0.0)


def as_style(axis: str, value: Any) -> str:
    """The checked form of a style: the absolute path of a file, a blend, or the word for none."""
    if isinstance(value, str) and value:
        as_text(axis, value)
    value = taken(axis, value, "")
    if not is_blend(value):
        return as_file(axis, value)
    for path in files_of(value):
        as_text(axis, path)
    return value


def same(value: str) -> Any:
    """The key by which two checked styles are equal: the order of files in a blend does not matter."""
    return tuple(sorted(parts_of(value))) if is_blend(value) else value


def text_of(value: Any) -> str:
    """A given value as a text: a blend from a table, or in its checked form, as one would write it."""
    if isinstance(value, Mapping):
        return "+".join(f"{name}:{weight}" for name, weight in value.items())
    return _joined(parts_of(value)) if is_blend(value) else os.fspath(value)


def renamed(value: Any, name: Callable[[str], str]) -> Any:
    """A checked value of an axis of paths with a function applied to each of its paths."""
    if not is_blend(value):
        return name(value)
    parts: dict[str, float] = {}
    for path, weight in parts_of(value):  # copies of one file may have become one
        parts[name(path)] = parts.get(name(path), 0.0) + weight
    return blended(AXIS, parts.items())


def short_text(value: str) -> str:
    """A checked path or blend in short: `a`, or `a:0.7+b:0.3`, without weights where they are equal."""
    parts = parts_of(value)
    if len(parts) == 1:
        return PurePath(value).stem
    equal = max(w for _, w in parts) - min(w for _, w in parts) <= _ROUNDING
    return "+".join(PurePath(path).stem + ("" if equal else f":{weight:.3g}") for path, weight in parts)


def short_given(value: str, text: str) -> str:
    """As `short_text`, with the names that the user gave the files, in the text that stands for a value."""
    if not is_blend(value):
        name = PurePath(value).name
        return PurePath(name if {"+", ":"} & {*text} and name in text else text).stem
    found = []
    for part in text.split("+"):
        name, weight = _split(part.strip(), lambda _: False)
        found.append(PurePath(name).stem + (f":{weight}" if weight else ""))
    return "+".join(found)
