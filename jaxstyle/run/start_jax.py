"""JAX, started with the settings that a run needs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxstyle.console import early, limits
from jaxstyle.device import jax_settings
from jaxstyle.spec.errors import JaxstyleError, UnfitEnvironment
from jaxstyle.spec.jax_state import is_jax_running
from jaxstyle.spec.settings import RunOptions, Sweep

DETERMINISTIC_FLAGS = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
NEVER_S = 1e9
"""Seconds that no program takes to compile: JAX keeps those that take longer than it is told."""


def start_jax(sweep: Sweep, options: RunOptions, before: Mapping[str, Any] | None = None) -> Any:
    """Import JAX with the settings a run needs and return its first device.

    A cache directory that the user chose for JAX is left alone. On a CPU, JAX gets a thread for every core
    that this process may keep busy, unless NPROC gives their number.

    Args:
        sweep: the resolved sweep.
        options: options of the run.
        before: manifest of the run that is continued; its number of threads is used again.

    Raises:
        UnfitEnvironment: if JAX does not start.
    """
    threads = before and before.get("threads")
    threads = threads if isinstance(threads, int) else limits.threads()
    if not is_jax_running() and threads != limits.xla_threads():
        os.environ["NPROC"] = str(threads)
    if not is_jax_running():
        jax_settings.check_xla_flags()
        if sweep.deterministic:
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC_FLAGS}".strip()
    limits.check_start()
    device = _first_device()
    jax_settings.check_settings()
    import jax

    from jaxstyle.device import kept

    cache = None if options.no_compile_cache else cache_directory()
    if cache and jax.config.jax_compilation_cache_dir is None:  # pyright: ignore
        if not options.dry_run:
            _clear_empty(cache)
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    kept.keep_in(cache and cache.parent, early.began())
    asked = "--xla_gpu_deterministic_ops=true" in os.environ.get("XLA_FLAGS", "")
    if sweep.deterministic and device.platform == "gpu" and not asked:
        raise JaxstyleError(
            "deterministic",
            f"JAX is already running; set XLA_FLAGS='{DETERMINISTIC_FLAGS}' before it starts",
        )
    return device


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
    """The time in which no cache is written, neither JAX's nor this package's; what they have is used.

    On a GPU, XLA writes its choices beside the programs that JAX keeps, and where it does is part of their
    keys: there, they are not used either. JAX must have been started.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    from jaxstyle.device import kept

    cache = jax.config.jax_compilation_cache_dir  # pyright: ignore
    there = cache is not None and os.path.isdir(cache)  # JAX would make it
    changed = {
        "jax_persistent_cache_min_compile_time_secs": NEVER_S,
        "jax_enable_compilation_cache": there and jax.default_backend() != "gpu",
    }
    before = {name: getattr(jax.config, name) for name in changed}
    try:
        for name, value in changed.items():
            jax.config.update(name, value)
        with kept.only_read():
            yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # JAX remembers whether it is used


def _first_device() -> Any:
    """JAX's first device. Raises UnfitEnvironment if JAX does not start, for whatever reason."""
    try:
        import jax

        return jax.local_devices()[0]
    except Exception as error:
        # JAX has no exception of its own for this: without a GPU, JAX_PLATFORMS=cuda raises an
        # AssertionError, an unknown platform a RuntimeError, a wrong setting a ValueError.
        text = str(error).strip()
        said = f"{type(error).__name__}: {text}".splitlines()[0] if text else "no such device"
        asked, mend = os.environ.get("JAX_PLATFORMS", ""), "fix that"
        if isinstance(error, RuntimeError | AssertionError):
            mend = f"JAX_PLATFORMS={asked} asks for it: unset that" if asked else mend
            mend += ", or set JAX_PLATFORMS=cpu"
        raise UnfitEnvironment("JAX", f"does not start here: {said}; {mend}") from error


def _clear_empty(cache: Path) -> None:
    """Remove the empty files that a full disk left in the cache; JAX warns of each and replaces none."""
    with contextlib.suppress(OSError), os.scandir(cache) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # another process may have been faster
                if entry.name.endswith("-cache") and not entry.stat(follow_symlinks=False).st_size:
                    os.unlink(entry.path)


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of compiled programs in the user's cache directory; None if there can be none.

    XDG_CACHE_HOME counts only if it is absolute, as its specification says. A user without a home, as in
    many containers, has no such folder.
    """
    home = os.path.expanduser("~") if os.environ.get("HOME") != "" else ""
    bases = environment.get("XDG_CACHE_HOME", ""), os.path.join(home, ".cache")
    base = next((base for base in bases if os.path.isabs(base)), None)
    if base is None:
        return None
    folder = Path(base) / "jaxstyle" / "xla"  # JAX makes it when there is something to keep
    # `Path.exists` of Python 3.11 raises where a folder may not be searched.
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    return folder if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else None


def usable_devices(options: RunOptions) -> tuple[Any, ...]:
    """The devices of this process that a run may use; JAX must have been started.

    Raises:
        JaxstyleError: if more are asked for than this process has.
    """
    import jax

    there = jax.local_devices()
    wanted = options.devices or len(there)
    if wanted > len(there):
        raise JaxstyleError("devices", f"{wanted}: there {_are(len(there))} here ({there[0].device_kind})")
    return tuple(there[:wanted])


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"
