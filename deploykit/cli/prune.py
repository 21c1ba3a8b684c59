"""`deploykit compress prune SOURCE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploykit.cli.output import json_option, print_json, progress, quiet_option
from deploykit.compress.prune.options import AUTO, BLOCK_CRITERIA, COUNTED, CRITERIA, HEADS, SCOPES
from deploykit.compress.prune.structure import Exactness

if TYPE_CHECKING:
    from deploykit.core.types import Option
    from deploykit.flow.prune import PruneResult
    from deploykit.flow.prune_record import Pruning

_EXAMPLES = """\b
Examples:
  deploykit compress prune models/fashion_resnet --latency 0.7x --threads 1
  deploykit compress prune net.py:build --weights net.safetensors --input "x=N[1..64]x3x224x224" \\
      --ratio 0.5 --of macs --val images/val --train images/train --epochs 5 --max-drop 1
"""
_MOST_REFUSED = 8


def _pruning_options(function: click.decorators.FC) -> click.decorators.FC:
    """Options that become fields of `PruneOptions`."""
    options = (
        click.option("--ratio", type=float, help="Share that goes, such as 0.5.  [default: 0.5]"),
        click.option("--of", type=click.Choice(COUNTED), help="What it is of.  [default: macs]"),
        click.option("--criterion", type=click.Choice(CRITERIA), help="Importance.  [default: l2]"),
        click.option(
            "--scope", type=click.Choice(SCOPES), help="Which channels compete.  [default: global]"
        ),
        click.option(
            "--exclude", multiple=True, help="Layers that stay whole, such as 'layer1.*'."
        ),
        click.option(
            "--align", help="Kept channels are multiples of it; auto measures.  [default: auto]"
        ),
        click.option(
            "--heads",
            type=click.Choice(HEADS),
            help="Attention: narrow each head, or take heads.  [default: within]",
        ),
        click.option(
            "--exactness",
            type=click.Choice([level.value for level in Exactness]),
            help="The least exact groups that are cut.  [default: approximate]",
        ),
        click.option("--depth", type=float, help="Blocks that go first, or a share.  [default: 0]"),
        click.option(
            "--depth-by",
            type=click.Choice((AUTO, *BLOCK_CRITERIA)),
            help="How much a block is needed.  [default: auto]",
        ),
        click.option("--max-ratio", type=float, help="Most of one group.  [default: 0.9]"),
        click.option("--samples", type=int, help="For criteria that need data.  [default: 256]"),
        click.option("--seed", type=int, help="Of pruning and training.  [default: 0]"),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _tuning_options(function: click.decorators.FC) -> click.decorators.FC:
    """Options that become fields of `TrainOptions`."""
    options = (
        click.option("--epochs", type=int, help="Of a round.  [default: a quarter of [train]'s]"),
        click.option("--learning-rate", type=float, help="[default: half of [train]'s]"),
        click.option("--batch-size", type=int, help="Of training.  [default: [train]'s]"),
        click.option("--patience", type=int, help="Epochs without gain before it stops."),
        click.option(
            "--no-finetune", "finetune", flag_value=False, default=True, help="Cut and leave it."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command("prune", epilog=_EXAMPLES)
@click.argument("source")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="[default: build/NAME-pruned]"
)
@click.option("--weights", type=click.Path(path_type=Path), help=".safetensors, .pt or .pth file.")
@click.option("--input", "inputs", multiple=True, help='Such as "x=N[1..64]x3x224x224:float32".')
@click.option("--latency", default="", help="Prune to 0.6x of the latency, or to 4ms.")
@_pruning_options
@click.option("--rounds", type=int, default=1, show_default=True, help="Cut and recover so often.")
@click.option("--max-drop", type=float, help="Points of accuracy on --val that may be lost.")
@click.option("--train", default="", help="Data to fine-tune on.")
@click.option("--val", default="", help="Data that drives every choice.")
@click.option("--eval", "evaluation", default="", help="Data that only reports.")
@click.option("--metric", default="", help="top-1, top-5, mae or module:callable.")
@_tuning_options
@click.option("--batch", type=click.IntRange(min=1), help="Of the measurement.  [default: 1]")
@click.option("--threads", type=click.IntRange(min=1), help="Of the measurement.")
@click.option(
    "--no-measure", "measure", flag_value=False, default=True, help="Take no latencies at all."
)
@click.option("--check", is_flag=True, help="Prove the cut in float64.")
@click.option("--trust", is_flag=True, help="Load a .pt2 file, which can run code.")
@click.option("--overwrite", is_flag=True, help="Replace a pruned network that is there.")
@json_option
@quiet_option
def command(
    source: str,
    output: Path | None,
    weights: Path | None,
    inputs: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **given: Option,
) -> None:
    """Cut channels, heads and layers from SOURCE, and train what is left.

    SOURCE is path/net.py:build, package.module:callable, timm:NAME, torchvision:NAME, or a folder
    with recipe.toml, whose data and training are then used.

    The folder that is made is a source itself (deploykit export build/NAME-pruned). It holds
    plan.json (what is kept of which parameter), weights.safetensors, pruning.json (groups, and why
    some were refused), report.json (the checks) and recipe.toml. What is slower than SOURCE is
    never handed over: the exit status is then 1.
    """
    from deploykit.cli.export import default_output
    from deploykit.core.report import Verdict
    from deploykit.flow.prune import run_prune
    from deploykit.flow.prune_request import PruneRequest
    from deploykit.load.inputs import parse_inputs
    from deploykit.load.sources import Source

    changes = _given(given, _CHANGES)
    tuning = _given(given, _TUNING)
    fallback = default_output(source)
    request = PruneRequest(
        source=Source(
            source,
            weights=weights,
            inputs=parse_inputs(inputs),
            trust=bool(given["trust"]),
        ),
        out=output or fallback.with_name(f"{fallback.name}-pruned"),
        changes=changes,
        tuning=tuning,
        eval=str(given["evaluation"]),
        **{name: given[name] for name in _PLAIN},  # type: ignore[arg-type]  # click has checked
    )
    with progress(quiet or as_json) as tell:
        result = run_prune(request, tell)
    if as_json:
        from deploykit.flow.prune_record import PRUNING

        print_json(result.pruning, PRUNING)
    else:
        _print(result)
    if any(check.verdict is not Verdict.PASSED for check in result.report.checks):
        raise click.exceptions.Exit(1)


_CHANGES = (
    "ratio", "of", "criterion", "scope", "exclude", "align", "heads", "exactness", "max_ratio",
    "samples", "seed", "depth", "depth_by",
)  # fmt: skip
_TUNING = ("epochs", "learning_rate", "batch_size", "patience", "seed")
_PLAIN = (
    "latency", "rounds", "max_drop", "train", "val", "metric", "finetune", "measure", "batch",
    "threads", "check", "overwrite",
)  # fmt: skip


def _given(given: dict[str, Option], names: tuple[str, ...]) -> dict[str, Option]:
    return {name: given[name] for name in names if given[name] not in (None, ())}


def _print(result: PruneResult) -> None:
    from deploykit.cli.export import check_row
    from deploykit.cli.output import Column, print_table

    _print_pruning(result.pruning)
    click.echo(f"{result.folder}: deploykit export {result.folder}")
    if not (result.folder / "kept.svg").is_file():
        click.echo("no picture of the kept channels: pip install 'deploykit[report]'")
    columns = (Column("check"), Column("verdict"), Column("value", right=True), Column("limit"))
    print_table(columns, [check_row(check) for check in result.report.checks])


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
        click.echo(f"{name}: {count_text(was)} -> {count_text(now)} ({share_text(now / was)} left)")
