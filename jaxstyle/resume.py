"""Continuing a run: the settings that must agree, the chunks that are whole, and a chunk's checkpoint.

A run that is killed leaves whole chunks and a checkpoint of the chunk that it was computing: the launches
that are done, and the progress of the next one. Both carry a fingerprint of everything that decides their
bytes, so that nothing from another run, or from other settings, is mistaken for this run's.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxstyle import store
from jaxstyle.console.progress import Display
from jaxstyle.fingerprints import SCHEMA, Sources, as_narrow, fingerprint
from jaxstyle.inputs import weights
from jaxstyle.plan.cells import Cell, sweep_cells
from jaxstyle.plan.chunks import Plan
from jaxstyle.plan.costs import CHECKPOINT_SHARE
from jaxstyle.plan.programs import Program
from jaxstyle.spec import paths, settings
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.moved import renamed
from jaxstyle.spec.resolve import differing_settings, grids_of
from jaxstyle.spec.settings import Sweep
from jaxstyle.spec.values import INIT_KINDS
from jaxstyle.store import Arrays, Checkpoint, ChunkResult, Record, RunDirectory

if TYPE_CHECKING:
    from jaxstyle.engine import Progress

# --- settings and chunks of the run ---------------------------------------------------------------


def find(
    path: Path, *, beside: bool = False, no_lock: bool = False, among: Iterable[str] = ()
) -> Record | None:
    """The run at `path` as far as it has come; None if none has been planned there yet.

    Args:
        path: its directory.
        beside: whether other processes may be at work in it.
        no_lock: do not check whether another process is at work in it.
        among: see `store.open_record`.

    Raises:
        DirectoryInUse: if another process is at work in it, unless `beside`.
        JaxstyleError: if the directory holds no run, or one of another version.
    """
    if not path.is_dir() or store.is_unbegun(path):
        return None
    if beside and not (path / "manifest.json").is_file():  # the planning process may be writing its files
        return None
    if not beside:
        store.check_not_held(path, no_lock=no_lock)
    record = store.open_record(path, among=among)
    manifest = record.manifest
    tables = (manifest.get(key) for key in ("weights", "device", "versions", "plan", "given"))
    whole = isinstance(manifest.get("programs"), list) and all(isinstance(t, dict) for t in tables)
    if manifest.get("schema") != SCHEMA or not whole:
        raise store.no_plan(record.path, f"its schema is not {SCHEMA}, or it is not whole")
    return record


def joined(earlier: Record, sweep: Sweep, *, extend: bool) -> Sweep:
    """The sweep of a run that is continued: its own, followed with `extend` by the cells of `sweep`.

    A file of `sweep` counts as the run's own if it has the same bytes, whatever path or link names it.

    Raises:
        JaxstyleError: if `sweep` differs from the run in a setting that must agree.
    """
    given = earlier.texts
    own, what = replace(earlier.sweep, given=given), str(earlier.path)
    sweep = renamed(sweep, _own_names(earlier, sweep))
    if sweep.weights != own.weights:
        here = sweep.weights or str(weights.packaged_path())
        if paths.sha256(here) == earlier.sources.weights:
            sweep = replace(sweep, weights=own.weights)
    sweep = replace(sweep, balance=(*own.balance, *sweep.balance))
    if own.plugins != sweep.plugins:
        raise JaxstyleError(what, _other_plugins(own, sweep))
    differences = differing_settings(own, sweep)
    for image in sorted(own.digests.keys() & sweep.digests.keys()):
        if own.digests[image] != sweep.digests[image]:
            differences.append(f"{image} has another digest there")
    digests = {**sweep.digests, **own.digests}
    if not extend and (cells := sweep_cells(sweep)) != earlier.cells:
        for axis in settings.axes_with({*own.axes, *sweep.axes}):
            had, has = (list(dict.fromkeys(getattr(c, axis) for c in of)) for of in (earlier.cells, cells))
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
    assert sweep_cells(found)[: len(earlier.cells)] == earlier.cells
    return found


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
    for key in (*settings.PATH_AXES, "weights"):
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
    """The files that a sweep names on an axis, or as its weights."""
    if key == "weights":
        return [sweep.weights] if sweep.weights else []
    every = [path for table in grids_of(sweep) for path in table[key]]
    return [path for path in dict.fromkeys(every) if path not in INIT_KINDS]


def _digest(record: Record, key: str, path: str) -> str | None:
    return record.sources.weights if key == "weights" else record.sources.images.get(path)


def _listed(values: Sequence[Any]) -> str:
    """The first few of several values."""
    texts = [str(value) for value in values]
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
        if own is not None and number not in own:
            continue
        try:
            if number not in range(len(plan.chunks)) or path.name != Path(store.chunk_name(number)).name:
                raise JaxstyleError(str(path), "does not belong to this run")
            own_plan = as_narrow(plan, number, store.chunk_width(path))
            results = store.read_chunk(path, fingerprint=fingerprint(sources, own_plan, number))
            store.check_listed(path, (listed or {}).get(store.chunk_name(number)))
            yield number, own_plan.programs[own_plan.chunks[number].program], results
        except JaxstyleError as error:
            aside = store.set_aside(path)
            display.event(
                "set-aside", f"{error}; set aside as {aside.name}", path=str(path), aside=str(aside)
            )


# --- a chunk in progress ---------------------------------------------------------------------------


class Launched(NamedTuple):
    """The results of a launch, with its pictures as they are saved."""

    cells: list[Cell]
    pixels: np.ndarray
    """uint8 (cells, snapshots, h, w, 3), on the program's canvas."""
    curves: dict[str, np.ndarray]
    diverged_step: np.ndarray


