"""Program -> what must be cut together: one pass of the rules over the graph, and its retries.

A pass labels every index of every parameter, carries the labels through the graph, and unites
what operators join. Where indices can be grouped in more than one way (a split, a grouped
convolution), the pass takes the first; ways that turn out to lock are tried again the next way,
and what frees more channels is kept.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.prune.analysis import rules
from deploykit.compress.prune.analysis.origins import kernel_extents
from deploykit.compress.prune.analysis.rules.call import Call, Unruled, packet_name
from deploykit.compress.prune.analysis.trace import Trace, Value
from deploykit.compress.prune.graph.constants import memory_owners, writes
from deploykit.compress.prune.graph.program import learnt
from deploykit.compress.prune.structure import Exactness, Role, Structure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from torch import Tensor
    from torch.fx import Node

    from deploykit.compress.prune.analysis.labels import Axis, Column, Mask
    from deploykit.compress.prune.analysis.rules.call import Result
    from deploykit.compress.prune.graph.program import Program

_MOST_TRIES = 6


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What a pass found.

    Attributes:
        program: the graph.
        trace: unions, locks, doubts and choices.
        values: the labels of every node.
        leaves: those of every parameter, buffer and constant, by name; tied ones share theirs.
    """

    program: Program
    trace: Trace
    values: Mapping[Node, Result]
    leaves: Mapping[str, Value]


def analyse(program: Program, heads: str = "within") -> Structure:
    """Find the groups of a network.

    Args:
        program: not changed.
        heads: "within": the same positions of all heads of an attention go; "whole": heads go.
    """
    from deploykit.compress.prune.analysis.groups import groups_of

    return groups_of(settled(program, heads))


def settled(program: Program, heads: str = "within") -> Analysis:
    """The pass with the choices that leave most to cut."""
    best = run(program, {})
    if preset := _turned(best, heads):
        best = run(program, preset)
    freedom = _freedom(best)
    tried: set[tuple[str, int]] = set()
    for _ in range(_MOST_TRIES):
        turned = _next_ways(best, tried)
        if not turned:
            break
        candidate = run(program, {**preset, **turned})
        gained = _freedom(candidate)
        if gained > freedom:
            preset, best, freedom = {**preset, **turned}, candidate, gained
    if any(mark.exactness is Exactness.APPROXIMATE for mark in best.trace.doubts):
        # What nobody writes stays: it need not be zero for anything to be exact.
        return run(program, preset, fixed=_unwritten(best))
    return best


def run(
    program: Program,
    preset: Mapping[str, int],
    removed: Mapping[str, Mapping[int, Mask]] | None = None,
    fixed: Mapping[str, AbstractSet[int]] | None = None,
) -> Analysis:
    """One pass.

    Args:
        program: the graph.
        preset: ways to take, by the key of the choice.
        removed: in the replay of a plan, bool [size] by parameter and dimension: what goes.
        fixed: dimensions of parameters that never get smaller, where that is known.
    """
    replay = _Replay(removed or {})
    trace = Trace(program.tensors, preset)
    if removed is not None:
        trace.removed = replay.gone(trace)
    labelling = _Labelling(program, trace, replay, fixed or {})
    for node in program.module.graph.nodes:
        for used in node.all_input_nodes:
            labelling.label(used)  # a parameter where it is first used: in order of computation
        labelling.follow(node)
    return Analysis(program, trace, labelling.values, labelling.leaves)


