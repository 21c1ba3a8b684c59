"""A quantization under way: trials become graphs, and graphs become files.

What several trials share is made once: the prepared graph, what adjusts its weights, and the
histograms of one pass over the calibration data.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.check.accuracy import call_size
from deploykit.core.errors import BadInputError
from deploykit.core.types import Step
from deploykit.export.write import check_file, record_artifact
from deploykit.flow.calibration import calibration_batches
from deploykit.flow.quantize.ranges import SERVED, Histograms
from deploykit.load.artifacts import MODEL_NAME
from deploykit.load.data import feeds
from deploykit.quantize.place.targets import Role, placement_named
from deploykit.quantize.ranges import Ranges

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploykit.core.progress import Progress
    from deploykit.core.types import OnnxArtifact, Option
    from deploykit.flow.quantize.request import QuantizeRequest
    from deploykit.flow.quantize.search import Trial
    from deploykit.load.data import Array, Data
    from deploykit.quantize.calibration_options import CalibrationOptions
    from deploykit.quantize.options import QuantizeOptions
    from deploykit.quantize.prepare.prepare import Prepared
    from deploykit.quantize.quantize import Quantized
    from deploykit.quantize.ranges import Range


_AFTER = frozenset({"exclude", "weight_range", "rounding", "bias_correction"})
"""Options that neither the float graph nor its ranges depend on."""

_MOST_READY = 3
"""Adjusted float graphs that are kept: each may have weights of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A trial as a graph.

    Attributes:
        prepared: the float graph that quantizers were placed in.
        quantized: what came of it.
    """

    prepared: Prepared
    quantized: Quantized


@dataclass(slots=True, eq=False)
class _Ready:
    """A float graph for some options, and what was seen of it."""

    prepared: Prepared
    histograms: Histograms | None = None
    ranges: dict[CalibrationOptions, dict[str, Range]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Work:
    """What trials share.

    Attributes:
        request: what was asked for.
        original: the float network.
        prepared: ready for quantizers.
        data: of calibration.
        progress: told where it stands.
        searching: whether several trials are to come: histograms serve them all then.
        settled: nodes that stay float in every trial, each with why.
    """

    request: QuantizeRequest
    original: OnnxArtifact
    prepared: Prepared
    data: Data
    progress: Progress
    searching: bool = False
    settled: dict[str, str] = field(default_factory=dict)
    _last: tuple[Trial, dict[str, str], Made] | None = None
    _ready: dict[tuple[tuple[str, Option], ...], _Ready] = field(default_factory=dict)

    def made(self, trial: Trial) -> Made:
        """Quantize. The last one is kept.

        Raises:
            BadInputError: nothing is left to quantize, or data or options do not fit.
        """
        if self._last is not None and self._last[:2] == (trial, self.settled):
            return self._last[2]
        from deploykit.quantize.quantize import quantize

        options, calibration = self.request.options(trial.changes)
        ready = self._ready_for(options)
        ranges = self._ranges(ready, options, calibration)
        floats = (*self._excluded(options), *self.settled, *trial.floats)
        quantized = quantize(
            ready.prepared,
            options,
            ranges,
            floats,
            self.batches(),
            threads=self.request.threads or 0,
            progress=self.progress,
        )
        made = Made(ready.prepared, quantized)
        self._last = trial, dict(self.settled), made
        return made

    def written(self, made: Made, trial: Trial, folder: Path) -> OnnxArtifact:
        """Write the artifact of a trial into an empty folder.

        Raises:
            CheckFailedError: onnx's checker refuses it.
            EnvironmentFailedError: it cannot be written.
        """
        import onnx

        from deploykit.quantize.graph.write import write_graph

        path, *_ = write_graph(made.quantized.model, made.prepared.folder, folder / MODEL_NAME)
        check_file(path)
        step = Step(
            name="quantize",
            options=self.all_options(trial),
            input_digests={"model": self.original.digest, "data": self.data.digest()},
            versions={"deploykit": __version__, "onnx": onnx.__version__},
        )
        original = self.original
        history = (*original.history, step)
        return record_artifact(folder, inputs=original.inputs, io=original.io, history=history)

    def all_options(self, trial: Trial) -> dict[str, Option]:
        """Of a trial, by name; what went back to float is among what is excluded."""
        options, calibration = self.request.options(trial.changes)
        floats = (*self.settled, *trial.floats)
        exclude = tuple(dict.fromkeys((*options.exclude, *floats)))
        return {**asdict(options), **asdict(calibration), "exclude": exclude}

    def ranges(self, made: Made, trial: Trial) -> Ranges:
        """The record of the ranges that quantizers have."""
        _, calibration = self.request.options(trial.changes)
        used = made.quantized.ranges
        data = self.data.digest()
        return Ranges(self.original.digest, calibration.method, self.count, data, used)

    @property
    def count(self) -> int:
        """Calibration samples that are seen."""
        return min(self.request.options()[0].samples, len(self.data))

    def batches(
        self, most: int | None = None, size: int | None = None
    ) -> Iterator[dict[str, Array]]:
        """Calibration data, from the start.

        Args:
            most: samples; all that are asked for where it is `None`.
            size: of a batch, as near as the network takes it; as asked where it is `None`.
        """
        count = self.count if most is None else min(most, self.count)
        at_once = size or self.request.options()[0].at_once
        return calibration_batches(self.data, self.original.inputs, count, at_once)

    @property
    def _gives_back(self) -> bool:
        """Whether layers may go back to float after calibration."""
        return self.searching or self.request.measure

    def _excluded(self, options: QuantizeOptions) -> tuple[str, ...]:
        from deploykit.quantize.quantize import excluded_nodes

        return excluded_nodes(self.prepared.model.graph, options.exclude)

    def _ready_for(self, options: QuantizeOptions) -> _Ready:
        """The float graph with its weights adjusted as these options say: it computes the same."""
        from deploykit.quantize.quantize import rescaled

        given = asdict(options)
        key = tuple((name, given[name]) for name in given if name not in _AFTER)
        found = self._ready.get(key)
        if found is None:
            threads = self.request.threads or 0
            adjusted = rescaled(
                self.prepared, options, self.batches, threads=threads, progress=self.progress
            )
            while len(self._ready) >= _MOST_READY:
                del self._ready[next(iter(self._ready))]
            found = self._ready[key] = _Ready(adjusted.prepared)
        return found

    def _ranges(
        self, ready: _Ready, options: QuantizeOptions, calibration: CalibrationOptions
    ) -> dict[str, Range]:
        from deploykit.quantize.quantize import ranges_of

        found = ready.ranges.get(calibration)
        if found is not None:
            return found
        serves = self.searching and calibration.method in SERVED
        if serves and ready.histograms is not None:
            symmetric = placement_named(options.target).symmetric
            found = ready.histograms.ranges(calibration, symmetric=symmetric)
        else:
            kept = Histograms()
            found = ranges_of(
                ready.prepared,
                options,
                calibration,
                self.batches(),
                excluded=self._excluded(options),
                threads=self.request.threads or 0,
                progress=self.progress,
                more=self._more(ready.prepared, options) if self._gives_back else (),
                observers=kept.observer if serves else None,
            )
            if serves:
                ready.histograms = kept
                symmetric = placement_named(options.target).symmetric
                found = kept.ranges(calibration, symmetric=symmetric)
        ready.ranges[calibration] = found
        return found

    def _more(self, prepared: Prepared, options: QuantizeOptions) -> set[str]:
        """Values that get a quantizer only where a layer is float that otherwise is not."""
        from deploykit.quantize.quantize import wanted_values

        excluded = self._excluded(options)
        rules = placement_named(options.target).rules
        products = [
            node.name
            for node in prepared.model.graph.node
            if node.op_type in rules and rules[node.op_type].role is Role.COMPUTES
        ]
        wanted = (wanted_values(prepared, options, (*excluded, name)) for name in products)
        return {value for values in wanted for value in values}


def unadjusted(trial: Trial) -> Trial:
    """The same without what looks at layer by layer: it takes long, and moves no quantizer."""
    changes = {**trial.changes, "bias_correction": False, "rounding": "nearest"}
    return replace(trial, changes=changes)


def check_fits(data: Data, artifact: OnnxArtifact) -> None:
    """Whether a network takes samples of a data set.

    Raises:
        BadInputError: it does not, or there are none.
    """
    if not len(data):
        raise BadInputError(f"{data.name} is empty")
    size = call_size(artifact.inputs, 1, len(data))
    feeds(data.batch([0] * size), artifact.inputs, data.name)
