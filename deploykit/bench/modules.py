"""What a PyTorch network is made of, module by module, and where its time goes.

Shapes come from forward hooks, MACs from `torch.utils.flop_counter` (two FLOPs a MAC), which sees
the operators that really run, whichever way the code reaches them. A module's row holds what it
does itself; what its submodules do is in their rows. Recurrent layers, which the counter does not
know, are counted by their formula.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING

from deploykit.bench.layers import Layer
from deploykit.bench.profile import OperatorTime
from deploykit.core.extras import extra

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from torch import nn

    from deploykit.bench.macs import Shape
    from deploykit.core.types import Model
    from deploykit.load.calls import Arguments
    from deploykit.load.data import Array

_WARMUP_RUNS, _RUNS = 2, 10
_SILENT = "99"  # the profiler's library tells standard error when it starts and stops


def modules_of(model: Model, feeds: Mapping[str, Array]) -> tuple[Layer, ...]:
    """The modules of a network in the order in which they are first called.

    A container that does nothing itself and has no parameters of its own is left out. A module
    that is called several times has one row, with the MACs of all its calls. Parameters that
    modules share are counted where they come first; those that no call reaches are counted too.

    Args:
        model: on the CPU.
        feeds: one set of inputs, by name.
    """
    with extra("compress"):
        import torch
    from torch.utils.flop_counter import FlopCounterMode

    from deploykit.load.calls import arguments, refuse_call

    call = arguments(model.module, model.inputs, feeds)
    shapes: dict[nn.Module, tuple[tuple[Shape, ...], tuple[Shape, ...], int]] = {}

    def note(module: nn.Module, inputs: object, result: object) -> None:
        given, made = list(_tensors(inputs)), list(_tensors(result))
        shapes.setdefault(
            module,
            (
                tuple(tuple(t.shape) for t in given),
                tuple(tuple(t.shape) for t in made),
                sum(t.nbytes for t in made),
            ),
        )

    hooks = [module.register_forward_hook(note) for module in model.module.modules()]
    try:
        with torch.no_grad(), _countable(), FlopCounterMode(display=False) as counter:
            try:
                model.module(*call.args, **call.kwargs)
            except Exception as error:  # noqa: BLE001  (users' code raises what it likes)
                refuse_call(error, model.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    flops = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    return tuple(_rows(model.module, flops, shapes))


@contextmanager
def _countable() -> Iterator[None]:
    """Attention as matrix products: the counter does not know the fused operators of the CPU."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(value=fast)


def _rows(
    root: nn.Module,
    flops: Mapping[str, int],
    shapes: Mapping[nn.Module, tuple[tuple[Shape, ...], tuple[Shape, ...], int]],
) -> Iterator[Layer]:
    top = type(root).__name__
    own = {name: f"{top}.{name}" if name else top for name, _ in root.named_modules()}
    counted: set[int] = set()
    order = {module: place for place, module in enumerate(shapes)}
    modules = sorted(root.named_modules(), key=lambda item: order.get(item[1], len(order)))
    for name, module in modules:
        children = [f"{own[name]}.{child}" for child, _ in module.named_children()]
        macs = (flops.get(own[name], 0) - sum(flops.get(child, 0) for child in children)) // 2
        inputs, outputs, output_bytes = shapes.get(module, ((), (), 0))
        macs = macs or _recurrent_macs(module, inputs)
        learnt = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        counted |= {id(p) for p in learnt}
        if children and not macs and not learnt:
            continue
        yield Layer(
            name=name or top,
            op=type(module).__name__,
            inputs=inputs,
            outputs=outputs,
            parameters=sum(p.numel() for p in learnt),
            macs=macs,
            weight_bytes=sum(t.nbytes for t in (*learnt, *module.buffers(recurse=False))),
            output_bytes=output_bytes,
            note="" if module in shapes else "never called by itself",
        )


def _recurrent_macs(module: nn.Module, inputs: tuple[Shape, ...]) -> int:
    """Every step of every sample multiplies by all weight matrices once."""
    from torch import nn

    if not isinstance(module, nn.RNNBase) or not inputs or None in inputs[0]:
        return 0
    steps = prod(size for size in inputs[0][:-1] if size is not None)
    return steps * sum(p.numel() for p in module.parameters() if p.dim() == 2)


def _tensors(value: object) -> Iterator[torch.Tensor]:
    import torch
    from torch.utils import _pytree

    return (leaf for leaf in _pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor))


def profile_modules(
    model: Model, feeds: Mapping[str, Array], threads: int | None = None
) -> tuple[OperatorTime, ...]:
    """Run a network a few times under `torch.profiler`; slowest operator first.

    Times are of the operators themselves, without those that they call. The profiler costs time
    itself: the figures say where time goes, not how long a call takes.

    Args:
        model: on the CPU.
        feeds: one set of inputs, by name.
        threads: of one operator; `None` leaves it to PyTorch.
    """
    with extra("compress"):
        import torch

    from deploykit.load.calls import arguments

    call = arguments(model.module, model.inputs, feeds)
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        spent, calls = _profiled(model.module, call)
    finally:
        torch.set_num_threads(before)
    whole = sum(spent.values())
    return tuple(
        OperatorTime(op, calls[op] // _RUNS, time_ns / _RUNS, time_ns / whole if whole else 0.0)
        for op, time_ns in sorted(spent.items(), key=lambda item: (-item[1], item[0]))
    )


def _profiled(module: nn.Module, call: Arguments) -> tuple[dict[str, float], dict[str, int]]:
    import torch
    from torch.profiler import ProfilerActivity, profile

    os.environ.setdefault("KINETO_LOG_LEVEL", _SILENT)
    with torch.inference_mode():
        for _ in range(_WARMUP_RUNS):
            module(*call.args, **call.kwargs)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(_RUNS):
                module(*call.args, **call.kwargs)
    spent: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for event in profiler.key_averages():
        if event.self_cpu_time_total > 0:
            op = event.key.removeprefix("aten::")
            spent[op] += 1000 * event.self_cpu_time_total
            calls[op] += event.count
    return spent, calls
