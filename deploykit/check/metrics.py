"""What a network's outputs are worth, sample by sample, in NumPy.

A metric gives every sample a score of its own and the figure is their mean: so it has an interval,
and two networks are compared on the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from deploykit.core.errors import BadInputError, nearest
from deploykit.load.callables import user_callable
from deploykit.load.imports import running

Array: TypeAlias = NDArray[np.generic]
Scores: TypeAlias = NDArray[np.float64]
Score: TypeAlias = Callable[[Sequence[Array], Array], object]
"""Called with the outputs in order, each of shape [n, ...], and the labels, shape [n, ...]."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A way to score.

    Attributes:
        name: as users write it.
        score: gives the scores of a batch, shape [n].
        higher_is_better: False for errors.
    """

    name: str
    score: Score
    higher_is_better: bool = True

    def scores(self, outputs: Sequence[Array], labels: Array) -> Scores:
        """Scores of a batch, shape [n], checked.

        Raises:
            BadInputError: outputs and labels do not fit the metric, or a user's function fails
                or gives something else than one number a sample.
        """
        found = np.asarray(running(lambda: self.score(outputs, labels), self.name))
        if found.shape != (len(labels),) or found.dtype.kind not in "biuf":
            raise BadInputError(
                f"metric {self.name} gave {found.dtype} of shape {list(found.shape)} for "
                f"{len(labels)} samples; it must give one number each"
            )
        scores = found.astype(np.float64)
        if not np.isfinite(scores).all():
            raise BadInputError(f"metric {self.name} gave NaN or infinity for a sample")
        return scores


def top_k(k: int) -> Metric:
    """Share of samples whose label is among the k highest logits.

    Of equal logits the lower class number comes first, so that top-1 is NumPy's argmax.

    Args:
        k: at least 1.
    """

    def score(outputs: Sequence[Array], labels: Array) -> Scores:
        logits = outputs[0]
        if logits.ndim != 2 or labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise BadInputError(
                f"top-{k} takes outputs of shape [n, classes] and whole-number labels of shape "
                f"[n], not {list(logits.shape)} and {labels.dtype} {list(labels.shape)}"
            )
        classes = logits.shape[1]
        if k >= classes:
            raise BadInputError(f"top-{k} is always right with {classes} classes; take a lower k")
        wanted = labels.astype(np.int64)
        if wanted.min() < 0 or wanted.max() >= classes:
            wrong = wanted[(wanted < 0) | (wanted >= classes)][0]
            raise BadInputError(f"label {wrong} is outside the {classes} classes of the output")
        values = logits.astype(np.float64)
        own = np.take_along_axis(values, wanted[:, None], axis=1)
        earlier = np.arange(classes) < wanted[:, None]
        rank = ((values > own) | ((values == own) & earlier)).sum(axis=1)
        return np.asarray(rank < k, dtype=np.float64)

    return Metric(f"top-{k}", score)


def _absolute_error(outputs: Sequence[Array], labels: Array) -> Scores:
    found, wanted = outputs[0].astype(np.float64), labels.astype(np.float64)
    if found.size != wanted.size or len(found) != len(wanted):
        raise BadInputError(
            f"mae takes labels of the output's shape {list(found.shape)}, not "
            f"{list(wanted.shape)}; for other labels, or those of several outputs, give "
            "--metric module:callable"
        )
    difference = found.reshape(len(found), -1) - wanted.reshape(len(wanted), -1)
    return np.asarray(np.abs(difference).mean(axis=1), dtype=np.float64)


def _right_tokens(outputs: Sequence[Array], labels: Array) -> Scores:
    logits = outputs[0]
    if logits.ndim != 3 or labels.shape != logits.shape[:2] or labels.dtype.kind not in "iu":
        raise BadInputError(
            "tokens takes outputs of shape [n, length, classes] and whole-number labels of shape "
            f"[n, length], not {list(logits.shape)} and {labels.dtype} {list(labels.shape)}; for "
            "other labels give --metric module:callable"
        )
    there = labels.astype(np.int64) >= 0
    if not there.any(axis=1).all():
        row = int((~there.any(axis=1)).argmax())
        raise BadInputError(
            f"tokens: the labels of a sample (number {row} of its batch) are all "
            "negative, which means none; leave such samples out"
        )
    right = ((logits.argmax(axis=2) == labels) & there).sum(axis=1)
    return np.asarray(right / there.sum(axis=1), dtype=np.float64)


TOP_1 = top_k(1)
TOP_5 = top_k(5)
MAE = Metric("mae", _absolute_error, higher_is_better=False)
TOKENS = Metric("tokens", _right_tokens)
"""Of each sequence the share of its tokens that are right; negative labels are none."""

METRICS: tuple[Metric, ...] = (TOP_1, TOP_5, TOKENS, MAE)


def metric_named(text: str, base: Path | None = None) -> Metric:
    """The metric that a user means.

    Args:
        text: "top-1" with any number, "tokens", "mae", or `package.module:callable` or
            `file.py:callable` of `Score`'s form, where higher is better.
        base: folder that a file is relative to; the working directory if `None`.

    Raises:
        BadInputError: there is none of that name, or it cannot be imported.
        MissingExtraError: it imports a package that is not installed.
    """
    for metric in METRICS:
        if metric.name == text:
            return metric
    if text.startswith("top-") and text[4:].isdecimal() and int(text[4:]) > 0:
        return top_k(int(text[4:]))
    if ":" in text:
        return Metric(text, user_callable(text, Path() if base is None else base))
    names = [metric.name for metric in METRICS]
    raise BadInputError(
        f"there is no metric {text!r}{nearest(text, names)}; or give package.module:callable"
    )
