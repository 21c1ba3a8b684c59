"""`deploykit compress prune SOURCE`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deploykit.cli.asked import Asked, asks
from deploykit.cli.fields import Said, given_of, options_of
from deploykit.cli.output import print_json, progress
from deploykit.compress.prune.options import (
    AUTO,
    BLOCK_CRITERIA,
    COUNTED,
    CRITERIA,
    HEADS,
    SCOPES,
    PruneOptions,
)
from deploykit.compress.prune.structure import Exactness
from deploykit.flow.prune.loop import PRECISIONS, PruneLoop
from deploykit.train.options import TrainOptions

if TYPE_CHECKING:
    from deploykit.core.types import Option
    from deploykit.flow.prune.prune import PruneResult
    from deploykit.flow.prune.record import Pruning

_EXAMPLES = """\b
Examples:
  deploykit compress prune models/fashion_resnet --latency 0.7x --threads 1
  deploykit compress prune net.py:build --weights net.safetensors --input "x=N[1..64]x3x224x224" \\
      --ratio 0.5 --of macs --val images/val --train images/train --epochs 5 --max-drop 1
"""
_MOST_REFUSED = 8


_PRUNING = {
    "ratio": Said("Share that goes, such as 0.5."),
    "of": Said("What it is of.", COUNTED),
    "criterion": Said("Importance.", CRITERIA),
    "scope": Said("Which channels compete.", SCOPES),
    "exclude": Said("Layers that stay whole, such as 'layer1.*'; may be given again."),
    "align": Said("Kept channels are multiples of it; auto measures."),
    "heads": Said("Attention: narrow each head, or take heads.", HEADS),
    "exactness": Said(
        "The least exact groups that are cut.", tuple(level.value for level in Exactness)
    ),
    "keep_class": Said("Cut only what the class of SOURCE can express, and keep the class."),
    "depth": Said("Blocks that go first, or a share."),
    "depth_by": Said("How much a block is needed.", (AUTO, *BLOCK_CRITERIA)),
    "max_ratio": Said("Most of one group."),
    "samples": Said("For criteria that need data."),
    "seed": Said("Of pruning and training."),
}
_LOOP = {
    "latency": Said("Prune to 0.6x of the latency, or to 4ms, in place of a ratio."),
    "rounds": Said("Cut and recover so often."),
    "max_drop": Said("Points of accuracy on --val that may be lost."),
    "finetune": Said("Cut and leave it."),
    "distill": Said("Weight of SOURCE's softened outputs beside the labels, 0 to 1."),
    "temperature": Said("That softens them."),
    "measure": Said("Take no latencies at all."),
    "batch": Said("Of the measurement.", default="the smallest"),
    "threads": Said("Of the measurement."),
    "precision": Said("That will ship: for rounding and latency.", PRECISIONS),
    "check": Said("Prove the cut in float64."),
}
_TUNING = {
    "epochs": Said("Of training, a round.", default="a quarter of [train]'s"),
    "learning_rate": Said("The highest.", default="a quarter of [train]'s"),
    "batch_size": Said("Of training.", default="[train]'s"),
    "patience": Said("Epochs without gain before it stops.", default="[train]'s"),
}


@click.command("prune", epilog=_EXAMPLES)
@asks(
    "pruned",
    "Data to fine-tune on.",
    options_of(PruneOptions, _PRUNING),
    options_of(PruneLoop, _LOOP),
    options_of(TrainOptions, _TUNING),
)
def command(asked: Asked, **given: Option) -> None:
    """Cut channels, heads and layers from SOURCE, and train what is left.

    SOURCE is path/net.py:build, package.module:callable, timm:NAME, torchvision:NAME, or a folder
    with recipe.toml, whose data and training are then used.

    The folder that is made is a source itself (deploykit export build/NAME-pruned). It holds
    plan.json (what is kept of which parameter), weights.safetensors, pruning.json (groups, and why
    some were refused), report.json (the checks) and recipe.toml. What is slower than SOURCE is
    never handed over: the exit status is then 1.
    """
    from deploykit.core.report import Verdict
    from deploykit.flow.prune.prune import run_prune
    from deploykit.flow.prune.request import PruneRequest

    request = PruneRequest(
        source=asked.source,
        out=asked.out,
        changes=given_of(given, _PRUNING),
        tuning=given_of(given, {**_TUNING, "seed": _PRUNING["seed"]}),
        train=asked.train,
        val=asked.val,
        eval=asked.eval,
        metric=asked.metric,
        overwrite=asked.overwrite,
        **given_of(given, _LOOP),  # type: ignore[arg-type]  # of the fields' own types
    )
    with progress(asked.still) as tell:
        result = run_prune(request, tell)
    if asked.as_json:
        from deploykit.flow.prune.record import PRUNING

        print_json(result.pruning, PRUNING)
    else:
        _print(result)
    if any(check.verdict is not Verdict.PASSED for check in result.report.checks):
        raise click.exceptions.Exit(1)


def _print(result: PruneResult) -> None:
    from deploykit.cli.export import print_checks

    _print_pruning(result.pruning)
    click.echo(f"{result.folder}: deploykit export {result.folder}")
    if not (result.folder / "kept.svg").is_file():
        click.echo("no picture of the kept channels: pip install 'deploykit[report]'")
    print_checks(result.report)


def _print_pruning(pruning: Pruning) -> None:
    from deploykit.cli.output import Column, print_table
    from deploykit.cli.units import count_text, share_text

    columns = (
        Column("group"), Column("kept", right=True), Column("of", right=True),
        Column("exactness"), Column("why"),
    )  # fmt: skip
    free = [row for row in pruning.groups if not row.refused]
    print_table(columns, [(r.name, str(r.kept), str(r.channels), r.exactness, r.why) for r in free])
    refused = [row for row in pruning.groups if row.refused]
    for row in refused[:_MOST_REFUSED]:
        click.echo(f"{row.name} stays whole: {row.refused}")
    if len(refused) > _MOST_REFUSED:
        click.echo(f"... and {len(refused) - _MOST_REFUSED} more; see pruning.json")
    gone = [row.name for row in pruning.blocks if row.removed]
    if gone:
        click.echo(f"{len(gone)} of {len(pruning.blocks)} blocks gone: {', '.join(gone)}")
    before, after = pruning.before, pruning.after
    for name, was, now in (
        ("parameters", before.parameters, after.parameters),
        ("MACs", before.macs, after.macs),
    ):
        left = share_text(now / was if was else 1.0)  # tables have no layer that multiplies
        click.echo(f"{name}: {count_text(was)} -> {count_text(now)} ({left} left)")
