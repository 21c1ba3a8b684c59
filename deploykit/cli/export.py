"""`deploykit export SOURCE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploykit.cli.fields import Said, options_of
from deploykit.cli.output import json_option, print_json, progress, quiet_option
from deploykit.quantize.calibration_options import METHODS, CalibrationOptions
from deploykit.quantize.options import QuantizeOptions

if TYPE_CHECKING:
    from deploykit.core.report import Check, Report
    from deploykit.core.types import Option
    from deploykit.flow.export import ExportResult
    from deploykit.flow.half.record import Half
    from deploykit.flow.quantize.record import Quantization

_EXAMPLES = """\b
Examples:
  deploykit export models/fashion_resnet
  deploykit export net.py:build --weights net.safetensors --input "x=N[1..64]x3x224x224"
  deploykit export models/fashion_resnet --precision int8 --calibrate 'fashion-mnist:train[:512]'
"""
_MOST_FLOAT = 8
_QUANTIZING = {
    "target": Said("For a lower precision: whose kernels count.", default="ort-cpu for int8"),
    "samples": Said("Of --calibrate that are used, at most."),
    "exclude": Said("Nodes or operators that stay float32; may be given again."),
}
_CALIBRATING = {"method": Said("For int8: how ranges of activations are chosen.", METHODS)}
_LOWER = (
    *("precision", "calibrate", "max_drop", "budget", "measure", "batch", "threads", "force"),
    *_QUANTIZING, *_CALIBRATING,
)  # fmt: skip


@click.command("export", epilog=_EXAMPLES)
@click.argument("source")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="Folder to make.  [default: build/NAME]"
)
@click.option("--weights", type=click.Path(path_type=Path), help=".safetensors, .pt or .pth file.")
@click.option("--input", "inputs", multiple=True, help='Such as "x=N[1..64]x3x224x224:float32".')
@click.option("--val", default="", help="Data that parity runs on, such as digits[:200].")
@click.option("--eval", "evaluation", default="", help="Data that only reports.")
@click.option(
    "--metric",
    default="",
    help="top-1, top-5, tokens, mae or module:callable.  [default: by the labels]",
)
@click.option("--opset", type=int, help="Version of the ONNX operators.  [default: 20]")
@click.option("--external-data", is_flag=True, help="Keep the weights in a file of their own.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    help="Largest relative difference.  [default: by type, 1e-4 for float32]",
)
@click.option("--precision", help="fp32, int8, fp16 or bf16.  [default: fp32]")
@click.option("--calibrate", help="For a lower precision: data that shows the ranges.")
@options_of(QuantizeOptions, _QUANTIZING)
@options_of(CalibrationOptions, _CALIBRATING)
@click.option(
    "--max-drop", type=click.FloatRange(min=0), help="Points of accuracy on --val that may be lost."
)
@click.option("--budget", help="For int8: of the search for what meets --max-drop.  [default: 32]")
@click.option(
    "--no-measure", "measure", flag_value=False, default=None, help="For int8: take no latencies."
)
@click.option("--batch", type=click.IntRange(min=1), help="For int8: of the measurement.")
@click.option("--threads", type=click.IntRange(min=1), help="For int8: of the measurement.")
@click.option(
    "--force", flag_value=True, default=None, help="For int8: hand over what is slower than float."
)
@click.option("--trust", is_flag=True, help="Load a .pt2 file, which can run code.")
@click.option("--overwrite", is_flag=True, help="Replace an artifact that is there.")
@json_option
@quiet_option
def command(
    source: str,
    output: Path | None,
    weights: Path | None,
    inputs: tuple[str, ...],
    val: str,
    evaluation: str,
    metric: str,
    opset: int | None,
    external_data: bool,
    tolerance: float | None,
    trust: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **given: Option,
) -> None:
    """Turn SOURCE into an ONNX artifact and prove that it computes the same.

    SOURCE is path/net.py:build, package.module:callable, timm:NAME, torchvision:NAME, a folder
    with recipe.toml, an .onnx file from elsewhere, or a .pt2 file with --trust.

    The folder holds model.onnx, artifact.json (what it is and how it came to be) and report.json
    (the checks). Where a check fails, nothing is written and the exit status is 1.

    --precision int8 goes on to what `deploykit quantize` does, fp16 and bf16 to 16 bits.
    """
    from deploykit.flow.export import ExportRequest, run_export
    from deploykit.load.inputs import parse_inputs
    from deploykit.load.sources import Source

    request = ExportRequest(
        source=Source(source, weights=weights, inputs=parse_inputs(inputs), trust=trust),
        out=output or default_output(source),
        changes={
            key: value
            for key, value in {"opset": opset, "external_data": external_data or None}.items()
            if value is not None
        },
        val=val,
        eval=evaluation,
        metric=metric,
        limit=tolerance,
        lower={name: given[name] for name in _LOWER if given[name] not in {None, ()}},
        overwrite=overwrite,
    )
    with progress(quiet or as_json) as tell:
        result = run_export(request, tell)
    if as_json:
        from deploykit.core.records import REPORT

        print_json(result.report, REPORT)
    else:
        _print(result)


def default_output(source: str) -> Path:
    """`build/NAME`, after the folder of a recipe, the file, or the network's name.

    A source that lies there itself, such as one that `compress` made, becomes `build/NAME-onnx`.
    """
    found, path = named_after(source), Path(source)
    is_source = path.is_dir() and found.absolute() == path.absolute()
    return found.with_name(f"{found.name}-onnx") if is_source else found


def named_after(source: str) -> Path:
    """`build/NAME`, which may be the source's own folder: a stage adds its name to it."""
    from deploykit.load.sources import ZOOS

    path = Path(source)
    if path.name in {"recipe.toml", "artifact.json"}:
        return Path("build") / path.absolute().parent.name
    if path.is_dir():
        return Path("build") / path.absolute().name
    place, _, name = source.rpartition(":")
    if place.endswith(".py"):
        return Path("build") / f"{Path(place).stem}-{name}"
    if place and place not in ZOOS:
        return Path("build") / f"{place.rpartition('.')[-1]}-{name}"
    return Path("build") / (name if place else Path(name).stem)


