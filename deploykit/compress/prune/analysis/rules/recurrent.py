"""Recurrent layers: a hidden unit goes from every gate, from the state, and from what reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.prune.analysis.rules import Rule
from deploykit.compress.prune.analysis.rules.call import Unruled
from deploykit.compress.prune.analysis.trace import Value
from deploykit.compress.prune.structure import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploykit.compress.prune.analysis.labels import Axis
    from deploykit.compress.prune.analysis.rules.call import Call, Result
    from deploykit.compress.prune.analysis.trace import Trace

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
        raise Unruled("proj_size")
    units: Axis = ()
    below = value.axes[-1]
    for layer in range(0, len(parts), directions):
        outs = []
        for part in parts[layer : layer + directions]:
            outs.append(_united(trace, below, part, gates, hidden))
            # All layers and directions share one tensor of states: they lose the same units.
            units = trace.unite(units, outs[-1]) if units else outs[-1]
        below = tuple(np.concatenate(columns) for columns in zip(*outs, strict=True))
    for state in states:
        units = trace.unite(units, state.axes[-1])
    # With weights, biases and first states at zero, so are cells and outputs.
    zero = all(given.zero for given in (*states, *weights)) and not any(value.axes[:-1])
    results = [Value(call.shapes[0], (*value.axes[:-1], below), zero=zero)]
    results += [Value(shape, ((), (), units), zero=zero) for shape in call.shapes[1:]]
    return tuple(results)


def _united(trace: Trace, below: Axis, part: Sequence[Value], gates: int, hidden: int) -> Axis:
    """Unite what one layer and direction joins; gives its hidden units."""
    w_in, w_hidden, *biases = part
    trace.unite(below, w_in.axes[1])
    units = w_hidden.axes[1]
    for tensor in (w_in, w_hidden, *biases):
        for axis in tensor.axes[0]:
            for column in axis.reshape(gates, hidden):
                units = trace.unite(units, (column,))
        trace.role(tensor, 0, Role.WRITES if tensor.shape[1:] else Role.SCALES)
    trace.role(w_in, 1, Role.READS)
    trace.role(w_hidden, 1, Role.READS)
    return units


def _cell(call: Call) -> Result:
    """One step: what is hidden before and after are the same units."""
    trace, gates = call.trace, _GATES[call.name.removesuffix("_cell")]
    value = call.value("input")
    states = call.all("hx") if call.name == "lstm_cell" else [call.value("hx")]
    weights = [call.value(name) for name in ("w_ih", "w_hh")]
    weights += [bias for name in ("b_ih", "b_hh") if (bias := call.maybe(name)) is not None]
    units = _united(trace, value.axes[-1], weights, gates, weights[1].shape[1])
    for state in states:
        units = trace.unite(units, state.axes[-1])
    zero = all(given.zero for given in (*states, *weights)) and not any(value.axes[:-1])
    made = Value(states[0].shape, (*value.axes[:-1], units), zero=zero)
    return (made, made) if call.name == "lstm_cell" else made


RULES = {
    **dict.fromkeys(_GATES, Rule(_recurrent)),
    **dict.fromkeys(tuple(f"{name}_cell" for name in _GATES), Rule(_cell)),
}
