"""JPEG files, segment by segment: a phone's may hold a gain map or a second view beside its picture."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from jaxstyle.inputs.containers import Container, cut
from jaxstyle.inputs.tiff import Tiff
from jaxstyle.spec.errors import JaxstyleError

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Markers that end a scan: within a scan, a byte of 255 is followed by 0 or is part of a restart marker."""
_LOSSLESS, _HIERARCHICAL = (0xC3, 0xCB), (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF)
_FURTHER_PICTURES = re.compile(
    rb"hdrgm:|HDRGainMap|GDepth:|GImage:|GContainer|Container:Directory|ns\.google\.com/photos/dd"
)
"""Signs in XMP of further pictures beside the primary one."""
_NUMBER_OF_IMAGES = 45057
"""The tag of a multi-picture index with the number of its pictures."""


def jpeg_container(path: str, data: bytes) -> Container:
    """A JPEG without its index of further pictures, so that a decoder sees only the first picture."""
    cuts: list[tuple[int, int, bytes]] = []
    others, profile, scan = False, None, None
    for at, end, marker in _segments(data):
        body = memoryview(data)[at + 4 : end]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            _check_frame(path, marker, body)
        if marker == 0xE1 and body[:20] == b"http://ns.adobe.com/":
            others |= bool(_FURTHER_PICTURES.search(body))
        elif marker == 0xE2 and body[:4] == b"MPF\0":
            cuts.append((at, end, b""))
            others |= _pictures(body[4:].tobytes()) > 1
        elif marker == 0xE2 and body[:12] == b"ICC_PROFILE\0":
            profile = b""  # the decoder joins its parts, and has no profile if it cannot
        elif marker == 0xDA:
            scan = end
    end = _end_of_scans(data, scan) if scan else None
    if end is not None and data.find(b"\xff\xd8\xff", end) >= 0:
        others = True
    note = "only its primary picture is used: a gain map, a depth map or a second view is left out"
    return Container(cut(data, cuts), (note,) if others else (), profile)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Start, end and marker of every segment, up to and including the first scan's header."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xD9 or end > len(data):
            return
        yield at, end, marker
        if marker == 0xDA:
            return
        at = end


def _check_frame(path: str, marker: int, body: memoryview) -> None:
    """Raise JaxstyleError for a frame of an unsupported kind of JPEG."""
    bits = body[0] if body else 8
    if marker == 0xF7:
        kind = "a JPEG-LS file"
    elif marker in _LOSSLESS:
        kind = "a lossless JPEG"
    elif marker in _HIERARCHICAL:
        kind = "a hierarchical JPEG"
    elif bits != 8:
        kind = f"a {bits}-bit JPEG"
    else:
        return
    raise JaxstyleError(path, f"is {kind}, which is not supported; save it as an ordinary 8-bit JPEG")


def _end_of_scans(data: bytes, at: int) -> int | None:
    """The end of the picture whose first scan begins at `at`; None if it has no end marker."""
    while found := _MARKER.search(data, at):
        at = found.end()
        if data[at - 1] == 0xD9:
            return at
        if data[at - 1] >= 0xC0 and data[at - 1] != 0xD8:
            at += int.from_bytes(data[at : at + 2])
    return None


def _pictures(index: bytes) -> int:
    """Number of pictures that a multi-picture index (CIPA DC-007) lists; 0 if it cannot be read."""
    try:
        reader = Tiff(index)
        return reader.numbers(reader.directory(reader.first), _NUMBER_OF_IMAGES, (0,))[0]
    except (struct.error, ValueError):
        return 0
