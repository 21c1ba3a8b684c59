"""What lies beside the stages of a network with exits: how they belong together, and its rules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from deploykit.core.errors import BadInputError
from deploykit.core.records import Schema
from deploykit.runtimes.dynamic.rules import check_threshold

STAGES = Schema("deploykit/stages")


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a stage takes or gives.

    Attributes:
        name: as the stage's graph calls it.
        axis: of the samples; `None` where it is the same for all of them and passes as it is.
    """

    name: str
    axis: int | None


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage.

    Attributes:
        file: the ONNX graph, beside the record.
        exit: name of its output with the logits, [N, classes].
        takes: its inputs: inputs of the network, or what earlier stages gave.
        gives: its other outputs, which later stages take.
        threshold: of the rule, at this exit; `None`: nobody leaves here (the last stage: all do).
        temperature: that its logits are divided by before the softmax of the rule.
    """

    file: str
    exit: str
    takes: tuple[Tensor, ...]
    gives: tuple[Tensor, ...] = ()
    threshold: float | None = None
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class Stages:
    """All stages of a network, in their order.

    Attributes:
        rule: one of `deploykit.runtimes.dynamic.rules.RULES`.
        stages: the first takes the network's inputs; at the last every sample leaves.
    """

    rule: str
    stages: tuple[StageRecord, ...]

    def __post_init__(self) -> None:
        """Refuse stages that cannot be run one after the other, and files elsewhere.

        Raises:
            BadInputError: what is wrong, with the value.
        """
        if not self.stages:
            raise BadInputError("the record has no stages")
        for stage in self.stages:
            place = PurePosixPath(stage.file)
            if len(place.parts) != 1 or place.name != stage.file or "\\" in stage.file:
                raise BadInputError(f"stage file {stage.file!r} is not beside the record")
            if stage.temperature <= 0:
                raise BadInputError(
                    f"the temperature of {stage.exit} is above 0, not {stage.temperature:g}"
                )
            if stage.threshold is not None:
                check_threshold(self.rule, stage.threshold)
