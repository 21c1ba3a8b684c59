"""The integers of one layer, chosen for what comes out of it."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.adjust.columns import sampled
from deploykit.quantize.adjust.gptq import Moments, Order, aimed, rounded
from deploykit.quantize.graph.external import array_of
from deploykit.quantize.place.numbers import limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from deploykit.quantize.adjust.integers import IntegerGraph, IntegerLayer
    from deploykit.quantize.adjust.walk import Walk
    from deploykit.quantize.prepare.prepare import Prepared

_LEAST_ROWS, _ROWS_A_COLUMN = 8192, 8
_HELD_OUT = 4
"""Of so many batches, or rows where there is one batch, one is not learnt from."""
_MOST_SQUARE_BYTES = 300_000_000
"""Of the moments of one layer; those with more inputs keep the nearest integers."""


def round_weight(
    graph: IntegerGraph,
    prepared: Prepared,
    layer: IntegerLayer,
    walks: Sequence[Walk],
    *,
    centred: bool,
) -> float | None:
    """Choose the integers of a layer. Changes `graph`.

    Args:
        graph: quantized.
        prepared: the float graph.
        layer: of `graph`.
        walks: over the float graph and over the quantized one, both in front of the layer.
        centred: whether its bias is corrected afterwards, so that a mean error does not count.

    Returns:
        The error left on rows held out, as a share of that of the nearest integers; `None` where
        those stay.
    """
    node, form = layer.node, layer.form
    weight = _float_weight(prepared, node.name)
    if form.op == "ConvTranspose" or weight is None or graph.is_shared(layer):
        return None
    split = form.split(weight).astype(np.float64)
    target = split.reshape(*split.shape[:2], -1)
    groups, out, columns = target.shape
    if 8 * groups * columns**2 > _MOST_SQUARE_BYTES:
        return None
    learnt, held_out = (Moments.empty(groups, columns, out) for _ in range(2))
    bias = graph.bias(layer) if layer.takes_bias else None
    for part, rows, wanted in _rows(layer, walks, columns):
        missing = wanted - rows @ target.swapaxes(1, 2).astype(np.float32)
        if bias is not None:
            missing -= bias.reshape(groups, 1, -1).astype(np.float32)
        (held_out if part else learnt).add(rows, missing)
    if centred and graph.bias(layer) is not None:
        learnt, held_out = learnt.centred(), held_out.centred()
    return _choose(graph, layer, target, learnt, held_out)


def _choose(
    graph: IntegerGraph,
    layer: IntegerLayer,
    target: NDArray[np.float64],
    learnt: Moments,
    held_out: Moments,
) -> float | None:
    """Try roundings, and keep the best on what was held out."""
    scale = _scales(layer, target.shape)
    ends = limits(layer.grid.zero.dtype, layer.grid.bits)
    nearest = layer.form.split(graph.integers(layer.weight)).reshape(target.shape)
    tried = [nearest.astype(np.float64)]
    try:
        order = Order.of(learnt)
        tried += [rounded(goal, scale, ends, order) for goal in (target, aimed(target, learnt))]
    except np.linalg.LinAlgError:  # inputs so much alike that nothing tells the weights apart
        return None
    losses = [held_out.loss(integers * scale - target) for integers in tried]
    best = int(np.argmin(losses))
    if best == 0:
        return None
    split = tried[best].astype(nearest.dtype)
    whole = layer.form.split(graph.integers(layer.weight)).shape
    graph.set_weight(layer, np.ascontiguousarray(layer.form.join(split.reshape(whole))))
    return losses[best] / losses[0]


def _scales(layer: IntegerLayer, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """[groups, out / groups, 1]: of a grid by output channel, or of one for all."""
    return (
        np.broadcast_to(layer.grid.scale.reshape(-1), shape[0] * shape[1])
        .reshape(*shape[:2], 1)
        .astype(np.float64)
    )


def _rows(
    layer: IntegerLayer, walks: Sequence[Walk], columns: int
) -> Iterator[tuple[bool, NDArray[np.float32], NDArray[np.float32]]]:
    """Rows and results, batch by batch, and whether they are held out."""
    of_float, of_integers = walks
    node = layer.node
    many = max(_LEAST_ROWS, _ROWS_A_COLUMN * columns)
    most = -(-many // max(of_integers.batches, 1))
    pairs = zip(of_integers.inputs(node.input[0]), of_float.results(node.name), strict=True)
    for number, (inputs, results) in zip(count(), pairs):
        rows, wanted = sampled(
            node, layer.form, np.asarray(inputs, np.float32), np.asarray(results, np.float32), most
        )
        if of_integers.batches >= _HELD_OUT:
            yield number % _HELD_OUT == _HELD_OUT - 1, rows, wanted
            continue
        held = np.arange(rows.shape[1]) % _HELD_OUT == _HELD_OUT - 1
        yield True, rows[:, held], wanted[:, held]
        yield False, rows[:, ~held], wanted[:, ~held]


def _float_weight(prepared: Prepared, name: str) -> NDArray[np.generic] | None:
    """The weight of a node of the float graph."""
    node = next(one for one in prepared.model.graph.node if one.name == name)
    tensors = {one.name: one for one in prepared.model.graph.initializer}
    tensor = tensors.get(node.input[1])
    return None if tensor is None else array_of(tensor, prepared.folder)
