"""Computation of cells on one device or several: the network, the compiled programs and the targets.

An `Engine` advances the cells of a launch together, `program.width` on every device: `batch` makes the
programs, `drive` goes through the passes, and `memory` says which widths fit. Targets of single images
and gradients are computed on the first device.

Compiled programs are kept for the life of the process, whichever engine made them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float

from jaxstyle.cell import objective
from jaxstyle.cell.poolings import border, pooling
from jaxstyle.cell.state import Held, Knobs, Targets
from jaxstyle.device import kept, kept_targets
from jaxstyle.device.batch import (
    CELL,
    Compiled,
    Device,
    Layers,
    argument_shapes,
    compile_program,
    compiler_options,
    refine_cells,
    target_program,
)
from jaxstyle.device.course import Course
from jaxstyle.device.drive import (
    Drive,
    Launch,
    Outcome,
    Part,
    Progress,
    Segment,
    Stage,
    in_parts,
    in_settings,
    on_canvas,
)
from jaxstyle.device.jax_settings import default_settings
from jaxstyle.plan.canvases import canvas_of
from jaxstyle.plan.nominal_rates import NOMINAL_FLOPS, WINOGRAD_PLATFORMS, nominal_platform
from jaxstyle.plan.programs import Program
from jaxstyle.plan.stages import COARSE_EVALUATIONS
from jaxstyle.spec.plugin_blame import blamed_together
from jaxstyle.spec.tables import OPTIMIZERS, POOLINGS, TERMS
from jaxstyle.vgg import layers
from jaxstyle.vgg.network import Bound, Params, bind

TARGET_CANVAS_PX = 64
"""The edges of the canvases that styles share are multiples of this."""
_step_programs: dict[Any, Compiled] = {}
_target_programs: dict[Any, Any] = {}
_refine_programs: dict[Any, Any] = {}
_gradient_programs: dict[Any, Any] = {}


class Engine:
    """One device, or several of one kind, with VGG19 loaded.

    Args:
        weights: (kernel, bias) by layer name, HWIO.
        canvases: whether styles of other shapes than their cells' may share target programs.
        device: the device to run on, or the devices that share every launch; JAX's first by default.
        winograd: whether the cells' convolutions use Winograd's algorithm; by default they do on
            `WINOGRAD_PLATFORMS`.
        kept_by: all that `weights` follow from, if targets are to be kept for later commands; else empty.
    """

    def __init__(
        self,
        weights: Layers,
        *,
        canvases: bool = True,
        device: Device | Sequence[Device] | None = None,
        winograd: bool | None = None,
        kept_by: str = "",
    ):
        self._canvases = canvases
        several = device if isinstance(device, Sequence) else [device or jax.devices()[0]]
        self.devices: tuple[Device, ...] = tuple(several)
        self.device = self.devices[0]
        """The first device, on which targets are computed."""
        mesh = Mesh(np.array(self.devices), ("cell",), axis_types=(AxisType.Auto,))
        self._mesh = mesh if len(self.devices) > 1 else None
        self.winograd = self.device.platform in WINOGRAD_PLATFORMS if winograd is None else winograd
        self._weights, self._kept_by = weights, kept_by
        self._networks: dict[Any, Bound] = {}
        self.target_traces = 0
        """Number of target programs that this engine has traced."""

    @default_settings()
    def network(self, program: Program, *, winograd: bool | None = None) -> Bound:
        """The network of a program, with its parameters on the devices; equal networks are shared.

        Args:
            program: gives the taps, the pooling, the padding, the precision and the forms.
            winograd: whether to use Winograd's algorithm; by default the choice for cells.
        """
        winograd = self.winograd if winograd is None else winograd
        key = (program.taps, program.pool, program.padding, program.precision, program.planes, winograd)
        if key not in self._networks:
            bound = bind(
                self._weights,
                taps=program.taps,
                pool=pooling(program.pool, program.padding, planes=program.planes),
                winograd=winograd,
                planes=program.planes,
                precision=program.precision,
                border=border(program.padding),
            )
            self._networks[key] = Bound(self._put(bound.params, P()), bound.features)
        return self._networks[key]

    def _first_params(self, network: Bound) -> Params:
        """The copy of a network's parameters on the first device."""
        if self._mesh is None:
            return network.params

        def first(array: jax.Array) -> jax.Array:
            return next(shard.data for shard in array.addressable_shards if shard.device == self.device)

        return jax.tree.map(first, network.params)

    def _put(self, tree: Any, of: P) -> Any:
        """`tree` on the device, or on all: the same on each (`P()`), or split by leading axis (`CELL`)."""
        return jax.device_put(tree, self.device if self._mesh is None else NamedSharding(self._mesh, of))

    def _key(self, program: Program, more: Any, winograd: bool) -> Any:
        """The key of a compilation: `more`, and the functions, kernel shapes and devices that it is for."""
        shapes = tuple(kernel.shape for kernel, _ in self._weights.values())
        return more, _functions(program), winograd, shapes, self.devices

    def _kept_key(self, *of: Any) -> str:
        """The key of a program that is kept for other processes: `of`, and the shapes of the network."""
        return repr((*of, [kernel.shape for kernel, _ in self._weights.values()]))

    def _step_key(self, program: Program) -> Any:
        """The key of a stage's step."""
        return self._key(program, (program, OPTIMIZERS[program.optimizer].make), self.winograd)

    @default_settings()
    def compile(self, program: Program) -> tuple[Compiled, bool]:
        """The compiled functions of one stage, and whether this call compiled them."""
        program = replace(program, coarser=0)
        key = self._step_key(program)
        if fresh := key not in _step_programs:
            network = self.network(program)
            traced = "" if self._mesh else self._kept_key("step", program, self.winograd)
            with blamed_together(program.plugin_rows):
                _step_programs[key] = compile_program(
                    program, network.features, network.params, self.device, self._mesh, key=traced
                )
        return _step_programs[key], fresh

    def forget(self, program: Program) -> None:
        """Drop the compiled functions of one stage, so that whoever needs them next compiles them."""
        program = replace(program, coarser=0)
        _step_programs.pop(self._step_key(program), None)

    @default_settings()
    def target_rows(
        self,
        program: Program,
        pixels: np.ndarray,
        *,
        of_cells: bool = False,
        canvas: tuple[int, int] | None = None,
        role: str | None = None,
        maps: Sequence[np.ndarray] = (),
    ) -> Targets:
        """The targets P and A of one image, as host arrays.

        Args:
            program: the program that compares cells with these targets.
            pixels: RGB, 0 to 255, (h, w, 3), of any size the network can take.
            of_cells: whether this is a content of the program's cells. It is then computed as they are, on
                their canvas if they have one, so that a cell that starts from it has no content loss.
            canvas: (height, width) in px of another canvas to use instead; P is cut to the shape of the
                cells.
            role: `content` or `style`, of which only P, or only A, and its own terms are returned.
            maps: see `objective.target_rows`.
        """
        shape = (pixels.shape[0], pixels.shape[1])
        cut, like_cells = canvas is not None, False
        if canvas is None:
            canvas, like_cells = self._target_canvas(program, shape, of_cells)
        winograd = self.winograd and like_cells
        if self.winograd and not like_cells:
            program = replace(program, precision="f32")  # Winograd's cells have float32 activations, too
        kept_key = ""
        if self._kept_by and kept.keeps():
            of = program, canvas, cut, winograd, role, jax.tree.map(_digest, (pixels, tuple(maps)))
            kept_key = self._kept_key("target rows", self._kept_by, *of)
            if (found := kept_targets.load(kept_key)) is not None:
                return found
        rows = self._rows(program, pixels, canvas, role, maps, winograd)
        if cut:
            shapes = (
                layers.feature_shape(t, program.height_px, program.width_px) for t in program.content_taps
            )
            content = (p[:h, :w].copy() for p, (h, w, _) in zip(rows.content, shapes, strict=True))
            rows = rows._replace(content=tuple(content))
        if role is not None:
            rows = rows._replace(**_unused(role))
        if kept_key:
            kept_targets.save(kept_key, rows)
        return rows

    def _rows(
        self,
        program: Program,
        pixels: np.ndarray,
        canvas: tuple[int, int] | None,
        role: str | None,
        maps: Sequence[np.ndarray],
        winograd: bool,
    ) -> Targets:
        """The targets of an image, computed; see `target_rows`."""
        shape, role = (pixels.shape[0], pixels.shape[1]), role if program.terms else None
        network = self.network(program, winograd=winograd)
        taps = program.content_taps, program.style_taps, program.precision
        kinds = program.pool, program.padding, program.style_loss, program.regions, len(maps)
        key = self._key(program, (canvas or shape, canvas is None, *taps, *kinds, role), winograd)
        extent = None if canvas is None else np.array(shape, np.int32)
        image = jax.device_put(on_canvas(np.asarray(pixels, np.float32), canvas), self.device)
        maps = tuple(jax.device_put(own, self.device) for own in maps)
        of = self._first_params(network), image, extent, maps
        if key not in _target_programs:
            self.target_traces += 1
            traced = self._kept_key("targets", program, role, winograd, jax.tree.map(np.shape, of[1:]))
            _target_programs[key] = target_program(
                program, network.features, of, self.device, role=role, key=traced
            )
        with blamed_together(program.plugin_rows):
            return jax.tree.map(np.array, _target_programs[key](*of))

    def blank_rows(self, program: Program, role: str) -> Targets:
        """Zeros in place of the targets of one image, for cells that have no content, or no style.

        Args:
            program: the program that the cells have.
            role: `content` or `style`, the image that they do not have.
        """
        network = self.network(program)
        shapes = argument_shapes(program, 1, network.features, network.params)[2]
        blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), shapes)
        terms = {name: rows for name, rows in blank.terms.items() if TERMS[name].of == role}
        return blank._replace(**_unused(role), terms=terms)

    @default_settings()
    def gradient(
        self, program: Program, knobs: Knobs, targets: Targets, image: np.ndarray
    ) -> Float[np.ndarray, "h w 3"]:
        """Gradient dL/dx of one cell's total loss at `image`.

        Args:
            program: a program of any width, without a canvas.
            knobs: knobs of the cell.
            targets: targets with a leading axis of rows.
            image: RGB, 0 to 255, (h, w, 3).
        """
        network = self.network(program)
        key = self._key(program, ("gradient", replace(program, width=1, coarser=0)), self.winograd)
        if key not in _gradient_programs:
            features = network.features

            def gradient(params, knobs, targets, image):
                return jax.grad(
                    lambda x: objective.total_loss(features, params, program, knobs, targets, x)[0]
                )(image)

            _gradient_programs[key] = jax.jit(gradient, compiler_options=compiler_options(program))
        start = jax.device_put(np.asarray(image, np.float32), self.device)
        return np.asarray(_gradient_programs[key](self._first_params(network), knobs, targets, start))

    @default_settings()
    def losses_of(
        self, program: Program, launch: Launch, images: Float[np.ndarray, "cells h w 3"]
    ) -> Float[np.ndarray, " cells"]:
        """The total losses of images in place of those of a launch's cells, by the program that made them.

        Args:
            program: their program.
            launch: the knobs and targets of the cells.
            images: RGB, 0 to 255, on the program's canvas.
        """
        blank = launch.knobs._replace(noise_std=np.zeros_like(launch.knobs.noise_std))
        targets = launch.targets
        if program.holds:  # a finish changes pixels that were held while steps were made
            held = cast(Held, targets.held)
            targets = targets._replace(held=held._replace(where=np.zeros(held.where.shape, np.float32)))
        drive = self._begin(program.stage(0), 0, Stage(blank, targets), images, ())
        for _ in drive.to(1):
            pass
        return np.asarray(drive.infos[0].loss_total)[0, : len(images)]

    def _target_canvas(
        self, program: Program, shape: tuple[int, int], of_cells: bool
    ) -> tuple[tuple[int, int] | None, bool]:
        """The canvas on which a target of `shape` is computed, and whether it is computed as cells are.

        Both follow from the image and the program alone, so that a cell has the same targets in every run.
        A style uses the program of its cells' contents if their shape or canvas holds it. Otherwise it
        shares a canvas with styles of similar shape, if canvases can be, or the program of contents of its
        own shape. So there are at most as many target programs as shapes, but for a shape that is both a
        content's and, on a canvas, a style's of other cells.
        """
        own = program.height_px, program.width_px
        if of_cells or (program.canvas and shape[0] <= own[0] and shape[1] <= own[1]):
            return own if program.canvas else None, True
        shared = canvas_of([shape], TARGET_CANVAS_PX)
        if shape in (own, shared) or not (self._canvases and program.knows_canvases):
            return None, True
        return shared, False

    def course(
        self,
        program: Program,
        launch: Launch,
        steps: Sequence[int],
        *,
        keep: str = "last",
        begin: Progress | None = None,
    ) -> Course[Segment, Outcome]:
        """The computation of the cells of `launch` from step 0 to the last of `steps`, an image at each.

        Args:
            program: the program of the full size; its coarser stages run first.
            launch: its cells, in parts of `program.width` per device, the last of which is padded with
                copies of the last cell. Several parts are advanced side by side (`Drive`).
            steps: the steps of the snapshots, ascending; the last is the length of the trajectory.
            keep: the image taken at a snapshot: the `last`, or the `best` so far.
            begin: progress of an earlier call for the same launch, to continue from.
        """
        return Course(in_settings(self._segments(program, launch, steps, keep, begin)))

    def _segments(
        self, program: Program, launch: Launch, steps: Sequence[int], keep: str, begin: Progress | None
    ) -> Generator[Segment, None, Outcome]:
        count, drive = len(launch.start), None
        images: list[np.ndarray] = [] if begin is None else list(begin.images)
        stages = (*launch.coarser, Stage(launch.knobs, launch.targets))
        for coarser, stage in zip(range(program.coarser, -1, -1), stages, strict=True):
            if begin is not None and coarser > begin.coarser:
                continue
            if begin is not None and coarser == begin.coarser:
                before = begin
            else:
                before = launch.start if drive is None else drive
            drive = self._begin(program.stage(coarser), coarser, stage, before, images)
            if coarser:
                yield from drive.to(COARSE_EVALUATIONS)
        assert drive is not None
        for snapshot in steps[len(images) :]:
            # Pass k settles x_k and its loss, so both are known once pass k is done.
            yield from drive.to(snapshot + 1)
            images.append(drive.rows(lambda state: state.best if keep == "best" else state.evaluated))
        info = jax.tree.map(lambda *parts: np.swapaxes(np.concatenate(parts), 0, 1)[:count], *drive.infos)
        diverged = drive.rows(lambda state: state.diverged_step)[:count]
        return Outcome(
            images=np.stack(images, axis=1)[:count],
            info=info,
            # A step past the last one is not wanted, so failing to reach it is no divergence.
            diverged_step=np.where(diverged > steps[-1], -1, diverged),
        )

    def _begin(
        self,
        program: Program,
        coarser: int,
        stage: Stage,
        before: np.ndarray | Drive | Progress,
        images: Sequence[np.ndarray],
    ) -> Drive:
        """A stage ready to start from images or from the stage before it, or to go on from `Progress`."""
        compiled, _ = self.compile(program)
        knobs, targets = self._parts(stage.knobs, program), self._parts(stage.targets, program)
        infos, done = (), 0
        if isinstance(before, Progress):
            kept = self._parts(list(before.state), program)
            states = [jax.tree.unflatten(compiled.state, leaves) for leaves in kept]
            infos, done = before.infos, before.passes
        elif isinstance(before, np.ndarray):
            noisy = bool(np.any(stage.knobs.noise_std))
            starts = self._parts(before, program)
            states = [compiled.init(own, at, noisy) for own, at in zip(knobs, starts, strict=True)]
        else:
            key = before.program, self._step_key(program)
            if key not in _refine_programs:
                _refine_programs[key] = refine_cells(program, self._mesh)
            refine = _refine_programs[key]
            states = [
                refine(own, part.state.best, part.knobs.extent)
                for own, part in zip(knobs, before.parts, strict=True)
            ]
        params = self.network(program).params
        parts = [
            Part(own, state, functools.partial(compiled.segment, params, own, rows))
            for own, state, rows in zip(knobs, states, targets, strict=True)
        ]
        rate = NOMINAL_FLOPS[nominal_platform(self.device.platform)]
        return Drive(program, coarser, parts, rate, images, infos, done)

    def _parts(self, tree: Any, program: Program) -> list[Any]:
        """The rows of a launch on the devices, in parts of `program.width` on each."""
        return [self._put(part, CELL) for part in in_parts(tree, program.width * len(self.devices))]


def _unused(role: str) -> dict[str, tuple[()]]:
    """The empty fields of targets of a content, or of a style."""
    return {"style": ()} if role == "content" else {"content": ()}


def _digest(pixels: np.ndarray) -> str:
    """The SHA-256 of an array, with its shape and type."""
    data = np.ascontiguousarray(pixels)
    return f"{data.shape} {data.dtype} {hashlib.sha256(data.tobytes()).hexdigest()}"


def _functions(program: Program) -> tuple[Any, ...]:
    """The functions and fields of a program's rows, which a plugin may replace while a process runs."""
    rows = [TERMS[name] for name in program.terms]
    terms = [(row.name, row.of, row.taps, row.loss, row.keep, TERMS.turns[row.name]) for row in rows]
    turns = POOLINGS.turns[program.pool], OPTIMIZERS.turns[program.optimizer]
    return POOLINGS[program.pool].pool, turns, *terms
