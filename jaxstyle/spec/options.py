"""The checked options of a run."""

from __future__ import annotations

from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import OPTION_KEYS, OPTIONS, RunOptions
from jaxstyle.spec.shares import run_share
from jaxstyle.spec.values import plain_value, shown


def check_options(options: RunOptions) -> RunOptions:
    """`options` with every value checked. Raises JaxstyleError for the first one that is wrong."""
    if not isinstance(options, RunOptions):
        raise JaxstyleError("options", f"{shown(options)} is not a RunOptions; give RunOptions(out=...)")
    checked = {name: plain_value(getattr(options, name)) for name in OPTION_KEYS}
    for name, row in OPTIONS.items():
        if row.check is not None and checked[name] is not None:
            checked[name] = row.check(name, checked[name])
    options = RunOptions(**checked)
    run_share(options)
    if options.cluster is None and options.collect:
        raise JaxstyleError("collect", "is for clusters; give it together with --cluster")
    if options.cluster is not None and options.side_by_side is not None:
        raise JaxstyleError("side_by_side", "every worker of a cluster chooses its own; leave it out")
    for name in ("resume", "extend"):
        if getattr(options, name) and options.out is None:
            raise JaxstyleError(name, "no run is named; give its directory with --out")
    if options.resume and options.extend:
        raise JaxstyleError("extend", "also continues the run; leave --resume out")
    if options.json and not options.dry_run:
        raise JaxstyleError("json", "is for printing the plan; give it together with --dry-run")
    return options
