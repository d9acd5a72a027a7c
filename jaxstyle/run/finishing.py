"""Finished pictures of a launch: each as it is saved, and the loss of that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxstyle.inputs import finishing
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.plan.cells import Cell
from jaxstyle.plan.programs import Program
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
    def keeps_floats(self) -> bool:
        """Whether pictures are also kept unrounded."""
        return self.sweep.image_format != Sweep.image_format

    def images(self, cells: Sequence[Cell], images: np.ndarray) -> np.ndarray:
        """`images` (cells, snapshots, h, w, 3), on the program's canvas, after finishing."""
        if self.sweep.finish == "none":
            return images
        found = images.copy()
        for own, cell in zip(found, cells, strict=True):
            height, width = self.pictures.shape(cell)
            for image in own:
                image[:height, :width] = self._finished(cell, image[:height, :width])
        return found

    def _finished(self, cell: Cell, image: np.ndarray) -> np.ndarray:
        if self.sweep.finish == "contrast":
            return finishing.with_contrast(image, self.sweep.rms_contrast, self.sweep.mean_luminance)
        parts = cell.style_parts
        references = [self.pictures.style[source] for source, _ in parts]
        return finishing.rank_matched(image, references, [share for _, share in parts])

    def losses(self, rows: Sequence[int], pixels: np.ndarray) -> dict[str, np.ndarray]:
        """The total loss of saved pictures, `loss_finished`, as a curve of one point; nothing unfinished.

        Args:
            rows: the place of each picture's cell in the launch.
            pixels: uint8 (cells, h, w, 3).
        """
        if self.sweep.finish == "none":
            return {}
        images = np.zeros(self.launch_shape, np.float32)
        images[list(rows)] = pixels
        return {"loss_finished": self.engine.losses_of(self.program, self.launch, images)[list(rows)]}

    @property
    def launch_shape(self) -> tuple[int, ...]:
        """Shape of an array with an image for every row of the launch."""
        program = self.program
        return len(self.launch.start), program.height_px, program.width_px, 3
