"""The cells of a sweep: every combination of its axes, once, with an id that is the same in every run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jaxstyle.plan.masks import masks_of
from jaxstyle.spec import blends, settings
from jaxstyle.spec.colours import COLOURS
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.regions import MASKS
from jaxstyle.spec.resolve import grids_of
from jaxstyle.spec.settings import BALANCED_AXES, WERE_SETTINGS, Sweep
from jaxstyle.spec.tables import TERMS, optional_terms
from jaxstyle.spec.values import (
    AUTO,
    FLOAT32_MAX,
    NONE,
    RECOLOURED,
    has_weights,
    longest_edge,
    relative_factor,
    style_set,
)
from jaxstyle.vgg import layers

Source = tuple[Any, ...]
"""A style as it is used: its path or blend, its size, and the path of the content whose colours it takes,
if there is one."""


@dataclass(frozen=True)
class Cell:
    """One style transfer of a sweep. `id` counts from 0 in grid order."""

    id: int
    content: str
    style: str
    content_layer: str
    style_layers: str
    init: str
    alpha_beta: float
    """alpha/beta; NaN for a relative ratio that has not been measured yet, 0 without a content, infinite
    without a style."""
    learning_rate: float
    seed: int
    alpha_beta_given: str = ""
    """A relative ratio as the user gave it, such as `0.1x`; empty for a number."""
    balanced: tuple[tuple[str, float], ...] = ()
    """Measured `(name, w_l)`, where style weights are balanced."""
    extra: tuple[tuple[str, float], ...] = ()
    """`(axis, weight)` of every optional loss term whose weight is not 0."""
    style_size: int | str = AUTO
    """Longest edge of its style in px, or `auto`, that of the content's target size."""
    noise_std: float = 1.0
    tv_weight: float = 0.0
    pool: str = "avg"
    padding: str = "zeros"
    style_loss: str = "gram"
    style_weights: str = "equal"
    """The scheme that weighs style layers without weights of their own."""
    clamp: bool = False
    coloured_by: str = ""
    """The content whose colours its style takes before anything else; empty for a style as it is."""
    regions: str = NONE
    """The kind of its regions, as in `spec.regions`."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            extra = dict(self.__dict__.get("extra", ()))
            return extra[name] if name in extra else settings.default_of(name)[0]

    @property
    def terms(self) -> tuple[str, ...]:
        """The optional loss terms that the cell has a weight for."""
        return terms_of([self]) if self.extra else ()

    @property
    def has_content(self) -> bool:
        """Whether it has a content image; without one it is a texture."""
        return self.content != NONE

    @property
    def has_style(self) -> bool:
        """Whether it has a style image; without one it is an inversion of its content's features."""
        return self.style != NONE

    @property
    def shaped_by(self) -> str:
        """The image that gives its picture the shape: its content, or a texture's style, as on its axis."""
        return self.content if self.has_content else self.style

    @property
    def style_source(self) -> Source:
        """Its style, the size that the style is used at, and the content whose colours it takes, if any."""
        return self._source(self.style)

    @property
    def style_parts(self) -> tuple[tuple[Source, float], ...]:
        """The files of its style, each as a `style_source` with its weight; a single one but for blends."""
        return tuple((self._source(path), weight) for path, weight in blends.parts_of(self.style))

    def _source(self, style: str) -> Source:
        return (style, self.style_size, *((self.coloured_by,) if self.coloured_by else ()))

    @property
    def layer_weights(self) -> dict[str, float]:
        """w_l of the cell's own style layers, by name."""
        return dict(self.balanced or style_set(self.style_layers)) if self.has_style else {}

    @property
    def content_taps(self) -> tuple[str, ...]:
        """The layer of its content loss, if it has a content."""
        return (self.content_layer,) if self.has_content else ()

    def label(self, axis: str) -> Any:
        """The cell's value on an axis as the user gave it: `0.1x`, not the number that it came to."""
        return (axis == "alpha_beta" and self.alpha_beta_given) or getattr(self, axis)

    @property
    def taps(self) -> tuple[str, ...]:
        """The layers that the cell needs, from the image downwards."""
        own = (tap for name in self.terms for tap in TERMS[name].taps)
        return layers.in_order((*self.content_taps, *self.layer_weights, *own))


