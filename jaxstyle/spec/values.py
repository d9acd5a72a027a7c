"""Checks of the values of settings: each turns what a user wrote into its one form, or raises an error.

A function takes the name of what is being set, for its error message, and the value as it comes from flags,
TOML or Python: a text, a number, a number of NumPy. Its result has the same form for all of them.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import math
import os
import re
import reprlib
import sys
from collections.abc import Sequence
from typing import Any

from jaxstyle.spec import synonyms
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.paths import taken_from
from jaxstyle.vgg import layers

RECOLOURED = "recoloured"
"""The start that is the content in the colours of the style."""
INIT_KINDS = ("noise", "content", "style", RECOLOURED)
"""Kinds of start; any other start is the path of an image."""
AUTO = "auto"
"""The size of a style that is as long as the target size of the content."""
NONE = "none"
"""The content of a texture, and the style of a content inversion."""
WORDS = {"content": (NONE,), "style": (NONE,), "init": INIT_KINDS}
"""Values of the axes of paths that are not paths, by axis."""
BLEND = "blend:"
"""Beginning of a checked value that names several files; see `blends`."""
MIN_SIZE_PX, MAX_SIZE_PX = 32, 8192
FLOAT32_MAX = 3.4028234663852886e38
MAX_SHOWN = 80
"""Most characters of a value that is not a text, in an error message."""
ASCII_NAMES = "this process reads file names as {}; set PYTHONUTF8=1, or use a UTF-8 locale"
"""The error for a file name that Python has decoded with the encoding `{}`."""

# --- any value ------------------------------------------------------------------------------------


def plain_value(value: Any) -> Any:
    """`value` with numbers and one-dimensional arrays of NumPy and JAX converted to Python's numbers.

    A float of fewer than 64 bits becomes the number that it prints as: float32(0.1) is 0.1, not
    0.10000000149.
    """
    if isinstance(value, list | tuple):
        return tuple(plain_value(item) for item in value)
    if _is_pil(value):
        return value
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if not kind or not hasattr(value, "tolist"):
        return value
    if len(value.shape) > 1:  # an image, perhaps
        return value
    if kind == "f" and value.dtype.itemsize < 8:
        return _printed(value)
    items = value.tolist()
    return tuple(items) if isinstance(items, list) else items


def _printed(value: Any) -> Any:
    """The numbers of an array, or of a scalar, each as the shortest decimal that stands for it."""
    import numpy

    short = numpy.asarray(value)
    numbers = [float(str(number)) for number in short.reshape(-1)]
    return tuple(numbers) if short.shape else numbers[0]


def as_values(value: Any) -> tuple[Any, ...]:
    """The values of an axis as a tuple; it may have been given as a single value."""
    return tuple(value) if isinstance(value, list | tuple | range) else (value,)


def is_pixels(value: Any) -> bool:
    """Whether a value is an image itself, a PIL image or an array, rather than a path."""
    return not isinstance(value, str | os.PathLike) and (_is_pil(value) or hasattr(value, "__array__"))


def _is_pil(value: Any) -> bool:
    # By its type alone, since the attributes of a closed image raise.
    return any(kind.__module__.partition(".")[0] == "PIL" for kind in type(value).__mro__)


def shown(value: Any) -> str:
    """A short description of a wrong value, for an error message."""
    if _is_pil(value):
        return "a PIL image"
    shape, kind = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and kind is not None:
        return f"an array of {kind} {tuple(shape)}"
    if isinstance(value, int) and abs(value) > 10**MAX_SHOWN:  # which Python may refuse to print
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        long = len(value) > 3 * MAX_SHOWN
        return repr(f"{value[:MAX_SHOWN]} [...] {value[-MAX_SHOWN:]}" if long else value)
    text = reprlib.repr(value)
    return text if len(text) <= MAX_SHOWN and not text.startswith("<") else type(value).__name__


def as_number(what: str, value: Any, *, minimum: float, above: bool = False) -> float:
    """A finite number that float32 can hold, at least `minimum`, or strictly more if `above`."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise JaxstyleError(what, f"{shown(value)} is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise JaxstyleError(what, f"{shown(value)} is not a number") from None
    if not math.isfinite(number):
        raise JaxstyleError(what, f"{value} is not finite; give a finite number")
    if number < minimum or (above and number == minimum):
        bound = f"above {minimum:g}" if above else f"at least {minimum:g}"
        raise JaxstyleError(what, f"{value} is out of range; it must be {bound}")
    if number > FLOAT32_MAX:
        raise JaxstyleError(what, f"{value} is beyond float32; the largest is 3.4e38")
    return number


