"""Finished pictures of a launch: each as it is saved, and the loss of that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxstyle.inputs import finishing, recolour
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.inputs.preprocess import LUMA
from jaxstyle.plan.cells import Cell
from jaxstyle.plan.programs import Program
from jaxstyle.spec.colours import COLOURS
from jaxstyle.spec.settings import Sweep

if TYPE_CHECKING:
    from jaxstyle.device.drive import Launch
    from jaxstyle.device.engine import Engine


class Finisher(NamedTuple):
    """The finishing of launches, and the evaluation of what it makes of their pictures."""

    sweep: Sweep
    pictures: Pictures
    engine: Engine
    program: Program
    launch: Launch
    """The launches, side by side."""

    @property
    def _keeps_chroma(self) -> bool:
        return COLOURS[self.sweep.colour].keeps_chroma

    @property
    def keeps_floats(self) -> bool:
        """Whether pictures are also kept unrounded."""
        return self.sweep.image_format != Sweep.image_format

    def images(self, cells: Sequence[Cell], images: np.ndarray) -> np.ndarray:
        """`images` (cells, snapshots, h, w, 3), on the program's canvas, in their colours and finished."""
        if self.sweep.finish == "none" and not self._keeps_chroma:
            return images
        found = images.copy()
        for own, cell in zip(found, cells, strict=True):
            height, width = self.pictures.shape(cell)
            for image in own:
                image[:height, :width] = self._finished(cell, image[:height, :width])
        return found

    def _finished(self, cell: Cell, image: np.ndarray) -> np.ndarray:
        """A picture of one cell: lumas get their histogram, then chroma is put back, then contrast acts."""
        if self.sweep.finish == "histogram":
            parts = cell.style_parts
            references = [self.pictures.style_pixels(source) for source, _ in parts]
            image = finishing.rank_matched(image, references, [share for _, share in parts])
        if self._keeps_chroma:
            image = recolour.with_chroma(image, self.pictures.coloured[cell.content])
        if self.sweep.finish == "contrast":
            image = finishing.with_contrast(image, self.sweep.rms_contrast, self.sweep.mean_luminance)
        return image

    def losses(self, rows: Sequence[int], pixels: np.ndarray) -> dict[str, np.ndarray]:
        """The total loss of saved pictures, `loss_finished`, as a curve of one point; nothing unfinished.

        Args:
            rows: the place of each picture's cell in the launch.
            pixels: uint8 (cells, h, w, 3).
        """
        if self.sweep.finish == "none":
            return {}
        images = np.zeros(self.launch_shape, np.float32)
        # What the network is shown of a picture whose chroma was put back is its luma.
        images[list(rows)] = (pixels @ LUMA)[..., None] if self._keeps_chroma else pixels
        return {"loss_finished": self.engine.losses_of(self.program, self.launch, images)[list(rows)]}

    @property
    def launch_shape(self) -> tuple[int, ...]:
        """Shape of an array with an image for every row of the launch."""
        program = self.program
        return len(self.launch.start), program.height_px, program.width_px, 3
