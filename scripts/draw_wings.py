"""Draw the wings of the package from the imports of its modules.

    python scripts/draw_wings.py            write docs/wings.svg
    python scripts/draw_wings.py --check    exit with 1 if that file is not what would be drawn

A wing stands on the first floor above all that it imports from, and says in the words of its docstring what
it holds. An arrow that follows from others is left out (the drawing is of the transitive reduction), and no
arrow runs through a box: if one would, the script says so, and `COLUMN` needs another place for a wing.
"""

from __future__ import annotations

import ast
import itertools
import sys
import textwrap
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "wings.svg"

COLUMN = {
    "cell": 250, "console": 650, "derived": 650, "device": 250, "inputs": 250, "metrics": 650, "plan": 250,
    "run": 450, "rundir": 650, "spec": 450, "study": 218, "vgg": 450,
}  # fmt: skip
"""The middle of each wing in px; its floor follows from the imports."""
WIDTH, BOX, SIDE, GUTTER, MARGIN = 900, 340, 48, 450, 874
TOP, GAP, LINE, NAME, PILL = 112, 40, 17, 30, 34
LETTERS, CORNER, HEAD = 47, 9, 6

JAX = ("jax", "flax", "optax")
PAPER, INK, SOFT, FAINT, ARROW = "#fbfaf6", "#22303c", "#5b6770", "#e4e0d6", "#8793a0"
PLAIN, WARM, COMMAND = ("#ffffff", "#c3cad1"), ("#fdf0dc", "#dfb77a"), ("#22303c", "#22303c")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


class Wing(NamedTuple):
    """A folder of the package, or a command."""

    name: str
    text: str
    """The first line of its docstring."""
    modules: int
    jax: bool
    """Whether one of its modules imports JAX at its top level."""
    needs: frozenset[str]
    """Names of the wings that it imports from, inside functions too."""


class Box(NamedTuple):
    """A box of the drawing: its corners, in px."""

    left: float
    top: float
    right: float
    bottom: float


Point = tuple[float, float]


