"""`python -m jaxstyle.sweep`: run a grid of style transfers. Without arguments, the demo."""

from __future__ import annotations

if __name__ == "__main__":
    from jaxstyle.console import early

    early.catch()

import functools
import sys
from collections.abc import Sequence
from dataclasses import field, make_dataclass

from jaxstyle.console import allocator
from jaxstyle.console.command import run_command
from jaxstyle.console.parsing import parse
from jaxstyle.console.setting_flags import with_added
from jaxstyle.console.stderr import say_diverged
from jaxstyle.spec import plugins
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.settings import OPTION_KEYS, RunOptions, Sweep

ABOUT = """Run a grid of style transfers as one batch: the product of all axes, the last one fastest.

Without an image, a preset or a spec it runs the demo, on images that come with the package. Axes take
several values after one flag, as in --alpha-beta 1e-2 1e-3 --seed 0:4.
"""


def accepts() -> type:
    """The dataclass that the command line is parsed into, with the axes and settings that plugins add."""
    return _command(with_added())


@functools.cache
def _command(sweep: type[Sweep]) -> type:
    fields = [
        ("axes_and_settings", sweep, field(default_factory=sweep)),
        ("run", RunOptions, field(default_factory=RunOptions)),
    ]
    return make_dataclass("Sweep", fields, frozen=True, namespace={"__doc__": ABOUT})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m jaxstyle.sweep`; always raises SystemExit, with the exit code."""

    def command() -> int:
        given = sys.argv[1:] if arguments is None else arguments
        plugins.load(plugins.named_in(given))
        parsed = parse(accepts(), given, "jaxstyle.sweep")
        sweep, options = parsed.value.axes_and_settings, parsed.value.run
        flags = {name: getattr(options if name in OPTION_KEYS else sweep, name) for name in parsed.named}
        assembled = assemble(flags)

        from jaxstyle.run.dry_run import dry_run
        from jaxstyle.run.sweep import run_sweep

        if assembled.options.dry_run:
            dry_run(assembled.sweep, assembled.options, name=assembled.name)
            return 0
        allocator.keep_freed_memory()
        done = run_sweep(assembled.sweep, assembled.options, name=assembled.name)
        table = done.path / "results.csv"
        names = "names them" if table.exists() else "will name them when all shares are done"
        which = f"{done.diverged} of {len(done.rows)} cells diverged; {table} {names}"
        return say_diverged(which) if done.diverged else 0

    run_command(command)


if __name__ == "__main__":
    main()
