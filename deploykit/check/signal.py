"""How much of what a layer says is noise: signal-to-noise ratios inside a graph, in flat memory.

A value and its rival stand in one graph, which adds up the squares of the value and of their
difference itself: what leaves it are two numbers a pair and a batch, however large the values.
The ratio is 10 log10(sum x^2 / sum (x - y)^2), over all samples and elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, log10
from typing import TYPE_CHECKING

import numpy as np

from deploykit.core.progress import Progress, silent
from deploykit.runtimes.ort import CPU_PROVIDER  # before onnxruntime: it switches off telemetry
from deploykit.runtimes.ort_errors import plain_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import onnx

    from deploykit.load.data import Array

MOST_DB = 150.0
"""What no noise at all counts as: float32 itself has 144 dB."""
_SIGNAL, _NOISE = "signal", "noise"


@dataclass(slots=True)
class Signal:
    """Sums over batches.

    Attributes:
        signal: of the squares of a value.
        noise: of the squares of what its rival has otherwise.
    """

    signal: float = 0.0
    noise: float = 0.0

    def add(self, values: Array, rivals: Array) -> None:
        """Add one batch: two arrays of one shape."""
        wanted = values.astype(np.float64)
        self.signal += float(np.square(wanted).sum())
        self.noise += float(np.square(wanted - rivals.astype(np.float64)).sum())

    @property
    def db(self) -> float | None:
        """The ratio in decibels, at most `MOST_DB`; `None` where there is no signal or no sum."""
        if not (isfinite(self.signal) and isfinite(self.noise)) or self.signal <= 0:
            return None
        if self.noise <= 0:
            return MOST_DB
        return min(10 * log10(self.signal / self.noise), MOST_DB)


def tap(graph: onnx.GraphProto, pair: str, value: str, rival: str) -> None:
    """Have a graph add up the squares of a value and of its difference from a rival.

    Args:
        graph: of opset 11 or higher; changed.
        pair: name of the pair; no other of the graph's names begins with it and a slash.
        value: float32, of any shape.
        rival: of the same type and shape.
    """
    from onnx import TensorProto, helper

    kinds = {_SIGNAL: value, _NOISE: f"{pair}/difference"}
    graph.node.append(helper.make_node("Sub", [value, rival], [kinds[_NOISE]]))
    for kind, name in kinds.items():
        made = helper.make_node("ReduceSumSquare", [name], [f"{pair}/{kind}"], keepdims=0)
        graph.node.append(made)
        graph.output.append(helper.make_tensor_value_info(f"{pair}/{kind}", TensorProto.FLOAT, []))


def signals(
    path: Path,
    pairs: Sequence[str],
    batches: Iterable[Mapping[str, Array]],
    *,
    threads: int = 0,
    progress: Progress = silent,
) -> dict[str, Signal]:
    """Run a graph with taps over batches.

    Args:
        path: of the model.
        pairs: names that `tap` was given.
        batches: inputs by name; read once.
        threads: of ONNX Runtime; 0 for one a core.
        progress: told after every batch.

    Raises:
        BadInputError: ONNX Runtime cannot run the graph on them.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False  # freed means freed
    with plain_errors(path):
        session = onnxruntime.InferenceSession(path, options, providers=[CPU_PROVIDER])
    found = {pair: Signal() for pair in pairs}
    names = [f"{pair}/{kind}" for pair in pairs for kind in (_SIGNAL, _NOISE)]
    for number, batch in enumerate(batches, 1):
        with plain_errors(path):
            sums = iter(session.run(names, dict(batch)))
        for one in found.values():
            one.signal += float(next(sums))
            one.noise += float(next(sums))
        progress(f"comparing layers with float: batch {number}", None)
    return found