def imported(tree: ast.AST) -> set[str]:
    """Full names of what a module imports, with the names that it takes from them."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def read_wings(package: Path) -> dict[str, Wing]:
    """The wings and the commands of a package, by name."""
    folders = {path.parent.name: path.parent for path in package.glob("*/__init__.py")}
    commands = {path.stem: path for path in package.glob("*.py") if not path.stem.startswith("__")}
    found = {}
    for name, place in sorted({**folders, **commands}.items()):
        paths = sorted(place.glob("*.py")) if place.is_dir() else [place]
        trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
        names = {name for tree in trees.values() for name in imported(tree)}
        head = ast.Module([node for tree in trees.values() for node in tree.body if _is_import(node)], [])
        said = ast.get_docstring(trees.get("__init__") or trees[name]) or ""
        found[name] = Wing(
            name,
            said.splitlines()[0].removesuffix(" Needs no JAX."),
            len(trees) - 1,
            any(what.split(".")[0] in JAX for what in imported(head)),
            frozenset(
                what.split(".")[1]
                for what in names
                if what.startswith(f"{package.name}.") and what.split(".")[1] in folders
            )
            - {name},
        )
    return found


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def floors(wings: Mapping[str, Wing]) -> dict[str, int]:
    """The floor of each wing, from 1."""
    found: dict[str, int] = {}
    while free := {
        name for name, wing in wings.items() if name not in found and wing.needs <= found.keys()
    }:
        found |= {name: 1 + max((found[n] for n in wings[name].needs), default=0) for name in free}
    if left := wings.keys() - found.keys():
        sys.exit(f"these wings import each other in a circle: {', '.join(sorted(left))}")
    return found


def reduced(wings: Mapping[str, Wing]) -> dict[str, list[str]]:
    """Names of the wings that each needs and that no other one of them needs, however indirectly."""

    def below(name: str) -> set[str]:
        return set(wings[name].needs).union(*(below(needed) for needed in wings[name].needs))

    return {
        name: sorted(n for n in wing.needs if not any(n in below(other) for other in wing.needs - {n}))
        for name, wing in wings.items()
    }


def place(wings: Mapping[str, Wing], floor: Mapping[str, int]) -> dict[str, Box]:
    """The boxes of wings, on their floors, and of commands, in the top row."""
    commands = [name for name in wings if name not in COLUMN]
    goals = {name: max(wings[name].needs, key=lambda n: (floor[n], n), default="") for name in commands}
    commands.sort(key=lambda name: (COLUMN.get(goals[name], 0), name))
    wide = (WIDTH - 2 * SIDE - 14 * (len(commands) - 1)) / len(commands)
    found = {}
    for i, name in enumerate(commands):
        left = SIDE + i * (wide + 14)
        found[name] = Box(left, TOP, left + wide, TOP + PILL)
    y = TOP + PILL + GAP + 12
    for level in range(max(floor[name] for name in COLUMN), 0, -1):
        here = [name for name in COLUMN if floor[name] == level]
        high = NAME + 12 + LINE * max(len(said(wings[name])) for name in here)
        for name in here:
            found[name] = Box(COLUMN[name] - BOX / 2, y, COLUMN[name] + BOX / 2, y + high)
        y += high + GAP
    return found


def said(wing: Wing) -> list[str]:
    """The lines of what a wing holds: as few as there can be, and of about the same length."""
    fewest = len(textwrap.wrap(wing.text, LETTERS))
    return next(lines for n in range(1, LETTERS + 1) if len(lines := textwrap.wrap(wing.text, n)) <= fewest)


def route(boxes: Mapping[str, Box], upper: str, lower: str) -> list[Point]:
    """The corners of an arrow: straight down, by the gutter between the columns, or by the right margin."""
    a, b = boxes[upper], boxes[lower]
    left, right = max(a.left, b.left) + 12, min(a.right, b.right) - 12
    if left <= right:
        middle = _middle(min(a, b, key=lambda box: box.right - box.left))
        x = middle if left <= middle <= right else (left + right) / 2
        straight = [(x, a.bottom), (x, b.top)]
        if not blocked(boxes, straight, upper, lower):
            return straight
    near, far = a.bottom + GAP / 2, b.top - GAP / 2
    found: list[Point] = []
    for way in (MARGIN, GUTTER):
        start, end = (_port(box, way) for box in (a, b))
        if far - near < 1:
            found = [(start, a.bottom), (start, near), (end, near), (end, b.top)]
        else:
            found = [(start, a.bottom), (start, near), (way, near), (way, far), (end, far), (end, b.top)]
        if way == MARGIN and (b.left < GUTTER or upper in COLUMN or blocked(boxes, found, upper, lower)):
            continue  # the margin is for commands, and for the right column only
        break
    return found


def _middle(box: Box) -> float:
    return (box.left + box.right) / 2


def _port(box: Box, towards: float) -> float:
    """The place on the edge of a box at which a line leaves for the gutter."""
    return min(max(towards, box.left + 54), box.right - 54)


def comb(boxes: Mapping[str, Box], uppers: list[str], lower: str) -> list[list[Point]]:
    """The lines of an arrow that several commands share: a tooth from each, and one way down."""
    top, end = boxes[uppers[0]].bottom, boxes[lower]
    teeth = [_middle(boxes[name]) for name in uppers]
    free = [x for x in teeth if not blocked(boxes, [(x, top), (x, end.top)], *uppers, lower)]
    x = min(free or teeth, key=lambda x: abs(x - _middle(end)))
    y = top + GAP / 2
    return [*([(at, top), (at, y), (x, y)] for at in teeth if at != x), [(x, top), (x, end.top)]]


def blocked(boxes: Mapping[str, Box], points: list[Point], *own: str) -> str:
    """Name of a box that a line runs through; empty if there is none."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        for name, box in boxes.items():
            across = min(x0, x1) < box.right + 4 and max(x0, x1) > box.left - 4
            if name not in own and across and min(y0, y1) < box.bottom + 4 and max(y0, y1) > box.top - 4:
                return name
    return ""


