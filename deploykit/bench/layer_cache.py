"""What was timed of layers, kept in a file: one for each machine, runtime and way to run it.

Batch, precision and shape are part of each entry, so that networks share what they have in common,
and a table that was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.bench.layer_models import Probe, SizedLayer
from deploykit.bench.layer_shapes import LayerShape  # noqa: TC001  (msgspec reads the annotations)
from deploykit.core import records
from deploykit.core.errors import BadInputError, EnvironmentFailedError
from deploykit.core.measurement import (  # noqa: TC001  (msgspec reads the annotations)
    Machine,
    Target,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

LAYER_TIMES = records.Schema("deploykit/layer-times")
_SAVE_EVERY_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Timing:
    """One probe.

    Attributes:
        layers: one or two, in order: number of the shape, input channels, output channels.
        blocks_ns: latency in nanoseconds in each session that it was timed in.
    """

    layers: tuple[tuple[int, int, int], ...]
    blocks_ns: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Everything that was timed under equal circumstances.

    Attributes:
        machine: where, when it was first timed.
        target: what on; batch and shapes are those of each layer.
        shapes: of the layers, each once.
        timings: of the probes.
    """

    machine: Machine
    target: Target
    shapes: tuple[LayerShape, ...] = ()
    timings: tuple[Timing, ...] = ()


def key_of(machine: Machine, target: Target) -> str:
    """A name for all circumstances that latencies depend on, in hex.

    Of the machine, what decides speed: not its load, and not the versions of packages that are
    not running. Of the target, all but batch and shapes, which every layer has itself.
    """
    facts = {
        "cpu": machine.cpu,
        "arch": machine.arch,
        "instruction_sets": machine.instruction_sets,
        "cores": machine.cores,
        "governor": machine.governor,
        "turbo": machine.turbo,
        "virtual": machine.virtual,
        "onnxruntime": machine.versions.get("onnxruntime"),
        "runtime": target.runtime,
        "device": target.device,
        "threads": target.threads,
        "cpus": target.cpus,
        "options": dict(target.options),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class LayerCache:
    """The file of one machine and target.

    Args:
        folder: is made where it is missing.
        machine: this one.
        target: batch and shapes do not matter.
        clock: in nanoseconds.
    """

    def __init__(
        self,
        folder: Path,
        machine: Machine,
        target: Target,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.path = folder / f"layers-{key_of(machine, target)}.json"
        self._machine, self._target, self._clock = machine, target, clock
        self._blocks: dict[Probe, tuple[float, ...]] = {}
        self._saved_ns = clock()
        if self.path.exists():
            record = records.load(self.path, LayerTimes, LAYER_TIMES)
            self._blocks = dict(_probes(record, self.path))

    @property
    def blocks(self) -> Mapping[Probe, tuple[float, ...]]:
        """All that is known, in nanoseconds."""
        return self._blocks

    def keep(self, blocks: Mapping[Probe, tuple[float, ...]]) -> None:
        """Take over what is newer; write it down every two seconds."""
        self._blocks.update((probe, own) for probe, own in blocks.items() if own)
        if self._clock() - self._saved_ns >= _SAVE_EVERY_NS:
            self.save()

    def save(self) -> None:
        """Write the file, all of it or nothing.

        Raises:
            EnvironmentFailedError: the disk is full, or the folder cannot be written.
        """
        numbers: dict[LayerShape, int] = {}
        timings = tuple(
            Timing(
                tuple(
                    (numbers.setdefault(one.shape, len(numbers)), one.inputs, one.outputs)
                    for one in probe.layers
                ),
                own,
            )
            for probe, own in self._blocks.items()
        )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFailedError(
                f"cannot make {self.path.parent}: {error.strerror}"
            ) from error
        record = LayerTimes(self._machine, self._target, tuple(numbers), timings)
        records.save(self.path, record, LAYER_TIMES)
        self._saved_ns = self._clock()


def _probes(record: LayerTimes, path: Path) -> Iterator[tuple[Probe, tuple[float, ...]]]:
    for timing in record.timings:
        numbers = [number for number, _, _ in timing.layers]
        known = numbers and all(0 <= number < len(record.shapes) for number in numbers)
        if not known or not timing.blocks_ns or min(timing.blocks_ns) <= 0:
            raise BadInputError(f"{path} is damaged: remove it, and the layers are timed again")
        layers = (SizedLayer(record.shapes[number], *counts) for number, *counts in timing.layers)
        yield Probe(tuple(layers)), timing.blocks_ns
