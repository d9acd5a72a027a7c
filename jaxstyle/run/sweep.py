"""A run from start to end: checked, planned, begun or resumed, computed at its site, or shared with others.

This is what the command and the Python API call. JAX is started by the site, after the settings and the
images have been checked, and never by a process that only hands out work.
"""

from __future__ import annotations

import operator
import shlex
from dataclasses import replace
from pathlib import Path

from jaxstyle.console import signals
from jaxstyle.console.progress import Listener, listening
from jaxstyle.run.checked import check_run
from jaxstyle.run.continued import resume_run
from jaxstyle.run.finished import Run
from jaxstyle.run.job import Job, display_of, plan_at
from jaxstyle.run.share import compute_share
from jaxstyle.run.site import site_of
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.files import check_space
from jaxstyle.rundir.records import open_record
from jaxstyle.spec import paths, plugins
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.moved_files import named_files
from jaxstyle.spec.options import check_options
from jaxstyle.spec.settings import RunOptions, Sweep
from jaxstyle.spec.shares import asked_share

OF_COMMANDS = {
    "dry_run": "give it there for a plan that nothing follows",
    "spec": "give its settings as a Sweep",
    "preset": "give its settings as a Sweep",
}
"""Options that only commands have, each with what to do instead."""


def run_sweep(
    sweep: Sweep,
    options: RunOptions | None = None,
    *,
    name: str = "sweep",
    width: int | None = None,
    on_event: Listener | None = None,
) -> Run:
    """Compute every cell of a sweep, or a share of it, and leave a run directory.

    Args:
        sweep: the grid and its settings. An empty one with `resume` stands for that of the run.
        options: where to write and what to print. `dry_run`, `spec` and `preset` are for the command.
        name: name of a fresh directory under `runs/`, without its number.
        width: cells per launch of a new run; None to plan them by the device's memory.
        on_event: is called in this thread with every event, a dictionary with its name as `event`
            (docs/python.md). An exception in it ends the run, which `resume` can continue.

    Returns:
        The run, or for a share its own cells; `Run.exit_code` is 1 if some of them diverged.

    Raises:
        JaxstyleError: for bad settings or input, before anything is written, or a full disk.
        signals.Interrupted: in a command, for a signal; what was computed has been kept.
    """
    checked = check_options(options or RunOptions())
    for option, mend in OF_COMMANDS.items():
        if getattr(checked, option):
            raise JaxstyleError(option, f"is for python -m jaxstyle.sweep; {mend}")
    if not isinstance(sweep, Sweep):
        raise JaxstyleError("sweep", f"{type(sweep).__name__} is not a Sweep; give Sweep(content=...)")
    if not isinstance(name, str) or not name.isprintable() or not name or "/" in name:
        raise JaxstyleError("name", f"{name!r} is not a name of a directory; give a word, such as 'sweep'")
    if width is not None and (isinstance(width, bool) or not hasattr(width, "__index__") or width < 1):
        raise JaxstyleError("width", f"{width!r} is not a number of cells; give 1 or more, or None")
    width = None if width is None else operator.index(width)
    if on_event is not None and not callable(on_event):
        raise JaxstyleError("on_event", f"{on_event!r} cannot be called; give a function of one argument")
    with listening(on_event):
        return _run_sweep(_begun(sweep, checked), checked, name, width)


def _begun(sweep: Sweep, options: RunOptions) -> Sweep:
    """`sweep`, or where it names nothing and a run is to go on, that of the run."""
    if not options.resume or options.out is None or sweep != Sweep():
        return sweep
    plugins.load(options.plugin)
    return open_record(Path(paths.at_home(options.out))).sweep


def _run_sweep(sweep: Sweep, options: RunOptions, name: str, width: int | None) -> Run:
    plugins.load(options.plugin)
    checked, share = check_run(sweep, options, name), asked_share(options)
    path, earlier = checked.path, checked.earlier

    spec = path / "spec.toml"
    before = spec.read_bytes() if options.extend and earlier is not None else None

    def mend() -> str:
        """The way to go on after a signal, in words."""
        if share is not None or (before is not None and spec.read_bytes() == before):
            return "give the same command again"  # also where the run does not know of its extension yet
        begun = (path / "manifest.json").exists()
        return f"go on with --resume --out {shlex.quote(str(path))}" if begun else ""

    with signals.mended(mend):
        if share is not None:
            return compute_share(checked, options, share, width)
        with site_of(options) as site:
            if earlier is None:
                machine = site.start(checked.sweep, {})
                checked, planned = plan_at(site, checked, None, width)
                check_space(path, planned.plan.result_bytes(checked.sweep.crops))
                with RunDirectory(path, create=True, no_lock=options.no_lock, fresh=not options.out) as run:
                    path = run.path  # a new one, if another process has taken its number meanwhile
                    checked = replace(checked, path=path)
                    with display_of(options, path) as display:
                        return Job(checked, planned, machine, run, display).execute(site)
            with RunDirectory(path, no_lock=options.no_lock) as run, display_of(options, path) as display:
                # Read it again, now that nobody else works in it.
                now = open_record(path, among=named_files(checked.sweep))
                if now.cells != earlier.cells:
                    raise JaxstyleError(str(path), "has been extended meanwhile; give the command again")
                return resume_run(replace(checked, earlier=now), options, site, run, display)
