"""`deploykit quantize MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploykit.cli.fields import Said, given_of, options_of
from deploykit.cli.output import json_option, print_json, progress, quiet_option
from deploykit.core.errors import BadInputError
from deploykit.flow.budget import DEFAULT_BUDGET
from deploykit.quantize.calibration_options import METHODS, CalibrationOptions
from deploykit.quantize.options import (
    ROUNDINGS,
    TARGETS,
    WEIGHT_BITS,
    WEIGHT_RANGES,
    QuantizeOptions,
)

if TYPE_CHECKING:
    from deploykit.core.types import Option
    from deploykit.flow.quantize.quantize import QuantizeResult
    from deploykit.flow.quantize.record import LayerRow

_EXAMPLES = """\b
Examples:
  deploykit quantize build/fashion_resnet --calibrate 'fashion-mnist:train[:512]' \\
      --val fashion-mnist:val --max-drop 0.5 --threads 1
  deploykit quantize model.onnx --calibrate images/some --method percentile --target tensorrt
"""
_MOST_FLOAT = 8
_MOST_NOISY = 8
_FEW_SAMPLES = 16
_QUANTIZING = {
    "target": Said("Whose kernels count; ort-cuda is for 16 bits.", (*TARGETS, "ort-cuda")),
    "samples": Said("Of --calibrate that are used, at most."),
    "at_once": Said("Samples in a batch of calibration."),
    "exclude": Said("Nodes or operators that stay float, such as 'head*'; may be given again."),
    "per_channel": Said("One scale for all weights of a layer, not one a channel."),
    "weight_bits": Said("Of weights: 7 for x86 without VNNI; auto asks this machine.", WEIGHT_BITS),
    "weight_range": Said("How the end of a weight's grid is chosen.", WEIGHT_RANGES),
    "equalise": Said("Even out weights across layers first: for weights of one scale."),
    "smooth": Said("Outliers of activations into weights: off, auto, or an alpha from 0 to 1."),
    "rounding": Said("Of weights.", ROUNDINGS),
    "bias_correction": Said("Biases do not take back what integers move the mean by."),
}
_CALIBRATING = {
    "method": Said("How ranges of activations are chosen.", METHODS),
    "percentile": Said("Share of values that percentile keeps."),
    "memory": Said("Most that calibration may take, such as 2GB.", default="what there is"),
}


@click.command("quantize", epilog=_EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--calibrate", default="", help="Data that shows the ranges; fp16 can do without.")
@click.option(
    "--precision", default="int8", show_default=True, help="Or fp16 or bf16, for GPU targets."
)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="[default: build/NAME-PRECISION]"
)
@options_of(QuantizeOptions, _QUANTIZING)
@options_of(CalibrationOptions, _CALIBRATING)
@click.option("--val", default="", help="Data that the loss of accuracy is judged on.")
@click.option("--eval", "evaluation", default="", help="Data that only reports.")
@click.option("--metric", default="", help="top-1, top-5, tokens, mae or module:callable.")
@click.option(
    "--max-drop", type=click.FloatRange(min=0), help="Points of accuracy on --val that may be lost."
)
@click.option(
    "--budget",
    default=DEFAULT_BUDGET,
    show_default=True,
    help="Of the search for what meets --max-drop: evaluations of --val, or a time, such as 10m.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    help="fp16, bf16: largest relative difference.  [default: 0.01, 0.05]",
)
@click.option("--no-measure", is_flag=True, help="Take no latencies, for no layer either.")
@click.option("--batch", type=click.IntRange(min=1), help="Of the measurement.")
@click.option("--threads", type=click.IntRange(min=1), help="Of the measurement.")
@click.option(
    "--force", is_flag=True, help="Hand over the best there is, though slower or above --max-drop."
)
@click.option("--overwrite", is_flag=True, help="Replace an artifact that is there.")
@json_option
@quiet_option
def command(
    model: Path,
    calibrate: str,
    precision: str,
    output: Path | None,
    val: str,
    evaluation: str,
    metric: str,
    max_drop: float | None,
    budget: str,
    tolerance: float | None,
    no_measure: bool,
    batch: int | None,
    threads: int | None,
    force: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **given: Option,
) -> None:
    """Turn a float ONNX MODEL into INT8: QuantizeLinear and DequantizeLinear where they help.

    Or, with --precision, into fp16 or bf16 for a GPU: half.json says what stayed float32 and why.

    MODEL is an artifact of ours or any .onnx file. The folder holds model.onnx, artifact.json,
    ranges.json (what calibration found), quantization.json (what is in integers and how noisy, why
    the rest is not, and what was tried) and report.json.

    With --max-drop, where the first try loses more: other ways to quantize are tried, then the
    layers that do the most harm stay float, as few as will do. Layers whose integers are slower
    than their floats stay float, too. What is slower than MODEL all the same, or loses too much
    whatever was tried, is not handed over: the exit status is then 1.
    """
    from deploykit.cli.half import convert
    from deploykit.flow.precision import INT8, QUANTIZE, lower_of
    from deploykit.flow.quantize.quantize import QuantizeRequest, run_quantize

    name = model.absolute().parent.name if model.name == "artifact.json" else model.stem
    out = output or Path("build") / f"{name}-{precision}"
    lower_of({"precision": precision, "calibrate": calibrate}, QUANTIZE)
    if precision != INT8:
        convert(out, click.get_current_context().params)
        return
    if tolerance is not None:
        raise BadInputError("tolerance goes with fp16 and bf16: int8 has --max-drop and --val")
    request = QuantizeRequest(
        source=model,
        out=out,
        calibrate=calibrate,
        changes=given_of(given, {**_QUANTIZING, **_CALIBRATING}),
        val=val,
        eval=evaluation,
        metric=metric,
        max_drop=max_drop,
        budget=budget,
        measure=not no_measure,
        batch=batch,
        threads=threads,
        force=force,
        overwrite=overwrite,
    )
    with progress(quiet or as_json) as tell:
        result = run_quantize(request, tell)
    if as_json:
        from deploykit.core.records import REPORT

        print_json(result.report, REPORT)
    else:
        _print(result)
        click.echo(f"next: deploykit bench {model} {result.artifact.folder}")


def _print(result: QuantizeResult) -> None:
    from deploykit.cli.export import print_checks
    from deploykit.cli.units import bytes_text
    from deploykit.core.report import Verdict

    layers = result.quantization.layers
    left = [row for row in layers if row.kept_float]
    artifact = result.artifact
    count = result.quantization.samples
    samples = "1 sample" if count == 1 else f"{count} samples"
    click.echo(
        f"{artifact.folder}: ONNX, {bytes_text(artifact.size_bytes)}; {len(layers) - len(left)} of "
        f"{len(layers)} nodes in integers, ranges of {samples}"
    )
    if count < _FEW_SAMPLES:
        click.echo(f"{samples} may be too few: values beyond theirs are clipped; give 100 or more")
    if result.quantization.control:
        click.echo(f"accuracy control: {result.quantization.control}")
    for row in left[:_MOST_FLOAT]:
        click.echo(f"  {row.node} ({row.op}) stays float: {row.kept_float}")
    if len(left) > _MOST_FLOAT:
        click.echo(f"  ... and {len(left) - _MOST_FLOAT} more; see quantization.json")
    for one in result.quantization.leftovers[:_MOST_FLOAT]:
        click.echo(f"  {one.node} ({one.op}): {one.why}")
    _print_noise([row for row in layers if row.snr_db is not None])
    print_checks(result.report)
    for check in result.report.checks:
        if check.verdict is not Verdict.PASSED and check.advice:
            click.echo(f"{check.name}: {check.advice}")


def _print_noise(rows: list[LayerRow]) -> None:
    """The noisiest layers: signal to noise of what they give, and of their own part alone."""
    from deploykit.cli.output import Column, print_table
    from deploykit.cli.units import decibels_text

    if not rows:
        return
    shown = rows[:_MOST_NOISY]
    columns = (
        Column("layer"), Column("operator"), Column("signal to noise", right=True),
        Column("if quantized alone", right=True),
    )  # fmt: skip
    cells = [
        (row.node, row.op, decibels_text(row.snr_db), decibels_text(row.alone_db)) for row in shown
    ]
    title = "" if len(shown) == len(rows) else f"the noisiest {len(shown)} of {len(rows)} layers"
    print_table(columns, cells, title=title or None)
