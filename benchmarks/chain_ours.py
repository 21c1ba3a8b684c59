"""The reference network cut to a share of its INT8 latency, as it is measured here.

A table of INT8 latencies by layer and channel count guides the choice, in steps of channels that
INT8 kernels were measured to like; what is chosen is quantized and measured beside the whole
network in INT8, and the choice moves until the measured share is the one that was asked for. The
parts are those of `deploykit compress prune --latency`, which aims at float32 itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.compress.prune.options import PruneOptions
from deploykit.core import records
from deploykit.core.progress import silent
from deploykit.flow.prune_aim import read_counts
from deploykit.flow.prune_cutting import Cutting
from deploykit.flow.prune_latency import Bench, aimed, predictor, steps_of
from deploykit.flow.prune_record import KEPT, Counts
from deploykit.flow.prune_size import network_of, shapes_of, smaller

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from deploykit.compress.prune.choice.select import Selection
    from deploykit.core.types import Model
    from deploykit.flow.prune_size import Network
    from deploykit.flow.side_by_side import SideBySide

_CALIBRATE = "fashion-mnist:train[:64]"  # enough for a latency
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
        kept = _decided(network, options, bench, share)
        records.save(folder / _KEPT_NAME, Counts(kept), KEPT)
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


def _decided(network: Network, options: PruneOptions, bench: Bench, share: float) -> dict[str, int]:
    """Channels that groups keep."""
    from deploykit.compress.prune.choice.candidates import candidates
    from deploykit.compress.prune.choice.footprint import footprint
    from deploykit.compress.prune.cutting.cut import plan_of

    whole = bench.exported(network.model, "whole")
    layers = bench.layers(whole)
    steps = steps_of(network.structure.free, bench.alignment(layers))
    cutting = Cutting(options, steps, None)
    scores = cutting.scores(network)
    groups = candidates(network.structure, options.exclude, options.least_exact)
    cost = predictor(bench.table(layers), footprint(groups, shapes_of(network.program)))
    whole_int8 = _quantized(whole)

    def try_out(selection: Selection, *, careful: bool) -> SideBySide:
        plan = plan_of(network.structure, selection.removed, network.program.sizes)
        small = smaller(network.model, network.program, plan, keep_class=False)
        part = _quantized(bench.exported(small, "part"))
        return bench.compare(whole_int8, part, careful=careful)

    selection, _ = aimed(
        share,
        lambda left: cutting.selection(network, scores, 1 - left, cost=cost),
        try_out,
        silent,
    )
    return {
        group.name: group.channels - len(selection.removed.get(group.name, ()))
        for group in network.structure.free
    }


def _quantized(artifact: Path) -> Path:
    from deploykit.flow.quantize import QuantizeRequest, run_quantize

    out = artifact.with_name(f"{artifact.name}-int8")
    run_quantize(
        QuantizeRequest(
            artifact, out, _CALIBRATE, measure=False, threads=1, force=True, overwrite=True
        )
    )
    return out
