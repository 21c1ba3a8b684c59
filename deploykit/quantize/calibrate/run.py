"""A batch runs through the pieces of a graph, and every wanted value is shown as it comes.

What pieces give lies in one block of memory that is taken once (`slab.py`). Only values whose shape
nobody knows before they are computed are made by ONNX Runtime, and freed after their last reader.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import prod
from threading import Barrier
from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.core.errors import BadInputError
from deploykit.quantize.calibrate.heap import give_back
from deploykit.quantize.calibrate.histogram import take_scratch
from deploykit.quantize.calibrate.sessions import NETWORK
from deploykit.runtimes.ort_errors import plain_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deploykit.load.data import Array
    from deploykit.quantize.calibrate.pieces import Piece
    from deploykit.quantize.calibrate.plan import Plan
    from deploykit.quantize.calibrate.sessions import Sessions
    from deploykit.quantize.calibrate.shapes import Value

    See = Callable[[Array], None]
    """What is done with a value; it may read the array until it returns."""
    Look = Callable[[str, Any], None]

_COPIED = frozenset(f"tensor({kind})" for kind in ("float", "double", "float16", "int64", "int32"))
_NATIVE = "fiub"
"""Kinds of NumPy's types that ONNX Runtime can write into an array of."""


class Runner:
    """Runs batches by a plan. Sessions are opened when their piece is first reached."""

    def __init__(self, plan: Plan, sessions: Sessions, watchers: int) -> None:
        """Take the memory for what pieces give.

        Args:
            plan: for batches of one shape; smaller ones may run, too.
            sessions: opens pieces.
            watchers: threads that look at values, 1 or more.
        """
        self.plan = plan
        self._sessions = sessions
        self._open: dict[int, Any] = {}
        self._slab = np.empty(plan.slab.size_bytes, np.uint8)
        self._slab.fill(0)  # all of it is in memory from now on, so that no batch needs more
        self._pool = ThreadPoolExecutor(watchers)  # kept: new threads would bring new heaps
        all_there = Barrier(watchers)  # so that each thread gets one of these

        def begin() -> None:
            all_there.wait()
            take_scratch()

        for done in [self._pool.submit(begin) for _ in range(watchers)]:
            done.result()

    def run(
        self,
        feeds: Mapping[str, Array],
        values: Mapping[str, Value],
        see: Mapping[str, See],
        look: Look | None = None,
    ) -> None:
        """Run one batch.

        Args:
            feeds: the graph's inputs.
            values: shapes for this batch; none may be larger than in the plan.
            see: what to do with a value, by its name. Two of them may be called at once.
            look: told every value that a piece gives, as ONNX Runtime has it.
        """
        from onnxruntime import OrtValue

        give_back()  # what is left of the batch before
        pool = self._pool
        _show({name: feeds[name] for name in see.keys() & feeds.keys()}, see, pool)
        alive = {name: OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        for number, piece in enumerate(self.plan.pieces):
            given = self._ran(number, piece, alive, values)
            _show({n: v.numpy() for n, v in given.items() if n in see}, see, pool)
            if look is not None:
                for name, value in given.items():
                    look(name, value)
            alive.update(given)
            del given
            for name in piece.frees:
                alive.pop(name, None)
            give_back()

    def fits(self, values: Mapping[str, Value]) -> bool:
        """Whether a batch with these shapes has its place in the block."""
        places = self.plan.slab.places
        return all(
            values[name].shape is not None and values[name].size_bytes <= places[name][1]
            for name in places
            if name in values
        )

    def _ran(
        self, number: int, piece: Piece, alive: Mapping[str, Any], values: Mapping[str, Value]
    ) -> dict[str, Any]:
        """What a piece gives."""
        session = self._session(number, piece, alive)
        binding = session.io_binding()
        for name in piece.reads:
            binding.bind_ortvalue_input(name, alive[name])
        given = {name: self._place(name, values) for name in piece.gives}
        for name, place in given.items():
            if place is None:
                binding.bind_output(name, "cpu")
            else:
                binding.bind_ortvalue_output(name, place)
        with plain_errors(NETWORK):
            session.run_with_iobinding(binding)
        if None not in given.values():
            return given
        # What ONNX Runtime made holds on to its session, and so to the weights of the piece.
        made = zip(given, binding.get_outputs(), strict=True)
        return {
            name: self._kept(value) if given[name] is None else given[name] for name, value in made
        }

    def _kept(self, value: Any) -> Any:
        """A value that outlives its session: a copy, where sessions come and go."""
        from onnxruntime import OrtValue

        if self.plan.together or not value.is_tensor() or value.data_type() not in _COPIED:
            return value
        return OrtValue.ortvalue_from_numpy(value.numpy().copy())

    def _place(self, name: str, values: Mapping[str, Value]) -> Any:
        """Where in the block ONNX Runtime writes a value; `None` where it makes room itself."""
        from onnx import helper
        from onnxruntime import OrtValue

        value = values.get(name)
        if value is None or value.shape is None or name not in self.plan.slab.places:
            return None
        dtype = helper.tensor_dtype_to_np_dtype(value.elem_type)
        if dtype.kind not in _NATIVE or not prod(value.shape):
            return None
        start, _ = self.plan.slab.places[name]
        view = self._slab[start : start + value.size_bytes].view(dtype).reshape(value.shape)
        return OrtValue.ortvalue_from_numpy(view)

    def _session(self, number: int, piece: Piece, alive: Mapping[str, Any]) -> Any:
        found = self._open.get(number)
        if found is None:
            types = {name: _type_of(alive[name], name) for name in piece.reads}
            found = self._sessions.open(piece, types)
            if self.plan.together:
                self._open[number] = found
        return found


def _type_of(value: Any, name: str) -> int:
    if not value.is_tensor():
        raise BadInputError(
            f"{name} is no tensor ({value.data_type()}), so the graph cannot be cut there; "
            "calibrate with more memory"
        )
    return int(value.element_type())


def _show(values: Mapping[str, Array], see: Mapping[str, See], pool: ThreadPoolExecutor) -> None:
    """Show values, the largest first so that threads end together."""
    order = sorted(values, key=lambda name: -values[name].nbytes)
    for done in [pool.submit(see[name], values[name]) for name in order]:
        done.result()
