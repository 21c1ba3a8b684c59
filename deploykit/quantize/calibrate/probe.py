"""What every value takes for a batch: inferred where that is possible, else looked up.

Inference stops at operators that are not ONNX's own, at shapes that depend on numbers, and at all
that comes after them. There one sample runs through the graph first, and what such a value takes
for a batch is what it took then, times the samples.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deploykit.quantize.calibrate.pieces import needed, pieces
from deploykit.quantize.calibrate.plan import COMFORTABLE_BYTES, UNLIMITED, plan_of
from deploykit.quantize.calibrate.run import Runner
from deploykit.quantize.calibrate.shapes import Value, inferred

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from deploykit.load.data import Array
    from deploykit.quantize.calibrate.sessions import Sessions
    from deploykit.quantize.prepare.prepare import Prepared

Key = tuple[tuple[str, tuple[int, ...]], ...]


class Shapes:
    """Knows what values take, for batches of any shape that comes."""

    def __init__(self, prepared: Prepared, sessions: Sessions, wanted: Sequence[str]) -> None:
        """Know nothing yet.

        Args:
            prepared: the float graph.
            sessions: opens its pieces.
            wanted: values that are observed.
        """
        self._prepared, self._sessions, self._wanted = prepared, sessions, wanted
        self._made = [n for node in needed(self._graph, wanted) for n in node.output if n]
        self._known: dict[Key, Mapping[str, Value]] = {}
        self._probed: dict[Key, Mapping[str, Value]] = {}

    def at(self, batch: Mapping[str, Array]) -> Mapping[str, Value]:
        """For this batch."""
        key = _key(batch)
        if key not in self._known:
            self._known[key] = self._look(batch)
        return self._known[key]

    def row_counts(self, batch: Mapping[str, Array]) -> tuple[int, ...]:
        """Numbers of samples that may run at once, halved from the batch's own down to one.

        Only 0, the batch as it is, where the first dimension of an input is fixed or they differ.
        """
        firsts = {array.shape[0] if array.shape else 0 for array in batch.values()}
        kinds = [v.type.tensor_type for v in self._graph.input if v.name in batch]
        fixed = any(not kind.shape.dim or kind.shape.dim[0].dim_value for kind in kinds)
        if fixed or len(firsts) != 1:
            return (0,)
        counts = [firsts.pop()]
        while counts[-1] > 1:
            counts.append(counts[-1] // 2)
        return tuple(counts)

    @property
    def _graph(self) -> onnx.GraphProto:
        return self._prepared.model.graph

    def _look(self, batch: Mapping[str, Array]) -> Mapping[str, Value]:
        values = inferred(self._prepared, {name: array.shape for name, array in batch.items()})
        unknown = [name for name in self._made if name not in values or not _is_known(values[name])]
        if not unknown:
            return values
        count = self.row_counts(batch)[0]
        sample = {name: array[:1] for name, array in batch.items()} if count else batch
        key = _key(sample)
        if key not in self._probed:
            self._probed[key] = self._probe(sample, unknown)
        found = self._probed[key]
        each = max(count, 1)
        looked = {n: replace(v, size_bytes=v.size_bytes * each) for n, v in found.items()}
        return {**values, **looked}

    def _probe(self, sample: Mapping[str, Array], unknown: Sequence[str]) -> dict[str, Value]:
        """What values take that inference does not know."""
        values = inferred(self._prepared, {name: array.shape for name, array in sample.items()})
        parts = pieces(self._graph, unknown, values, COMFORTABLE_BYTES)
        plan = plan_of(self._graph, parts, 0, values, UNLIMITED, together=False)
        found: dict[str, Value] = {}

        def look(name: str, value: Any) -> None:
            if not value.is_tensor():
                found[name] = Value(0, None, 0)
                return
            kind = int(value.element_type())
            found[name] = replace(Value.of(kind, tuple(value.shape())), shape=None)

        Runner(plan, self._sessions, 1).run(sample, values, {}, look)
        return {name: found[name] for name in unknown if name in found}


def _is_known(value: Value) -> bool:
    return value.shape is not None or not value.elem_type


def _key(batch: Mapping[str, Array]) -> Key:
    return tuple((name, array.shape) for name, array in sorted(batch.items()))
