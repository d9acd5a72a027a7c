"""Balance of content and style: the losses of one pair of images, weighed against each other.

alpha/beta has a meaning only beside the losses that it multiplies, and these change by orders of magnitude
with the network's scaling, the pooling, the size and the layers. The *balance* removes that: it is the
ratio at which the two pure pictures would cost the same,

    balance = L_style(content image) / L_content(style image, fitted to the content's shape)
              (of a blend, the weighted mean of its images' content losses),

for at x = content the total is beta L_style, and at x = style it is about alpha L_content. Ten times the
balance gives mostly content and a tenth of it mostly style, for any image, size and network.

A texture has no content and no balance. Its layers are balanced for an image without features: w_l is in
proportion to 1/E_l of features that are all 0, which for Gram matrices is 4 N^2 / |A_l|^2.

Symbols:
    E_l  the style loss of one layer at x = content, without its weight
    w_l  its weight
    A_l  the Gram matrix of the style image over its pixel count

Features come from the plain convolution in float32; sums are taken in float64.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from jaxstyle.cell.state import RegionKnobs, Targets
from jaxstyle.device import kept
from jaxstyle.device.engine import Engine
from jaxstyle.device.region_rows import image_maps, region_knobs, style_key
from jaxstyle.device.style_rows import style_rows
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.inputs.region_maps import RegionMaps
from jaxstyle.plan.cells import Cell, Source, balance_key, needs_balance
from jaxstyle.plan.programs import Program
from jaxstyle.spec.blends import files_of, is_blend, short_text
from jaxstyle.spec.defaults import PAPER
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import BALANCED_AXES, Sweep
from jaxstyle.spec.tables import STYLE_LOSSES, function
from jaxstyle.spec.values import NONE, has_weights, relative_factor, style_set
from jaxstyle.vgg import layers

KEPT_TARGETS = 64
"""Number of images whose features are kept on the host for later pairs."""
ROUNDING = 1e-10
"""The part of the style loss of an image without features up to which a loss is 0: two programs that see
one picture leave 2e-14 of it, with the Wasserstein distance 1e-12; the same picture as JPEG of the best
quality leaves 1e-6."""


@dataclass(frozen=True)
class Balance:
    """One content and one style, weighed against each other."""

    alpha_beta: float
    """The ratio at which the pure content and the pure style image would cost the same; `1x` means it."""
    weights: dict[str, float]
    """w_l by layer."""
    layer_loss: dict[str, float]
    """E_l by layer, at x = content."""
    gram_trace: dict[str, float]
    """tr(A_l) by layer: the mean square of a position's features, summed over channels."""
    content_loss: float
    """L_content of the style image."""

    @property
    def style_loss(self) -> float:
        """L_style of the content image: sum_l w_l E_l."""
        return sum(self.weights[name] * loss for name, loss in self.layer_loss.items())

    @property
    def shares(self) -> dict[str, float]:
        """The share of each layer in the style loss; the shares sum to 1."""
        return {name: self.weights[name] * loss / self.style_loss for name, loss in self.layer_loss.items()}


def balanced_weights(layer_loss: Mapping[str, float], pair: str = "this pair") -> dict[str, float]:
    """Weights that give every layer the same share: w_l = (1/E_l) / sum_k (1/E_k); they sum to 1.

    Args:
        layer_loss: E_l by layer.
        pair: names of the two images, for the message.

    Raises:
        JaxstyleError: if a layer's loss is 0 or not finite, so that no weight can balance it.
    """
    for name, loss in layer_loss.items():
        if not (np.isfinite(loss) and loss > 0):
            raise JaxstyleError(
                "style_weights",
                f"the style loss of {name} is {loss:g} at the content image of {pair}, so it cannot be"
                " balanced; leave that layer or that pair out, or give another style",
            )
    total = sum(1.0 / loss for loss in layer_loss.values())
    return {name: 1.0 / loss / total for name, loss in layer_loss.items()}


def _shared_out(
    layer_loss: Mapping[str, float], at: Mapping[str, int], regions: RegionKnobs | None, pair: str
) -> dict[str, float]:
    """Balanced weights, 0 for a layer that leaves every region out; the arguments of `_layer_losses`."""
    if regions is None:
        return balanced_weights(layer_loss, pair)
    present = {name for name, i in at.items() if np.any(np.asarray(regions.weights)[i])}
    if not present:
        why = f"every region of {pair} is too small for every layer of the style; give a larger --size"
        raise JaxstyleError("regions", why)
    found = balanced_weights({name: layer_loss[name] for name in layer_loss if name in present}, pair)
    return {name: found.get(name, 0.0) for name in layer_loss}


