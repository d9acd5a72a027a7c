"""The tiles of a page or a sheet: a picture each, and the words for its place in the grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxstyle.console.progress import counted
from jaxstyle.derived import sample
from jaxstyle.derived.sample import Shown
from jaxstyle.derived.thumbnails import MAX_TILES
from jaxstyle.rundir.records import Record
from jaxstyle.spec import settings
from jaxstyle.spec.blends import files_of, short_text
from jaxstyle.spec.settings import PATH_AXES, Sweep
from jaxstyle.spec.tables import NETWORK_AXES, network_words
from jaxstyle.spec.values import NONE


@dataclass(frozen=True)
class Tile:
    """One picture of a run and its place in the grid."""

    cell: int
    snapshot: int
    """The index of its step among the snapshots."""
    place: dict[str, str]
    """The text of its value on every axis that has several."""


def short_name(axis: str, value: Any) -> str:
    """A value of an axis in short: the stem of a path, a number in its shortest form."""
    if axis in PATH_AXES:
        return short_text(value) if files_of(value) else f"no {axis}" if value == NONE else value
    return f"{value:g}" if isinstance(value, float) else str(value)


def axis_names(record: Record, axis: str) -> dict[Any, str]:
    """A text for every value of an axis: the shortest kind of which no two coincide.

    Files can have been given by one name in two folders, where a run was extended.
    """
    values = record.values[axis]
    names = {value: short_name(axis, value) for value in values}
    if len(set(names.values())) < len(names):
        names = {v: record.given(axis, v) if isinstance(v, str) else repr(v) for v in values}
    if len(set(names.values())) < len(names):
        names = {v: str(v) for v in values}
    return names


def shown_part(record: Record, present: Iterable[int]) -> Shown:
    """The selection of the cells in `present` that the page and the sheets show."""
    return sample.shown(record, present, MAX_TILES)


def part_text(part: Shown) -> str:
    """The part of a run that is shown, in words."""
    thinned = sorted(part.counts, key=lambda count: count.shown == count.total)
    counts = [
        (f"{c.shown:,} of " if c.shown < c.total else "all ") + f"{c.total:,} {count_noun(c.axes)}"
        for c in thinned
    ]
    return f"{pictures_text(part)}, evenly spread: {', '.join(counts)}"


def pictures_text(part: Shown) -> str:
    """The number of pictures shown, out of how many."""
    pictures = len(part.cells) * len(part.snapshots)
    return f"{pictures:,} of {pictures + part.left_out:,} pictures"


def place_tiles(
    record: Record, present: Iterable[int], snapshots: Sequence[int] | None = None
) -> list[Tile]:
    """The pictures of the cells in `present`, each with its values on the axes that vary.

    Args:
        snapshots: the indices of the snapshots to take; all if None.
    """
    names = {axis: axis_names(record, axis) for axis in record.axes}
    varying = [axis for axis in record.axes if len(names[axis]) > 1]
    steps = record.sweep.steps
    found = []
    for number in sorted(present):
        cell = record.cells[number]
        place = {axis: names[axis][cell.label(axis)] for axis in varying}
        for index in range(len(steps)) if snapshots is None else snapshots:
            at = {"steps": str(steps[index])} if len(steps) > 1 else {}
            found.append(Tile(number, index, place | at))
    return found


def group_axes(tiles: Sequence[Tile]) -> list[tuple[str, ...]]:
    """The axes of `tiles`, slowest first; axes that always change together (zipped ones) are one group."""
    groups: list[tuple[str, ...]] = []
    for axis in tiles[0].place:
        for i, group in enumerate(groups):
            pairs = {(tile.place[group[0]], tile.place[axis]) for tile in tiles}
            if len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}):
                groups[i] = (*group, axis)
                break
        else:
            groups.append((axis,))
    return groups


def place_text(place: Mapping[str, str], axes: Iterable[str]) -> str:
    """The values of a `place` on some axes, one per line: names alone, numbers after what they count."""
    parts = []
    for axis in axes:
        text = place[axis].replace("+", " +\n") if axis == "style_layers" else place[axis]
        parts.append(f"{settings.short(axis)} {text}".lstrip())
    return "\n".join(parts)


def shared_words(record: Record) -> list[str]:
    """The settings that all cells of a run have in common, in a few words each."""
    sweep = record.sweep
    words = []
    for axis in record.axes:
        names = list(axis_names(record, axis).values())
        if len(names) == 1:
            words.append(place_text({axis: names[0]}, [axis]).replace(" +\n", "+"))
    if len(sweep.steps) == 1:
        words.append(f"{sweep.steps[0]} steps")
    coarser = max((program.coarser for program in record.plan.programs), default=0)
    words.append(sweep.optimizer + (f", {counted(coarser, 'coarser stage')}" if coarser else ""))
    words += [sweep.colour] if sweep.colour != Sweep.colour else []
    kinds = {name: {getattr(cell, name) for cell in record.cells} for name in NETWORK_AXES}
    common = {name: own.pop() if len(own) == 1 else None for name, own in kinds.items()}
    return [*words, *([told] if (told := network_words(**common)) else [])]


def count_noun(axes: Iterable[str]) -> str:
    """The noun by which values of axes that vary together are counted."""
    return " with ".join(map(settings.plural, axes))
