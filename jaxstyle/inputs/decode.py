"""The pixels of an image, from a file or from memory: uint8 (h, w, 3), RGB in sRGB, upright, without alpha.

`formats` knows how files hold a picture, and `colour` how they label its colours. A file may be anything:
whatever is wrong with it is a JaxstyleError, and whatever was changed to make a picture of it is noted.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import io
import logging
import os
import re
import stat
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError, _imaging, features

from jaxstyle.inputs import colour_spaces
from jaxstyle.inputs.formats import kind_of, main_picture
from jaxstyle.inputs.heif import decode_heic, is_avif, is_heic
from jaxstyle.inputs.resize import check_edges
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.vgg.layers import MIN_EDGE_PX

# Pillow logs some of the errors that it also raises; without a handler, Python prints them on stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""The Pillow decoders that may see a file; some of the others start programs or parse documents."""
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"GIF8")
"""The first bytes of files in these formats."""
MAX_FILE_BYTES = 512 * 2**20
MAX_PIXELS = 64 * 2**20
FLOATS = "float_0_255"
"""The argument of the Python API that says what floats mean."""
ORIENTATION = 0x0112
"""The tag of the EXIF orientation, in a TIFF too."""
TURNED = "turned as its EXIF orientation says"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that turns an image upright, by its EXIF orientation."""
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    MemoryError,
    OverflowError,
    RuntimeError,
    TypeError,
    KeyError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""Exceptions that Pillow 12 and 13 raise for damaged files."""


@dataclass(frozen=True)
class Picture:
    """A decoded image file."""

    pixels: UInt8[np.ndarray, "h w 3"]
    sha256: str
    """SHA-256 of the file."""
    notes: tuple[str, ...] = ()
    """Notes on changes to the picture that a user might not expect."""