def lacked_losses(cell: Cell) -> set[str]:
    """The losses that a cell has no image for: a texture has no content's, an inversion no style's."""
    has = {"content": cell.has_content, "style": cell.has_style}
    own = (row for row in TERMS if row.curve and (row.always or row.keep is not None))
    return {row.loss_name for row in own if not has[row.of]}


def sweep_cells(sweep: Sweep) -> tuple[Cell, ...]:
    """The cells of a resolved sweep: the union of its grids in order, each combination once.

    Raises:
        JaxstyleError: if there are more than `sweep.max_cells` cells, a ratio is beyond float32, or a
            picture or a mask is not given that a cell needs.
    """
    axes = sweep.axes
    rows = {axis: settings.axis_row(axis) for axis in axes}
    weights = [axis for axis in axes if axis in settings.added()]
    top = {axis: getattr(sweep, axis) for axis in axes}
    tables = [({**top, **grid}, grid.get("zip", ())) for grid in sweep.grid] or [(top, ())]

    def check(count: int) -> None:
        if count > sweep.max_cells:
            raise JaxstyleError(
                "grid",
                f"{count} cells are more than --max-cells {sweep.max_cells}; raise it or shorten an axis",
            )

    found: dict[tuple, Cell] = {}
    for table, named in tables:
        zipped = [axis for axis in named if axis in axes]  # one that nothing sets has a single value
        free = math.prod(len(table[axis]) for axis in axes if axis not in zipped)
        check(free * (len(table[zipped[0]]) if zipped else 1))
        for choice in _combinations(axes, table, zipped):
            unused = _unused_axes(choice, balanced_by_default=sweep.balance_optional)
            if unused is None:  # neither a content nor a style
                continue
            told = choice
            if choice.get("style_size") == AUTO and choice["content"] != NONE:
                told = choice | {"style_size": longest_edge(sweep.size)}
            same = {axis: rows[axis].same(told[axis]) for axis in axes if axis not in unused}
            if "style_layers" in same and choice.get("style_weights") != "balanced":
                same["style_layers"], _ = same["style_layers"]  # equal weights are the same, given or not
            identity = tuple(same.get(axis) for axis in axes)
            if identity not in found:
                choice |= {
                    axis: table[axis][0] if value is None else value for axis, value in unused.items()
                }
                check(len(found) + 1)
                extra = tuple((axis, weight) for axis in weights if (weight := choice.pop(axis)))
                moved = COLOURS[sweep.colour].moves_style and choice["style"] != NONE
                by = choice["content"] if moved else ""
                cell = Cell(id=len(found), **choice, extra=extra, coloured_by=by)
                _check_pictures(cell)
                _check_colours(sweep.colour, cell)
                _check_regions(cell)
                found[identity] = cell
    if not found:
        raise JaxstyleError("style", "none, and no content either; give a content or a style")
    masks_of(sweep)
    return balanced_cells(sweep, found.values())


def check_new(sweep: Sweep, cells: Iterable[Cell]) -> None:
    """Raise JaxstyleError for a setting that does nothing in cells that no run has yet.

    Older runs may have such cells, and go on.
    """
    cells, tables = tuple(cells), grids_of(sweep, ["regions"])
    held = sweep.hold and any(MASKS in of["regions"] and NONE in of["style"] for of in tables)
    if held and any(not cell.has_style for cell in cells):
        why = "keeps pixels beside those of a style, and --style is none; give a style, or --regions none"
        raise JaxstyleError("hold", why)
    styles = {path for cell in cells for path in blends.files_of(cell.style)}
    if sweep.crops is not None and cells and all(map(blends.is_targets, styles)):
        why = "are of style images, and there is none; leave it out, or give an image"
        raise JaxstyleError("crops", why)


