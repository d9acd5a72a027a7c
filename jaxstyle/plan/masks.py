"""The masks of a sweep: one for each content and each image of a style, in their order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.mask_order import OF_AXIS, images_of
from jaxstyle.spec.regions import MASKS
from jaxstyle.spec.resolve import grids_of
from jaxstyle.spec.settings import Sweep

Masks = Mapping[tuple[str, str], str]
"""Masks, each a path or a colour, by the axis (`content` or `style`) and the path of their image."""


def masks_of(sweep: Sweep) -> Masks:
    """The masks of a resolved sweep.

    Raises:
        JaxstyleError: unless there is one for every content and every image of a style where masks are
            asked for, and nothing of the kind where they are not. Images of grids without masks need none.
    """
    tables, found = grids_of(sweep, ["regions"]), {}
    wanted = any(MASKS in table["regions"] for table in tables)
    for key in ("leave", "hold"):
        if getattr(sweep, key) and not wanted:
            raise JaxstyleError(key, "is for --regions masks; give that too, or leave it out")
    for axis, key in OF_AXIS.items():
        images, masks = images_of(tables, axis), getattr(sweep, key)
        if masks and not wanted:
            raise JaxstyleError(key, "is for --regions masks; give that too, or leave it out")
        by_image = images.matched(masks) if wanted else {}
        if by_image is None:
            have = f"{len(masks)} mask{'' if len(masks) == 1 else 's'} for {len(images.masked)}"
            images_there = f"{axis} image{'' if len(images.masked) == 1 else 's'}"
            why = f"{have} {images_there}; give one for each, in their order"
            raise JaxstyleError(key, why)
        found |= {(axis, image): mask for image, mask in by_image.items()}
    return found


def with_masks(sweep: Sweep, masks: Masks) -> Sweep:
    """A resolved sweep whose contents or styles have changed, with the masks of those that it has now."""
    tables = grids_of(sweep, ["regions"])
    if not masks:
        return sweep
    own = {
        key: tuple(masks[axis, image] for image in images_of(tables, axis).masked if (axis, image) in masks)
        for axis, key in OF_AXIS.items()
    }
    return dataclasses.replace(sweep, **own)
