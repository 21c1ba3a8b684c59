"""Never slower: layers whose integers take longer than their floats go back, and that is measured.

A profile of both networks says where to look, conversions at the borders included; the whole
network, measured in turns with the best so far, says whether it helped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from deploykit.bench.by_layer import times_by_layer
from deploykit.bench.profile import profile_nodes
from deploykit.core.errors import BadInputError
from deploykit.flow.quantize.rank import products
from deploykit.flow.quantize.work import unadjusted
from deploykit.load.artifacts import load_artifact
from deploykit.quantize.graph.wiring import Wiring
from deploykit.runtimes.ort import CPU

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import onnx

    from deploykit.bench.profile import NodeTime
    from deploykit.flow.quantize.judge import Bench
    from deploykit.flow.quantize.search import Trial
    from deploykit.flow.quantize.work import Made, Work

SLOWER = "its integers are slower than its floats on this machine"
_WORTH = 0.05
"""A layer is slower where it takes so much longer: a profile knows a time no better."""
_WORTH_NS = 5_000.0
"""And at least so much: its clock ticks in microseconds."""
_CLEARLY = 0.99
"""Of the time: less is not worth a layer in float."""


def slower_layers(work: Work, made: Made, whole: Path, part: Path) -> tuple[str, ...]:
    """Layers that multiply and take longer in integers than in float, the worst first.

    Args:
        work: what trials share.
        made: the quantized network.
        whole: the float graph that quantizers were placed in, written.
        part: the quantized network, written.
    """
    owners = _owners(made)
    before = times_by_layer(_profile(work, whole), owners)
    after = times_by_layer(_profile(work, part), owners)
    more = {name: after[name] - before[name] for name in products(made)}
    found = [n for n, ns in more.items() if ns > max(_WORTH * before[n], _WORTH_NS)]
    return tuple(sorted(found, key=lambda name: -more[name]))


def faster(
    work: Work, bench: Bench, trial: Trial, folder: Path, *, most: int = 3
) -> tuple[str, ...]:
    """Layers that make the network faster by staying float, measured.

    Args:
        work: what trials share; not changed in the end.
        bench: where networks are measured in turns.
        trial: that accuracy asked for.
        folder: for files; emptied again by whoever made it.
        most: proposals that are measured.

    Returns:
        Names, or none where the network is fastest as it is.
    """
    from deploykit.quantize.graph.write import write_graph

    trial = unadjusted(trial)
    made = work.made(trial)
    best = work.written(made, trial, _new(folder, "start")).model_path
    floats, *_ = write_graph(made.prepared.model, made.prepared.folder, folder / "float.onnx")
    slower = slower_layers(work, made, floats, best)
    taken: tuple[str, ...] = ()
    for number, names in enumerate(list(_proposals(slower, len(products(made))))[:most]):
        tried = replace(trial, floats=(*trial.floats, *names))
        try:
            part = work.written(work.made(tried), tried, _new(folder, f"try-{number}")).model_path
        except BadInputError:  # nothing would be left in integers
            continue
        found = bench.compare(best, part)
        work.progress(f"{len(names)} layers back in float: {found.share:.3g}x of the time", None)
        if found.share < _CLEARLY and (found.high is None or found.high < 1):
            best, taken = part, names
    return taken


def _proposals(slower: Sequence[str], count: int) -> Iterator[tuple[str, ...]]:
    """All of them, the worse half, the worst one."""
    sizes = dict.fromkeys((len(slower), len(slower) // 2, 1))
    yield from (tuple(slower[:size]) for size in sizes if 0 < size < count and size <= len(slower))


def _new(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir()
    return place


def _profile(work: Work, path: Path) -> Sequence[NodeTime]:
    feeds = next(iter(work.batches(1, work.request.batch or 1)))
    return profile_nodes(load_artifact(path), feeds, CPU, work.request.threads)


def _owners(made: Made) -> dict[str, str]:
    """By the names of nodes, and of the values that they give, the layer that they belong to.

    A layer has what its quantizer absorbs, the conversion of its result back to float, and that
    of its input to integers where nobody else gives it.
    """
    decision = made.quantized.decision
    floats, integers = Wiring.of(made.prepared.model), Wiring.of(made.quantized.model)
    owners: dict[str, str] = {}
    for node in floats.graph.node:
        if node.name in decision.nodes:
            for one in (node, *_absorbed(floats, node, decision.results[node.name])):
                owners.update(dict.fromkeys((one.name, *one.output), node.name))
    for node in integers.graph.node:
        if node.op_type == "QuantizeLinear":
            behind = integers.readers.get(node.output[0], ())
            readers = [r.name for b in behind for r in integers.readers.get(b.output[0], ())]
            maker = integers.makers.get(node.input[0])
            made_by = [] if maker is None else [maker.name]
            known = [owners[name] for name in (*made_by, *readers) if name in owners]
            names = (node.name, *(one.name for one in behind))
            owners.update(dict.fromkeys(names, known[0] if known else ""))
    return owners


def _absorbed(wiring: Wiring, node: onnx.NodeProto, result: str) -> Iterator[onnx.NodeProto]:
    """The nodes behind a layer up to its result."""
    while result not in node.output:
        reader = wiring.only_reader(node.output[0])
        if reader is None:
            return
        yield reader
        node = reader
