"""Versions of the packages that the tests run with, for pip's `-c`.

    make lock                           writes constraints.txt anew
    python scripts/lock.py PYTHON...    of what `jaxstyle[dev]` needs in the environments of these
    python scripts/lock.py --lowest     the lowest versions that pyproject.toml allows, of what is imported

A version is for the Pythons that have it; no other Python is held to any version.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# The versions that the tests run with, on Python 3.11 and 3.12; `make lock` writes them anew.
# pip install -c constraints.txt '.[dev]'
"""
CLOSURE = """
import importlib.metadata as metadata, json, re, sys
from packaging.requirements import Requirement

found, left = {}, [Requirement("jaxstyle[dev]")]
while left:
    asked = left.pop()
    name = re.sub(r"[-_.]+", "-", asked.name).lower()
    seen = found.setdefault(name, set())
    new = {"", *asked.extras} - seen
    seen |= new
    for line in metadata.requires(name) or () if new else ():
        needed = Requirement(line)
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in new):
            left.append(needed)
del found["jaxstyle"]
python = ".".join(map(str, sys.version_info[:2]))
print(json.dumps({"python": python, "versions": {name: metadata.version(name) for name in found}}))
"""
"""A program that prints the versions of `jaxstyle[dev]` and of all that it needs, where it runs."""
LOWEST = ("analysis", "heic")
"""Extras whose packages are imported where they are there; the tools of the tests are locked instead."""


def locked(interpreters: Sequence[str]) -> str:
    """The file for pip, from what is installed beside some interpreters."""
    of: dict[str, dict[str, str]] = {}
    for interpreter in interpreters:
        told = json.loads(subprocess.run([interpreter, "-c", CLOSURE], check=True, stdout=-1).stdout)
        of[told["python"]] = told["versions"]
    lines = []
    for name in sorted({name for versions in of.values() for name in versions}):
        own: dict[str, list[str]] = {}
        for python, versions in of.items():
            own.setdefault(versions.get(name, ""), []).append(python)
        lines += [f'{name}=={v}; python_version in "{" ".join(those)}"' for v, those in own.items() if v]
    return HEAD + "\n".join(lines) + "\n"


def lowest() -> str:
    """The file for pip, from the lower limits in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name in LOWEST for line in project["optional-dependencies"][name]]
    limits = [re.match(r"([\w-]+)>=([\d.]+)", line) for line in (*project["dependencies"], *extras)]
    return "".join(f"{limit[1]}=={limit[2]}\n" for limit in limits if limit)


if __name__ == "__main__":
    print(lowest() if sys.argv[1:] == ["--lowest"] else locked(sys.argv[1:]), end="")
