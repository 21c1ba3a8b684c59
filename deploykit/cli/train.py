"""`deploykit train RECIPE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploykit.cli.fields import Said, given_of, options_of
from deploykit.cli.output import progress, quiet_option
from deploykit.train.options import OPTIMIZERS, PRECISIONS, SCHEDULES, TrainOptions

if TYPE_CHECKING:
    from deploykit.core.types import Option

_EXAMPLES = """\b
Examples:
  deploykit train models/student
  deploykit train models/student --epochs 20 --mixup 0.2 --average 0.999 --overwrite
  torchrun --nproc-per-node 2 -m deploykit train models/student
"""
_RECIPE = "the recipe's"
_TRAINING = {
    "epochs": Said("Passes over the data.", default=_RECIPE),
    "batch_size": Said("Samples a step, over all processes.", default=_RECIPE),
    "accumulate": Said("Parts that a batch is calculated in.", default=_RECIPE),
    "learning_rate": Said("The highest.", default=_RECIPE),
    "optimizer": Said("What makes steps of gradients.", OPTIMIZERS, default=_RECIPE),
    "schedule": Said("Of the learning rate.", SCHEDULES, default=_RECIPE),
    "warmup": Said("Share of the steps in which the rate rises.", default=_RECIPE),
    "weight_decay": Said("Of weights.", default=_RECIPE),
    "clip_norm": Said("Longest norm of the gradients; 0: any.", default=_RECIPE),
    "label_smoothing": Said("Share of the target for all classes.", default=_RECIPE),
    "mixup": Said("The alpha of mixup; 0: none.", default=_RECIPE),
    "cutmix": Said("The alpha of CutMix; 0: none.", default=_RECIPE),
    "average": Said("Share that the mean of the weights keeps, such as 0.999.", default=_RECIPE),
    "precision": Said("Of calculations.", PRECISIONS, default=_RECIPE),
    "patience": Said("Epochs without gain before it stops; 0: never.", default=_RECIPE),
    "workers": Said("Processes that read data ahead.", default=_RECIPE),
    "seed": Said("Of all that is drawn.", default=_RECIPE),
}


@click.command("train", epilog=_EXAMPLES)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace the weights that are there.")
@options_of(TrainOptions, _TRAINING)
@quiet_option
def command(recipe: Path, overwrite: bool, quiet: bool, **given: Option) -> None:
    """Train the network of RECIPE (a folder with recipe.toml, or the file).

    What is given here wins over the recipe's [train], which has a few keys more. The weights go
    where the recipe says. Training that was interrupted, in whatever way, goes on where it stopped
    when the same command is given again. TensorBoard shows loss, learning rate and accuracy:
    tensorboard --logdir models/student/.deploykit/train
    """
    from deploykit.flow.train import train_recipe
    from deploykit.load.recipe import load_recipe
    from deploykit.train.scores import score_text

    changes = given_of(given, _TRAINING)
    with progress(quiet) as tell:
        done = train_recipe(
            load_recipe(recipe), changes=changes, overwrite=overwrite, progress=tell
        )
    click.echo(
        f"{done.weights}: {score_text(done.val_score, done.val_metric)} on the validation data "
        f"after {done.epochs} {'epoch' if done.epochs == 1 else 'epochs'}, {done.seconds:.0f} s"
    )
