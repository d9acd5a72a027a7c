"""Make the example images that come with the package, in `jaxstyle/examples/`.

    pip download --no-deps scikit-image==0.26.0
    python scripts/make_examples.py scikit_image-0.26.0-*.whl

Three photographs are taken from scikit-image's own data (free of rights, see
`jaxstyle/examples/LICENSES.md`) and saved small. Two paintings are drawn here, from numbers alone:

* `brushwork.jpg`: strokes along a field of whirls, from broad and dark to fine and bright;
* `glass.jpg`: a window of bright panes between dark leads.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

OUT = Path(__file__).resolve().parent.parent / "jaxstyle" / "examples"
PHOTOS = {"astronaut": "astronaut.png", "cat": "chelsea.png", "coffee": "coffee.png"}
LONGEST_PX = 512
MAX_BYTES = 120_000


def save(image: Image.Image, name: str) -> None:
    """Write a JPEG of the best quality that stays under the limit."""
    for quality in range(92, 60, -4):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
        if buffer.tell() <= MAX_BYTES:
            (OUT / f"{name}.jpg").write_bytes(buffer.getvalue())
            print(f"{name}.jpg: {image.width}x{image.height}, {buffer.tell()} bytes, quality {quality}")
            return
    raise SystemExit(f"{name}: cannot be made smaller than {MAX_BYTES} bytes")


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
    """How bright the painting is at a point: rings around the whirls, a horizon of fire."""
    rings = 0.0
    for cx, cy, _, radius in WHIRLS:
        r = np.hypot(x - cx, y - cy) / radius
        rings += np.exp(-((r / 0.45) ** 2)) + 0.55 * np.exp(-(((r - 1.05) / 0.16) ** 2))
    return float(np.clip(rings, 0, 1))


def brushwork(width: int = 512, height: int = 410) -> Image.Image:
    """Strokes of three sizes along the flow, each of several bristles of slightly other colours."""
    random = np.random.default_rng(1889)
    size = width, height
    width, height = 2 * width, 2 * height  # drawn twice as large: the pen leaves hard edges
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
    """A Voronoi window: panes of one colour with a light fall across them, dark leads between."""
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
    """For every pixel its nearest site, and how much farther the second nearest is."""
    yy, xx = np.mgrid[:height, :width]
    distance = np.hypot(xx[..., None] - sites[:, 0], yy[..., None] - sites[:, 1])
    two = np.partition(distance, 1, axis=-1)
    return distance.argmin(axis=-1), two[..., 1] - two[..., 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("wheel", type=Path, help="scikit-image's wheel, for the photographs")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(args.wheel) as wheel:
        for name, source in PHOTOS.items():
            image = Image.open(io.BytesIO(wheel.read(f"skimage/data/{source}"))).convert("RGB")
            image.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.LANCZOS)
            save(image, name)
    save(brushwork(), "brushwork")
    save(glass(), "glass")


if __name__ == "__main__":
    main()
