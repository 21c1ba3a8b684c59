"""`deploykit quantize MODEL --precision fp16`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from deploykit.cli.output import print_json, progress
from deploykit.flow.budget import DEFAULT_BUDGET

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploykit.flow.half.half import HalfResult

_OWN = frozenset(
    {"model", "output", "val", "evaluation", "metric", "tolerance", "overwrite", "as_json", "quiet"}
)


def convert(out: Path, typed: Mapping[str, Any]) -> None:
    """Convert, and tell about it.

    Args:
        out: the folder to make.
        typed: what the command line of `quantize` said, by the names of its parameters.

    Raises:
        BadInputError: an option that goes with int8 only, among others.
    """
    from deploykit.flow.half.half import run_half
    from deploykit.flow.half.request import HalfRequest
    from deploykit.flow.precision import QUANTIZE, lower_of

    given = {name: value for name, value in typed.items() if name not in _OWN}
    given["measure"] = False if given.pop("no_measure") else None
    given["force"] = given["force"] or None
    given["budget"] = None if given["budget"] == DEFAULT_BUDGET else given["budget"]
    table = {name: value for name, value in given.items() if value not in {None, (), ""}}
    lower = lower_of(table, QUANTIZE)
    assert lower is not None  # "fp32" was refused before
    request = HalfRequest(
        source=typed["model"],
        out=out,
        precision=lower.loop.precision,
        calibrate=lower.loop.calibrate,
        changes=lower.changes,
        val=typed["val"],
        eval=typed["evaluation"],
        metric=typed["metric"],
        max_drop=lower.loop.max_drop,
        limit=typed["tolerance"],
        overwrite=typed["overwrite"],
    )
    with progress(typed["quiet"] or typed["as_json"]) as tell:
        result = run_half(request, tell)
    if typed["as_json"]:
        from deploykit.core.records import REPORT

        print_json(result.report, REPORT)
    else:
        _print(result)


def _print(result: HalfResult) -> None:
    from deploykit.cli.export import print_checks, print_left
    from deploykit.cli.units import bytes_text

    artifact = result.artifact
    click.echo(f"{artifact.folder}: ONNX, {bytes_text(artifact.size_bytes)}")
    print_left(result.half)
    print_checks(result.report)