def _print(result: ExportResult) -> None:
    from deploykit.cli.units import bytes_text
    from deploykit.load.inputs import input_text

    artifact = result.artifact
    reused = f"; reused: {', '.join(result.reused)}" if result.reused else ""
    click.echo(f"{artifact.folder}: ONNX, {bytes_text(artifact.size_bytes)}{reused}")
    for kind, specs in (("input", artifact.inputs), ("output", artifact.outputs)):
        for spec in specs:
            click.echo(f"  {kind} {input_text(spec)}")
    if result.lowered is not None:
        print_left(result.lowered)
    print_checks(result.report)


def print_left(record: Quantization | Half) -> None:
    """How many nodes are in the lower precision, and why the first of the others are not."""
    from deploykit.flow.half.record import HALF_NAME, Half
    from deploykit.flow.quantize.record import QUANTIZATION_NAME

    half = isinstance(record, Half)
    left = [row for row in record.layers if row.kept_float]
    done = len(record.layers) - len(left)
    form = record.precision if isinstance(record, Half) else "integers"
    click.echo(f"  {done} of {len(record.layers)} nodes in {form} for {record.target}")
    if isinstance(record, Half):
        share = record.bytes_after / record.bytes_before
        click.echo(
            f"  {share:.3g}x of the float32 file's size; its latency is the target's to say: "
            "deploykit bench on the device"
        )
    for row in left[:_MOST_FLOAT]:
        click.echo(f"  {row.node} ({row.op}) stays float: {row.kept_float}")
    if len(left) > _MOST_FLOAT:
        name = HALF_NAME if half else QUANTIZATION_NAME
        click.echo(f"  ... and {len(left) - _MOST_FLOAT} more; see {name}")


def print_checks(report: Report) -> None:
    """The checks of a report as a table: name, verdict, value with its interval, limit.

    A figure that nothing is held against has no verdict that means anything: "reported".
    """
    from deploykit.cli.output import Column, print_table

    columns = (Column("check"), Column("verdict"), Column("value", right=True), Column("limit"))
    print_table(columns, [_row(check) for check in report.checks])


def _row(check: Check) -> tuple[str, str, str, str]:
    from deploykit.core.report import Verdict

    interval = ""
    if check.interval is not None:
        low, high = (f"{end:.4g}" for end in check.interval)
        interval = f" [{low}, {high}]"
    value = "" if check.value is None else f"{check.value:.4g}{interval} {check.unit}".rstrip()
    limit = "" if check.limit is None else f"{check.limit:.3g}"
    only_told = check.verdict is Verdict.PASSED and check.value is not None and check.limit is None
    return check.name, "reported" if only_told else check.verdict.value, value, limit
