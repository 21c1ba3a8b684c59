"""Calibration: the float graph runs over data, and observers see every activation.

Memory is that of the float network and the observed values of one piece of it for one batch: the
graph is cut into pieces where all of its activations at once would be too much (`pieces.py`), and
each value goes to its observer where ONNX Runtime left it, without a copy.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit.core.errors import BadInputError
from deploykit.core.progress import Progress, silent
from deploykit.quantize.calibrate.pieces import pieces
from deploykit.quantize.graph.write import write_graph
from deploykit.runtimes.ort import CPU_PROVIDER  # before onnxruntime: it switches off telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    import onnx

    from deploykit.load.data import Array
    from deploykit.quantize.calibrate.observe import Observer
    from deploykit.quantize.calibrate.pieces import Piece
    from deploykit.quantize.prepare.prepare import Prepared
    from deploykit.quantize.ranges import Range

MOST_BYTES = 256_000_000
"""Of the observed values and the weights of one piece."""


def calibrate(
    prepared: Prepared,
    wanted: Sequence[str],
    batches: Iterable[Mapping[str, Array]],
    observer: Callable[[], Observer],
    *,
    sizes: Mapping[str, int],
    most_bytes: int = MOST_BYTES,
    threads: int = 0,
    progress: Progress = silent,
) -> dict[str, Range]:
    """What every wanted value's range is.

    Args:
        prepared: the float graph.
        wanted: names of inputs and activations.
        batches: the graph's inputs, by name; read once.
        observer: makes one for each value.
        sizes: bytes of each activation for one batch, as far as known.
        most_bytes: of the observed values and weights that are in memory at once.
        threads: of ONNX Runtime; 0 for one a core.
        progress: told after every batch.

    Raises:
        BadInputError: no batch, or a value that is no number: the message names the tensor.
    """
    observers = {name: observer() for name in wanted}
    parts = pieces(prepared.model.graph, observers.keys(), sizes, most_bytes)
    seen = 0
    with _sessions(prepared, parts, threads) as run:
        for batch in batches:
            run(batch, observers)
            seen += 1
            progress(f"calibrating: batch {seen}", None)
    if not seen:
        raise BadInputError("there is no calibration data: give --calibrate some samples")
    return {name: one.range(name) for name, one in observers.items()}


_Run = Any  # (batch, observers) -> None


@contextmanager
def _sessions(prepared: Prepared, parts: Sequence[Piece], threads: int) -> Iterator[_Run]:
    """Sessions of all pieces; they live in a temporary folder as long as they are used."""
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        stages = [
            _Stage(part, _session(prepared, part, Path(folder), number, threads))
            for number, part in enumerate(parts)
        ]

        def run(batch: Mapping[str, Array], observers: Mapping[str, Observer]) -> None:
            from onnxruntime import OrtValue

            for name in batch.keys() & observers.keys():
                _show(observers[name], batch[name], name)
            alive = {name: OrtValue.ortvalue_from_numpy(array) for name, array in batch.items()}
            for stage in stages:
                stage.run(alive, observers)

        yield run


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """A piece and its session."""

    piece: Piece
    session: Any

    def run(self, alive: dict[str, Any], observers: Mapping[str, Observer]) -> None:
        """Run one batch through it.

        Args:
            alive: values that are needed now or later; changed.
            observers: by name.
        """
        feeds = {name: alive[name] for name in self.piece.reads}
        given = self.session.run_with_ort_values(list(self.piece.gives), feeds)
        del feeds
        values = dict(zip(self.piece.gives, given, strict=True))
        del given
        gone = set(self.piece.frees)
        for name in gone - values.keys():
            alive.pop(name, None)
        for name in self.piece.gives:
            value = values.pop(name)
            if name in observers:
                _show(observers[name], value.numpy(), name)
            if name not in gone:
                alive[name] = value


def _show(observer: Observer, values: Array, name: str) -> None:
    observer.add(values)
    if observer.non_finite:
        observer.range(name)  # says so


def _session(prepared: Prepared, part: Piece, folder: Path, number: int, threads: int) -> Any:
    import onnxruntime

    place = folder / str(number)
    place.mkdir()
    path, *_ = write_graph(_model(prepared, part), prepared.folder, place / "piece.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # What is observed is what the graph says, not what an optimiser makes of it.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.enable_cpu_mem_arena = False  # freed means freed
    return onnxruntime.InferenceSession(path, options, providers=[CPU_PROVIDER])


def _model(prepared: Prepared, part: Piece) -> onnx.ModelProto:
    """A piece as a model of its own."""
    import onnx

    whole = prepared.model
    made = onnx.ModelProto()
    made.ir_version = whole.ir_version
    made.opset_import.extend(whole.opset_import)
    graph = made.graph
    graph.name = "piece"
    types = {value.name: value for value in (*whole.graph.value_info, *whole.graph.input)}
    graph.input.extend(_typed(name, types) for name in part.reads)
    graph.output.extend(onnx.helper.make_value_info(n, onnx.TypeProto()) for n in part.gives)
    graph.node.extend(part.nodes)
    needed = set(part.constants)
    graph.initializer.extend(one for one in whole.graph.initializer if one.name in needed)
    return made


def _typed(name: str, types: Mapping[str, onnx.ValueInfoProto]) -> onnx.ValueInfoProto:
    known = types.get(name)
    if known is None:
        raise BadInputError(
            f"the type of {name} is not known, so that the graph cannot be cut there; calibrate "
            "smaller batches"
        )
    return known


def wanted_of(graph: onnx.GraphProto, values: Collection[str]) -> tuple[str, ...]:
    """Some values of a graph in its order: inputs first."""
    made = [value.name for value in graph.input] + [n for node in graph.node for n in node.output]
    return tuple(name for name in made if name in values)
