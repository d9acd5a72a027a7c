"""`python -m jaxstyle.features IMAGE`: what chosen layers of VGG19 see in an image, as a labelled sheet.

A channel's strength is its mean activation over all positions; the strongest come first. Each map has its
own scale. Its positions are drawn as squares, so that the few of a high layer stay recognisable.
"""

from __future__ import annotations

if __name__ == "__main__":
    from jaxstyle.console import early

    early.catch()

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from jaxstyle.console import allocator
from jaxstyle.console.command import run_command
from jaxstyle.console.parsing import parse
from jaxstyle.console.setting_flags import with_settings
from jaxstyle.derived import feature_maps
from jaxstyle.inputs import encode
from jaxstyle.run import one_cell
from jaxstyle.rundir.files import write_atomic
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import RunOptions

MAX_CHANNELS = 512


@dataclass(frozen=True)
class Features:
    """Draw the feature maps of an image at chosen layers, the strongest channels first."""

    image: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """Image to look at."""
    layers: tuple[str, ...] = one_cell.FEATURE_LAYERS
    """Layers to draw: conv1_1 to conv5_4, after their ReLU, or pool1 to pool5."""
    channels: int = 24
    """Number of channels of each layer: those with the largest mean activation."""
    out: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "features.png"
    """File of the sheet, a .png, .jpg or .webp; it is replaced if it exists."""
    json: bool = False
    """Print the channels that are drawn, with their means and maxima, as JSON."""


def accepts() -> type:
    """The dataclass that the command line is parsed into."""
    return with_settings("features", Features, options=("no_compile_cache",))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m jaxstyle.features IMAGE`; always raises SystemExit, with the exit code."""

    def command() -> int:
        asked = parse(accepts(), sys.argv[1:] if arguments is None else arguments, "jaxstyle.features")
        flags = asked.value
        if not 1 <= flags.channels <= MAX_CHANNELS:
            why = f"{flags.channels} is out of range; it must be 1 to {MAX_CHANNELS}"
            raise JaxstyleError("channels", why)
        out = one_cell.check_out(flags.out, filter(None, [flags.image, flags.weights]))
        allocator.keep_freed_memory()
        seen = one_cell.look(
            flags.image,
            flags.layers,
            size=flags.size,
            pool=flags.pool,
            padding=flags.padding,
            weights=flags.weights,
            options=RunOptions(no_compile_cache=flags.no_compile_cache),
        )
        page = feature_maps.draw(
            Path(flags.image).name, seen.pixels, seen.maps, channels=flags.channels, pool=flags.pool
        )
        write_atomic(out, encode.file_bytes(np.asarray(page), out.suffix))
        if flags.json:
            numbers = feature_maps.table(flags.image, seen.maps, flags.channels)
            print(json.dumps({**numbers, "device": seen.device}))
        else:
            print(f"feature maps, computed on {seen.device}: {flags.out}")
        return 0

    run_command(command)


if __name__ == "__main__":
    main()
