"""Targets of images, kept by a run of a single cell for later ones with the same images.

A file is a NumPy archive of the arrays, and of their structure as a line of JSON that names no type but
tuples and named tuples of `kept_programs.TYPES_OF`.
"""

from __future__ import annotations

import io
import json
from typing import Any

import jax
import numpy as np

from jaxstyle.cell.state import Targets
from jaxstyle.device import kept
from jaxstyle.device.kept_programs import meant, spelled

KIND = "targets"
"""The folder of targets."""
LIMIT_BYTES = 128 << 20
"""The size of all that is kept, beyond which the longest unused go: some 12 pairs of images at 256 px."""
STRUCTURE = "structure"
"""The archive's name for the structure; the arrays have numbers."""


def load(key: str) -> Targets | None:
    """The targets that an earlier command saved under this key, as host arrays; None if there are none."""
    data = kept.load(KIND, key)
    if data is None:
        return None
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        structure = jax.tree.structure(meant(json.loads(str(file[STRUCTURE]))))
        return structure.unflatten([file[str(number)] for number in range(structure.num_leaves)])


def save(key: str, targets: Targets) -> None:
    """Keep targets for later commands, if they are float32 and a file can tell their structure."""
    leaves, structure = jax.tree.flatten(targets)
    if sum(leaf.nbytes for leaf in leaves) > LIMIT_BYTES:
        return
    told = json.dumps(spelled(structure.unflatten(range(len(leaves)))))
    try:
        same = jax.tree.structure(meant(json.loads(told))) == structure
    except (ValueError, TypeError, AttributeError, LookupError):
        same = False
    if not same or any(leaf.dtype != np.float32 for leaf in leaves):
        return
    file = io.BytesIO()
    arrays: dict[str, Any] = {str(number): leaf for number, leaf in enumerate(leaves)}
    np.savez(file, **{STRUCTURE: np.array(told)}, **arrays)
    kept.save(KIND, key, file.getvalue(), level=0, limit_bytes=LIMIT_BYTES)
