"""Precisions of products: the values of `--precision`, as types and as what XLA is told."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

TF32_BITS = 10
"""Bits of the mantissa of a TF32 number."""


class Arithmetic(NamedTuple):
    """The type and precision in which products are computed; they are always summed in float32."""

    dtype: DTypeLike
    """Type of the operands."""
    precision: lax.Precision
    """Precision for float32 operands. Below the highest, a GPU uses TF32 and a TPU bfloat16."""

    @property
    def mantissa_bits(self) -> int:
        """Bits of the mantissa that a product sees of its operands; of float32 with less than the highest
        precision, those of TF32."""
        rounds = self.precision != lax.Precision.HIGHEST and np.dtype(self.dtype) == np.float32
        return TF32_BITS if rounds else jnp.finfo(self.dtype).nmant


ARITHMETIC = {
    "f32": Arithmetic(np.float32, lax.Precision.HIGHEST),
    "tf32": Arithmetic(np.float32, lax.Precision.DEFAULT),
    "bf16": Arithmetic(jnp.bfloat16, lax.Precision.DEFAULT),
}
"""The arithmetic for each value of `--precision`."""