def _unused_axes(choice: Mapping[str, Any], *, balanced_by_default: bool) -> dict[str, Any] | None:
    """The axes that mean nothing in a cell without a content or a style, each with its value there.

    The value is None for an axis that keeps its first one: cells that differ on such an axis alone are one
    cell. The result is None if there is neither a content nor a style.

    Raises:
        JaxstyleError: for a multiple of the balance that such a cell lacks, unless it is the default.
    """
    lacks = [axis for axis in ("content", "style") if choice[axis] == NONE]
    if not lacks:
        return {}
    ratio = choice["alpha_beta"]
    if relative_factor(ratio) is not None and not balanced_by_default:
        why = f"is a multiple of the balance, which {lacks[0]} none does not have; give a number"
        raise JaxstyleError("alpha_beta", f"{ratio} {why}")
    if len(lacks) == 2:
        return None
    if lacks == ["content"]:
        return {"content_layer": None, "alpha_beta": 0.0}
    of_style = {"style_size": None, "style_loss": None, "style_weights": None, "regions": NONE}
    there = {axis: value for axis, value in of_style.items() if axis in choice}
    return {"style_layers": None, "alpha_beta": math.inf, **there}


def _check_pictures(cell: Cell) -> None:
    """Raise JaxstyleError if a cell starts from an image, or has a loss of one, that it does not have.

    A blend or a file of targets is a style, but no image.
    """
    there = {"content": cell.has_content, "style": cell.has_style}
    if not there.get(cell.init, True):
        why = f"there is none where --{cell.init} is none; give noise or a path"
        raise JaxstyleError("init", f"{cell.init}: {why}")
    if cell.init == RECOLOURED and not (cell.has_content and cell.has_style):
        lacks = "style" if cell.has_content else "content"
        why = f"there is no {lacks} where --{lacks} is none; give noise or a path"
        raise JaxstyleError("init", f"{cell.init}: {why}")
    no_image = cell.has_style and not blends.is_image(cell.style)
    if no_image and cell.init in ("style", RECOLOURED):
        shown = blends.short_text(cell.style)
        raise JaxstyleError("init", f"{cell.init}: {shown} is no image; give noise, content or a path")
    for name in cell.terms:
        if no_image and TERMS[name].of == "style" and not blends.is_targets(cell.style):
            shown = blends.short_text(cell.style)
            raise JaxstyleError(TERMS[name].weight, f"needs a style image, and {shown} is none; give 0")
        if not there[TERMS[name].of]:
            of = TERMS[name].of
            raise JaxstyleError(TERMS[name].weight, f"needs a {of}, and --{of} is none; give 0 there")


def _check_colours(colour: str, cell: Cell) -> None:
    """Raise JaxstyleError if the colours that are asked for need an image that a cell does not have."""
    row = COLOURS[colour]
    if row.needs_content and not cell.has_content:
        why = f"{colour} takes colours from a content, and --content is none; give free or grey"
        raise JaxstyleError("colour", why)
    for path, _ in blends.parts_of(cell.style) if row.moves_style else ():
        if blends.is_targets(path):
            why = f"{colour} moves the pixels of a style, and {path} has none; give free, luminance or grey"
            raise JaxstyleError("colour", why)


def _check_regions(cell: Cell) -> None:
    """Raise JaxstyleError if a cell has regions that its content, its style or its style loss lacks."""
    if cell.regions == NONE:
        return
    shown = blends.short_text(cell.style)
    if cell.style_loss != "gram":
        why = f"{cell.regions} needs --style-loss gram; {cell.style_loss} compares whole pictures only"
        raise JaxstyleError("regions", why)
    if any(blends.is_targets(path) for path in blends.files_of(cell.style)):
        why = f"{cell.regions} needs images, and {shown} has targets of a whole one; give --regions none"
        raise JaxstyleError("regions", why)
    if cell.regions == MASKS and not cell.has_content:
        raise JaxstyleError("regions", "masks needs a content, and --content is none; give a grid")


