"""`python -m benchmarks.prune_one NETWORK ...`: networks pruned by deploykit; prints `Outcome`s.

The L2 norm over the group, every group by the same share of its channels, as the peer is asked.
"""

from __future__ import annotations

import argparse
import inspect
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING

from benchmarks import packages, zoo
from benchmarks.outcome import RATIOS, Outcome, Trial, reason, tell
from benchmarks.pruned import held, parameters, run
from deploykit.bench import memory
from deploykit.compress.prune.options import PruneOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from deploykit.compress.prune.graph.program import Program
    from deploykit.compress.prune.plan import Plan
    from deploykit.compress.prune.structure import Structure
    from deploykit.core.types import Model

_SEED = 0
_MOST_REASONS = 8
_HIGHEST_BATCH = 3  # parity is looked at with batches of 1 and 3


@dataclass(frozen=True, slots=True)
class _Subject:
    """The network under the knife, analysed."""

    model: Model
    program: Program
    structure: Structure


def main(keys: Sequence[str], *, lean: bool) -> None:
    """Prune each network in turn."""
    packages.on_path()
    import torch

    torch.set_num_threads(1)
    _warm_up()
    for key in keys:
        _one(zoo.named(key), lean=lean)


def _one(network: zoo.Network, *, lean: bool) -> None:
    """Analyse once; then both ratios in turn."""
    import torch

    model = _declared(zoo.build(network), network.size)
    outcome = Outcome(network.key, parameters(model.module), held(model.module))
    tell(outcome)
    memory.start()
    began = process_time()
    try:
        subject = _analysed(model)
    except Exception as error:  # noqa: BLE001  (a failure of ours is an outcome, too)
        tell(replace(outcome, why=reason(error)))
        return
    outcome = replace(
        outcome, analysis_s=process_time() - began, locked=_reasons(subject.structure)
    )
    images = torch.randn(2, 3, network.size, network.size)
    for ratio in RATIOS[: 1 if lean else None]:
        outcome = _try(outcome, subject, images, ratio, lean=lean)


def _try(
    outcome: Outcome, subject: _Subject, images: Tensor, ratio: float, *, lean: bool
) -> Outcome:
    import torch

    tell(outcome.with_trial(Trial(ratio, why="it ended while it was cut")))
    began = process_time()
    try:
        plan, small = _cut(subject, ratio)
    except Exception as error:  # noqa: BLE001  (a failure of ours is an outcome, too)
        outcome = outcome.with_trial(Trial(ratio, why=reason(error)))
        tell(outcome)
        return outcome
    trial = Trial(ratio, process_time() - began, parameters(small))
    if ratio == RATIOS[0]:
        outcome = replace(outcome, peak_rss_bytes=memory.peak_bytes())
    tell(outcome.with_trial(replace(trial, why="it ended while the pruned network ran")))
    with torch.no_grad():
        shape = subject.model.module(images).shape
    trial = run(small, images, shape, trial)
    small.zero_grad(set_to_none=True)
    for test in _tests(subject, plan, small)[: _tested(ratio, lean=lean)]:
        tell(outcome.with_trial(trial))
        try:
            trial = test(trial)
        except Exception as error:  # noqa: BLE001  (a failure of ours is an outcome, too)
            trial = replace(trial, why=trial.why or reason(error))
    outcome = outcome.with_trial(trial)
    tell(outcome)
    return outcome


def _tested(ratio: float, *, lean: bool) -> int:
    """How many of the tests are made: all at the first ratio, the first at others."""
    if ratio != RATIOS[0]:
        return 1
    return 2 if lean else 3


def _tests(subject: _Subject, plan: Plan, small: nn.Module) -> tuple[Callable[[Trial], Trial], ...]:
    return (
        lambda trial: replace(trial, exact_error=_exact(subject, plan)),
        lambda trial: _kept_class(subject, plan, trial),
        lambda trial: replace(trial, parity=_parity(subject, small)),
    )


