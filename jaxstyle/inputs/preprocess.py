"""The network's own space: BGR, mean-subtracted."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

MEAN_RGB = np.array([123.68, 116.779, 103.939], np.float32)
"""The mean pixel as R, G, B, which is the network's zero."""


def to_network(image: Float[Any, "h w 3"]) -> Float[Any, "h w 3"]:
    """RGB pixels, 0 to 255, converted to VGG19's input: minus the mean pixel, channels in BGR order."""
    return (image - MEAN_RGB)[..., ::-1]


def luma(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, rounded to the nearest, in all channels."""
    r, g, b = (pixels[..., channel].astype(np.int32) for channel in range(3))
    grey = (299 * r + 587 * g + 114 * b + 500) // 1000
    return np.repeat(grey[..., None].astype(np.uint8), 3, axis=-1)


LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in luma (ITU-R BT.601), of values as they are in a file."""


def mean_image(height_px: int, width_px: int, *, grey: bool = False) -> Float[np.ndarray, "h w 3"]:
    """The image that is zero to the network, on which a noise start is centred; with `grey` its luma."""
    pixel = np.full(3, MEAN_RGB @ LUMA, np.float32) if grey else MEAN_RGB
    return np.broadcast_to(pixel, (height_px, width_px, 3)).astype(np.float32)
