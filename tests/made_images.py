"""Image files written by hand, of kinds that Pillow does not write."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(image, kind, **options):
    """The encoded file of an image or of pixels."""
    buffer = io.BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, body):
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(data, *chunks, before=b"IDAT"):
    """A PNG file and more chunks in front of one of a kind."""
    at = data.index(before) - 4
    return data[:at] + b"".join(chunks) + data[at:]


def segment(marker, body):
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segments(data, *segments):
    """A JPEG file and more segments at its start."""
    return data[:2] + b"".join(segments) + data[2:]


def tiff(*pages, order="<", big=False):
    """An uncompressed TIFF file; each page is its pixels, (h, w, 3), and its own tags.

    The value of tag 330 is a list of such pages, in which a number is a position in the file.
    """
    word = "Q" if big else "I"
    magic = (43, 8, 0, 0) if big else (42, 0)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + ("HHHQ" if big else "HI"), *magic)
    out = bytearray(head)

    def put(data):
        out.extend(bytes(len(out) % 2))
        out.extend(data)
        return len(out) - len(data)

    def directory(pixels, tags):
        height, width = pixels.shape[:2]
        tags = {256: width, 257: height, 258: [8] * 3, 259: 1, 262: 2, 277: 3, 278: height} | tags
        tags |= {273: put(pixels.tobytes()), 279: pixels.nbytes}
        if isinstance(tags.get(330), list):
            tags[330] = [directory(*page)[0] for page in tags[330]]
        entries = b""
        for tag, value in sorted(tags.items()):
            kind = 4 if tag in (256, 257, 273, 279, 330) else 3
            if isinstance(value, bytes):
                kind, count, body = 1 if tag == 50706 else 7 if tag == 34675 else 2, len(value), value
            else:
                values = value if isinstance(value, list) else [value]
                count, body = len(values), struct.pack(f"{order}{len(values)}{'_BBHI'[kind]}", *values)
            room = 8 if big else 4
            if len(body) > room:
                body = struct.pack(order + word, put(body))
            entries += struct.pack(order + "HH" + word, tag, kind, count) + body.ljust(room, b"\0")
        count = struct.pack(order + ("Q" if big else "H"), len(tags))
        at = put(count + entries + bytes(8 if big else 4))
        return at, at + len(count) + len(entries)

    place = 8 if big else 4
    for page in pages:
        at, next_place = directory(*page)
        struct.pack_into(order + word, out, place, at)
        place = next_place
    return bytes(out)


def bmp(pixels, alpha, header):
    """A BMP file of 32 bits with a mask of alpha, whose header has 56, 108 or 124 bytes."""
    height, width = pixels.shape[:2]
    body = np.dstack([pixels[::-1, :, ::-1], np.full((height, width), alpha, np.uint8)]).tobytes()
    info = struct.pack("<IiiHHIIiiII", header, width, height, 1, 32, 3, len(body), 2835, 2835, 0, 0)
    info += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + (b"BGRs" if header > 56 else b"")
    start = 14 + header
    return struct.pack("<2sIII", b"BM", start + len(body), 0, start) + info.ljust(header, b"\0") + body


# --- profiles -------------------------------------------------------------------------------------

PRIMARIES = {
    "sRGB": ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)),
    "Adobe RGB": ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
    "Display P3": ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
}
"""XYZ of red, green and blue under D50 (Lindbloom's tables; Apple's profile)."""


def srgb_light(v):
    """Linear light of an sRGB value, both 0 to 1 (IEC 61966-2-1)."""
    v = np.asarray(v, float)
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def srgb_value(light):
    """The sRGB value of linear light, both 0 to 1; values outside are clipped."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def curve(gamma=None, *, points=0):
    """A tag of a curve: a power, or that many points of sRGB's own curve."""
    if gamma is not None:
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma))
    values = np.rint(65535 * srgb_light(np.linspace(0, 1, points))).astype(int)
    return b"curv" + bytes(4) + struct.pack(f">I{points}H", points, *values)


def _xyz(values):
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * value) for value in values))


def profile(name, tone, space="sRGB", *, padding=0):
    """An ICC profile of a display, or of grey where `space` is None."""
    text = name.encode() + b"\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": _xyz((0.9642, 1, 0.8249)),
    }
    if space is None:
        tags[b"kTRC"] = tone
    else:
        for letter, column in zip((b"r", b"g", b"b"), PRIMARIES[space], strict=True):
            tags |= {letter + b"XYZ": _xyz(column), letter + b"TRC": tone}
    if padding:
        tags[b"pad "] = b"data" + bytes(4) + np.random.default_rng(0).bytes(padding)
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">III", start + len(body), 0, 0x02400000)
    head += (
        b"mntr"
        + (b"GRAY" if space is None else b"RGB ")
        + b"XYZ "
        + struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    )
    head += b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + table + body
