"""JAX's settings while this package computes, which do not depend on those of the surrounding process.

JAX reads dozens of settings from the environment and lets a program change them: 64-bit numbers, promotion
of types, checks for NaN, guards on transfers. Some would change a picture, and some would forbid what is
normal here: the losses of a cell begin as NaN, and host arrays become device arrays. The caller's settings
are restored after every call.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from jaxstyle.spec.errors import UnfitEnvironment

SETTINGS: Mapping[str, Any] = {
    "enable_x64": False,
    "disable_jit": False,
    "debug_nans": False,
    "debug_infs": False,
    "no_tracing": False,
    "no_execution": False,
    "numpy_dtype_promotion": "standard",
    "numpy_rank_promotion": "allow",
    "default_matmul_precision": None,
    "transfer_guard": "allow",
}
"""JAX's defaults, by the names of its context managers."""
FIXED: Mapping[str, tuple[str, ...]] = {
    "jax_error_checking_behavior_nan": ("ignore",),
    "jax_error_checking_behavior_divide": ("ignore",),
    "jax_error_checking_behavior_oob": ("ignore",),
    "jax_array_garbage_collection_guard": ("allow", "log"),
}
"""Settings for which JAX has no public context manager, with the values that do no harm."""
XLA_CHECK_S = 120.0
"""Time limit, in seconds, of the process that checks whether XLA accepts its flags."""


@contextlib.contextmanager
def default_settings() -> Iterator[None]:
    """Give JAX its default settings inside, in this thread, as far as numbers depend on them."""
    import jax

    with contextlib.ExitStack() as stack:
        for name, value in SETTINGS.items():
            if (setting := getattr(jax, name, None)) is not None:  # some exist only in some versions of JAX
                stack.enter_context(setting(value))
        yield


def check_settings() -> None:
    """Raise UnfitEnvironment for settings of JAX that prevent a batch, and that nothing here can change."""
    import jax

    for name, harmless in FIXED.items():
        value = getattr(jax.config, name, None)
        if value is not None and str(value) not in harmless:
            why = f"is {value}, with which no batch can be computed; unset it"
            raise UnfitEnvironment(name.upper(), why)


def check_xla_flags(environment: Mapping[str, str] = os.environ) -> None:
    """Raise UnfitEnvironment if XLA rejects the flags in `XLA_FLAGS`.

    XLA ends the process at a flag that it does not know, with a line of its own and exit code 1. If there
    are flags, they are therefore tried in another process first, which takes about a second.
    """
    if not environment.get("XLA_FLAGS", "").strip():
        return
    quiet = {name: value for name, value in environment.items() if not name.startswith("JAX_")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import jax; jax.devices()"],
            env={**quiet, "JAX_PLATFORMS": "cpu"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=XLA_CHECK_S,
        )
    except subprocess.TimeoutExpired:  # a disk where libraries take minutes to load: XLA will tell itself
        return
    if not done.returncode:
        return
    said = re.search(r"(Unknown flags? in XLA_FLAGS.*|Couldn't interpret value.*)", done.stderr)
    why = said[0] if said else (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    raise UnfitEnvironment("XLA_FLAGS", f"XLA does not accept it: {why}; correct the variable or unset it")
