"""One picture at a time: a transfer without a run directory, and what the network sees in an image.

A transfer is a sweep of one cell: the same settings, the same plan and the same launch, hence the same
bytes. Nothing is written except compiled programs in the user's cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxstyle.console import signals
from jaxstyle.console.progress import Display
from jaxstyle.console.time_left import Estimate
from jaxstyle.inputs import decode, encode
from jaxstyle.plan.cells import check_new
from jaxstyle.run import planning
from jaxstyle.run.inputs import read_inputs
from jaxstyle.run.results import chunk_results
from jaxstyle.rundir import manifest
from jaxstyle.spec import paths
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.retired import without_retired
from jaxstyle.spec.settings import AXIS_ROWS, SETTINGS, RunOptions, Sweep, added
from jaxstyle.spec.unknown_names import unknown_key
from jaxstyle.spec.values import MIN_SIZE_PX, NONE, check_named, is_pixels, layer_name

FEATURE_LAYERS = ("conv1_2", "conv4_2")
"""A low layer, for edges and colours, and a high one, for parts of things."""
MAX_NAME_BYTES = 220
"""Limit of the name of a picture's file; the temporary name that it is written under is longer."""


def accepted_settings() -> tuple[str, ...]:
    """Names of the settings that `stylize` takes beside the two images."""
    own = (name for name in (*AXIS_ROWS, *SETTINGS) if name not in ("content", "style"))
    return (*(name for name in own if not (name in SETTINGS and SETTINGS[name].alone)), *added())


@dataclass(frozen=True)
class Transfer:
    """A finished transfer."""

    image: UInt8[np.ndarray, "h w 3"]
    """The picture, RGB; if the transfer diverged, the last finite one."""
    losses: Mapping[str, float]
    """Losses of that image before it was finished: `loss_total`, `loss_content`, `loss_style` and those of
    plugins; and where it was, `loss_finished`, the total loss of the picture as it is saved."""
    diverged_step: int
    """The first step without a finite loss, or -1."""


def single_sweep(content: Any, style: Any, given: Mapping[str, Any]) -> Sweep:
    """The resolved sweep of one cell, from names and values as in `Sweep`; axes take one value.

    Raises:
        JaxstyleError: for a name that is no setting, a value that is wrong, or several values.
    """
    known, given = accepted_settings(), without_retired(given)
    for name in given:
        if why := name in SETTINGS and SETTINGS[name].alone:
            raise JaxstyleError(name, f"{why}; use jaxstyle.sweep for that")
        if name not in known:
            raise unknown_key(name, known, what=name)
    sweep = resolve(Sweep(**{"content": content, "style": style, **given}))
    for name in (*sweep.axes, "steps"):
        if (count := len(getattr(sweep, name))) != 1:
            raise JaxstyleError(
                name, f"has {count} values and a single transfer takes one; jaxstyle.sweep takes several"
            )
    return sweep


def transfer(
    sweep: Sweep,
    options: RunOptions | None = None,
    *,
    in_memory: Mapping[str, UInt8[np.ndarray, "h w 3"]] | None = None,
) -> Transfer:
    """Compute the one cell of `sweep`.

    Args:
        sweep: a resolved sweep of one cell.
        options: what to print, and whether to keep compiled programs.
        in_memory: images that are not files, by the path that stands for them in `sweep`.

    Raises:
        JaxstyleError: for an image or weights that cannot be used, or too little memory.
        signals.Interrupted: in a command, for a signal.
    """
    options = options or RunOptions(quiet=True)
    inputs = read_inputs(sweep, in_memory=in_memory)
    check_new(inputs.sweep, inputs.cells)
    said: list[str] = []
    launcher = planning.make_launcher(inputs, options, on_note=said.append)
    import jax

    plan, program = launcher.plan, launcher.program(0)
    with Display(quiet=options.quiet, log_format=options.log_format) as display:
        for note in said:
            display.event("note", note)
        for path, notes in inputs.pictures.notes.items():
            display.event("note", f"{path}: {', '.join(notes)}", path=path, notes=notes)
        device = manifest.devices_text(jax.local_devices()[:1])
        line = f"compiling the {program.shape} step on {device}, in {program.precision}"
        display.event("compile", line, shape=program.shape, device=device, precision=program.precision)
        try:
            launcher.compile(program)
            steps, spent = plan.image_steps + plan.coarse_image_steps, launcher.seconds
            before = spent["targets_s"]
            estimate = Estimate(plan.trajectory_cost, lambda: (spent["targets_s"] - before, 0.0))
            display.start(image_steps=steps, cells=1, estimate=estimate)
            course = launcher.launch([list(plan.cells)], program)
            with signals.signals_held() as asked:
                for image_steps, cost, _ in course:
                    display.advance(image_steps, cost)
                    if (stop := asked()) is not None:
                        raise stop
        except jax.errors.JaxRuntimeError as error:
            launcher.narrow((0,), error)  # one cell cannot be narrowed: this raises
            raise
        display.finish()
    (part,) = chunk_results(plan, plan.chunks[0], sweep.keep, inputs.pictures, course.outcome)
    losses = {name: float(value) for name, value in zip(part.losses, part.loss_final[0], strict=True)}
    losses |= {name: float(values[0]) for name, values in part.further.items()}
    return Transfer(part.image[0, -1], losses, int(part.diverged_step[0]))