def _declared(module: nn.Module, size: int) -> Model:
    from deploykit.core.types import Model
    from deploykit.load.inputs import parse_inputs

    name = next(iter(inspect.signature(module.forward).parameters))
    shape = f"N[1..{_HIGHEST_BATCH}]x3x{size}x{size}"
    return Model(module, parse_inputs([f"{name}={shape}"]))


def _analysed(model: Model) -> _Subject:
    from deploykit.compress.prune.analysis.analyse import analyse
    from deploykit.compress.prune.graph.program import program_of

    program = program_of(model)
    return _Subject(model, program, analyse(program))


def _cut(subject: _Subject, ratio: float) -> tuple[Plan, nn.Module]:
    from deploykit.compress.prune.choice.score import score
    from deploykit.compress.prune.choice.select import select
    from deploykit.compress.prune.cutting.cut import cut, plan_of

    options = PruneOptions(ratio=ratio, of="channels", scope="layer", criterion="l2", align="1")
    module = subject.model.module
    selection = select(
        subject.structure,
        score(module, subject.structure, options.criterion),
        options,
        shapes={name: tuple(tensor.shape) for name, tensor in module.named_parameters()},
    )
    sizes = subject.program.sizes
    plan = plan_of(subject.structure, selection.removed, sizes)
    return plan, cut(subject.program, plan)


def _exact(subject: _Subject, plan: Plan) -> float:
    """The oracle's difference; groups that are only nearly right stay whole, as with `--check`."""
    from deploykit.compress.prune.cutting.oracle import agreement
    from deploykit.compress.prune.plan import without
    from deploykit.compress.prune.structure import Exactness

    nearly = [g for g in subject.structure.free if g.exactness is Exactness.APPROXIMATE]
    return agreement(subject.program, without(plan, nearly), subject.model.inputs, _SEED).difference


def _kept_class(subject: _Subject, plan: Plan, trial: Trial) -> Trial:
    """Whether the user's own class, smaller, runs and agrees with the graph."""
    from deploykit.compress.prune.own_class.keep_class import CannotKeepClassError, keep_class

    try:
        keep_class(subject.model, subject.program, plan, seed=_SEED)
    except CannotKeepClassError as error:
        return replace(trial, intact=False, how=f"as a graph: {reason(error)}")
    return replace(trial, intact=True)


def _parity(subject: _Subject, small: nn.Module) -> float:
    """Worst relative difference of the ONNX file from the pruned network, over some batches."""
    from deploykit.check.parity import compare
    from deploykit.core.measurement import Target
    from deploykit.export.options import ExportOptions
    from deploykit.export.torch_to_onnx import export_model
    from deploykit.flow.verify import outputs_of, parity_sizes
    from deploykit.load.calls import run_module
    from deploykit.load.synthetic import synthetic_feeds
    from deploykit.runtimes.ort import CPU

    model = replace(subject.model, module=small.eval())
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        exported = export_model(model, Path(folder), ExportOptions())
        with closing(CPU.open(exported.artifact, Target("ort-cpu", threads=1))) as session:
            for sizes in parity_sizes(model.inputs):
                feeds = synthetic_feeds(model.inputs, sizes, _SEED)
                expected = run_module(model.module, model.inputs, feeds)
                found = compare("parity", expected, outputs_of(session, feeds)).value
                worst = max(worst, float("inf") if found is None else found)
    return worst


def _reasons(structure: Structure) -> tuple[str, ...]:
    """Why groups are locked, the most frequent first."""
    counted = Counter(group.locked for group in structure.groups if group.locked)
    return tuple(f"{number} x {why}" for why, number in counted.most_common(_MOST_REASONS))


def _warm_up() -> None:
    """Capture and cut a small network: what is imported on the way is no network's own cost."""
    from torch import nn

    small = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    _cut(_analysed(_declared(small.eval(), 8)), RATIOS[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prune_one")
    parser.add_argument("networks", nargs="+", choices=[network.key for network in zoo.NETWORKS])
    parser.add_argument("--lean", action="store_true", help="one ratio, and no ONNX file")
    chosen = parser.parse_args()
    main(chosen.networks, lean=chosen.lean)