def weigh(
    content: Targets,
    style: Targets,
    fitted: Sequence[tuple[Targets | None, float]],
    program: Program,
    *,
    content_layer: str,
    style_layers: str,
    balanced: bool,
    pair: str,
    regions: RegionKnobs | None = None,
) -> Balance:
    """The balance of one pair for one choice of layers.

    Args:
        content: P of the content image, and what the style loss keeps of it.
        style: what the style loss keeps of the style image.
        fitted: P of every image of the style fitted to the content's shape, with its weight; None for a
            file of targets, which has no P: it counts as an image without features.
        program: the program whose taps these are.
        content_layer: layer of the content loss.
        style_layers: a set of layers, written as in a sweep.
        balanced: whether each layer is to have the same share, if the set has no weights of its own.
        pair: names of the two images, for messages.
        regions: the weights of the regions, if there are some.

    Raises:
        JaxstyleError: if one of the losses is 0 or not finite.
    """
    at = {name: program.style_taps.index(name) for name, _ in style_set(style_layers)}
    blank = jax.tree.map(np.zeros_like, style.style)
    most = _layer_losses(program, at, blank, style.style, regions)
    layer_loss = _layer_losses(program, at, content.style, style.style, regions)
    layer_loss = {name: 0.0 if loss <= ROUNDING * most[name] else loss for name, loss in layer_loss.items()}
    weights = dict(style_set(style_layers))
    if balanced and not has_weights(style_layers):
        weights = _shared_out(layer_loss, at, regions, pair)
    layer = program.content_taps.index(content_layer)
    content_loss = 0.0
    for image, share in fitted:
        features = 0.0 if image is None else image.content[layer].astype(np.float64)
        content_loss += share * 0.5 * float(np.square(features - content.content[layer]).sum())
    style_loss = sum(weights[name] * loss for name, loss in layer_loss.items())
    if not (0 < style_loss < np.inf and 0 < content_loss < np.inf):
        alike = "" if content_loss and style_loss else ", which are equal there"
        raise JaxstyleError(
            "alpha_beta",
            f"no balance: the style image's content loss at {content_layer} is {content_loss:g} and the"
            f" content image's style loss {style_loss:g}, for {pair}{alike}; leave that"
            " pair out, or give numbers instead of multiples",
        )
    traces = _traces(program, at, style.style, regions)
    return Balance(style_loss / content_loss, weights, layer_loss, traces, content_loss)


def _layer_losses(
    program: Program,
    at: Mapping[str, int],
    of: Sequence[Any],
    style: Sequence[Any],
    regions: RegionKnobs | None,
) -> dict[str, float]:
    """E_l by layer of what was kept of one image, for what was kept of another.

    Args:
        program: the program of the taps.
        at: places of the layers among its style taps.
        of: what was kept of the first image.
        style: what was kept of the other one.
        regions: the weights of the regions, if there are some: the losses of all are summed with them.
    """
    distance = function(STYLE_LOSSES[program.style_loss].distance)
    if regions is None:
        return {name: distance(of[i], style[i]) for name, i in at.items()}
    return {
        name: float(sum(w * distance(a, b) for w, a, b in zip(weights[i], of[i], style[i], strict=True)))
        for weights in (np.asarray(regions.weights, np.float64),)
        for name, i in at.items()
    }


def _traces(
    program: Program, at: Mapping[str, int], style: Sequence[Any], regions: RegionKnobs | None
) -> dict[str, float]:
    """tr(A_l) by layer; of regions, their weighted sum. For the arguments, see `_layer_losses`."""
    trace = function(STYLE_LOSSES[program.style_loss].trace)
    if regions is None:
        return {name: trace(style[i]) for name, i in at.items()}
    weights = np.asarray(regions.weights, np.float64)
    return {
        name: float(sum(w * trace(a) for w, a in zip(weights[i], style[i], strict=True)))
        for name, i in at.items()
    }


