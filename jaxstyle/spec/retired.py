"""Settings of earlier versions that are gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.values import plain_value


class Retired(NamedTuple):
    """A setting of earlier versions that is gone."""

    default: Any
    """Its value in runs that did not use it; this value is accepted and ignored."""
    why: str
    """The error for any other value."""


RETIRED = {
    "warm_steps": Retired(
        0,
        "started cells from their neighbours' pictures, with mixed gains, and was removed; leave it out, or"
        " open a run that has it with the version that made it",
    ),
}
"""Settings that are gone; runs that can be resumed have them at their defaults."""


def without_retired(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, without those that are gone.

    Raises:
        JaxstyleError: if one of these has another value than its default.
    """
    for name, retired in RETIRED.items():
        value = plain_value(given.get(name, retired.default))
        if hasattr(value, "shape") or value != retired.default:  # an image is compared value by value
            raise JaxstyleError(name, retired.why)
    return {name: value for name, value in given.items() if name not in RETIRED}
