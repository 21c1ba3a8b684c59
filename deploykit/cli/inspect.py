"""`deploykit inspect`: what a network is made of, and where its time goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploykit.cli.output import (
    Column,
    json_option,
    print_json,
    print_table,
    printable,
    progress,
    quiet_option,
)
from deploykit.cli.types import SIZE
from deploykit.cli.units import NOT_MEASURED, bytes_text, count_text, share_text, time_text
from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from deploykit.bench.inspection import How, Inspection
    from deploykit.bench.layers import Layer
    from deploykit.bench.macs import Shape
    from deploykit.bench.profile import NodeTime, OperatorTime
    from deploykit.core.progress import Progress
    from deploykit.load.sources import Source

_MOST_OPERATORS = 15
_LEAST_SHARE = 0.001  # operators below it are added up in one row


@click.command("inspect")
@click.argument("target")
@click.option("--batch", type=click.IntRange(min=1), help="Size of the first dynamic dimension.")
@click.option(
    "--size",
    "sizes",
    type=SIZE,
    multiple=True,
    metavar="DIM=N",
    help="Size of a dynamic dimension.",
)
@click.option(
    "--input", "inputs", multiple=True, help='PyTorch only: "x=N[1..64]x3x224x224:float32".'
)
@click.option(
    "--weights", type=click.Path(path_type=Path), help="PyTorch only: .safetensors, .pt or .pth."
)
@click.option("--trust", is_flag=True, help="PyTorch only: load a .pt2, which can run code.")
@click.option("--runtime", default="ort-cpu", show_default=True, help="What runs an ONNX file.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of one operator.")
@click.option("--no-time", is_flag=True, help="Do not run the network.")
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="The N largest layers only.")
@click.option(
    "--all", "every", is_flag=True, help="Every layer, those that compute nothing as well."
)
@json_option
@quiet_option
def command(
    *,
    target: str,
    batch: int | None,
    sizes: tuple[tuple[str, int], ...],
    inputs: tuple[str, ...],
    weights: Path | None,
    trust: bool,
    runtime: str,
    threads: int | None,
    no_time: bool,
    top: int | None,
    every: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Layers, shapes, parameters, MACs, bytes, and where the time goes by operator.

    TARGET is an ONNX file, an artifact's folder, or a PyTorch source such as net.py:build.
    """
    from deploykit.bench.inspection import INSPECTION, How
    from deploykit.load.artifacts import is_onnx
    from deploykit.load.inputs import parse_inputs
    from deploykit.load.sources import Source, check_form

    how = How(batch, sizes, timed=not no_time, threads=threads)
    with progress(quiet or as_json) as tell:
        if is_onnx(target):
            _refuse_for_onnx(inputs, weights, trust)
            found = _onnx(target, runtime, how, tell)
        else:
            check_form(target)
            source = Source(target, weights=weights, inputs=parse_inputs(inputs), trust=trust)
            found = _pytorch(source, how, tell)
    if as_json:
        print_json(found, INSPECTION)
    else:
        _print(found, top, every)


def _refuse_for_onnx(inputs: tuple[str, ...], weights: Path | None, trust: bool) -> None:
    given = {"--input": inputs, "--weights": weights, "--trust": trust}
    for option, value in given.items():
        if value:
            hint = "; --batch and --size set its sizes" if option == "--input" else ""
            raise BadInputError(f"{option} is for PyTorch sources, and this is an ONNX file{hint}")


def _onnx(target: str, runtime: str, how: How, tell: Progress) -> Inspection:
    from deploykit.bench.inspection import inspect_onnx
    from deploykit.load.artifacts import load_artifact
    from deploykit.runtimes import runtime_named
    from deploykit.runtimes.ort import OnnxRuntime

    chosen = runtime_named(runtime)
    if not isinstance(chosen, OnnxRuntime):
        raise BadInputError(f"{runtime} does not run ONNX files; take ort-cpu")
    return inspect_onnx(target, load_artifact(Path(target)), how, chosen, tell)


def _pytorch(source: Source, how: How, tell: Progress) -> Inspection:
    from deploykit.bench.inspection import inspect_model
    from deploykit.load.modules import load_source

    tell(f"{source.text}: loading", None)
    return inspect_model(source.text, load_source(source), how, tell)