def as_integer(what: str, value: Any, *, minimum: int, maximum: int) -> int:
    """A whole number from `minimum` to `maximum`."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,30}", value.strip()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise JaxstyleError(what, f"{shown(value)} is not a whole number")
    if not minimum <= value <= maximum:
        raise JaxstyleError(what, f"{shown(value)} is out of range; it must be {minimum} to {maximum}")
    return value


def as_choice(what: str, value: Any, allowed: Sequence[str]) -> str:
    """One of `allowed`."""
    if isinstance(value, str) and value in allowed:
        return value
    raise JaxstyleError(what, f"{shown(value)} is not known; use {' or '.join(allowed)}")


def as_flag(what: str, value: Any) -> bool:
    """A flag, true or false."""
    if not isinstance(value, bool):
        raise JaxstyleError(what, f"{shown(value)} is neither true nor false")
    return value


# --- texts and paths ------------------------------------------------------------------------------


def as_text(what: str, value: Any) -> str:
    """A text that can be written into the files of a run: a name or a path."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise JaxstyleError(what, f"{shown(value)} is not a text; give a name or a path")
    text = str(os.fspath(value))
    check_named(what, text)
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise JaxstyleError(what, f"{text!r} holds control characters or is not UTF-8; rename it")
    return text


def as_place(what: str, value: Any) -> str:
    """The path of a run directory; less strict than `as_text`, since no file of the run contains it."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    check_named(what, str(text))
    if not text or "\0" in text or any(0xD800 <= ord(c) <= 0xDFFF for c in str(text)):
        raise JaxstyleError(what, f"{shown(value)} is not a path in UTF-8; give one")
    return str(text)


def is_path(value: str) -> bool:
    """Whether a checked value of an axis of paths is a path, which is then absolute: no word, no blend."""
    return not value.startswith(BLEND) and not any(value in words for words in WORDS.values())


def as_file(axis: str, value: Any) -> str:
    """The absolute path of an image file, or the word for none of an axis that has it."""
    if isinstance(value, str) and value in WORDS.get(axis, ()):
        return value
    if is_pixels(value):
        mend = "a run is repeated from files: save this and give its path; jaxstyle.stylize takes pixels"
        raise JaxstyleError(axis, f"{shown(value)} is not a path; {mend}")
    return taken_from("", as_text(axis, value))


def as_sha256(path: str, value: Any) -> str:
    """The SHA-256 of the file at `path`, in lower case."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Fa-f]{64}", value):
        raise JaxstyleError("digests", f"{value!r} of {path} is not a SHA-256; give 64 hexadecimal digits")
    return value.lower()


def check_named(what: str, path: str) -> None:
    """Raise JaxstyleError for a UTF-8 path that Python has decoded as something else, as in a C locale."""
    if any(0xD800 <= ord(c) <= 0xDFFF for c in path):
        with contextlib.suppress(UnicodeError):  # the bytes are not UTF-8 either
            name = os.fsencode(path).decode("utf-8")
            raise JaxstyleError(what, f"{name!r}: {ASCII_NAMES.format(sys.getfilesystemencoding())}")


# --- layers and sizes -----------------------------------------------------------------------------

LAYERS_RUN = f"they run from {layers.NAMES[0]} to {layers.NAMES[-1]}, and from pool1 to pool5"
"""The names there are, for an error message."""
UP_TO = "upto:"
"""Prefix of the name of a cumulative set of style layers."""


