"""Operators that stay float32 in a graph of 16 bits: tables, each with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SUMS = frozenset({
    "CumProd", "CumSum", "Det", "LRN", "LpNormalization", "MeanVarianceNormalization", "ReduceL1",
    "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum",
    "ReduceSumSquare",
})  # fmt: skip
"""They add up many values: the sum overflows, or swallows what is added last. TensorRT warns of
ReduceMean in layer norms; a kernel may sum in 16 bits."""
CHECKED_SUMS = frozenset({"ReduceMean", "ReduceSum", "ReduceL1"})
"""Those that are safe where the largest value times the number of them fits."""

ANGLES = frozenset({"Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Sin", "Sinh",
                    "Tan"})  # fmt: skip
"""A large angle in 16 bits is off by whole turns (position encodings, rotary embeddings)."""
TURNED = 1e-2
"""By how much an angle may be off, in radians."""

PLACES = frozenset({"AffineGrid", "GridSample", "MaxRoiPool", "NonMaxSuppression", "Range",
                    "RoiAlign"})  # fmt: skip
"""Coordinates: a pixel beyond 2048 is not told from its neighbour. ONNX Runtime has no half kernel
for any of them on CUDA (its docs/OperatorKernels.md), nor ONNX a type for some."""

DRAWS = frozenset({
    "Bernoulli", "BlackmanWindow", "DFT", "EyeLike", "HammingWindow", "HannWindow",
    "MelWeightMatrix", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike", "STFT",
})  # fmt: skip
"""An attribute of theirs says which type they make, and few runtimes have them in half."""

VARIANCES = frozenset({"GroupNormalization", "InstanceNormalization"})
"""They sum squares, and nothing in them says in which type."""
STASHED = frozenset({"GroupNormalization", "LayerNormalization", "RMSNormalization"})
"""Norms that may say that they compute in float32 inside: the attribute `stash_type`."""

LOGS = frozenset({"LogSoftmax"})

SEQUENCES = ("Sequence", "Optional", "ConcatFromSequence", "SplitToSequence")
BODIES = frozenset({"If", "Loop", "Scan", "SequenceMap"})

GROWS = frozenset({"Exp", "Pow"})
"""Small inputs overflow float16: exp(11.1), 256 ** 2."""
NEAR_ZERO: Mapping[str, int] = {"Div": 1, "Log": 0, "Pow": 0, "Reciprocal": 0, "Sqrt": 0}
"""They magnify what was lost near zero, in the input of this number."""
LEADS = frozenset({
    "Abs", "Add", "Clip", "Exp", "Max", "Mean", "Mul", "Neg", "Pow", "ReduceL2", "ReduceMean",
    "ReduceSum", "ReduceSumSquare", "Sqrt", "Sub", "Sum",
})  # fmt: skip
"""What leads to such an input and is of no use in float16 then: variances, norms, their epsilon."""

TURNS = LEADS | {"Div", "Einsum", "MatMul"}
"""What leads to an angle."""
ENDS = frozenset({"Abs", "Exp", "Pow", "ReduceL2", "ReduceSumSquare"})
"""Where that leading ends: what is squared or raised need be no better than its type."""
STATISTICS = frozenset({"Exp", "Pow", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"})

BOUNDS = frozenset({"Clip", "Max", "Min"})
"""A constant of theirs beyond float16 is no bound there: made infinite, it means the same."""
CARRIES = frozenset({"Add", "Concat", "Max", "Mean", "Mul", "Neg", "Pad", "Sub", "Sum", "Where"})
"""What a huge constant goes through unchanged, or larger."""

ADDS = frozenset({"Add", "Sub", "Sum"})

MOVES = frozenset({
    "Compress", "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather",
    "GatherElements", "GatherND", "Identity", "Pad", "Reshape", "ReverseSequence",
    "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile",
    "Transpose", "Trilu", "Unsqueeze", "Where",
})  # fmt: skip
"""They compute nothing: any type will do, and that of their neighbours costs no cast."""

BIAS: Mapping[str, int] = {
    "Conv": 2, "ConvTranspose": 2, "Gemm": 2, "LayerNormalization": 2, "BatchNormalization": 2,
}  # fmt: skip
"""Inputs that are added at the end: small ones may be lost, beside what they are added to."""

FLOAT_PORTS: Mapping[str, frozenset[int]] = {
    "Resize": frozenset({1, 2}), "Upsample": frozenset({1}), "Dropout": frozenset({1}),
}  # fmt: skip
"""Inputs that stay float32 though ONNX would take half: regions, scales, ratios."""

_NO_BF16_ON_CUDA = frozenset({
    "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "Celu", "Ceil", "Clip",
    "ConvTranspose", "CumSum", "DepthToSpace", "Einsum", "Elu", "Equal", "Floor", "GRU",
    "GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "LSTM", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "MaxPool", "Mish", "OneHot", "PRelu", "Pad", "RNN", "Reciprocal",
    "ReduceMax", "ReduceMin", "Resize", "Round", "Selu", "Shrink", "SpaceToDepth", "TopK",
})  # fmt: skip
"""After docs/OperatorKernels.md of ONNX Runtime: float16, but no bfloat16."""
NO_KERNEL: Mapping[tuple[str, str], frozenset[str]] = {
    ("bf16", "ort-cuda"): _NO_BF16_ON_CUDA,
    ("bf16", "portable"): _NO_BF16_ON_CUDA,
}
"""By format and target: operators without a kernel, beside those above."""
