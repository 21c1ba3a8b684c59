"""What every `deploykit compress` command that changes one network is asked for.

The source, the folder to make, the data and how it is scored are the same everywhere; a command
adds options of its own between them, and says what the network is called that it makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate

import click

from deploykit.cli.output import json_option, quiet_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploykit.core.types import Option
    from deploykit.load.sources import Source

    Function = Callable[..., None]
    Options = Callable[[Function], Function]
    Command = Callable[Concatenate["Asked", ...], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What was typed of these options.

    Attributes:
        source: the network.
        out: the folder to make.
        train: data to learn from, or "".
        val: data that drives every choice, likewise.
        eval: data that only reports, likewise.
        metric: how the data is scored, likewise.
        overwrite: whether what is at `out` may be replaced.
        as_json: whether one JSON record is printed.
        still: whether no progress is drawn.
    """

    source: Source
    out: Path
    train: str
    val: str
    eval: str
    metric: str
    overwrite: bool
    as_json: bool
    still: bool


def asks(made: str, train: str, *between: Options) -> Callable[[Command], Function]:
    """A decorator for a command whose first argument is an `Asked`.

    Args:
        made: what the network that it makes is called, such as "pruned".
        train: what `--train` is for: a sentence.
        between: decorators that add the command's own options, in this order.
    """
    before, after = _before(made), _after(made, train)

    def add(command: Command) -> Function:
        @wraps(command)
        def asked(
            source: str,
            output: Path | None,
            weights: Path | None,
            inputs: tuple[str, ...],
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
            from deploykit.cli.export import named_after
            from deploykit.load.inputs import parse_inputs
            from deploykit.load.sources import Source

            fallback = named_after(source)
            common = Asked(
                source=Source(source, weights=weights, inputs=parse_inputs(inputs), trust=trust),
                out=output or fallback.with_name(f"{fallback.name}-{made}"),
                train=train,
                val=val,
                eval=evaluation,
                metric=metric,
                overwrite=overwrite,
                as_json=as_json,
                still=quiet or as_json,
            )
            command(common, **given)

        function: Function = asked
        for option in reversed((*before, *between, *after)):
            function = option(function)
        return function

    return add


def _before(made: str) -> tuple[Options, ...]:
    return (
        click.argument("source"),
        click.option(
            "--output", "-o", type=click.Path(path_type=Path), help=f"[default: build/NAME-{made}]"
        ),
        click.option(
            "--weights", type=click.Path(path_type=Path), help=".safetensors, .pt or .pth file."
        ),
        click.option(
            "--input", "inputs", multiple=True, help='Such as "x=N[1..64]x3x224x224:float32".'
        ),
    )


def _after(made: str, train: str) -> tuple[Options, ...]:
    return (
        click.option("--train", default="", help=train),
        click.option("--val", default="", help="Data that drives every choice."),
        click.option("--eval", "evaluation", default="", help="Data that only reports."),
        click.option("--metric", default="", help="top-1, top-5, tokens, mae or module:callable."),
        click.option("--trust", is_flag=True, help="Load a .pt2 file, which can run code."),
        click.option("--overwrite", is_flag=True, help=f"Replace a {made} network that is there."),
        json_option,
        quiet_option,
    )
