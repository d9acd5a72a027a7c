"""Conversion of a picture's colours to sRGB, by its ICC profile or by the colour chunks of a PNG.

A profile is judged by its effect on colours, never by its name: a profile that moves none is sRGB, and its
picture is left untouched. Symbols (IEC 61966-2-1, ITU-T H.273, PNG 3): V is a stored value and L is light,
both 0 to 1; g is gAMA's exponent, V = L**g; M maps light in one colour space to light in another.

Nothing here reads a file.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Float64, UInt8, UInt16
from PIL import Image, ImageCms

SAME_LEVELS = 2
"""The most levels of 255 by which a profile may move a colour and still count as sRGB.

Every sRGB profile that was measured moves colours by at most 1: ICC's and Artifex's v2 profiles with 1024
points, v4 with a formula, compact ones with 42, 26 ("c2") and 20 points, and curves with as few as 16. Of
other colour spaces the nearest, a plain gamma of 2.2 with sRGB's primaries, moves dark greys by 9; Rec. 709
moves colours by 16, linear light by 73, Display P3 by 96 (54 profiles of Debian's icc-profiles-free,
colord-data and libgs-common).
"""

UNUSABLE = "its colour profile could not be used and is ignored"
PROFILED = "converted from its colour profile to sRGB"

_SPACES = {"L": "GRAY", "I;16": "GRAY", "RGB": "RGB ", "CMYK": "CMYK", "LAB": "Lab "}
"""The name in ICC profiles of the colour space of each Pillow mode."""
_BAND_PIXELS = 2**20
"""The most pixels that are converted, and so held as floats, at a time."""


class UnusableProfileError(ValueError):
    """A profile that cannot be read, or is for another colour space than the picture's."""


@dataclass(frozen=True)
class Labels:
    """The colour information in a file.

    Args:
        profile: the ICC profile; empty if there is one that cannot be extracted, None if there is none.
        chunks: bodies of a PNG's colour chunks, by kind.
    """

    profile: bytes | None
    chunks: Mapping[bytes, bytes]


def to_srgb(image: Image.Image, labels: Labels, notes: list[str]) -> Image.Image:
    """`image` in sRGB; unchanged if its file says that it is sRGB already, or says nothing.

    The first of these chunks in a PNG counts: cICP, iCCP, sRGB, gAMA with cHRM (PNG 3, 4.3).

    Args:
        image: image of mode L, I;16, RGB, CMYK or LAB, without alpha; other modes are returned unchanged.
        labels: the colour information in its file.
        notes: list to which a note is added on what was done, or could not be done.
    """
    if image.mode not in _SPACES:
        return image
    if (body := labels.chunks.get(b"cICP")) is not None:
        return _by_code_points(image, body, notes)
    if labels.profile is not None:
        # 16-bit grey with alpha is decoded as RGBA, and WebP has no grey mode, but their profile is grey.
        if labels.profile[16:20] == b"GRAY" and image.mode == "RGB" and _is_grey(image):
            image = image.getchannel("R")
        try:
            transform = _transform(labels.profile, image.mode)
        except UnusableProfileError:
            notes.append(UNUSABLE)
        else:
            if transform is None:
                return image
            notes.append(PROFILED)
            return transform.apply(image)
    if b"sRGB" in labels.chunks:
        return image
    return _by_gamma(image, labels.chunks.get(b"gAMA"), labels.chunks.get(b"cHRM"), notes)


def _is_grey(image: Image.Image) -> bool:
    red, *others = (np.asarray(band) for band in image.split())
    return all(np.array_equal(red, band) for band in others)


# --- by profile -----------------------------------------------------------------------------------


@functools.cache
def _colours() -> UInt8[np.ndarray, "n 3"]:
    """Test colours for a conversion: every grey, every shade of each primary, a 9 x 9 x 9 lattice."""
    ramp = np.arange(256)
    greys = np.stack([ramp] * 3, -1)
    shades = np.concatenate([greys * channel for channel in np.eye(3, dtype=int)])
    steps = np.rint(np.linspace(0, 255, 9)).astype(int)
    lattice = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    return np.concatenate([greys, shades, lattice]).astype(np.uint8)


def _moves(before: UInt8[np.ndarray, "n 3"], after: UInt8[np.ndarray, "n 3"]) -> bool:
    return bool(np.abs(after.astype(int) - before).max() > SAME_LEVELS)


@functools.lru_cache(maxsize=4)  # the pictures of a sweep have few profiles, and each may be megabytes
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile's colours in a Pillow mode to sRGB, or None if they are sRGB already."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = _space(source)
        if space != _SPACES[mode]:
            # Many grey pictures carry the sRGB profile of RGB ones, which is right for their greys as well.
            if _SPACES[mode] == "GRAY" and space == "RGB " and _is_srgb(source):
                return None
            raise UnusableProfileError(space)
        if space in ("RGB ", "GRAY") and _is_srgb(source):
            return None
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB", flags=_flags(space))
        transform.apply(Image.new(mode, (1, 1)))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError) as error:
        raise UnusableProfileError(str(error)) from None
    return transform


