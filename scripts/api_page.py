"""Write docs/api.md, the page of the Python API, from the docstrings of what `jaxstyle` exports.

make docs
python scripts/api_page.py --check     exit with 1 if the page is not what they say
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jaxstyle
from jaxstyle.console.setting_flags import helps

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
ORDER = ("stylize", "feature_maps", "Sweep", "RunOptions", "run_sweep", "open_run", "Run", "JaxstyleError")
ORDER += ("register", "LossTerm", "Optimizer", "Pooling")
HEAD = """# The Python API

What `import jaxstyle` has, by its docstrings; `make docs` writes this page.
[From Python](python.md) has examples.
`jaxstyle.EXAMPLES` is the folder of the example images and `jaxstyle.__version__` the version.
"""


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for name in ORDER:
        found = getattr(jaxstyle, name)
        parts.append(f"## {name}\n")
        if name in ("Sweep", "RunOptions"):
            parts += [_prose(found), _settings(found)]
        elif inspect.isclass(found) and not issubclass(found, Exception):
            parts += [_call(name, found), _prose(found), *_members(found)]
        else:
            parts += [
                *([_call(name, found)] if callable(found) and not inspect.isclass(found) else []),
                _prose(found),
            ]
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ ]+$", "", "\n".join(parts), flags=re.MULTILINE))


def _call(name: str, of: Any) -> str:
    """A function's or a class's call, without types, for they are in the editor."""
    arguments = []
    star = False
    for p in inspect.signature(of).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not star:
            arguments.append("*")
        star = star or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        prefix = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        default = "" if p.default is p.empty else f"={_short(p.default)}"
        arguments.append(f"{prefix}{p.name}{default}")
    return f"`{name}({', '.join(a for a in arguments if a != 'self')})`\n"


def _short(value: Any) -> str:
    text = repr(value)
    return "{}" if "factory" in text or value is dataclasses.MISSING else text


def _prose(of: Any) -> str:
    """A docstring as Markdown: its sections as lists, its examples as code."""
    lines, out, section = (inspect.getdoc(of) or "").splitlines(), [], ""
    for line in lines:
        if re.fullmatch(r"(Args|Returns|Raises):", line):
            section = line
            out += ["", f"*{line[:-1]}*", ""]
        elif section and (own := re.match(r"    (\w[\w.]*): (.*)", line)):
            out.append(f"* `{own[1]}`: {own[2]}")
        elif section:
            out.append(f"  {line.strip()}" if section != "Returns:" else line.strip())
        else:
            out.append(line)
    return "\n".join(out).rstrip() + "\n"


def _members(kind: type) -> Iterator[str]:
    """The fields, properties and methods of a class that is not only its constructor's arguments."""
    tree = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(tree, ast.ClassDef)
    for line, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(line, ast.AnnAssign) and isinstance(after, ast.Expr):
            text = " ".join(ast.literal_eval(after.value).split())
            yield f"**`.{ast.unparse(line.target)}`** {text}\n"
        elif isinstance(line, ast.FunctionDef) and kind is jaxstyle.Run and not line.name.startswith("_"):
            own = inspect.getattr_static(kind, line.name)
            if isinstance(own, property):
                yield f"**`.{line.name}`** {' '.join((inspect.getdoc(own) or '').split())}\n"
            else:
                yield f"### {kind.__name__}.{line.name}\n"
                yield _call(f"run.{line.name}", own)
                yield _prose(own)


def _settings(kind: type) -> str:
    """A table of the fields of `Sweep` or `RunOptions`, with their defaults and helps."""
    about = helps()
    rows = ["| name | default | |", "|---|---|---|"]
    for field in dataclasses.fields(kind):
        text = about[field.name].replace("|", "\\|")
        rows.append(f"| `{field.name}` | `{_short(field.default)}` | {text} |")
    return "\n".join(rows) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the page, or compare it; the exit code."""
    text = page()
    if "--check" in arguments:
        return 0 if PAGE.exists() and PAGE.read_text() == text else 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
