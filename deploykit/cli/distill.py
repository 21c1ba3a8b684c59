"""`deploykit compress distill STUDENT --teacher TEACHER`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploykit.cli.fields import Said, given_of, options_of
from deploykit.cli.output import json_option, print_json, progress, quiet_option
from deploykit.compress.distill.options import (
    COURSES,
    METHODS,
    TEACHER_PRECISIONS,
    DistillOptions,
)
from deploykit.compress.distill.smaller_options import SmallerOptions
from deploykit.core.errors import BadInputError
from deploykit.train.options import OPTIMIZERS, SCHEDULES, TrainOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploykit.core.types import Option, TensorSpec
    from deploykit.flow.distill.distill import DistillResult
    from deploykit.load.sources import Source

_EXAMPLES = """\b
Examples:
  deploykit compress distill models/student --teacher models/teacher
  deploykit compress distill net.py:small --teacher net.py:large --teacher-weights large.pt \\
      --input "x=N[1..64]x3x224x224" --train images/train --val images/val --epochs 20
  deploykit compress distill --teacher models/teacher --width 0.5 --depth 0.5
  deploykit compress distill models/student --teacher models/teacher --hints conv2=conv2 \\
      --method dist --unlabelled more.npz --weight 0.9 --weight-end 0.5
