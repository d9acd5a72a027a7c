"""Masks: images whose every colour is a region of another image.

A mask belongs to an image of the same proportions. It goes with that image through all changes of size, by
the area that each region has of a pixel, so that the maps of all regions sum to 1 everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from jaxstyle.inputs.decode import Picture, read
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.regions import MAX_REGIONS, as_colour, colour_name, region_name

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
        JaxstyleError: for a file that is no PNG, one with too many regions, and labels of 16 bits.
    """
    picture = read(path, as_stored=True)  # its levels are names
    with open(path, "rb") as file:
        if file.read(len(PNG)) != PNG:
            why = "a mask must be a PNG, for other formats change its colours; save it as one"
            raise JaxstyleError(path, why)
    with Image.open(path) as image:
        levels = np.unique(np.asarray(image)) if image.mode.startswith("I") else np.zeros(0, int)
        if len(np.unique(levels >> 8)) < len(levels):
            why = "has labels of 16 bits, of which names keep 8; save them as uint8"
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


def whole_mask(colour: str, renamed: Mapping[str, str]) -> Mask:
    """A mask that has one colour everywhere, for an image of any size."""
    name = region_name(colour)
    return Mask((renamed.get(name, name),), np.zeros((1, 1), np.uint8))


def _order(name: str) -> tuple[int, int, str]:
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def check_fits(path: str, mask: Mask, image: str, shape: tuple[int, int]) -> None:
    """Raise JaxstyleError unless a mask has the proportions of its image, to a pixel of rounding."""
    (h, w), (height, width) = mask.labels.shape, shape
    if (h, w) == (1, 1):
        return
    if abs(w * height - h * width) > max(w, h, width, height):
        why = f"is {w}x{h} and its image {image} is {width}x{height}; make it as large as the image"
        raise JaxstyleError(path, why)


def check_regions(
    path: str,
    names: Collection[str],
    of_style: Mapping[str, Collection[str]],
    leave: Iterable[str],
    hold: Iterable[str],
) -> None:
    """Raise JaxstyleError for a region that a content or its style lacks.

    Args:
        path: the mask of the content.
        names: its regions.
        of_style: the regions of the masks of a style's images, by mask.
        leave: regions that are left alone, which the style need not have.
        hold: regions that keep the content's pixels, which it need not have either.
    """
    for what, own in (("leave", leave), ("hold", hold)):
        if lacking := [name for name in own if name not in names]:
            raise JaxstyleError(what, f"{path} has no region {lacking[0]}; it has {', '.join(names)}")
    for mask, own in of_style.items():
        if lacking := [name for name in own if name not in names]:
            mend = "draw it, or take it out there"
            if as_colour(path) == path:
                mend = f"a colour is one region: give {path} as the style's too, or a PNG"
            why = f"has no region {lacking[0]}, which {mask} has; {mend}"
            raise JaxstyleError(path, why)
    if {*names} <= {*leave, *hold}:
        raise JaxstyleError("leave", f"all regions of {path} are left alone; give at least one a style")
    there = {*leave, *hold, *(name for own in of_style.values() for name in own)}
    if lacking := [name for name in names if name not in there]:
        why = f"no region {lacking[0]}, which {path} has; draw it, or give --leave {lacking[0]}"
        raise JaxstyleError(" and ".join(of_style), f"has {why}" if len(of_style) == 1 else f"have {why}")
