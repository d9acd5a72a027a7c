"""The options of how a run is carried out and reported, the fields of `RunOptions`; see `settings`."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from jaxstyle.spec import values
from jaxstyle.spec.fields import MAX_DEVICES, Setting, as_files, integer_in, one_of, rows_of
from jaxstyle.spec.presets import preset_hint
from jaxstyle.spec.values import as_flag, as_text


@dataclass(frozen=True)
class RunOptions:
    """Options of how a run is carried out and reported; the numbers of the run do not depend on them."""

    preset: Annotated[str | None, tyro.conf.arg(help_behavior_hint=preset_hint), Setting()] = None
    """Start from a named set of settings; flags override them. Times are for two CPU cores, and estimates
    for a GPU; --fast replaces one that uses adam by a twin with a quarter of the steps."""
    spec: Annotated[str | None, Setting(check=as_text)] = None
    """Read settings from a TOML file, whose keys are these flags with _ instead of -."""
    plugin: Annotated[tuple[str, ...], Setting(check=as_files)] = ()
    """Python files that add loss terms, optimizers or poolings, with flags of their own (see
    docs/plugins.md). Their code is run, which is why a spec cannot name them."""
    recursive: Annotated[bool, Setting(check=as_flag)] = False
    """Take the images in subfolders too, where a folder is given as content or style."""
    skip_bad: Annotated[bool, Setting(check=as_flag)] = False
    """Leave out content and style images that cannot be read, name each with the reason, and go on."""
    out: Annotated[str | None, Setting(check=values.as_place)] = None
    """Run directory, new or empty (default: runs/NNNN-NAME)."""
    resume: Annotated[bool, Setting(check=as_flag)] = False
    """Continue the run in --out where it stopped; any settings given must be the run's own."""
    extend: Annotated[bool, Setting(check=as_flag)] = False
    """Add the cells that the run in --out does not have yet; other settings must be the run's own."""
    dry_run: Annotated[bool, Setting(check=as_flag)] = False
    """Print the plan and its cost and write nothing."""
    json: Annotated[bool, Setting(check=as_flag)] = False
    """Print the plan as JSON; needs --dry-run."""
    devices: Annotated[int | None, Setting(check=integer_in(1, MAX_DEVICES))] = None
    """Use at most this many devices of this machine, or workers of the cluster (default: all)."""
    side_by_side: Annotated[int | None, Setting(check=integer_in(1, MAX_DEVICES))] = None
    """Cells that a CPU computes at the same time (default: one per core, if a quarter of the memory holds
    them)."""
    shard: Annotated[str | None, Setting()] = None
    """Share of the run in --out to compute, while other processes compute the others: I/N is the I-th of N,
    where I counts from 0 or from 1; slurm takes both from the variables of SLURM's job array."""
    cluster: Annotated[str | None, Setting(check=as_text)] = None
    """Compute on a Ray cluster: local starts one on this machine, auto uses the one that this process
    belongs to, anything else is an address. Needs Ray: pip install "ray>=2.40"."""
    collect: Annotated[bool, Setting(check=as_flag)] = False
    """Send results to this process, for workers that cannot see --out; needs --cluster."""
    no_lock: Annotated[bool, tyro.conf.FlagCreatePairsOff, Setting(check=as_flag)] = False
    """Take no lock, if the file system of --out has none. At your own risk: make sure that no other
    process works in the run, or at the same share."""
    no_compile_cache: Annotated[bool, tyro.conf.FlagCreatePairsOff, Setting(check=as_flag)] = False
    """Keep no compiled programs, measured balances or targets in the user's cache directory."""
    quiet: Annotated[bool, Setting(check=as_flag)] = False
    """Print only errors."""
    events: Annotated[str | None, Setting(check=values.as_place)] = None
    """Append every event to this file too, as a line of JSON; it may be a named pipe with a reader."""
    log_format: Annotated[str, Setting(check=one_of("text", "json"))] = "text"
    """Format of the lines on standard output: text or json."""


OPTIONS: dict[str, Setting] = rows_of(RunOptions)
"""The options of how a run is carried out, by name."""
OPTION_KEYS = tuple(OPTIONS)
"""Names of the options."""