class Kept:
    """A chunk in progress: its finished launches and the progress of the next ones, kept on the disk.

    Args:
        checkpoint: the checkpoint that keeps them.
        rounds: the cells of every launch, grouped into rounds of launches that run side by side.
        every_s: the seconds of work that may be lost.
    """

    def __init__(self, checkpoint: Checkpoint, rounds: Sequence[list[list[Cell]]], every_s: float):
        self.checkpoint = checkpoint
        self.launches = [cells for abreast in rounds for cells in abreast]
        self._rounds = {}
        """The rounds, by the number of launches that precede each."""
        for abreast in rounds:
            self._rounds[sum(map(len, self._rounds.values()))] = abreast
        self.done: list[Launched] = []
        self.progress: Progress | None = None
        """The progress from which to continue the next launches; None to begin them from the start."""
        self._every_s, self._cost_s = every_s, 0.0
        self._last = self._segment = time.monotonic()
        self._saved = [0, 0, 0]
        """The numbers of launches saved, and of images and infos saved of the current round."""

    @property
    def current(self) -> list[list[Cell]]:
        """The cells of the launches that are next or under way."""
        return self._rounds[len(self.done)]

    def finish(self, launched: Sequence[Launched]) -> None:
        """Record the launches of a round that is done."""
        self.done += launched
        self.progress, self._saved[1:] = None, [0, 0]

    def is_due(self) -> bool:
        """Whether to save now: with another segment like the last, more work could be lost than may be.

        Writing must not take more than its share of the time either, however slow the disk is.
        """
        now = time.monotonic()
        segment_s, self._segment = now - self._segment, now
        every_s = max(self._every_s, self._cost_s / CHECKPOINT_SHARE)
        return now - self._last + segment_s > every_s

    def save(self, progress: Progress) -> float:
        """Save everything that is new and return the seconds that this took."""
        from jaxstyle.cell.state import info_curves

        began = time.monotonic()
        launches, pictures, infos = self._saved
        part: Arrays = {"of": np.array(len(self.done))}
        for index, launched in enumerate(self.done[launches:], launches):
            named = {"pixels": launched.pixels, "diverged_step": launched.diverged_step, **launched.curves}
            part |= {f"launch{index}/{name}": values for name, values in named.items()}
        for index, image in enumerate(progress.images[pictures:]):
            part[f"image{index}"] = image
        curves = [info_curves(info) for info in progress.infos[infos:]]
        for name in curves[0] if curves else ():
            part[f"info/{name}"] = np.concatenate([curve[name] for curve in curves])
        state: Arrays = {name: np.array(getattr(progress, name)) for name in ("coarser", "passes")}
        state["launch"] = np.array(len(self.done))
        state |= {f"leaf{index}": leaf for index, leaf in enumerate(progress.state)}
        self.checkpoint.save(part, state)
        self._saved = [len(self.done), len(progress.images), len(progress.infos)]
        self._last = self._segment = time.monotonic()
        cost_s = self._last - began
        # The smallest cost so far, so that one stall of the disk does not delay all later checkpoints.
        self._cost_s = min(self._cost_s or cost_s, cost_s)
        return cost_s

    def load(self) -> None:
        """Restore the progress that an earlier process saved of the same chunk, if any.

        Raises:
            JaxstyleError: if the checkpoint is damaged; nothing is restored then.
        """
        from jaxstyle.cell.state import info_from_curves
        from jaxstyle.engine import Progress

        found = self.checkpoint.load()
        if found is None:
            return
        parts, state = found
        launch = int(state["launch"])
        every = {name: values for part in parts for name, values in part.items() if "launch" in name}
        for index, cells in enumerate(self.launches[:launch]):
            own = _named_in(every, f"launch{index}/")
            pixels, diverged = own.pop("pixels"), own.pop("diverged_step")
            self.done.append(Launched(cells, pixels, own, diverged))
        tail = [part for part in parts if int(part["of"]) == launch]
        pictures = [part[f"image{i}"] for part in tail for i in range(len(part)) if f"image{i}" in part]
        infos = [info_from_curves(curves) for part in tail if (curves := _named_in(part, "info/"))]
        leaves = [state[f"leaf{i}"] for i in range(sum(name.startswith("leaf") for name in state))]
        self.progress = Progress(
            int(state["coarser"]), int(state["passes"]), tuple(leaves), tuple(pictures), tuple(infos)
        )
        self._saved = [launch, len(pictures), len(infos)]


def _named_in(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): of for name, of in arrays.items() if name.startswith(prefix)}
