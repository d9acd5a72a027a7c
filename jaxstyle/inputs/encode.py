"""Pixels as files of images: RGB, 0 to 255, (h, w, 3)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

SAVED: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "quality": 95},
}
"""Pillow's options for saving a picture, by the suffix of its file name."""


def to_uint8(image: Float[np.ndarray, "*n h w 3"]) -> UInt8[np.ndarray, "*n h w 3"]:
    """Pixels as they are saved: rounded half to even, then clipped to the range 0 to 255."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def png_bytes(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """The bytes of a PNG file of `pixels`."""
    return file_bytes(pixels, ".png")


def file_bytes(pixels: UInt8[np.ndarray, "h w 3"], suffix: str) -> bytes:
    """The bytes of an image file of `pixels` with a suffix among `SAVED`."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **SAVED[suffix.lower()])
    return buffer.getvalue()
