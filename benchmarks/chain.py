"""Pruned, fine-tuned and quantized: our chain beside the best one made by hand of the peers' tools.

The peers' chain is what an expert would try: Torch-Pruning to several shares of the MACs, with and
without channels rounded for the hardware, the same fine-tuning, then ONNX Runtime's quantizer and
NNCF; of all that, what is fastest and keeps the accuracy on the test set itself, which is more than
an expert could know. Ours aims at shares of the measured INT8 latency, and the fastest is chosen
that keeps the accuracy on the validation data with 95 % confidence. Networks and judgements are
kept one by one, so that an interrupted run goes on.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import sqrt
from typing import TYPE_CHECKING

from benchmarks import chain_one, packages
from benchmarks.chain_made import Chains
from benchmarks.fine_tuned import OURS
from benchmarks.peers import int8_packages
from benchmarks.result import Figure, Result
from benchmarks.turns import has_vnni, in_turns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.chain_made import Entry
    from benchmarks.int8_one import Made
    from benchmarks.turns import Times

GOAL = (
    "fashion_resnet pruned, fine-tuned and quantized loses at most 0.5 points on the full test "
    "set; with VNNI, on one thread at batch 1, it is then at least 1.3x as fast as the best such "
    "chain of Torch-Pruning and ONNX Runtime's quantizer or NNCF, and 5.6x as fast as float."
)
_MOST_LOST = 0.5  # points
_LEAST_OVER_PEERS, _LEAST_OVER_FLOAT = 1.3, 5.6
_PROCESSES, _ROUNDS = 7, 10
_QUICK_PROCESSES, _QUICK_ROUNDS = 2, 5
_AT_ONCE = 2
_VAL, _TEST = 0, 1
_POINTS = 100.0
_ONE_SIDED_95 = 1.645


def run(*, quick: bool) -> Result:
    """Choose, train, quantize and judge what is not kept already; then measure all in turns."""
    packages.install()
    int8_packages.install()
    chains = Chains.of_here(quick=quick)
    parent = chains.parent()
    jobs = chains.jobs()
    chains.choose([job for job in jobs if job.tool == OURS])
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        networks = list(pool.map(chains.network, jobs))
        wanted = [
            (job, tool, way)
            for job, made in zip(jobs, networks, strict=True)
            if made is not None
            for tool, way in (((OURS, ""),) if job.tool == OURS else chains.ways)
        ]
        entries = [one for one in pool.map(lambda x: chains.entry(*x), wanted) if one is not None]
    figures = list(_figures(chains, parent, entries))
    missing = len(jobs) - sum(made is not None for made in networks)
    missing += len(wanted) - len(entries)
    name = "trainings and quantizations not reached in the time, run again to go on"
    figures.append(Figure(name, missing, "", "0", met=missing == 0))
    return Result(tuple(figures))


def _figures(chains: Chains, parent: Made, entries: Sequence[Entry]) -> Iterator[Figure]:
    judged = not chains.quick
    yield Figure("float, right", parent.share(_TEST), f"% of {len(parent.right[_TEST])}")
    ours = [one for one in entries if one.ours]
    peers = [one for one in entries if not one.ours]
    able = [one for one in peers if not judged or _lost(parent, one, _TEST) <= _MOST_LOST]
    for one in entries:
        yield Figure(f"{one.label}: points lost", _lost(parent, one, _TEST), "")
    if not ours or not able:
        name = "chains to compare: ours, and the peers' that keep the accuracy"
        yield Figure(name, min(len(ours), len(able)), "", "at least 1", met=not judged)
        return
    measured = [*ours, *able]
    times = in_turns(
        [chains.parent_folder / chain_one.MODEL, *(one.artifact for one in measured)],
        processes=_QUICK_PROCESSES if chains.quick else _PROCESSES,
        rounds=_QUICK_ROUNDS if chains.quick else _ROUNDS,
    )
    yield Figure("float", times.median_ns(0) / 1e6, "ms")
    for which, one in enumerate(measured, 1):
        yield Figure(f"{one.label}: over float", times.compared(0, which).value, "x")
    placed = list(enumerate(measured, 1))
    chosen = _chosen(parent, times, placed[: len(ours)])
    yield from _verdict(parent, times, chosen, placed[len(ours) :], judged=judged)


def _chosen(parent: Made, times: Times, ours: Sequence[tuple[int, Entry]]) -> tuple[int, Entry]:
    """The fastest that surely keeps the accuracy on the validation data, or what keeps most."""
    keeping = [place for place in ours if _most_lost(parent, place[1]) <= _MOST_LOST]
    if keeping:
        return min(keeping, key=lambda place: times.median_ns(place[0]))
    return min(ours, key=lambda place: _lost(parent, place[1], _VAL))


def _most_lost(parent: Made, one: Entry) -> float:
    """What is lost on the validation data, at most, with a confidence of 95 %.

    From the samples that only one of the two has right (Agresti, Categorical Data Analysis, 2002,
    section 10.1.1: the difference of proportions of matched pairs).
    """
    pairs = zip(parent.right[_VAL], one.made.right[_VAL], strict=True)
    apart = [int(before) - int(after) for before, after in pairs]
    lost = sum(apart) / len(apart)
    variance = sum(value**2 for value in apart) / len(apart) - lost**2
    return _POINTS * (lost + _ONE_SIDED_95 * sqrt(variance / len(apart)))


def _verdict(
    parent: Made,
    times: Times,
    ours: tuple[int, Entry],
    peers: Sequence[tuple[int, Entry]],
    *,
    judged: bool,
) -> Iterator[Figure]:
    """The chain that we chose beside float and the peers' fastest, with and without rounding."""
    lost = _lost(parent, ours[1], _TEST)
    goal = f"at most {_MOST_LOST:g}" if judged else ""
    name = f"our chain, chosen on val: {ours[1].label}: points lost"
    yield Figure(name, lost, "", goal, met=not judged or lost <= _MOST_LOST)
    best = min(peers, key=lambda place: times.median_ns(place[0]))
    rivals = [
        ("float", 0, _LEAST_OVER_FLOAT),
        (f"the peers' best, {best[1].label}", best[0], _LEAST_OVER_PEERS),
    ]
    if best[1].rounded and (plain := [place for place in peers if not place[1].rounded]):
        second = min(plain, key=lambda place: times.median_ns(place[0]))
        rivals.append((f"the peers' best unrounded, {second[1].label}", second[0], 0.0))
    for said, other, least in rivals:
        found = times.compared(other, ours[0])
        held = judged and least > 0 and has_vnni()
        yield Figure(
            f"our chain over {said}, {found.low:.3f} to {found.high:.3f}",
            found.value,
            "x",
            f"at least {least:g}" if held else "",
            met=not held or found.value >= least,
        )


def _lost(parent: Made, one: Entry, split: int) -> float:
    return parent.share(split) - one.made.share(split)
