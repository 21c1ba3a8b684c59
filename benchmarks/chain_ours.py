"""The reference network cut to a share of its INT8 latency, as it is measured here.

A table of INT8 latencies by layer and channel count guides the choice, in steps of channels that
INT8 kernels were measured to like; what is chosen is quantized and measured beside the whole
network in INT8, and the choice moves until the measured share is the one that was asked for: the
parts of `deploykit compress prune --latency 0.5x --precision int8`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.compress.prune.options import PruneOptions
from deploykit.core.progress import silent
from deploykit.flow.prune.aim import Planner, read_counts
from deploykit.flow.prune.cutting import Cutting
from deploykit.flow.prune.latency import Bench, steps_of
from deploykit.flow.prune.loop import LatencyAim
from deploykit.flow.prune.size import network_of, smaller

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from deploykit.core.types import Model
    from deploykit.flow.prune.size import Network

_KEPT_NAME = "kept.json"  # what `read_counts` reads


def cut_to_latency(model: Model, share: float, folder: Path, tables: Path) -> nn.Module:
    """The network with the channels that leave a share of its INT8 latency.

    Args:
        model: not changed.
        share: of the INT8 latency of the whole network.
        folder: where the decision is kept: it is made once.
        tables: where latencies of layers are kept.
    """
    from deploykit.compress.prune.cutting.cut import plan_of

    options = PruneOptions()
    network = network_of(model, options)
    if not (folder / _KEPT_NAME).is_file():
        bench = Bench(folder, tables, 1, 1, silent, "int8")
        _planner(network, options, bench, share).make(folder)
    cutting = Cutting(options, {}, None, read_counts(folder))
    whole = {group.name: group.channels for group in network.structure.groups}
    removed = cutting.planned(network.structure, cutting.scores(network), whole, 1.0)
    plan = plan_of(network.structure, removed, network.program.sizes)
    return smaller(model, network.program, plan, keep_class=False).module


def cut_to_macs(model: Model, share: float, align: int) -> nn.Module:
    """The network with a share of its MACs: for a quick look, without measuring anything."""
    from deploykit.compress.prune.cutting.cut import plan_of

    options = PruneOptions(ratio=1 - share)
    network = network_of(model, options)
    steps = dict.fromkeys((group.name for group in network.structure.free), align)
    cutting = Cutting(options, steps, None)
    chosen = cutting.selection(network, cutting.scores(network), options.ratio)
    plan = plan_of(network.structure, chosen.removed, network.program.sizes)
    return smaller(model, network.program, plan, keep_class=False).module


def _planner(network: Network, options: PruneOptions, bench: Bench, share: float) -> Planner:
    whole = bench.exported(network.model, "whole")
    steps = steps_of(network.structure.free, bench.alignment(bench.layers(whole)))
    cutting = Cutting(options, steps, None)
    return Planner(
        LatencyAim(f"{share:g}x", share=share),
        bench,
        whole,
        network,
        lambda: cutting.scores(network),
        cutting,
        silent,
    )
