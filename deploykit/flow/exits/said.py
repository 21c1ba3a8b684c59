"""What every exit says of a data set, as the exported graph does in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deploykit.check.accuracy import call_size
from deploykit.core.errors import BadInputError
from deploykit.core.measurement import Target
from deploykit.flow.accuracy import are_classes, labels_type
from deploykit.load.data import feeds
from deploykit.runtimes.ort import CPU

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deploykit.core.progress import Progress
    from deploykit.core.types import OnnxArtifact
    from deploykit.load.data import Data

_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """Logits of every exit for every labelled sample.

    Attributes:
        data: name of the data set.
        exits: names of the outputs, in order; the last is the network's own end.
        logits: [exits, N, classes].
        labels: [N], class numbers.
    """

    data: str
    exits: tuple[str, ...]
    logits: NDArray[np.floating]
    labels: NDArray[np.integer]

    @property
    def right(self) -> NDArray[np.bool_]:
        """[exits, N]."""
        found: NDArray[np.bool_] = self.logits.argmax(-1) == self.labels
        return found


def check_labels(data: Data) -> None:
    """Refuse data without class numbers.

    Raises:
        BadInputError: it has other labels, or none.
    """
    labels = labels_type(data)
    if not are_classes(labels):
        has = "no labels" if labels is None else f"labels of type {labels}"
        raise BadInputError(
            f"{data.name} has {has}, and exits tell classes apart, which are whole numbers"
        )


def said_of(artifact: OnnxArtifact, exits: Sequence[str], data: Data, progress: Progress) -> Said:
    """Run all of a data set.

    Args:
        artifact: answers at every exit.
        exits: names of its outputs, in the order of computation.
        data: with class numbers.
        progress: told after every call.

    Raises:
        BadInputError: the data does not fit, or has no labels.
    """
    check_labels(data)
    session = CPU.open(artifact, Target(CPU.name))
    names = [spec.name for spec in session.outputs]
    places = [names.index(name) for name in exits]
    size = call_size(artifact.inputs, _BATCH, len(data))
    logits: list[NDArray[np.floating]] = []
    labels: list[NDArray[np.integer]] = []
    for start in range(0, len(data), size):
        rows = list(range(start, min(start + size, len(data))))
        batch = data.batch(rows + [rows[-1]] * (size - len(rows)))
        assert batch.labels is not None  # checked
        outputs = session.bind(feeds(batch, artifact.inputs, data.name))()
        found = [np.asarray(outputs[k], np.float32)[: len(rows)] for k in places]
        logits.append(np.stack(found))
        labels.append(np.asarray(batch.labels, np.int64)[: len(rows)])
        progress(f"all exits on {data.name}", (start + len(rows)) / len(data))
    session.close()
    whole, known = np.concatenate(logits, axis=1), np.concatenate(labels)
    there = known >= 0
    return Said(data.name, tuple(exits), whole[:, there], known[there])
