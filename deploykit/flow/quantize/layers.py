"""The table of layers: what is in integers and how noisy, what is not and why."""

from __future__ import annotations

from math import inf, prod
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError
from deploykit.flow.quantize.noise import Noise, layer_noise
from deploykit.flow.quantize.record import LayerRow

if TYPE_CHECKING:
    import onnx

    from deploykit.flow.quantize.search import Trial
    from deploykit.flow.quantize.work import Made, Work

GIVEN_BACK = "accuracy control gave it back: in integers it loses too much"
_SAMPLES = 32
_MOST_BYTES = 256_000_000
"""Of the values of all three networks for one batch, at most: most are not alive at once."""
_NETWORKS = 3


def layer_rows(work: Work, made: Made, trial: Trial) -> tuple[LayerRow, ...]:
    """Every node that the target has an integer kernel for, the noisiest first.

    Args:
        work: what trials share.
        made: the quantized network.
        trial: that it was made by.
    """
    decision = made.quantized.decision
    left = {one.node: one.why for one in decision.left}
    own = {**work.settled, **dict.fromkeys(trial.floats, GIVEN_BACK)}
    noise = _noise(work, made)
    nothing = Noise(None, None)
    rows = [
        LayerRow(
            node.name,
            node.op_type,
            own.get(node.name, left[node.name]) if node.name in left else "",
            noise.get(node.name, nothing).snr_db,
            noise.get(node.name, nothing).alone_db,
        )
        for node in made.prepared.model.graph.node
        if node.name in left or node.name in decision.nodes
    ]
    return tuple(sorted(rows, key=lambda row: inf if row.snr_db is None else row.snr_db))


def _noise(work: Work, made: Made) -> dict[str, Noise]:
    """By layer; nothing where ONNX Runtime cannot run the networks side by side."""
    model = made.prepared.model
    at_once = max(1, _MOST_BYTES // (_NETWORKS * max(_bytes_of_one(model), 1)))
    size = min(at_once, _SAMPLES, work.request.options()[0].at_once)
    try:
        return layer_noise(
            model,
            made.quantized.model,
            made.quantized.decision,
            made.prepared.folder,
            work.batches(_SAMPLES, size),
            threads=work.request.threads or 0,
            progress=work.progress,
        )
    except BadInputError:
        return {}


def _bytes_of_one(model: onnx.ModelProto) -> int:
    """Of all values for one sample; a size that is not known counts as 1."""
    values = (value.type.tensor_type.shape.dim for value in model.graph.value_info)
    return 4 * sum(prod(d.dim_value or 1 for d in dims) for dims in values)
