"""One picture against its content and its style: all scores, with what is needed of both kept for a
while."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxstyle.inputs import alexnet_weights, decode
from jaxstyle.inputs.pictures import check_digest
from jaxstyle.inputs.preprocess import luma
from jaxstyle.inputs.recolour import matched
from jaxstyle.inputs.resize import resize
from jaxstyle.metrics import copying, feature_distances, grain, periodicity
from jaxstyle.plan.cells import Cell, Source
from jaxstyle.spec import blends
from jaxstyle.spec.colours import COLOURS
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import Sweep
from jaxstyle.spec.values import longest_edge, parse_size

CONTENTS_KEPT, STYLES_KEPT = 2, 64
"""Contents and styles that are kept prepared; cells come in the order of their contents."""


class Scores(NamedTuple):
    """The scores of a picture, all the better the lower they are; None where a picture for it is
    missing."""

    content_distance: float | None = None
    style_distance: float | None = None
    noise: float | None = None
    periodicity: float | None = None
    copy: float | None = None


class _Content(NamedTuple):
    shape: tuple[int, ...]
    units: list[feature_distances.Unit] | None
    tiles: periodicity.Tiles
    known: periodicity.Known


class _Style(NamedTuple):
    pixels: tuple[np.ndarray, ...]
    """Its image, or those of a blend."""
    gaussians: list[feature_distances.Gaussian] | None
    energy: float
    known: periodicity.Known


class Judge:
    """Scores of the pictures of one sweep.

    Args:
        sweep: a resolved sweep; its contents and styles are seen at the sizes at which it used them.
        device: the device that computes AlexNet's features.
    """

    def __init__(self, sweep: Sweep, device: Any):
        from jaxstyle.device.held_out import HeldOut

        network = alexnet_weights.load()
        self._sweep, self._heads = sweep, network.heads
        self._features = HeldOut(network, device)
        self.width = self._features.width
        """The number of pictures of one shape that are best judged together."""
        self.notes: dict[str, str] = {}
        """The reason why an image could not be used, by path."""
        self._content = functools.lru_cache(CONTENTS_KEPT)(self._read_content)
        self._style = functools.lru_cache(STYLES_KEPT)(self._read_style)
        self._reference = functools.lru_cache(STYLES_KEPT)(self._read_reference)

    def scores(self, cells: Sequence[Cell], pictures: Sequence[UInt8[np.ndarray, "h w 3"]]) -> list[Scores]:
        """The scores of the pictures of some cells, all of one shape."""
        taps = self._features(pictures) if _has_features(pictures[0]) else [None] * len(pictures)
        seen, seen_taps = pictures, taps
        if COLOURS[self._sweep.colour].keeps_chroma:
            seen = [luma(picture) for picture in pictures]
            seen_taps = self._features(seen) if _has_features(seen[0]) else taps
        return [self._one(*of) for of in zip(cells, pictures, taps, seen, seen_taps, strict=True)]

    def _one(
        self,
        cell: Cell,
        picture: np.ndarray,
        taps: list[np.ndarray] | None,
        seen: np.ndarray,
        seen_taps: list[np.ndarray] | None,
    ) -> Scores:
        """The scores of a picture; the style is compared with `seen`, it in the style's colours."""
        if taps is None and (cell.has_content or cell.has_style):
            height, width, _ = picture.shape
            self._note_small(f"{width}x{height}", f"pictures of {width}x{height} px are")
        content = self._content(cell.content) if cell.has_content else None
        style = self._style(cell.style_source) if cell.has_style else None
        content_distance = style_distance = noise = periodic = copied = None
        if content is not None and content.shape != picture.shape:
            content = None
        if content is not None and content.units is not None and taps is not None:
            own = feature_distances.units(taps)
            content_distance = feature_distances.content_distance(own, content.units, self._heads)
        if style is not None:
            if style.gaussians is not None and seen_taps is not None:
                own = feature_distances.gaussians(seen_taps)
                style_distance = feature_distances.style_distance(own, style.gaussians)
            noise = grain.noise(grain.laplacian_energy(seen), style.energy)
            shape = picture.shape[0], picture.shape[1]
            references = self._reference(cell.style_source, shape)
            copies = [c for of in references if (c := copying.copy(picture, of)) is not None]
            copied = max(copies, default=None)
        if content is not None and style is not None:
            tiles = periodicity.tiles(picture)
            periodic = periodicity.periodicity(tiles, content.tiles, content.known, style.known)
        return Scores(content_distance, style_distance, noise, periodic, copied)

    def _read_content(self, path: str) -> _Content | None:
        pixels = self._content_pixels(path)
        if pixels is None:
            return None
        units = feature_distances.units(self._features([pixels])[0]) if _has_features(pixels) else None
        tiles = periodicity.tiles(pixels)
        return _Content(pixels.shape, units, tiles, periodicity.known(tiles))

    def _content_pixels(self, path: str) -> np.ndarray | None:
        """A content in the colours of its pictures."""
        coloured = COLOURS[self._sweep.colour].keeps_chroma
        return self._pixels(path, parse_size(self._sweep.size), coloured=coloured)

    def _read_style(self, source: Source) -> _Style | None:
        style, size, *colours = source
        longest = size if isinstance(size, int) else longest_edge(self._sweep.size)
        paths, weights = zip(*blends.parts_of(style), strict=True)
        images = tuple(pixels for path in paths if (pixels := self._pixels(path, longest)) is not None)
        if len(images) < len(paths):
            return None
        for content in colours:
            if (of := self._content_pixels(content)) is None:
                return None
            images = tuple(matched(pixels, of) for pixels in images)
        own = None
        for path, pixels in zip(paths, images, strict=True):
            if not _has_features(pixels):
                height, width, _ = pixels.shape
                self._note_small(f"{path} {width}x{height}", f"{Path(path).name} at {width}x{height} px is")
        if all(map(_has_features, images)):
            every = [feature_distances.gaussians(self._features([pixels])[0]) for pixels in images]
            own = every[0] if len(every) == 1 else feature_distances.blended(every, weights)
        energies = zip(weights, map(grain.laplacian_energy, images), strict=True)
        known = [periodicity.known(periodicity.tiles(pixels), everywhere=True) for pixels in images]
        energy = sum(weight * energy for weight, energy in energies)
        return _Style(images, own, energy, periodicity.joined(known))

    def _read_reference(self, source: Source, shape: tuple[int, int]) -> list[copying.Reference]:
        style = self._style(source)
        assert style is not None
        return [copying.reference(pixels, shape) for pixels in style.pixels]

    def _note_small(self, key: str, what: str) -> None:
        least = alexnet_weights.MIN_EDGE_PX
        self.notes[key] = f"{what} too small for AlexNet, which needs {least} px; distances are empty"

    def _pixels(
        self, path: str, size: int | tuple[int, int], *, coloured: bool = False
    ) -> np.ndarray | None:
        """An image at a size, `coloured` or as the run saw it; None, with a note, if it is gone, is another
        one now, or is none."""
        if blends.is_targets(path):
            self.notes[path] = f"{Path(path).name} is no image, and scores that need one are empty"
            return None
        try:
            picture = decode.read(path)
            check_digest(path, picture.sha256, self._sweep.digests.get(path))
        except JaxstyleError as error:
            self.notes[path] = (
                f"{Path(path).name} cannot be used, and scores that need it are empty: {error}"
            )
            return None
        grey = COLOURS[self._sweep.colour].grey and not coloured
        return resize(luma(picture.pixels) if grey else picture.pixels, size)


def _has_features(pixels: np.ndarray) -> bool:
    return min(pixels.shape[:2]) >= alexnet_weights.MIN_EDGE_PX
