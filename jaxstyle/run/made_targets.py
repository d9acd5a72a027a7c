"""Targets of styles, measured: images as a run would see them, files as they are, blends of both."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxstyle.inputs import decode, target_sets
from jaxstyle.inputs.preprocess import luma
from jaxstyle.inputs.resize import check_edges, resize
from jaxstyle.inputs.target_files import (
    KINDS,
    MADE_FOR,
    Statistics,
    TargetFile,
    check_made_for,
    made_for,
    read_targets,
)
from jaxstyle.inputs.weights import load
from jaxstyle.plan.canvases import canvas_of
from jaxstyle.plan.programs import Program
from jaxstyle.run.start_jax import start_jax
from jaxstyle.spec import blends
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import RunOptions, Sweep
from jaxstyle.spec.values import layer_name, parse_size, style_set
from jaxstyle.vgg import layers

LAYERS = layers.in_order((*layers.STYLE_LAYERS, *layers.POOLS[:4]))
"""The layers of a file whose layers nobody names: those of the usual sets of style layers."""


def named_layers(given: Iterable[str]) -> tuple[str, ...]:
    """The layers that some names and sets of style layers name together.

    Raises:
        JaxstyleError: for a name or a set that there is not.
    """
    found: set[str] = set()
    for text in given:
        if "+" in text or ":" in text:
            found |= {name for name, _ in style_set(text)}
        else:
            found.add(layer_name("layers", text))
    return layers.in_order(found)


@dataclass(frozen=True)
class Measured:
    """Targets of several styles, of which each is made when it is asked for."""

    each: Iterator[TargetFile]
    device: str
    """The device that computes them, in words; empty if there are only files."""


def measure(
    sweep: Sweep,
    named: Iterable[str],
    taps: Sequence[str],
    options: RunOptions,
    *,
    spectrum: bool = False,
    on_read: Callable[[int, int], object] = lambda done, of: None,
) -> Measured:
    """The targets of every style of a resolved sweep.

    Args:
        sweep: its size, and for images its network too, are what they are made with.
        named: the settings that the user named; others are those of files of targets, if there are any.
        taps: the layers; if there are none, those of the files, or `LAYERS`.
        options: whether to keep compiled programs.
        spectrum: whether to add the discrete Fourier transform of an image.
        on_read: called with the number of images that have been read and checked, and of all.

    Raises:
        JaxstyleError: for a style that cannot be used, or one made with another network than others.
    """
    parts = dict.fromkeys(path for value in sweep.style for path in blends.files_of(value))
    files = {path: read_targets(path, taps or None) for path in parts if blends.is_targets(path)}
    images = [path for path in parts if path not in files]
    sweep, taps = _as_in_files(sweep, named, taps, files)
    sha256 = next((of.made_for["weights_sha256"] for of in files.values()), "")
    for done, path in enumerate(images, 1):  # before JAX starts
        _pixels(sweep, path, taps)
        on_read(done, len(images))
    of_image, device = None, ""
    if images or sweep.weights is not None:
        loaded = load(sweep.weights, taps=taps, network=sweep.network, pool=sweep.pool[0])
        sha256 = loaded.sha256
        if images:
            of_image, device = _measurer(sweep, taps, loaded.layers, options)
    for path, targets in files.items():
        check_made_for(path, targets, sweep, sha256)
        if targets.colour != sweep.colour:
            why = f"has targets of colour {targets.colour}, and the others are {sweep.colour}"
            raise JaxstyleError(path, f"{why}; give files and images of one kind")
    entries = {name: one for name, (one,) in made_for(sweep, sha256).items()}

    def one(path: str) -> TargetFile:
        if path in files:
            return replace(files[path], layers={name: files[path].layers[name] for name in taps})
        assert of_image is not None
        pixels = _pixels(sweep, path, taps)
        transform = np.fft.fft2(pixels.astype(np.float64), axes=(0, 1)) if spectrum else None
        return TargetFile(of_image(pixels), entries, transform, sweep.colour)

    # One image after the other for their mean, which may be over thousands; parts of blends recur.
    kept = functools.lru_cache(2)(one)

    def style(value: str) -> TargetFile:
        paths, weights = zip(*blends.parts_of(value), strict=True)
        return target_sets.blended([kept(path) for path in paths], weights)

    return Measured(map(style, sweep.style), device)


def _as_in_files(
    sweep: Sweep, named: Iterable[str], taps: Sequence[str], files: dict[str, TargetFile]
) -> tuple[Sweep, tuple[str, ...]]:
    """A sweep with the settings, and the layers, of the first file of targets where none are named."""
    if not files:
        return sweep, tuple(taps or LAYERS)
    first = next(iter(files.values()))
    unnamed: dict[str, Any] = {name: first.made_for[name] for name in MADE_FOR[:-1] if name not in named}
    unnamed |= {name: (value,) for name, value in unnamed.items() if name in KINDS}
    unnamed |= {} if "colour" in named else {"colour": first.colour}
    common = (name for name in first.layers if all(name in of.layers for of in files.values()))
    own = tuple(taps or common)
    if not own:
        raise JaxstyleError(next(iter(files)), "has no layer that all others have")
    return replace(sweep, **unnamed), own


def _pixels(sweep: Sweep, path: str, taps: Sequence[str]) -> UInt8[np.ndarray, "h w 3"]:
    """An image at the size of the sweep."""
    pixels = decode.read(path).pixels
    pixels = resize(luma(pixels) if sweep.colour == "grey" else pixels, parse_size(sweep.size))
    height, width, _ = pixels.shape
    check_edges(f"{path} at size {sweep.size}", height, width, layers.least_edge_px(taps))
    return pixels


def _measurer(
    sweep: Sweep, taps: Sequence[str], weights: Any, options: RunOptions
) -> tuple[Callable[[np.ndarray], dict[str, Statistics]], str]:
    """A function of an image that measures its statistics at some layers, and its device in words."""
    from jaxstyle.rundir.manifest import devices_text

    device = start_jax(sweep, options)
    from jaxstyle.device.engine import TARGET_CANVAS_PX, Engine

    engine = Engine(weights, device=device, winograd=False)
    kinds: dict[str, Any] = {"padding": sweep.padding[0], "style_loss": "moments"}

    def statistics(pixels: np.ndarray) -> dict[str, Statistics]:
        shape = pixels.shape[0], pixels.shape[1]
        program = Program(*shape, sweep.pool[0], "adam", "f32", (), tuple(taps), width=1, **kinds)
        # Of thousands of photographs hardly two may have the same shape: one program serves similar ones.
        canvas = canvas_of([shape], TARGET_CANVAS_PX) if program.knows_canvases else None
        found, rows = {}, engine.target_rows(program, pixels, canvas=canvas)
        for name, kept in zip(taps, rows.style, strict=True):
            h, w, _ = layers.feature_shape(name, *shape)
            found[name] = Statistics(np.asarray(kept.gram), np.asarray(kept.mean), h * w)
        return found

    return statistics, devices_text([device])