class _Labelling:
    """Node by node, the labels of every value."""

    def __init__(
        self,
        program: Program,
        trace: Trace,
        replay: _Replay,
        fixed: Mapping[str, AbstractSet[int]],
    ) -> None:
        self.values: dict[Node, Result] = {}
        self.leaves: dict[str, Value] = {}
        self._program, self._trace, self._replay = program, trace, replay
        self._table = rules.table()
        self._by_memory: dict[int, tuple[Tensor, Value]] = {}
        self._learnt = learnt(program.module)
        self._owners = memory_owners(program.module)
        extents = kernel_extents(program)
        self._fixed = {name: fixed.get(name, set()) | extents.get(name, set())
                       for name in fixed.keys() | extents.keys()}  # fmt: skip

    def label(self, node: Node) -> None:
        """Give a parameter, buffer or constant its labels; nothing where it has them."""
        name = str(node.target)
        if node.op != "get_attr" or node in self.values or name not in self._program.tensors:
            return
        tensor = self._program.tensors[name]
        fixed = self._fixed.get(name, set())
        if name in self._program.names:
            leaf = _leaf(self._trace, tensor, fixed, self._by_memory, zero=name in self._learnt)
        else:
            leaf = _leaf(self._trace, tensor, fixed, {}, zero=not bool(tensor.any()))
        self.leaves[name] = self.values[node] = leaf
        self._replay.note(name, leaf)

    def follow(self, node: Node) -> None:
        """Labels of what a node gives."""
        if node.op == "output":
            self._trace.where = "output"
            for used in node.all_input_nodes:
                for value in _flat(self.values.get(used)):
                    for axis in value.axes:
                        self._trace.lock(axis, "is an output of the network")
        elif node.op == "placeholder" and node in self._program.shapes:
            shape = self._program.shape(node)
            self.values[node] = Value(shape, ((),) * len(shape))
        elif node.op == "call_function" and node in self._program.shapes:
            self._trace.where = place_of(node)
            call = Call(
                self._trace, node, packet_name(node), self._program.shapes[node], self.values
            )
            self.values[node] = _apply(self._table, call)
            if writes(node):
                _written(self.values, self._owners, node)


def _written(values: dict[Node, Result], bases: Mapping[Node, Node], node: Node) -> None:
    """What was written to is as little zero as what was written."""
    result = values[node]
    if isinstance(result, Value) and result.zero:
        return
    for other, value in values.items():
        if isinstance(value, Value) and bases[other] is bases[node]:
            values[other] = replace(value, zero=False)


def _leaf(
    trace: Trace,
    tensor: Tensor,
    fixed: AbstractSet[int],
    by_memory: dict[int, tuple[Tensor, Value]],
    *,
    zero: bool,
) -> Value:
    """Fresh labels for every dimension of a parameter but the fixed ones.

    The same for one that shares its memory.
    """
    key = tensor.data_ptr() or id(tensor)
    if key in by_memory:
        other, known = by_memory[key]
        if other.shape == tensor.shape and other.stride() == tensor.stride():
            return known
        for axis in known.axes:
            trace.lock(axis, "shares its memory with a tensor of another shape")
        return Value(tuple(tensor.shape), ((),) * tensor.dim(), static=True)
    axes: list[Axis] = [
        (trace.labels.fresh(size),) if dim not in fixed and (size > 1 or tensor.dim() < 3) else ()
        for dim, size in enumerate(tensor.shape)
    ]
    value = Value(tuple(tensor.shape), tuple(axes), zero=zero, static=True)
    by_memory[key] = (tensor, value)
    return value


def _apply(table: Mapping[str, rules.Rule], call: Call) -> Result:
    rule = _rule(table, call.node)
    if rule is not None:
        with suppress(Unruled):
            return rule.trace(call)
    return _locked(call, f"deploykit has no pruning rule for {call.node.target}")


def _rule(table: Mapping[str, rules.Rule], node: Node) -> rules.Rule | None:
    """By name, in-place ones as the others; else by torch's own tag."""
    import torch

    from deploykit.compress.prune.analysis.rules.pointwise import ANY

    name = packet_name(node)
    found = table.get(name) or table.get(name.removesuffix("_"))
    if found is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return ANY
    return found


def rewrite_of(node: Node) -> Callable[[object], None] | None:
    """How the call's literals follow a cut; `None` where there are none."""
    rule = _rule(rules.table(), node)
    return None if rule is None else rule.rewrite  # type: ignore[return-value]  # Edit


def _locked(call: Call, why: str) -> Result:
    for value in call.inputs:
        for dim, axis in enumerate(value.axes):
            call.trace.lock(axis, why)
            call.trace.role(value, dim, Role.WRITES)  # so that the report names it
    if call.shapes and isinstance(call.shapes[0], tuple):
        return tuple(None if s is None else Value(s, ((),) * len(s)) for s in call.shapes)
    return Value(call.shape, ((),) * len(call.shape))