def weigh_texture(
    style: Targets,
    program: Program,
    *,
    style_layers: str,
    pair: str,
    regions: RegionKnobs | None = None,
) -> Balance:
    """The balanced weights of a style without a content; see `weigh`. Its ratio and content loss are 0."""
    at = {name: program.style_taps.index(name) for name, _ in style_set(style_layers)}
    blank = jax.tree.map(np.zeros_like, style.style)
    layer_loss = _layer_losses(program, at, blank, style.style, regions)
    traces = _traces(program, at, style.style, regions)
    return Balance(0.0, _shared_out(layer_loss, at, regions, pair), layer_loss, traces, 0.0)


def plain_program(cell: Cell, shape: tuple[int, int], cells: Iterable[Cell]) -> Program:
    """A program of a cell's pooling, padding and style loss, with the taps of all `cells`, in float32.

    Args:
        cell: the cell.
        shape: (height, width) in px of the images.
        cells: the cells whose taps it has.
    """
    cells = tuple(cells)
    content = {name for cell in cells for name in cell.content_taps}
    style = {name for cell in cells if cell.has_style for name, _ in style_set(cell.style_layers)}
    taps = (layers.in_order(names) for names in (content, style))
    kinds = {"padding": cell.padding, "style_loss": cell.style_loss}
    return Program(*shape, cell.pool, "adam", "f32", *taps, width=1, **kinds)


def divided(program: Program, cell: Cell, maps: RegionMaps) -> Program:
    """A program without regions as one that has those of a cell, each with a map."""
    count = maps.count(cell)
    return replace(program, regions=count) if count > 1 else program


class Balances:
    """The balances of a sweep's pairs, each image's features computed once.

    Args:
        sweep: a resolved sweep.
        cells: the cells whose balance may be asked for.
        pictures: their images.
        engine: an engine with plain convolutions, on the device to measure on.
    """

    def __init__(self, sweep: Sweep, cells: Iterable[Cell], pictures: Pictures, engine: Engine):
        self._sweep, self._cells, self._pictures, self._engine = sweep, tuple(cells), pictures, engine
        self._rows: dict[Any, Targets] = {}
        self._maps = RegionMaps(pictures)

    def _targets(
        self,
        key: Any,
        program: Program,
        pixels: UInt8[np.ndarray, "h w 3"],
        maps: Sequence[np.ndarray] = (),
    ) -> Targets:
        key = (*key, program.regions, program.pool, program.padding, program.style_loss)
        if key not in self._rows:
            while len(self._rows) >= KEPT_TARGETS:
                del self._rows[next(iter(self._rows))]
            of_cells = key[0] != "style"
            self._rows[key] = self._engine.target_rows(program, pixels, of_cells=of_cells, maps=maps)
        return self._rows[key]

    def _fitted(self, part: Source, shape: tuple[int, int], program: Program) -> Targets | None:
        """P of an image of a style, fitted to a shape; None for a file of targets."""
        path, _, *colours = part
        if path in self._pictures.targets:
            return None
        key = ("fitted", path, shape, *colours)
        return self._targets(key, program, self._pictures.fitted(path, shape, *colours))

    def of(self, cell: Cell) -> Balance:
        """The balance of a cell's content, style and layers."""
        shape = self._pictures.shape(cell)
        program = divided(plain_program(cell, shape, self._cells), cell, self._maps)
        maps = functools.partial(image_maps, self._maps, cell, program=program, coarser=0)
        regions = region_knobs(self._maps, cell, program, 0, 0)
        pair = " and ".join(
            self._sweep.given.get((axis, path), path)
            for axis, path in (("content", cell.content), ("style", cell.style))
            if path != NONE
        )
        style = style_rows(
            cell,
            program,
            self._pictures.targets,
            lambda part: self._targets(
                ("style", part, style_key(cell)[1:]), program, self._pictures.style_pixels(part), maps(part)
            ),
        )
        if not cell.has_content:
            about: dict[str, Any] = {"style_layers": cell.style_layers, "pair": pair, "regions": regions}
            return weigh_texture(style, program, **about)
        key, pixels = ("content", cell.content, cell.regions), self._pictures.content[cell.content]
        content = self._targets(key, program, pixels, maps(None))
        return weigh(
            content,
            style,
            [(self._fitted(part, shape, program), weight) for part, weight in cell.style_parts],
            program,
            content_layer=cell.content_layer,
            style_layers=cell.style_layers,
            balanced=cell.style_weights == "balanced",
            pair=pair,
            regions=regions,
        )

    def key(self, cell: Cell, weights: str) -> str | None:
        """Key of a cell's balance in `kept`: all that it follows from, beside what every key there has.

        Args:
            cell: the cell.
            weights: the SHA-256 of the network's weights.

        Returns:
            None for a cell with regions or a file of targets.
        """
        parts, pictures = cell.style_parts, self._pictures
        if self._maps.count(cell) > 1 or any(source[0] in pictures.targets for source, _ in parts):
            return None
        shape = pictures.shape(cell)
        seen = [pictures.content[cell.content]] if cell.has_content else []
        for source, _ in parts:
            path, _, *colours = source
            seen.append(pictures.style_pixels(source))
            if cell.has_content:
                seen.append(pictures.fitted(path, shape, *colours))
        pixels = [(image.shape, hashlib.sha256(image.tobytes()).hexdigest()) for image in seen]
        shares, scheme = [share for _, share in parts], cell.style_weights
        program = plain_program(cell, shape, self._cells)
        of = cell.has_content, cell.content_layer, cell.style_layers, scheme, self._sweep.network, weights
        return repr((program, of, shares, pixels))

    def table(self, cell: Cell, weights: str) -> dict[str, Any]:
        """The balance of a cell and its weights by layer, as in `Sweep.balance`; see `key`.

        They are measured unless an earlier command has kept them.
        """
        key = self.key(cell, weights) if weights and kept.keeps() else None
        data = key and kept.load("balances", key)
        if data:
            return json.loads(data)
        found = self.of(cell)
        table = {"alpha_beta": found.alpha_beta, "weights": found.weights}
        if key:
            kept.save("balances", key, json.dumps(table).encode())
        return table


