"""`deploykit compress separable SOURCE`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deploykit.cli.asked import Asked, asks
from deploykit.cli.fields import Said, given_of, options_of
from deploykit.cli.output import print_json, progress
from deploykit.compress.separable.options import SeparableOptions
from deploykit.flow.separable.loop import PRECISIONS, SeparableLoop
from deploykit.train.options import TrainOptions

if TYPE_CHECKING:
    from deploykit.core.types import Option
    from deploykit.flow.separable.record import LayerRow, Separable
    from deploykit.flow.separable.separable import SeparableResult

_EXAMPLES = """\b
Examples:
  deploykit compress separable models/fashion_resnet
  deploykit compress separable net.py:build --weights net.safetensors --rank 2 --skip 'layer1.*' \\
      --input "x=N[1..64]x3x224x224" --train images/train --val images/val --epochs 5
"""
_SPLITTING = {
    "rank": Said("Depthwise kernels for each input channel."),
    "layers": Said("Layers to split, such as 'stages.*'; may be given again.", default="all"),
    "skip": Said("Layers that stay as they are; may be given again."),
    "refit": Said("Take the kernels that are nearest over weights."),
    "samples": Said("Of --train that kernels are fitted to."),
    "seed": Said("Of fitting and training."),
}
_LOOP = {
    "measure": Said("Split all that can be, and take no latencies."),
    "force": Said("Split what does not get faster, too."),
    "batch": Said("Of the measurement.", default="the smallest"),
    "threads": Said("Of the measurement."),
    "precision": Said("That will ship: for latencies.", PRECISIONS),
    "finetune": Said("Split, fit, and leave it."),
    "distill": Said("Weight of SOURCE's softened outputs beside the labels, 0 to 1."),
    "temperature": Said("That softens them."),
    "max_drop": Said("Points of accuracy on --val that may be lost."),
}
_TUNING = {
    "epochs": Said("Of training.", default="half of [train]'s"),
    "learning_rate": Said("The highest.", default="a quarter of [train]'s"),
    "batch_size": Said("Of training.", default="[train]'s"),
    "patience": Said("Epochs without gain before it stops.", default="[train]'s"),
}


@click.command("separable", epilog=_EXAMPLES)
@asks(
    "separable",
    "Data to fit kernels to and to train on.",
    options_of(SeparableOptions, _SPLITTING),
    options_of(SeparableLoop, _LOOP),
    options_of(TrainOptions, _TUNING),
)
def command(asked: Asked, **given: Option) -> None:
    """Split convolutions of SOURCE into depthwise and pointwise ones, and train what is left.

    SOURCE is path/net.py:build, package.module:callable, timm:NAME, torchvision:NAME, or a folder
    with recipe.toml, whose data and training are then used. Layers that would not get faster stay
    as they are: each is timed on ONNX Runtime, as it is and split. New kernels are fitted to what
    goes through the old ones; then SOURCE teaches what was made of it.

    The folder that is made is a source itself (deploykit export build/NAME-separable). It holds
    plan.json (what was split), weights.safetensors, separable.json (every layer, and why some stay
    whole), report.json (the checks) and recipe.toml. Where no layer gets faster, or the whole does
    not, nothing is written and the exit status is 1.
    """
    from deploykit.flow.separable.request import SeparableRequest
    from deploykit.flow.separable.separable import run_separable

    request = SeparableRequest(
        source=asked.source,
        out=asked.out,
        changes=given_of(given, _SPLITTING),
        tuning=given_of(given, {**_TUNING, "seed": _SPLITTING["seed"]}),
        train=asked.train,
        val=asked.val,
        eval=asked.eval,
        metric=asked.metric,
        overwrite=asked.overwrite,
        **given_of(given, _LOOP),  # type: ignore[arg-type]  # of the fields' own types
    )
    with progress(asked.still) as tell:
        result = run_separable(request, tell)
    if asked.as_json:
        from deploykit.flow.separable.record import SEPARABLE

        print_json(result.separable, SEPARABLE)
    else:
        _print(result)


def _print(result: SeparableResult) -> None:
    from deploykit.cli.export import print_checks

    found = result.separable
    _print_layers(found.layers)
    _print_whole(found)
    click.echo(f"{result.folder}: deploykit export {result.folder}")
    print_checks(result.report)


def _print_layers(layers: tuple[LayerRow, ...]) -> None:
    from deploykit.cli.output import Column, print_table
    from deploykit.cli.units import count_text

    columns = (
        Column("layer"), Column("kernel"), Column("weights", right=True),
        Column("MACs", right=True), Column("latency", right=True),
        Column("off by", right=True), Column("why it stays"),
    )  # fmt: skip

    def row(one: LayerRow) -> tuple[str, ...]:
        outputs, inputs, *kernel = one.weight
        size = f"{'x'.join(map(str, kernel))} {inputs * one.groups}->{outputs}"
        off = "" if one.error_fitted is None else f"{100 * one.error_fitted:.1f} %"
        if not one.split:
            weights, macs = count_text(one.weights_before), count_text(one.macs_before)
            return one.name, size, weights, macs, _latency(one), off, one.why
        weights = f"{count_text(one.weights_before)} -> {count_text(one.weights_after)}"
        macs = f"{count_text(one.macs_before)} -> {count_text(one.macs_after)}"
        return one.name, size, weights, macs, _latency(one), off, ""

    print_table(columns, [row(one) for one in layers])


def _latency(one: LayerRow) -> str:
    if one.latency_before_ns is None or one.latency_after_ns is None:
        return ""
    return f"{one.latency_before_ns / 1e3:.1f} -> {one.latency_after_ns / 1e3:.1f} us"


def _print_whole(found: Separable) -> None:
    from deploykit.cli.units import count_text

    split = [one for one in found.layers if one.split]
    before, after = (sum(getattr(one, f"macs_{when}") for one in split) for when in _WHEN)
    click.echo(
        f"{len(split)} of {len(found.layers)} convolutions split; their MACs: {count_text(before)} "
        f"-> {count_text(after)}, {before / max(after, 1):.1f}x fewer"
    )
    was, now = found.parameters_before, found.parameters_after
    click.echo(f"parameters: {count_text(was)} -> {count_text(now)}")
    if found.speed is not None:
        speed = found.speed
        threads = "1 thread" if speed.threads == 1 else f"{speed.threads} threads"
        click.echo(
            f"the whole network on {speed.where}, {threads}: {speed.before_ns / 1e6:.4g} -> "
            f"{speed.after_ns / 1e6:.4g} ms, {1 / speed.share:.2f}x as fast"
        )
    if not found.fitted:
        click.echo(
            "kernels are the nearest over weights, fitted to no data; --train DATA fits them"
        )
    if found.epochs:
        epochs = "1 epoch" if found.epochs == 1 else f"{found.epochs} epochs"
        of = f"those of epoch {found.best_epoch}" if found.best_epoch else "those before training"
        click.echo(f"{epochs}, {found.seconds:.0f} s; the weights are {of}")


_WHEN = ("before", "after")
