"""`python -m benchmarks.peers.torch_pruning_one NETWORK`: one network pruned by Torch-Pruning.

As its README has it ("High-level Pruners"): BasePruner (of which MagnitudePruner is another name)
with the L2 norm of grouped weights, the final classifier ignored, everything else at its default;
without `round_to`, which would forbid cuts in small networks. Where that fails and the network
has attention that says how many heads it has, once more with `num_heads`, and with the modules'
own numbers of heads brought up to date, as its examples for vision transformers do. Prints
`Outcome`s.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace
from time import process_time
from typing import TYPE_CHECKING, Any

from benchmarks import packages, zoo
from benchmarks.outcome import RATIOS, Outcome, Trial, reason, tell
from benchmarks.pruned import held, parameters, run
from deploykit.bench import memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


def main(key: str) -> None:
    """Both ratios in turn, each try on a network built anew."""
    packages.on_path()
    import torch

    torch.set_num_threads(1)
    _warm_up()
    network = zoo.named(key)
    outcome = Outcome(key)
    for ratio in RATIOS:
        for with_heads in (False, True):
            module = zoo.build(network)
            heads = heads_of(module) if with_heads else {}
            if with_heads and not heads:
                break
            outcome = replace(outcome, parameters=parameters(module), weight_bytes=held(module))
            tell(outcome)
            images = torch.randn(2, 3, network.size, network.size)
            tried = _try(outcome, module, images, ratio, heads)
            if tried.trial(ratio).backward or not with_heads:
                outcome = tried
            tell(outcome)
            if outcome.trial(ratio).backward:
                break


def _try(
    outcome: Outcome,
    module: nn.Module,
    images: Tensor,
    ratio: float,
    heads: dict[nn.Module, int],
) -> Outcome:
    import torch

    with torch.no_grad():
        shape = module(images).shape
    try:
        memory.start()
        analysis_s, seconds = _prune(module, images[:1], ratio, heads)
        peak = memory.peak_bytes()
    except Exception as error:  # noqa: BLE001  (whatever a peer raises is its outcome)
        return outcome.with_trial(Trial(ratio, why=reason(error)))
    trial = Trial(ratio, seconds, parameters(module), how="num_heads given" if heads else "")
    outcome = outcome.with_trial(replace(trial, why="it ended while the pruned network ran"))
    if ratio == RATIOS[0]:
        outcome = replace(outcome, analysis_s=analysis_s, peak_rss_bytes=peak)
    tell(outcome)
    return outcome.with_trial(run(module, images, shape, trial))


def _prune(
    module: nn.Module, images: Tensor, ratio: float, heads: dict[nn.Module, int]
) -> tuple[float, float]:
    """Prune in place; seconds of the processor: of the analysis, and of scores and cuts."""
    import torch_pruning as tp

    began = process_time()
    pruner = tp.pruner.BasePruner(
        module,
        images,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=classifiers(module),
        num_heads=dict(heads),
    )
    built_s = process_time() - began
    with _timed_groups(pruner.DG) as spent:
        began = process_time()
        pruner.step()
        step_s = process_time() - began
    _tell_heads(module, pruner.num_heads if heads else {})
    return built_s + sum(spent), step_s - sum(spent)


def heads_of(module: nn.Module) -> dict[nn.Module, int]:
    """Heads of every attention whose one projection is known to write q, k and v."""
    from torch import nn

    found: dict[nn.Module, int] = {}
    for part in module.modules():
        number, projection = getattr(part, "num_heads", None), getattr(part, "qkv", None)
        if isinstance(part, nn.MultiheadAttention):
            found[part] = part.num_heads
        elif isinstance(number, int) and isinstance(projection, nn.Linear):
            found[projection] = number
    return found


def _tell_heads(module: nn.Module, heads: dict[nn.Module, int]) -> None:
    """The library knows how many heads are left; timm's attention has to be told."""
    part: Any
    for part in module.modules():
        projection = getattr(part, "qkv", None)
        if projection in heads:
            part.num_heads = heads[projection]
            if hasattr(part, "head_dim"):
                part.head_dim = projection.out_features // (3 * part.num_heads)


def classifiers(module: nn.Module) -> list[nn.Module]:
    """What makes the output, so that its shape stays: the README ignores such Linear layers."""
    from torch import nn

    return [
        layer
        for layer in module.modules()
        if (isinstance(layer, nn.Linear) and layer.out_features == zoo.CLASSES)
        or (isinstance(layer, nn.Conv2d) and layer.out_channels == zoo.CLASSES)
    ]


@contextmanager
def _timed_groups(graph: Any) -> Iterator[list[float]]:
    """Time what the library spends on finding its groups while it prunes: part of the analysis."""
    spent: list[float] = []
    found = graph.get_all_groups

    def timed(*args: object, **options: object) -> Iterator[object]:
        groups = iter(found(*args, **options))
        while True:
            began = process_time()
            group = next(groups, None)
            spent.append(process_time() - began)
            if group is None:
                return
            yield group

    graph.get_all_groups = timed
    try:
        yield spent
    finally:
        graph.get_all_groups = found


def _warm_up() -> None:
    """Prune a small network: what is imported on the way is no network's own cost."""
    import torch
    from torch import nn

    small = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    _prune(small.eval(), torch.randn(1, 3, 8, 8), RATIOS[0], {})


if __name__ == "__main__":
    main(sys.argv[1])
