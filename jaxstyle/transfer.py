"""`python -m jaxstyle.transfer CONTENT STYLE -o OUT.png`: one image in, one image out."""

from __future__ import annotations

if __name__ == "__main__":
    from jaxstyle.console import early

    early.catch()

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from jaxstyle.console import allocator
from jaxstyle.console.command import run_command
from jaxstyle.console.parsing import Parsed, parse
from jaxstyle.console.setting_flags import with_settings
from jaxstyle.console.stderr import say_diverged
from jaxstyle.inputs import encode
from jaxstyle.run import one_cell
from jaxstyle.rundir.files import write_atomic
from jaxstyle.spec import plugins
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.moved_files import named_files
from jaxstyle.spec.options import check_options
from jaxstyle.spec.settings import RunOptions


@dataclass(frozen=True)
class Transfer:
    """Transfer the style of one image to the content of another: a sweep of one cell, without a directory.

    To try several values of a setting, use python -m jaxstyle.sweep.
    """

    content: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONTENT")]
    """Image whose content is kept."""
    style: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STYLE")]
    """Image whose style is taken."""
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="PATH")]
    """File of the picture, a .png, .jpg or .webp; it is replaced if it exists."""


def accepts() -> type:
    """The dataclass that the command line is parsed into."""
    return with_settings("transfer", Transfer, options=("plugin", "no_compile_cache", "quiet"))


def _parse(arguments: Sequence[str]) -> Parsed[Any]:
    plugins.load(plugins.named_in(arguments, most=1))
    try:
        return parse(accepts(), arguments, "jaxstyle.transfer")
    except JaxstyleError as error:
        if "nrecognized" not in str(error):
            raise
        what, _, why = str(error).partition(": ")
        grids = "a transfer takes one value of each setting; python -m jaxstyle.sweep takes several"
        raise JaxstyleError(what, f"{why}; {grids}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m jaxstyle.transfer`; always raises SystemExit, with the exit code."""

    def command() -> int:
        parsed = _parse(sys.argv[1:] if arguments is None else arguments)
        flags = parsed.value
        named = {
            name: getattr(flags, name) for name in parsed.named if name in one_cell.accepted_settings()
        }
        sweep = one_cell.single_sweep(flags.content, flags.style, named)
        out = one_cell.check_out(flags.out, named_files(sweep))
        options = check_options(RunOptions(quiet=flags.quiet, no_compile_cache=flags.no_compile_cache))
        allocator.keep_freed_memory()
        done = one_cell.transfer(sweep, options)
        write_atomic(out, encode.file_bytes(done.image, out.suffix))
        if not flags.quiet:
            losses = ", ".join(f"{name.removeprefix('loss_')} {v:.4g}" for name, v in done.losses.items())
            print(f"loss: {losses}\n{flags.out}")
        which = f"diverged at step {done.diverged_step}: {flags.out} is the last finite image"
        return say_diverged(which) if done.diverged_step >= 0 else 0

    run_command(command)


if __name__ == "__main__":
    main()
