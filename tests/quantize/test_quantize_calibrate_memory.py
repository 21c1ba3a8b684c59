"""Memory of calibration: lives in the block, pieces, what there is, and what the kernel counts."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.core.memory import available, resident_bytes
from deploykit.quantize.calibrate.pieces import pieces
from deploykit.quantize.calibrate.shapes import Value, inferred
from deploykit.quantize.calibrate.slab import Span, slab_of
from deploykit.quantize.prepare.prepare import prepare

if TYPE_CHECKING:
    from pathlib import Path

    from tests.quantize.conftest import MakeModel

LIVES = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 6), st.integers(0, 6)), max_size=12)


@given(LIVES)
def test_values_that_live_at_the_same_time_lie_apart(lives: list[tuple[int, int, int]]) -> None:
    spans = [
        Span(f"v{i}", size, first, first + more) for i, (size, first, more) in enumerate(lives)
    ]
    slab = slab_of(spans)

    assert slab.places.keys() == {span.name for span in spans}
    for number, one in enumerate(spans):
        start, room = slab.places[one.name]
        assert room >= one.size_bytes
        assert start % 64 == 0
        assert start + room <= slab.size_bytes
        for other in spans[:number]:
            low, high = slab.places[other.name]
            together = other.first <= one.last and one.first <= other.last
            assert not together or start >= low + high or low >= start + room


def test_values_that_do_not_meet_share_their_place() -> None:
    slab = slab_of([Span("a", 640, 0, 1), Span("b", 640, 2, 3), Span("c", 64, 0, 3)])
    assert slab.size_bytes == 704


def _chain(make_model: MakeModel) -> onnx.ModelProto:
    text = """(float[N, 64] x) => (float[N, 64] y) {
        a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, w)
        d = Add(c, a)  e = Relu(d)  y = MatMul(e, w)
    }"""
    return make_model(text, {"w": (64, 64)})


@pytest.mark.parametrize("most", [0, 30, 60, 70, 100, 10_000])
@pytest.mark.parametrize("with_weights", [False, True])
def test_pieces_are_the_graph_in_order(
    make_model: MakeModel, most: int, with_weights: bool
) -> None:
    graph = _chain(make_model).graph
    values = {name: Value(1, (10,), 10) for name in "abcdey"}
    found = pieces(graph, ("b", "y"), values, most, with_weights=with_weights)

    assert [node for piece in found for node in piece.nodes] == list(graph.node)
    there = {"x"}
    for piece in found:
        assert set(piece.reads) <= there
        there |= set(piece.gives)
        assert set(piece.frees) <= there
        there -= set(piece.frees)
    assert not there
    assert {"b", "y"} <= {name for piece in found for name in piece.gives}


def test_pieces_keep_what_they_may_have(make_model: MakeModel) -> None:
    graph = _chain(make_model).graph
    values = {name: Value(1, (10,), 10) for name in "abcdey"}

    def count(most: int, *, with_weights: bool = False) -> int:
        return len(pieces(graph, ("b", "y"), values, most, with_weights=with_weights))

    # At most a, b and c, or a, b and what comes of them, at the same time: b is seen to the end.
    assert count(30) < count(29) < count(0) == 6
    assert count(40) == 1
    assert count(40 + 64 * 64 * 4, with_weights=True) == 1
    assert count(39 + 64 * 64 * 4, with_weights=True) > 1


def test_what_stays_inside_is_counted_with_what_is_written_over(make_model: MakeModel) -> None:
    values = {name: Value(1, (10,), 10) for name in "abcdey"}
    (whole,) = pieces(_chain(make_model).graph, ("y",), values, 10_000)
    # a and b; then a, b and c; d and e take the place of c or a.
    assert whole.inner_bytes == 30


def test_a_transposed_convolution_takes_room_to_work(make_model: MakeModel) -> None:
    text = """(float[2, 4, 8, 8] x) => (float[2, 3, 17, 17] y) {
        y = ConvTranspose <strides = [2, 2]> (x, w)
    }"""
    prepared = prepare(make_model(text, {"w": (4, 3, 3, 3)}))
    values = inferred(prepared, {"x": (2, 4, 8, 8)})
    assert values["y"].shape == (2, 3, 17, 17)
    one = {**values, "w": Value.of(1, (4, 3, 3, 3))}
    (piece,) = pieces(prepared.model.graph, ("y",), one, 0)
    assert piece.inner_bytes == 3 * 3 * 3 * 8 * 8 * 4


def test_shapes_are_those_of_the_batch_whatever_the_file_says(make_model: MakeModel) -> None:
    text = """(float[N, 3, H, W] x) => (float[K, L] y) {
        s = Shape(x)  n = Gather(s, zero)  m = Concat <axis = 0> (n, minus)
        a = Relu(x)  f = Reshape(a, m)  y = MatMul(f, w)
    }"""
    weights = {"zero": np.array([0]), "minus": np.array([-1]), "w": np.ones((48, 2), np.float32)}
    model = make_model(text, weights)
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, [9, 9, 9, 9]))
    values = inferred(prepare(model), {"x": (5, 3, 4, 4)})

    assert values["a"] == Value(1, (5, 3, 4, 4), 960)
    assert values["f"].shape == (5, 48)
    assert values["y"] == Value(1, (5, 2), 40)


def _kernel(folder: Path, cgroup: str, meminfo: int = 8_000) -> Path:
    proc = folder / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 9999 kB\nMemAvailable: {meminfo} kB\n")
    (proc / "self/cgroup").write_text(cgroup)
    (proc / "self/statm").write_text("100 25 3 0 0 0 0")
    return proc


def test_a_machine_without_groups_has_what_the_kernel_says(tmp_path: Path) -> None:
    proc = _kernel(tmp_path, "0::/\n")
    found = available(proc, tmp_path / "none")
    assert (found.size_bytes, found.who) == (8_000 * 1024, "this machine has")
    assert resident_bytes(proc) % 25 == 0
    assert resident_bytes(tmp_path) == 0
    assert available(tmp_path, tmp_path).size_bytes is None


def test_the_tightest_group_counts_and_files_can_be_dropped(tmp_path: Path) -> None:
    proc = _kernel(tmp_path, "0::/pod/box\n")
    groups = tmp_path / "cgroup"
    for place, limit, used, files in (
        ("pod", "4000000", 1_500_000, 500_000),
        ("pod/box", "max", 9, 0),
    ):
        folder = groups / place
        folder.mkdir(parents=True)
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 7\ninactive_file {files}\n")
    found = available(proc, groups)
    assert (found.size_bytes, found.who) == (3_000_000, "its control group leaves")


def test_groups_of_version_1_are_read_where_they_are_mounted(tmp_path: Path) -> None:
    """In a container the name is that of the host, and the files are at the root."""
    proc = _kernel(tmp_path, "5:memory:/docker/abc\n1:cpu:/\n")
    groups = tmp_path / "cgroup/memory"
    groups.mkdir(parents=True)
    (groups / "memory.limit_in_bytes").write_text("2000000")
    (groups / "memory.usage_in_bytes").write_text("500000")
    assert available(proc, groups.parent).size_bytes == 1_500_000
    (groups / "memory.limit_in_bytes").write_text("9223372036854771712")
    assert available(proc, groups.parent).who == "this machine has"


_CHILD = """
import json, sys
import numpy as np, onnx
from onnx import numpy_helper
from deploykit.bench import memory
from deploykit.quantize.calibrate.calibrate import Memory, calibrate
from deploykit.quantize.calibrate.observe import observer
from deploykit.quantize.calibration_options import CalibrationOptions
from deploykit.quantize.prepare.prepare import prepare

