"""Formats of image files by their first bytes, and the main picture of each, for a decoder.

A phone's JPEG may hold a gain map beside its picture, a TIFF a thumbnail, a PNG megabytes of text. A module
for each format reduces such files to their picture before a decoder sees them, working on bytes alone,
without Pillow. A camera's raw file, whose first picture is only a thumbnail, is refused. Anything that
cannot be understood is passed on unchanged, for the decoder to judge.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from jaxstyle.inputs.containers import MAX_PROFILE_BYTES, Container
from jaxstyle.inputs.heif import AVIF_BRANDS, HEIC_BRANDS, brands, heif_container
from jaxstyle.inputs.jpeg import jpeg_container
from jaxstyle.inputs.png import PNG_SIGNATURE, png_container
from jaxstyle.inputs.tiff import TIFF_SIGNATURES, raw_file_error, tiff_container
from jaxstyle.spec.folders import RAW_SUFFIXES

_RAW_MAGIC = (
    b"IIRO", b"IIRS", b"MMOR",  # Olympus
    b"IIU\0",  # Panasonic, Leica
    b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM", b"ARRI\x12\x34\x56\x78",
)  # fmt: skip
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
    (AVIF_BRANDS, "an AVIF file"),
    (HEIC_BRANDS, "a HEIC file"),
    ((b"jxl ",), "a JPEG XL file"),
    ((b"jp2 ", b"jpx ", b"jph "), "a JPEG 2000 file"),
)
"""Kinds of ISO media files, by their brands (ISO/IEC 14496-12, 4.3)."""
_TEXT_KINDS = ((rb"<!doctype html|<html", "a web page"), (rb"<svg[\s>]", "an SVG file"))


def main_picture(path: str, data: bytes) -> Container:
    """The main picture in a file's bytes.

    Raises:
        JaxstyleError: for a camera's raw file, and for unsupported kinds of JPEG.
    """
    if _is_raw(path, data):
        raise raw_file_error(path)
    if data.startswith(PNG_SIGNATURE):
        return png_container(data)
    if data.startswith(b"\xff\xd8"):
        return jpeg_container(path, data)
    if data.startswith(TIFF_SIGNATURES):
        return tiff_container(path, data)
    if data.startswith(b"BM"):
        return _of_bmp(data)
    if data[4:8] == b"ftyp":
        return heif_container(data)
    return Container(data)


def _is_raw(path: str, data: bytes) -> bool:
    """Whether the first bytes are a raw file's; those of a TIFF need a raw file's suffix as well."""
    if data.startswith(_RAW_MAGIC) or data[6:14] == b"HEAPCCDR" or data[4:12] == b"ftypcrx ":
        return True
    if data.startswith(b"II*\0\x10\0\0\0CR"):  # Canon, whose mark stands before the first directory
        return True
    return data.startswith(TIFF_SIGNATURES) and Path(path).suffix.lower() in RAW_SUFFIXES


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


def kind_of(path: str, data: bytes) -> str | None:
    """The kind of an unsupported file, by its first bytes or its suffix; None if they do not tell."""
    for start, kind in _KINDS:
        if data.startswith(start):
            return kind
    if kind := _icon(data):
        return kind
    if data[4:8] == b"ftyp":
        for known, kind in _BRANDS:
            if any(brand in known for brand in brands(data)):
                return kind
        return "a video"
    if data[:4] == b"RIFF" and data[8:12] != b"WEBP":
        return "a recording (RIFF)"
    if re.match(rb"P[1-7]\s", data):
        return "a Netpbm file"
    for pattern, kind in _TEXT_KINDS:
        if re.search(pattern, data[:1024], re.IGNORECASE):
            return kind
    return "a camera's raw file" if Path(path).suffix.lower() in RAW_SUFFIXES else None


def _icon(data: bytes) -> str | None:
    """The kind of a Windows icon or cursor; its directory is checked, as a Targa file may begin alike."""
    kind = {b"\0\0\1\0": "a Windows icon", b"\0\0\2\0": "a Windows cursor"}.get(data[:4])
    count, offset = int.from_bytes(data[4:6], "little"), int.from_bytes(data[18:22], "little")
    return kind if count and data[9:10] == b"\0" and 6 + 16 * count <= offset < len(data) else None
