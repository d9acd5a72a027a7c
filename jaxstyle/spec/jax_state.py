"""Whether JAX is running already, asked without importing it."""

from __future__ import annotations

import sys


def is_jax_running() -> bool:
    """Whether JAX has started a backend, after which its number of threads cannot be changed."""
    if "jax" not in sys.modules:
        return False
    asked = getattr(sys.modules.get("jax._src.xla_bridge"), "backends_are_initialized", None)
    return asked is None or bool(asked())
