"""Files of pictures as they were before they were rounded to 8 bits: PNG of 16 bits, NumPy, TIFF of floats.

Pixels are RGB, float32, (h, w, 3); 0 is black and 255 is white, and pixels that were not clamped may lie
beyond. Pillow writes neither image format; both are written here without compression's choices, so that
the same pixels give the same bytes.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

Pixels = Float[np.ndarray, "h w 3"]
PER_LEVEL = 257
"""Levels of 16 bits in one of 8 bits: 255 * 257 = 65535."""


def png16_bytes(pixels: Pixels) -> bytes:
    """A PNG of 16 bits a channel: pixels times 257, rounded half to even and clipped."""
    height, width, _ = pixels.shape
    levels = np.clip(np.rint(pixels.astype(np.float64) * PER_LEVEL), 0, 65535).astype(">u2")
    rows = np.zeros((height, 1 + 6 * width), np.uint8)  # every row begins with its filter: none
    rows[:, 1:] = levels.reshape(height, -1).view(np.uint8)
    header = struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, data) for kind, data in parts)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def npy_bytes(pixels: Pixels) -> bytes:
    """A NumPy file of float32 (h, w, 3)."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(pixels, "<f4"), allow_pickle=False)
    return buffer.getvalue()


def tiff_bytes(pixels: Pixels) -> bytes:
    """A baseline TIFF of 32-bit floats (SampleFormat 3), RGB, one strip, little-endian."""
    height, width, _ = pixels.shape
    data = np.ascontiguousarray(pixels, "<f4").tobytes()
    short, long = 3, 4
    entries = [  # tag, type, count, value; three shorts do not fit into one and stand before the pixels
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, 3, 8),  # BitsPerSample, at byte 8
        (259, short, 1, 1),  # no compression
        (262, short, 1, 2),  # RGB
        (273, long, 1, 20),  # the strip, at byte 20
        (277, short, 1, 3),
        (278, long, 1, height),
        (279, long, 1, len(data)),
        (284, short, 1, 1),
        (339, short, 3, 14),  # SampleFormat, at byte 14
    ]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<2H2I", *entry) for entry in entries) + struct.pack("<I", 0)
    before = struct.pack("<2sHI", b"II", 42, 20 + len(data)) + struct.pack("<6H", 32, 32, 32, 3, 3, 3)
    return before + data + directory


FORMATS: Mapping[str, tuple[str, Callable[[Pixels], bytes]]] = {
    "png16": (".png", png16_bytes),
    "npy": (".npy", npy_bytes),
    "tiff": (".tiff", tiff_bytes),
}
"""End of the file name, and function of the pixels, by the value of `Sweep.image_format`."""
