"""`python -m jaxstyle.targets IMAGE… -o FILE.npz`: style targets as data, for `--style FILE.npz`."""

from __future__ import annotations

if __name__ == "__main__":
    from jaxstyle.console import early

    early.catch()

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxstyle.console import allocator
from jaxstyle.console.command import run_command
from jaxstyle.console.parsing import Parsed, parse
from jaxstyle.console.progress import Display
from jaxstyle.console.setting_flags import with_settings
from jaxstyle.inputs import target_sets
from jaxstyle.inputs.target_files import OF_COLOURS, TargetFile, file_bytes
from jaxstyle.run import one_cell
from jaxstyle.run.made_targets import measure, named_layers
from jaxstyle.rundir.files import write_atomic
from jaxstyle.spec import values
from jaxstyle.spec.blends import TARGET_SUFFIX, files_of
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.folders import sweep_with_images
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import RunOptions, Sweep

MAX_RUNGS, MAX_DRAWS = 1000, 100_000
ALONG = ("linear", "wasserstein")


@dataclass(frozen=True)
class Targets:
    """Write the style targets of an image: Gram matrices and means of layers, as an .npz file.

    --style of jaxstyle.sweep takes such a file wherever it takes an image. IMAGE may also be a file of
    targets or a blend such as a.jpg:0.7+b.jpg:0.3. Of several images it makes their mean (--mean), of two a
    ladder (--interpolate), of a mean with its spread random targets (--random).
    """

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """Images, with --mean also folders of them; files of targets; blends."""
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """File of the targets, a .npz; several are numbered, FILE-00.npz and so on. It is replaced if it
    exists."""
    layers: tuple[str, ...] = ()
    """Layers, or sets such as upto:pool4 (default: conv1_1, conv2_1, conv3_1, conv4_1, conv5_1 and pool1 to
    pool4, or those of a given file of targets)."""
    mean: bool = False
    """Mean and standard deviation over all images."""
    interpolate: int = 0
    """Number of targets in a ladder from the first image to the second, including both ends."""
    along: str = ALONG[0]
    """Path of a ladder: linear, in Gram matrices, or wasserstein, the shortest path between the normal
    distributions of features."""
    random: tuple[str, ...] = ()
    """Seeds, such as 3 or 0:10, of random targets with the mean and standard deviation that the images
    have, or a file that was made with --mean."""
    spectrum: bool = False
    """Also write the Fourier transform of the image, for a spectrum of a single one."""
    colour: str = OF_COLOURS[0]
    """Colours of the images: free, or grey for their lumas, as runs with --colour grey see them."""
    recursive: bool = False
    """Take the images in subfolders too, where a folder is given."""


def accepts() -> type:
    """The dataclass that the command line is parsed into."""
    return with_settings("targets", Targets, options=("no_compile_cache", "quiet"))


def _sweep(flags: Any) -> Sweep:
    """The sweep that would use the images as its styles."""
    if not flags.images:
        raise JaxstyleError("IMAGE", "no image; give one")
    values.as_choice("--colour", flags.colour, OF_COLOURS)
    names = ("size", "pool", "padding", "network", "weights", "colour")
    given = {name: getattr(flags, name) for name in names}
    sweep = Sweep(content=(values.NONE,), style=tuple(flags.images), **given)
    sweep = sweep_with_images(sweep, recursive=flags.recursive)
    if sweep.folders and not (flags.mean or flags.random):
        raise JaxstyleError(next(iter(sweep.folders.values()))[0], "is a folder; give --mean with it")
    sweep = resolve(sweep)
    if values.NONE in sweep.style:
        raise JaxstyleError("IMAGE", "none: it has no targets; give an image")
    return sweep


