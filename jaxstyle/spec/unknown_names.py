"""Names of settings that are planned or unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from jaxstyle.spec import settings, synonyms
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.retired import RETIRED
from jaxstyle.spec.settings import OPTION_KEYS, SWEEP_KEYS

PLANNED = {
    "tolerance": "early stopping is not in this version",
}
"""Settings of later versions and the error for each; they are never silently ignored."""

OF_SPECS = {
    "grid": "a spec has it, as [[grid]]; give --spec FILE.toml",
    "region_names": "a spec has it, as [regions]; give --spec FILE.toml",
    "digests": "a run writes it into its spec.toml",
    "balance": "a run writes it into its spec.toml, and jaxstyle.calibrate measures it",
}
"""Keys of specs that are no flags, and what to do instead."""


def unknown_key(
    key: str, known: Iterable[str], *, what: str, positional: Sequence[str] = ()
) -> JaxstyleError:
    """The error for an unknown name; it suggests what other projects mean by it, or the nearest known name.

    Args:
        key: the name, with `_` for `-`.
        known: names that exist.
        what: the name as it was given.
        positional: those of `known` that are positional arguments.
    """
    if key in PLANNED:
        return JaxstyleError(what, PLANNED[key])
    if key in RETIRED:
        return JaxstyleError(what, RETIRED[key].why)
    known = tuple(known)
    if (other := synonyms.setting(key)) is not None:
        name = "image" if other.setting == "content" and "content" not in known else other.setting
        if name in positional:
            return JaxstyleError(what, f"no such setting; {name} is a positional argument, without a flag")
        if name in known:
            why = f" ({other.why})" if other.why else ""
            return JaxstyleError(what, f"no such setting; did you mean {name}{why}?")
        return JaxstyleError(what, f"no such setting; {other.why or 'see --help'}")
    if key in OF_SPECS:
        return JaxstyleError(what, f"no such setting of a command; {OF_SPECS[key]}")
    if key in (*SWEEP_KEYS, *OPTION_KEYS, *settings.added()):
        return JaxstyleError(what, "no such setting of this command; it is one of jaxstyle.sweep")
    names = [*known, *(["help"] if what.startswith("-") else [])]
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    why = f"did you mean {near[0]}?" if near else "see --help"
    if key.endswith("_weight"):
        why += " The weight of a plugin's loss needs --plugin FILE.py"
    return JaxstyleError(what, f"no such setting; {why}")
