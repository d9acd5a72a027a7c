"""Adam (Kingma & Ba 2015)."""

from __future__ import annotations

import optax


def adam() -> optax.GradientTransformation:
    """Adam with optax's defaults: b1 0.9, b2 0.999, eps 1e-8."""
    return optax.scale_by_adam()
