"""Words of XLA's compiled programs, as texts, that the readers for GPUs and TPUs have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

ITEM_BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "u16": 2}
"""Bytes of an element; other types have 1."""
COLLECTIVE = r" (?:all-\w+|collective-\w+|reduce-scatter)(?:-start)?\("
SILENT = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}
"""Operations that compute nothing."""
INSTRUCTION = re.compile(r"(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(, .*)?$")
"""An instruction: its name, the shapes of its result, its operation, its arguments and the rest."""


def computations(hlo: str) -> dict[str, list[str]]:
    """The lines of every computation of a program, by its name."""
    found: dict[str, list[str]] = {}
    inside: list[str] = []
    for line in hlo.splitlines():
        if begins := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
            inside = found.setdefault(begins[1], [])
        elif " = " in line:
            inside.append(line.strip())
    return found


def instructions(lines: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """The five parts of every instruction in lines, empty where missing, and the line (`INSTRUCTION`)."""
    for line in lines:
        if found := INSTRUCTION.match(line):
            yield (*(part or "" for part in found.groups()), line)
