"""From cells to launches: programs compiled, targets computed, knobs put together, cells driven.

A run and a single transfer share this module: it knows no directory and prints nothing. A launch's bytes
follow from its cells, their inputs and their program, never from who asked for it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxstyle.device.course import Course
from jaxstyle.inputs import encode
from jaxstyle.inputs.region_maps import RegionMaps
from jaxstyle.inputs.resize import halved, halved_shape_of
from jaxstyle.plan.canvases import canvas_of
from jaxstyle.plan.cells import Cell
from jaxstyle.plan.chunks import Plan
from jaxstyle.plan.nominal_rates import nominal_platform, uses_winograd
from jaxstyle.plan.programs import Program
from jaxstyle.plan.stages import halved_shape
from jaxstyle.run.finishing import Finisher
from jaxstyle.run.inputs import Inputs
from jaxstyle.spec import blends
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.tables import TERMS
from jaxstyle.vgg import layers

if TYPE_CHECKING:
    from jaxstyle.cell.state import Targets
    from jaxstyle.device.drive import Launch, Outcome, Progress, Segment, Stage
    from jaxstyle.device.engine import Engine


TargetKey = tuple[str, Any, Any]
"""Key of a target: `content` or `style`, its key in `Pictures`, and how it is computed."""


class Advance(NamedTuple):
    """A segment of launches that has been computed."""

    image_steps: float
    """Work done in the segment, in image-steps of the full size."""
    cost: float
    """Time that it is expected to take beside others, in FLOPs."""
    progress: Callable[[], Progress]
    """Fetches the state of the launches; to be called before they go on."""


class LaunchResult(NamedTuple):
    """The results of a launch, with its pictures as they are saved."""

    cells: list[Cell]
    pixels: np.ndarray
    """uint8 (cells, snapshots, h, w, 3), on the program's canvas."""
    curves: dict[str, np.ndarray]
    diverged_step: np.ndarray
    floats: np.ndarray | None = None
    """The same pictures, float32, before they are rounded, where they are kept."""


