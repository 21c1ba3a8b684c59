"""Small graphs that float16 is hard on, each with the input that shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

OPSET = 17


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One graph.

    Attributes:
        name: what is hard about it.
        model: float32.
        feeds: by input.
    """

    name: str
    model: onnx.ModelProto
    feeds: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def cases() -> Iterator[Case]:
    """All of them, the same every time."""
    rng = np.random.default_rng(0)
    w, v = (rng.normal(size=(8, 8)) / np.sqrt(8) for _ in range(2))
    x = rng.normal(size=(16, 8)).astype(np.float32)
    chain = _body("a = MatMul(x, w)", "b = Relu(a)", "y = MatMul(b, v)")
    yield Case("a plain chain", _model(chain, w=w, v=v), {"x": x})
    large = _body("a = MatMul(x, w)", "b = Relu(a)", "c = Mul(b, k)", "y = MatMul(c, v)")
    yield Case("activations of 1.5e5", _model(large, w=w * 1e5, k=1e-4, v=v), {"x": x})
    yield Case("weights of 1e8", _model(large, w=w * 1e8, k=1e-7, v=v), {"x": x})
    yield Case("weights of 1e-8", _model(large, w=w * 1e-8, k=1e8, v=v), {"x": x})
    norm = _body(
        "m = ReduceMean <axes = [-1]> (x)", "d = Sub(x, m)", "q = Pow(d, two)",
        "s = ReduceMean <axes = [-1]> (q)", "e = Add(s, eps)", "r = Sqrt(e)", "n = Div(d, r)",
        "y = MatMul(n, v)",
    )  # fmt: skip
    settings: dict[str, Any] = {"two": 2.0, "eps": 1e-12, "v": v}
    yield Case("a layer norm of small values", _model(norm, **settings), {"x": x * 1e-4})
    yield Case("a layer norm of large values", _model(norm, **settings), {"x": x * 1e3})
    angle = _body("a = Mul(x, k)", "b = Sin(a)", "y = MatMul(b, v)")
    yield Case("angles of thousands", _model(angle, k=3000.0, v=v), {"x": x})
    total = _body("a = ReduceSum <keepdims = 1> (x)", "b = Mul(a, k)", "c = Mul(x, b)",
                  "y = MatMul(c, v)")  # fmt: skip
    sums = {"x": np.abs(x) * 1000}
    yield Case("a sum beyond 65504", _model(total, k=1e-6, v=v), sums)
    cast = _body("s = Shape(x)", "n = Gather(s, one)", "f = Cast <to = 1> (n)",
                 "a = MatMul(x, w)", "b = Div(a, f)", "y = MatMul(b, v)")  # fmt: skip
    yield Case("a cast to float", _model(cast, one=1, w=w, v=v), {"x": x})
    branch = _body(
        "a = MatMul(x, w)", "t = ReduceMax <keepdims = 0> (a)", "c = Greater(t, k)",
        "r = Relu(a)",
        "b = If (c) <then_branch = p () => (float[N, 8] p1) { p1 = Add(a, k) },"
        " else_branch = q () => (float[N, 8] q1) { q1 = Mul(r, k) }>",
        "y = MatMul(b, v)",
    )  # fmt: skip
    yield Case("branches that read from outside", _model(branch, w=w, k=0.5, v=v), {"x": x})


def _body(*lines: str) -> str:
    return "g (float[N, 8] x) => (float[N, 8] y) {\n" + "\n".join(lines) + "\n}"


def _model(text: str, **constants: Any) -> onnx.ModelProto:
    model: onnx.ModelProto = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {OPSET}]>\n{text}'
    )
    for name, value in constants.items():
        kind = np.int64 if isinstance(value, int) else np.float32
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, kind), name))
    return model
