"""The record of making a network separable: what was split, what was not and why, what it gave."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (msgspec reads the annotations)
from dataclasses import dataclass

from deploykit.core.records import Schema
from deploykit.core.report import Check  # noqa: TC001  (likewise)
from deploykit.core.types import Option  # noqa: TC001  (likewise)

SEPARABLE = Schema("deploykit/separable")


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One convolution.

    Attributes:
        name: of its module.
        weight: shape of its kernel.
        groups: of the convolution.
        rank: depthwise kernels for each input channel where it is split, or would have been.
        split: whether it is split now.
        why: it is not; "" where it is.
        weights_before: of its kernel: k k I O.
        weights_after: of both kernels: k k I r + I r O.
        macs_before: multiply-accumulates of one sample.
        macs_after: likewise, of both.
        latency_before_ns: of its kernels on the runtime, measured; `None` where it was not.
        latency_after_ns: likewise, of both together.
        margin: half-widths of both figures' 95 % intervals together, as a share; `None` likewise.
        error_nearest: what the kernels nearest over weights miss of its outputs' variance, on
            samples that were not fitted to; `None` where there were no data.
        error_fitted: likewise, of those that were fitted.
    """

    name: str
    weight: tuple[int, ...]
    groups: int
    rank: int
    split: bool
    why: str
    weights_before: int
    weights_after: int
    macs_before: int
    macs_after: int
    latency_before_ns: float | None = None
    latency_after_ns: float | None = None
    margin: float | None = None
    error_nearest: float | None = None
    error_fitted: float | None = None


@dataclass(frozen=True, slots=True)
class Speed:
    """The whole network as it was and as it is, measured in turns.

    Attributes:
        before_ns: median latency of one call.
        after_ns: likewise.
        share: of the original's latency, paired by round.
        low: lower bound at 95 %, or `None` from too few rounds.
        high: upper bound, or `None`.
        where: runtime and precision, in words.
        threads: that it ran on.
    """

    before_ns: float
    after_ns: float
    share: float
    low: float | None
    high: float | None
    where: str
    threads: int


@dataclass(frozen=True, slots=True)
class Separable:
    """One network made separable, whole.

    Attributes:
        layers: every convolution: those that are called in the order of computation, then others.
        parameters_before: of the network that was given.
        parameters_after: of what was made of it.
        options: how it was split.
        training: every option of the training; empty where there was none.
        speed: of the whole network; `None` where nothing was measured.
        val_split: score on the validation data after splitting, before training; or `None`.
        epochs: that were trained.
        best_epoch: whose weights these are, counted from 1; 0 where training never got better
            than the split and fitted network was.
        seconds: of all epochs.
        fitted: samples that kernels were fitted to and judged on; 0 where they are the nearest
            over weights.
        checks: latency, accuracy before and after: what report.json says as well.
    """

    layers: tuple[LayerRow, ...]
    parameters_before: int
    parameters_after: int
    options: Mapping[str, Option]
    training: Mapping[str, Option]
    speed: Speed | None = None
    val_split: float | None = None
    epochs: int = 0
    best_epoch: int = 0
    seconds: float = 0.0
    fitted: int = 0
    checks: tuple[Check, ...] = ()