def layer_name(what: str, value: Any) -> str:
    """`value` if it names a layer of VGG19; otherwise an error that suggests the nearest name."""
    if isinstance(value, str) and value in layers.TAPS:
        return value
    if isinstance(value, str) and (known := synonyms.layer(value)) is not None:
        raise JaxstyleError(what, known)
    if isinstance(value, str) and not value:
        raise JaxstyleError(what, "VGG19 has no layer ''; a set is one word, as in conv1_1+conv2_1")
    if isinstance(value, str) and "," in value:
        mend = "join the layers of a set with +, as in conv1_1+conv2_1; separate values with spaces"
        raise JaxstyleError(what, f"VGG19 has no layer {value!r}; {mend}")
    near = difflib.get_close_matches(str(value), layers.TAPS, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]}?" if near else LAYERS_RUN
    raise JaxstyleError(what, f"VGG19 has no layer {shown(value)}; {hint}")


@functools.cache
def style_set(text: str) -> tuple[tuple[str, float], ...]:
    """The layers and weights of a set: `conv1_1+conv2_1`, `conv1_1:20+conv4_1:0.05` or `upto:pool4`.

    Returns:
        `(name, w_l)` from the layer nearest to the image downwards. Weights that are not given are equal
        and sum to 1.
    """
    what = "style_layers"
    if as_text(what, text).strip().startswith(UP_TO):
        text = "+".join(_cumulative_set(what, text.strip()))
    weights: dict[str, float | None] = {}
    for part in as_text(what, text).split("+"):
        name, colon, weight = part.strip().partition(":")
        layer_name(what, name)
        if name in weights:
            raise JaxstyleError(what, f"{text!r} names {name} twice; name each layer once")
        weights[name] = as_number(what, weight, minimum=0.0) if colon else None
    if len({weight is None for weight in weights.values()}) > 1:
        raise JaxstyleError(what, f"{text!r}: give every layer of a set a weight, or none")
    names = layers.in_order(weights)
    return tuple((n, 1.0 / len(names) if (w := weights[n]) is None else w) for n in names)


def _cumulative_set(what: str, text: str) -> tuple[str, ...]:
    """The layers of `upto:NAME`: those at the same place of every block down to NAME.

    They are conv1_1, pool1 and so on down to a pooling (Gatys et al. 2015), or conv1_1, conv2_1 and so on.
    """
    name = text.removeprefix(UP_TO)
    ladders = ((layers.STYLE_LAYERS[0], *layers.POOLS), layers.STYLE_LAYERS)
    for ladder in ladders:
        if name in ladder[1:] or name == ladder[0]:
            return ladder[: ladder.index(name) + 1]
    if "+" in name or ":" in name:
        raise JaxstyleError(
            what, f"{text!r}: upto:NAME is a whole set; leave the rest out, or list its layers"
        )
    layer_name(what, name)
    why = f"upto: goes to pool1 to pool5, or to one of {', '.join(layers.STYLE_LAYERS)}; list other layers"
    raise JaxstyleError(what, f"{text!r}: {why}")


def has_weights(text: str) -> bool:
    """Whether the layers of a style set carry weights of their own."""
    return ":" in text.removeprefix(UP_TO)


def same_set(text: str) -> tuple[tuple[tuple[str, float], ...], bool]:
    """The layers and weights of a set, and whether it gives them, for given ones are never balanced."""
    return style_set(text), has_weights(text)


def as_style_set(what: str, value: Any) -> str:
    """A set of style layers as the user wrote it, without spaces."""
    return "+".join(part.strip() for part in as_text(what, value).split("+"))


def as_style_size(what: str, value: Any) -> int | str:
    """The longest edge of a style in px, or `auto`, for which None stands too."""
    if value is None or value == AUTO:
        return AUTO
    return as_integer(what, value, minimum=MIN_SIZE_PX, maximum=MAX_SIZE_PX)


def longest_edge(size: str) -> int:
    """The longest edge in px of the target size `256` or `256x192`."""
    found = parse_size(size)
    return found if isinstance(found, int) else max(found)


