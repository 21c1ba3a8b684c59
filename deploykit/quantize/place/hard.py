"""HardSigmoid and HardSwish in integers, for a runtime that has an integer sum and product only.

HardSigmoid(x) = clip(a x + b, 0, 1). A factor costs nothing: the same integers, read with another
scale, are a x. The sum with b has an integer kernel, and the quantizer behind it clips: its range
is [0, 1]. HardSwish(x) = x HardSigmoid(x) (Howard et al., MobileNetV3, ICCV 2019, section 5.2) is
one product more. In float, either would turn integers to floats and back around it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.quantize.graph.values import attributes
from deploykit.quantize.place.numbers import Grid

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx
    from numpy.typing import NDArray

    from deploykit.quantize.graph.wiring import Wiring

HARD_SIGMOID, HARD_SWISH = "HardSigmoid", "HardSwish"
_SIGMOID_ALPHA, _SIGMOID_BETA = 0.2, 0.5  # where a HardSigmoid does not say
_SWISH_ALPHA, _SWISH_BETA = 1 / 6, 0.5
_STEPS = 255


def rises(node: onnx.NodeProto, wiring: Wiring) -> str:
    """Why a HardSigmoid is no scale and sum, or ""."""
    del wiring
    alpha, beta = _line(node)
    if not (alpha > 0 and np.isfinite(alpha) and np.isfinite(beta)):
        return f"it does not rise (alpha {alpha:g}, beta {beta:g})"
    return ""


@dataclass(slots=True, eq=False)
class HardNodes:
    """Writes the nodes that stand in place of one.

    Attributes:
        constants: gives a grid's scale and zero point, as names, for the name of a value.
        integers: writes an integer tensor of a name, and gives that.
        made: what was written.
    """

    constants: Callable[[str, Grid], tuple[str, str]]
    integers: Callable[[str, NDArray[Any]], str]
    made: list[onnx.NodeProto] = field(default_factory=list)

    def rewrite(self, node: onnx.NodeProto, integers: str, grid: Grid) -> list[onnx.NodeProto]:
        """Make a sum of a HardSigmoid, or a product of a HardSwish. Changes it.

        Args:
            node: of the quantized graph.
            integers: the name of what it reads, in integers.
            grid: of those.

        Returns:
            Nodes that go before it.
        """
        from onnx import helper

        alpha, beta = _line(node)
        name = node.output[0]
        scaled = Grid(np.asarray(grid.scale * alpha, np.float32), grid.zero)
        step = Grid(np.array(abs(beta) or 1.0, np.float32), np.array(int(beta < 0), np.uint8))
        shift = self.integers(f"{name}/shift/quantized", np.array(int(beta > 0), np.uint8))
        addends = [
            self._read(integers, f"{name}/scaled", scaled),
            self._read(shift, f"{name}/shift", step),
        ]
        del node.attribute[:]
        if node.op_type == HARD_SIGMOID:
            node.op_type = "Add"
            node.input[:] = addends
            return self.made
        gate = f"{name}/gate"
        self.made.append(helper.make_node("Add", addends, [gate], f"{gate}/Add"))
        ends = Grid(np.array(1 / _STEPS, np.float32), np.array(0, np.uint8))
        inputs = [gate, *self.constants(gate, ends)]
        title = f"{gate}/QuantizeLinear"
        self.made.append(helper.make_node("QuantizeLinear", inputs, [f"{gate}/quantized"], title))
        behind = self._read(f"{gate}/quantized", gate, ends)
        node.op_type = "Mul"
        node.input.append(behind)
        return self.made

    def _read(self, integers: str, name: str, grid: Grid) -> str:
        from onnx import helper

        inputs, behind = [integers, *self.constants(name, grid)], f"{name}/dequantized"
        title = f"{name}/DequantizeLinear"
        self.made.append(helper.make_node("DequantizeLinear", inputs, [behind], title))
        return behind


def _line(node: onnx.NodeProto) -> tuple[float, float]:
    """Slope and height at 0 of the part that rises."""
    if node.op_type == HARD_SWISH:
        return _SWISH_ALPHA, _SWISH_BETA
    given = attributes(node)
    alpha, beta = given.get("alpha", _SIGMOID_ALPHA), given.get("beta", _SIGMOID_BETA)
    assert isinstance(alpha, float)
    assert isinstance(beta, float)
    return alpha, beta
