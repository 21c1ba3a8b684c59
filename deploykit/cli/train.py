"""`deploykit train RECIPE`."""

from __future__ import annotations

from pathlib import Path

import click

from deploykit.cli.output import progress, quiet_option


@click.command("train", epilog="Example: deploykit train models/student")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace the weights that are there.")
@click.option("--epochs", type=click.IntRange(min=1), help="In place of the recipe's own.")
@click.option("--seed", type=click.IntRange(min=0), help="In place of the recipe's own.")
@quiet_option
def command(
    recipe: Path, overwrite: bool, epochs: int | None, seed: int | None, quiet: bool
) -> None:
    """Train the network of RECIPE (a folder with recipe.toml, or the file).

    The weights go where the recipe says. Training that was interrupted goes on where it stopped
    when the same command is given again. TensorBoard shows loss, learning rate and accuracy:
    tensorboard --logdir models/student/.deploykit/train
    """
    from deploykit.flow.train import train_recipe
    from deploykit.load.recipe import load_recipe

    given = {"epochs": epochs, "seed": seed}
    changes = {key: value for key, value in given.items() if value is not None}
    with progress(quiet) as tell:
        done = train_recipe(
            load_recipe(recipe), changes=changes, overwrite=overwrite, progress=tell
        )
    click.echo(
        f"{done.weights}: {100 * done.val_accuracy:.2f} % on the validation data after "
        f"{done.epochs} epochs, {done.seconds:.0f} s"
    )
