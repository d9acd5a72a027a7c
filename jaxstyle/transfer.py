"""`python -m jaxstyle.transfer CONTENT STYLE -o OUT.png`: one image in, one image out."""

from __future__ import annotations

if __name__ == "__main__":
    from jaxstyle import early

    early.catch()

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jaxstyle import cli, config, images, layers, single, store
from jaxstyle.config import JaxstyleError, RunOptions, Sweep


@dataclass(frozen=True)
class Settings(Sweep):
    """The settings of a sweep that all of its cells share; those of several cells are left out."""

    content: Annotated[tuple[str, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()
    style: Annotated[tuple[str, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()
    content_layer: Annotated[tuple[str, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()
    style_layers: Annotated[tuple[str, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()
    init: Annotated[tuple[str, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()
    alpha_beta: Annotated[tuple[float | str, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()
    learning_rate: Annotated[tuple[float, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()
    seed: Annotated[tuple[int | str, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()
    steps: Annotated[tuple[int, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()
    canvas: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress] = "auto"
    trace_every: Annotated[int, tyro.conf.Fixed, tyro.conf.Suppress] = 1
    checkpoint_every: Annotated[float, tyro.conf.Fixed, tyro.conf.Suppress] = 60.0
    max_cells: Annotated[int, tyro.conf.Fixed, tyro.conf.Suppress] = 1
    split_depth: Annotated[bool, tyro.conf.Fixed, tyro.conf.Suppress] = False


@dataclass(frozen=True)
class Arguments:
    """Transfer the style of one image to the content of another: a sweep of one cell, without a directory.

    For several values of a setting, use python -m jaxstyle.sweep.
    """

    content: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONTENT")]
    """The image whose content is kept."""
    style: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STYLE")]
    """The image whose style is taken."""
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="PATH")]
    """The picture: a .png, .jpg or .webp file, which is replaced if it is there."""
    alpha_beta: str = "0.001"
    """Ratio of content to style weight; 0 is texture synthesis."""
    init: str = "noise"
    """Starting image: noise, content, style, or a path to any image."""
    seed: str = "0"
    """Seed of the noise, 0 to 4294967295."""
    steps: int | None = None
    """Optimisation steps (default: 500 for adam, 250 for lbfgs)."""
    learning_rate: float | None = None
    """Adam's learning rate, in grey levels; naming it chooses Adam (default: 10)."""
    content_layer: str = layers.CONTENT_LAYER
    """Layer of the content loss, after its ReLU."""
    style_layers: str = "+".join(layers.STYLE_LAYERS)
    """Layers of the style loss: conv1_1+conv2_1 (equal weights, sum 1) or conv1_1:20+conv4_1:0.05."""
    settings: Settings = field(default_factory=Settings)
    no_compile_cache: bool = False
    """Keep no compiled programs in the user's cache directory."""
    quiet: bool = False
    """Print nothing but errors."""


def _parse(arguments: Sequence[str]) -> cli.Parsed[Arguments]:
    try:
        return cli.parse(Arguments, arguments, "jaxstyle.transfer")
    except JaxstyleError as error:
        if "nrecognized" not in str(error):
            raise
        what, _, why = str(error).partition(": ")
        grids = "a transfer takes one value of each setting, python -m jaxstyle.sweep several"
        raise JaxstyleError(what, f"{why}; {grids}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m jaxstyle.transfer`; leaves by SystemExit with the exit code."""

    def command() -> int:
        parsed = _parse(sys.argv[1:] if arguments is None else arguments)
        flags = parsed.value
        named = {
            name: getattr(flags if hasattr(flags, name) else flags.settings, name)
            for name in parsed.named
            if name in single.SETTINGS
        }
        sweep = single.single_sweep(flags.content, flags.style, named)
        reads = {"the content image": flags.content, "the style image": flags.style}
        out = single.check_out(flags.out, reads | {"the start": flags.init, "the weights": sweep.weights})
        options = config.check_options(
            RunOptions(quiet=flags.quiet, no_compile_cache=flags.no_compile_cache)
        )
        cli.keep_freed_memory()
        done = single.transfer(sweep, options)
        store.write_atomic(out, images.file_bytes(done.image, out.suffix))
        if not flags.quiet:
            losses = ", ".join(f"{name.removeprefix('loss_')} {v:.4g}" for name, v in done.losses.items())
            print(f"loss: {losses}\n{flags.out}")
        which = f"diverged at step {done.diverged_step}: {flags.out} is the last finite image"
        return cli.say_diverged(which) if done.diverged_step >= 0 else 0

    cli.run(command)


if __name__ == "__main__":
    main()
