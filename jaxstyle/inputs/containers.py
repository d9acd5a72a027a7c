"""The part of an image file that is to be decoded, as every format gives it (see `formats`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MAX_PROFILE_BYTES = 16 * 2**20
"""Size limit of an unpacked ICC profile; printers' profiles, the largest, have some megabytes."""


@dataclass(frozen=True)
class Container:
    """The part of a file that is to be decoded, and the file's information about it."""

    data: bytes
    notes: tuple[str, ...] = ()
    """Notes on what was left out."""
    profile: bytes | None = None
    """The ICC profile, if the decoder does not see it; empty if there is one that cannot be extracted."""
    chunks: Mapping[bytes, bytes] = field(default_factory=dict)
    """Bodies of a PNG's colour chunks, by kind."""
    orientation: int = 1
    """The EXIF orientation, if it is given outside the picture's own data."""


def cut(data: bytes, cuts: Iterable[tuple[int, int, bytes]]) -> bytes:
    """`data` with each (start, end, replacement) of `cuts` applied; `cuts` are ordered by start."""
    view, at, parts = memoryview(data), 0, []
    for start, end, instead in cuts:
        parts += [view[at:start], instead]
        at = end
    return b"".join((*parts, view[at:])) if parts else data
