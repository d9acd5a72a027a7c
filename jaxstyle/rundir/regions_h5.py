"""`regions.h5`: the maps T_r of the regions of a run's pictures and styles, at every style layer.

The groups `picture` and `style` have a group for every division of an image into regions, numbered from 0,
with these members:

    cell      the cells that use it, int64
    region    names of the regions
    share     lambda_r, float64; of pictures only
    conv1_1   T_r at a layer, float32 (region, y, x); 0 for a region that the layer leaves out

Its attributes are `image`, the image as the user named it (a texture's picture has that of its style),
`regions`, the kind, and `size`, `HxW` in px. All is of the full size; coarser stages follow the same rule.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jaxstyle.inputs.region_maps import RegionMaps, Source
from jaxstyle.plan.cells import Cell
from jaxstyle.rundir.hdf5 import LIBVER, open_h5, texts
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.regions import MASKS
from jaxstyle.spec.values import NONE
from jaxstyle.vgg import layers

FILE = "regions.h5"
"""Name of the file."""
OWN = ("cell", "region", "share")
"""Names of the members of a group that are no layers."""


def regions_bytes(cells: Sequence[Cell], maps: RegionMaps, text: Callable[[str, str], str]) -> bytes:
    """Bytes of `regions.h5`.

    Args:
        cells: all cells of the run.
        maps: the maps of their regions.
        text: function of an axis and a path: the image as the user named it.
    """
    divided = [cell for cell in cells if cell.regions != NONE]
    taps = layers.in_order(tap for cell in cells for tap in cell.layer_weights)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=LIBVER) as file:
        for role, found in _divisions(divided).items():
            for number, (own, source) in enumerate(found.values()):
                group = file.create_group(f"{role}/{number}")
                cell = own[0]
                path, axis = (cell.content, "content") if cell.has_content else (cell.style, "style")
                path, axis = (path, axis) if source is None else (source[0], "style")
                whole = maps.at_size(cell, source, 0)
                group.attrs["image"] = text(axis, path)
                group.attrs["regions"] = cell.regions
                group.attrs["size"] = "x".join(map(str, whole.shape[1:]))
                group["cell"] = np.array([c.id for c in own], np.int64)
                group["region"] = texts(maps.names(cell))
                if source is None:
                    group["share"] = maps.shares(cell)
                for tap in taps:
                    values = maps.at(cell, source, tap)
                    group.create_dataset(tap, data=values, compression="gzip", shuffle=True)
    return buffer.getvalue()


def is_there(run: Path) -> bool:
    """Whether a run directory has the file, and it is one."""
    try:
        with open_h5(run / FILE):
            return True
    except (JaxstyleError, OSError):
        return False


def _divisions(cells: Iterable[Cell]) -> dict[str, dict[Any, tuple[list[Cell], Source]]]:
    """The cells of every division of a picture (source None) and of an image of a style, by their kind."""
    found: dict[str, dict[Any, tuple[list[Cell], Source]]] = {"picture": {}, "style": {}}
    for cell in cells:
        by = cell.content if cell.regions == MASKS else ""
        found["picture"].setdefault((cell.regions, cell.shaped_by), ([], None))[0].append(cell)
        for source, _ in cell.style_parts:
            found["style"].setdefault((cell.regions, source, by), ([], source))[0].append(cell)
    return found