def read(path: str, *, as_stored: bool = False) -> Picture:
    """Decode an image file to 8-bit RGB.

    The EXIF orientation is applied, transparent parts are laid on white, the upper 8 of 16 bits are kept,
    and other colour spaces are converted to sRGB; `Picture.notes` tells which of these was done.

    Args:
        path: its path.
        as_stored: whether the file's gamma and colour space are ignored, and its levels stay as they are;
            such an image may be of any size.

    Raises:
        JaxstyleError: for anything but one readable, reasonably sized still image.
    """
    data = _read_bytes(path)
    notes: list[str] = []
    try:
        with _quiet():
            image = _to_rgb(path, data, notes, as_stored=as_stored)
    except JaxstyleError:
        raise
    except UnidentifiedImageError:
        kind = kind_of(path, data)
        if (not kind and data.startswith(_SIGNATURES)) or (is_avif(data) and features.check("avif")):
            raise JaxstyleError(path, "is damaged or cut short; save it again") from None
        what = f"is {kind}, which is not" if kind else "is not an image"
        kinds = ", ".join(FORMATS)
        raise JaxstyleError(path, f"{what} in a supported format; save it as one of {kinds}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        count = re.search(r"\d+", str(error))
        raise _too_large(path, count[0] if count else "too many") from None
    except MemoryError:
        raise JaxstyleError(path, "needs more memory than is available; make it smaller first") from None
    except _DECODE_ERRORS as error:
        raise JaxstyleError(path, f"is damaged or cut short; save it again: {error}") from None
    return Picture(np.asarray(image), hashlib.sha256(data).hexdigest(), tuple(notes))


def from_memory(what: str, value: Any, *, float_0_255: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an image in memory, converted as `read` converts those of a file.

    Args:
        what: name of the image in errors.
        value: a PIL image of one frame, or a NumPy or JAX array: uint8, 0 to 255, of shape (h, w) or
            (h, w, 1) if grey, (h, w, 3) if RGB, (h, w, 4) if RGB with alpha.
        float_0_255: whether arrays of floats are taken too, of values from 0 to 255, and rounded half to
            even. Without it they are refused, because many programs mean 0 to 1 by them.

    Raises:
        JaxstyleError: for anything else.
    """
    if isinstance(value, Image.Image):
        image = value
    else:
        array = _whole_levels(what, value, float_0_255)
        channels = 1 if array.ndim == 2 else array.shape[2] if array.ndim == 3 else 0
        if array.dtype != np.uint8 or channels not in (1, 3, 4) or not array.size:
            found = f"is an array of {array.dtype} {array.shape}"
            floats = f", or floats from 0 to 255 with {FLOATS}=True" if _is_float(array) else ""
            mend = "give uint8, (h, w, 3) in RGB, (h, w) in grey or (h, w, 4)"
            raise JaxstyleError(what, f"{found}; {mend}{floats}")
        if channels == 3:
            return array
        image = Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array)
    notes: list[str] = []
    try:
        with _quiet():
            image.load()
            labels = colour_spaces.Labels(image.info.get("icc_profile"), {})
            deep = image.mode.startswith("I;16")
            if image.mode in ("F", "I"):
                raise JaxstyleError(what, f"is a PIL image of mode {image.mode}; convert it to RGB or L")
            return np.asarray(_to_srgb8(what, _upright(image, notes), deep, labels, False, notes))
    except JaxstyleError:
        raise
    except _DECODE_ERRORS as error:
        raise JaxstyleError(what, f"cannot be converted: {error}; convert it to RGB first") from None


def _whole_levels(what: str, value: Any, float_0_255: bool) -> np.ndarray:
    """`value` as an array of NumPy, uint8 where it was floats from 0 to 255 and those are taken."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # as of a tracer or a donated array of JAX
        raise JaxstyleError(what, f"has no pixels that can be read: {error}") from None
    if not (float_0_255 and array.size and _is_float(array)):
        return array
    array = array.astype(np.float64)
    low, high = float(array.min()), float(array.max())
    if not 0 <= low <= high <= 255:
        raise JaxstyleError(what, f"has values from {low:.4g} to {high:.4g}; {FLOATS} takes 0 to 255")
    of_alpha = array[..., 3] if array.ndim == 3 and array.shape[2] == 4 else None
    if (high <= 1 and (array % 1).any()) or (of_alpha is not None and of_alpha.max() <= 1 < high):
        part = "values" if high <= 1 else "an alpha"
        raise JaxstyleError(what, f"has {part} from 0 to 1, and {FLOATS} takes 0 to 255; multiply by 255")
    return np.rint(array).astype(np.uint8)


def _is_float(array: np.ndarray) -> bool:
    """Whether an array is of floats, JAX's bfloat16 included, which NumPy does not count among them."""
    return array.dtype.name.startswith(("float", "bfloat"))


def _read_bytes(path: str) -> bytes:
    try:
        status = os.stat(path)  # comes before opening, because a FIFO would block for ever
        if stat.S_ISDIR(status.st_mode):
            raise JaxstyleError(
                path,
                "is a directory; give an image file (jaxstyle.sweep takes folders as content or style)",
            )
        if not stat.S_ISREG(status.st_mode):
            raise JaxstyleError(path, "is not a regular file; give an image file")
        if status.st_size == 0:
            raise JaxstyleError(path, "is empty; give an image file")
        if status.st_size > MAX_FILE_BYTES:
            size = f"has {status.st_size} bytes; the limit is {MAX_FILE_BYTES}"
            raise JaxstyleError(path, f"{size}: make it smaller first")
        return Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise JaxstyleError(path, f"cannot be read: {reason}; give an image file") from None


_ONE_AT_A_TIME = threading.RLock()
"""Lock held while decoding, because warning filters and libtiff's handlers belong to the whole process."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what decoders print on stderr; anything wrong with a file they raise as well.

    Only one thread at a time can be in this context. What other threads print on stderr still appears.
    """
    with _ONE_AT_A_TIME, warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for setter in _libtiff_setters():
            stack.callback(setter, setter(None))
        yield


@functools.cache
def _libtiff_setters() -> tuple[Callable[[int | None], int | None], ...]:
    """Setters of libtiff's handlers for errors and warnings, which print; each returns the previous one.

    The result is empty if Pillow was built with a libtiff whose names cannot be looked up.
    """
    try:
        library = ctypes.CDLL(_imaging.__file__)  # finds names in all the libraries it is linked with
        setters = (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler)
    except (OSError, AttributeError):
        return ()
    for setter in setters:
        setter.argtypes, setter.restype = (ctypes.c_void_p,), ctypes.c_void_p
    return setters


def _to_rgb(path: str, data: bytes, notes: list[str], *, as_stored: bool = False) -> Image.Image:
    container = main_picture(path, data)
    notes += container.notes
    if is_heic(container.data):
        image = decode_heic(path, container.data, notes, MAX_PIXELS)
        deep = image.mode.startswith("I;16")
        check_edges(path, image.height, image.width)
    else:
        image, deep = _open(path, container.data, notes, 1 if as_stored else MIN_EDGE_PX)
    labels = colour_spaces.Labels(image.info.get("icc_profile") or container.profile, container.chunks)
    labels = colour_spaces.Labels(None, {}) if as_stored else labels
    is_bmp = image.format == "BMP"
    image = _upright(image, notes)
    if labels == colour_spaces.Labels(None, {}) and _is_adobe_rgb(image):
        notes.append("its EXIF data say Adobe RGB, which is not converted but taken for sRGB")
    if container.orientation in _TURNS:
        notes.append(TURNED)
        image = image.transpose(_TURNS[container.orientation])
    return _to_srgb8(path, image, deep, labels, is_bmp, notes)


def _open(path: str, data: bytes, notes: list[str], least_px: int) -> tuple[Image.Image, bool]:
    """The image with its pixels decoded, and whether the file has 16 bits per channel.

    Args:
        path: name of the file.
        data: its bytes.
        notes: what is told of it; is added to.
        least_px: the least that its edges may be.
    """
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if (frames := getattr(image, "n_frames", 1)) != 1:
        raise JaxstyleError(path, f"holds {frames} frames; save one of them as an image of its own")
    check_edges(path, image.height, image.width, least_px)
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path, image.width * image.height)
    raw = " ".join(str(tile[3]) for tile in image.tile)  # such as RGB;16B; BGR;16 has 16 bits per pixel
    kinds = {"F": "floating-point", "I": "32-bit"}
    if kind := "12-bit" if "I;12" in raw else kinds.get(image.mode):
        raise JaxstyleError(path, f"has {kind} pixels of unknown range; save it with 8 or 16 bits")
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(ORIENTATION) in _TURNS:
        notes.append(TURNED)  # by `load`, after which nothing says so
    image.load()
    return image, ";16" in raw and "BGR" not in raw


def _too_large(path: str, pixels: int | str) -> JaxstyleError:
    return JaxstyleError(path, f"has {pixels} pixels; the limit is {MAX_PIXELS}: make it smaller first")


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """`image` turned as its EXIF orientation says, if that can be read and has a meaning."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except _DECODE_ERRORS:
        notes.append("its EXIF data cannot be read and is ignored")
        return image
    if orientation in _TURNS:
        notes.append(TURNED)
        return image.transpose(_TURNS[orientation])
    if orientation != 1:
        notes.append(f"its EXIF orientation, {orientation}, has no meaning and is ignored")
    return image


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Whether EXIF declares Adobe RGB as R03 (DCF 2.0), which may be left over after a conversion."""
    try:
        return image.getexif().get_ifd(ExifTags.IFD.Interop).get(1) == "R03"
    except _DECODE_ERRORS:
        return False


def _to_srgb8(
    path: str, image: Image.Image, deep: bool, labels: colour_spaces.Labels, is_bmp: bool, notes: list[str]
) -> Image.Image:
    """A decoded, upright image as 8-bit RGB, its colours in sRGB and its transparent parts on white."""
    if deep:
        notes.append("reduced from 16 to 8 bits")
    image, alpha = _split(image, deep)
    if alpha is not None:
        least, most = alpha.getextrema()
        if is_bmp and most == 0:
            # Most programs leave a BMP's alpha byte unused, whatever the header says.
            notes.append("its alpha channel is 0 throughout and is ignored")
            alpha = None
        elif most == 0:
            raise JaxstyleError(path, "is fully transparent; give an image with something to see in it")
        elif least == 255:
            alpha = None
        else:
            notes.append("its transparent parts are laid on white")
    image = colour_spaces.to_srgb(image, labels, notes)
    if image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode not in ("L", "RGB"):
        notes.append(f"converted from {image.mode} to sRGB")
    image = image.convert("RGB")
    if alpha is None:
        return image
    image.putalpha(alpha)
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _split(image: Image.Image, deep: bool) -> tuple[Image.Image, Image.Image | None]:
    """An image's colours, in mode L, I;16, RGB or that of another space (CMYK, LAB), and its alpha."""
    alpha = None
    if image.has_transparency_data:
        both = (_to_8_bits(image) if deep else image).convert("RGBA")
        alpha = both.getchannel("A")
        if image.mode in ("LA", "La"):
            image = both.getchannel("R")
        elif image.mode not in ("L", "1") and not image.mode.startswith("I;16"):
            image = both.convert("RGB")
    if image.mode in ("1", "P", "RGBX", "YCbCr"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode in ("I;16B", "I;16L", "I;16N"):
        image = Image.fromarray(np.asarray(image).astype(np.uint16))
    return image, alpha


def _to_8_bits(image: Image.Image) -> Image.Image:
    """`image` with the upper 8 of its 16 bits: Pillow keeps only those of RGB, so grey is made the same."""
    info = dict(image.info)  # the image may be a user's, or read once more
    if image.mode.startswith("I;16"):
        # Pillow's own conversion to 8 bits clips at 255 instead of scaling.
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    else:
        image = image.copy()
    image.info = info
    key = info.get("transparency")
    if isinstance(key, int | tuple):
        info["transparency"] = key >> 8 if isinstance(key, int) else tuple(part >> 8 for part in key)
    return image
