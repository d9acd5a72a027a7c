"""Resuming a run: what must be unchanged, and which of its chunks are whole.

Every chunk and checkpoint carries a fingerprint of everything that decides its bytes, so that nothing of
another run, or of other settings, is taken for this one's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxstyle.console.progress import Display
from jaxstyle.inputs import weights
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.chunks import Plan
from jaxstyle.plan.masks import Masks, masks_of, with_masks
from jaxstyle.plan.programs import Program
from jaxstyle.rundir import chunks, directory, locks
from jaxstyle.rundir.chunks import ChunkResult
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.files import set_aside
from jaxstyle.rundir.fingerprints import SCHEMA, Sources, fingerprint, narrowed_to
from jaxstyle.rundir.records import Record, no_plan_error, open_record
from jaxstyle.spec import paths, settings
from jaxstyle.spec.blends import files_of, is_blend, text_of
from jaxstyle.spec.defaults import PAPER
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.folders import FOLDER_AXES, is_in, without
from jaxstyle.spec.moved_files import renamed
from jaxstyle.spec.regions import as_colour
from jaxstyle.spec.resolve import differing_settings, grids_of
from jaxstyle.spec.settings import Sweep


def find(
    path: Path, *, beside: bool = False, no_lock: bool = False, among: Iterable[str] = ()
) -> Record | None:
    """The run at `path` as far as it has come; None if none has been planned there yet.

    Args:
        path: its directory.
        beside: whether other processes may be at work in it.
        no_lock: do not check whether another process is at work in it.
        among: see `records.open_record`.

    Raises:
        DirectoryInUse: if another process is at work in it, unless `beside`.
        JaxstyleError: if the directory holds no run, or one of another version.
    """
    if not path.is_dir() or directory.is_unbegun(path):
        return None
    if beside and not (path / "manifest.json").is_file():  # the planning process may be writing its files
        return None
    if not beside:
        locks.check_not_held(path, no_lock=no_lock)
    record = open_record(path, among=among)
    manifest = record.manifest
    tables = (manifest.get(key) for key in ("weights", "device", "versions", "plan", "given"))
    whole = isinstance(manifest.get("programs"), list) and all(isinstance(t, dict) for t in tables)
    if manifest.get("schema") != SCHEMA or not whole:
        raise no_plan_error(record.path, f"its schema is not {SCHEMA}, or it is not whole")
    return record


def continued_sweep(earlier: Record, sweep: Sweep, *, extend: bool) -> Sweep:
    """The sweep of a run that is continued: its own, followed with `extend` by the cells of `sweep`.

    A file of `sweep` counts as the run's own if it has the same bytes, whatever path or link names it. A
    folder stands, without `extend`, for those images in it that the run has, whatever is there now.

    Raises:
        JaxstyleError: if `sweep` differs from the run in a setting that must agree.
    """
    given = earlier.texts
    sweep = sweep if extend else _of_its_folders(earlier, sweep)
    own, what = replace(earlier.sweep, given=given), str(earlier.path)
    sweep = renamed(sweep, _own_names(earlier, sweep))
    if sweep.weights != own.weights:
        here = sweep.weights or str(weights.packaged_path())
        if paths.sha256(here) == earlier.sources.weights:
            sweep = replace(sweep, weights=own.weights)
    if sweep.balance_optional:  # it names nothing of the look, whose defaults were others once
        first = grids_of(own)[0]
        sweep = replace(sweep, **{name: first.get(name, getattr(own, name)) for name in PAPER})
    sweep = replace(sweep, balance=(*own.balance, *sweep.balance))
    if own.plugins != sweep.plugins:
        raise JaxstyleError(what, _other_plugins(own, sweep))
    masks = _masks_of_both(own, sweep, what) if extend else {}
    if extend:  # compared above, image by image
        unused = () if masks_of(sweep) else ("leave", "hold")
        sweep = replace(sweep, **{key: getattr(own, key) for key in (*settings.MASK_KEYS, *unused)})
    differences = differing_settings(own, sweep)
    for image in sorted(own.digests.keys() & sweep.digests.keys()):
        if own.digests[image] != sweep.digests[image]:
            differences.append(f"{image} has another digest there")
    digests = {**sweep.digests, **own.digests}
    if not extend and (cells := sweep_cells(sweep)) != earlier.cells:
        for axis in settings.axes_with({*own.axes, *sweep.axes}):
            had, has = (list(dict.fromkeys(c.label(axis) for c in of)) for of in (earlier.cells, cells))
            if had != has:
                differences.append(f"{axis} is {_listed(had)} there and {_listed(has)} here")
        differences = differences or ["its cells are in another order there"]
    if differences:
        raise JaxstyleError(what, f"{'; '.join(differences)}; give that run's settings, or none")
    if not extend:
        return replace(own, digests=digests)
    axes = {*own.axes, *sweep.axes}
    grids = list(grids_of(own, axes))
    for table in grids_of(sweep, axes):
        if table not in grids:
            grids.append(table)
    found = replace(
        own,
        grid=tuple(grids),
        digests=digests,
        given={**sweep.given, **given},
        max_cells=sweep.max_cells,
    )
    found = with_masks(found, masks)
    assert sweep_cells(found)[: len(earlier.cells)] == earlier.cells
    return found


def _masks_of_both(own: Sweep, sweep: Sweep, what: str) -> Masks:
    """The masks of a run and of what extends it. Raises JaxstyleError for an image with two."""
    had, has = masks_of(own), masks_of(sweep)
    for image in had.keys() & has.keys():
        if had[image] != has[image] and not _alike(had[image], has[image]):
            why = f"the mask of {image[1]} is {had[image]} there and {has[image]} here"
            raise JaxstyleError(what, f"{why}; leave it out, or start a new run")
    return {**has, **had}


def _alike(mask: str, other: str) -> bool:
    """Whether two masks are files of the same bytes."""
    digest = None if as_colour(mask) else paths.sha256(mask)
    return digest is not None and digest == paths.sha256(other)


def new_in_folders(earlier: Record, sweep: Sweep) -> list[str]:
    """The images in the folders of `sweep` that a run neither has nor has left out."""
    had = {*earlier.sources.images.values()}
    found = {
        path
        for axis, folders in sweep.folders.items()
        for path in _named(sweep, axis)
        if is_in(path, folders) and path not in earlier.sources.images and path not in earlier.skipped
    }
    return sorted(path for path in found if paths.sha256(path) not in had)


def _of_its_folders(earlier: Record, sweep: Sweep) -> Sweep:
    """`sweep` with the run's own images for each folder, in the run's order, less those it left out."""
    every = {path for axis in FOLDER_AXES for path in _named(sweep, axis)}
    if gone := {path: why for path, why in earlier.skipped.items() if path in every}:
        sweep = with_masks(without(sweep, gone), masks_of(sweep))

    def axis_of(table: Mapping[str, Any], axis: str) -> Sequence[str]:
        folders, given = sweep.folders.get(axis, ()), table[axis]
        if axis in table.get("zip", ()) or not any(is_in(path, folders) for path in given):
            return given
        every = dict.fromkeys(value for grid in grids_of(earlier.sweep) for value in grid[axis])
        own = [value for value in every if value in given or is_in(value, folders)]
        more = [p for p in given if p not in own and not is_in(p, folders)]
        return (*own, *more) or given

    had = [t for t in grids_of(earlier.sweep) if t.get("zip")]

    def zipped(table: Mapping[str, Any]) -> Mapping[str, Any]:
        """A grid without the places of its zipped axes that folders have and the run has not."""
        axes = [axis for axis in table.get("zip", ()) if axis in table]
        rows = list(zip(*(table[axis] for axis in axes), strict=True))
        own = {row for t in had if {*axes} <= {*t} for row in zip(*(t[a] for a in axes), strict=True)}
        new = [
            any(
                a in FOLDER_AXES and is_in(v, sweep.folders.get(a, ()))
                for a, v in zip(axes, row, strict=True)
            )
            for row in rows
        ]
        kept = [row for row, is_new in zip(rows, new, strict=True) if row in own or not is_new]
        return table if not kept else {**table, **dict(zip(axes, zip(*kept, strict=True), strict=True))}

    top = {axis: axis_of({axis: getattr(sweep, axis)}, axis) for axis in FOLDER_AXES}
    grids = [{**t, **{a: axis_of(t, a) for a in FOLDER_AXES if a in t}} for t in map(zipped, sweep.grid)]
    return replace(sweep, **top, grid=tuple(grids))


def _other_plugins(own: Sweep, sweep: Sweep) -> str:
    """The reason why a run cannot be continued with the plugins of `sweep`, in words."""
    had, has = (" and ".join(of.plugins) for of in (own, sweep))
    if not had:
        return f"was begun without the plugin (sha256 {has}), which cannot be added to it; start a new run"
    given = f"those given have {has}" if has else "none is given"
    return f"was begun with plugins of sha256 {had}, but {given}; give the same with --plugin FILE.py"


def _own_names(earlier: Record, sweep: Sweep) -> dict[str, dict[str, str]]:
    """The run's own paths of files that `sweep` names by other paths, by axis and path of `sweep`."""
    names: dict[str, dict[str, str]] = {}
    for key in (*settings.PATH_AXES, *settings.MASK_KEYS, "weights"):
        had, has = (_named(of, key) for of in (earlier.sweep, sweep))
        names[key] = {path: earlier.moved[path] for path in has if path in earlier.moved}
        unnamed = [path for path in had if path not in has]
        for path in has:
            if path in had or path in names[key]:
                continue
            digest = paths.sha256(path)
            same = (old for old in unnamed if digest is not None and _digest(earlier, key, old) == digest)
            if (old := next(same, None)) is not None:
                names[key][path] = old
                unnamed.remove(old)
    return names


