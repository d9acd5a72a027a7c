"""jaxstyle: many Gatys-style transfers as one batch, in JAX.

    import jaxstyle

    picture = jaxstyle.stylize("a.jpg", "b.jpg", size=256, alpha_beta=1e-2)
    run = jaxstyle.run_sweep(jaxstyle.Sweep(content=("a.jpg",), style=("b.jpg",), seed=("0:4",)))
    run = jaxstyle.open_run("runs/0001-sweep")

Importing this package imports no JAX; `run_sweep`, `stylize` and `feature_maps` do.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from jaxstyle.run.finished import Run, open_run
    from jaxstyle.run.one_cell import feature_maps, stylize
    from jaxstyle.run.sweep import run_sweep
    from jaxstyle.spec.errors import JaxstyleError
    from jaxstyle.spec.plugins import register
    from jaxstyle.spec.presets import EXAMPLES
    from jaxstyle.spec.settings import RunOptions, Sweep
    from jaxstyle.spec.tables import LossTerm, Optimizer, Pooling

_HOMES = {
    "JaxstyleError": "spec.errors",
    "RunOptions": "spec.settings",
    "Sweep": "spec.settings",
    "LossTerm": "spec.tables",
    "Optimizer": "spec.tables",
    "Pooling": "spec.tables",
    "register": "spec.plugins",
    "EXAMPLES": "spec.presets",
    "Run": "run.finished",
    "open_run": "run.finished",
    "run_sweep": "run.sweep",
    "feature_maps": "run.one_cell",
    "stylize": "run.one_cell",
}

__all__ = [
    "EXAMPLES",
    "JaxstyleError",
    "LossTerm",
    "Optimizer",
    "Pooling",
    "Run",
    "RunOptions",
    "Sweep",
    "__version__",
    "feature_maps",
    "open_run",
    "register",
    "run_sweep",
    "stylize",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        if sys.platform == "win32" and _HOMES[name].startswith("run."):
            from jaxstyle.spec.errors import WINDOWS, UnfitEnvironment

            raise UnfitEnvironment(*WINDOWS)
        return getattr(importlib.import_module(f"jaxstyle.{_HOMES[name]}"), name)
    if name == "__version__":
        return _version()
    raise AttributeError(f"module 'jaxstyle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """The installed version; looked up only on demand, since that takes 30 ms."""
    import importlib.metadata

    try:
        return importlib.metadata.version("jaxstyle")
    except importlib.metadata.PackageNotFoundError:  # a checkout that was not installed
        return "0+unknown"