class Launcher:
    """Computes the cells of a plan, a launch at a time on every device.

    Args:
        inputs: what they are computed from.
        plan: their programs, widths and trajectories.
        devices: the devices to compute on.
        seconds: sums by name that the time of every stage is added to: `compile_s`, `targets_s` and
            `host_s`. The caller, who goes through a launch, times the launch itself.
    """

    def __init__(self, inputs: Inputs, plan: Plan, devices: Sequence[Any], seconds: dict[str, float]):
        from jaxstyle.device.engine import Engine

        self.sweep, self.pictures = inputs.sweep, inputs.pictures
        self.plan = plan
        """The plan as it is now; `narrow` changes it."""
        self.seconds = seconds
        self.engine: Engine = Engine(
            inputs.weights.layers,
            canvases=self.sweep.canvas == "auto",
            device=devices,
            winograd=uses_winograd(self.sweep, nominal_platform(devices[0].platform)),
            kept_by=f"{inputs.weights.sha256} {self.sweep.network}" if len(plan.cells) == 1 else "",
        )
        self.made: dict[Program, list[dict[str, Any]]] = {}
        """Facts about the stages of each compiled program, coarsest first, for the manifest."""
        self._targets: dict[TargetKey, Targets] = {}
        self.maps = RegionMaps(self.pictures)
        """The maps of the regions of pictures and styles."""

    def program(self, number: int) -> Program:
        """The program of a chunk in the present plan."""
        return self.plan.programs[self.plan.chunks[number].program]

    def compile(self, program: Program) -> None:
        """Compile the stages of `program` side by side."""
        self.engine.network(program)  # once, for the stages share it
        stages = [program.stage(times) for times in range(program.coarser, -1, -1)]
        with timed(self.seconds, "compile_s"), ThreadPoolExecutor(len(stages)) as pool:
            made = list(pool.map(self.engine.compile, stages))
        self.made[program] = [
            {
                "shape": stage.shape,
                "step_traces": compiled.step_traces if fresh else 0,
                "target_traces": 0,
                "compile_s": round(compiled.compile_s, 3) if fresh else 0.0,
                "device_bytes": compiled.device_bytes,
            }
            for stage, (compiled, fresh) in zip(stages, made, strict=True)
        ]

    def narrow(self, numbers: Collection[int], error: RuntimeError) -> None:
        """Halve the width of the chunks `numbers`, all of one program, if `error` says that memory ran out.

        Raises:
            JaxstyleError: if one cell alone does not fit.
            RuntimeError: `error`, if it says something else.
        """
        from jaxstyle.device.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise error
        program = self.program(min(numbers))
        if program.width == 1:
            raise JaxstyleError(
                "size", f"one {program.shape} image does not fit on the device; give a smaller --size"
            ) from error
        self.plan = self.plan.narrowed(numbers)

    @property
    def targets_held(self) -> int:
        """Number of targets that are kept."""
        return len(self._targets)

    # --- targets ----------------------------------------------------------------------------------

    def drop_targets(self, unused: Callable[[TargetKey], bool]) -> None:
        """Forget the targets whose keys are `unused`."""
        for key in [key for key in self._targets if unused(key)]:
            del self._targets[key]

    def _style_target(self, cell: Cell, program: Program, coarser: int) -> Targets:
        """The targets of a cell's style: those of an image, of a file, or a blend of several."""
        from jaxstyle.device.style_rows import style_rows

        if blends.is_image(cell.style):
            return self._target("style", cell.style_source, program, coarser, cell)
        key = _target_key("style", cell.style_source, program, coarser, cell)
        if key not in self._targets:
            parts = {
                part: self._target("style", part, program, coarser, cell)
                for part, _ in cell.style_parts
                if part[0] not in self.pictures.targets
            }
            with timed(self.seconds, "targets_s"):
                stage = program.stage(coarser)
                rows = style_rows(cell, stage, self.pictures.targets, parts.__getitem__)
                self._targets[key] = rows._replace(terms=self._terms_without_image(cell, program, coarser))
        return self._targets[key]

    def _terms_without_image(self, cell: Cell, program: Program, coarser: int) -> dict[str, Any]:
        """Values that terms keep of a file of targets or a blend; zeros, but for a file with a spectrum."""
        if not program.terms:
            return {}
        pixels = self.pictures.of_files.get(cell.style)
        if pixels is None:
            return self.engine.blank_rows(program.stage(coarser), "style").terms
        return self._rows_of("style", cell.style, pixels, program, coarser).terms

    def _of_equal_size(self, rows: Targets, stage: Program) -> Targets:
        """Targets of a style with zeros for terms that need it as large as the picture, where it is not.

        The cells of such a style have no weight for them.
        """
        if not any(TERMS[name].equal_sizes for name in stage.terms):
            return rows
        blank = self.engine.blank_rows(stage, "style").terms
        terms = {
            n: kept if _shapes(kept) == _shapes(blank[n]) else blank[n] for n, kept in rows.terms.items()
        }
        return rows._replace(terms=terms)

    def _target(self, role: str, source: Any, program: Program, coarser: int, cell: Cell) -> Targets:
        from jaxstyle.device.region_rows import image_maps

        key = _target_key(role, source, program, coarser, cell)
        if key not in self._targets:
            with timed(self.seconds, "targets_s"):
                if role == "content":
                    path, pixels, maps = source, self.pictures.content[source], ()
                else:
                    path, pixels = source[0], self.pictures.style_pixels(source)
                    maps = image_maps(self.maps, cell, source, program, coarser)
                self._targets[key] = self._rows_of(role, path, pixels, program, coarser, maps)
        return self._targets[key]

    def _rows_of(
        self,
        role: str,
        path: str,
        pixels: np.ndarray,
        program: Program,
        coarser: int,
        maps: Sequence[np.ndarray] = (),
    ) -> Targets:
        """The targets of an image in one stage; JaxstyleError if it does not fit on the device."""
        import jax

        from jaxstyle.device.memory import is_out_of_memory

        least_px = layers.least_edge_px(program.taps)
        canvas = self._coarse_canvas(program, pixels.shape[:2], least_px) if coarser else None
        pixels = halved(pixels, coarser, wraps=program.wraps, least_px=least_px)
        exact, before = role == "content" and canvas is None, self.engine.target_traces
        try:
            rows = self.engine.target_rows(
                program.stage(coarser), pixels, of_cells=exact, canvas=canvas, role=role, maps=maps
            )
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            flag = "size" if role == "content" else "style_size"
            height, width = pixels.shape[:2]
            why = f"{path} at {height}x{width} does not fit on the device; give a smaller one"
            raise JaxstyleError(flag, why) from error
        made = self.made[self._current][-1 - coarser]
        made["target_traces"] += self.engine.target_traces - before
        return rows

    def _coarse_canvas(
        self, program: Program, shape: tuple[int, int], least_px: int
    ) -> tuple[int, int] | None:
        """The canvas that serves all coarser stages of an image and of others like it."""
        from jaxstyle.device.engine import TARGET_CANVAS_PX

        if self.sweep.canvas == "off" or not program.knows_canvases:
            return None
        largest = program.stage(1)
        edge = max(largest.height_px, largest.width_px, *halved_shape_of(shape, 1, least_px))
        return canvas_of([(edge, edge)], TARGET_CANVAS_PX)

    # --- a launch ---------------------------------------------------------------------------------

    def launch(
        self,
        launches: Sequence[list[Cell]],
        program: Program,
        *,
        begin: Progress | None = None,
    ) -> Course[Advance, list[LaunchResult]]:
        """The computation of the cells of launches that run side by side.

        Args:
            launches: at most as many as are computed together, each of at most `program.width` cells.
            program: their program, compiled before.
            begin: the state that an earlier process had reached, to go on from.
        """
        from jaxstyle.device.drive import side_by_side

        self._current = program
        prepared = [self._prepare(cells, program) for cells in launches]
        launch, steps = side_by_side(prepared, program.width), self.plan.steps
        segments = self.engine.course(program, launch, steps, keep=self.sweep.keep, begin=begin)
        finisher = Finisher(self.sweep, self.pictures, self.engine, program, launch)
        passes_left = steps[-1]  # the pass that evaluates the last image is not a step
        if begin is not None and not begin.coarser:
            passes_left -= min(begin.passes, passes_left)
        return Course(_advances(launches, program, segments, passes_left, finisher))

    def _prepare(self, cells: list[Cell], program: Program) -> Launch:
        """A launch of `cells`, each starting from the image that its own `init` names."""
        from jaxstyle.device.drive import Launch, on_canvas

        stages = [self._launch_stage(cells, program, times) for times in range(program.coarser, -1, -1)]
        with timed(self.seconds, "host_s"):
            first = program.stage(program.coarser)
            canvas = (first.height_px, first.width_px) if first.canvas else None
            start = [on_canvas(self.pictures.start(cell, program.coarser), canvas) for cell in cells]
            return Launch(stages[-1].knobs, np.stack(start), stages[-1].targets, tuple(stages[:-1]))

    def _launch_stage(self, cells: list[Cell], program: Program, coarser: int) -> Stage:
        """Knobs and targets of `cells` in one stage of their program."""
        from jaxstyle.cell.knobs import knobs_of
        from jaxstyle.cell.state import Targets
        from jaxstyle.device.drive import Stage
        from jaxstyle.device.region_rows import picture_key, region_knobs, style_key

        with_content = {cell.content: cell for cell in cells if cell.has_content}
        with_style = {style_key(cell): cell for cell in cells if cell.has_style}
        divided = {picture_key(cell): cell for cell in cells} if program.regions else {}
        contents, styles, divisions = list(with_content), list(with_style), list(divided)
        of_contents = [
            self._target("content", path, program, coarser, cell) for path, cell in with_content.items()
        ]
        of_styles = [self._style_target(cell, program, coarser) for cell in with_style.values()]
        of_contents = of_contents or [self.engine.blank_rows(program.stage(coarser), "content")]
        of_styles = [self._of_equal_size(rows, program.stage(coarser)) for rows in of_styles]
        of_styles = of_styles or [self.engine.blank_rows(program.stage(coarser), "style")]
        with timed(self.seconds, "host_s"):
            knobs = [
                knobs_of(
                    cell,
                    program,
                    self.sweep,
                    content_row=contents.index(cell.content) if cell.has_content else 0,
                    style_row=styles.index(style_key(cell)) if cell.has_style else 0,
                    extent=halved_shape(shape, coarser),
                    full_extent=shape if coarser else None,
                    steps=self.plan.steps[-1],
                    regions=region_knobs(
                        self.maps, cell, program, coarser, divisions.index(picture_key(cell))
                    )
                    if program.regions
                    else None,
                )
                for cell in cells
                for shape in (self.pictures.shape(cell),)
            ]
            return Stage(
                _stacked(knobs),
                Targets(
                    content=_stacked([rows.content for rows in of_contents]),
                    style=_stacked([rows.style for rows in of_styles]),
                    terms=_stacked([rows.terms for rows in of_contents])
                    | _stacked([rows.terms for rows in of_styles]),
                    **self._divisions(divided.values(), program, coarser),
                ),
            )

    def _divisions(self, cells: Collection[Cell], program: Program, coarser: int) -> dict[str, Any]:
        """The fields of `Targets` about regions, with a row for each of `cells`."""
        from jaxstyle.device.region_rows import held_rows, picture_rows

        if not cells:
            return {}
        found = {"regions": _stacked([picture_rows(self.maps, cell, program, coarser) for cell in cells])}
        if program.holds:
            found["held"] = _stacked(
                [
                    held_rows(self.maps, cell, coarser, self._content_at(cell.content, program, coarser))
                    for cell in cells
                ]
            )
        return found

    def _content_at(self, path: str, program: Program, coarser: int) -> np.ndarray:
        """The pixels of a content in one stage."""
        least_px = layers.least_edge_px(program.taps)
        return halved(self.pictures.content[path], coarser, wraps=program.wraps, least_px=least_px)


