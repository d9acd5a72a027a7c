"""`python -m bench`: throughput on this device; `bench peers`, `bench precision`: see those modules."""

from __future__ import annotations

import sys

from bench import optimizers, peers, precision, throughput

COMMANDS = {
    "throughput": throughput.main,
    "peers": peers.main,
    "precision": precision.main,
    "optimizers": optimizers.main,
}


def main() -> None:
    """The command that the first argument names; throughput if it names none."""
    first, *rest = sys.argv[1:] or ["throughput"]
    if first in COMMANDS:
        COMMANDS[first](rest)
    elif first.startswith("-"):
        throughput.main(sys.argv[1:])
    else:
        print(f"bench: error: no such benchmark: {first}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    main()
