"""Times of what really runs, added up by the layers of the graph that it came from.

A runtime fuses and renames nodes: "relu_nchwc" is a convolution with the ReLU behind it, and
"conv_token_3" is a quantized one. Names of nodes and of the values that they give tell which.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deploykit.bench.profile import NodeTime

# What ONNX Runtime's optimiser adds to a name: its blocked layout, and copies.
_ADDED = re.compile(r"^fused |(_nchwc|_token_\d+|/duplicated)+$")


def times_by_layer(times: Iterable[NodeTime], layers: Mapping[str, str]) -> dict[str, float]:
    """Nanoseconds of each layer.

    Args:
        times: of one profile.
        layers: by the names of nodes, and of the values that they give, their layer.

    Returns:
        By layer; what belongs to none (conversions, changes of layout) is under "".
    """
    found = dict.fromkeys((*layers.values(), ""), 0.0)
    for one in times:
        bare = _ADDED.sub("", one.name)
        found[layers.get(one.name) or layers.get(bare, "")] += one.time_ns
    return found
