"""Recurrent layers captured at the price of their shapes.

`torch.export` keeps an LSTM as one call, and finds the shape of what it gives by running it step
by step on tensors without data: half a minute for a network whose other layers take one second.
The shapes are known beforehand.

A length that is dynamic is refused as by torch's own way of doing it. It could be captured, but
torch's exporter to ONNX then declares outputs of the length of the example.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

_NAMES = ("lstm", "gru", "rnn_tanh", "rnn_relu")


@contextmanager
def shapes_only() -> Iterator[None]:
    """Recurrent calls on tensors without data give tensors of the right shapes; nothing is run.

    For captures only: calls in this process, on any thread, that torch decomposes in Python are
    changed meanwhile. Calls on real tensors are not among them.
    """
    import torch
    from torch._C import DispatchKey

    calls = [getattr(torch.ops.aten, name).input for name in _NAMES]
    before = [dict(call.py_kernels) for call in calls]
    try:
        for call in calls:
            for key in (DispatchKey.Autograd, DispatchKey.CompositeImplicitAutograd):
                call.py_kernels[key] = _results
            call._dispatch_cache.clear()  # which kernel it found last time
        yield
    finally:
        for call, kernels in zip(calls, before, strict=True):
            call.py_kernels.clear()
            call.py_kernels.update(kernels)
            call._dispatch_cache.clear()


def _results(fed: Tensor, hidden: Tensor | Sequence[Tensor], *rest: Any) -> tuple[Tensor, ...]:
    """What a recurrent operator returns: outputs, [.., directions * width], and last states."""
    import torch

    *_, bidirectional, batch_first = rest
    int(fed.shape[1 if batch_first else 0])  # fixed from here on
    states = (hidden,) if isinstance(hidden, torch.Tensor) else tuple(hidden)
    width = states[0].shape[2] * (2 if bidirectional else 1)
    given = fed.new_empty((*fed.shape[:-1], width))
    return (given, *(torch.empty_like(state) for state in states))
