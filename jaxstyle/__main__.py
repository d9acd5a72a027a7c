"""The `jaxstyle` command: the same commands as `python -m jaxstyle.NAME`."""

from __future__ import annotations

import importlib
import sys

from jaxstyle.console import early

COMMANDS = {
    "transfer": "transfer the style of one image to another",
    "sweep": "run a grid of style transfers; without arguments, the demo",
    "report": "rebuild the tables, pictures, sheets and page of a run; make animations",
    "variance": "measure how much the seed matters in a run with several",
    "score": "score the pictures of a run by measures it was not optimised for; pick the best",
    "calibrate": "measure what a ratio of content to style means for two images",
    "targets": "write style targets as data: Gram matrices and means, their spread, ladders between two",
    "features": "draw what chosen layers of the network see in an image",
}


def main() -> None:
    """Run the command that the first argument names, with the remaining arguments."""
    early.catch()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        importlib.import_module(f"jaxstyle.{name}").main(sys.argv[2:])
        return
    from jaxstyle.console.command import run_command

    run_command(lambda: _about(name))


def _about(name: str) -> int:
    """Print the help or the version and return the exit code; an unknown command is a JaxstyleError."""
    if name in ("-h", "--help"):
        print("usage: jaxstyle COMMAND [--help] [flags]\n\ncommands:")
        for command, text in COMMANDS.items():
            print(f"  {command:10}{text}")
        print('\nin bash or zsh, eval "$(jaxstyle --completion bash)" completes commands and flags')
        return 0
    if name == "--version":
        from jaxstyle import __version__

        print(f"jaxstyle {__version__}")
        return 0
    if name == "--completion":
        from jaxstyle.console import completion, parsing

        flags = {command: parsing.flag_names(_accepts(command)) for command in COMMANDS}
        print(completion.script(" ".join(sys.argv[2:]), flags), end="")
        return 0
    from jaxstyle.spec.errors import JaxstyleError

    raise JaxstyleError(name, f"no such command; use {', '.join(COMMANDS)}")


def _accepts(command: str) -> type:
    """The dataclass that a command's line is parsed into."""
    module = importlib.import_module(f"jaxstyle.{command}")
    return module.accepts() if hasattr(module, "accepts") else getattr(module, command.capitalize())


if __name__ == "__main__":
    main()