def stylize(
    content: Any,
    style: Any,
    *,
    progress: bool = False,
    float_0_255: bool = False,
    **settings: Any,
) -> UInt8[np.ndarray, "h w 3"]:
    """`content` in the style of `style`: the picture that the same cell of a sweep gets, to the byte.

        picture = jaxstyle.stylize("photo.jpg", "painting.jpg", size=256, alpha_beta=1e-2)

    No file is left except compiled programs in the user's cache.

    Args:
        content: the path of an image, a PIL image, or pixels as an array of NumPy or JAX: uint8, 0 to
            255, (h, w, 3) in RGB, (h, w) in grey, (h, w, 4) with an alpha channel, laid on white.
        style: likewise.
        progress: print what is being done and how long it will take; otherwise nothing is printed.
        float_0_255: take arrays of floats too, whose values are from 0 to 255; they are rounded.
        settings: settings of `jaxstyle.Sweep` by their names, axes with one value each: `size`, `steps`,
            `alpha_beta`, `content_layer`, `style_layers`, `init` (also pixels), `seed` and so on.

    Returns:
        The picture, RGB.

    Raises:
        JaxstyleError: for an image or a setting that is wrong, or a transfer that diverged.
    """
    in_memory: dict[str, np.ndarray] = {}
    given = {**settings, "content": content, "style": style}
    for name in {"content", "style", "init"} & given.keys():
        given[name] = _named(name, given[name], in_memory, float_0_255=float_0_255)
    content, style = given.pop("content"), given.pop("style")
    sweep = single_sweep(content, style, given)
    done = transfer(sweep, RunOptions(quiet=not progress), in_memory=in_memory)
    if done.diverged_step >= 0:
        raise JaxstyleError(
            "stylize", f"diverged at step {done.diverged_step}; try a smaller alpha_beta or learning_rate"
        )
    return done.image


# --- what the network sees ------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """An image as the network gets it, and its feature maps."""

    pixels: UInt8[np.ndarray, "h w 3"]
    maps: dict[str, Float[np.ndarray, "h2 w2 c"]]
    """Activations after the ReLU by layer, from the image downwards, float32."""
    device: str
    """The device that computed them, in words."""