def as_size(what: str, value: Any) -> str:
    """A size as the text `256` or `256x192`; see `parse_size`."""
    size = parse_size(value)
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


def parse_size(value: Any) -> int | tuple[int, int]:
    """A size in px: `256` is the longest edge, `192x256` is (width, height) = (192, 256)."""
    text = str(value) if isinstance(value, str | int) else shown(value)
    if isinstance(value, tuple | list):
        raise JaxstyleError("size", f"{text} is no text; give WIDTHxHEIGHT, as in '256x192'")
    if match := re.fullmatch(r"(\d{1,9})x(\d{1,9})", text):
        w, h = (as_integer("size", n, minimum=MIN_SIZE_PX, maximum=MAX_SIZE_PX) for n in match.groups())
        return w, h
    if isinstance(value, bool) or not re.fullmatch(r"-?\d{1,9}", text):
        raise JaxstyleError("size", f"{text!r} is neither a longest edge (256) nor WxH (256x192)")
    return as_integer("size", int(text), minimum=MIN_SIZE_PX, maximum=MAX_SIZE_PX)


# --- starts, seeds and ratios ---------------------------------------------------------------------


def as_seeds(what: str, value: Any, limit: int) -> list[int]:
    """The seeds of a number or of a range such as `0:32`, at most `limit`."""
    bounds = {"minimum": 0, "maximum": 2**32 - 1}
    if isinstance(value, str) and ":" in value:
        match = re.fullmatch(r"(\d{1,10}):(\d{1,10})", value.strip())
        if not match:
            raise JaxstyleError(what, f"{value!r} is not a range; write 0:32 for 0 to 31")
        first, end = int(match[1]), int(match[2])
        if end <= first:
            raise JaxstyleError(what, f"{value} is empty; the end must be above the start")
        as_integer(what, first, **bounds)
        as_integer(what, end - 1, **bounds)
        if end - first > limit:
            raise JaxstyleError(what, f"{value} has more than {limit} values; see --max-cells")
        return list(range(first, end))
    if (
        isinstance(value, str)
        and (match := re.fullmatch(r"(\d{1,9}) ?(?:-|\.\.\.?) ?(\d{1,9})", value))
        and (int(match[1]) <= int(match[2]))
    ):
        whole = f"{match[1]}:{int(match[2]) + 1}"
        raise JaxstyleError(what, f"{value!r} is not a range; write {whole} for {match[1]} to {match[2]}")
    return [as_integer(what, value, **bounds)]


def as_start(what: str, value: Any) -> str:
    """One of `INIT_KINDS`, or the absolute path of a starting image."""
    if isinstance(value, str) and value in INIT_KINDS:
        return value
    path = as_file(what, value)
    name = os.path.basename(path)
    if (kind := synonyms.STARTS.get(name.lower())) is not None and not os.path.exists(path):
        raise JaxstyleError(what, f"{name} is neither a file nor a kind of start; did you mean {kind}?")
    return path


def as_ratio(what: str, value: Any) -> float | str:
    """A ratio of content to style weight: a number, or a multiple of the balance such as `0.1x`."""
    if isinstance(value, str) and re.fullmatch(r"[0-9.eE+-]+x", value.strip()):
        factor = as_number(what, value.strip()[:-1], minimum=0.0)
        short = f"{factor:g}"
        return f"{short if float(short) == factor else factor}x"
    if isinstance(value, str) and re.fullmatch(r"\d*[.,]?\d{1,2} ?[xX×]", value.strip()):
        mend = f"{value.strip().rstrip('xX× ').replace(',', '.')}x"
        raise JaxstyleError(what, f"{value!r} is not a multiple of the balance; write {mend}")
    return as_number(what, value, minimum=0.0)


def relative_factor(ratio: float | str) -> float | None:
    """The factor of a relative alpha-beta such as `0.1x`; None for a number."""
    return float(ratio[:-1]) if isinstance(ratio, str) else None
