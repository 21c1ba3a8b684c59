"""`deploykit compress distill STUDENT --teacher TEACHER`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploykit.cli.fields import Said, given_of, options_of
from deploykit.cli.output import json_option, print_json, progress, quiet_option
from deploykit.compress.distill.options import SoftTargets
from deploykit.train.options import OPTIMIZERS, SCHEDULES, TrainOptions

if TYPE_CHECKING:
    from deploykit.core.types import Option
    from deploykit.flow.distill.distill import DistillResult

_EXAMPLES = """\b
Examples:
  deploykit compress distill models/student --teacher models/teacher
  deploykit compress distill net.py:small --teacher net.py:large --teacher-weights large.pt \\
      --input "x=N[1..64]x3x224x224" --train images/train --val images/val --epochs 20
"""
_SOFT = {
    "weight": Said("Of the teacher, 0 to 1; the labels have the rest."),
    "temperature": Said("That softens the outputs of both."),
}
_TRAINING = {
    "epochs": Said("Of training.", default="[train]'s, or 10"),
    "learning_rate": Said("The highest.", default="[train]'s, or 0.1"),
    "batch_size": Said("Of training.", default="[train]'s, or 128"),
    "optimizer": Said("Of training.", OPTIMIZERS, default="[train]'s, or sgd"),
    "schedule": Said("Of the learning rate.", SCHEDULES, default="[train]'s, or one-cycle"),
    "patience": Said("Epochs without gain before it stops.", default="[train]'s"),
    "seed": Said("Of training.", default="[train]'s, or 0"),
}


@click.command("distill", epilog=_EXAMPLES)
@click.argument("student")
@click.option("--teacher", required=True, help="A source like STUDENT: it knows the task already.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="[default: build/NAME-distilled]"
)
@click.option("--weights", type=click.Path(path_type=Path), help="That STUDENT starts from.")
@click.option("--teacher-weights", type=click.Path(path_type=Path), help="Of TEACHER.")
@click.option("--input", "inputs", multiple=True, help='Such as "x=N[1..64]x3x224x224:float32".')
@options_of(SoftTargets, _SOFT)
@options_of(TrainOptions, _TRAINING)
@click.option("--anew", is_flag=True, help="Start from what STUDENT builds, not from its weights.")
@click.option("--train", default="", help="Data to learn from.")
@click.option("--val", default="", help="Data that the best epoch is chosen by.")
@click.option("--eval", "evaluation", default="", help="Data that only reports.")
@click.option("--metric", default="", help="top-1, top-5, mae or module:callable.")
@click.option("--trust", is_flag=True, help="Load .pt2 files, which can run code.")
@click.option("--overwrite", is_flag=True, help="Replace a student that is there.")
@json_option
@quiet_option
def command(
    student: str,
    teacher: str,
    output: Path | None,
    weights: Path | None,
    teacher_weights: Path | None,
    inputs: tuple[str, ...],
    anew: bool,
    train: str,
    val: str,
    evaluation: str,
    metric: str,
    trust: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **given: Option,
) -> None:
    """Train STUDENT on what TEACHER makes of the data, beside the labels.

    STUDENT and TEACHER are path/net.py:build, package.module:callable, timm:NAME, torchvision:NAME,
    or a folder with recipe.toml; the student's recipe says data and training. Both see the same
    augmented batches; the teacher's outputs are softened by --temperature (Hinton, Vinyals and
    Dean, 2015).

    The folder that is made is a source itself (deploykit export build/NAME-distilled). It holds
    weights.safetensors, distillation.json (how it was done), report.json (accuracy of both) and
    recipe.toml. The same command goes on after an interruption.
    """
    from deploykit.cli.export import default_output
    from deploykit.flow.distill.distill import run_distill
    from deploykit.flow.distill.request import DistillRequest
    from deploykit.load.inputs import parse_inputs
    from deploykit.load.sources import Source

    fallback = default_output(student)
    specs = parse_inputs(inputs)
    request = DistillRequest(
        student=Source(student, weights=weights, inputs=specs, trust=trust),
        teacher=Source(teacher, weights=teacher_weights, inputs=specs, trust=trust),
        out=output or fallback.with_name(f"{fallback.name}-distilled"),
        changes=given_of(given, _SOFT),
        tuning=given_of(given, _TRAINING),
        anew=anew,
        train=train,
        val=val,
        eval=evaluation,
        metric=metric,
        overwrite=overwrite,
    )
    with progress(quiet or as_json) as tell:
        result = run_distill(request, tell)
    if as_json:
        from deploykit.core.records import REPORT

        print_json(result.report, REPORT)
    else:
        _print(result)


def _print(result: DistillResult) -> None:
    from deploykit.cli.export import print_checks
    from deploykit.cli.units import count_text

    found = result.distillation
    for text in found.advice:
        click.echo(text)
    sizes = [count_text(n) for n in (found.teacher_parameters, found.student_parameters)]
    click.echo(f"parameters: {sizes[0]} of the teacher, {sizes[1]} of the student")
    epochs = "1 epoch" if found.epochs == 1 else f"{found.epochs} epochs"
    click.echo(
        f"{epochs}, {found.seconds:.0f} s; the weights are those of epoch {found.best_epoch}"
    )
    click.echo(f"{result.folder}: deploykit export {result.folder}")
    print_checks(result.report)
