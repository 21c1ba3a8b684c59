"""TensorRT's own parser and builder take what is placed for it, and compute in INT8.

TensorRT-RTX builds engines without a GPU, and lists their layers with the types that they read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from deploykit.quantize.graph.wiring import Wiring
from deploykit.quantize.place.decide import decide
from deploykit.quantize.place.emit import emit
from deploykit.quantize.place.targets import TENSORRT
from deploykit.quantize.prepare.prepare import prepare
from deploykit.quantize.ranges import Range

if TYPE_CHECKING:
    import onnx

    from tests.quantize.conftest import MakeModel, Weights

trt: Any = pytest.importorskip(
    "tensorrt_rtx", reason="needs TensorRT-RTX: pip install 'deploykit[tensorrt-rtx]'"
)
PRODUCTS = {"correlation", "gemm"}
"""What the engine calls convolutions and matrix products."""
_LAYER = re.compile(
    r"Name: (?P<name>[^,]*), LayerType: (?P<kind>\w+), Inputs: (?P<reads>.*?\}?\]), C"
)


IMAGE = "(float[1,32,16,16] x) => (float[N,C,H,W] y)"
RESIDUAL = f"""{IMAGE} {{
    a = Conv<pads=[1,1,1,1]>(x, wa, ba) b = Relu(a)
    c = Conv<pads=[1,1,1,1]>(b, wc, bc) d = Add(c, b) e = Relu(d)
    y = Conv<pads=[1,1,1,1]>(e, wy, by)
}}""", {
    "wa": (32, 32, 3, 3), "wc": (32, 32, 3, 3), "wy": (32, 32, 3, 3),
    "ba": (32,), "bc": (32,), "by": (32,),
}  # fmt: skip
CONCAT = (
    f"""{IMAGE} {{
    a = Conv(x, wa) b = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(x) c = Conv(b, wc)
    d = Concat<axis=1>(a, c) y = Conv(d, wy)
}}""",
    {"wa": (32, 32, 1, 1), "wc": (32, 32, 1, 1), "wy": (32, 64, 3, 3)},
)
DEPTHWISE = """(float[1,32,16,16] x) => (float[N,C] y) {
    a = Conv(x, wa) b = Clip(a, zero, six)
    c = Conv<group=32, pads=[1,1,1,1]>(b, wc) d = Clip(c, zero, six)
    e = Conv(d, we) f = GlobalAveragePool(e) g = Flatten(f) y = Gemm<transB=1>(g, wy, by)
}""", {
    "wa": (32, 32, 1, 1), "wc": (32, 1, 3, 3), "we": (32, 32, 1, 1), "wy": (16, 32), "by": (16,),
    "zero": np.array(0, np.float32), "six": np.array(6, np.float32),
}  # fmt: skip
ATTENTION = """(float[1,16,64] x) => (float[N,S,C] y) {
    n = LayerNormalization(x, scale, shift)
    q0 = MatMul(n, wq) q = Add(q0, bq) k0 = MatMul(n, wk) k = Add(k0, bk)
    v0 = MatMul(n, wv) v = Add(v0, bv)
    t = Transpose<perm=[0,2,1]>(k) s = MatMul(q, t) p = Softmax(s) o = MatMul(p, v)
    h = MatMul(o, wh) y = Add(h, x)
}""", {
    "scale": (64,), "shift": (64,), "wq": (64, 64), "wk": (64, 64), "wv": (64, 64), "wh": (64, 64),
    "bq": (1, 1, 64), "bk": (1, 1, 64), "bv": (1, 1, 64),
}  # fmt: skip
TRANSPOSED = (
    f"""{IMAGE} {{
    a = Conv<pads=[1,1,1,1]>(x, wa) b = Relu(a) c = ConvTranspose<strides=[2,2]>(b, wc)
    y = Conv(c, wy)
}}""",
    {"wa": (32, 32, 3, 3), "wc": (32, 16, 2, 2), "wy": (8, 16, 3, 3)},
)


def placed(model: onnx.ModelProto) -> onnx.ModelProto:
    """With a range of everything: an engine is built whatever they are."""
    ready = prepare(model).model
    names = {value.name for value in ready.graph.input}
    names |= {name for node in ready.graph.node for name in node.output}
    ranges = {name: Range(name, -4.0, 4.0) for name in names}
    return emit(ready, TENSORRT, decide(Wiring.of(ready), TENSORRT, ranges), ranges)


class _Log(trt.ILogger):  # type: ignore[misc]  # tensorrt_rtx has no types
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[Any, str]] = []

    def log(self, severity: Any, message: str) -> None:
        self.lines.append((severity, message))


def engine_layers(model: onnx.ModelProto) -> list[tuple[str, str, list[str]]]:
    """Build an engine for Ampere; kind, name and the types that are read of every layer."""
    log = _Log()
    builder = trt.Builder(log)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    assert parser.parse(model.SerializeToString()), parser.get_error(0)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    assert builder.build_serialized_network(network, config) is not None
    worst = {trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING}
    assert [message for severity, message in log.lines if severity in worst] == []
    found = [
        _LAYER.search(line)
        for _, message in log.lines
        for line in message.splitlines()
        if "LayerType:" in line
    ]
    return [
        (one["kind"], one["name"], re.findall(r"Datatype: (\w+)", one["reads"]))
        for one in found
        if one is not None
    ]


@pytest.mark.parametrize(
    ("network", "products", "floats"),
    [
        (RESIDUAL, 3, 0),
        (CONCAT, 3, 0),
        (DEPTHWISE, 4, 0),
        # One of q, k and v together; those of two activations are float, beside the softmax.
        (ATTENTION, 4, 2),
        # TensorRT-RTX 1.7 has no INT8 kernel of the transposed one, which is no product here.
        (TRANSPOSED, 2, 0),
    ],
    ids=["residual", "concat", "depthwise", "attention", "transposed"],
)
def test_an_engine_computes_products_in_int8(
    network: tuple[str, Weights], products: int, floats: int, make_model: MakeModel
) -> None:
    layers = engine_layers(placed(make_model(*network, opset=17)))

    read = [set(types) for kind, _, types in layers if kind in PRODUCTS]
    assert len(read) == products, layers
    assert read.count({"Float"}) == floats, layers
    assert read.count({"Int8"}) == products - floats, layers


def test_a_residual_sum_reads_integers(make_model: MakeModel) -> None:
    layers = engine_layers(placed(make_model(*RESIDUAL, opset=17)))

    sums = [types for kind, name, types in layers if kind == "kgen" and "AddRelu" in name]

    # The other operand is what the convolution before made: not rounded in between.
    assert ["Float", "Int8"] in [sorted(types) for types in sums], sums
