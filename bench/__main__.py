"""`python -m bench` measures throughput on this device; for `bench NAME` see the module of that name."""

from __future__ import annotations

import sys

from bench import (
    account,
    check,
    compiled,
    experiments,
    gpu,
    host,
    layers,
    look,
    optimizers,
    peers,
    precision,
    profile,
    quality,
    scaling,
    steps,
    throughput,
)

COMMANDS = {
    "throughput": throughput.main,
    "peers": peers.main,
    "precision": precision.main,
    "optimizers": optimizers.main,
    "quality": quality.main,
    "scaling": scaling.main,
    "host": host.main,
    "layers": layers.main,
    "account": account.main,
    "look": look.main,
    "steps": steps.main,
    "gpu": gpu.main,
    "check": check.main,
    "compiled": compiled.main,
    "profile": profile.main,
    "experiments": experiments.main,
}


def main() -> None:
    """Run the command that the first argument names, or throughput if it names none."""
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
