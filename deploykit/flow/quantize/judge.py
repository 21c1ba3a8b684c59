"""What a quantized network is judged by: the float one, scored once and measured in turns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from deploykit.check.accuracy import POINTS, drop, reported
from deploykit.core.errors import BadInputError
from deploykit.core.report import Check, Verdict
from deploykit.flow.accuracy import labels_type, lost_check, running, scored
from deploykit.flow.side_by_side import RUNTIME, side_by_side
from deploykit.flow.splits import VAL
from deploykit.load.slices import Sliced

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploykit.bench.optimised import Leftover, Leftovers
    from deploykit.check.accuracy import Accuracy
    from deploykit.core.progress import Progress
    from deploykit.core.types import OnnxArtifact
    from deploykit.flow.quantize.request import QuantizeRequest
    from deploykit.flow.side_by_side import SideBySide
    from deploykit.flow.splits import Splits
    from deploykit.load.data import Data

_MOST_NAMED = 5
_SCREEN = 1000
"""Samples that are enough to see that a trial is hopeless."""
_SCREEN_FROM = 3 * _SCREEN
"""Smaller data is scored whole at once."""
_HOPELESS = 2.0
"""A screened loss of so many times the limit, or more, is not looked at on all samples."""


@dataclass(frozen=True, slots=True)
class Lost:
    """What a candidate lost on the validation data.

    Attributes:
        value: in points where it is a share, else in the metric's unit.
        samples: it was judged on.
        met: whether it is within the limit, on all samples.
    """

    value: float
    samples: int
    met: bool


@dataclass(slots=True, eq=False)
class Bench:
    """Where candidates are held against the float network.

    Attributes:
        request: what was asked for.
        original: the float network.
        splits: the data.
        progress: told where it stands.
    """

    request: QuantizeRequest
    original: OnnxArtifact
    splits: Splits
    progress: Progress
    _was: dict[str, Accuracy] = field(default_factory=dict)
    _now: dict[tuple[str, str], Accuracy] = field(default_factory=dict)

    @property
    def limit(self) -> float | None:
        """Of what may be lost on the validation data."""
        return self.request.max_drop

    def check_request(self) -> None:
        """Refuse a limit that nothing can be held against.

        Raises:
            BadInputError: there is no validation data, or it has no labels.
        """
        if self.limit is None:
            return
        if self.splits.val is None:
            raise BadInputError(
                f"max_drop {self.limit:g} is judged on validation data, and none is given: add "
                "--val DATA with labels"
            )
        if labels_type(self.splits.val) is None:
            raise BadInputError(
                f"max_drop {self.limit:g} is judged by labels, and {self.splits.val.name} has none"
            )

    def lost(self, artifact: OnnxArtifact) -> Lost:
        """What an artifact lost on the validation data; the hopeless are seen from a part of it."""
        data, limit = self.splits.val, self.limit
        assert data is not None, "see check_request"
        assert limit is not None, "see check_request"
        was = self._float(VAL, data)
        if len(data) > _SCREEN_FROM:
            part = Sliced(data, range(0, len(data), len(data) // _SCREEN), data.name)
            now = self._scored(artifact, part)
            seen = replace(was, scores=was.scores[part.rows.start :: part.rows.step])
            value = _lost(seen, now)
            if value > _HOPELESS * limit:
                return Lost(value, now.count, met=False)
        now = self._candidate(VAL, data, artifact)
        check = lost_check("", was, now, limit)
        assert check.value is not None, "there is a limit"
        return Lost(check.value, now.count, check.verdict is Verdict.PASSED)

    def accuracy_checks(self, artifact: OnnxArtifact) -> Iterator[Check]:
        """Float and quantized on every split with labels, and what was lost."""
        for name, data in self.splits.named.items():
            if labels_type(data) is None:
                continue
            was, now = self._float(name, data), self._candidate(name, data, artifact)
            for said, found in (("float", was), ("quantized", now)):
                yield reported(f"{found.metric.name} {said} {name}: {data.name}", found)
            title = f"{now.metric.name} lost {name}: {data.name}"
            yield lost_check(title, was, now, self.limit if name == VAL else None)

    def compare(self, whole: Path, part: Path, *, careful: bool = False) -> SideBySide:
        """Measure two artifacts in turns."""
        return side_by_side(
            whole,
            part,
            batch=self.request.batch,
            threads=self.request.threads,
            careful=careful,
            progress=self.progress,
        )

    def _float(self, name: str, data: Data) -> Accuracy:
        """The float network is scored once."""
        if name not in self._was:
            self._was[name] = self._scored(self.original, data)
        return self._was[name]

    def _candidate(self, name: str, data: Data, artifact: OnnxArtifact) -> Accuracy:
        """A file that was scored is not scored again: its digest says so."""
        key = name, artifact.digest
        if key not in self._now:
            self._now[key] = self._scored(artifact, data)
        return self._now[key]

    def _scored(self, artifact: OnnxArtifact, data: Data) -> Accuracy:
        with running(artifact) as run:
            return scored(run, artifact, data, self.request.metric, self.progress)


def proof_checks(found: Leftovers) -> Iterator[Check]:
    """Whether everything that is quantized runs in integers, and nothing is converted in vain."""
    yield _proof(
        f"nodes between quantizers that {RUNTIME} runs in float",
        found.floats,
        "ONNX Runtime has no kernel for {}: --exclude them",
    )
    yield _proof(
        f"quantizers that no integer kernel of {RUNTIME} took",
        found.orphans,
        "{} convert in vain; quantization.json says why",
    )


def _proof(name: str, left: tuple[Leftover, ...], advice: str) -> Check:
    named = ", ".join(f"{one.op} {one.node}" for one in left[:_MOST_NAMED])
    return Check(
        name,
        Verdict.FAILED if left else Verdict.PASSED,
        float(len(left)),
        limit=0.0,
        advice=advice.format(named) if left else "",
    )


def _lost(was: Accuracy, now: Accuracy) -> float:
    value = drop(was, now).value
    return value * POINTS if was.is_share and now.is_share else value
