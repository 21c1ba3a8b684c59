"""Half precision, proved: every rounding of it, at each size; and what accuracy it costs."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.check.accuracy import reported
from deploykit.check.parity import compare
from deploykit.core.errors import BadInputError, CheckFailedError, DeploykitError
from deploykit.core.measurement import Target
from deploykit.core.report import Check, Verdict
from deploykit.flow.accuracy import labels_type, lost_check, scored
from deploykit.flow.splits import VAL, Splits
from deploykit.flow.verify import (
    fed_sizes,
    outputs_of,
    parity_sizes,
    real_feeds,
    sizes_text,
)
from deploykit.load.artifacts import MODEL_NAME, load_artifact
from deploykit.load.one_call import OneCall
from deploykit.runtimes import runtime_named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from deploykit.check.accuracy import Accuracy
    from deploykit.core.progress import Progress
    from deploykit.core.types import OnnxArtifact, Option
    from deploykit.flow.half.request import HalfRequest
    from deploykit.load.data import Array, Data
    from deploykit.quantize.half.convert import Halved
    from deploykit.quantize.half_options import HalfOptions
    from deploykit.runtimes.base import Session

LIMITS = {"fp16": 1e-2, "bf16": 5e-2}
"""The largest difference that passes, over the largest magnitude of the output."""
_RUNTIME = "ort-cpu"
_EXACT: Mapping[str, Option] = {"optimization": "disable"}
_FUSED: Mapping[str, Option] = {"optimization": "extended"}
"""Not "all": what that adds is layouts for CPUs, and ONNX Runtime (1.32) ends the process while it
looks for them, where a float16 MatMul is behind a Transpose of the first two of three dimensions
(any recurrent network with the batch first). GPUs have no such step."""


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """What a conversion is held against: the float32 network, and data."""

    request: HalfRequest
    options: HalfOptions
    original: OnnxArtifact
    splits: Splits
    calibration: Data | None
    progress: Progress

    def checks(self, artifact: OnnxArtifact, made: Halved, weights: Path | None) -> Iterator[Check]:
        """Parity and accuracy, one check after the other.

        Args:
            artifact: that was written.
            made: the same, with the float32 graph that rounds where it does.
            weights: the folder of the float32 network's external data.

        Raises:
            CheckFailedError: one has failed.
        """
        from deploykit.quantize.graph.write import write_graph

        with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
            path, *_ = write_graph(made.simulated, weights, Path(folder) / MODEL_NAME)
            inputs = self.original.inputs
            simulated = replace(load_artifact(path), inputs=inputs)
            with _opened(self.original) as float_, _opened(simulated) as rounded:
                yield from self._parity(float_, rounded, artifact)
                for name, data in self.splits.named.items():
                    if labels_type(data) is not None:
                        yield from self._accuracy(name, data, float_, rounded)

    def _parity(self, float_: Session, rounded: Session, artifact: OnnxArtifact) -> Iterator[Check]:
        """Every rounding that the file asks for, at each size; then the file itself, as it runs."""
        limit = self.request.limit or LIMITS[self.options.precision]
        inputs = self.original.inputs
        data = self.splits.inputs or self.calibration
        cases = ({},) if isinstance(data, OneCall) else parity_sizes(inputs)
        for number, sizes in enumerate(cases):
            fed = real_feeds(inputs, sizes, data)
            sized = sizes_text(fed_sizes(inputs, fed))  # data may have its own
            self.progress(f"parity, {sized}", None)
            try:
                wanted = outputs_of(float_, fed)
            except BadInputError as error:
                guess = f"; {sized} was a guess: give --calibrate or --val data" if not data else ""
                raise BadInputError(f"{error}{guess}") from error
            name = f"parity with every {self.options.precision} value rounded {sized}"
            yield self._passed(compare(name, wanted, outputs_of(rounded, fed), limit))
            if number == 0:
                yield self._runs(artifact, fed, wanted, limit)

    def _runs(
        self,
        artifact: OnnxArtifact,
        fed: Mapping[str, Array],
        wanted: Mapping[str, Array],
        limit: float,
    ) -> Check:
        """The file itself on this machine's runtime, where that has its kernels."""
        import numpy as np

        name = f"parity {_RUNTIME}, which computes {self.options.precision} in float32"
        own = {spec.name: np.asarray(fed[spec.name], spec.dtype) for spec in artifact.inputs}
        try:
            with _opened(artifact, _FUSED) as session:
                found = outputs_of(session, own)
        except DeploykitError as error:
            if self.options.precision == "bf16":
                advice = f"not run here: {_RUNTIME} has no kernels for it; run it on the target"
                return Check(f"runs on {_RUNTIME}", Verdict.CANNOT_TELL, advice=advice)
            raise CheckFailedError(f"{_RUNTIME} does not run what was made: {error}") from error
        return self._passed(compare(name, wanted, found, limit))

    def _accuracy(
        self, name: str, data: Data, float_: Session, rounded: Session
    ) -> Iterator[Check]:
        was, now = self._scored(float_, data), self._scored(rounded, data)
        for said, found in (("float32", was), (self.options.precision, now)):
            yield reported(f"{found.metric.name} {said} {name}: {data.name}", found)
        limit = self.request.max_drop if name == VAL else None
        check = lost_check(f"{now.metric.name} lost {name}: {data.name}", was, now, limit)
        if limit is not None and check.verdict is not Verdict.PASSED:
            raise CheckFailedError(
                f"{check.name} is {check.value:.4g} {check.unit}, allowed is {limit:g}; nothing "
                f"was written; {self._what_to_do}"
            )
        yield check

    @property
    def _what_to_do(self) -> str:
        """Where too much is lost."""
        exclude = "--exclude layers that need float32"
        return exclude if self.calibration else f"give --calibrate data, or {exclude}"

    def _passed(self, check: Check) -> Check:
        if check.verdict is not Verdict.PASSED:
            by = "" if check.value is None else f" by {check.value:.3g} (limit {check.limit:.3g})"
            raise CheckFailedError(
                f"{check.name}: {check.advice}{by}; nothing was written; {self._what_to_do}, or "
                "allow more with --tolerance"
            )
        return check

    def _scored(self, session: Session, data: Data) -> Accuracy:
        return scored(
            lambda fed: session.bind(fed)(),
            self.original,
            data,
            self.request.metric,
            self.progress,
        )


@contextmanager
def _opened(
    artifact: OnnxArtifact, options: Mapping[str, Option] | None = None
) -> Iterator[Session]:
    """On ONNX Runtime's CPU; without optimisation unless other options are given."""
    target = Target(runtime=_RUNTIME, options=_EXACT if options is None else options)
    session = runtime_named(_RUNTIME).open(artifact, target)
    try:
        yield session
    finally:
        session.close()
