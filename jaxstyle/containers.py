"""Image files as containers: extraction of the main picture, without what a decoder need not see.

A phone's JPEG may hold a gain map beside its picture, a TIFF a thumbnail, a PNG megabytes of text. This
module reduces such files to their picture before a decoder sees them, working on bytes alone. A camera's
raw file, whose first picture is only a thumbnail, is refused. Anything that cannot be understood is passed
on unchanged, for the decoder to judge.

Nothing here needs JAX or Pillow.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jaxstyle.spec.errors import JaxstyleError

MAX_PROFILE_BYTES = 16 * 2**20
"""Size limit of an unpacked ICC profile; printers' profiles, the largest, have some megabytes."""
MAX_TEXT_BYTES = 2**20
"""Size limit of an unpacked text that gives the orientation."""


@dataclass(frozen=True)
class Container:
    """The part of a file that is to be decoded, and the file's information about it."""

    data: bytes
    notes: tuple[str, ...] = ()
    """Notes on what was left out."""
    profile: bytes | None = None
    """The ICC profile, if the decoder does not see it; empty if there is one that cannot be extracted."""
    chunks: Mapping[bytes, bytes] = field(default_factory=dict)
    """Bodies of a PNG's colour chunks, by kind."""
    orientation: int = 1
    """The EXIF orientation, if it is given outside the picture's own data."""


def opened(path: str, data: bytes) -> Container:
    """The main picture in a file's bytes.

    Raises:
        JaxstyleError: for a camera's raw file, and for unsupported kinds of JPEG.
    """
    if _is_raw(path, data):
        raise _raw(path)
    if data.startswith(_PNG):
        return _of_png(data)
    if data.startswith(b"\xff\xd8"):
        return _of_jpeg(path, data)
    if data.startswith(_TIFF):
        return _of_tiff(path, data)
    if data.startswith(b"BM"):
        return _of_bmp(data)
    return Container(data)


def _cut(data: bytes, cuts: Iterable[tuple[int, int, bytes]]) -> bytes:
    """`data` with each (start, end, replacement) of `cuts` applied; `cuts` are ordered by start."""
    view, at, parts = memoryview(data), 0, []
    for start, end, instead in cuts:
        parts += [view[at:start], instead]
        at = end
    return b"".join((*parts, view[at:])) if parts else data


# --- PNG ------------------------------------------------------------------------------------------

_PNG = b"\x89PNG\r\n\x1a\n"
_COLOURS = (b"cICP", b"sRGB", b"gAMA", b"cHRM")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_XMP = b"XML:com.adobe.xmp"
_UPRIGHT = (_XMP, b"Raw profile type exif", b"exif")
"""Keywords of the texts in which a decoder looks for an orientation."""


def _of_png(data: bytes) -> Container:
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
                profile = _png_profile(data[body])
        elif kind in _COLOURS and not drawn and _is_sound(data, start, end):
            chunks.setdefault(kind, data[body])
    notes = ()
    if (
        frames is not None
        and max(frames, sum(data[at + 4 : at + 8] == b"fcTL" for at, *_ in animation)) <= 1
    ):
        cuts = sorted(cuts + animation)
        notes = ("its animation of one frame is left out",)
    return Container(_cut(data, cuts), notes, profile, chunks)


