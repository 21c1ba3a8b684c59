"""What each target likes to see quantized: tables of rules, one line an operator.

A runtime replaces a node between DequantizeLinear and QuantizeLinear by an integer kernel where
it has one; a pair around any other node costs time and gains nothing. The tables say where it has
one. For ONNX Runtime they are what its optimiser (1.32, CPU provider) leaves of a graph with one
such node, which `tests/quantize` asks again. It has none of ConvTranspose, ReduceMean, Resize that
interpolates, Pad, Sub, Div, Max, Gelu, Tanh, PRelu, and of no norm; nor of products of *signed*
activations on x86, which are computed in float or, Gemm, in four times the time. Its integer
Softmax took five times the float one's time and is left out.

For TensorRT they follow the guide to explicit quantization (Developer Guide, "Q/DQ Layer-Placement
Recommendations"): inputs of what computes are quantized, results are not; the input of a residual
sum that is not the convolution's is; sums with constants, and products of two activations, are left
to its fusions, as NVIDIA's ModelOpt leaves them. What an engine made of it was read from the
builder's list of layers (TensorRT-RTX 1.7 for Ampere, which has no INT8 kernel of ConvTranspose).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from deploykit.quantize.place.conditions import (
    DEPTHWISE,
    finite_choice,
    no_constants,
    picks_values,
    plain_gemm,
)
from deploykit.quantize.place.hard import rises

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx

    from deploykit.quantize.graph.wiring import Wiring


class Role(Enum):
    """Why an operator is quantized."""

    COMPUTES = "computes"
    """It multiplies matrices: integers are faster, whatever stands around it."""

    JOINS = "joins"
    """It has an integer kernel: worth it between quantized neighbours only."""

    MOVES = "moves"
    """It moves or picks values: what comes out has the scale of what went in."""


class Out(Enum):
    """What becomes of an operator's result."""

    ALWAYS = "always"
    """Quantized: the integer kernel gives integers only."""

    IF_READ = "if-read"
    """Quantized where a quantized node reads it; the integer kernel can give floats as well."""

    NEVER = "never"
    """The runtime looks at inputs only; whoever reads it quantizes it."""


class Channel(Enum):
    """Which dimension of the weights has the output channels."""

    FIRST = "first"
    SECOND = "second"
    LAST = "last"
    GEMM = "gemm"


@dataclass(frozen=True, slots=True)
class Rule:
    """How one operator is quantized.

    Attributes:
        role: why.
        reads: positions of its activations; empty for all inputs that are no constants.
        weight: position of what is quantized ahead of time where it is a constant, or `None`.
        channel: which dimension of the weight has a scale of its own for each index.
        bias: position of the bias, or `None`.
        out: what becomes of the result.
        needs: why the kernel does not take a node, or ""; `None` where it takes all.
        alone: of what computes: whether it is worth it between floats, too.
    """

    role: Role
    reads: tuple[int, ...] = ()
    weight: int | None = None
    channel: Channel | None = None
    bias: int | None = None
    out: Out = Out.ALWAYS
    needs: Callable[[onnx.NodeProto, Wiring], str] | None = None
    alone: bool = True

    @property
    def stands_alone(self) -> bool:
        """Whether it is quantized whatever stands around it."""
        return self.role is Role.COMPUTES and self.alone


@dataclass(frozen=True, slots=True)
class Placement:
    """All that placement has to know about a target.

    Attributes:
        name: as users type it.
        rules: by operator, and by `conditions.DEPTHWISE`.
        activation: NumPy's name of the integers of activations: "uint8" or "int8".
        symmetric: whether activations have zero in the middle.
        bias: whether biases become 32-bit integers; otherwise they stay float.
        absorbed: operators that clip, and vanish in the quantizer behind them.
        weight_bits: 7 where the machine's instructions saturate on sums of 8-bit products.
        residual: whether the sum of a convolution and something else wants that other input
            quantized and the convolution's result not.
        same_scale: operators whose inputs and output want one common scale.
        requantized: operators whose weights the runtime makes integers of between quantizers, asked
            or not.
        depthwise: operators that are faster as depthwise convolutions.
        per_channel: whether weights have a scale for each output channel.
        weight_range: how the end of a weight's grid is chosen: "max" or "mse".
    """

    name: str
    rules: Mapping[str, Rule]
    activation: str = "uint8"
    symmetric: bool = False
    bias: bool = True
    absorbed: frozenset[str] = frozenset({"Relu", "Clip"})
    weight_bits: int = 8
    residual: bool = False
    same_scale: frozenset[str] = field(default_factory=frozenset)
    requantized: frozenset[str] = field(default_factory=frozenset)
    depthwise: frozenset[str] = field(default_factory=frozenset)
    per_channel: bool = True
    weight_range: str = "max"


