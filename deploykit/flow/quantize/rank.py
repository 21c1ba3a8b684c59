"""Which layers do the most harm: each is quantized alone, and the network's outputs are compared.

A layer's own noise says little of what it costs: an output with one huge channel has a fine
ratio, and nothing left in all its other channels. What reaches the network's outputs tells. One
layer at a time, all others in float, is what still tells two bad layers from one, as in Wu et al.,
"Integer Quantization for Deep Learning Inference" (2020), on partial quantization.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.check.signal import Signal
from deploykit.core.errors import BadInputError
from deploykit.flow.quantize.work import unadjusted
from deploykit.quantize.place.targets import Role
from deploykit.runtimes.ort import CPU_PROVIDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from deploykit.flow.quantize.search import Trial
    from deploykit.flow.quantize.work import Made, Work
    from deploykit.load.data import Array

_SAMPLES = 16


def products(made: Made) -> tuple[str, ...]:
    """Names of the quantized nodes that multiply, in the order of the graph: what can go back."""
    chosen = made.quantized.decision.nodes
    return tuple(
        node.name
        for node in made.prepared.model.graph.node
        if node.name in chosen and chosen[node.name].role is Role.COMPUTES
    )


def ranked(work: Work, trial: Trial) -> tuple[str, ...]:
    """The layers that could be float, the most harmful first.

    Args:
        work: what trials share.
        trial: whose layers.
    """
    trial = unadjusted(trial)
    made = work.made(trial)
    names = products(made)
    feeds = list(work.batches(_SAMPLES, _SAMPLES))
    wanted = _outputs(work, made, made.prepared.model, feeds)
    harm: dict[str, float] = {}
    for number, name in enumerate(names):
        work.progress("quantizing one layer at a time", number / len(names))
        others = tuple(other for other in names if other != name)
        try:
            alone = work.made(replace(trial, floats=(*trial.floats, *others)))
        except BadInputError:  # it is quantized beside others only
            harm[name] = 0.0
            continue
        harm[name] = _harm(wanted, _outputs(work, alone, alone.quantized.model, feeds))
    return tuple(sorted(names, key=lambda name: -harm[name]))


def _outputs(
    work: Work, made: Made, model: onnx.ModelProto, feeds: Sequence[dict[str, Array]]
) -> list[list[Array]]:
    """All outputs that are floats, batch by batch."""
    import onnxruntime

    from deploykit.quantize.graph.write import write_graph

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work.request.threads or 0
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        path, *_ = write_graph(model, made.prepared.folder, Path(folder) / "layer.onnx")
        session = onnxruntime.InferenceSession(path, options, providers=[CPU_PROVIDER])
        return [
            [value for value in session.run(None, feed) if value.dtype.kind == "f"]
            for feed in feeds
        ]


def _harm(wanted: Sequence[list[Array]], found: Sequence[list[Array]]) -> float:
    """Noise over signal, added up over the outputs: large numbers in one must not hide another.

    What is no number is the worst.
    """
    sums = [Signal() for _ in wanted[0]]
    for outputs, rivals in zip(wanted, found, strict=True):
        for one, value, rival in zip(sums, outputs, rivals, strict=True):
            one.add(value, rival)
    if not all(isfinite(one.noise) for one in sums):
        return inf
    return sum(one.noise / one.signal for one in sums if one.signal > 0)
