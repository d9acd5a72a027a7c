"""The section of a page that shows regions: each image under its maps in colours, from `regions.h5`."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from jaxstyle.derived.thumbnails import SourcePictures, jpeg_uri, scaled
from jaxstyle.inputs.resize import fit
from jaxstyle.rundir.hdf5 import members, open_h5
from jaxstyle.rundir.records import Record
from jaxstyle.rundir.regions_h5 import FILE, OWN, is_there
from jaxstyle.spec.blends import files_of
from jaxstyle.spec.regions import MASKS

MAX_SHOWN = 48
"""The most divisions of images into regions that a page shows."""
LONGEST_PX = 240
STRENGTH = 0.55
"""The part that a colour has of a pixel."""


def colours(count: int) -> Float[np.ndarray, "count 3"]:
    """Colours of some regions, 0 to 255, evenly around the circle and light and dark in turn."""
    found = [colorsys.hls_to_rgb(i / count, 0.6 if i % 2 else 0.4, 0.9) for i in range(count)]
    return 255 * np.array(found)


def overlay(
    maps: Float[np.ndarray, "regions h w"], image: UInt8[np.ndarray, "_h _w 3"] | None
) -> UInt8[np.ndarray, "h w 3"]:
    """Maps of regions in colours, on an image if there is one; what no region has stays as it is."""
    height, width = maps.shape[1:]
    base = np.full((height, width, 3), 255.0) if image is None else fit(image, height, width).astype(float)
    share = maps.sum(0)[..., None] * (1.0 if image is None else STRENGTH)
    mixed = np.einsum("rhw,rc->hwc", maps, colours(len(maps))) / np.maximum(maps.sum(0), 1e-9)[..., None]
    return np.clip(base * (1 - share) + mixed * share, 0, 255).astype(np.uint8)


def regions_section(record: Record) -> dict[str, Any] | None:
    """Figures of the regions of a run and their number; None without any, and for a damaged file."""
    path = record.path / FILE
    if not is_there(record.path):
        return None
    try:
        return _section(record, path)
    except (OSError, KeyError, StopIteration):  # damaged within
        return None


def _section(record: Record, path: Path) -> dict[str, Any]:
    paths = {
        (axis, record.given(axis, of)): of for axis in ("content", "style") for of in _files(record, axis)
    }
    sources, figures, total = SourcePictures(record), [], 0
    with open_h5(path) as file:
        for role in ("picture", "style"):
            node = file.get(role)
            for group in members(node) if isinstance(node, h5py.Group) else []:
                total += 1
                if total > MAX_SHOWN:
                    continue
                axis = "content" if role == "picture" else "style"
                text, kind = str(group.attrs["image"]), str(group.attrs["regions"])
                of = paths.get((axis, text)) or paths.get(("style", text))
                figures.append(_figure(group, role, text, kind, None if of is None else sources(of)))
    return {"figures": figures, "total": total}


def _files(record: Record, axis: str) -> list[str]:
    return [path for value in record.values[axis] for path in files_of(value)]


def _figure(group: h5py.Group, role: str, text: str, kind: str, image: np.ndarray | None) -> dict[str, str]:
    tap = next(name for name in group if name not in OWN)
    maps = np.asarray(group[tap], np.float64)
    names = [bytes(name).decode() for name in np.asarray(group["region"])]
    about = f"{text}, {kind}"
    if kind == MASKS:
        shares = np.asarray(group["share"]) if "share" in group else np.full(len(names), np.nan)
        own = zip(names, shares, maps.max((1, 2)) > 0, strict=True)
        each = [n if np.isnan(s) else f"{n} {100 * s:.0f} %" for n, s, there in own if there]
        about += f": {', '.join(each)}"
    whole = scaled(overlay(maps, image), LONGEST_PX)
    if max(whole.size) < LONGEST_PX:
        factor = LONGEST_PX // max(whole.size) or 1
        whole = whole.resize((whole.width * factor, whole.height * factor), Image.Resampling.NEAREST)
    what = "pictures of " if role == "picture" else "style "
    return {"src": jpeg_uri(whole, quality=85, subsampling=0), "caption": what + about}