def path(points: list[Point]) -> str:
    """An SVG path through the points, with round corners."""
    text = f"M{points[0][0]:g} {points[0][1]:g}"
    for before, at, after in zip(points, points[1:], points[2:], strict=False):
        steps = [(end[0] - at[0], end[1] - at[1]) for end in (before, after)]
        lengths = [max(abs(dx) + abs(dy), 1e-9) for dx, dy in steps]
        round_px = min(CORNER, *(length / 2 for length in lengths))
        (ax, ay), (bx, by) = (
            (at[0] + dx / length * round_px, at[1] + dy / length * round_px)
            for (dx, dy), length in zip(steps, lengths, strict=True)
        )
        text += f"L{ax:g} {ay:g}Q{at[0]:g} {at[1]:g} {bx:g} {by:g}"
    return f"{text}L{points[-1][0]:g} {points[-1][1]:g}"


def draw_lines(wings: Mapping[str, Wing], boxes: Mapping[str, Box]) -> list[str]:
    """The arrows; where two cross, one is a bridge over the other."""
    needs = reduced(wings)
    shared: dict[str, list[str]] = {}
    lines: list[tuple[list[Point], bool]] = []
    for upper, lowers in needs.items():
        for lower in lowers:
            if upper not in COLUMN:
                shared.setdefault(lower, []).append(upper)
            else:
                lines.append((_checked(boxes, route(boxes, upper, lower), upper, lower), True))
    for lower, uppers in shared.items():
        if len(uppers) == 1:
            lines.append((_checked(boxes, route(boxes, uppers[0], lower), uppers[0], lower), True))
        else:
            ways = [_checked(boxes, way, *uppers, lower) for way in comb(boxes, uppers, lower)]
            lines += [(way, way is ways[-1]) for way in ways]
    lines.sort(key=lambda line: (len(line[0]), line[0]))
    drawn = []
    for i, (points, pointed) in enumerate(lines):
        way = path([*points[:-1], (points[-1][0], points[-1][1] - (HEAD if pointed else 0))])
        under = (crossing for other, _ in lines[:i] for crossing in crossings(points, other))
        drawn += (
            f'<path d="M{x:g} {y - 2:g}V{y + 2:g}" stroke="{PAPER}" stroke-width="12"/>' for x, y in under
        )
        end = ' marker-end="url(#head)"' if pointed else ""
        drawn.append(f'<path d="{way}" stroke="{ARROW}" stroke-width="1.6"{end}/>')
    return ['<g fill="none">', *drawn, "</g>"]


def crossings(upper: list[Point], lower: list[Point]) -> list[Point]:
    """The points at which a line goes down across a level piece of another."""
    return [
        (x0, v0)
        for (x0, y0), (x1, y1) in itertools.pairwise(upper)
        for (u0, v0), (u1, v1) in itertools.pairwise(lower)
        if x0 == x1 and v0 == v1 and min(u0, u1) < x0 < max(u0, u1) and min(y0, y1) < v0 < max(y0, y1)
    ]


def _checked(boxes: Mapping[str, Box], points: list[Point], *own: str) -> list[Point]:
    if name := blocked(boxes, points, *own):
        sys.exit(f"the arrow from {own[0]} to {own[-1]} would run through {name}; change COLUMN")
    return points


def draw_box(wing: Wing, box: Box) -> list[str]:
    """The box of a wing, with its words."""
    fill, rim = WARM if wing.jax else PLAIN
    x = box.left + 16
    parts = [
        rect(box, fill, rim, 10),
        text(x, box.top + 25, f"{wing.name}/", size=17, weight=650, ink=INK),
        text(box.right - 16, box.top + 25, f"{wing.modules} modules", size=12, ink=SOFT, anchor="end"),
    ]
    lines = enumerate(said(wing))
    return parts + [text(x, box.top + NAME + 16 + LINE * i, line, size=12.5, ink=SOFT) for i, line in lines]


