"""`deploykit compress STAGE SOURCE`: each stage is a command of its own."""

from __future__ import annotations

import click

from deploykit.cli.prune import command as prune


@click.group("compress")
def command() -> None:
    """Make a PyTorch network smaller: one command a stage."""


command.add_command(prune)
