"""PNG files, chunk by chunk: without texts, which may be megabytes, and with labels of colour set apart."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from jaxstyle.inputs.containers import MAX_PROFILE_BYTES, Container, cut

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT_BYTES = 2**20
"""Size limit of an unpacked text that gives the orientation."""
_COLOURS = (b"cICP", b"sRGB", b"gAMA", b"cHRM")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_XMP = b"XML:com.adobe.xmp"
_ORIENTATION_KEYWORDS = (_XMP, b"Raw profile type exif", b"exif")
"""Keywords of the texts in which a decoder looks for an orientation."""


def png_container(data: bytes) -> Container:
    """A PNG without its texts, its profile and any one-frame animation, so that it packs only pixels."""
    cuts: list[tuple[int, int, bytes]] = []
    animation: list[tuple[int, int, bytes]] = []
    chunks: dict[bytes, bytes] = {}
    said: set[bytes] = set()
    profile, frames, drawn = None, None, False
    for start, end, kind in _chunks(data):
        body = slice(start + 8, end - 4)
        drawn |= kind == b"IDAT"
        if kind == b"acTL" and not drawn:
            frames = max(frames or 0, int.from_bytes(data[body][:4]))
        if kind in (b"acTL", b"fcTL", b"fdAT"):
            animation.append((start, end, b""))
        elif kind in _TEXTS and _is_sound(data, start, end):
            cuts.append((start, end, _kept_text(kind, data[body], said)))
        elif kind == b"iCCP" and _is_sound(data, start, end):
            cuts.append((start, end, b""))
            if not drawn:
                profile = _profile(data[body])
        elif kind in _COLOURS and not drawn and _is_sound(data, start, end):
            chunks.setdefault(kind, data[body])
    notes = ()
    if (
        frames is not None
        and max(frames, sum(data[at + 4 : at + 8] == b"fcTL" for at, *_ in animation)) <= 1
    ):
        cuts = sorted(cuts + animation)
        notes = ("its animation of one frame is left out",)
    return Container(cut(data, cuts), notes, profile, chunks)


def _chunks(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Start, end and kind of every complete chunk."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if end > len(data):
            return
        yield at, end, data[at + 4 : at + 8]
        at = end


def _is_sound(data: bytes, start: int, end: int) -> bool:
    return zlib.crc32(memoryview(data)[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])


def _kept_text(kind: bytes, body: bytes, said: set[bytes]) -> bytes:
    """The chunk that replaces a text: unpacked for the first of an orientation's keyword, else empty."""
    keyword, _, text = body.partition(b"\0")
    if keyword not in _ORIENTATION_KEYWORDS or keyword in said or (keyword == b"exif" and kind != b"tEXt"):
        return b""
    if kind == b"zTXt":
        text = _unpacked(text[1:], MAX_TEXT_BYTES)
    elif kind == b"iTXt":
        is_packed, parts = text[:1] != b"\0", text[2:].split(b"\0", 2)
        text = parts[2] if len(parts) == 3 else None
        text = _unpacked(text, MAX_TEXT_BYTES) if text and is_packed else text
    if not text:
        return b""
    said.add(keyword)
    kind, gap = (b"iTXt", bytes(5)) if keyword == _XMP else (b"tEXt", bytes(1))
    return _chunk(kind, keyword + gap + text[:MAX_TEXT_BYTES])


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _profile(body: bytes) -> bytes:
    """The ICC profile in the body of an iCCP chunk; empty if it cannot be unpacked or is too large."""
    _, _, packed = body.partition(b"\0")
    profile = _unpacked(packed[1:], MAX_PROFILE_BYTES + 1) if packed[:1] == b"\0" else None
    return profile if profile and len(profile) <= MAX_PROFILE_BYTES else b""


def _unpacked(packed: bytes, most: int) -> bytes | None:
    """The first `most` bytes of unpacked data, and no more; None if the packed data are damaged."""
    try:
        return zlib.decompressobj().decompress(packed, most)
    except zlib.error:
        return None
