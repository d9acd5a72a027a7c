"""The sheet of the feature maps that an image has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from jaxstyle.derived import drawing
from jaxstyle.derived.sheets import INK, PAD_PX, PAPER
from jaxstyle.derived.thumbnails import scaled

PICTURE_PX = 256
"""The longest edge of the image on the sheet."""
TILE_PX = 160
"""The longest edge of a map on the sheet."""
GRID_PX = 8 * (TILE_PX + PAD_PX)
"""Largest total width of maps side by side."""
MIN_COLUMN_PX = 128
"""Width that the text under a map needs."""
GAP_PX = 2 * PAD_PX
"""Gap between two layers."""
COLOUR_BAR_PX = 200
MAX_NAME = 60
FAINT = (110, 108, 102)
BOLD: dict[str, Any] = {"stroke_width": 0.3, "stroke_fill": INK}
BRIGHT = 0.99
"""Quantile of a map's values at which the colours end; all stronger positions have the last colour. If the
colours ended at the maximum, many maps would be dark except for a few positions."""
RAMP = (
    (68, 1, 84), (72, 36, 117), (65, 68, 135), (53, 95, 141), (42, 120, 142), (33, 145, 140),
    (34, 168, 132), (66, 190, 113), (122, 209, 81), (189, 223, 38), (253, 231, 37),
)  # fmt: skip
"""viridis at every tenth of its length: lightness rises evenly, so that equal steps look equal."""


def strongest(maps: Float[np.ndarray, "h w c"], count: int) -> Int[np.ndarray, " k"]:
    """Indices of the channels with the largest mean activation, at most `count`, the strongest first."""
    means = maps.mean(axis=(0, 1), dtype=np.float64)
    return np.argsort(-means, kind="stable")[:count]


def coloured(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colours of values from 0 to 1; larger values are lighter."""
    at = np.clip(values, 0, 1)
    places = np.linspace(0, 1, len(RAMP))
    bands = [np.interp(at, places, band) for band in zip(*RAMP, strict=True)]
    return np.rint(np.stack(bands, axis=-1)).astype(np.uint8)


def tile(values: Float[np.ndarray, "h w"], tile_px: int) -> Image.Image:
    """A drawing of one map; a small one is enlarged in whole squares, a large one averaged down."""
    height, width = values.shape
    share = tile_px / max(height, width)
    if share < 1:
        size = max(1, round(width * share)), max(1, round(height * share))
        grey = Image.fromarray(np.asarray(values, np.float32)).resize(size, Image.Resampling.BOX)
        values = np.asarray(grey)
    top = float(np.quantile(values, BRIGHT, method="higher")) or float(values.max())
    drawn = Image.fromarray(coloured(values / top if top > 0 else values))
    times = max(1, int(share))
    return drawn.resize((drawn.width * times, drawn.height * times), Image.Resampling.NEAREST)


def table(image: str, maps: Mapping[str, Float[np.ndarray, "h w c"]], channels: int) -> dict[str, Any]:
    """The output of `--json`: the channels that are drawn, in numbers."""
    return {
        "image": image,
        "layers": [
            {
                "layer": layer,
                "height": values.shape[0],
                "width": values.shape[1],
                "channels": [
                    {"channel": int(c), "mean": float(one.mean(dtype=np.float64)), "max": float(one.max())}
                    for c in strongest(values, channels)
                    for one in (values[:, :, c],)
                ],
            }
            for layer, values in maps.items()
        ],
    }


