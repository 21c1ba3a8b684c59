"""`deploykit compress STAGE SOURCE`: each stage is a command of its own."""

from __future__ import annotations

import click

from deploykit.cli.distill import command as distill
from deploykit.cli.exits import command as exits
from deploykit.cli.prune import command as prune
from deploykit.cli.separable import command as separable


@click.group("compress")
def command() -> None:
    """Make a PyTorch network smaller: one command a stage."""


command.add_command(prune)
command.add_command(distill)
command.add_command(separable)
command.add_command(exits)