def _chunks(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Start, end and kind of every complete chunk."""
    at = len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if end > len(data):
            return
        yield at, end, data[at + 4 : at + 8]
        at = end


def _is_sound(data: bytes, start: int, end: int) -> bool:
    return zlib.crc32(memoryview(data)[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _unpacked(packed: bytes, most: int) -> bytes | None:
    """The first `most` bytes of unpacked data, and no more; None if the packed data are damaged."""
    try:
        return zlib.decompressobj().decompress(packed, most)
    except zlib.error:
        return None


def _kept_text(kind: bytes, body: bytes, said: set[bytes]) -> bytes:
    """The chunk that replaces a text: unpacked for the first of a keyword in `_UPRIGHT`, else empty."""
    keyword, _, text = body.partition(b"\0")
    if keyword not in _UPRIGHT or keyword in said or (keyword == b"exif" and kind != b"tEXt"):
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


def _png_profile(body: bytes) -> bytes:
    _, _, packed = body.partition(b"\0")
    profile = _unpacked(packed[1:], MAX_PROFILE_BYTES + 1) if packed[:1] == b"\0" else None
    return profile if profile and len(profile) <= MAX_PROFILE_BYTES else b""


# --- JPEG -----------------------------------------------------------------------------------------

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Markers that end a scan: within a scan, a byte of 255 is followed by 0 or is part of a restart marker."""
_LOSSLESS, _HIERARCHICAL = (0xC3, 0xCB), (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF)
_BESIDE = re.compile(
    rb"hdrgm:|HDRGainMap|GDepth:|GImage:|GContainer|Container:Directory|ns\.google\.com/photos/dd"
)
"""Signs in XMP of further pictures beside the primary one."""


def _of_jpeg(path: str, data: bytes) -> Container:
    """A JPEG without its index of further pictures, so that a decoder sees only the first picture."""
    cuts: list[tuple[int, int, bytes]] = []
    others, profile, scan = False, None, None
    for at, end, marker in _segments(data):
        body = memoryview(data)[at + 4 : end]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            _check_frame(path, marker, body)
        if marker == 0xE1 and body[:20] == b"http://ns.adobe.com/":
            others |= bool(_BESIDE.search(body))
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
    return Container(_cut(data, cuts), (note,) if others else (), profile)


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
        reader = _Tiff(index)
        return reader.numbers(reader.directory(reader.first), _NUMBER_OF_IMAGES, (0,))[0]
    except (struct.error, ValueError):
        return 0


# --- TIFF -----------------------------------------------------------------------------------------

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SUBFILE, _OLD_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _MAKE = 254, 255, 259, 262, 271
_ORIENTATION, _SUB_IFDS, _PROFILE, _NUMBER_OF_IMAGES, _DNG_VERSION = 274, 330, 34675, 45057, 50706
_RAW_PHOTOMETRICS = (32803, 34892)
"""Photometric interpretations of sensor data: a colour filter array, and linear raw."""
_RAW_COMPRESSIONS = (32767, 32769, 32770, 32772, 34713, 34892, 65000, 65535)
"""Compressions of raw files: Sony, Epson, Samsung (two), Nikon, lossy DNG, Kodak and Pentax."""
_MAX_DIRECTORIES = 4096
_MAX_ENTRIES = 200_000

_RAW_MAGIC = (
    b"IIRO", b"IIRS", b"MMOR",  # Olympus
    b"IIU\0",  # Panasonic, Leica
    b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM", b"ARRI\x12\x34\x56\x78",
)  # fmt: skip
_RAW_SUFFIXES = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".kdc", ".mef",
    ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw",
    ".x3f",
)  # fmt: skip


def _raw(path: str) -> JaxstyleError:
    why = "is a camera's raw file; develop it first and save the result as TIFF, PNG or JPEG"
    return JaxstyleError(path, why)


def _is_raw(path: str, data: bytes) -> bool:
    """Whether the first bytes are a raw file's; those of a TIFF need a raw file's suffix as well."""
    if data.startswith(_RAW_MAGIC) or data[6:14] == b"HEAPCCDR" or data[4:12] == b"ftypcrx ":
        return True
    if data.startswith(b"II*\0\x10\0\0\0CR"):  # Canon, whose mark stands before the first directory
        return True
    return data.startswith(_TIFF) and Path(path).suffix.lower() in _RAW_SUFFIXES


@dataclass(frozen=True)
class _Directory:
    at: int
    entries: Mapping[int, tuple[int, int, int]]
    """Type, count and offset of the value, by tag."""
    next_at: int
    next_place: int
    """The offset at which `next_at` is stored."""


class _Tiff:
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


_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
"""Size in bytes of each TIFF type."""


def _of_tiff(path: str, data: bytes) -> Container:
    """A TIFF whose only page is its main picture, wherever in the file that is."""
    try:
        found = _picture(_Tiff(data))
    except (struct.error, ValueError):
        return Container(data)
    if found is None:
        raise _raw(path)
    return found


def _picture(tiff: _Tiff) -> Container | None:
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


