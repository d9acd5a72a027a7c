"""Small pictures, as a page or a sheet shows them."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxstyle.inputs import decode
from jaxstyle.inputs.resize import fit
from jaxstyle.rundir.records import Record
from jaxstyle.spec import blends
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.values import is_path

SOURCE_PX = 224
"""The longest edge, in px, of contents and styles that are kept for the heads of rows and columns."""
MAX_HEADS = 1_000
"""The most contents and styles whose pictures are in the page."""


class _Thumbnail(NamedTuple):
    """The form in which pictures are kept in a page of at most `tiles` pictures."""

    tiles: int
    longest_px: int
    quality: int
    subsampling: int


THUMBNAILS = (
    _Thumbnail(100, 256, 90, 0),
    _Thumbnail(400, 192, 88, 0),
    _Thumbnail(1_000, 144, 85, 2),
    _Thumbnail(3_000, 96, 82, 2),
)
"""Forms by number of pictures; at these limits pure noise takes some 16 to 36 MB, real pictures a third."""
MAX_TILES = THUMBNAILS[-1].tiles
"""The most pictures that a page, or all sheets of a run, contain; of more, a part is shown."""


def scaled(pixels: UInt8[np.ndarray, "h w 3"], longest: int) -> Image.Image:
    """`pixels` as an image, reduced if its longest edge is over `longest` px."""
    image = Image.fromarray(pixels)
    if max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return image


def data_uri(kind: str, data: bytes) -> str:
    """A `data:` URI, so that the page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def jpeg_uri(image: Image.Image, *, quality: int, subsampling: int) -> str:
    """An image as the `data:` URI of a JPEG."""
    buffer = io.BytesIO()
    # Not with `optimize`: Pillow then fails on noise, whose JPEG has more bytes than the image has pixels.
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return data_uri("image/jpeg", buffer.getvalue())


class SourcePictures:
    """The contents and styles of a run, as long as their files are still there and the same."""

    def __init__(self, record: Record):
        self._digests = record.sweep.digests
        self._found: dict[str, np.ndarray | None] = {}

    def __call__(self, value: str) -> np.ndarray | None:
        """The reduced pixels of an image, given by its path, or None if there is none, or it has changed.

        Of a blend, they are strips of its images side by side, each as wide as its weight says.
        """
        if not blends.is_blend(value):
            return self._image(value)
        parts = blends.parts_of(value)
        images = [self._image(path) for path, _ in parts]
        ends = np.cumsum([0.0, *(weight for _, weight in parts)]) * SOURCE_PX
        edges = np.round(ends).astype(int)
        strips = [
            fit(image, SOURCE_PX, SOURCE_PX)[:, begin:end]
            for image, begin, end in zip(images, edges, edges[1:], strict=False)
            if image is not None
        ]
        return np.concatenate(strips, axis=1) if len(strips) == len(images) else None

    def _image(self, path: str) -> np.ndarray | None:
        if not is_path(path) or blends.is_targets(path):
            return None
        if path not in self._found:
            try:
                picture = decode.read(path)
            except JaxstyleError:
                self._found[path] = None
            else:
                same = picture.sha256 == self._digests.get(path, picture.sha256)
                self._found[path] = np.asarray(scaled(picture.pixels, SOURCE_PX)) if same else None
        return self._found[path]


class Heads:
    """The pictures of contents and styles that heads of rows and columns show, each once."""

    def __init__(self, record: Record):
        self._sources = SourcePictures(record)
        self._index: dict[str, int | None] = {}
        self.pictures: list[dict[str, str]] = []

    def add(self, path: str, text: str) -> int | None:
        """The number of the picture at `path`, which is added if it is new; None if there is none."""
        if path not in self._index:
            pixels = self._sources(path) if len(self.pictures) < MAX_HEADS else None
            self._index[path] = None if pixels is None else len(self.pictures)
            if pixels is not None:
                longest = 160 if len(self.pictures) < 100 else 80
                src = jpeg_uri(scaled(pixels, longest), quality=85, subsampling=0)
                self.pictures.append({"src": src, "text": text})
        return self._index[path]
