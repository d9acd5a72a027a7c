"""Pull of the losses: how hard each of them moves the picture of one cell, measured at a given image.

The pull of a loss is the root mean square of its gradient, per pixel value of 0 to 255. Where content and
style pull equally, neither gives way at first, whatever the final picture is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxstyle.cell import colours, start
from jaxstyle.cell.knobs import knobs_of
from jaxstyle.cell.state import Targets
from jaxstyle.device.engine import Engine
from jaxstyle.device.jax_settings import default_settings
from jaxstyle.device.loss_balance import Balance, divided, plain_program
from jaxstyle.device.region_rows import image_maps, picture_rows, region_knobs
from jaxstyle.device.style_rows import style_rows
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.inputs.preprocess import mean_image
from jaxstyle.inputs.region_maps import RegionMaps
from jaxstyle.plan.cells import Cell
from jaxstyle.spec.colours import COLOURS
from jaxstyle.spec.settings import Sweep


@dataclass(frozen=True)
class Pull:
    """Pull of the losses at one image: root mean squares of their gradients, per pixel value."""

    content: float
    """Pull of L_content, without alpha."""
    style: float
    """Pull of L_style, without beta."""
    layer: dict[str, float]
    """Pull of w_l E_l, by layer."""

    @property
    def alpha_beta(self) -> float:
        """The ratio at which content and style pull equally; infinite where the content does not pull."""
        return self.style / self.content if self.content else math.inf


@default_settings()
def measure_pull(
    sweep: Sweep, cell: Cell, balance: Balance, pictures: Pictures, engine: Engine
) -> dict[str, Pull]:
    """Pull of a cell's losses at a noise start (seed 0, `noise`) and at the content image (`content`)."""
    shape, maps = pictures.shape(cell), RegionMaps(pictures)
    held = COLOURS[sweep.colour].program
    program = divided(plain_program(cell, shape, [cell]), cell, maps)
    regions = region_knobs(maps, cell, program, 0, 0)
    content = engine.target_rows(program, pictures.content[cell.content], of_cells=True)
    style = style_rows(
        cell,
        program,
        pictures.targets,
        lambda part: engine.target_rows(
            program, pictures.style_pixels(part), maps=image_maps(maps, cell, part, program, 0)
        ),
    )
    own = Targets(content.content, style.style, regions=picture_rows(maps, cell, program, 0))
    targets = jax.tree.map(lambda kept: kept[None], own)
    base = knobs_of(cell, program, sweep, content_row=0, style_row=0, extent=shape, regions=regions)

    def rms(image: np.ndarray, alpha: float, weights: Mapping[str, float]) -> float:
        knobs = base._replace(
            content_weight=np.float32(alpha),
            style_weight=np.float32(1.0),
            tv_weight=np.float32(0.0),
            style_layer_weights=np.array([weights.get(n, 0.0) for n in program.style_taps], np.float32),
        )
        seen = colours.projected(held, jnp.asarray(engine.gradient(program, knobs, targets, image)))
        gradient = np.asarray(seen, np.float64)
        return float(np.sqrt(np.square(gradient).mean()))

    noise = colours.noise_in(held, start.noise(np.asarray(0, np.uint32), (*shape, 3)))
    starts = {
        "noise": mean_image(*shape, grey=pictures.grey) + cell.noise_std * np.asarray(noise),
        "content": pictures.content[cell.content].astype(np.float32),
    }
    return {
        name: Pull(
            content=rms(image, 1.0, {}),
            style=rms(image, 0.0, balance.weights),
            layer={layer: rms(image, 0.0, {layer: w}) for layer, w in balance.weights.items()},
        )
        for name, image in starts.items()
    }
