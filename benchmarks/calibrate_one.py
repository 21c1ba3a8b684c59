"""`python -m benchmarks.calibrate_one JOB`: one calibration by deploykit, or what it is held to."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.calibration_job import (
    BARE,
    EXPORT,
    FLOAT,
    STORED,
    Job,
    Outcome,
    images,
    job_of,
    tell,
)
from deploykit.bench import memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from deploykit.quantize.calibrate.observe import Observer
    from deploykit.quantize.calibrate.plan import Plan
    from deploykit.quantize.prepare.prepare import Prepared

_FIRST_IMAGES = 16
_PERCENTILE = 99.99


def main(job: Job) -> None:
    """Do it, and say what came of it."""
    ways = {FLOAT: _open, EXPORT: _export, STORED: _stored, BARE: _bare}
    does = ways.get(job.what, _calibrate)
    tell(does(job))


def _calibrate(job: Job) -> Outcome:
    """Ours, from the file to the ranges."""
    from deploykit.quantize.calibrate.calibrate import Memory, calibrate
    from deploykit.quantize.calibrate.observe import observer
    from deploykit.quantize.calibration_options import CalibrationOptions
    from deploykit.quantize.options import QuantizeOptions
    from deploykit.quantize.quantize import wanted_values

    plans: list[Plan] = []
    peaks: list[int] = []
    kept: list[Observer] = []
    options = CalibrationOptions(job.what, percentile=_PERCENTILE)

    def new() -> Observer:
        kept.append(observer(options, symmetric=False))
        return kept[-1]

    began, cpu = time.perf_counter(), time.process_time()
    prepared = _prepared(job)
    found = calibrate(
        prepared,
        wanted_values(prepared, QuantizeOptions()),
        _batches(job, prepared),
        new,
        memory=Memory(planned=plans.append),
        progress=lambda _, __: peaks.append(memory.peak_bytes() or 0),
    )
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    peak = memory.peak_bytes() or 0
    inputs = {value.name for value in prepared.model.graph.input}
    made = {name for node in prepared.model.graph.node for name in node.output} | inputs
    return Outcome(
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        peak_bytes=peak,
        growth_bytes=peaks[-1] - peaks[min(-(-_FIRST_IMAGES // job.batch), len(peaks)) - 1],
        predicted_bytes=plans[0].prediction.peak_bytes,
        activations_bytes=sum(plans[0].values[name].size_bytes for name in made),
        ranges={
            name: (one.low, one.high, _width(watch))
            for (name, one), watch in zip(found.items(), kept, strict=True)
        },
    )


def _stored(job: Job) -> Outcome:
    """The ranges of all values at once, which are all stored: what ours must be equal to."""
    import numpy as np
    import onnx
    import onnxruntime

    from deploykit.quantize.calibrate.histogram import Histogram
    from deploykit.quantize.calibrate.methods import entropy
    from deploykit.quantize.options import QuantizeOptions
    from deploykit.quantize.quantize import wanted_values

    prepared = _prepared(job)
    name = prepared.model.graph.input[0].name
    wanted = [one for one in wanted_values(prepared, QuantizeOptions()) if one != name]
    model = prepared.model
    del model.graph.output[:]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(one, onnx.TensorProto.FLOAT, None) for one in wanted
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    runs = [
        {name: batch, **dict(zip(wanted, session.run(wanted, {name: batch}), strict=True))}
        for batch in images(job)
    ]
    ranges: dict[str, tuple[float, float, float]] = {}
    for one in (name, *wanted):
        values = np.concatenate([run.pop(one).ravel() for run in runs])
        histogram = Histogram()
        histogram.add(values)
        width = histogram.grid.width
        percent = np.percentile(values.astype(np.float64), [100 - _PERCENTILE, _PERCENTILE])
        low, high = float(min(percent[0], 0.0)), float(max(percent[1], 0.0))
        ranges[f"min-max {one}"] = (float(values.min()), float(values.max()), 0.0)
        ranges[f"percentile {one}"] = (low, high, width)
        ranges[f"entropy {one}"] = (*entropy(histogram, symmetric=False), width)
    return Outcome(ranges=ranges)


def _open(job: Job) -> Outcome:
    """A session of the float network, with all that calibration imports: its memory is no part."""
    import onnxruntime

    import deploykit.quantize.calibrate.calibrate
    import deploykit.quantize.prepare.prepare  # noqa: F401

    session = onnxruntime.InferenceSession(job.model, providers=["CPUExecutionProvider"])
    peak = memory.peak_bytes() or 0
    del session
    return Outcome(peak_bytes=peak)


def _bare(job: Job) -> Outcome:
    """The float network as fast as ONNX Runtime runs it: what no calibration can be faster than."""
    import onnxruntime

    began, cpu = time.perf_counter(), time.process_time()
    session = onnxruntime.InferenceSession(job.model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for batch in images(job):
        session.run(None, {name: batch})
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    return Outcome(seconds=seconds, cpu_seconds=cpu_seconds, peak_bytes=memory.peak_bytes() or 0)


def _export(job: Job) -> Outcome:
    """ResNet-18 of torchvision with drawn weights, by our own export."""
    from benchmarks import packages, zoo
    from deploykit.core.types import Model
    from deploykit.export.options import ExportOptions
    from deploykit.export.torch_to_onnx import export_model
    from deploykit.load.inputs import parse_inputs

    packages.on_path()
    folder = Path(job.model).parent
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    batch = f"N[1..{job.batch}]" if job.batch > 1 else "1"
    inputs = parse_inputs([f"x={batch}x3x{job.size}x{job.size}"])
    export_model(
        Model(zoo.build(zoo.named("torchvision/resnet18")), inputs), fresh, ExportOptions()
    )
    fresh.rename(folder)
    return Outcome()


def _prepared(job: Job) -> Prepared:
    from deploykit.load.artifacts import read_graph
    from deploykit.quantize.prepare.prepare import prepare

    path = Path(job.model)
    return prepare(read_graph(path), path.parent)


def _batches(job: Job, prepared: Prepared) -> Iterator[Mapping[str, NDArray[np.float32]]]:
    name = prepared.model.graph.input[0].name
    for batch in images(job):
        yield {name: batch}
        del batch


def _width(watch: Observer) -> float:
    from deploykit.quantize.calibrate.observe import HistogramObserver

    return watch.histogram.grid.width if isinstance(watch, HistogramObserver) else 0.0


if __name__ == "__main__":
    main(job_of(sys.argv[1]))