def look(
    image: str | os.PathLike[str] | np.ndarray,
    layers: str | Sequence[str] = FEATURE_LAYERS,
    *,
    size: int | str = 256,
    pool: str = "avg",
    padding: str = "zeros",
    weights: str | os.PathLike[str] | None = None,
    float_0_255: bool = False,
    options: RunOptions | None = None,
) -> Seen:
    """VGG19's feature maps of one image, computed as for the content of a cell; see `feature_maps`."""
    names = [layer_name("layers", name) for name in ([layers] if isinstance(layers, str) else layers)]
    for name in names:
        if names.count(name) > 1:
            raise JaxstyleError("layers", f"{name} is there twice; give each once")
    if not names:
        raise JaxstyleError("layers", "no layer; give at least one")
    in_memory: dict[str, np.ndarray] = {}
    path = (
        os.path.join(os.curdir, NONE)
        if isinstance(image, str) and image == NONE
        else _named("image", image, in_memory, float_0_255=float_0_255)
    )
    # The smallest sweep that has these layers: nothing but the targets of its contents is computed.
    blank = _named("no style", np.zeros((MIN_SIZE_PX, MIN_SIZE_PX, 3), np.uint8), in_memory)
    sweep = Sweep(
        content=(path,),
        style=(blank,),
        content_layer=tuple(names),
        style_layers=(names[0],),
        alpha_beta=(0.0,),
        size=str(size),
        style_size=(MIN_SIZE_PX,),
        pool=(pool,),
        padding=(padding,),
        optimizer="adam",
        steps=(1,),
        weights=None if weights is None else os.fspath(weights),
    )
    inputs = read_inputs(resolve(sweep), in_memory=in_memory)
    launcher = planning.make_launcher(inputs, options or RunOptions())
    pixels, program = inputs.pictures.content[inputs.cells[0].content], launcher.program(0)
    found = launcher.engine.target_rows(program, pixels, of_cells=True).content
    maps = {name: np.asarray(values) for name, values in zip(program.content_taps, found, strict=True)}
    import jax

    return Seen(pixels, maps, manifest.devices_text(jax.local_devices()[:1]))


def feature_maps(
    image: str | os.PathLike[str] | np.ndarray,
    layers: str | Sequence[str] = FEATURE_LAYERS,
    *,
    size: int | str = 256,
    pool: str = "avg",
    padding: str = "zeros",
    weights: str | os.PathLike[str] | None = None,
    float_0_255: bool = False,
) -> dict[str, Float[np.ndarray, "h2 w2 c"]]:
    """VGG19's activations in one image, after each layer's ReLU.

    Args:
        image: its path, a PIL image, or pixels as for `stylize`.
        layers: such as `conv4_2`; one or several.
        size: longest edge in px, or `WxH` to fill and crop.
        pool: `avg`, `max`, `blur` or `l2`.
        padding: `zeros`, `reflect`, `replicate` or `circular`.
        weights: path of VGG19's weights; None for the packaged ones.
        float_0_255: see `stylize`.

    Returns:
        float32 arrays by layer, from the image downwards.

    Raises:
        JaxstyleError: for an image, a layer or a setting that is wrong, or too little memory.
    """
    about = {"pool": pool, "padding": padding, "weights": weights, "float_0_255": float_0_255}
    return look(image, layers, size=size, **about).maps


# --- inputs and outputs ---------------------------------------------------------------------------


def _named(name: str, value: Any, in_memory: dict[str, np.ndarray], *, float_0_255: bool = False) -> Any:
    """`value`, or for pixels the path that stands for them, by which they are added to `in_memory`."""
    if not is_pixels(value):
        return value
    in_memory[os.path.abspath(f"array {name}")] = decode.from_memory(name, value, float_0_255=float_0_255)
    return f"array {name}"


def check_out(text: str, inputs: Iterable[str], kinds: Sequence[str] = tuple(encode.SAVED)) -> Path:
    """The path to write a file to, checked before it is computed; one that is there is replaced.

    Args:
        text: the path as it was given.
        inputs: the files that are read, which are never replaced.
        kinds: the ends that its name may have; by default those of pictures.

    Raises:
        JaxstyleError: if no such file can be written there.
    """
    check_named("out", text)
    if not text or not text.isprintable():
        raise JaxstyleError("out", f"{text!r} is not a path; give one that ends in {kinds[0]}")
    path = Path(os.path.realpath(paths.at_home(text)))
    if path.suffix.lower() not in kinds:
        *others, last = kinds
        either = f"{', '.join(others)} or {last}" if others else last
        raise JaxstyleError(text, f"its name must end in {either}")
    if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
        raise JaxstyleError(text, f"its name is too long; at most {MAX_NAME_BYTES} bytes")
    if path.exists() and not path.is_file():
        raise JaxstyleError(text, "is not a regular file; give another name")
    if not path.parent.is_dir():
        raise JaxstyleError(text, f"there is no directory {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise JaxstyleError(text, f"{path.parent} is not writable; give another place")
    for read in map(paths.at_home, inputs):
        if path.exists() and os.path.exists(read) and os.path.samefile(path, read):
            raise JaxstyleError(text, "is read by this command; give another name")
    return path