def _table(role: Role, names: str, **values: object) -> dict[str, Rule]:
    return {name: Rule(role, **values) for name in names.split()}  # type: ignore[arg-type]  # as Rule checks


def _computing(out: Out, products_out: Out) -> dict[str, Rule]:
    conv = Rule(Role.COMPUTES, (0,), 1, Channel.FIRST, 2, out)
    return {
        "Conv": conv,
        "Gemm": Rule(Role.COMPUTES, (0, 1), 1, Channel.GEMM, 2, products_out, plain_gemm),
        "MatMul": Rule(Role.COMPUTES, (0, 1), 1, Channel.LAST, None, products_out),
    }


_MOVES = (
    "Reshape Flatten Squeeze Unsqueeze Transpose Slice Gather Split MaxPool DepthToSpace Expand "
    "Tile"
)

_REQUANTIZED = frozenset({"Conv", "ConvTranspose", "Gemm"})

ORT_CPU = Placement(
    "ort-cpu",
    {
        **_computing(Out.ALWAYS, Out.IF_READ),
        # A kernel of 3 x 3 takes 0.8 of the float time in integers, 5 x 5 as long and 7 x 7 1.3 of
        # it: nothing that pays for conversions on both sides (ConvNeXt, MobileNetV3).
        DEPTHWISE: Rule(Role.COMPUTES, (0,), 1, Channel.FIRST, 2, alone=False),
        **_table(Role.JOINS, "Add Mul Concat"),
        **_table(Role.JOINS, "AveragePool GlobalAveragePool LeakyRelu Sigmoid", reads=(0,)),
        # No kernel of their own: as sums and products (`hard.py`).
        **_table(Role.JOINS, "HardSigmoid HardSwish", reads=(0,), needs=rises),
        **_table(Role.MOVES, _MOVES, reads=(0,)),
        "Resize": Rule(Role.MOVES, (0,), needs=picks_values),
        "Where": Rule(Role.JOINS, (1, 2), needs=finite_choice),
    },
    requantized=_REQUANTIZED,
    depthwise=frozenset({"AveragePool", "BatchNormalization"}),
)

TENSORRT = Placement(
    "tensorrt",
    {
        "Conv": Rule(Role.COMPUTES, (0,), 1, Channel.FIRST, 2, Out.NEVER),
        "ConvTranspose": Rule(Role.COMPUTES, (0,), 1, Channel.SECOND, 2, Out.NEVER),
        "Gemm": Rule(Role.COMPUTES, (0,), 1, Channel.GEMM, 2, Out.NEVER, plain_gemm),
        "MatMul": Rule(Role.COMPUTES, (0,), 1, Channel.LAST, None, Out.NEVER),
        **_table(Role.JOINS, "Add Concat", out=Out.NEVER, needs=no_constants),
        **_table(Role.JOINS, "AveragePool GlobalAveragePool", reads=(0,), out=Out.NEVER),
        **_table(Role.MOVES, _MOVES, reads=(0,), out=Out.NEVER),
    },
    activation="int8",
    symmetric=True,
    bias=False,
    residual=True,
    same_scale=frozenset({"Concat"}),
)

PORTABLE = Placement(
    "portable",
    {
        **_computing(Out.ALWAYS, Out.ALWAYS),
        **_table(Role.JOINS, "Add Concat AveragePool GlobalAveragePool"),
        **_table(Role.MOVES, "Reshape Flatten Squeeze Unsqueeze Transpose MaxPool", reads=(0,)),
    },
    requantized=_REQUANTIZED,
)

PLACEMENTS = (ORT_CPU, TENSORRT, PORTABLE)


def placement_named(name: str) -> Placement:
    """The table of a target, one of `options.TARGETS`: the options refuse all other names."""
    return next(one for one in PLACEMENTS if one.name == name)