def measure_balances(
    sweep: Sweep, cells: Sequence[Cell], pictures: Pictures, engine: Engine, *, weights: str = ""
) -> Sweep:
    """`sweep` with a table in `balance` for every combination that `cells` need, measured if it is new.

    Args:
        sweep: a resolved sweep.
        cells: the cells.
        pictures: their images.
        engine: an engine with plain convolutions, on the device to measure on.
        weights: the SHA-256 of its weights; empty if balances of other commands are not to be used.

    Raises:
        JaxstyleError: for a pair without a balance, unless `sweep.balance_optional`.
    """
    known = {tuple(table[axis] for axis in BALANCED_AXES) for table in sweep.balance}
    need = [cell for cell in cells if needs_balance(cell)]
    scales, tables = Balances(sweep, need, pictures, engine), list(sweep.balance)
    for cell in need:
        key = balance_key(cell)
        if key in known:
            continue
        known.add(key)
        about = dict(zip(BALANCED_AXES, key, strict=True))
        try:
            found = scales.table(cell, weights)
        except JaxstyleError:
            if not sweep.balance_optional:
                raise
            tables.append({**about, **_unbalanced(cell)})
        else:
            tables.append({**about, **found})
    if sweep.balance_optional:
        _note_unbalanced(need, tables, pictures)
    return replace(sweep, balance=tuple(tables))


def _note_unbalanced(need: Iterable[Cell], tables: Iterable[Mapping[str, Any]], pictures: Pictures) -> None:
    """Note at their contents which pairs have no balance and what they take instead."""
    measured = {tuple(table[axis] for axis in BALANCED_AXES): table for table in tables}
    for cell in need:
        instead = _unbalanced(cell)
        if all(measured[balance_key(cell)][name] == value for name, value in instead.items()):
            note = "the weights of its layers are equal, because they cannot be balanced"
            if cell.has_content:
                style = short_text(cell.style) if is_blend(cell.style) else cell.style
                note = f"it has no balance with {style}, so alpha/beta is 1e-3 and the weights are equal"
            of = files_of(cell.shaped_by)[0]
            notes = pictures.notes.get(of, ())
            pictures.notes[of] = (*notes, *((note,) if note not in notes else ()))


def _unbalanced(cell: Cell) -> dict[str, Any]:
    """Stand-in for a balance that a pair does not have: equal weights, and a 1x whose ratio is 1e-3."""
    (ratio,) = PAPER["alpha_beta"]
    return {
        "alpha_beta": ratio / (relative_factor(cell.alpha_beta_given or 1.0) or 1.0),
        "weights": dict(style_set(cell.style_layers)),
    }
