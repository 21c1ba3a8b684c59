"""Formats of 16 bits: what fits, and what a tensor loses by being rounded to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Format:
    """A floating-point format of 16 bits.

    Attributes:
        name: "fp16" or "bf16".
        word: what to call it in a sentence.
        onnx_type: its number in `onnx.TensorProto`.
        largest: finite value.
        least: normal value. Below it precision is lost bit by bit (subnormals), and some kernels
            of GPUs take it for zero.
        exact_integers: up to this every integer is exact.
        digits: of its significand, in bits, with the hidden one.
    """

    name: str
    word: str
    onnx_type: int
    largest: float
    least: float
    exact_integers: int
    digits: int

    def rounded(self, values: NDArray[np.generic]) -> NDArray[Any]:
        """The values in this format, to nearest even; what is too large becomes infinite."""
        from onnx import helper

        with np.errstate(over="ignore"):
            return values.astype(helper.tensor_dtype_to_np_dtype(self.onnx_type))

    def harm(self, values: NDArray[np.generic]) -> str:
        """What rounding a constant would break, in a phrase; "" where nothing.

        Infinities and NaN are the same in every format. Small numbers among large ones are not
        missed; a tensor that is small as a whole is: its error, relative in the square norm, is
        then above what rounding to nearest can do to normal values (half a unit in the last place).
        """
        wide = np.asarray(values, np.float64)
        wide = wide[np.isfinite(wide)]
        if not wide.any():
            return ""
        top = float(np.abs(wide).max())
        if self.too_large(top):
            return f"a constant in it reaches {top:.3g}"
        lost = self.rounded(wide.astype(np.float32)).astype(np.float64) - wide
        relative = float(np.sqrt(np.sum(lost * lost) / np.sum(wide * wide)))
        if relative > 2.0**-self.digits * 2:
            return f"a constant in it is too small for {self.word}, at most {top:.3g}"
        return ""

    def too_large(self, magnitude: float) -> bool:
        """Whether a value would become infinite."""
        return magnitude > self.largest


FP16 = Format("fp16", "float16", 10, 65504.0, 2.0**-14, 2048, 11)
BF16 = Format("bf16", "bfloat16", 16, float(2.0**127 * (2 - 2.0**-7)), 2.0**-126, 256, 8)
FORMATS = {one.name: one for one in (FP16, BF16)}