def _check_kind(flags: Any, named: Sequence[str], count: int) -> None:
    """Raise JaxstyleError unless one thing is asked for, of as many images as it needs."""
    asked = [name for name in ("mean", "interpolate", "random") if getattr(flags, name)]
    if flags.mean and flags.random:
        asked.remove("mean")  # the draws are from it
    if len(asked) > 1:
        raise JaxstyleError(f"--{asked[1]}", f"cannot be made together with --{asked[0]}; give one of them")
    if "interpolate" in named:
        values.as_integer("--interpolate", flags.interpolate, minimum=2, maximum=MAX_RUNGS)
        values.as_choice("--along", flags.along, ALONG)
        if count != 2:
            raise JaxstyleError("--interpolate", f"is between two images, and there are {count}; give two")
    elif "along" in named:
        raise JaxstyleError("--along", "is the way of a ladder; give --interpolate 11 with it")
    if count > 1 and not asked:
        mend = "give --mean for their mean and spread, or --interpolate 11 for a ladder between two"
        raise JaxstyleError("IMAGE", f"{count} images; {mend}")
    if flags.spectrum and asked:
        raise JaxstyleError("--spectrum", f"is that of one image; leave --{asked[0]} out")


def _places(out: str, count: int, sources: Iterable[str], *, numbered: bool) -> list[Path]:
    """The files to write, checked before anything is computed."""
    reads = tuple(sources)
    whole = one_cell.check_out(out, reads, (TARGET_SUFFIX,))
    if not numbered:
        return [whole]
    stem, digits = os.path.splitext(out)[0], max(2, len(str(count - 1)))
    names = (f"{stem}-{n:0{digits}d}{TARGET_SUFFIX}" for n in range(count))
    return [one_cell.check_out(name, reads, (TARGET_SUFFIX,)) for name in names]


def _made(
    parsed: Parsed[Any], sweep: Sweep, seeds: Sequence[int], display: Display
) -> tuple[Iterable[TargetFile], str]:
    """The targets that a command line asks for, one at a time, and the device in words."""
    flags = parsed.value
    options = RunOptions(no_compile_cache=flags.no_compile_cache)
    taps = named_layers(flags.layers)
    measured = measure(sweep, parsed.named, taps, options, spectrum=flags.spectrum, on_read=display.read)
    if flags.interpolate:
        a, b = measured.each
        return target_sets.ladder(a, b, flags.interpolate, flags.along), measured.device
    if len(sweep.style) > 1:
        made = target_sets.mean_and_sd(display.each(measured.each, len(sweep.style), "image"))
    else:
        made = next(measured.each)
        if flags.spectrum and made.spectrum is None:
            why = "is that of an image, and of a file that has it; leave it out, or give one of them"
            raise JaxstyleError("--spectrum", why)
        spread = any(own.gram_sd is not None for own in made.layers.values())
        if flags.mean and not seeds and not spread:  # of one image, which has none
            made = target_sets.mean_and_sd([made])
    if seeds:
        return (target_sets.drawn(flags.images[0], made, seed) for seed in seeds), measured.device
    return [made], measured.device


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m jaxstyle.targets`; always raises SystemExit, with the exit code."""

    def command() -> int:
        parsed = parse(accepts(), sys.argv[1:] if arguments is None else arguments, "jaxstyle.targets")
        flags = parsed.value
        try:
            sweep = _sweep(flags)
        except JaxstyleError as error:  # the images are the styles of a sweep there
            what, why = str(error).split(": ", 1)
            raise (JaxstyleError("IMAGE", why) if what == "style" else error) from None
        _check_kind(flags, parsed.named, len(sweep.style))
        every = (values.as_seeds("--random", text, MAX_DRAWS) for text in flags.random)
        seeds = [seed for some in every for seed in some]
        if twice := [seed for seed, times in Counter(seeds).items() if times > 1]:
            raise JaxstyleError("--random", f"{twice[0]} is given twice; give each value once")
        sources = [path for value in sweep.style for path in files_of(value)]
        count = flags.interpolate or len(seeds) or 1
        places = _places(flags.out, count, sources, numbered=bool(flags.interpolate) or len(seeds) > 1)
        allocator.keep_freed_memory()
        names = []
        with Display(quiet=flags.quiet) as display:
            made, device = _made(parsed, sweep, seeds, display)
            if len(places) > 1:
                made = display.each(made, len(places), "file")
            for place, targets in zip(places, made, strict=True):
                write_atomic(place, file_bytes(targets))
                names = targets.layers
        if not flags.quiet:
            at = f", computed on {device}" if device else ""
            print(f"targets of {', '.join(names)}{at}:")
            print("\n".join(map(str, places)))
        return 0

    run_command(command)


if __name__ == "__main__":
    main()
