"""How a batch will run, and the memory that it takes: known before it starts.

What a process needs at its peak is a sum of parts that are each known: what it has already, the
weights (mapped from a file, so each counts once), one block for the values that pieces give
(`slab.py`), what is alive inside of a piece, the observers, and a little for each session.

Where that is too much, the graph is cut into smaller pieces, then pieces are opened one at a time;
neither changes any number. Only then does a batch run in parts. (Operators such as MatMul may round
the last bit otherwise for another number of rows.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from deploykit.core.errors import BadInputError, EnvironmentFailedError
from deploykit.quantize.calibrate.pieces import Piece, pieces
from deploykit.quantize.calibrate.slab import Slab, Span, slab_of
from deploykit.quantize.graph.write import size_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import onnx

    from deploykit.quantize.calibrate.shapes import Value

SNUG_BYTES, COMFORTABLE_BYTES = 104_000_000, 256_000_000
"""Of values that are alive at once: what costs no time, and, where that would take too many
sessions, what is tried next. Larger pieces are not faster."""
_TOGETHER = 32
"""Sessions that are open at once, at most: each has threads of its own."""
_SESSION_BYTES, _NODE_BYTES = 300_000, 12_000
_THREAD_BYTES = 2_000_000
"""Scratch of a thread that observes, and of one that computes; measured."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Memory, part by part.

    Attributes:
        before_bytes: what the process has before: imports, the graph, and the first batch.
        weights_bytes: of the weights that are in memory at once.
        values_bytes: of values that pieces give: all that are alive at once.
        inner_bytes: of values inside of one piece, at most.
        other_bytes: observers, sessions, threads.
    """

    before_bytes: int
    weights_bytes: int
    values_bytes: int
    inner_bytes: int
    other_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Of the process, as the kernel counts it."""
        return self.before_bytes + self.more_bytes

    @property
    def more_bytes(self) -> int:
        """Beyond what the process has before."""
        return self.weights_bytes + self.values_bytes + self.inner_bytes + self.other_bytes


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How batches of one shape run.

    Attributes:
        rows: samples that run at once; 0 where a batch runs as it comes.
        values: shapes at that number.
        pieces: in their order.
        slab: where what they give lies.
        together: whether all pieces stay open, or each is opened for every batch.
        prediction: what it takes.
    """

    rows: int
    values: Mapping[str, Value]
    pieces: tuple[Piece, ...]
    slab: Slab
    together: bool
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class Room:
    """What calibration may take.

    Attributes:
        before_bytes: what the process has already.
        most_bytes: of the process at its peak; `None` for no limit.
        who: sets the limit, for messages: "this machine has", "--memory allows".
        asked: whether a user set it.
        kept_bytes: of all observers.
        threads: that compute or observe.
    """

    before_bytes: int
    most_bytes: int | None
    who: str
    asked: bool
    kept_bytes: int
    threads: int


class Cut(Protocol):
    """Plans with pieces of at most so many bytes."""

    def __call__(self, most: int, *, together: bool) -> Plan:
        """Open together, or one at a time."""


UNLIMITED = Room(0, None, "", asked=False, kept_bytes=0, threads=0)


def plan_for(
    graph: onnx.GraphProto,
    wanted: Sequence[str],
    sizes: Sequence[int],
    values_at: Callable[[int], Mapping[str, Value]],
    *,
    room: Room,
    most_bytes: int = COMFORTABLE_BYTES,
) -> Plan:
    """The first way that fits: whole batches before parts, open sessions before reopened ones.

    Args:
        graph: the float graph.
        wanted: values that are observed.
        sizes: numbers of samples that may run at once, the most wanted first.
        values_at: shapes for one of them.
        room: what may be taken.
        most_bytes: of values that are alive at once, where possible.

    Raises:
        BadInputError: not even the least fits into the memory that the user allows.
        EnvironmentFailedError: nor into what there is. Both say what is needed.
    """
    for rows in sizes:

        def cut(most: int, *, together: bool, rows: int = rows) -> Plan:
            values = values_at(rows)
            parts = pieces(graph, wanted, values, most, with_weights=not together)
            return plan_of(graph, parts, rows, values, room, together=together)

        for plan in _ways(cut, room, most_bytes):
            if room.most_bytes is None or plan.prediction.peak_bytes <= room.most_bytes:
                return plan
    raise _does_not_fit(plan, room, sizes[-1])


def _ways(cut: Cut, room: Room, most_bytes: int) -> Iterator[Plan]:
    """From the fastest to the smallest."""
    usual = cut(min(SNUG_BYTES, most_bytes), together=True)
    if not usual.together:
        usual = cut(most_bytes, together=True)
    yield usual
    if room.most_bytes is None:
        return
    fixed = usual.prediction.before_bytes + usual.prediction.other_bytes
    left = room.most_bytes - fixed - usual.prediction.weights_bytes
    # A slab may have gaps, and pieces more inside than they give: smaller in steps.
    for share in (0.9, 0.5):
        if 0 < share * left < most_bytes:
            yield cut(int(share * left), together=True)
    if (least := cut(0, together=True)).together:
        yield least
    for share in (0.9, 0.5):
        budget = int(share * (room.most_bytes - fixed))
        if budget > 0:
            yield cut(budget, together=False)
    yield cut(0, together=False)


def plan_of(
    graph: onnx.GraphProto,
    parts: tuple[Piece, ...],
    rows: int,
    values: Mapping[str, Value],
    room: Room,
    *,
    together: bool,
) -> Plan:
    """What these pieces take.

    Args:
        graph: the float graph.
        parts: all of its pieces.
        rows: samples that run at once; 0 where a batch runs as it comes.
        values: shapes at that number.
        room: what there is already.
        together: whether all pieces are to stay open, if they are not too many.
    """
    together = together and len(parts) <= _TOGETHER
    weights = {tensor.name: size_bytes(tensor) for tensor in graph.initializer}
    each = [sum(weights[name] for name in part.constants) for part in parts]
    all_of_them = sum(weights[name] for name in {n for part in parts for n in part.constants})
    slab = slab_of(_spans(parts, values))
    sessions = parts if together else sorted(parts, key=lambda part: -len(part.nodes))[:1]
    nodes = sum(len(part.nodes) for part in sessions)
    other = room.kept_bytes + room.threads * _THREAD_BYTES
    other += len(sessions) * _SESSION_BYTES + nodes * _NODE_BYTES
    prediction = Prediction(
        room.before_bytes,
        all_of_them if together else max(each, default=0),
        slab.size_bytes + _estimated(parts, values),
        max((part.inner_bytes for part in parts), default=0),
        other,
    )
    return Plan(rows, values, parts, slab, together, prediction)


def _spans(parts: Sequence[Piece], values: Mapping[str, Value]) -> Iterator[Span]:
    """Lives of all values that have a place of their own: those of a known shape."""
    ends = {name: number for number, part in enumerate(parts) for name in part.frees}
    for number, part in enumerate(parts):
        for name in part.gives:
            value = values.get(name)
            if value is not None and value.shape is not None:
                yield Span(name, value.size_bytes, number, ends[name])


def _estimated(parts: Sequence[Piece], values: Mapping[str, Value]) -> int:
    """Bytes of given values without a shape: ONNX Runtime makes room for them."""
    now = most = 0
    for part in parts:
        loose = [n for n in part.gives if n in values and values[n].shape is None]
        now += sum(values[name].size_bytes for name in loose)
        most = max(most, now)
        now -= sum(
            values[name].size_bytes
            for name in part.frees
            if name in values and values[name].shape is None
        )
    return most


def _does_not_fit(plan: Plan, room: Room, rows: int) -> Exception:
    """One line: what is needed, what there is, what would fit."""
    most = room.most_bytes or 0
    needed = plan.prediction.peak_bytes
    samples = {0: "one batch", 1: "one sample"}.get(rows, f"{rows} samples")
    text = (
        f"calibration needs {_text(needed)} of memory for {samples} at a time in the smallest "
        f"pieces ({_text(plan.prediction.before_bytes)} of it are taken already), and {room.who} "
        f"{_text(most)}"
    )
    if room.asked:
        return BadInputError(f"{text}: give --memory {needed / 1e6 + 1:.0f}MB or more")
    return EnvironmentFailedError(
        f"{text}: end other programs, take a machine with more, or calibrate smaller inputs"
    )


def _text(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