def _page(tiff: _Tiff, picture: _Directory, page: _Directory, *, is_alone: bool) -> Container:
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


# --- BMP ------------------------------------------------------------------------------------------


def _of_bmp(data: bytes) -> Container:
    """A BMP and its profile, which only a header of 124 bytes has and the decoder does not read."""
    if len(data) < 138 or int.from_bytes(data[14:18], "little") != 124:
        return Container(data)
    kind, at, size = data[70:74], *struct.unpack("<II", data[126:134])
    if kind == b"KNIL":
        return Container(data, profile=b"")  # the profile is in another file
    if kind != b"DEBM":
        return Container(data)
    profile = data[14 + at : 14 + at + size]
    return Container(
        data, profile=profile if 0 < size <= MAX_PROFILE_BYTES and len(profile) == size else b""
    )


# --- files that are no supported picture ----------------------------------------------------------

_KINDS = (
    (b"\xff\x0a", "a JPEG XL file"), (b"\0\0\0\x0cJXL ", "a JPEG XL file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"), (b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (b"II\xbc", "a JPEG XR file"), (b"8BPS", "a Photoshop file"), (b"gimp xcf", "a GIMP file"),
    (b"v/1\x01", "an OpenEXR file"), (b"#?RADIANCE", "a Radiance file"), (b"#?RGBE", "a Radiance file"),
    (b"%PDF", "a PDF file"), (b"%!PS", "a PostScript file"), (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"DDS ", "a DDS file"),
    (b"qoif", "a QOI file"), (b"BPG\xfb", "a BPG file"), (b"\x8aMNG", "an MNG file"),
    (b"\x8bJNG", "a JNG file"), (b"FLIF", "a FLIF file"), (b"farbfeld", "a farbfeld file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"), (b"PK\3\4", "a ZIP file"), (b"\x1f\x8b", "a gzip file"),
    (b"\x89HDF", "an HDF5 file"), (b"MM\0+", "a big-endian BigTIFF file"),
    (b"version https://git-lfs", "a pointer of Git LFS to a file"),
)  # fmt: skip
_BRANDS = (
    ((b"avif", b"avis"), "an AVIF file"),
    ((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "a HEIC file"),
    ((b"mif1", b"msf1", b"mif2"), "a HEIF file"),
    ((b"jxl ",), "a JPEG XL file"),
    ((b"jp2 ", b"jpx ", b"jph "), "a JPEG 2000 file"),
)
"""Kinds of ISO media files, by their brands (ISO/IEC 14496-12, 4.3)."""
_TEXT_KINDS = ((rb"<!doctype html|<html", "a web page"), (rb"<svg[\s>]", "an SVG file"))


def _icon(data: bytes) -> str | None:
    """The kind of a Windows icon or cursor; its directory is checked, as a Targa file may begin alike."""
    kind = {b"\0\0\1\0": "a Windows icon", b"\0\0\2\0": "a Windows cursor"}.get(data[:4])
    count, offset = int.from_bytes(data[4:6], "little"), int.from_bytes(data[18:22], "little")
    return kind if count and data[9:10] == b"\0" and 6 + 16 * count <= offset < len(data) else None


def kind_of(path: str, data: bytes) -> str | None:
    """The kind of an unsupported file, by its first bytes or its suffix; None if they do not tell."""
    for start, kind in _KINDS:
        if data.startswith(start):
            return kind
    if kind := _icon(data):
        return kind
    if data[4:8] == b"ftyp":
        size = min(int.from_bytes(data[:4]), 256)
        brands = [data[8:12], *(data[at : at + 4] for at in range(16, size, 4))]
        for known, kind in _BRANDS:
            if any(brand in known for brand in brands):
                return kind
        return "a video"
    if data[:4] == b"RIFF" and data[8:12] != b"WEBP":
        return "a recording (RIFF)"
    if re.match(rb"P[1-7]\s", data):
        return "a Netpbm file"
    for pattern, kind in _TEXT_KINDS:
        if re.search(pattern, data[:1024], re.IGNORECASE):
            return kind
    return "a camera's raw file" if Path(path).suffix.lower() in _RAW_SUFFIXES else None
