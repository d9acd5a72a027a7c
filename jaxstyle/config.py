"""What a run is asked for: the axes of its grid and its settings, from flags, TOML or Python.

`Sweep` holds what the numbers of a run depend on, `RunOptions` what they do not (where to write, how
to report). Both are written by users; `resolve` turns a `Sweep` into one whose every value has been
checked and put into one form. Each error is a `JaxstyleError` whose text is a single line:
`<what>: <why, with the value, the limit and the mend>`.

Nothing here needs JAX.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import math
import os
import re
import reprlib
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

import jaxstyle
from jaxstyle import layers, paths, peers
from jaxstyle.errors import JaxstyleError
from jaxstyle.paths import taken_from

PACKAGE = Path(jaxstyle.__path__[0]).resolve()
EXAMPLES = PACKAGE / "examples"
PRESETS = PACKAGE / "presets"

AXES = (
    "content",
    "style",
    "content_layer",
    "style_layers",
    "init",
    "alpha_beta",
    "learning_rate",
    "seed",
)
"""The axes of a grid in the order of their product, the last one fastest."""

SEVERAL = (*AXES, "steps")
"""What takes several values in a sweep."""
PATH_AXES = ("content", "style", "init")
BALANCED_AXES = ("content", "style", "content_layer", "style_layers")
"""The axes that a balance depends on."""
BALANCED_SETTINGS = ("size", "style_size", "pool", "network", "style_weights", "weights")
"""The settings that it depends on."""
INIT_KINDS = ("noise", "content", "style")
MIN_SIZE_PX, MAX_SIZE_PX = 32, 8192
MIN_EDGE_PX = 16
"""The shortest edge of an image, given or resized: four poolings leave one position of conv5_1."""
MAX_STEPS = 10_000_000
MAX_PYRAMID = 8
MIN_CHECKPOINT_S = 0.1
MAX_LBFGS_MEMORY = 200
FLOAT32_MAX = 3.4028234663852886e38
MAX_SHOWN = 80
"""Characters of a value in an error that is no text."""
MAX_SPEC_BYTES = 16 * 2**20
MAX_SPEC_DEPTH = 8
"""Tables in tables of a spec; no setting needs more than 3."""

PLANNED = {
    "tolerance": "early stopping is not in this version",
}
"""Settings of later versions: naming one is an error that says so, never a silent no-op."""


class Retired(NamedTuple):
    """A setting of earlier versions."""

    default: Any
    """Its value in runs that did not use it: there it is taken, and means nothing."""
    why: str


RETIRED = {
    "warm_steps": Retired(
        0,
        "started cells from their neighbours' pictures, for mixed gains, and is gone; leave it out, or open"
        " a run that has it with the version that made it",
    ),
}
"""Settings that are gone; those of runs that go on are at their defaults."""


class OptimizerDefaults(NamedTuple):
    """What a sweep gets that names no more than its optimizer."""

    steps: int
    pyramid: int


OPTIMIZER_DEFAULTS = {
    "adam": OptimizerDefaults(steps=500, pyramid=0),
    "lbfgs": OptimizerDefaults(steps=250, pyramid=2),
}
"""As measured best; see docs/optimizers.md."""
FAST_SHARE = 4
"""How many steps of Adam one of its fast twin stands for."""
LBFGS_MEMORY = 30
LEARNING_RATE = 10.0


@dataclass(frozen=True)
class Sweep:
    """A grid of style transfers: its axes (each takes several values) and its settings."""

    content: tuple[str, ...] = ()
    """Content images. With neither --content nor --style nor --spec, the demo preset."""
    style: tuple[str, ...] = ()
    """Style images."""
    content_layer: tuple[str, ...] = (layers.CONTENT_LAYER,)
    """Layer of the content loss, after its ReLU."""
    style_layers: tuple[str, ...] = ("+".join(layers.STYLE_LAYERS),)
    """Sets of layers of the style loss: conv1_1+conv2_1 (equal weights, sum 1) or
    conv1_1:20+conv4_1:0.05."""
    init: tuple[str, ...] = ("noise",)
    """Starting images: noise, content, style, or a path to any image."""
    alpha_beta: tuple[float | str, ...] = (1e-3,)
    """Ratios of content to style weight; 0 is texture synthesis. 0.1x is that multiple of the ratio at
    which pure content and pure style would cost the same, measured first (see jaxstyle.calibrate)."""
    learning_rate: tuple[float, ...] = ()
    """Adam's learning rates, in grey levels; with lbfgs, how far its first step moves the pixel that it
    moves farthest (default: 10)."""
    seed: tuple[int | str, ...] = (0,)
    """Seeds of the noise, 0 to 4294967295; 0:32 is a range."""

    steps: tuple[int, ...] = ()
    """Optimisation steps, one evaluation of the loss and its gradient each. Several values are snapshots of
    one trajectory (default: 500 for adam, 250 for lbfgs)."""
    size: str = "256"
    """Longest edge of the content, or WxH to fill and crop."""
    style_size: int | None = None
    """Longest edge of the style images (default: the longest edge of the content's target size)."""
    pool: str = "avg"
    """Pooling of the network: avg or max."""
    network: str = "raw"
    """Scaling of the network's weights: raw, as published, or normalised, so that every filter's mean
    activation is 1 (Gatys et al. 2016); ratios mean another thing there, give them as multiples (0.1x)."""
    style_weights: str = "equal"
    """Weights of style layers that carry none of their own: equal, or balanced, so that each has the same
    share of the style loss of the content image."""
    optimizer: str = "auto"
    """How the pixels are optimised: adam or lbfgs; auto is lbfgs, or adam where a learning rate or decay is
    given, which are Adam's."""
    lbfgs_memory: int | None = None
    """Pairs of steps and gradient changes that L-BFGS remembers (default: 30)."""
    pyramid: int | None = None
    """Coarser stages to solve first, each of half the next one's size; those under 32 px are skipped
    (default: 2 for lbfgs, 0 for adam)."""
    fast: bool = False
    """Make of a sweep by Adam its coarse-to-fine twin: lbfgs with a pyramid, and a quarter of the steps."""
    schedule: str = "constant"
    """Adam's learning rate: constant, or decay, flat to 70 % of the steps and then linear to 0."""
    keep: str = "last"
    """The image that is saved: the last, or the best, that of the lowest loss so far."""
    clamp: bool = False
    """Keep pixels in 0 to 255 while they are optimised, so that the picture that is saved is the one whose
    loss was brought down."""
    noise_std: float = 1.0
    """Standard deviation of the noise start about the mean colour, in grey levels."""
    precision: str = "f32"
    """Products of convolutions and Gram matrices: f32, tf32 (NVIDIA GPUs only) or bf16, summed in float32
    (bf16 also stores activations so); losses and the image are always float32."""
    conv: str = "auto"
    """Convolution: auto, the fastest on the device, or plain, XLA's own everywhere."""
    canvas: str = "auto"
    """auto lets images of several shapes share a program where that is predicted to pay; off never."""
    beta: float = 1.0
    """Weight of the style loss; the content loss has beta times alpha-beta."""
    tv_weight: float = 0.0
    """Weight of the total variation."""
    weights: str | None = None
    """VGG19 weights: a converted file or Keras' notop file (default: the packaged ones)."""
    trace_every: int = 1
    """Keep every N-th entry of the loss curves (the first and the last always)."""
    checkpoint_every: float = 60.0
    """Seconds of work that a killed run may have to repeat at most: chunks are cut, and states written, by
    it."""
    max_cells: int = 100_000
    """Refuse a grid of more cells than this."""
    split_depth: bool = False
    """Compile cells of shallower layers apart from deeper ones instead of together."""
    deterministic: bool = False
    """Ask a GPU for the same bytes in every process (a CPU gives them anyway)."""

    grid: Annotated[tuple[Mapping[str, Any], ...], tyro.conf.Suppress] = ()
    """Tables of axis values, the run being their union; axes absent from one come from above."""
    digests: Annotated[Mapping[str, str], tyro.conf.Suppress] = field(default_factory=dict)
    """SHA-256 of files by path; a file that differs is an error."""
    balance: Annotated[tuple[Mapping[str, Any], ...], tyro.conf.Suppress] = ()
    """What was measured for relative alpha-beta and balanced style weights: a table for each combination of
    `BALANCED_AXES`, with `alpha_beta`, the ratio that 1x stands for, and `weights`, w_l by layer."""
    given: Annotated[Mapping[tuple[str, str], str], tyro.conf.Suppress] = field(default_factory=dict)
    """The text a user gave for a path, by axis and absolute path."""


def preset_heads() -> dict[str, tuple[str, str]]:
    """What every preset is and what it costs, by name: the first two lines of its file."""
    heads = {}
    for path in sorted(PRESETS.glob("*.toml")):
        with path.open(encoding="utf-8") as file:
            about, cost = (file.readline().removeprefix("#").strip() for _ in range(2))
        heads[path.stem] = about, cost
    return heads


def _preset_hint(_: str) -> str:
    """The list of presets under `--help`, which is all that reads their files."""
    lines = (f"{name}: {about} ({cost})" for name, (about, cost) in preset_heads().items())
    return "\n" + "\n".join(lines) + "\n(default: none)"


@dataclass(frozen=True)
class RunOptions:
    """Where a run goes and what it says: nothing that its numbers depend on."""

    preset: Annotated[str | None, tyro.conf.arg(help_behavior_hint=_preset_hint)] = None
    """Start from a named set of settings; flags override them. Times are those of two CPU cores, and for a
    GPU estimates; --fast makes of one by Adam a twin of a quarter of its steps."""
    spec: str | None = None
    """Read settings from a TOML file whose keys are these flags with _ for -."""
    out: str | None = None
    """Run directory, new or empty (default: runs/NNNN-NAME)."""
    resume: bool = False
    """Go on with the run in --out where it ended; settings that are given must be that run's."""
    extend: bool = False
    """Add the cells that are not in the run in --out yet; all other settings must be that run's."""
    dry_run: bool = False
    """Print the plan and its cost, and write nothing."""
    json: bool = False
    """With --dry-run: print the plan as JSON."""
    devices: int | None = None
    """Use no more than so many devices of this machine, or workers of the cluster (default: all)."""
    shard: str | None = None
    """I/N: compute one N-th of the run in --out, beside other processes that compute the others; I counts
    from 0 or from 1. slurm: the one that the variables of SLURM's job array name."""
    cluster: str | None = None
    """Compute on a Ray cluster: local starts one on this machine, auto is the one this process is on, else
    an address. Needs jaxstyle[cluster]."""
    collect: bool = False
    """With --cluster: ship what is computed to this process, for workers that do not see --out."""
    no_lock: bool = False
    """Take no lock, where the file system of --out has none: at your own risk, it is then for you to see
    that no other process works in the run, or at the share."""
    no_compile_cache: bool = False
    """Keep no compiled programs in the user's cache directory."""
    quiet: bool = False
    """Print nothing but errors."""
    log_format: str = "text"
    """Lines on standard output: text or json."""


SWEEP_KEYS = tuple(f.name for f in dataclasses.fields(Sweep) if f.name != "given")
OPTION_KEYS = tuple(f.name for f in dataclasses.fields(RunOptions))


def unknown_key(
    key: str, known: Iterable[str], *, what: str, positional: Sequence[str] = ()
) -> JaxstyleError:
    """The error for a name that does not exist: what other projects mean by it, or the nearest that does.

    Args:
        key: the name.
        known: those that exist.
        what: the name as it was given.
        positional: those of `known` that are given by their place.
    """
    if key in PLANNED:
        return JaxstyleError(what, PLANNED[key])
    if key in RETIRED:
        return JaxstyleError(what, RETIRED[key].why)
    known = tuple(known)
    if (other := peers.setting(key)) is not None:
        name = "image" if other.setting == "content" and "content" not in known else other.setting
        if name in positional:
            return JaxstyleError(what, f"no such setting; {name} is given without a flag, by its place")
        if name in known:
            why = f" ({other.why})" if other.why else ""
            return JaxstyleError(what, f"no such setting; did you mean {name}{why}?")
        return JaxstyleError(what, f"no such setting; {other.why or 'see --help'}")
    if key in (*SWEEP_KEYS, *OPTION_KEYS):
        return JaxstyleError(what, "no such setting of this command; it is one of jaxstyle.sweep")
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return JaxstyleError(what, "no such setting; " + (f"did you mean {near[0]}?" if near else "see --help"))


# --- one value ------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """`value` with the numbers and one-dimensional arrays of NumPy and JAX in it as Python's own.

    A number of fewer than 64 bits is what it is printed as: float32(0.1) is 0.1, not 0.10000000149.
    """
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
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


def _several(value: Any) -> tuple[Any, ...]:
    """The values of an axis, which may have been given as one value."""
    return tuple(value) if isinstance(value, list | tuple | range) else (value,)


def _printed(value: Any) -> Any:
    """The shortest decimal numbers that are those of an array, or of a scalar."""
    import numpy

    short = numpy.asarray(value)
    numbers = [float(str(number)) for number in short.reshape(-1)]
    return tuple(numbers) if short.shape else numbers[0]


def is_pixels(value: Any) -> bool:
    """Whether a value is an image itself, of PIL or as an array, and no path of one."""
    return not isinstance(value, str | os.PathLike) and (_is_pil(value) or hasattr(value, "__array__"))


def _is_pil(value: Any) -> bool:
    # Its attributes raise once it has been closed.
    return any(kind.__module__.partition(".")[0] == "PIL" for kind in type(value).__mro__)


def _shown(value: Any) -> str:
    """What a wrong value is, in a few words."""
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


def _number(what: str, value: Any, *, minimum: float, above: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise JaxstyleError(what, f"{_shown(value)} is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise JaxstyleError(what, f"{_shown(value)} is not a number") from None
    if not math.isfinite(number):
        raise JaxstyleError(what, f"{value} is not finite; give a finite number")
    if number < minimum or (above and number == minimum):
        bound = f"above {minimum:g}" if above else f"at least {minimum:g}"
        raise JaxstyleError(what, f"{value} is out of range; it must be {bound}")
    if number > FLOAT32_MAX:
        raise JaxstyleError(what, f"{value} is beyond float32; the largest is 3.4e38")
    return number


def _integer(what: str, value: Any, *, minimum: int, maximum: int) -> int:
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,30}", value.strip()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise JaxstyleError(what, f"{_shown(value)} is not a whole number")
    if not minimum <= value <= maximum:
        raise JaxstyleError(what, f"{_shown(value)} is out of range; it must be {minimum} to {maximum}")
    return value


def _choice(what: str, value: Any, allowed: Sequence[str]) -> str:
    if isinstance(value, str) and value in allowed:
        return value
    raise JaxstyleError(what, f"{_shown(value)} is not known; use {' or '.join(allowed)}")


ASCII_NAMES = "this process takes the names of files for {}; set PYTHONUTF8=1, or a locale of UTF-8"


def check_named(what: str, path: str) -> None:
    """Raise JaxstyleError for a path of good UTF-8 that came here as something else: in a C locale."""
    if any(0xD800 <= ord(c) <= 0xDFFF for c in path):
        with contextlib.suppress(UnicodeError):  # bytes that are no UTF-8 either
            name = os.fsencode(path).decode("utf-8")
            raise JaxstyleError(what, f"{name!r}: {ASCII_NAMES.format(sys.getfilesystemencoding())}")


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise JaxstyleError(what, f"{_shown(value)} is not a text; give a name or a path")
    text = str(os.fspath(value))
    check_named(what, text)
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise JaxstyleError(what, f"{text!r} holds control characters or is not UTF-8; rename it")
    return text


def _place(value: Any) -> str:
    """The path of a run directory: any that can be made; it stands in no file of the run."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    check_named("out", str(text))
    if not text or "\0" in text or any(0xD800 <= ord(c) <= 0xDFFF for c in str(text)):
        raise JaxstyleError("out", f"{_shown(value)} is no path in UTF-8; give one")
    return str(text)


def _file(axis: str, value: Any) -> str:
    """The absolute path of an image file."""
    if is_pixels(value):
        mend = "a run is repeated from files: save it and give its path; jaxstyle.stylize takes pixels"
        raise JaxstyleError(axis, f"{_shown(value)} is no path; {mend}")
    return taken_from("", _text(axis, value))


def _flag(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise JaxstyleError(what, f"{_shown(value)} is neither true nor false")
    return value


def _sha256(path: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Fa-f]{64}", value):
        raise JaxstyleError("digests", f"{value!r} of {path} is no SHA-256; give 64 hexadecimal digits")
    return value.lower()


def layer_name(what: str, value: Any) -> str:
    """`value` if it names a layer of VGG19; otherwise the error with the nearest name."""
    if isinstance(value, str) and value in layers.NAMES:
        return value
    if isinstance(value, str) and (known := peers.layer(value)) is not None:
        raise JaxstyleError(what, known)
    if isinstance(value, str) and "," in value:
        mend = "join those of a set by +, as in conv1_1+conv2_1; sets, and content layers, by spaces"
        raise JaxstyleError(what, f"VGG19 has no layer {value!r}; {mend}")
    near = difflib.get_close_matches(str(value), layers.NAMES, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]}?" if near else f"they run from {layers.NAMES[0]} to conv5_4"
    raise JaxstyleError(what, f"VGG19 has no layer {_shown(value)}; {hint}")


@functools.cache
def style_set(text: str) -> tuple[tuple[str, float], ...]:
    """The layers and weights that a set such as `conv1_1+conv2_1` or `conv1_1:20+conv4_1:0.05` names.

    Returns:
        `(name, w_l)` from the image downwards. Without weights they are equal and sum to 1.
    """
    what = "style_layers"
    weights: dict[str, float | None] = {}
    for part in _text(what, text).split("+"):
        name, colon, weight = part.strip().partition(":")
        layer_name(what, name)
        if name in weights:
            raise JaxstyleError(what, f"{text!r} names {name} twice; name each layer once")
        weights[name] = _number(what, weight, minimum=0.0) if colon else None
    if len({weight is None for weight in weights.values()}) > 1:
        raise JaxstyleError(what, f"{text!r}: either every layer of a set carries a weight or none")
    names = layers.in_order(weights)
    return tuple((n, 1.0 / len(names) if (w := weights[n]) is None else w) for n in names)


def parse_size(value: Any) -> int | tuple[int, int]:
    """`256` as the longest edge in px, or `192x256` as (width, height) = (192, 256)."""
    text = str(value) if isinstance(value, str | int) else _shown(value)
    if match := re.fullmatch(r"(\d{1,9})x(\d{1,9})", text):
        w, h = (_integer("size", n, minimum=MIN_SIZE_PX, maximum=MAX_SIZE_PX) for n in match.groups())
        return w, h
    if isinstance(value, bool) or not re.fullmatch(r"-?\d{1,9}", text):
        raise JaxstyleError("size", f"{text!r} is neither a longest edge (256) nor WxH (256x192)")
    return _integer("size", int(text), minimum=MIN_SIZE_PX, maximum=MAX_SIZE_PX)


# --- one axis -------------------------------------------------------------------------------------


def _seeds(value: Any, limit: int) -> list[int]:
    bounds = {"minimum": 0, "maximum": 2**32 - 1}
    if isinstance(value, str) and ":" in value:
        match = re.fullmatch(r"(\d{1,10}):(\d{1,10})", value.strip())
        if not match:
            raise JaxstyleError("seed", f"{value!r} is not a range; write 0:32 for 0 to 31")
        first, end = int(match[1]), int(match[2])
        if end <= first:
            raise JaxstyleError("seed", f"{value} is empty; the end must be above the start")
        _integer("seed", first, **bounds)
        _integer("seed", end - 1, **bounds)
        if end - first > limit:
            raise JaxstyleError("seed", f"{value} has more than {limit} values; see --max-cells")
        return list(range(first, end))
    return [_integer("seed", value, **bounds)]


def _start(value: Any) -> str:
    """The absolute path of a starting image."""
    path = _file("init", value)
    name = os.path.basename(path)
    if (kind := peers.STARTS.get(name.lower())) is not None and not os.path.exists(path):
        raise JaxstyleError("init", f"{name} is no file and no kind of start; did you mean {kind}?")
    return path


def _ratio(value: Any) -> float | str:
    if isinstance(value, str) and re.fullmatch(r"[0-9.eE+-]+x", value.strip()):
        return f"{_number('alpha_beta', value.strip()[:-1], minimum=0.0):g}x"
    return _number("alpha_beta", value, minimum=0.0)


def multiple(ratio: float | str) -> float | None:
    """The factor of a relative alpha-beta such as `0.1x`; None for a number."""
    return float(ratio[:-1]) if isinstance(ratio, str) else None


def axis_values(axis: str, raw: Any, *, max_cells: int) -> tuple[Any, ...]:
    """The checked values of one axis: numbers as numbers, paths absolute, ranges of seeds written out.

    Raises:
        JaxstyleError: for an empty axis, a value out of its range, or a value that is there twice.
    """
    items = list(raw) if isinstance(raw, list | tuple | range) else [raw]
    if not items:
        raise JaxstyleError(axis, "the axis is empty; give at least one value")
    parse: dict[str, Callable[[Any], list[Any]]] = {
        "content": lambda v: [_file(axis, v)],
        "style": lambda v: [_file(axis, v)],
        "init": lambda v: [v if isinstance(v, str) and v in INIT_KINDS else _start(v)],
        "content_layer": lambda v: [layer_name(axis, v)],
        "style_layers": lambda v: ["+".join(part.strip() for part in _text(axis, v).split("+"))],
        "alpha_beta": lambda v: [_ratio(v)],
        "learning_rate": lambda v: [_number(axis, v, minimum=0.0, above=True)],
        "seed": lambda v: _seeds(v, max_cells),
    }
    values: list[Any] = []
    for item in items:
        values += parse[axis](item)
        if len(values) > max_cells:
            raise JaxstyleError(axis, f"has more than {max_cells} values; see --max-cells")
    seen: set[Any] = set()
    for value in values:
        key = style_set(value) if axis == "style_layers" else value
        if key in seen:
            raise JaxstyleError(axis, f"{value} is there twice; give each value once")
        seen.add(key)
    return tuple(values)


# --- a whole sweep --------------------------------------------------------------------------------


def _resolve_grid(table: Mapping[str, Any], sweep: Sweep) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise JaxstyleError("grid", "a grid is a table of axes; write [[grid]]")
    for key in table:
        if not isinstance(key, str):
            raise JaxstyleError("grid", f"{_shown(key)} is no name of an axis")
        if key != "zip" and key not in AXES:
            raise unknown_key(key, (*AXES, "zip"), what=f"grid.{key}")
    grid: dict[str, Any] = {
        axis: axis_values(axis, table[axis], max_cells=sweep.max_cells) for axis in AXES if axis in table
    }
    zipped = table.get("zip", ())
    if not isinstance(zipped, list | tuple) or any(axis not in AXES for axis in zipped):
        raise JaxstyleError(
            "grid.zip", f'{_shown(zipped)} must list axes, as in zip = ["content", "style"]'
        )
    if len(set(zipped)) != len(zipped) or len(zipped) == 1:
        raise JaxstyleError("grid.zip", f"{list(zipped)} must name two or more different axes")
    lengths = {axis: len(grid.get(axis, getattr(sweep, axis))) for axis in zipped}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{axis} has {n}" for axis, n in lengths.items())
        raise JaxstyleError("grid.zip", f"zipped axes need equally many values: {counts}")
    if zipped:
        grid["zip"] = tuple(zipped)
    return grid


def _balance(table: Any) -> dict[str, Any]:
    """One checked table of `Sweep.balance`."""
    what = "balance"
    if not isinstance(table, Mapping) or set(table) != {*BALANCED_AXES, "alpha_beta", "weights"}:
        raise JaxstyleError(what, "a table has another form; leave it out and it is measured again")
    found = {axis: _text(what, table[axis]) for axis in BALANCED_AXES}
    layer_name(what, found["content_layer"])
    found |= {axis: os.path.abspath(found[axis]) for axis in ("content", "style")}
    names = {name for name, _ in style_set(found["style_layers"])}
    if not isinstance(table["weights"], Mapping) or set(table["weights"]) != names:
        raise JaxstyleError(what, f"weights must name {', '.join(sorted(names))}, each once")
    weights = {name: _number(what, w, minimum=0.0) for name, w in table["weights"].items()}
    ratio = _number(what, table["alpha_beta"], minimum=0.0)
    return {**found, "alpha_beta": ratio, "weights": weights}


def _twin(sweep: Sweep, optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """What `fast` makes of a sweep whose own settings of its optimizer are `optimizer`."""
    if optimizer["optimizer"] != "adam":
        raise JaxstyleError("fast", "is for sweeps by adam; lbfgs is fast as it is")
    tables = [table for table in sweep.grid if isinstance(table, Mapping)]
    rates = [sweep.learning_rate, *(table.get("learning_rate", ()) for table in tables)]
    if any(isinstance(values, list | tuple) and len(values) > 1 for values in rates):
        raise JaxstyleError("fast", "several learning rates are Adam's; give one or none")
    steps = optimizer["steps"]
    steps = steps if isinstance(steps, list | tuple) else (steps,)
    return _resolve_optimizer(
        dataclasses.replace(
            sweep,
            fast=False,
            optimizer="lbfgs",
            schedule="constant",
            learning_rate=(),
            pyramid=sweep.pyramid or None,
            steps=tuple(-(-n // FAST_SHARE) if isinstance(n, int) else n for n in steps),
            grid=tuple({k: v for k, v in table.items() if k != "learning_rate"} for table in tables),
        )
    )


def _resolve_optimizer(sweep: Sweep) -> dict[str, Any]:
    """The optimizer of a sweep and every setting that depends on it."""
    rates = sweep.learning_rate != () or any(
        isinstance(table, Mapping) and "learning_rate" in table for table in sweep.grid
    )
    name = _choice("optimizer", sweep.optimizer, ("auto", *OPTIMIZER_DEFAULTS))
    schedule = _choice("schedule", sweep.schedule, ("constant", "decay"))
    if name == "auto":
        adams = schedule == "decay" or (rates and sweep.lbfgs_memory is None)
        name = "adam" if adams else "lbfgs"
    defaults = OPTIMIZER_DEFAULTS[name]
    memory = sweep.lbfgs_memory
    if name == "lbfgs":
        memory = LBFGS_MEMORY if memory is None else memory
        memory = _integer("lbfgs_memory", memory, minimum=1, maximum=MAX_LBFGS_MEMORY)
        if schedule == "decay":
            raise JaxstyleError("schedule", "decay is Adam's; leave it out or give --optimizer adam")
    elif memory is not None:
        raise JaxstyleError("lbfgs_memory", f"{name} has none; leave it out or give --optimizer lbfgs")
    pyramid = defaults.pyramid if sweep.pyramid is None else sweep.pyramid
    found = {
        "optimizer": name,
        "lbfgs_memory": memory,
        "schedule": schedule,
        "pyramid": _integer("pyramid", pyramid, minimum=0, maximum=MAX_PYRAMID),
        "learning_rate": (LEARNING_RATE,) if sweep.learning_rate == () else sweep.learning_rate,
        "steps": (defaults.steps,) if sweep.steps == () else sweep.steps,
        "grid": sweep.grid,
        "fast": False,
    }
    return _twin(sweep, found) if _flag("fast", sweep.fast) else found


def resolve(sweep: Sweep) -> Sweep:
    """`sweep` with every value checked and in one form: what planning and `spec.toml` start from.

    Relative paths are taken from the current directory; files are not looked at.

    Raises:
        JaxstyleError: naming the first setting that is wrong.
    """
    if not isinstance(sweep.grid, list | tuple):
        raise JaxstyleError("grid", f"{_shown(sweep.grid)} is no list of tables of axes; write [[grid]]")
    if not all(isinstance(table, Mapping) for table in sweep.grid):
        raise JaxstyleError("grid", "a grid is a table of axes; write [[grid]]")
    if not isinstance(sweep.digests, Mapping):
        raise JaxstyleError("digests", 'write a table: [digests] "path" = "sha256"')
    sweep = dataclasses.replace(
        sweep,
        **{name: plain(getattr(sweep, name)) for name in SWEEP_KEYS if name not in (*SEVERAL, "grid")},
        **{name: _several(plain(getattr(sweep, name))) for name in SEVERAL},
        grid=tuple(
            {key: plain(value) for key, value in table.items()} if isinstance(table, Mapping) else table
            for table in sweep.grid
        ),
    )
    max_cells = _integer("max_cells", sweep.max_cells, minimum=1, maximum=10**7)
    sweep = dataclasses.replace(sweep, **_resolve_optimizer(sweep))
    given = dict(sweep.given)
    for table in ({axis: getattr(sweep, axis) for axis in AXES}, *sweep.grid):
        if isinstance(table, Mapping):
            given = _given(table, Path.cwd()) | given
    needed = [a for a in AXES if not sweep.grid or any(a not in g for g in sweep.grid)]
    for axis in ("content", "style"):
        if axis in needed and not getattr(sweep, axis):
            raise JaxstyleError(axis, f"no {axis} image; give --{axis} PATH or --preset demo")
    axes = {a: axis_values(a, getattr(sweep, a), max_cells=max_cells) for a in needed}
    steps = tuple(_integer("steps", n, minimum=1, maximum=MAX_STEPS) for n in sweep.steps)
    if not steps:
        raise JaxstyleError("steps", "no value; give at least one")
    if len(set(steps)) != len(steps):
        raise JaxstyleError("steps", f"{list(steps)} repeats a value; give each once")
    size = parse_size(sweep.size)
    style_size = sweep.style_size
    if style_size is not None:
        style_size = _integer("style_size", style_size, minimum=MIN_SIZE_PX, maximum=MAX_SIZE_PX)
    beta = _number("beta", sweep.beta, minimum=0.0, above=True)
    resolved = dataclasses.replace(
        sweep,
        **axes,
        steps=tuple(sorted(steps)),
        size=str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}",
        style_size=style_size,
        pool=_choice("pool", sweep.pool, ("avg", "max")),
        network=_choice("network", sweep.network, ("raw", "normalised")),
        style_weights=_choice("style_weights", sweep.style_weights, ("equal", "balanced")),
        keep=_choice("keep", sweep.keep, ("last", "best")),
        precision=_choice("precision", sweep.precision, ("f32", "tf32", "bf16")),
        conv=_choice("conv", sweep.conv, ("auto", "plain")),
        canvas=_choice("canvas", sweep.canvas, ("auto", "off")),
        clamp=_flag("clamp", sweep.clamp),
        noise_std=_number("noise_std", sweep.noise_std, minimum=0.0),
        beta=beta,
        tv_weight=_number("tv_weight", sweep.tv_weight, minimum=0.0),
        weights=None if sweep.weights is None else taken_from("", _text("weights", sweep.weights)),
        trace_every=_integer("trace_every", sweep.trace_every, minimum=1, maximum=MAX_STEPS),
        checkpoint_every=_number("checkpoint_every", sweep.checkpoint_every, minimum=MIN_CHECKPOINT_S),
        max_cells=max_cells,
        split_depth=_flag("split_depth", sweep.split_depth),
        deterministic=_flag("deterministic", sweep.deterministic),
        digests={os.path.abspath(path): _sha256(path, text) for path, text in sweep.digests.items()},
        balance=tuple(_balance(table) for table in sweep.balance),
        given=given,
    )
    grids = tuple(_resolve_grid(table, resolved) for table in sweep.grid)
    for values in (axes, *grids):
        for ratio in values.get("alpha_beta", ()):
            if multiple(ratio) is None and ratio * beta > FLOAT32_MAX:
                raise JaxstyleError("alpha_beta", f"{ratio} x beta {beta} is beyond float32")
    return dataclasses.replace(resolved, grid=grids)


def differences(own: Sweep, other: Sweep) -> list[str]:
    """Where two resolved sweeps differ beside their axes, as in `size is 256 there and 192 here`."""
    return [
        f"{f.name} is {getattr(own, f.name)} there and {getattr(other, f.name)} here"
        for f in dataclasses.fields(Sweep)
        if f.name not in (*AXES, "grid", "digests", "balance", "given", "max_cells")
        and getattr(own, f.name) != getattr(other, f.name)
    ]


def tables(sweep: Sweep) -> tuple[Mapping[str, Any], ...]:
    """The grids of a resolved sweep, each with every axis written out."""
    top = {axis: getattr(sweep, axis) for axis in AXES}
    return tuple({**top, **table} for table in sweep.grid or ({},))


MAX_SHARES = 100_000


@dataclass(frozen=True)
class Share:
    """One of several parts of a run that processes compute which know nothing of each other."""

    index: int
    """From 0."""
    count: int
    of: str
    """Who says so: `shard`, or SLURM's variables."""

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def share(options: RunOptions, environment: Mapping[str, str] = os.environ) -> Share | None:
    """The share of a run that a process is to compute; None for all of it.

    `--shard I/N`, where I counts from 0 or from 1: N/N is 0/N. With `--shard slurm` the index of a job
    array's task among its tasks. A task that does not ask for it computes all of its run: many launchers
    start one run for each task of an array.

    Raises:
        JaxstyleError: for what is no share.
    """
    if options.shard is None:
        return None
    text = options.shard if isinstance(options.shard, str) else _shown(options.shard)
    if text == "slurm":
        return _slurm_share(environment)
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    index, count = map(int, found.groups()) if found else (0, 0)
    if not (1 <= count <= MAX_SHARES and index <= count):
        raise JaxstyleError("shard", f"{text!r} is no share; give I/N, such as 0/8 or 8/8, or slurm")
    return Share(index % count, count, "shard") if count > 1 else None


def _slurm_share(environment: Mapping[str, str]) -> Share | None:
    """The share of a task of a SLURM job array."""
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "STEP")]
    task, count, first, stride = (environment.get(name, "") for name in names)
    if not task:
        raise JaxstyleError(
            "shard", "slurm: this is no task of a job array, SLURM_ARRAY_TASK_ID is not set; give I/N"
        )
    if not (task.isdecimal() and count.isdecimal() and first.isdecimal()):
        raise JaxstyleError("SLURM_ARRAY_TASK_ID", f"{task!r} of {count!r} tasks; give --shard I/N")
    index, stride = int(task) - int(first), int(stride) if stride.isdecimal() else 1
    if stride < 1 or index % stride or not 0 <= index // stride < int(count) <= MAX_SHARES:
        raise JaxstyleError(
            "SLURM_ARRAY_TASK_ID", f"{task} from {first} is none of {count} tasks; give --shard I/N"
        )
    return Share(index // stride, int(count), "SLURM's array") if int(count) > 1 else None


def run_share(options: RunOptions, environment: Mapping[str, str] = os.environ) -> Share | None:
    """`share` of a run that is to be computed. Raises JaxstyleError for what cannot be done in shares."""
    if (found := share(options, environment)) is None:
        return None
    if options.out is None and not options.dry_run:
        raise JaxstyleError(
            "shard", "of which run? give its directory with --out, or no --shard for a run of its own"
        )
    if options.extend:
        raise JaxstyleError("extend", "plans the run anew; do that by one process, without --shard")
    if options.cluster is not None:
        raise JaxstyleError("shard", "a cluster shares the work itself; leave one of the two out")
    return found


def check_options(options: RunOptions) -> RunOptions:
    """`options` with every value checked. Raises JaxstyleError naming the first that is wrong."""
    options = RunOptions(**{name: plain(getattr(options, name)) for name in OPTION_KEYS})
    if options.devices is not None:
        devices = _integer("devices", options.devices, minimum=1, maximum=2**20)
        options = dataclasses.replace(options, devices=devices)
    run_share(options)
    if options.cluster is not None:
        _text("cluster", options.cluster)
    elif options.collect:
        raise JaxstyleError("collect", "is of clusters; give it together with --cluster")
    if options.out is not None:
        _place(options.out)
    _choice("log_format", options.log_format, ("text", "json"))
    for name in ("dry_run", "json", "quiet", "no_compile_cache", "resume", "extend", "collect", "no_lock"):
        _flag(name, getattr(options, name))
    for name in ("resume", "extend"):
        if getattr(options, name) and options.out is None:
            raise JaxstyleError(name, "of which run? give its directory with --out")
    if options.resume and options.extend:
        raise JaxstyleError("extend", "also goes on with the run; leave --resume out")
    if options.json and not options.dry_run:
        raise JaxstyleError("json", "it prints the plan; give it together with --dry-run")
    return options


# --- tables: presets, specs, flags ----------------------------------------------------------------


def _given(table: Mapping[str, Any], base: Path) -> dict[tuple[str, str], str]:
    """What was written for every path in `table`, by axis and absolute path."""
    given = {}
    for axis in PATH_AXES:
        values = table.get(axis, ())
        for value in values if isinstance(values, list | tuple) else [values]:
            if isinstance(value, str | os.PathLike) and not (axis == "init" and value in INIT_KINDS):
                text = os.fspath(value)
                given[axis, taken_from(base, text)] = text
    return given


def _absolute(table: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """`table` with its relative paths taken from `base`."""

    def one(axis: str, value: Any) -> Any:
        if not isinstance(value, str) or not value or (axis == "init" and value in INIT_KINDS):
            return value
        return taken_from(base, value)

    out = dict(table)
    for key in (*PATH_AXES, "weights", "out"):
        if key in out and not isinstance(out[key], Mapping):
            value = out[key]
            out[key] = [one(key, v) for v in value] if isinstance(value, list | tuple) else one(key, value)
    return out


def _check_spec(what: str, table: dict[str, Any]) -> dict[str, Any]:
    """`table` if Python can print all of it: integers of TOML's 64 bits, and few tables in tables."""
    pending: list[tuple[str, Any, int]] = [("", table, 0)]
    while pending:
        key, value, depth = pending.pop()
        if depth > MAX_SPEC_DEPTH:
            raise JaxstyleError(f"{what}: {key}", f"is nested deeper than {MAX_SPEC_DEPTH}; write it flat")
        if isinstance(value, dict):
            pending += [(key or str(name), inner, depth + 1) for name, inner in value.items()]
        elif isinstance(value, list):
            pending += [(key, inner, depth + 1) for inner in value]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise JaxstyleError(f"{what}: {key}", "an integer of over 64 bits; give a smaller one")
    return table


def read_toml(path: Path) -> dict[str, Any]:
    """The table of a TOML file. Raises JaxstyleError if it cannot be read or is not TOML."""
    what = str(path)
    try:
        if not path.is_file():
            why = "is not a regular file" if path.exists() else "no such file"
            raise JaxstyleError(what, f"{why}; give the path of a TOML file")
        if (size := path.stat().st_size) > MAX_SPEC_BYTES:
            raise JaxstyleError(what, f"has {size} bytes; the limit is {MAX_SPEC_BYTES}: list fewer values")
        data = path.read_bytes()
        if data.startswith(b"\xef\xbb\xbf"):
            raise JaxstyleError(what, "begins with a byte order mark; save it as UTF-8 without one")
        return _check_spec(what, tomllib.loads(data.decode("utf-8")))
    except JaxstyleError:
        raise
    except OSError as error:
        raise JaxstyleError(what, f"cannot be read: {error.strerror or error}; give another file") from None
    except (ValueError, RecursionError) as error:
        raise JaxstyleError(what, f"not a TOML file in UTF-8; mend it: {error}") from None


def preset_path(name: Any) -> Path:
    """The TOML file of a preset. Raises JaxstyleError for a name that is none."""
    names = sorted(path.stem for path in PRESETS.glob("*.toml"))
    if name not in names:
        raise JaxstyleError("preset", f"{name!r} is not known in this version; use {', '.join(names)}")
    return PRESETS / f"{name}.toml"


@dataclass(frozen=True)
class Assembled:
    """A sweep and its run options, put together from everything that names settings."""

    sweep: Sweep
    options: RunOptions
    name: str
    """What a run directory is called after: the preset, else the spec file's stem, else `sweep`."""
    moved: Mapping[str, str] = field(default_factory=dict)
    """By the path that a spec has, where a file is now that has gone from there."""


def assemble(
    flags: Mapping[str, Any],
    *,
    cwd: Path | None = None,
    places: Iterable[Path | str] = (),
    among: Iterable[str] = (),
) -> Assembled:
    """Settings from all sources: defaults < preset < spec < flags.

    An axis named by a stronger source replaces that axis in every `[[grid]]` of a weaker one. When
    nothing names an image, a preset or a spec, the preset is `demo`. Paths in flags are relative to
    `cwd`, in a spec to its file, in a preset to the example images. To resume or extend a run without
    naming images, a preset or a spec is to start from the run's own spec.

    A file with a digest that is no longer where a spec says is looked for about the spec, `cwd` and
    `places`, and among the files of `among`.

    Raises:
        JaxstyleError: for a key that does not exist, a file that cannot be read, or a wrong value.
    """
    cwd = cwd or Path.cwd()
    sources: list[tuple[Mapping[str, Any], Path]] = [(flags, cwd)]
    spec, preset = flags.get("spec"), flags.get("preset")
    if spec is not None:
        path = Path(taken_from(cwd, _text("spec", spec)))
        table = read_toml(path)
        if "spec" in table:
            raise JaxstyleError(f"{path}: spec", "a spec cannot name another spec")
        sources.insert(0, (table, path.parent))
        preset = preset if preset is not None else table.get("preset")
    elif preset is None and "content" not in flags and "style" not in flags:
        goes_on = next((flag for flag in ("resume", "extend") if flags.get(flag)), None)
        if goes_on is None or flags.get("out") is None:  # without --out it is refused below
            preset = "demo"
        elif (own := Path(taken_from(cwd, _place(flags["out"]))) / "spec.toml").is_file():
            sources.insert(0, (read_toml(own), own.parent))
        else:
            where = flags["out"]
            raise JaxstyleError(goes_on, f"{where} holds no run yet; give the settings of one to begin it")
    if preset is not None:
        sources.insert(0, (read_toml(preset_path(preset)), EXAMPLES))

    values: dict[str, Any] = {}
    grids: list[dict[str, Any]] = []
    digests: dict[str, str] = {}
    balance: list[dict[str, Any]] = []
    given: dict[tuple[str, str], str] = {}
    for table, base in sources:
        for key, value in table.items():
            if key in RETIRED and value == RETIRED[key].default:
                continue
            if key not in SWEEP_KEYS and key not in OPTION_KEYS:
                raise unknown_key(key, (*SWEEP_KEYS, *OPTION_KEYS), what=key)
            if key in ("learning_rate", "steps") and value in ((), []):
                raise JaxstyleError(key, "no value; give at least one")
        own_grids = table.get("grid")
        if own_grids is not None and (
            not isinstance(own_grids, list) or not all(isinstance(g, dict) for g in own_grids)
        ):
            raise JaxstyleError("grid", "a grid is a table of axes; write [[grid]]")
        if own_grids:
            grids = [_absolute(g, base) for g in own_grids]
        else:
            grids = [{k: v for k, v in g.items() if k not in table} for g in grids]
        if (own_balance := table.get("balance")) is not None:
            if not isinstance(own_balance, list) or not all(isinstance(t, dict) for t in own_balance):
                raise JaxstyleError("balance", "is written by a run; leave it out and it is measured again")
            balance = [_absolute(t, base) for t in own_balance]
        elif any(key in table for key in BALANCED_SETTINGS):
            balance = []
        own_digests = table.get("digests", {})
        if not isinstance(own_digests, dict):
            raise JaxstyleError("digests", 'write a table: [digests] "path" = "sha256"')
        digests |= {taken_from(base, path): d for path, d in own_digests.items()}
        for source in (table, *(own_grids or ())):
            given |= _given(source, base)
        values |= {
            k: v
            for k, v in _absolute(table, base).items()
            if k not in ("grid", "digests", "balance", "spec")
        }

    bases = (*(base for _, base in sources if base != EXAMPLES), *map(Path, places))
    folders = dict.fromkeys(folder for base in bases for folder in (base, *base.parents))
    texts = {path: digest for path, digest in digests.items() if isinstance(digest, str)}
    moved = paths.moved(texts, places=(*folders, cwd), among=among)
    if moved:
        values, grids, balance = _renamed([values, grids, balance], moved)
        digests = {moved.get(path, path): digest for path, digest in digests.items()}
        given = {(axis, moved.get(path, path)): text for (axis, path), text in given.items()}

    name = "sweep"
    if spec is not None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(str(spec)).stem).strip(".-")[:60] or "spec"
    elif preset is not None:
        name = str(preset)
    options = RunOptions(**{k: v for k, v in values.items() if k in OPTION_KEYS and k != "spec"})
    sweep = Sweep(
        **{k: v for k, v in values.items() if k in SWEEP_KEYS},
        grid=tuple(grids),
        digests=digests,
        balance=tuple(balance),
        given=given,
    )
    return Assembled(resolve(sweep), check_options(options), name, moved)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Tables with other names for some files."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, list | tuple):
        return [_renamed(item, names) for item in value]
    if isinstance(value, Mapping):
        return {key: _renamed(item, names) for key, item in value.items()}
    return value


def renamed(sweep: Sweep, names: Mapping[str, Mapping[str, str]]) -> Sweep:
    """A resolved sweep with other names for some files, by their axis or setting."""

    def axis(table: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: tuple(names[key].get(v, v) for v in value) if key in PATH_AXES else value
            for key, value in table.items()
        }

    every = {old: new for own in names.values() for old, new in own.items()}
    weights = sweep.weights and names["weights"].get(sweep.weights, sweep.weights)
    return dataclasses.replace(
        sweep,
        **axis({key: getattr(sweep, key) for key in PATH_AXES}),
        weights=weights,
        grid=tuple(axis(table) for table in sweep.grid),
        balance=tuple(
            {**t, **{a: names[a].get(t[a], t[a]) for a in ("content", "style")}} for t in sweep.balance
        ),
        digests={every.get(path, path): digest for path, digest in sweep.digests.items()},
        given={(a, names[a].get(path, path)): text for (a, path), text in sweep.given.items()},
    )


def files(sweep: Sweep) -> tuple[str, ...]:
    """The absolute paths of all files that a resolved sweep names, each once."""
    tables = (*({axis: getattr(sweep, axis) for axis in PATH_AXES},), *sweep.grid)
    named = [v for t in tables for axis in PATH_AXES for v in t.get(axis, ()) if v not in INIT_KINDS]
    return tuple(dict.fromkeys([*named, *([sweep.weights] if sweep.weights else [])]))


# --- spec.toml ------------------------------------------------------------------------------------


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = "".join(
            f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08X}" for c in value
        )
        return f'"{escaped}"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return repr(value)


def _respelled(value: Any, run: Path) -> Any:
    """A path, or several, as they are written into a run."""
    if isinstance(value, list | tuple):
        return [_respelled(item, run) for item in value]
    return value if value in INIT_KINDS else paths.spelled(value, run)


def to_toml(sweep: Sweep, digests: Mapping[str, str], *, run: Path | None = None) -> str:
    """The text of `spec.toml`: the resolved `sweep` and the digests of its files; running it repeats it.

    Args:
        run: the folder that it is to lie in; files under its parent are written relative to it.
    """
    lines = ["# Run again with: python -m jaxstyle.sweep --spec spec.toml"]

    def line(key: str, value: Any) -> str:
        if run is not None and key in (*PATH_AXES, "weights") and not isinstance(value, Mapping):
            value = _respelled(value, run)
        return f"{key} = {_toml_value(value)}"

    for f in dataclasses.fields(Sweep):
        value = getattr(sweep, f.name)
        if f.name in ("grid", "digests", "balance", "given") or value is None:
            continue
        if f.name in AXES and sweep.grid and all(f.name in g for g in sweep.grid):
            continue
        lines.append(line(f.name, value))
    for kind in ("grid", "balance"):
        for table in getattr(sweep, kind):
            lines += ["", f"[[{kind}]]"]
            lines += [line(key, value) for key, value in table.items()]
    lines += ["", "[digests]"]
    named = {path if run is None else paths.spelled(path, run): d for path, d in digests.items()}
    lines += [f"{_toml_value(path)} = {_toml_value(d)}" for path, d in sorted(named.items())]
    return "\n".join(lines) + "\n"
