"""The named sets of settings that come with the package, and its example images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxstyle.spec.errors import JaxstyleError

PACKAGE = Path(__file__).resolve().parent.parent
"""The folder of the package."""
EXAMPLES = PACKAGE / "examples"
"""The folder of the example images."""
PRESETS = PACKAGE / "presets"
"""The folder of the presets, a TOML file each."""


def preset_path(name: Any) -> Path:
    """The TOML file of a preset. Raises JaxstyleError for an unknown name."""
    names = sorted(path.stem for path in PRESETS.glob("*.toml"))
    if name not in names:
        raise JaxstyleError("preset", f"{name!r} is not known in this version; use {', '.join(names)}")
    return PRESETS / f"{name}.toml"


def preset_heads() -> dict[str, tuple[str, str]]:
    """Description and cost of every preset by name: the first two lines of its file."""
    heads = {}
    for path in sorted(PRESETS.glob("*.toml")):
        with path.open(encoding="utf-8") as file:
            about, cost = (file.readline().removeprefix("#").strip() for _ in range(2))
        heads[path.stem] = about, cost
    return heads


def preset_hint(_: str) -> str:
    """The list of presets for `--help`; a function, so that their files are read only then."""
    lines = (f"{name}: {about} ({cost})" for name, (about, cost) in preset_heads().items())
    return "\n" + "\n".join(lines) + "\n(default: none)"
