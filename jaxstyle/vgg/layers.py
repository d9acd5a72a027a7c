"""The layers of VGG19: their names, shapes and costs.

Simonyan & Zisserman (2015), configuration E, without the fully connected head: sixteen 3x3
convolutions of stride 1 in five blocks, with a 2x2 pooling of stride 2 after each block. A convolution is
named as in Gatys et al. (2016), `conv4_2`, and stands for the activation *after* its ReLU; `pool1` to
`pool5` stand for the output of the pooling after a block. A *tap* is a layer of either kind.

Nothing here needs JAX.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Conv(NamedTuple):
    """One convolution of VGG19: its name, its channels, and the poolings before it."""

    name: str
    in_channels: int
    out_channels: int
    pools: int
    """Number of 2x2 poolings between the image and this layer: 0 for block 1, 4 for block 5."""


def _table() -> tuple[Conv, ...]:
    convs: list[Conv] = []
    channels = 3
    for block, (count, width) in enumerate(((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))):
        for index in range(count):
            convs.append(Conv(f"conv{block + 1}_{index + 1}", channels, width, block))
            channels = width
    return tuple(convs)


VGG19 = _table()
"""The convolutions, from the image downwards."""
NAMES = tuple(conv.name for conv in VGG19)
_BY_NAME = {conv.name: conv for conv in VGG19}


class Tap(NamedTuple):
    """A layer whose activations can be used: a convolution with its ReLU, or a pooling."""

    name: str
    channels: int
    pools: int
    """Number of 2x2 poolings between the image and its output, its own included."""
    convs: int
    """Number of convolutions that must run to reach it."""


def _taps() -> tuple[Tap, ...]:
    found: list[Tap] = []
    for number, row in enumerate(VGG19, 1):
        found.append(Tap(row.name, row.out_channels, row.pools, number))
        if number == len(VGG19) or VGG19[number].pools > row.pools:
            found.append(Tap(f"pool{row.pools + 1}", row.out_channels, row.pools + 1, number))
    return tuple(found)


_TAPS = {tap.name: tap for tap in _taps()}
TAPS = tuple(_TAPS)
"""Names of all taps, from the image downwards."""
POOLS = tuple(name for name in TAPS if name not in NAMES)
"""Names of the poolings, from the image downwards."""

CONTENT_LAYER = "conv4_2"
STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
"""The layers of the content and of the style loss in Gatys et al. (2016), which are the defaults here."""
MIN_EDGE_PX = 16
"""The shortest edge of an image, given or resized: four poolings reduce it to one position of conv5_1."""


def conv(name: str) -> Conv:
    """The convolution of a name. Raises KeyError for an unknown name."""
    return _BY_NAME[name]


def tap(name: str) -> Tap:
    """The tap of a name. Raises KeyError for an unknown name."""
    return _TAPS[name]


def least_edge_px(taps: Iterable[str]) -> int:
    """The shortest edge in px of images that `taps` are taken of: `MIN_EDGE_PX`, doubled with pool5."""
    return max([MIN_EDGE_PX, *(1 << _TAPS[name].pools for name in taps)])


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct `names`, from the layer nearest to the image downwards."""
    chosen = set(names)
    return tuple(name for name in TAPS if name in chosen)


def up_to(names: Iterable[str]) -> tuple[Conv, ...]:
    """The convolutions that must run to reach the deepest of `names`."""
    return VGG19[: max(_TAPS[name].convs for name in names)]


def down_to(names: Iterable[str]) -> tuple[str, ...]:
    """Names of the layers of both kinds that must run to reach the deepest of `names`."""
    return TAPS[: max(TAPS.index(name) for name in names) + 1]


def feature_shape(name: str, height: int, width: int) -> tuple[int, int, int]:
    """Shape (h, w, c) of a layer for an image of `height` x `width`: every pooling drops an odd edge."""
    row = tap(name)
    return height >> row.pools, width >> row.pools, row.channels


def evaluation_flops(
    height: int, width: int, content_taps: Iterable[str], style_taps: Iterable[str]
) -> float:
    """FLOPs (2 per multiply-add) of one loss and its gradient with respect to the image.

    Every convolution and its input gradient count, and every Gram matrix and its gradient, all as direct
    products; pointwise work does not.
    """
    content_taps, style_taps = tuple(content_taps), tuple(style_taps)
    macs = 0
    for row in up_to(content_taps + style_taps):
        h, w, c = feature_shape(row.name, height, width)
        macs += 9 * row.in_channels * c * h * w
    return 2.0 * 2.0 * macs + gram_flops(height, width, style_taps)


def gram_flops(height: int, width: int, style_taps: Iterable[str]) -> float:
    """FLOPs of the Gram matrices of some layers and their gradients."""
    shapes = (feature_shape(name, height, width) for name in style_taps)
    return 2.0 * 2.0 * sum(c * c * h * w for h, w, c in shapes)


def parameter_bytes(taps: Iterable[str], *, winograd: bool, operand_bytes: int = 4) -> int:
    """Bytes on a device of the kernels and biases down to the deepest of `taps`.

    Every kernel is held twice, for its layer and for the input gradient. The transform of Winograd's
    algorithm, which every layer but the first uses, gives it 36 numbers instead of 9 per pair of channels.

    Args:
        winograd: whether the kernels are transformed.
        operand_bytes: bytes of one number of a kernel.
    """
    total = 0
    for row in up_to(taps):
        numbers = 36 if winograd and row is not VGG19[0] else 9
        total += 2 * numbers * row.in_channels * row.out_channels * operand_bytes + 4 * row.out_channels
    return total


def activation_floats(height: int, width: int, taps: Iterable[str]) -> int:
    """Number of activations, for one image, of the layers down to the deepest of `taps`."""
    total = 0
    for row in up_to(taps):
        h, w, c = feature_shape(row.name, height, width)
        total += h * w * c
    return total
