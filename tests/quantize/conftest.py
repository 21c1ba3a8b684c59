"""Small graphs in ONNX's own text form, and the proof that a prepared one computes the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import deploykit.runtimes  # noqa: F401  (switches telemetry off before onnxruntime is imported)
from deploykit.quantize.prepare.prepare import Prepared, prepare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Array: TypeAlias = NDArray[Any]
Weights: TypeAlias = "Mapping[str, tuple[int, ...] | Array]"

_RELATIVE = 1e-5


class MakeModel(Protocol):
    def __call__(
        self, text: str, weights: Weights, opset: int = 13, ir_version: int = 8
    ) -> onnx.ModelProto: ...


class Run(Protocol):
    def __call__(
        self, source: onnx.ModelProto | Path, feeds: Mapping[str, Array]
    ) -> list[Array]: ...


class Prove(Protocol):
    def __call__(self, model: onnx.ModelProto, folder: Path | None = None) -> Prepared: ...


@pytest.fixture
def make_model() -> MakeModel:
    """A model from `(inputs) => (outputs) { nodes }` and its weights, by shape or by value.

    Weights given by shape are numbers from 0.5 to 1.5, so that a variance may be one. IR versions
    before 4 list them as inputs, too.
    """

    def make(text: str, weights: Weights, opset: int = 13, ir_version: int = 8) -> onnx.ModelProto:
        head = f'<ir_version: {ir_version}, opset_import: ["": {opset}, "my.own": 1]>'
        model = onnx.parser.parse_model(f"{head} g {text}")
        random = np.random.default_rng(0)
        for name, given in weights.items():
            array = (
                given
                if isinstance(given, np.ndarray)
                else (random.random(given) + 0.5).astype(np.float32)
            )
            model.graph.initializer.append(numpy_helper.from_array(array, name))
            if ir_version < 4:
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                model.graph.input.append(
                    helper.make_tensor_value_info(name, kind, list(array.shape))
                )
        return model

    return make


@pytest.fixture
def run() -> Run:
    """What ONNX Runtime computes without optimising anything."""
    return _run


@pytest.fixture
def prove() -> Prove:
    """Prepare a model; it computes the same to 1e-5, and what went in is what it was."""

    def prepared(model: onnx.ModelProto, folder: Path | None = None) -> Prepared:
        before = model.SerializeToString(deterministic=True)
        result = prepare(model, folder)
        assert model.SerializeToString(deterministic=True) == before
        feeds = _feeds(model)
        _assert_close(_run(result.model, feeds), _run(model, feeds))
        assert [one.name for one in result.model.graph.output] == [
            one.name for one in model.graph.output
        ]
        assert [one.name for one in result.model.graph.input] == list(feeds)
        names = [node.name for node in result.model.graph.node]
        assert all(names)
        assert len(set(names)) == len(names)
        return result

    return prepared


def _run(source: onnx.ModelProto | Path, feeds: Mapping[str, Array]) -> list[Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    what = source.SerializeToString() if isinstance(source, onnx.ModelProto) else str(source)
    session = onnxruntime.InferenceSession(what, options, providers=["CPUExecutionProvider"])
    arrays: list[Array] = session.run(None, dict(feeds))
    return arrays


def _feeds(model: onnx.ModelProto, batch: int = 2) -> dict[str, Array]:
    """Normal numbers for every input; sizes that are not fixed are `batch`."""
    constants = {tensor.name for tensor in model.graph.initializer}
    random = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for one in model.graph.input:
        if one.name in constants:
            continue
        kind = one.type.tensor_type
        shape = [dim.dim_value or batch for dim in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        feeds[one.name] = np.asarray(random.standard_normal(shape) * 3).astype(dtype)
    return feeds


def _assert_close(found: Sequence[Array], wanted: Sequence[Array]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        most = np.abs(other).max(initial=0) if other.dtype.kind == "f" else 0
        np.testing.assert_allclose(one, other, rtol=_RELATIVE, atol=_RELATIVE * most)
