"""HEIF files, HEIC and AVIF, box by box (ISO/IEC 14496-12, 23008-12): their kind, their label of colour.

Pillow decodes AVIF. HEIC needs the extra package pi-heif, whose wheels hold the decoders libheif and
libde265 (LGPL 3), but no encoder; those of pillow-heif hold x265 as well and are under the GPL. Pictures
are turned as the file's own boxes say; an EXIF orientation beside those has no effect.
"""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
from collections.abc import Iterator

from PIL import Image

from jaxstyle.inputs.containers import Container
from jaxstyle.spec.errors import JaxstyleError

AVIF_BRANDS = (b"avif", b"avis")
HEIC_BRANDS = (
    b"heic",
    b"heix",
    b"heim",
    b"heis",
    b"hevc",
    b"hevx",
    b"hevm",
    b"hevs",
    b"mif1",
    b"msf1",
    b"mif2",
)
"""Brands of files whose pictures are HEVC's if they are not AV1's."""
NEEDS = (
    "is a HEIC photograph, which needs a decoder: pip install pi-heif (or jaxstyle with its extra, [heic])"
)
PRIMARY = "only its primary picture is used"
DECODE_S = 300
"""Seconds after which a decoder is taken to have hung."""
_DECODER = """
import json, sys
import pi_heif
file = pi_heif.open_heif(sys.stdin.buffer.read(), convert_hdr_to_8bit=True)
picture = file[file.primary_index]
image, (width, height) = None, picture.size
if width * height <= int(sys.argv[1]):
    image = picture.to_pillow()
    if image.mode == "RGBa":
        image = image.convert("RGBA")
profile = picture.info.get("icc_profile") or b""
about = {"size": picture.size, "mode": image.mode if image else "", "count": len(file)}
about |= {"depth": int(picture.info.get("bit_depth", 8)), "profile": profile.hex()}
sys.stdout.buffer.write(json.dumps(about).encode() + b"\\n" + (image.tobytes() if image else b""))
"""
"""Program that decodes a HEIC from its standard input, in a process of its own.

One of 150 copies of a HEIC with one to three bytes changed brought the decoder's process down while it read
the colour profile (pi-heif 1.4.0).
"""
UNSPECIFIED = 2
"""The code point (H.273) of primaries and transfer functions that are not known."""


def brands(data: bytes) -> list[bytes]:
    """The brands of an ISO media file, the major one first; none if it is not one."""
    if data[4:8] != b"ftyp":
        return []
    size = min(int.from_bytes(data[:4]), 256)
    return [data[8:12], *(data[at : at + 4] for at in range(16, size, 4))]


def is_avif(data: bytes) -> bool:
    """Whether a file's brands say that it is an AVIF."""
    return any(brand in AVIF_BRANDS for brand in brands(data))


def is_heic(data: bytes) -> bool:
    """Whether a file's brands say that it is a HEIC, or a HEIF of pictures that are not AV1's."""
    return not is_avif(data) and any(brand in HEIC_BRANDS for brand in brands(data))


def heif_container(data: bytes) -> Container:
    """A HEIF file as it is, with the code points of its primary picture, which decoders do not tell."""
    try:
        points = _code_points(data)
    except (struct.error, IndexError, ValueError, RecursionError):
        points = None
    if points is None or UNSPECIFIED in points:
        return Container(data)
    # Decoders give RGB of full range, whatever matrix and range are stored.
    return Container(data, chunks={b"cICP": bytes((*points, 0, 1))})


def decode_heic(path: str, data: bytes, notes: list[str], most_pixels: int) -> Image.Image:
    """The primary picture of a HEIC, upright, with its profile in its `info`.

    Raises:
        JaxstyleError: if there is no decoder for it, or it has more than `most_pixels` pixels.
        ValueError: if it is damaged.
    """
    if importlib.util.find_spec("pi_heif") is None:
        raise JaxstyleError(path, NEEDS)
    command = [sys.executable, "-P", "-c", _DECODER, str(most_pixels)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=DECODE_S, check=False)
        head, _, pixels = done.stdout.partition(b"\n")
        about = json.loads(head)
        width, height = about["size"]
        if width * height > most_pixels:
            count = width * height
            raise JaxstyleError(
                path, f"has {count} pixels; the limit is {most_pixels}: make it smaller first"
            )
        image = Image.frombytes(about["mode"], (width, height), pixels)
    except JaxstyleError:
        raise
    except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        raise ValueError("its picture cannot be decoded") from None
    if about["count"] > 1:
        notes.append(PRIMARY)
    if about["depth"] > 8 and not image.mode.startswith("I;16"):
        notes.append(f"reduced from {about['depth']} to 8 bits")
    image.info = {"icc_profile": bytes.fromhex(about["profile"])} if about["profile"] else {}
    return image


# --- boxes ----------------------------------------------------------------------------------------


def _boxes(data: memoryview, start: int = 0) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and body of each box."""
    at = start
    while at + 8 <= len(data):
        size, head = int.from_bytes(data[at : at + 4]), 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16]), 16
        size = size or len(data) - at
        if size < head or at + size > len(data):
            return
        yield bytes(data[at + 4 : at + 8]), data[at + head : at + size]
        at += size


def _code_points(data: bytes) -> tuple[int, int] | None:
    """Primaries and transfer function (H.273) of the primary picture; None if it has a profile or none."""
    meta = next((body for kind, body in _boxes(memoryview(data)) if kind == b"meta"), None)
    if meta is None:
        return None
    own = dict(_boxes(meta, 4))
    properties = list(_boxes(own[b"iprp"])) if b"iprp" in own and b"pitm" in own else []
    kept = [body for kind, body in properties if kind == b"ipco"]
    if not kept:
        return None
    primary = _primary(own[b"pitm"])
    listed, points = list(_boxes(kept[0])), None
    for number in _numbers(properties, primary):
        kind, body = listed[number - 1] if 0 < number <= len(listed) else (b"", memoryview(b""))
        if kind == b"colr" and bytes(body[:4]) in (b"prof", b"rICC"):
            return None
        if kind == b"colr" and bytes(body[:4]) == b"nclx":
            first, second = struct.unpack(">HH", body[4:8])
            points = (first, second) if max(first, second) < 256 else None
    return points


def _primary(body: memoryview) -> int:
    """The number of the primary item."""
    return int.from_bytes(body[4 : 6 if body[0] == 0 else 8])


def _numbers(properties: list[tuple[bytes, memoryview]], item: int) -> list[int]:
    """The numbers of an item's properties, from 1."""
    for kind, body in properties:
        if kind != b"ipma":
            continue
        wide_item, wide_number = body[0] > 0, body[3] & 1
        (count,) = struct.unpack(">I", body[4:8])
        at = 8
        for _ in range(count):
            size = 4 if wide_item else 2
            own, several = int.from_bytes(body[at : at + size]), body[at + size]
            at += size + 1
            width = 2 if wide_number else 1
            mask = 0x7FFF if wide_number else 0x7F
            if own == item:
                return [
                    int.from_bytes(body[at + i * width : at + (i + 1) * width]) & mask
                    for i in range(several)
                ]
            at += several * width
    return []
