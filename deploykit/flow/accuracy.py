"""The accuracy of an artifact on the splits, reported beside its parity."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from deploykit.check.accuracy import accuracy, at_most, drop, reported
from deploykit.check.metrics import metric_named
from deploykit.core.measurement import Target
from deploykit.flow.splits import VAL
from deploykit.runtimes import runtime_named

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        metric: in the words of `deploykit.check.metrics`; "" takes `usual_metric`.
        progress: told after every batch.
        reference: the network that the artifact was made from, or `None`.

    Raises:
        BadInputError: the data does not fit the network or the metric.
    """
    labelled = {name: data for name, data in splits.named.items() if labels_type(data) is not None}
    if not labelled:
        return ()
    checks = []
    with running(artifact) as run:
        for name, data in labelled.items():
            found = scored(run, artifact, data, metric, progress)
            title = f"{found.metric.name} {_RUNTIME} {name}: {data.name}"
            checks.append(reported(title, found))
            if reference is not None and name == VAL and found.is_share:
                was = scored(reference, artifact, data, metric, progress)
                title = f"{found.metric.name} lost against PyTorch {name}: {data.name}"
                checks.append(at_most(title, drop(was, found), _MOST_LOST_POINTS))
    return tuple(checks)


@contextmanager
def running(artifact: OnnxArtifact) -> Iterator[Run]:
    """An artifact opened on ONNX Runtime's CPU provider, as what accuracies are taken of."""
    session = runtime_named(_RUNTIME).open(artifact, Target(runtime=_RUNTIME))
    try:
        yield lambda fed: session.bind(fed)()
    finally:
        session.close()


def scored(
    run: Run, artifact: OnnxArtifact, data: Data, metric: str, progress: Progress
) -> Accuracy:
    """All of one split, scored.

    Args:
        run: the artifact, or its reference.
        artifact: whose inputs it takes.
        data: with labels.
        metric: see `accuracy_checks`.
        progress: told after every batch.

    Raises:
        BadInputError: the data does not fit the network or the metric.
        CheckFailedError: an output has NaN.
    """
    chosen = metric_named(metric or usual_metric(data))
    return accuracy(run, data, artifact.inputs, chosen, progress=progress)


def labels_type(data: Data | None) -> np.dtype[Any] | None:
    """NumPy's type of the labels; `None` where there are none."""
    labels = data.batch([0]).labels if data is not None and len(data) else None
    return None if labels is None else labels.dtype


def are_classes(labels: np.dtype[Any] | None) -> bool:
    """Whether labels are class numbers."""
    return labels is not None and labels.kind in _INTEGERS


def usual_metric(data: Data) -> str:
    """Top-1 for class numbers, right tokens for sequences of them, or the mean absolute error."""
    labels = data.batch([0]).labels if len(data) else None
    if labels is None or not are_classes(labels.dtype):
        return "mae"
    return "tokens" if labels.ndim == 2 else "top-1"


def lost_check(name: str, was: Accuracy, now: Accuracy, limit: float | None) -> Check:
    """What was lost, paired by sample, in points where it is a share; no limit only reports."""
    points = was.is_share and now.is_share
    found = at_most(name, drop(was, now), inf if limit is None else limit, points=points)
    return replace(found, limit=limit)
