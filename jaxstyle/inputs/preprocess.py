"""The network's own space: BGR, mean-subtracted."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

MEAN_RGB = np.array([123.68, 116.779, 103.939], np.float32)
"""The mean pixel as R, G, B, which is the network's zero."""


def to_network(image: Float[Any, "h w 3"]) -> Float[Any, "h w 3"]:
    """RGB pixels, 0 to 255, converted to VGG19's input: minus the mean pixel, channels in BGR order."""
    return (image - MEAN_RGB)[..., ::-1]


def mean_image(height_px: int, width_px: int) -> Float[np.ndarray, "h w 3"]:
    """The image that is zero to the network, on which a noise start is centred."""
    return np.broadcast_to(MEAN_RGB, (height_px, width_px, 3)).astype(np.float32)
