"""`deploykit compress exits SOURCE`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deploykit.cli.asked import Asked, asks
from deploykit.cli.fields import Said, given_of, options_of
from deploykit.cli.output import print_json, progress
from deploykit.compress.exits.options import HEADS, ExitsOptions
from deploykit.core.report import Verdict
from deploykit.flow.exits.loop import RULE_NAMES, ExitsLoop
from deploykit.train.options import TrainOptions

if TYPE_CHECKING:
    from deploykit.core.types import Option
    from deploykit.flow.exits.exits import ExitsResult
    from deploykit.flow.exits.record import ExitRow, Exits

_EXAMPLES = """\b
Examples:
  deploykit compress exits models/fashion_resnet
  deploykit compress exits models/fashion_resnet --at stages.0 --at stages.1 --max-drop 0.5
  deploykit compress exits net.py:build --weights net.safetensors --input "x=N[1..64]x3x224x224" \\
      --train images/train --val images/val --frozen --rule entropy --latency 0.5x
"""
_EXITS = {
    "at": Said("Layer behind which samples may leave; may be given again.", default="measured"),
    "exits": Said("How many are placed by measured cost, where no layer is named."),
    "head": Said("Of each exit.", HEADS),
    "exit_weights": Said("Of each exit's loss, the network's own being 1; may be given again."),
    "distill": Said("Share of the network's softened outputs in what exits learn, 0 to 1."),
    "temperature": Said("That softens them."),
    "frozen": Said("Leave the network as it is: only heads learn."),
    "seed": Said("Of heads and training."),
}
_LOOP = {
    "rule": Said("By which samples leave.", RULE_NAMES),
    "max_drop": Said("Points of accuracy on --val that may be lost.", default="0.5"),
    "latency": Said("Mean time of a call on --val instead, such as 5ms or 0.5x."),
    "batch": Said("Of the measurement.", default="the smallest"),
    "threads": Said("Of the measurement."),
}
_TUNING = {
    "epochs": Said("Of training.", default="half of [train]'s"),
    "learning_rate": Said("The highest.", default="a quarter of [train]'s"),
    "batch_size": Said("Of training.", default="[train]'s"),
    "patience": Said("Epochs without gain before it stops.", default="[train]'s"),
}


@click.command("exits", epilog=_EXAMPLES)
@asks(
    "exits",
    "Data to train on.",
    options_of(ExitsOptions, _EXITS),
    options_of(ExitsLoop, _LOOP),
    options_of(TrainOptions, _TUNING),
)
def command(asked: Asked, **given: Option) -> None:
    """Give SOURCE exits on the way, at which easy inputs leave.

    SOURCE is path/net.py:build, package.module:callable, timm:NAME, torchvision:NAME, or a folder
    with recipe.toml, whose data and training are then used. All exits learn together, from labels
    and from the network's own end; then their probabilities are made true by a temperature each,
    and thresholds are solved on --val: the fastest that lose at most --max-drop points, or the most
    accurate within --latency.

    The folder that is made is a source itself (deploykit export build/NAME-exits). It holds
    plan.json (where exits are), weights.safetensors, exits.json (what each says and costs, and the
    curve between accuracy and latency), report.json (the checks) and recipe.toml. The same command
    goes on after an interruption, and with another target does not train again.
    """
    from deploykit.flow.exits.exits import run_exits
    from deploykit.flow.exits.request import ExitsRequest

    request = ExitsRequest(
        source=asked.source,
        out=asked.out,
        changes=given_of(given, _EXITS),
        tuning=given_of(given, _TUNING),
        train=asked.train,
        val=asked.val,
        eval=asked.eval,
        metric=asked.metric,
        overwrite=asked.overwrite,
        **given_of(given, _LOOP),  # type: ignore[arg-type]  # of the fields' own types
    )
    with progress(asked.still) as tell:
        result = run_exits(request, tell)
    if asked.as_json:
        from deploykit.flow.exits.record import EXITS

        print_json(result.exits, EXITS)
    else:
        _print(result)
    if any(check.verdict is not Verdict.PASSED for check in result.report.checks):
        raise click.exceptions.Exit(1)


def _print(result: ExitsResult) -> None:
    from deploykit.cli.export import print_checks

    found = result.exits
    _print_exits(found.rows)
    _print_curve(found)
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    click.echo(
        f"mean latency on {found.runtime}, {threads}, batch {found.batch}: "
        f"{found.whole_ns / 1e6:.4g} -> {found.cost_ns / 1e6:.4g} ms, "
        f"{found.whole_ns / found.cost_ns:.2f}x as fast"
    )
    epochs = "1 epoch" if found.epochs == 1 else f"{found.epochs} epochs"
    of = f"those of epoch {found.best_epoch}" if found.best_epoch else "those before training"
    click.echo(f"{epochs}, {found.seconds:.0f} s; the weights are {of}")
    if not found.met:
        click.echo(
            f"{found.target} is not reached: these are the nearest thresholds that there are"
        )
    click.echo(f"{result.folder}: deploykit export {result.folder}")
    print_checks(result.report)


def _print_exits(rows: tuple[ExitRow, ...]) -> None:
    from deploykit.cli.output import Column, print_table

    columns = (
        Column("exit"), Column("behind"), Column("threshold", right=True),
        Column("leave", right=True), Column("of these right", right=True),
        Column("right of all", right=True), Column("latency", right=True),
        Column("temperature", right=True), Column("calibration error", right=True),
    )  # fmt: skip

    def row(one: ExitRow) -> tuple[str, ...]:
        right = "" if one.accuracy_of_share is None else f"{100 * one.accuracy_of_share:.2f} %"
        last = not one.layer
        return (
            one.name,
            one.layer or "the end",
            "" if last else "left out" if one.threshold is None else f"{one.threshold:.4g}",
            f"{100 * one.share:.1f} %",
            right,
            f"{100 * one.accuracy:.2f} %",
            f"{one.cost_ns / 1e6:.4g} ms",
            f"{one.temperature:.2f}",
            f"{100 * one.error_before:.1f} -> {100 * one.error_after:.1f} %",
        )

    print_table(columns, [row(one) for one in rows])


_MOST_POINTS = 9


def _print_curve(found: Exits) -> None:
    from deploykit.cli.output import Column, print_table

    points = found.curve
    step = max(1, -(-len(points) // _MOST_POINTS))
    shown = [*points[::step], *([points[-1]] if (len(points) - 1) % step else [])]
    columns = (
        Column("mean latency", right=True), Column("accuracy", right=True), Column("leave at each"),
    )  # fmt: skip
    print_table(
        columns,
        [
            (
                f"{point.cost_ns / 1e6:.4g} ms",
                f"{100 * point.accuracy:.2f} %",
                ", ".join(f"{100 * share:.0f} %" for share in point.shares),
            )
            for point in shown
        ],
    )
