"""How good an artifact is on a data set, and whether another one is worse on the same samples.

Measured through a callable, so that ONNX Runtime, an engine and eager PyTorch are judged alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deploykit.check.intervals import CONFIDENCE, mean_interval, paired_proportions, wilson
from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.core.progress import Progress, silent
from deploykit.core.report import Check, Verdict
from deploykit.core.types import Dim
from deploykit.load.data import feeds

if TYPE_CHECKING:
    from deploykit.check.intervals import Interval
    from deploykit.check.metrics import Metric, Scores
    from deploykit.core.types import TensorSpec
    from deploykit.load.data import Data

Array: TypeAlias = NDArray[np.generic]
Run: TypeAlias = Callable[[Mapping[str, Array]], Sequence[Array]]
"""Called with the inputs by name; gives the outputs in order, each of shape [n, ...]."""

POINTS = 100.0


@dataclass(frozen=True, slots=True, eq=False)
class Accuracy:
    """The figure of one artifact on one data set.

    Attributes:
        data: name of the data set.
        metric: how it was scored.
        scores: of every sample, in the data's order; shape [n].
    """

    data: str
    metric: Metric
    scores: Scores

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.scores)

    @property
    def value(self) -> float:
        """Mean of the scores: for top-k the share that was right, 0 to 1."""
        return float(self.scores.mean())

    @property
    def is_share(self) -> bool:
        """Whether every score is 0 or 1, so that the value is a proportion."""
        return bool(np.isin(self.scores, (0.0, 1.0)).all())

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """Wilson's of a proportion, otherwise Student's; `None` where it is unknown."""
        if self.is_share:
            return wilson(int(self.scores.sum()), self.count, confidence)
        return mean_interval(self.scores, confidence)


@dataclass(frozen=True, slots=True)
class Drop:
    """How much worse a candidate is than its reference, on the same samples.

    Attributes:
        value: positive where the candidate is worse; in the metric's own unit.
        interval: of the drop, paired by sample; `None` where it is unknown.
        lost: samples on which the candidate is worse.
        won: samples on which it is better.
    """

    value: float
    interval: Interval | None
    lost: int
    won: int


def accuracy(
    run: Run,
    data: Data,
    specs: Sequence[TensorSpec],
    metric: Metric,
    batch: int = 64,
    *,
    progress: Progress = silent,
) -> Accuracy:
    """Run all of a data set and score it.

    Args:
        run: the artifact.
        data: with labels.
        specs: the inputs of `run`.
        metric: how to score.
        batch: samples a call; what the inputs allow wins. All calls have one size: the last is
            filled up with copies of its last sample, which are not scored.
        progress: told after every call.

    Raises:
        BadInputError: the data has no labels, or does not fit the inputs or the metric.
        CheckFailedError: an output has NaN.
    """
    size = call_size(specs, batch, len(data))
    found: list[Scores] = []
    for start in range(0, len(data), size):
        rows = list(range(start, min(start + size, len(data))))
        filled = rows + [rows[-1]] * (size - len(rows))
        samples = data.batch(filled)
        if samples.labels is None:
            raise BadInputError(f"{data.name} has no labels, and {metric.name} needs them")
        outputs = run(feeds(samples, specs, data.name))
        _check_outputs(outputs, size, data.name, start)
        kept = [output[: len(rows)] for output in outputs]
        found.append(metric.scores(kept, samples.labels[: len(rows)]))
        progress(f"{metric.name} on {data.name}", (start + len(rows)) / len(data))
    return Accuracy(data.name, metric, np.concatenate(found))


def drop(reference: Accuracy, candidate: Accuracy, confidence: float = CONFIDENCE) -> Drop:
    """What the candidate lost against the reference.

    Args:
        reference: what it is held against.
        candidate: scored by the same metric on the same samples.
        confidence: of the interval, two-sided.

    Raises:
        BadInputError: the two are of other data or metrics.
    """
    same = (reference.data, reference.metric.name, reference.count)
    other = (candidate.data, candidate.metric.name, candidate.count)
    if same != other:
        raise BadInputError(
            "only accuracies of the same samples are compared, not {} on {} ({} samples) and "
            "{} on {} ({} samples)".format(*_said(same), *_said(other))
        )
    sign = 1.0 if reference.metric.higher_is_better else -1.0
    lost = sign * (reference.scores - candidate.scores)
    worse, better = int((lost > 0).sum()), int((lost < 0).sum())
    if reference.is_share and candidate.is_share and sign > 0:
        both = int((reference.scores * candidate.scores).sum())
        neither = reference.count - both - worse - better
        interval = paired_proportions(both, worse, better, neither, confidence)
        return Drop((worse - better) / reference.count, interval, worse, better)
    return Drop(float(lost.mean()), mean_interval(lost, confidence), worse, better)


def reported(name: str, found: Accuracy) -> Check:
    """The figure with its interval, in percent where it is a share. Without a limit: it passes."""
    scale = POINTS if found.is_share else 1.0
    interval = found.interval()
    return Check(
        name=name,
        verdict=Verdict.PASSED,
        value=found.value * scale,
        interval=interval and (interval[0] * scale, interval[1] * scale),
        unit="%" if found.is_share else "",
    )


def at_most(name: str, found: Drop, limit: float, *, points: bool = True) -> Check:
    """Judge a drop by its point estimate; the interval stands beside it.

    Args:
        name: of the check.
        found: from `drop`.
        limit: largest drop that passes; in points (hundredths) where `points` is set.
        points: whether the drop is one of shares; False for MAE and the like.
    """
    scale = POINTS if points else 1.0
    # 0.007 * 100 is 0.7000000000000001: a drop of exactly the limit passes.
    value = round(found.value * scale, 9)
    passed = value <= limit
    interval = found.interval
    return Check(
        name=name,
        verdict=Verdict.PASSED if passed else Verdict.FAILED,
        value=value,
        interval=None if interval is None else (interval[0] * scale, interval[1] * scale),
        limit=limit,
        unit="points" if points else "",
        advice="" if passed else f"{found.lost} samples got worse and {found.won} better",
    )


def _said(key: tuple[str, str, int]) -> tuple[str, str, int]:
    data, metric, count = key
    return metric, data, count


def call_size(specs: Sequence[TensorSpec], batch: int, count: int) -> int:
    """The batch nearest to the wish that every input allows."""
    if batch < 1:
        raise BadInputError(f"batch must be 1 or more, not {batch}")
    size = min(batch, count)
    for first in (spec.shape[0] for spec in specs if spec.shape):
        if not isinstance(first, Dim):
            return first
        if first.high is not None:
            size = min(size, first.high)
        size = max(size // first.step * first.step, first.low)
    return size


def _check_outputs(outputs: Sequence[Array], size: int, name: str, start: int) -> None:
    for number, output in enumerate(outputs):
        if not output.shape or output.shape[0] != size:
            raise BadInputError(
                f"output {number} has shape {list(output.shape)} for {size} samples of {name}: "
                "its first dimension must count the samples"
            )
        if output.dtype.kind == "f" and np.isnan(output).any():
            row = start + int(np.argwhere(np.isnan(output))[0][0])
            raise CheckFailedError(f"output {number} is NaN for sample {row} of {name}")