def _advances(
    launches: Sequence[list[Cell]],
    program: Program,
    segments: Course[Segment, Outcome],
    passes_left: int,
    finisher: Finisher,
) -> Generator[Advance, None, list[LaunchResult]]:
    """Advances of launches, a segment at a time; the outcome is the finished launches.

    Args:
        launches: the cells of each launch; the launches run side by side.
        program: their program.
        segments: the segments of all of them together.
        passes_left: passes of the full size that are still to be counted as steps.
        finisher: makes of their pictures what is saved.
    """
    from jaxstyle.cell.state import info_curves

    count = sum(map(len, launches))
    for coarser, passes, progress in segments:
        if not coarser:
            passes = min(passes, passes_left)
            passes_left -= passes
        cost = count * passes * program.stage(coarser).step_cost
        yield Advance(count * full_size_steps(program, coarser, passes), cost, progress)
    outcome, found = segments.outcome, []
    for index, cells in enumerate(launches):
        at = slice(index * program.width, index * program.width + len(cells))
        curves = {name: values[at] for name, values in info_curves(outcome.info).items()}
        images = finisher.images(cells, outcome.images[at])
        pixels, floats = (
            encode.to_uint8(images),
            images.astype(np.float32) if finisher.keeps_floats else None,
        )
        curves |= finisher.losses(range(at.start, at.stop), pixels[:, -1])
        found.append(LaunchResult(cells, pixels, curves, outcome.diverged_step[at], floats))
    return found


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    """The shapes of the arrays of a tree."""
    import jax

    return [leaf.shape for leaf in jax.tree.leaves(tree)]


