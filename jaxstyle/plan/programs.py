"""Programs, the units that are compiled separately, and what a step takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from jaxstyle.plan.nominal_rates import CHECKPOINT_SHARE, NOMINAL_WRITE, PASS_FLOPS, TILE_ROWS
from jaxstyle.plan.region_grids import part_count
from jaxstyle.plan.stages import COARSE_EVALUATIONS, halved_shape
from jaxstyle.spec.rows import NamedRow
from jaxstyle.spec.tables import LOSSES, OPTIMIZERS, PADDINGS, POOLINGS, STYLE_LOSSES, TERMS
from jaxstyle.vgg import layers

ADDED = ("terms", "own", "padding", "style_loss", "colour", "regions", "grids", "holds", "planes")
"""Fields of a program that some runs are older than."""
LEAST_PIXEL_BYTES = 1400
"""Bytes for each pixel that a cell takes at least, however few layers its losses use."""


@dataclass(frozen=True)
class Program:
    """The properties of one compiled step. Hashable: two equal programs share one compilation."""

    height_px: int
    width_px: int
    pool: str
    optimizer: str
    precision: str
    content_taps: tuple[str, ...]
    """Layers that the content loss of at least one cell uses, from the image downwards."""
    style_taps: tuple[str, ...]
    """Layers that the style loss of at least one cell uses, from the image downwards."""
    width: int
    """Cells per launch and device."""
    canvas: bool = False
    """Whether cells may be smaller than (height_px, width_px), with zeros around them."""
    lbfgs_memory: int = 0
    """Pairs that L-BFGS remembers; 0 for other optimizers."""
    coarser: int = 0
    """Number of coarser stages that a cell goes through first."""
    terms: tuple[str, ...] = ()
    """The optional loss terms that at least one cell has a weight for."""
    own: tuple[tuple[str, float], ...] = ()
    """The optimizer's own settings as `(name, value)`, except `lbfgs_memory`."""
    padding: str = "zeros"
    style_loss: str = "gram"
    colour: str = "free"
    regions: int = 0
    """Regions with a style target each; 0 for one target of the whole picture."""
    grids: tuple[str, ...] = ()
    """The grids whose tiles these are, all of them of that many tiles; none for masks."""
    holds: bool = False
    """Whether some regions keep the pixels of the content."""
    planes: bool = False
    """Whether it is computed in forms that suit a TPU, whose memory has tiles of 8 x 128 numbers: an image
    as three planes, poolings by strides, the vectors of L-BFGS as whole tiles (docs/tpu.md)."""

    @property
    def shape(self) -> str:
        """`HxW`, the name of the program's group in `results.h5`."""
        return f"{self.height_px}x{self.width_px}"

    @property
    def taps(self) -> tuple[str, ...]:
        """Every layer that its losses use, from the image downwards."""
        return layers.in_order((*self.content_taps, *self.style_taps, *self._term_taps))

    @property
    def _term_taps(self) -> tuple[str, ...]:
        return tuple(tap for name in self.terms for tap in TERMS[name].taps)

    @property
    def wraps(self) -> bool:
        """Whether a picture goes on at its opposite edge."""
        return PADDINGS[self.padding].wraps

    @property
    def knows_canvases(self) -> bool:
        """Whether its pooling, padding and terms ignore the part of a canvas that is outside the image.

        Regions do not: their maps are those of one shape.
        """
        rows = (POOLINGS[self.pool], PADDINGS[self.padding], *(TERMS[name] for name in self.terms))
        return not self.regions and all(row.canvas for row in rows)

    @property
    def plugin_rows(self) -> tuple[NamedRow, ...]:
        """The rows of plugins that it uses."""
        rows = POOLINGS[self.pool], OPTIMIZERS[self.optimizer], *(TERMS[name] for name in self.terms)
        return tuple(row for row in rows if row.origin is not None)

    @property
    def optimizer_settings(self) -> dict[str, float]:
        """All of its optimizer's own settings, by name."""
        own = {"lbfgs_memory": self.lbfgs_memory, **dict(self.own)}
        return {name: own[name] for name in OPTIMIZERS[self.optimizer].own}

    @property
    def _state_images(self) -> int:
        return OPTIMIZERS[self.optimizer].images(**self.optimizer_settings)

    @property
    def curves(self) -> int:
        """Number of values that are kept of every step."""
        terms = sum(TERMS[name].curve for name in self.terms)
        return len(LOSSES) + len(self.style_taps) + terms

    def record(self) -> dict[str, Any]:
        """The program for fingerprints and the manifest, without later additions at their default."""
        defaults = {f.name: f.default for f in fields(self) if f.name in ADDED}
        return {k: v for k, v in asdict(self).items() if k not in ADDED or v != defaults[k]}

    def stage(self, coarser: int) -> Program:
        """The program of one stage: halved `coarser` times, with no stages of its own."""
        height, width = halved_shape((self.height_px, self.width_px), coarser)
        return replace(self, height_px=height, width_px=width, coarser=0)

    @property
    def narrower(self) -> Program:
        """The program with half the width, for want of memory; with planes it is 1 or from `TILE_ROWS`."""
        half = self.width // 2
        return replace(self, width=1 if self.planes and half < TILE_ROWS else half)

    @property
    def coarse_image_steps(self) -> float:
        """Cost of the coarser stages of one cell, in steps of the full size."""
        return COARSE_EVALUATIONS * self.coarse_flops / self.step_flops

    @property
    def coarse_flops(self) -> float:
        """FLOPs of one cell for one evaluation in each of its coarser stages, added up."""
        return sum(self.stage(times).step_flops for times in range(1, self.coarser + 1))

    def cell_flops(self, steps: int) -> float:
        """FLOPs of all stages of a cell, up to the evaluation of its image after `steps` steps."""
        return (steps + 1) * self.step_flops + COARSE_EVALUATIONS * self.coarse_flops

    @property
    def step_flops(self) -> float:
        """FLOPs of one step of one cell."""
        others = (*self.content_taps, *self._term_taps)
        flops = layers.evaluation_flops(self.height_px, self.width_px, others, self.style_taps)
        if products := STYLE_LOSSES[self.style_loss].matrix_products:
            flops += 2.0 * products * sum(layers.tap(tap).channels ** 3 for tap in self.style_taps)
        if self.regions and not self.grids:  # a Gram matrix of the whole image for each; tiles share one
            flops += (self.regions - 1) * layers.gram_flops(self.height_px, self.width_px, self.style_taps)
        return flops

    @property
    def step_cost(self) -> float:
        """Time of one step of one cell, in FLOPs: those of its pixels, and its share of a pass's own."""
        return self.step_flops + PASS_FLOPS / self.width

    def trajectory_cost(self, steps: int) -> float:
        """Time of one cell's steps in all its stages, in FLOPs."""
        coarse = sum(self.stage(times).step_cost for times in range(1, self.coarser + 1))
        return steps * self.step_cost + COARSE_EVALUATIONS * coarse

    def facts(self) -> dict[str, Any]:
        """Its entry in a plan or a manifest, as far as both have it."""
        return {
            "shape": self.shape,
            "canvas": self.canvas,
            "pool": self.pool,
            "padding": self.padding,
            "style_loss": self.style_loss,
            "optimizer": self.optimizer,
            "precision": self.precision,
            "taps": list(self.taps),
            **({"colour": self.colour} if self.colour != Program.colour else {}),
            **({"terms": list(self.terms)} if self.terms else {}),
            **({"regions": self.regions, "grids": list(self.grids)} if self.regions else {}),
            "width": self.width,
        }

    def state_bytes(self) -> int:
        """Bytes of the state that a launch carries from step to step, which a checkpoint holds."""
        return self.width * (3 + self._state_images) * 4 * 3 * self.height_px * self.width_px

    def checkpoint_s(self, every: float) -> float:
        """Seconds between checkpoints: `every`, or more if writing them would exceed `CHECKPOINT_SHARE`."""
        return max(every, self.state_bytes() / NOMINAL_WRITE / CHECKPOINT_SHARE)

    def bytes_per_cell(self) -> int:
        """Approximate bytes of device memory that one cell of a launch takes while it is optimised.

        # The estimate is 1.9 times the float32 activations. XLA reports on a CPU, down to conv5_1 and with
        # arguments and results included: 2.64, 2.03, 1.82 and 1.79 times at 64, 128, 256 and 512 px, and
        # 1.94 for the second cell of a launch at 256 px. These include the two images of Adam's state. For
        # a TPU it is 2.2 times the activations in their own type: XLA reports 85 MB in bf16 and 184 MB in
        # f32 for a cell of 256 px, of eight, and 109 and 241 MB within a border (docs/tpu.md). With conv1_1
        # alone, the images and what its convolutions unfold weigh more: 935 to 1400 bytes a pixel on a CPU,
        # where activations are 256. The matting Laplacian adds 250 to 280 (at 256 and 384 px).
        """
        number_bytes = 2 if self.planes and self.precision == "bf16" else 4
        activations = number_bytes * layers.activation_floats(self.height_px, self.width_px, self.taps)
        images = self._state_images - 1 if self._state_images > 2 else 0
        history = images * 4 * 3 * self.height_px * self.width_px
        entries = sum(layers.tap(tap).channels ** 2 for tap in self.style_taps)
        matrices = 4 * STYLE_LOSSES[self.style_loss].matrices * entries + self._region_bytes(entries)
        pixels = self.height_px * self.width_px
        taken = max((2.2 if self.planes else 1.9) * activations, LEAST_PIXEL_BYTES * pixels)
        terms = pixels * sum(TERMS[name].pixel_bytes for name in self.terms)
        return int(taken) + history + matrices + terms + 4 * 2**20

    def _region_bytes(self, entries: int) -> int:
        """Bytes that regions take beside one style target: matrices of each, and features times every map.

        Args:
            entries: number of entries of the Gram matrices of one region.
        """
        if not self.regions:
            return 0
        shapes = [layers.feature_shape(tap, self.height_px, self.width_px) for tap in self.style_taps]
        parts = max((part_count(self.grids, h, w) for h, w, _ in shapes), default=0) if self.grids else 0
        weighed = 2 if self.grids else self.regions  # tiles are cut out, and put together
        return 4 * (
            (2 * self.regions + 2 * parts) * entries + weighed * sum(h * w * c for h, w, c in shapes)
        )


class Memory(NamedTuple):
    """Bytes that a launch takes on a device, as a linear function of its width."""

    fixed: int
    """Bytes of the weights, and of the convolutions' working memory."""
    per_cell: int
