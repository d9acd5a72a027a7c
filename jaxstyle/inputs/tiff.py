"""TIFF files, directory by directory: which holds the main picture, and which are signs of a raw file."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from jaxstyle.inputs.containers import Container
from jaxstyle.spec.errors import JaxstyleError

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SUBFILE, _OLD_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _MAKE = 254, 255, 259, 262, 271
_ORIENTATION, _SUB_IFDS, _PROFILE, _DNG_VERSION = 274, 330, 34675, 50706
_RAW_PHOTOMETRICS = (32803, 34892)
"""Photometric interpretations of sensor data: a colour filter array, and linear raw."""
_RAW_COMPRESSIONS = (32767, 32769, 32770, 32772, 34713, 34892, 65000, 65535)
"""Compressions of raw files: Sony, Epson, Samsung (two), Nikon, lossy DNG, Kodak and Pentax."""
_SIZES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8,
}  # fmt: skip
"""Size in bytes of each TIFF type."""
_MAX_DIRECTORIES = 4096
_MAX_ENTRIES = 200_000


def raw_file_error(path: str) -> JaxstyleError:
    """The error for a camera's raw file."""
    why = "is a camera's raw file; develop it first and save the result as TIFF, PNG or JPEG"
    return JaxstyleError(path, why)


@dataclass(frozen=True)
class _Directory:
    """A directory of a TIFF: the tags of one picture, and where the next directory is."""

    at: int
    entries: Mapping[int, tuple[int, int, int]]
    """Type, count and offset of the value, by tag."""
    next_at: int
    next_place: int
    """The offset at which `next_at` is stored."""


class Tiff:
    """The directories in a TIFF's bytes, with either byte order and either size of offsets."""

    def __init__(self, data: bytes):
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        self.is_big = self._read("H", 2) == 43
        self.offset = "Q" if self.is_big else "I"
        self.first_place = 8 if self.is_big else 4
        self.first = self._read(self.offset, self.first_place)
        self._entries_left = _MAX_ENTRIES

    def _read(self, form: str, at: int) -> int:
        return struct.unpack_from(self.order + form, self.data, at)[0]

    def directory(self, at: int) -> _Directory:
        """The directory at an offset.

        Raises:
            struct.error: if it is not within the data.
            ValueError: if the directories read so far have more entries than any sensible file.
        """
        count = self._read("Q" if self.is_big else "H", at)
        start, size = at + (8 if self.is_big else 2), 20 if self.is_big else 12
        self._entries_left -= count
        if self._entries_left < 0:
            raise ValueError(count)
        entries = {}
        for place in range(start, start + count * size, size):
            tag, kind = (self._read("H", place + step) for step in (0, 2))
            number = self._read(self.offset, place + 4)
            value = place + (12 if self.is_big else 8)
            if number * _SIZES.get(kind, 1) > size - (value - place):
                value = self._read(self.offset, value)
            entries[tag] = (kind, number, value)
        end = start + count * size
        return _Directory(at, entries, self._read(self.offset, end), end)

    def numbers(self, directory: _Directory, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """The whole numbers of a tag, at most 64; `default` without any."""
        kind, count, at = directory.entries.get(tag, (0, 0, 0))
        form = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(kind)
        if not form or not count:
            return default
        return struct.unpack_from(f"{self.order}{min(count, 64)}{form}", self.data, at)

    def raw_bytes(self, directory: _Directory, tag: int) -> bytes | None:
        """The bytes of a tag's value; None without any."""
        kind, count, at = directory.entries.get(tag, (0, 0, 0))
        return self.data[at : at + count * _SIZES.get(kind, 1)] if count else None

    def pages(self) -> list[_Directory]:
        """The directories of the main chain, each once."""
        found: dict[int, _Directory] = {}
        at = self.first
        while at and at not in found and len(found) < _MAX_DIRECTORIES:
            found[at] = self.directory(at)
            at = found[at].next_at
        return list(found.values())

    def below(self, pages: list[_Directory]) -> list[tuple[_Directory, _Directory]]:
        """The subdirectories, each once, with the page that each belongs to."""
        seen = {page.at for page in pages}
        found, left = [], [(page, page) for page in pages]
        while left:
            page, parent = left.pop(0)
            for at in self.numbers(parent, _SUB_IFDS, ()):
                if at and at not in seen and len(seen) < _MAX_DIRECTORIES:
                    seen.add(at)
                    found.append((self.directory(at), page))
                    left.append((page, found[-1][0]))
        return found

    def is_full(self, directory: _Directory) -> bool:
        """Whether a directory is neither a smaller copy nor a mask of another picture."""
        kind = self.numbers(directory, _SUBFILE, (0,))[0]
        old = self.numbers(directory, _OLD_SUBFILE, (1,))[0]
        return not kind & 0b101 and old != 2 and self.numbers(directory, _PHOTOMETRIC, (2,))[0] != 4

    def is_raw(self, directory: _Directory) -> bool:
        """Whether a directory holds raw data of a sensor."""
        return (
            _DNG_VERSION in directory.entries
            or self.numbers(directory, _PHOTOMETRIC, (0,))[0] in _RAW_PHOTOMETRICS
            or self.numbers(directory, _COMPRESSION, (0,))[0] in _RAW_COMPRESSIONS
        )

    def is_phase_one(self, pages: list[_Directory]) -> bool:
        """Whether the file is a raw file of Phase One or Leaf, whose sensor data are in no directory."""
        make = self.raw_bytes(pages[0], _MAKE) if pages else None
        return self.data[8:12] in (b"IIII", b"MMMM") and (make or b"").startswith((b"Phase One", b"Leaf"))


def tiff_container(path: str, data: bytes) -> Container:
    """A TIFF whose only page is its main picture, wherever in the file that is."""
    try:
        found = _picture(Tiff(data))
    except (struct.error, ValueError):
        return Container(data)
    if found is None:
        raise raw_file_error(path)
    return found


def _picture(tiff: Tiff) -> Container | None:
    """The main picture of a TIFF; None if the file is a raw file."""
    pages = tiff.pages()
    below = tiff.below(pages)
    if tiff.is_phase_one(pages) or any(map(tiff.is_raw, (*pages, *(sub for sub, _ in below)))):
        return None
    full = [(page, page) for page in pages if tiff.is_full(page)]
    full = full or [(sub, page) for sub, page in below if tiff.is_full(sub)]
    if not pages or len(full) > 1:
        return Container(tiff.data)
    if full:
        return _page(tiff, *full[0], is_alone=len(pages) == 1 and not below)
    if pages[0].entries.keys() & {_SUB_IFDS, _MAKE}:  # a raw file in which only the thumbnail is readable
        return None
    return Container(tiff.data, ("it calls itself a smaller copy or a mask of another picture",))


def _page(tiff: Tiff, picture: _Directory, page: _Directory, *, is_alone: bool) -> Container:
    """The picture of a TIFF, with the orientation and the profile of its page if it has none of its own."""
    if is_alone:
        return Container(tiff.data)
    data = bytearray(tiff.data)
    for place, at in ((tiff.first_place, picture.at), (picture.next_place, 0)):
        struct.pack_into(tiff.order + tiff.offset, data, place, at)
    orientation, profile = 1, None
    if _ORIENTATION not in picture.entries:
        orientation = tiff.numbers(page, _ORIENTATION, (1,))[0]
    if _PROFILE not in picture.entries:
        profile = tiff.raw_bytes(page, _PROFILE)
    notes = ("its pages that are thumbnails or masks are left out",)
    return Container(bytes(data), notes, profile, orientation=orientation)