def _combinations(
    axes: Sequence[str], grid: Mapping[str, Sequence], zipped: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield every combination of one grid, with the last axis varying fastest; zipped axes move together.

    In the order of the product, the zipped group takes the place of its first axis.
    """
    groups: list[tuple[str, ...]] = []
    for axis in axes:
        if axis not in zipped:
            groups.append((axis,))
        elif not any(axis in group for group in groups):
            groups.append(tuple(a for a in axes if a in zipped))
    options = [list(zip(*(grid[axis] for axis in group), strict=True)) for group in groups]
    for choice in itertools.product(*options):
        yield {
            axis: value
            for group, values in zip(groups, choice, strict=True)
            for axis, value in zip(group, values, strict=True)
        }


def balanced_cells(sweep: Sweep, cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """`cells` with relative ratios and balanced weights as numbers, where `sweep.balance` has them.

    Raises:
        JaxstyleError: for a ratio beyond float32.
    """
    measured = {tuple(table[axis] for axis in BALANCED_AXES): table for table in sweep.balance}
    return tuple(_balanced(sweep, cell, measured.get(balance_key(cell))) for cell in cells)


def axes_of(cells: Iterable[Cell]) -> tuple[str, ...]:
    """The axes of some cells: those of every run, and optional ones on which a cell leaves the default.

    Those that were settings before count only if they have several values.
    """
    cells = tuple(cells)
    found = []
    for axis, default in settings.optional_axes().items():
        values = {getattr(cell, axis) for cell in cells}
        if axis in WERE_SETTINGS:
            found += [axis] if len(values) > 1 else []
        elif values - {*default}:
            found.append(axis)
    return settings.axes_with(found)


def terms_of(cells: Iterable[Cell]) -> tuple[str, ...]:
    """Names of the optional loss terms that at least one of `cells` has a weight for."""
    given = {name for cell in cells for name, _ in cell.extra}
    return tuple(row.name for row in optional_terms() if row.weight in given)


def balance_key(cell: Cell) -> tuple[str, ...]:
    """The cell's values on the axes that a balance is measured for."""
    return tuple(getattr(cell, axis) for axis in BALANCED_AXES)


def needs_balance(cell: Cell) -> bool:
    """Whether a cell's weights depend on a measured balance."""
    return bool(cell.alpha_beta_given) or _wants_weights(cell)


def _wants_weights(cell: Cell) -> bool:
    return cell.has_style and cell.style_weights == "balanced" and not has_weights(cell.style_layers)


def _balanced(sweep: Sweep, cell: Cell, table: Mapping[str, Any] | None) -> Cell:
    """`cell` with its relative ratio and balanced weights as numbers, as far as its balance is measured."""
    changes: dict[str, Any] = {}
    given = cell.alpha_beta_given or cell.alpha_beta
    if (factor := relative_factor(given)) is not None:
        ratio = math.nan if table is None else factor * table["alpha_beta"]
        if ratio * sweep.beta > FLOAT32_MAX:
            raise JaxstyleError("alpha_beta", f"{given} is {ratio:g} here, beyond float32")
        changes = {"alpha_beta": ratio, "alpha_beta_given": str(given)}
    if table is not None and _wants_weights(cell):
        changes["balanced"] = tuple((name, table["weights"][name]) for name in cell.layer_weights)
    return replace(cell, **changes) if changes else cell


def seed_matters(sweep: Sweep, cell: Cell) -> bool:
    """Whether a cell starts with noise: without noise every seed gives the same picture."""
    return cell.init == "noise" and cell.noise_std > 0


def find_twins(sweep: Sweep, cells: Iterable[Cell]) -> dict[int, int]:
    """Ids of twins: each cell without noise, mapped to an earlier one that differs only in that noise.

    Twins have the same result to the byte, so one of them is computed for all.
    """
    first: dict[Cell, int] = {}
    found: dict[int, int] = {}
    for cell in cells:
        if seed_matters(sweep, cell):
            continue
        of = first.setdefault(replace(cell, id=0, seed=0, noise_std=0.0), cell.id)
        if cell.id != of:
            found[cell.id] = of
    return found