"""
_TAUGHT = {
    "weight": Said("Of the teacher, 0 to 1; the labels have the rest."),
    "weight_end": Said("That the weight goes to."),
    "temperature": Said("That softens the outputs of both."),
    "temperature_end": Said("That the temperature goes to."),
    "course": Said("How they go there.", COURSES),
    "method": Said("How outputs are compared.", METHODS),
    "alpha": Said("Of the target in decoupled."),
    "beta": Said("Of the other classes in decoupled."),
    "inter": Said("Of relations between classes in dist."),
    "intra": Said("Of relations within classes in dist."),
    "hints": Said("LAYER=TEACHERS_LAYER that shall give the same; may be given again."),
    "hint_weight": Said("Of each hint."),
    "attention": Said("LAYER=TEACHERS_LAYER that shall look at the same places; likewise."),
    "attention_weight": Said("Of each of these."),
    "teacher_precision": Said("Of the teacher's calculations.", TEACHER_PRECISIONS),
}
_SMALLER = {
    "width": Said("Share of the channels of TEACHER that a copy of it, which is STUDENT, keeps."),
    "depth": Said("Likewise, of its residual blocks."),
    "align": Said("That copy's numbers of channels are multiples of it."),
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
@click.argument("student", required=False)
@click.option(
    "--teacher",
    "teachers",
    required=True,
    multiple=True,
    help="A source like STUDENT: it knows the task already. Several are averaged.",
)
@click.option("--teacher-shares", default="", help="Of several teachers, such as 0.7,0.3.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="[default: build/NAME-distilled]"
)
@click.option("--weights", type=click.Path(path_type=Path), help="That STUDENT starts from.")
@click.option(
    "--teacher-weights",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Of the TEACHERs that are no recipes, in their order.",
)
@click.option("--input", "inputs", multiple=True, help='Such as "x=N[1..64]x3x224x224:float32".')
@click.option("--teacher-input", multiple=True, help="Of TEACHER, where it is another.")
@options_of(SmallerOptions, _SMALLER)
@options_of(DistillOptions, _TAUGHT)
@options_of(TrainOptions, _TRAINING)
@click.option("--anew", is_flag=True, help="Start from what the source builds, not from weights.")
@click.option("--train", default="", help="Data to learn from.")
@click.option("--unlabelled", default="", help="More data, which only the teacher teaches.")
@click.option("--val", default="", help="Data that the best epoch is chosen by.")
@click.option("--eval", "evaluation", default="", help="Data that only reports.")
@click.option("--metric", default="", help="top-1, top-5, tokens, mae or module:callable.")
@click.option("--trust", is_flag=True, help="Load .pt2 files, which can run code.")
@click.option("--overwrite", is_flag=True, help="Replace a student that is there.")
@json_option
@quiet_option
def command(
    student: str | None,
    teachers: tuple[str, ...],
    teacher_shares: str,
    output: Path | None,
    weights: Path | None,
    teacher_weights: tuple[Path, ...],
    inputs: tuple[str, ...],
    teacher_input: tuple[str, ...],
    anew: bool,
    train: str,
    unlabelled: str,
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

    Without STUDENT, with --width or --depth, it is a smaller copy of TEACHER, which starts from the
    weights of the channels and blocks that stay, or, with --anew, from initial ones.

    STUDENT and TEACHER are path/net.py:build, package.module:callable, timm:NAME, torchvision:NAME,
    or a folder with recipe.toml; the student's recipe says data and training. Both see the same
    augmented batches; the teacher's outputs are softened by --temperature (Hinton, Vinyals and
    Dean, 2015), and --hints and --attention compare layers on the way.

    The folder that is made is a source itself (deploykit export build/NAME-distilled). It holds
    weights.safetensors, distillation.json (how it was done), report.json (accuracy of both) and
    recipe.toml. The same command goes on after an interruption.
    """
    from deploykit.cli.export import named_after
    from deploykit.flow.distill.distill import run_distill
    from deploykit.flow.distill.request import DistillRequest
    from deploykit.load.inputs import parse_inputs
    from deploykit.load.sources import Source

    smaller = given_of(given, _SMALLER)
    _check_student(student, weights, smaller)
    fallback = named_after(student or teachers[0])
    specs = parse_inputs(inputs)
    theirs = parse_inputs(teacher_input) or specs
    first, *others = _sources(teachers, teacher_weights, theirs, trust=trust)
    request = DistillRequest(
        student=Source(student, weights=weights, inputs=specs, trust=trust) if student else first,
        teacher=first,
        others=tuple(others),
        out=output or fallback.with_name(f"{fallback.name}-distilled"),
        changes={**given_of(given, _TAUGHT), **_shares(teacher_shares)},
        smaller=smaller,
        tuning=given_of(given, _TRAINING),
        anew=anew,
        train=train,
        unlabelled=unlabelled,
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


def _check_student(
    student: str | None, weights: Path | None, smaller: Mapping[str, Option]
) -> None:
    asked = " and ".join(f"--{name}" for name in smaller)
    if student is not None and smaller:
        raise BadInputError(f"give STUDENT ({student}) or {asked}, not both")
    if student is None and not smaller.keys() & {"width", "depth"}:
        raise BadInputError(
            "there is no STUDENT: name one, or take a smaller copy of TEACHER: --width 0.5"
        )
    if student is None and weights is not None:
        raise BadInputError(
            f"--weights {weights} are STUDENT's, and there is none: give --teacher-weights, or "
            "--anew to start without"
        )


def _sources(
    teachers: tuple[str, ...],
    weights: tuple[Path, ...],
    specs: tuple[TensorSpec, ...],
    *,
    trust: bool,
) -> list[Source]:
    """The teachers with their weights, which those that are recipes have themselves."""
    from deploykit.load.recipe import is_recipe
    from deploykit.load.sources import Source

    plain = [text for text in teachers if len(teachers) == 1 or not is_recipe(text)]
    if weights and len(weights) != len(plain):
        raise BadInputError(
            f"--teacher-weights is given {len(weights)} times, for {len(plain)} teachers that are "
            "no recipes: give one for each, in their order"
        )
    files = iter(weights)
    return [
        Source(
            text,
            weights=next(files, None) if text in plain else None,
            inputs=specs,
            trust=trust,
        )
        for text in teachers
    ]


def _shares(text: str) -> dict[str, Option]:
    if not text:
        return {}
    try:
        return {"teacher_shares": tuple(float(part) for part in text.split(","))}
    except ValueError:
        raise BadInputError(
            f"--teacher-shares {text!r} are no numbers: write them like 0.7,0.3"
        ) from None


def _print(result: DistillResult) -> None:
    from deploykit.cli.export import print_checks
    from deploykit.cli.units import count_text

    found = result.distillation
    for text in found.advice:
        click.echo(text)
    if found.smaller is not None:
        from deploykit.flow.distill.smaller import reached

        click.echo(reached(found.smaller))
    sizes = [count_text(n) for n in (found.teacher_parameters, found.student_parameters)]
    click.echo(f"parameters: {sizes[0]} of the teacher, {sizes[1]} of the student")
    epochs = "1 epoch" if found.epochs == 1 else f"{found.epochs} epochs"
    click.echo(
        f"{epochs}, {found.seconds:.0f} s; the weights are those of epoch {found.best_epoch}"
    )
    click.echo(f"{result.folder}: deploykit export {result.folder}")
    print_checks(result.report)