def _space(source: ImageCms.ImageCmsProfile) -> str:
    return cast(Any, source.profile).xcolor_space


def _flags(space: str) -> ImageCms.Flags:
    """Flags for lcms, whose optimisation makes errors of 9.7 levels in dark linear grey, 0.5 without it."""
    return ImageCms.Flags.NOOPTIMIZE if space == "GRAY" else ImageCms.Flags.NONE


def _is_srgb(source: ImageCms.ImageCmsProfile) -> bool:
    """Whether a profile of RGB or grey leaves colours unchanged with one of two rendering intents.

    The tables of the sRGB v4 preference profile change colours to please the eye with the perceptual
    intent, and are sRGB with the colorimetric one.
    """
    grey = _space(source) == "GRAY"
    colours = _colours()[:256] if grey else _colours()
    swatch = Image.fromarray(colours[None, :, 0] if grey else colours[None])
    srgb = ImageCms.createProfile("sRGB")
    flags = _flags(_space(source))
    for intent in (ImageCms.Intent.PERCEPTUAL, ImageCms.Intent.RELATIVE_COLORIMETRIC):
        transform = ImageCms.buildTransform(source, srgb, swatch.mode, "RGB", intent, flags)
        if not _moves(colours, np.asarray(transform.apply(swatch))[0]):
            return True
    return False


# --- by PNG's numbers -----------------------------------------------------------------------------

Curve = Callable[[Float64[np.ndarray, "*n"]], Float64[np.ndarray, "*n"]]
"""A transfer function, V to L."""