def place_of(node: Node) -> str:
    """The innermost module that a node belongs to, or its own name."""
    stack = node.meta.get("nn_module_stack") or {}
    path = ""
    for entry in stack.values():
        path = entry[0] if isinstance(entry, tuple) else str(entry)
    path = path.removeprefix("L['self']").strip(".")
    return f"{packet_name(node)} in {path}" if path else str(node.name)


def _flat(result: Result) -> list[Value]:
    if isinstance(result, tuple):
        return [value for value in result if value is not None]
    return [] if result is None else [result]


def locked_sets(trace: Trace) -> Mask:
    """Bool by label: whether its set never goes."""
    roots = trace.labels.roots()
    locked = np.zeros(len(roots), dtype=bool)
    locked[0] = True
    for mark in trace.locks:
        locked[roots[mark.labels]] = True
    return locked[roots]


def _freedom(analysis: Analysis) -> float:
    """How much can be cut: over parameters, the share of each one's indices, times its size."""
    locked = locked_sets(analysis.trace)
    freedom = 0.0
    for name, value in analysis.leaves.items():
        if name in analysis.program.names:
            for axis in value.axes:
                for column in axis:
                    freedom += prod(value.shape) * float((~locked[column]).mean())
    return freedom


def _unwritten(analysis: Analysis) -> dict[str, set[int]]:
    """Dimensions of parameters that no layer writes (tokens, queries): they are in no group."""
    trace = analysis.trace
    roots = trace.labels.roots()
    written = np.zeros(len(roots), dtype=bool)
    for column, role in trace.roles:
        if role is Role.WRITES:
            written[roots[column]] = True
    return {
        name: {
            dim
            for dim, axis in enumerate(value.axes)
            if not any(written[roots[column]].any() for column in axis)
        }
        for name, value in analysis.leaves.items()
    }


def _next_ways(analysis: Analysis, tried: set[tuple[str, int]]) -> dict[str, int]:
    """For every choice that locked what hangs on it, the next way that was not tried."""
    locked = locked_sets(analysis.trace)
    turned: dict[str, int] = {}
    for choice in analysis.trace.choices:
        tried.add((choice.key, choice.taken))
        if locked[choice.labels].all():
            ways = (way for way in choice.alternatives if (choice.key, way) not in tried)
            way = next(ways, None)
            if way is not None:
                turned[choice.key] = way
    return turned


def _turned(analysis: Analysis, heads: str) -> dict[str, int]:
    """Splits that fell on the heads of an attention instead of their width, or the reverse.

    Heads are written (.., heads, width): the width is the next piece to the right.
    """
    trace = analysis.trace
    wrong = trace.widths if heads == "whole" else trace.heads
    if not wrong:
        return {}
    roots = trace.labels.roots()
    sets = np.unique(roots[np.concatenate(wrong)])
    turned: dict[str, int] = {}
    for choice in trace.choices:
        if choice.pieces and np.isin(roots[choice.labels], sets).any():
            left = [way for way in choice.alternatives if way < choice.taken]
            right = [way for way in choice.alternatives if way > choice.taken]
            if heads == "whole" and left:
                turned[choice.key] = max(left)
            elif heads == "within" and right:
                turned[choice.key] = min(right)
    return turned


class _Replay:
    """What a plan removes, by label, as far as the pass has come."""

    def __init__(self, removed: Mapping[str, Mapping[int, Mask]]) -> None:
        self._removed = removed
        self._labels: list[Column] = []

    def note(self, name: str, value: Value) -> None:
        """A parameter has its labels: know which of them go."""
        for dim, gone in self._removed.get(name, {}).items():
            for column in value.axes[dim]:
                self._labels.append(column[gone])

    def gone(self, trace: Trace) -> Callable[[Column], Mask]:
        def asked(labels: Column) -> Mask:
            if not self._labels:
                return np.zeros(len(labels), dtype=bool)
            known = trace.labels.find(np.concatenate(self._labels))
            return np.isin(trace.labels.find(labels), known)

        return asked
