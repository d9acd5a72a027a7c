"""Sizes of images, and resampling to them (Pillow's LANCZOS in uint8 sRGB)."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from jaxstyle.plan.stages import halved_shape
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.vgg.layers import MIN_EDGE_PX


def check_edges(what: str, height_px: int, width_px: int, least_px: int = MIN_EDGE_PX) -> None:
    """Raise JaxstyleError if an image is too small for the poolings that it goes through."""
    if min(height_px, width_px) < least_px:
        size = f"{width_px}x{height_px}"
        of = " for pool5" if least_px > MIN_EDGE_PX else ""
        why = f"{size} px is too small{of}; both edges need {least_px} px"
        raise JaxstyleError(what, f"{why}: give a larger or less narrow image")


def target_shape(size: int | tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    """(h, w) in px of an image of `shape` after resizing to `size`: a longest edge, or an exact (w, h)."""
    if not isinstance(size, int):
        return size[1], size[0]
    longest = max(shape)
    h, w = (max(1, round(edge * size / longest)) for edge in shape)
    return h, w


def resize(pixels: UInt8[np.ndarray, "h w 3"], size: int | tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """`pixels` at `size`: a longest edge in px, or (w, h) to fill, with the rest cropped about the centre.

    The filter is LANCZOS in 8-bit sRGB. An image that already has its target size is returned unchanged.
    """
    h, w = target_shape(size, pixels.shape[:2])
    if not isinstance(size, int):
        return fit(pixels, h, w)
    if (h, w) == pixels.shape[:2]:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.LANCZOS))


def fit(pixels: UInt8[np.ndarray, "h w 3"], height_px: int, width_px: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """`pixels` scaled to fill `height_px` x `width_px` exactly, and cropped about the centre."""
    if (height_px, width_px) == pixels.shape[:2]:
        return pixels
    fitted = ImageOps.fit(
        Image.fromarray(pixels),
        (width_px, height_px),
        Image.Resampling.LANCZOS,
        centering=(0.5, 0.5),
    )
    return np.asarray(fitted)


def halved_shape_of(shape: tuple[int, int], times: int, least_px: int = MIN_EDGE_PX) -> tuple[int, int]:
    """(height, width) in px of an image of `shape` at the size of a coarser stage; see `halved`."""
    while times > 0 and min(halved_shape(shape, times)) < least_px:
        times -= 1
    return halved_shape(shape, max(0, times))


def halved(
    pixels: UInt8[np.ndarray, "h w 3"], times: int, *, wraps: bool = False, least_px: int = MIN_EDGE_PX
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """`pixels` at the size of a coarser stage (`stages.halved_shape`), by LANCZOS in 8-bit sRGB.

    An image is halved less often if it would otherwise become too small for the network.

    Args:
        pixels: the image.
        times: number of halvings.
        wraps: whether it goes on at its opposite edges, beyond which the filter then reads.
        least_px: the shortest edge that the network can take.
    """
    h, w = halved_shape_of((pixels.shape[0], pixels.shape[1]), times, least_px)
    if (h, w) == pixels.shape[:2]:
        return pixels
    if wraps:
        beyond = 4 << times  # LANCZOS reads three pixels of the result to each side
        box = (beyond, beyond, beyond + pixels.shape[1], beyond + pixels.shape[0])
        around = Image.fromarray(np.pad(pixels, ((beyond,) * 2, (beyond,) * 2, (0, 0)), mode="wrap"))
        return np.asarray(around.resize((w, h), Image.Resampling.LANCZOS, box=box))
    return np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.LANCZOS))
