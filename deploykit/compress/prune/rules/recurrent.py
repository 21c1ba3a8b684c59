"""Recurrent layers: a hidden unit goes from every gate, from the state, and from what reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.prune.rules import Rule
from deploykit.compress.prune.structure import Role
from deploykit.compress.prune.trace import Value

if TYPE_CHECKING:
    from deploykit.compress.prune.labels import Axis
    from deploykit.compress.prune.rules.call import Call, Result

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _recurrent(call: Call) -> Result:
    """Weights a layer and direction: [gates·H, in], [gates·H, H], and two biases [gates·H]."""
    trace, gates = call.trace, _GATES[call.name]
    value = call.value("input")
    states = call.all("hx") if call.name == "lstm" else [call.value("hx")]
    weights = call.all("params")
    directions = 2 if call.arg("bidirectional") else 1
    per = 4 if call.arg("has_biases") else 2
    parts = [weights[at : at + per] for at in range(0, len(weights), per)]
    hidden = parts[0][1].shape[1]
    if len(parts[0]) != per or any(part[1].shape != (gates * hidden, hidden) for part in parts):
        for given in call.inputs:
            for axis in given.axes:
                trace.lock(axis, "a recurrent layer with a projection")
        return tuple(None if s is None else Value(s, ((),) * len(s)) for s in call.shapes)
    units: Axis = ()
    below = value.axes[-1]
    for layer in range(0, len(parts), directions):
        outs: list[Axis] = []
        for w_in, w_hidden, *biases in parts[layer : layer + directions]:
            trace.unite(below, w_in.axes[1])
            axis: Axis = w_hidden.axes[1]
            for tensor in (w_in, w_hidden, *biases):
                gate_columns = tensor.axes[0][0].reshape(gates, hidden) if tensor.axes[0] else []
                for column in gate_columns:
                    axis = trace.unite(axis, (column,))
                trace.role(tensor, 0, Role.WRITES if tensor.shape[1:] else Role.SCALES)
            trace.role(w_in, 1, Role.READS)
            trace.role(w_hidden, 1, Role.READS)
            # All layers and directions share one tensor of states: they lose the same units.
            units = trace.unite(units, axis) if units else axis
            outs.append(axis)
        below = tuple(np.concatenate(columns) for columns in zip(*outs, strict=True))
    for state in states:
        units = trace.unite(units, state.axes[-1])
    lead = value.axes[:-1]
    results = [Value(call.shapes[0], (*lead, below))]
    results += [Value(shape, ((), (), units)) for shape in call.shapes[1:]]
    return tuple(results)


RULES = dict.fromkeys(_GATES, Rule(_recurrent))
