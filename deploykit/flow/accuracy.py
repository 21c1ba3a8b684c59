"""The accuracy of an artifact on the splits, reported beside its parity."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from deploykit.check.accuracy import accuracy, at_most, drop, reported
from deploykit.check.metrics import metric_named
from deploykit.core.measurement import Target
from deploykit.flow.splits import VAL
from deploykit.runtimes import runtime_named

if TYPE_CHECKING:
    import numpy as np

    from deploykit.check.accuracy import Accuracy, Run
    from deploykit.core.progress import Progress
    from deploykit.core.report import Check
    from deploykit.core.types import OnnxArtifact
    from deploykit.flow.splits import Splits
    from deploykit.load.data import Data

_RUNTIME = "ort-cpu"
_INTEGERS = "iu"
_MOST_LOST_POINTS = 0.1  # rounding may turn a tie or two, not one sample in a thousand


def accuracy_checks(
    artifact: OnnxArtifact,
    splits: Splits,
    metric: str,
    progress: Progress,
    reference: Run | None = None,
) -> tuple[Check, ...]:
    """One check a split that has labels. Without a limit: it reports, and nothing is refused.

    Against a reference there is one more, on the validation data: how many points the artifact
    lost, paired by sample, at most 0.1. Parity looks at a few dozen samples closely, this one at
    all of them from afar.

    Args:
        artifact: run on ONNX Runtime's CPU provider.
        splits: the data.
        metric: in the words of `deploykit.check.metrics`; "" takes top-1 for class numbers and
            the mean absolute error for everything else.
        progress: told after every batch.
        reference: the network that the artifact was made from, or `None`.

    Raises:
        BadInputError: the data does not fit the network or the metric.
    """
    runtime = runtime_named(_RUNTIME)
    labelled = {name: data for name, data in splits.named.items() if labels_type(data) is not None}
    if not labelled:
        return ()
    session = runtime.open(artifact, Target(runtime=_RUNTIME))
    checks = []
    try:
        for name, data in labelled.items():
            chosen = metric_named(metric or usual_metric(data))
            found = accuracy(
                lambda fed: session.bind(fed)(), data, artifact.inputs, chosen, progress=progress
            )
            title = f"{chosen.name} {_RUNTIME} {name}: {data.name}"
            checks.append(reported(title, found))
            if reference is not None and name == VAL and found.is_share:
                was = accuracy(reference, data, artifact.inputs, chosen, progress=progress)
                title = f"{chosen.name} lost against PyTorch {name}: {data.name}"
                checks.append(at_most(title, drop(was, found), _MOST_LOST_POINTS))
    finally:
        session.close()
    return tuple(checks)


def labels_type(data: Data | None) -> np.dtype[Any] | None:
    """NumPy's type of the labels; `None` where there are none."""
    labels = data.batch([0]).labels if data is not None and len(data) else None
    return None if labels is None else labels.dtype


def are_classes(labels: np.dtype[Any] | None) -> bool:
    """Whether labels are class numbers."""
    return labels is not None and labels.kind in _INTEGERS


def usual_metric(data: Data) -> str:
    """Top-1 for class numbers, the mean absolute error for everything else."""
    return "top-1" if are_classes(labels_type(data)) else "mae"


def lost_check(name: str, was: Accuracy, now: Accuracy, limit: float | None) -> Check:
    """What was lost, paired by sample, in points where it is a share; no limit only reports."""
    points = was.is_share and now.is_share
    found = at_most(name, drop(was, now), inf if limit is None else limit, points=points)
    return replace(found, limit=limit)
