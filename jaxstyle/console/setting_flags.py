"""The command-line arguments that a command takes from the rows of settings, with their help."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
from collections.abc import Iterable
from typing import Annotated, Any, get_type_hints

import tyro

from jaxstyle.spec import tables
from jaxstyle.spec.defaults import PAPER
from jaxstyle.spec.settings import AXIS_ROWS, OPTIONS, ROWS, SETTINGS, SEVERAL, RunOptions, Sweep, added
from jaxstyle.spec.values import as_values


def with_settings(command: str, base: type, options: Iterable[str] = ()) -> type:
    """A dataclass of a command's arguments: those of `base`, followed by the settings that the command has.

    An axis takes one value there, and so do the steps and options that may have several.

    Args:
        command: name of the command.
        base: a dataclass; its own fields stay as they are.
        options: names of options that the command also has.
    """
    own = {f.name for f in dataclasses.fields(base)}
    fields = []
    for of, names in ((Sweep, _of_command(command)), (RunOptions, tuple(options))):
        hints: dict[str, Any] = get_type_hints(of)
        defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(of)}
        for name in names:
            if name in own:
                continue
            kind, default = hints[name], defaults[name]
            if kind == bool | None:
                kind, default = bool, False
            if isinstance(default, tuple) and name in OPTIONS:
                kind, default = str | None, None
            elif name in SEVERAL:
                kind = AXIS_ROWS[name].single if name in AXIS_ROWS else int
                default = default[0] if default else None
                if kind is bool:
                    default = False
                elif default is None:
                    kind = kind | None
                elif kind is str:
                    default = str(default)
            row = ROWS.get(name) or OPTIONS[name]
            text = row.single_help or helps()[name]
            text = _with_papers_default(name, text) if command in NAMES_RATIO else text
            marks = (tyro.conf.FlagCreatePairsOff,) if name.startswith("no_") else ()
            fields.append((name, Annotated[kind, _argument(text), *marks], default))
    optimises = command in SETTINGS["optimizer"].commands
    for name, (default, text) in _added_flags().items() if optimises else ():
        one = default[0] if isinstance(default, tuple) else default
        fields.append((name, Annotated[type(one), tyro.conf.arg(help=text)], one))
    made = dataclasses.make_dataclass(base.__name__, fields, bases=(base,), frozen=True)
    made.__doc__ = base.__doc__
    return made


def with_added() -> type[Sweep]:
    """`Sweep` for flags, with fields also for the axes and settings that are not fields."""
    return _with_fields(tuple(_added_flags().items()))


@functools.cache
def _with_fields(added_flags: tuple[tuple[str, tuple[Any, str]], ...]) -> type[Sweep]:
    """`Sweep` for flags; one class for the same fields, because its hints take long to resolve."""
    hints, plain = get_type_hints(Sweep, include_extras=True), get_type_hints(Sweep)
    fields: list[tuple[str, Any, Any]] = []
    for f in dataclasses.fields(Sweep):
        if f.name in ROWS and NAMES_DEFAULT in (text := helps()[f.name]):
            axis = AXIS_ROWS.get(f.name)
            switch = plain[f.name] == bool | None or (axis is not None and axis.single is bool)
            kind, default = (bool, False) if switch else (hints[f.name], f.default)
            fields.append((f.name, Annotated[kind, _argument(text)], default))
    for name, (default, about) in added_flags:
        kind = tuple[float, ...] if isinstance(default, tuple) else type(default)
        fields.append((name, Annotated[kind, _argument(about)], default))
    return dataclasses.make_dataclass(Sweep.__name__, fields, bases=(Sweep,), frozen=True)


NAMES_DEFAULT = "(default: "
"""Beginning of the words with which a help text names its default itself."""


NAMES_RATIO = ("calibrate", "features")
"""Commands that name a ratio themselves, so that settings of the look have the paper's values there."""


def _with_papers_default(name: str, text: str) -> str:
    """A help text of a setting of the look with its default where another one of them is named."""
    about, says, _ = text.partition(f" {NAMES_DEFAULT}")
    return f"{about} {NAMES_DEFAULT}{as_values(PAPER[name])[0]})." if says and name in PAPER else text


def _argument(text: str) -> Any:
    """The mark of a flag with a help text, without tyro's words on the default if the text has its own."""
    return tyro.conf.arg(help=text, help_behavior_hint="" if NAMES_DEFAULT in text else None)


@functools.cache
def helps() -> dict[str, str]:
    """The help of every axis, setting and option: the text under its field."""
    found = {}
    for of in (Sweep, RunOptions):
        (kind,) = ast.parse(inspect.getsource(of)).body
        assert isinstance(kind, ast.ClassDef)
        for line, after in zip(kind.body, kind.body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and isinstance(after, ast.Expr):
                text = ast.literal_eval(after.value)
                found[ast.unparse(line.target)] = " ".join(text.split())
    return found


def _of_command(command: str) -> tuple[str, ...]:
    """Names of the axes and settings that a command has, in the order of `Sweep`."""
    return tuple(name for name, row in ROWS.items() if command in row.commands)


def _added_flags() -> dict[str, tuple[Any, str]]:
    """Default and help, by name, of the axes and settings that are not fields."""
    about = {row.weight: row.help or f"Weight of the {row.words}." for row in tables.optional_terms()}
    for row in tables.OPTIMIZERS:
        about |= dict.fromkeys(row.own, row.help or f"A setting of {row.words}.")
    return {name: (default, about[name]) for name, default in added().items()}