def _print(found: Inspection, top: int | None, every: bool) -> None:
    columns = (
        Column("layer"),
        Column("operator"),
        Column("output"),
        Column("parameters", right=True),
        Column("MACs", right=True),
        Column("weights", right=True),
        Column("output bytes", right=True),
    )
    shown = _chosen(found.layers, top, every)
    print_table(columns, [_layer_cells(layer) for layer in shown], title=_headline(found))
    if rest := _rest(found.layers, shown):
        click.echo(printable(rest))
    click.echo()
    click.echo(printable(_summary(found)))
    if found.not_timed:
        click.echo(printable(f"deploykit: not timed: {found.not_timed}{_hint(found)}"), err=True)
    if found.runtime is not None:
        click.echo()
        _print_times(found.operators, found.nodes, found.runtime, top)


def _chosen(layers: Sequence[Layer], top: int | None, every: bool) -> Sequence[Layer]:
    """Layers that learn or compute, in order; or the largest; or all."""
    if top is not None:
        return sorted(layers, key=lambda x: (-(x.macs or 0), -x.parameters))[:top]
    if every:
        return layers
    return [layer for layer in layers if layer.parameters or layer.macs != 0]


def _layer_cells(layer: Layer) -> tuple[str, ...]:
    return (
        layer.name,
        layer.op + (f" ({layer.note})" if layer.note else ""),
        ", ".join(_shape_text(shape) for shape in layer.outputs) or NOT_MEASURED,
        count_text(layer.parameters) if layer.parameters else "",
        "?" if layer.macs is None else count_text(layer.macs) if layer.macs else "",
        bytes_text(layer.weight_bytes) if layer.weight_bytes else "",
        bytes_text(layer.output_bytes),
    )


def _shape_text(shape: Shape | None) -> str:
    if shape is None:
        return "?"
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


def _headline(found: Inspection) -> str:
    from deploykit.load.inputs import input_text

    sizes = "".join(f", {name} = {size}" for name, size in found.sizes.items())
    return f"{found.name}: {' '.join(input_text(spec) for spec in found.inputs)}{sizes}"


def _rest(layers: Sequence[Layer], shown: Sequence[Layer]) -> str:
    """What the table leaves out, by operator: `and 12 more: 8 Relu, 4 Add`."""
    from collections import Counter

    left = {id(layer) for layer in layers} - {id(layer) for layer in shown}
    counts = Counter(layer.op for layer in layers if id(layer) in left)
    if not counts:
        return ""
    by_op = ", ".join(f"{number} {op}" for op, number in counts.most_common())
    return f"and {counts.total()} more (--all): {by_op}"


def _summary(found: Inspection) -> str:
    size = f", {bytes_text(found.size_bytes)} on disk" if found.size_bytes is not None else ""
    return (
        f"{found.totals.parameters:,} parameters, {_macs_text(found)}, "
        f"{bytes_text(found.totals.weight_bytes)} of weights{size}"
    )


def _macs_text(found: Inspection) -> str:
    macs, untold = found.totals.macs, found.totals.untold
    if macs is not None:
        return f"{macs:,} MACs"
    names = ", ".join(untold[:3]) + (" ..." if len(untold) > 3 else "")
    least = f"at least {found.totals.least_macs:,} MACs"
    return f"{least} (not known of {len(untold)}: {names}{_hint(found)})"


def _hint(found: Inspection) -> str:
    """The sizes that were taken, as one types others; "" where the network has one size only."""
    chosen = " ".join(f"--size {name}={size}" for name, size in found.sizes.items())
    return f"; tried with {chosen}" if chosen else ""


def _print_times(
    operators: Sequence[OperatorTime], nodes: Sequence[NodeTime], runtime: str, top: int | None
) -> None:
    most = min(
        top or _MOST_OPERATORS, sum(operator.share >= _LEAST_SHARE for operator in operators)
    )
    columns = (
        Column("operator"),
        Column("nodes", right=True),
        Column("time", right=True),
        Column("share", right=True),
    )
    rows = [
        (x.op, str(x.nodes), time_text(x.time_ns), share_text(x.share)) for x in operators[:most]
    ]
    if len(operators) > most:
        rows.append(_others(operators[most:]))
    title = (
        f"time by operator, {runtime}, kernels only (deploykit bench says how long a call takes)"
    )
    print_table(columns, rows, title=title)
    if top is not None and nodes:
        click.echo()
        _print_nodes(nodes[:top])


def _others(operators: Iterable[OperatorTime]) -> tuple[str, str, str, str]:
    rest = tuple(operators)
    return (
        f"{len(rest)} others",
        str(sum(x.nodes for x in rest)),
        time_text(sum(x.time_ns for x in rest)),
        share_text(sum(x.share for x in rest)),
    )


def _print_nodes(nodes: Sequence[NodeTime]) -> None:
    columns = (Column("slowest nodes"), Column("operator"), Column("time", right=True))
    print_table(columns, [(x.name, x.op, time_text(x.time_ns)) for x in nodes])
