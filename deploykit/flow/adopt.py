"""A foreign ONNX file, verified against itself without any optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.core.errors import CheckFailedError
from deploykit.core.measurement import Target
from deploykit.core.report import Report
from deploykit.export.adopt import adopt
from deploykit.flow.verify import difference_text, parity, unsteady_text
from deploykit.runtimes import runtime_named

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploykit.core.progress import Progress
    from deploykit.core.types import OnnxArtifact, TensorSpec
    from deploykit.flow.splits import Splits
    from deploykit.load.data import Array

_REFERENCE = "ort-cpu"


def adopt_verified(
    original: OnnxArtifact,
    folder: Path,
    *,
    inputs: tuple[TensorSpec, ...],
    splits: Splits,
    limit: float | None,
    progress: Progress,
) -> tuple[OnnxArtifact, Report]:
    """Make an artifact of a foreign model and compare the two.

    The reference is the original file on ONNX Runtime's CPU provider with optimisation off: what
    the graph says, before any runtime improves on it.

    Raises:
        BadInputError: the model cannot be run, or the inputs or data do not fit.
        CheckFailedError: the checker refuses it, or an optimised run differs.
    """
    progress("checking the graph", None)
    artifact = adopt(original, folder, inputs, __version__)
    target = Target(runtime=_REFERENCE, options={"optimization": "disable"})
    session = runtime_named(_REFERENCE).open(original, target)

    def reference(fed: Mapping[str, Array]) -> dict[str, Array]:
        names = [spec.name for spec in session.outputs]
        return dict(zip(names, session.bind(fed)(), strict=True))

    try:
        result = parity(artifact, reference, splits.inputs, limit=limit, progress=progress)
    finally:
        session.close()
    if result.failure is not None:
        raise CheckFailedError(
            f"{difference_text(result.failure.check)}, from the unoptimised graph"
            f"{unsteady_text(result.failure)}; nothing was written"
        )
    return artifact, Report(artifact.digest, result.checks)
