"""Sites, where runs are computed: the devices of this process, or a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxstyle.plan.chunks import Plan
from jaxstyle.run import planning, worker
from jaxstyle.run.inputs import Inputs
from jaxstyle.run.planning import Planned
from jaxstyle.run.start_jax import start_jax, usable_devices
from jaxstyle.run.work import Work
from jaxstyle.rundir import manifest
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import RunOptions, Sweep


@runtime_checkable
class Site(Protocol):
    """A place to plan and compute a run: the devices of this process, or a cluster."""

    def start(self, sweep: Sweep, before: Mapping[str, Any]) -> dict[str, Any]:
        """Get ready for a sweep, as the manifest `before` says if not empty; return `manifest.machine`."""
        ...

    def plan(self, inputs: Inputs, before: Plan | None, width: int | None = None) -> tuple[Sweep, Planned]:
        """The sweep with everything measured, and its plan. Raises JaxstyleError if it cannot be run."""
        ...

    def compute(self, work: Work) -> None:
        """Compute all of the work."""
        ...


class LocalSite:
    """The devices of this process, as a `Site`.

    Args:
        options: options of the run.
        shares: number of processes like this one that share the run.
    """

    def __init__(self, options: RunOptions, shares: int = 1):
        self._options, self._shares = options, shares
        self._devices: tuple[Any, ...] = ()

    def start(self, sweep: Sweep, before: Mapping[str, Any]) -> dict[str, Any]:
        """Start JAX."""
        start_jax(sweep, self._options, before)
        self._devices = usable_devices(self._options)
        return manifest.machine(self._devices)

    def plan(self, inputs: Inputs, before: Plan | None, width: int | None = None) -> tuple[Sweep, Planned]:
        """Plan on the first device."""
        asked = self._options.side_by_side
        return planning.measured_plan(
            inputs, self._devices, before, width=width, shares=self._shares, beside=asked
        )

    def compute(self, work: Work) -> None:
        """Compute on all devices."""
        asked = self._options.side_by_side
        beside = planning.side_by_side(work.plan, work.inputs.sweep, self._devices, asked)
        worker.compute(work, self._devices, beside)


@contextlib.contextmanager
def site_of(options: RunOptions) -> Iterator[Site]:
    """The site that a run's options ask for. Raises JaxstyleError if Ray is needed and not installed."""
    if options.cluster is None:
        yield LocalSite(options)
        return
    try:
        from jaxstyle.run import cluster
    except ImportError as error:
        if error.name != "ray":
            raise
        raise JaxstyleError("cluster", "Ray is not installed; pip install 'ray>=2.40'") from None
    with cluster.Cluster(options) as site:
        yield site