def rect(box: Box, fill: str, rim: str, radius: float) -> str:
    """A box with round corners."""
    size = f'width="{box.right - box.left:g}" height="{box.bottom - box.top:g}" rx="{radius:g}"'
    return f'<rect x="{box.left:g}" y="{box.top:g}" {size} fill="{fill}" stroke="{rim}"/>'


def text(
    x: float, y: float, words: str, *, size: float, ink: str, weight: int = 400, anchor: str = ""
) -> str:
    """A line of text."""
    more = f' font-weight="{weight}"' if weight != 400 else ""
    more += f' text-anchor="{anchor}"' if anchor else ""
    inside = escape(words, quote=False)
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{ink}"{more}>{inside}</text>'


def draw(package: Path = ROOT / "jaxstyle") -> str:
    """The picture, as the text of an SVG file."""
    wings = read_wings(package)
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    if wrong := folders ^ COLUMN.keys():
        sys.exit(f"COLUMN in {Path(__file__).name} and the wings differ by: {', '.join(sorted(wrong))}")
    floor = floors(wings)
    boxes = place(wings, floor)
    end = max(box.bottom for box in boxes.values())
    height = end + 84
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:g}"'
        f' viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="title" font-family="{FONT}">',
        '<title id="title">The wings of jaxstyle: each stands above all that it imports from</title>',
        f'<defs><marker id="head" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="{HEAD + 2}"'
        f' markerHeight="{HEAD + 2}" markerUnits="userSpaceOnUse" orient="auto">'
        f'<path d="M0 0.5L8 4L0 7.5z" fill="{ARROW}"/></marker></defs>',
        rect(Box(0.5, 0.5, WIDTH - 0.5, height - 0.5), PAPER, FAINT, 14),
        text(SIDE, 50, "The wings of jaxstyle", size=24, weight=700, ink=INK),
        text(
            SIDE,
            76,
            "Each stands above all that it imports from; the commands are on top.",
            size=14,
            ink=SOFT,
        ),
    ]
    for level in range(1, 1 + max(floor[name] for name in COLUMN)):
        foot = next(boxes[name].bottom for name in COLUMN if floor[name] == level)
        parts.append(f'<path d="M{SIDE} {foot:g}H{WIDTH - SIDE}" stroke="{FAINT}"/>')
        parts.append(text(26, foot - 4, str(level), size=13, ink=ARROW, anchor="middle"))
    parts += draw_lines(wings, boxes)
    for name, box in boxes.items():
        if name in COLUMN:
            parts += draw_box(wings[name], box)
        else:
            parts.append(rect(box, *COMMAND, PILL / 2))
            parts.append(
                text(_middle(box), box.top + 22, name, size=14, ink=PAPER, weight=600, anchor="middle")
            )
    parts += legend(end + 36)
    return "\n".join([*parts, "</svg>"]) + "\n"


def legend(y: float) -> list[str]:
    """The caption below the house."""
    warm = "imports JAX when it is imported; others do so in functions, or never"
    arrow = "Arrows point to what is imported; those that follow from others are left out"
    return [
        rect(Box(SIDE, y - 11, SIDE + 20, y + 3), *WARM, 4),
        text(SIDE + 28, y, warm, size=13, ink=SOFT),
        text(SIDE, y + 24, f"{arrow} (transitive reduction).", size=13, ink=SOFT),
    ]


def main(arguments: list[str]) -> int:
    """Write the picture, or with `--check` compare it; the exit code."""
    if arguments not in ([], ["--check"]):
        sys.exit(__doc__)
    drawn = draw()
    if not arguments:
        PICTURE.write_text(drawn, encoding="utf-8")
        return 0
    if PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == drawn:
        return 0
    print("docs/wings.svg is out of date; run: python scripts/draw_wings.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