def _named(sweep: Sweep, key: str) -> list[str]:
    """The files that a sweep names on an axis, as its masks or as its weights."""
    if key == "weights":
        return [sweep.weights] if sweep.weights else []
    if key in settings.MASK_KEYS:
        return list(dict.fromkeys(mask for mask in getattr(sweep, key) if as_colour(mask) is None))
    every = (path for table in grids_of(sweep) for value in table[key] for path in files_of(value))
    return list(dict.fromkeys(every))


def _digest(record: Record, key: str, path: str) -> str | None:
    return record.sources.weights if key == "weights" else record.sources.images.get(path)


def _listed(values: Sequence[Any]) -> str:
    """The first few of several values."""
    texts = [text_of(value) if is_blend(value) else str(value) for value in values]
    return ", ".join(texts[:4]) + (f" and {len(texts) - 4} more" if len(texts) > 4 else "")


def whole_chunks(
    sources: Sources,
    plan: Plan,
    run: RunDirectory,
    display: Display,
    own: Collection[int] | None = None,
    listed: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, Program, list[ChunkResult]]]:
    """The chunks of a run that are whole; files that are damaged or of another run are set aside.

    Each chunk comes with its number and the program that computed it: the planned one or, for want of
    memory, the same with half its width, a quarter and so on. A share, or a process that was killed, may
    not have reported the narrower one.

    Args:
        own: the numbers of the chunks to look at, all if None; the others belong to other processes.
        listed: the SHA-256 of chunk files by name, as far as the manifest has them.
    """
    own = None if own is None else set(own)
    for path in sorted((run.path / "chunks").glob("*.h5")):
        number = int(path.stem) if path.stem.isdecimal() else -1
        if number < 0 or path.name != Path(chunks.chunk_name(number)).name:
            continue  # a copy, or a synchroniser's file of a conflict
        if own is not None and number not in own:
            continue
        try:
            if number not in range(len(plan.chunks)):
                raise JaxstyleError(str(path), "does not belong to this run")
            own_plan = narrowed_to(plan, number, chunks.chunk_width(path))
            results = chunks.read_chunk(path, fingerprint=fingerprint(sources, own_plan, number))
            chunks.check_listed(path, (listed or {}).get(chunks.chunk_name(number)))
            yield number, own_plan.programs[own_plan.chunks[number].program], results
        except JaxstyleError as error:
            aside = set_aside(path)
            display.event(
                "set-aside", f"{error}; set aside as {aside.name}", path=str(path), aside=str(aside)
            )