def _stacked(trees: Sequence[Any]) -> Any:
    """Trees of arrays as one tree, stacked along a new first axis."""
    import jax

    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _target_key(role: str, source: Any, program: Program, coarser: int, cell: Cell) -> TargetKey:
    """Key of a target: it never depends on the width, for a style on the cells' frame if it may matter."""
    if role == "content":
        return role, source, replace(program.stage(coarser), width=1)
    taps = program.content_taps, program.style_taps, program.terms
    kinds = program.pool, program.padding, program.style_loss, program.precision
    regions = (program.regions, cell.regions, cell.content) if program.regions else ()
    frame = (program.height_px, program.width_px, program.canvas) if program.knows_canvases else ()
    return role, source, (*taps, *kinds, coarser, *regions, *frame)


def target_keys(plan: Plan, number: int) -> Iterator[TargetKey]:
    """Keys of the targets that the cells of a chunk use."""
    program = plan.programs[plan.chunks[number].program]
    for i in plan.chunks[number].cells:
        cell = plan.cells[i]
        sources: list[tuple[str, Any]] = [("content", cell.content)] if cell.has_content else []
        sources += [("style", part) for part, _ in cell.style_parts]
        if blends.is_blend(cell.style):
            sources.append(("style", cell.style_source))
        for role, source in sources:
            for coarser in range(program.coarser + 1):
                yield _target_key(role, source, program, coarser, cell)


def full_size_steps(program: Program, coarser: int, passes: int) -> float:
    """Cost of passes of a stage of `program`, in steps of its full size."""
    return passes * program.stage(coarser).step_flops / program.step_flops


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the time that the body takes, in seconds, to a named sum."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] += time.perf_counter() - began