count, comfortable = int(sys.argv[1]), int(sys.argv[2])
layers = " ".join(
    f"c{i} = Conv <pads = [1, 1, 1, 1]> (r{i}, w)  r{i + 1} = Relu(c{i})" for i in range(6)
)
model = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["": 13]> g (float[N, 8, 224, 224] r0) => '
    "(float[N, 8, 224, 224] r6) { " + layers + " }"
)
weights = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32) / 8
model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
prepared = prepare(model)
plans, peaks = [], []
batches = (
    {"r0": np.random.default_rng(i).standard_normal((4, 8, 224, 224), dtype=np.float32)}
    for i in range(count)
)
baseline = memory.start()
calibrate(
    prepared, [f"r{i}" for i in range(7)], batches,
    lambda: observer(CalibrationOptions("entropy"), symmetric=False),
    memory=Memory(comfortable_bytes=comfortable, planned=plans.append), threads=1,
    progress=lambda *_: peaks.append(memory.peak_bytes()),
)
print(json.dumps([plans[0].prediction.peak_bytes, len(plans[0].pieces), baseline.restarted, peaks]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("comfortable", "least"), [(10**9, 1), (20_000_000, 3)])
def test_the_kernel_counts_what_was_predicted_however_many_batches(
    comfortable: int, least: int
) -> None:
    """Six layers with 6.4 MB a value: 38 MB of values at once, or 13 MB in pieces."""
    ended = subprocess.run(
        [sys.executable, "-c", _CHILD, "25", str(comfortable)],
        capture_output=True,
        text=True,
        check=True,
    )
    predicted, count, restarted, peaks = json.loads(ended.stdout)
    if not restarted:
        pytest.skip("this kernel does not restart a process's peak")

    assert count >= least
    assert predicted == pytest.approx(max(peaks), rel=0.2)
    assert peaks[-1] - peaks[1] < 1_000_000
