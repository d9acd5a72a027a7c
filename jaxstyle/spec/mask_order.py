"""Masks and their images: a list of masks has the order of the images that its own source names.

Masks are given as lists, one for each content and one for each image of a style. A stronger source of
settings may name other images; each mask then stays with its image.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxstyle.spec.blends import files_of
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.paths import sha256
from jaxstyle.spec.regions import MASKS
from jaxstyle.spec.settings import MASK_KEYS
from jaxstyle.spec.values import as_values

OF_AXIS = dict(zip(("content", "style"), MASK_KEYS, strict=True))
"""Names of the settings of masks, by the axis of their images."""
_OF_MASKS = (*MASK_KEYS, "leave", "hold")


class Images(NamedTuple):
    """The distinct images of an axis, in order."""

    every: tuple[str, ...]
    masked: tuple[str, ...]
    """Images of grids whose regions are masks, in the order that they have among all."""

    def matched(self, masks: Sequence[Any]) -> dict[str, Any] | None:
        """Masks by their images, of which they are for all or for the masked; None for another number."""
        for images in self:
            if len(images) == len(masks):
                return dict(zip(images, masks, strict=True))
        return None


def images_of(tables: Iterable[Mapping[str, Any]], axis: str) -> Images:
    """The images that some grids name on an axis, each grid with all its values."""
    every, masked = dict[str, None](), set[str]()
    for table in tables:
        own = [path for value in _texts(table.get(axis, ())) for path in files_of(value)]
        every |= dict.fromkeys(own)
        if MASKS in as_values(table.get("regions", ())):
            masked |= {*own}
    return Images(tuple(every), tuple(image for image in every if image in masked))


def _texts(given: Any) -> list[str]:
    return [value for value in as_values(given) if isinstance(value, str)]


def as_checked(masks: Any, written: Iterable[str], checked: Iterable[Mapping[str, Any]]) -> tuple[Any, ...]:
    """Masks of styles in the order of checked values, which lack the parts of weight 0 of a blend.

    Args:
        masks: in the order in which the settings are written.
        written: the images in that order, those of weight 0 too; they may repeat.
        checked: grids of checked values.
    """
    masks, every = as_values(masks), tuple(dict.fromkeys(written))
    kept, masked = images_of(checked, "style")
    left = (tuple(image for image in every if image in some) for some in (kept, masked))
    for images, own in zip((every, *left), (kept, kept, masked), strict=True):
        if len(images) == len(masks) and {*own} <= {*images}:
            by = dict(zip(images, masks, strict=True))
            return tuple(by[image] for image in own)
    return masks


def inherit(
    found: dict[str, Any],
    tables: Sequence[Mapping[str, Any]],
    before: Sequence[Mapping[str, Any]],
    own: Collection[str],
    *,
    resumes: bool,
) -> None:
    """Give the images of a stronger source the masks that weaker ones have for them, in `found`.

    Where it asks for other regions than masks, those of weaker sources go.

    Args:
        found: the values of all sources up to it; changed.
        tables: its grids, or those that stay, each with all values.
        before: the grids without it.
        own: the settings that it names.
        resumes: whether a run is gone on with, whose masks are compared later, with what it has become.

    Raises:
        JaxstyleError: for an image that has no mask.
    """
    if _asks(before) and not _asks(tables):
        for key in _OF_MASKS:
            if key not in own:
                found.pop(key, None)
    for axis, key in OF_AXIS.items():
        had, has = images_of(before, axis), images_of(tables, axis)
        if resumes or key in own or not found.get(key) or not had.every or had == has:
            continue
        masks = _with_copies(had.matched(as_values(found[key])) or {}, has.masked)
        if missing := [image for image in has.masked if image not in masks]:
            flag = key.replace("_", "-")
            raise JaxstyleError(
                key, f"there is no mask for {missing[0]}; give --{flag}, one for each {axis} image"
            )
        found[key] = [masks[image] for image in has.masked]


def _with_copies(masks: dict[str, Any], images: Iterable[str]) -> dict[str, Any]:
    """Masks by image, also of images that are files of the same bytes as one that has a mask."""
    for image in (image for image in images if image not in masks):
        digest = sha256(image)
        same = (own for own in masks if digest is not None and sha256(own) == digest)
        if (own := next(same, None)) is not None:
            masks = {**masks, image: masks[own]}
    return masks


def _asks(tables: Iterable[Mapping[str, Any]]) -> bool:
    return any(MASKS in as_values(table.get("regions", ())) for table in tables)
