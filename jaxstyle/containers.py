"""Image files as containers: the one picture that a file is about, and what a decoder need not see.

A phone's JPEG holds a gain map beside its picture, a TIFF a thumbnail, a PNG megabytes of text. Here such
files are cut to their picture before a decoder sees them, by their bytes alone; a camera's raw file, whose
first picture is but a thumbnail, is refused. What cannot be made sense of is passed on as it is, for the
decoder to judge.

Needs neither JAX nor Pillow.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jaxstyle.errors import JaxstyleError

MAX_PROFILE_BYTES = 16 * 2**20
"""Of an ICC profile, unpacked; those of printers, the largest there are, have some megabytes."""
MAX_TEXT_BYTES = 2**20
"""Of a text that says which way is up, unpacked."""


@dataclass(frozen=True)
class Container:
    """What is to be decoded of a file, and what the file says of it."""

    data: bytes
    notes: tuple[str, ...] = ()
    """What was left out."""
    profile: bytes | None = None
    """Its ICC profile where the decoder sees none, and empty where there is one that cannot be had."""
    chunks: Mapping[bytes, bytes] = field(default_factory=dict)
    """Bodies of a PNG's chunks of colour."""
    orientation: int = 1
    """EXIF's number, where it is said of the picture but not in it."""


def opened(path: str, data: bytes) -> Container:
    """The picture in a file's bytes.

    Raises:
        JaxstyleError: for a camera's raw file, and for kinds of JPEG that are not decoded here.
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
    """`data` with each [start, end) replaced; `cuts` in the order of their starts."""
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
"""Keywords of texts that a decoder looks for an orientation in."""


def _of_png(data: bytes) -> Container:
    """A PNG without its texts, its profile and an animation of one frame: only its pixels are packed."""
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
    """Start, end and kind of every whole chunk."""
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
    """The first `most` bytes of what is packed, and not a byte more; None if it is torn."""
    try:
        return zlib.decompressobj().decompress(packed, most)
    except zlib.error:
        return None


def _kept_text(kind: bytes, body: bytes, said: set[bytes]) -> bytes:
    """The chunk to keep of a text, unpacked: the first of each that may say which way is up."""
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
"""What ends a scan: within it a byte of 255 is followed by 0, and restarts are of the scan."""
_LOSSLESS, _HIERARCHICAL = (0xC3, 0xCB), (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF)
_BESIDE = re.compile(
    rb"hdrgm:|HDRGainMap|GDepth:|GImage:|GContainer|Container:Directory|ns\.google\.com/photos/dd"
)
"""In XMP: of pictures beside the picture."""


def _of_jpeg(path: str, data: bytes) -> Container:
    """A JPEG without its index of further pictures, so that it is decoded as the one that comes first."""
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
            profile = b""  # the decoder puts its parts together, or gives none
        elif marker == 0xDA:
            scan = end
    end = _end_of_scans(data, scan) if scan else None
    if end is not None and data.find(b"\xff\xd8\xff", end) >= 0:
        others = True
    note = "only its primary picture is taken: a gain map, a depth map or a second view is left out"
    return Container(_cut(data, cuts), (note,) if others else (), profile)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Start, end and marker of every segment up to the first scan's header."""
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
    """Raise JaxstyleError for a frame of a JPEG that is not decoded here."""
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
    raise JaxstyleError(
        path, f"is {kind}, which is not decoded here; save it as an ordinary JPEG of 8 bits"
    )


def _end_of_scans(data: bytes, at: int) -> int | None:
    """Where the picture ends whose first scan begins at `at`."""
    while found := _MARKER.search(data, at):
        at = found.end()
        if data[at - 1] == 0xD9:
            return at
        if data[at - 1] >= 0xC0 and data[at - 1] != 0xD8:
            at += int.from_bytes(data[at : at + 2])
    return None


def _pictures(index: bytes) -> int:
    """How many pictures a multi-picture index (CIPA DC-007) lists."""
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
"""Of a colour filter array and of what is as linear as a sensor."""
_RAW_COMPRESSIONS = (32767, 32769, 32770, 32772, 34713, 34892, 65000, 65535)
"""Of Sony, Epson, Samsung (two), Nikon, lossy DNG, Kodak and Pentax."""
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
    why = "is a camera's raw file: develop it first, and save that as TIFF, PNG or JPEG"
    return JaxstyleError(path, why)


def _is_raw(path: str, data: bytes) -> bool:
    """Whether the first bytes are a raw file's; those of a TIFF tell with a raw file's name only."""
    if data.startswith(_RAW_MAGIC) or data[6:14] == b"HEAPCCDR" or data[4:12] == b"ftypcrx ":
        return True
    if data.startswith(b"II*\0\x10\0\0\0CR"):  # Canon: the first directory comes after its mark
        return True
    return data.startswith(_TIFF) and Path(path).suffix.lower() in _RAW_SUFFIXES


