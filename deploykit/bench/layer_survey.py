"""Time many probes within a budget: rounds over all of them, in a new order each time.

As in `deploykit.bench.schedule`, what drifts hits all alike: every probe gets its second block only
when every one has its first. The probes of a round are spread over models whose weights together
are about as large as a network's, so that a layer finds as much of its own weights in the caches as
it would there: all of them where a network fits, none where it does not.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, TypeAlias

from deploykit.bench import protocol
from deploykit.bench.child import Child
from deploykit.bench.layer_models import Probe, write_probes
from deploykit.bench.statistics import MEDIAN_CONFIDENCE
from deploykit.core.student_t import student_t

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from deploykit.core.measurement import Target
    from deploykit.core.progress import Progress

TimeBlock: TypeAlias = "Callable[[Sequence[Probe], int], Sequence[float]]"
"""Times one model of probes, with a seed for its weights: nanoseconds of each, in order."""

_MOST_PROBES = 48


@dataclass(frozen=True, slots=True)
class SurveyRules:
    """When the probes have been timed enough.

    Attributes:
        budget_ns: the most time for all; only the first block of each probe may go over it.
        precision: a probe is done once the interval of its latency is within this share of it.
        fewest_blocks: of a probe, unless the budget ends before.
        most_blocks: of a probe, precise or not.
        slice_ns: how long one model is called, within limits.
        weight_bytes: of one model: about the size of the network's weights.
    """

    budget_ns: int = 60_000_000_000
    precision: float = 0.02
    fewest_blocks: int = 3
    most_blocks: int = 10
    slice_ns: int = 100_000_000
    weight_bytes: int = 4 << 20


def faster_half(values: Sequence[float]) -> float:
    """The mean of the smaller half of latencies, of at least one; see `layer_timing` for why."""
    ordered = sorted(values)
    return fmean(ordered[: (len(ordered) + 1) // 2])


def half_width(blocks_ns: Sequence[float]) -> float | None:
    """Half of the mean's interval over blocks, as a share of the median; `None` from one block.

    Student's t; blocks come from sessions of their own, and so are independent of each other.
    """
    if len(blocks_ns) < 2:
        return None
    error = stdev(blocks_ns) / len(blocks_ns) ** 0.5
    return float(student_t(MEDIAN_CONFIDENCE, len(blocks_ns) - 1) * error / median(blocks_ns))


def is_done(blocks_ns: Sequence[float], rules: SurveyRules) -> bool:
    """Whether a probe needs no more blocks."""
    if len(blocks_ns) < rules.fewest_blocks:
        return False
    spread = half_width(blocks_ns)
    precise = spread is not None and spread <= rules.precision
    return precise or len(blocks_ns) >= rules.most_blocks


def survey(
    wanted: Sequence[Probe],
    known: Mapping[Probe, tuple[float, ...]],
    rules: SurveyRules,
    time_block: TimeBlock,
    *,
    keep: Callable[[Mapping[Probe, tuple[float, ...]]], None],
    progress: Progress,
    seed: int = 0,
    clock: Callable[[], int] = time.monotonic_ns,
) -> dict[Probe, tuple[float, ...]]:
    """Time probes in rounds until all are done or the budget is spent.

    Args:
        wanted: each at most once.
        known: blocks of before, in nanoseconds; they count.
        rules: when it is enough.
        time_block: does the work.
        keep: is given all blocks so far after each model, so that an interruption loses one model.
        progress: told after each model.
        seed: of the order and of weights.
        clock: in nanoseconds.

    Returns:
        The blocks of every probe in `wanted`, at least one.

    Raises:
        DeploykitError: the measuring process failed.
    """
    blocks = {probe: known.get(probe, ()) for probe in wanted}
    chance = Random(seed)  # noqa: S311  (an order of turns is no secret)
    began = clock()
    while pending := _round(blocks, rules):
        chance.shuffle(pending)
        for model in _models(pending, rules.weight_bytes):
            spent = clock() - began
            if spent >= rules.budget_ns and all(blocks[probe] for probe in model):
                continue
            for probe, ns in zip(model, time_block(model, chance.randrange(1 << 31)), strict=True):
                blocks[probe] = (*blocks[probe], ns)
            keep(blocks)
            progress("timing layers", _share(blocks, rules, clock() - began))
        if clock() - began >= rules.budget_ns:
            break
    return blocks


def _round(blocks: Mapping[Probe, tuple[float, ...]], rules: SurveyRules) -> list[Probe]:
    """Those that are not done; first those without any, where an earlier survey was cut off."""
    pending = [probe for probe, own in blocks.items() if not is_done(own, rules)]
    untouched = [probe for probe in pending if not blocks[probe]]
    return untouched or pending


def _models(probes: Sequence[Probe], weight_bytes: int) -> Iterator[list[Probe]]:
    model: list[Probe] = []
    size = 0
    for probe in probes:
        more = probe.weight_bytes
        if model and (size + more > weight_bytes or len(model) >= _MOST_PROBES):
            yield model
            model, size = [], 0
        model.append(probe)
        size += more
    if model:
        yield model


def _share(blocks: Mapping[Probe, tuple[float, ...]], rules: SurveyRules, spent: int) -> float:
    work = [
        1.0 if is_done(own, rules) else min(len(own) / rules.most_blocks, 0.95)
        for own in blocks.values()
    ]
    first = sum(bool(own) for own in blocks.values()) / len(blocks)
    return max(sum(work) / len(work), min(spent / rules.budget_ns, first) * 0.95)


@contextmanager
def measuring(
    target: Target, rules: SurveyRules, start: Callable[[], Child] = Child
) -> Iterator[TimeBlock]:
    """A process that times probes on a target; this one only writes the models for it.

    So neither PyTorch's threads nor its memory stand beside what is timed. The process starts
    when there is something to time.
    """
    child: Child | None = None
    with tempfile.TemporaryDirectory(prefix="deploykit-layers-") as folder:
        path = Path(folder) / "probes.onnx"

        def time_block(probes: Sequence[Probe], seed: int) -> Sequence[float]:
            nonlocal child
            child = child or start()
            write_probes(probes, path, seed)
            request = protocol.TimeProbes(str(path), target, len(probes), rules.slice_ns)
            return child.ask(request, protocol.ProbesTimed).latency_ns

        try:
            yield time_block
        finally:
            if child is not None:
                child.close()
