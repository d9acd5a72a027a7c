"""Masks: images whose every colour is a region of another image.

A mask belongs to an image of the same proportions. It goes with that image through all changes of size, by
the area that each region has of a pixel, so that the maps of all regions sum to 1 everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from jaxstyle.inputs.decode import Picture, read
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.regions import MAX_REGIONS, colour_name

PNG = b"\x89PNG\r\n\x1a\n"
"""The first bytes of a PNG file."""


@dataclass(frozen=True)
class Mask:
    """A mask, as decoded."""

    names: tuple[str, ...]
    """Names of its regions: grey levels first, then in the order of the alphabet."""
    labels: UInt8[np.ndarray, "h w"]
    """The region of every pixel, by its place in `names`."""

    def maps(
        self, height: int, width: int, *, filled: bool = False
    ) -> Float[np.ndarray, "regions height width"]:
        """Maps of the regions at another size: the share that each has of a pixel.

        Args:
            height: in px.
            width: in px.
            filled: whether the image fills that size, with the rest cropped about the centre.
        """
        found = []
        for index in range(len(self.names)):
            own = Image.fromarray((self.labels == index).astype(np.float32))
            if filled:
                own = ImageOps.fit(own, (width, height), Image.Resampling.BOX, centering=(0.5, 0.5))
            elif own.size != (width, height):
                own = own.resize((width, height), Image.Resampling.BOX)
            found.append(np.asarray(own, np.float32))
        return np.stack(found)


def read_mask(path: str, renamed: Mapping[str, str]) -> tuple[Mask, Picture]:
    """The mask in a PNG file, and the file as a picture.

    Args:
        path: its path.
        renamed: names of regions by grey level or colour; several colours with one name are one region.

    Raises:
        JaxstyleError: for a file that is no PNG, and one with too many regions.
    """
    picture = read(path)
    with open(path, "rb") as file:
        if file.read(len(PNG)) != PNG:
            why = "a mask must be a PNG, for other formats change its colours; save it as one"
            raise JaxstyleError(path, why)
    wide = picture.pixels.astype(np.int32)
    codes, places = np.unique(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], return_inverse=True)
    colours = [colour_name(*code.to_bytes(3, "big")) for code in map(int, codes[: 100 * MAX_REGIONS])]
    own = [renamed.get(colour, colour) for colour in colours]
    names = tuple(sorted(set(own), key=_order))
    if len(names) > MAX_REGIONS or len(codes) > len(colours):
        count = f"{len(names)} regions" if len(codes) == len(colours) else f"{len(codes)} colours"
        mend = "draw it without soft edges, or give several colours one name in [regions]"
        raise JaxstyleError(path, f"has {count}; at most {MAX_REGIONS} are possible: {mend}")
    numbers = np.array([names.index(name) for name in own], np.uint8)
    return Mask(names, numbers[places.reshape(picture.pixels.shape[:2])]), picture


def _order(name: str) -> tuple[int, int, str]:
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def check_fits(path: str, mask: Mask, image: str, shape: tuple[int, int]) -> None:
    """Raise JaxstyleError unless a mask has the proportions of its image, to a pixel of rounding."""
    (h, w), (height, width) = mask.labels.shape, shape
    if abs(w * height - h * width) > max(w, h, width, height):
        why = f"is {w}x{h} and its image {image} is {width}x{height}; make it as large as the image"
        raise JaxstyleError(path, why)