@dataclass(frozen=True)
class _Directory:
    at: int
    entries: Mapping[int, tuple[int, int, int]]
    """Type, count and place of the value, by tag."""
    next_at: int
    next_place: int
    """Where `next_at` is written."""


class _Tiff:
    """The directories of a TIFF's bytes, of either order and size of offsets."""

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
        """The directory at a place.

        Raises:
            struct.error: if it is not within the data.
            ValueError: if more is read than any file has use for.
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
        """The whole numbers of a tag, 64 at most."""
        kind, count, at = directory.entries.get(tag, (0, 0, 0))
        form = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(kind)
        if not form or not count:
            return default
        return struct.unpack_from(f"{self.order}{min(count, 64)}{form}", self.data, at)

    def raw_bytes(self, directory: _Directory, tag: int) -> bytes | None:
        """The bytes of a tag."""
        kind, count, at = directory.entries.get(tag, (0, 0, 0))
        return self.data[at : at + count * _SIZES.get(kind, 1)] if count else None

    def pages(self) -> list[_Directory]:
        """The directories of the chain, each once."""
        found: dict[int, _Directory] = {}
        at = self.first
        while at and at not in found and len(found) < _MAX_DIRECTORIES:
            found[at] = self.directory(at)
            at = found[at].next_at
        return list(found.values())

    def below(self, pages: list[_Directory]) -> list[tuple[_Directory, _Directory]]:
        """The directories that hang from others, each once, and the page that each hangs from."""
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
        """Whether it is neither a smaller copy of another one nor a mask of one."""
        kind = self.numbers(directory, _SUBFILE, (0,))[0]
        old = self.numbers(directory, _OLD_SUBFILE, (1,))[0]
        return not kind & 0b101 and old != 2 and self.numbers(directory, _PHOTOMETRIC, (2,))[0] != 4

    def is_raw(self, directory: _Directory) -> bool:
        """Whether it is what a sensor saw."""
        return (
            _DNG_VERSION in directory.entries
            or self.numbers(directory, _PHOTOMETRIC, (0,))[0] in _RAW_PHOTOMETRICS
            or self.numbers(directory, _COMPRESSION, (0,))[0] in _RAW_COMPRESSIONS
        )

    def is_phase_one(self, pages: list[_Directory]) -> bool:
        """Whether it is a raw file of Phase One or Leaf, whose sensor's data are in no directory."""
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
"""Bytes of a TIFF's types."""


def _of_tiff(path: str, data: bytes) -> Container:
    """A TIFF whose only page is its picture, wherever that stands."""
    try:
        found = _picture(_Tiff(data))
    except (struct.error, ValueError):
        return Container(data)
    if found is None:
        raise _raw(path)
    return found


def _picture(tiff: _Tiff) -> Container | None:
    """The picture of a TIFF; None if it is a raw file."""
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
    if pages[0].entries.keys() & {_SUB_IFDS, _MAKE}:  # of a raw file, only the thumbnail is for all to read
        return None
    return Container(tiff.data, ("it calls itself a smaller copy or a mask of another picture",))


def _page(tiff: _Tiff, picture: _Directory, page: _Directory, *, is_alone: bool) -> Container:
    """The picture of a TIFF, which says of itself what the page says that it hangs from."""
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
    notes = ("its pages that are thumbnails or masks of it are left out",)
    return Container(bytes(data), notes, profile, orientation=orientation)


# --- BMP ------------------------------------------------------------------------------------------


def _of_bmp(data: bytes) -> Container:
    """A BMP and its profile: of a header of 124 bytes, which no decoder looks for one in."""
    if len(data) < 138 or int.from_bytes(data[14:18], "little") != 124:
        return Container(data)
    kind, at, size = data[70:74], *struct.unpack("<II", data[126:134])
    if kind == b"KNIL":
        return Container(data, profile=b"")  # in another file
    if kind != b"DEBM":
        return Container(data)
    profile = data[14 + at : 14 + at + size]
    return Container(
        data, profile=profile if 0 < size <= MAX_PROFILE_BYTES and len(profile) == size else b""
    )


# --- what is no picture of a known kind -----------------------------------------------------------

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
"""What the brands of an ISO media file say of it (ISO/IEC 14496-12, 4.3)."""
_TEXT_KINDS = ((rb"<!doctype html|<html", "a web page"), (rb"<svg[\s>]", "an SVG file"))


def _icon(data: bytes) -> str | None:
    """What a file with the directory of a Windows icon is; a Targa picture may begin as one does."""
    kind = {b"\0\0\1\0": "a Windows icon", b"\0\0\2\0": "a Windows cursor"}.get(data[:4])
    count, offset = int.from_bytes(data[4:6], "little"), int.from_bytes(data[18:22], "little")
    return kind if count and data[9:10] == b"\0" and 6 + 16 * count <= offset < len(data) else None


def kind_of(path: str, data: bytes) -> str | None:
    """What a file is that no decoder knows, as its first bytes say it; None if they say nothing."""
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