def _of_srgb(v: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    return np.where(v <= 0.04045, v / 12.92, ((np.maximum(v, 0) + 0.055) / 1.055) ** 2.4)


def _to_srgb_levels(light: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n"]:
    """Light as levels of sRGB, 0 to 255; light outside sRGB's range is clipped."""
    light = np.clip(light, 0, 1)
    v = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * v).astype(np.uint8)


def _power(exponent: float) -> Curve:
    return lambda v: np.maximum(v, 0) ** exponent


def _of_oetf(slope: float, alpha: float, beta: float) -> Curve:
    """The inverse of V = slope L below beta, alpha L**0.45 - (alpha - 1) above (H.273, table 3)."""
    return lambda v: np.where(
        v < slope * beta, v / slope, ((np.maximum(v, 0) + alpha - 1) / alpha) ** (1 / 0.45)
    )


_BT709 = _of_oetf(4.5, 1.09929682680944, 0.018053968510807)
_CURVES: dict[int, Curve] = {
    **dict.fromkeys((1, 6, 14, 15), _BT709),
    4: _power(2.2),
    5: _power(2.8),
    7: _of_oetf(4.0, 1.1115, 0.0228),
    8: _power(1.0),
    13: _of_srgb,
}
"""Transfer functions of H.273 that can be used as they are; those of HDR, 16 and 18, need tone mapping."""
_CURVE_NAMES = {
    1: "BT.709",
    8: "linear light",
    13: "sRGB",
    16: "PQ",
    18: "HLG",
    9: "logarithmic",
    10: "logarithmic",
    17: "SMPTE ST 428",
}

Chromaticities = tuple[float, float, float, float, float, float, float, float]
"""The x and y of white, red, green and blue, in this order."""

_D65 = (0.3127, 0.3290)
_SRGB: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES: dict[int, Chromaticities] = {
    1: _SRGB,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
"""Primaries of H.273, table 2."""
_PRIMARY_NAMES = {1: "BT.709", 9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}

_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""The Bradford matrix from XYZ to the cone responses in which a white is adapted (ICC.1, annex E)."""


def _xyz(x: float, y: float) -> Float64[np.ndarray, " 3"]:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _to_xyz(space: Chromaticities) -> Float64[np.ndarray, "3 3"]:
    white, *primaries = (_xyz(*space[i : i + 2]) for i in range(0, 8, 2))
    columns = np.stack(primaries, -1)
    return columns * np.linalg.solve(columns, white)


def _to_srgb_matrix(space: Chromaticities) -> Float64[np.ndarray, "3 3"]:
    """The matrix M from `space` to sRGB, with its white adapted to sRGB's.

    Raises:
        ValueError: if the chromaticities span no colour space.
    """
    try:
        with np.errstate(all="ignore"):
            cones = [_BRADFORD @ _xyz(*each[:2]) for each in (space, _SRGB)]
            adapted = np.linalg.inv(_BRADFORD) @ np.diag(cones[1] / cones[0]) @ _BRADFORD
            matrix = np.linalg.inv(_to_xyz(_SRGB)) @ adapted @ _to_xyz(space)
    except (ZeroDivisionError, np.linalg.LinAlgError):
        raise ValueError(space) from None
    if not np.all(np.abs(matrix) < 100):  # also refuses NaN
        raise ValueError(space)
    return matrix


@dataclass(frozen=True)
class _Space:
    """A colour space: the transfer function of its values, and its primaries."""

    curve: Curve
    matrix: Float64[np.ndarray, "3 3"]
    """The matrix from its light to sRGB's."""
    full_range: bool = True
    """Whether its values run from 0 to 255; otherwise black is 16 and white is 235."""

    def _light(self, most: int) -> Float[np.ndarray, " n"]:
        """The light of every level from 0 to `most`."""
        v = np.arange(most + 1) / most
        if not self.full_range:
            v = np.clip((255 * v - 16) / 219, 0, 1)
        return self.curve(v)

    def levels(self, levels: UInt8[np.ndarray, "*n 3"]) -> UInt8[np.ndarray, "*n 3"]:
        """Colours of this space in sRGB."""
        return _to_srgb_levels(
            self._light(255).astype(np.float32)[levels] @ self.matrix.T.astype(np.float32)
        )

    def grey(self, levels: UInt8[np.ndarray, "*n"] | UInt16[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n"]:
        """Greys of this space in sRGB; its white becomes sRGB's, so that only the curve matters."""
        return _to_srgb_levels(self._light(int(np.iinfo(levels.dtype).max)))[levels]

    def is_srgb(self) -> bool:
        """Whether conversion to sRGB leaves colours unchanged."""
        return not _moves(_colours(), self.levels(_colours()))

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """A picture in this space, of mode L, I;16 or RGB, converted to sRGB."""
        if image.mode != "RGB":
            return Image.fromarray(self.grey(np.asarray(image)))
        pixels = np.asarray(image)
        made = np.empty_like(pixels)
        rows = max(1, _BAND_PIXELS // image.width)
        for top in range(0, image.height, rows):
            made[top : top + rows] = self.levels(pixels[top : top + rows])
        return Image.fromarray(made)


def _by_code_points(image: Image.Image, body: bytes, notes: list[str]) -> Image.Image:
    """`image` in sRGB by its cICP chunk: primaries, transfer function, matrix, full range (H.273)."""
    if len(body) != 4:
        notes.append("its cICP chunk makes no sense and is ignored")
        return image
    primaries, transfer, matrix, full_range = body
    named = _PRIMARY_NAMES.get(primaries, f"primaries {primaries}")
    named += f", {_CURVE_NAMES.get(transfer, f'transfer function {transfer}')}"
    if matrix or full_range > 1 or transfer not in _CURVES or primaries not in _PRIMARIES:
        notes.append(f"its cICP colours ({named}) are not converted but taken for sRGB")
        return image
    space = _Space(_CURVES[transfer], _to_srgb_matrix(_PRIMARIES[primaries]), bool(full_range))
    if space.is_srgb():
        return image
    notes.append(f"converted from the colours of its cICP ({named}) to sRGB")
    return space.to_srgb(image)


def _by_gamma(image: Image.Image, gama: bytes | None, chrm: bytes | None, notes: list[str]) -> Image.Image:
    """`image` in sRGB by its gAMA and cHRM chunks, whose numbers are in units of 1/100,000."""
    curve, space = _of_srgb, _SRGB
    if gama is not None:
        (g,) = struct.unpack(">I", gama[:4])
        # 0.45455 stands for sRGB's own curve (PNG 3, 11.3.2.2). As |x log x| < 0.37, another g within 2.1%
        # of it moves no level by more than SAME_LEVELS.
        if not 10_000 <= g <= 1_000_000:
            notes.append(f"its gamma (gAMA), {g / 1e5:g}, makes no sense and is ignored")
        elif abs(g / 45455 - 1) * 255 * np.exp(-1) > SAME_LEVELS:
            curve = _power(1e5 / g)
    if chrm is not None:
        space = cast(Chromaticities, tuple(part / 1e5 for part in struct.unpack(">8I", chrm[:32])))
    try:
        found = _Space(curve, _to_srgb_matrix(space))
    except ValueError:
        notes.append("its primaries (cHRM) make no sense and are ignored")
        found = _Space(curve, np.eye(3))
    if found.is_srgb():
        return image
    said = [
        name for name, is_said in (("gAMA", curve is not _of_srgb), ("cHRM", space != _SRGB)) if is_said
    ]
    notes.append(f"converted from the colours of its {' and '.join(said)} to sRGB")
    return found.to_srgb(image)