def draw(
    name: str,
    picture: UInt8[np.ndarray, "h w 3"],
    maps: Mapping[str, Float[np.ndarray, "h2 w2 c"]],
    *,
    channels: int,
    pool: str,
) -> Image.Image:
    """The sheet of an image and its strongest feature maps.

    Args:
        name: name of the image.
        picture: the image as the network got it.
        maps: activations of every layer to draw.
        channels: number of maps of each layer.
        pool: the network's pooling, for the heading.
    """
    line_px = drawing.extent("Ag")[1] + 4
    small, head = scaled(picture, PICTURE_PX), _head(name, picture, pool)
    blocks = [_block(layer, values, channels) for layer, values in maps.items()]
    column_px = max(MIN_COLUMN_PX, *(block.tiles[0].width for block in blocks)) + PAD_PX
    # As many as fit side by side, spread evenly over the rows.
    most = max(len(block.tiles) for block in blocks)
    across = -(-most // -(-most // max(1, GRID_PX // column_px)))
    row_px = [block.tiles[0].height + line_px + PAD_PX for block in blocks]
    heights = [
        line_px + PAD_PX // 2 + -(-len(block.tiles) // across) * row + GAP_PX
        for block, row in zip(blocks, row_px, strict=True)
    ]
    left = top = 2 * PAD_PX
    beside = left + small.width + 2 * PAD_PX
    below = top + max(small.height, (len(head) + 2) * line_px) + 2 * PAD_PX
    texts_px = max(drawing.extent(text)[0] for text, _ in head)
    width = max(left + across * column_px, beside + texts_px) + 2 * PAD_PX
    page = Image.new("RGB", (width, below + sum(heights)), PAPER)
    page.paste(small, (left, top))
    _draw_head(page, head, (beside, top), line_px)
    top = below
    for block, row, height in zip(blocks, row_px, heights, strict=True):
        _draw_block(page, block, (left, top), across=across, cell_px=(column_px, row), line_px=line_px)
        top += height
    return page


def _head(name: str, picture: UInt8[np.ndarray, "h w 3"], pool: str) -> tuple[tuple[str, Any], ...]:
    """The lines of the heading, each with its colour."""
    height_px, width_px = picture.shape[:2]
    said = drawing.readable(name)
    return (
        (f"What VGG19 sees in {said if len(said) <= MAX_NAME else said[:MAX_NAME] + '...'}", INK),
        (f"{width_px} x {height_px} px, {pool} pooling, after each layer's ReLU", FAINT),
        ("", INK),
        ("Under each map: its channel, and its mean activation over all", FAINT),
        ("positions; the largest mean comes first.", FAINT),
    )


class _Block(NamedTuple):
    """The maps of one layer that are drawn."""

    layer: str
    shape: tuple[int, ...]
    tiles: list[Image.Image]
    labels: list[tuple[str, str]]
    """The channel and the mean activation of each."""


def _block(layer: str, values: Float[np.ndarray, "h w c"], channels: int) -> _Block:
    order = strongest(values, channels)
    labels = [(str(c), f"mean {values[:, :, c].mean():.3g}") for c in order]
    return _Block(layer, values.shape, [tile(values[:, :, c], TILE_PX) for c in order], labels)


def _draw_head(
    page: Image.Image, head: Sequence[tuple[str, Any]], at: tuple[int, int], line_px: int
) -> None:
    """Write the heading, and under it the bar of the colours."""
    pen, (x, y) = ImageDraw.Draw(page), at
    for text, ink in head:
        drawing.write(pen, (x, y), text, fill=ink)
        y += line_px
    ramp = Image.fromarray(coloured(np.linspace(0, 1, COLOUR_BAR_PX)[None]))
    page.paste(ramp.resize((COLOUR_BAR_PX, line_px // 2)), (x, y + line_px // 2))
    drawing.write(pen, (x, y + line_px), "0", fill=FAINT)
    end = f"its strongest {1 - BRIGHT:.0%}"
    end_px = x + COLOUR_BAR_PX - drawing.extent(end)[0]
    drawing.write(pen, (end_px, y + line_px), end, fill=FAINT)


def _draw_block(
    page: Image.Image,
    block: _Block,
    at: tuple[int, int],
    *,
    across: int,
    cell_px: tuple[int, int],
    line_px: int,
) -> None:
    """Draw the maps of a layer in rows of `across`, under its name.

    Args:
        at: (x, y) in px of the upper left corner.
        cell_px: (width, height) of the room for a map and its label.
    """
    pen, (left, top), (h, w, count) = ImageDraw.Draw(page), at, block.shape
    drawing.write(pen, (left, top), block.layer, fill=INK, **BOLD)
    few = f", the {len(block.tiles)} strongest" if len(block.tiles) < count else ", the strongest first"
    said = f"{count} channels of {w} x {h} positions{few}"
    drawing.write(pen, (left + drawing.extent(block.layer)[0] + 2 * PAD_PX, top), said, fill=FAINT)
    for index, (one, (channel, mean)) in enumerate(zip(block.tiles, block.labels, strict=True)):
        x = left + index % across * cell_px[0]
        y = top + line_px + PAD_PX // 2 + index // across * cell_px[1]
        page.paste(one, (x, y))
        drawing.write(pen, (x, y + one.height + 2), channel, fill=INK, **BOLD)
        x += drawing.extent(channel)[0] + PAD_PX
        drawing.write(pen, (x, y + one.height + 2), mean, fill=FAINT)
