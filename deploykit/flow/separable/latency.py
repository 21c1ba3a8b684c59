"""Which layers get faster when they are split: kernel times on the runtime, not counts.

A depthwise convolution computes little for each byte that it moves, so that a layer with an eighth
of the multiply-accumulates is not eight times as fast, and may be slower (Ma et al., "ShuffleNet
V2", ECCV 2018, arXiv:1807.11164, section 2). Each layer is timed as it is and split, in its own
shapes, side by side in one model (`deploykit.bench.layer_models`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from deploykit.bench.layer_models import Probe, SizedLayer
from deploykit.bench.layer_survey import faster_half, half_width
from deploykit.bench.layer_table import rules_for, single, time_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from deploykit.bench.layer_shapes import LayerShape
    from deploykit.core.measurement import Target
    from deploykit.core.progress import Progress

_BUDGET_S = 60.0
_UNKNOWN = 0.02  # half-width of a figure that was taken once
_MODEL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Timing:
    """One layer, as it is and split.

    Attributes:
        before_ns: of its kernels.
        after_ns: of both kernels.
        margin: half-widths of both 95 % intervals together, as a share.
    """

    before_ns: float
    after_ns: float
    margin: float

    @property
    def faster(self) -> bool:
        """Whether the split layer is faster beyond what the measurement may be off."""
        return self.after_ns < self.before_ns * (1 - self.margin)


def split_probe(shape: LayerShape, rank: int) -> Probe:
    """The two layers that a convolution becomes."""
    middle = shape.inputs * rank
    depthwise = replace(shape, outputs=middle, groups=shape.inputs, bias=False, relu=False)
    ones = (1,) * len(shape.kernel)
    pointwise = replace(
        shape,
        inputs=middle,
        spatial=shape.output_spatial,
        kernel=ones,
        stride=ones,
        padding=(0,) * 2 * len(ones),
        dilation=ones,
    )
    return Probe(
        (
            SizedLayer(depthwise, shape.inputs, middle),
            SizedLayer(pointwise, middle, shape.outputs),
        )
    )


def time_layers(
    shapes: Mapping[str, LayerShape],
    ranks: Mapping[str, int],
    target: Target,
    folder: Path,
    progress: Progress,
) -> dict[str, Timing]:
    """Time each layer as it is and split; what is known in `folder` is not timed again.

    Args:
        shapes: of layers, by name, in the precision that will ship.
        ranks: that they would be split at, by name.
        target: threads and batch that will ship.
        folder: of the times that are kept.
        progress: told where it stands.

    Raises:
        EnvironmentFailedError: the measuring process died, or `folder` cannot be written.
    """
    if not shapes:
        return {}
    pairs = {
        name: (single(shape, shape.inputs, shape.outputs), split_probe(shape, ranks[name]))
        for name, shape in shapes.items()
    }
    probes: Sequence[Probe] = list(dict.fromkeys(one for pair in pairs.values() for one in pair))
    rules = rules_for(shapes, _BUDGET_S)
    rules = replace(rules, weight_bytes=max(rules.weight_bytes, _MODEL_BYTES))
    blocks = time_all(probes, target, folder, rules, progress)
    return {name: _timing(*(blocks[one] for one in pair)) for name, pair in pairs.items()}


def _timing(before: tuple[float, ...], after: tuple[float, ...]) -> Timing:
    widths = [half_width(one) for one in (before, after)]
    margin = sum(_UNKNOWN if width is None else width for width in widths)
    return Timing(faster_half(before), faster_half(after), margin)
