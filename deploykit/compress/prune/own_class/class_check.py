"""Does a network of the user's class compute what the cut graph does?

In float64, with random norms and scales (as the oracle has them), in evaluation mode, with two
batch sizes: a class that took a width from the wrong place can run and be wrong in the fourth
decimal, and one that holds a batch size runs with one batch only.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from deploykit.compress.prune.cutting.cut import cut
from deploykit.compress.prune.cutting.oracle import LIMIT
from deploykit.compress.prune.own_class.attributes import changes_of, doubtful
from deploykit.compress.prune.own_class.class_copy import smaller
from deploykit.compress.prune.own_class.fold_scale import folded
from deploykit.compress.prune.plan import Plan
from deploykit.load.quiet import quiet_torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn
    from torch.fx import GraphModule

    from deploykit.compress.prune.graph.program import Program
    from deploykit.core.types import Model, TensorSpec

_LONGEST = 160  # characters of a class's own words
_MOST_TRIES = 4
_ROUNDING = 10.0
_MOST_ROUNDING = 1e-6
"""What a class may differ by, in multiples of what the whole one differs by, and at most."""


@dataclass(frozen=True, slots=True)
class ClassAgreement:
    """What became of a class with the plan's sizes.

    Attributes:
        difference: the largest from the cut graph, relative to the largest output; `None` where
            the class did not run.
        why: what it raised and in which module, or "".
        failed_in: names of the user's classes that were running then, innermost first.
        bold: classes in which it took a bolder guess (see `attributes.repair`).
        limit: on the difference.
    """

    difference: float | None
    why: str = ""
    failed_in: tuple[str, ...] = ()
    bold: frozenset[str] = frozenset()
    limit: float = LIMIT

    @property
    def agrees(self) -> bool:
        """Whether it runs and computes the same."""
        return self.difference is not None and self.difference < self.limit

    @property
    def reason(self) -> str:
        """Why the class cannot be kept, in a phrase; "" where it can."""
        if self.agrees:
            return ""
        if self.difference is None:
            return self.why
        return f"it runs and its outputs differ by {self.difference:.1e} from the cut graph's"

    @staticmethod
    def failed(module: nn.Module, place: Sequence[str], error: Exception) -> ClassAgreement:
        """Of a class that raised an error in the last of some modules."""
        where = f" in {place[-1]}" if place and place[-1] else ""
        classes = [type(module.get_submodule(name)) for name in reversed(place)]
        users = tuple(c.__name__ for c in classes if not c.__module__.startswith("torch."))
        return ClassAgreement(None, f"it does not run{where}: {said(error)}", users)


def class_agreement(
    model: Model, program: Program, small: GraphModule, seed: int = 0
) -> ClassAgreement:
    """Compare the class with the cut graph.

    Args:
        model: the network; not changed.
        program: of it.
        small: cut from `lively(program, seed)`, in evaluation mode.
        seed: of the inputs.
    """
    scaled = folded(program, small, model.inputs)

    def attempt(bold: frozenset[str]) -> ClassAgreement:
        module = smaller(model, program, small, rest=doubled, bold=bold, folded=scaled).eval()
        worst = ClassAgreement(0.0)
        for sizes in batches(model.inputs):
            found = _compared(module, small, model.inputs, sizes, seed)
            if LIMIT <= (found.difference or 0.0) < _MOST_ROUNDING:
                found = replace(found, limit=_rounding(model, program, sizes, seed))
            if not found.agrees:
                return found
            worst = max(worst, found, key=lambda one: one.difference or 0.0)
        return worst

    return bolder(attempt, doubtful(model.module, changes_of(program.module.graph, small.graph)))


def bolder(
    attempt: Callable[[frozenset[str]], ClassAgreement], suspects: frozenset[str]
) -> ClassAgreement:
    """Try with the plain repair of attributes, then with bolder guesses where it failed.

    Args:
        attempt: makes the class with bold guesses in some of its parts, and runs it.
        suspects: names of classes where such a guess changes anything.

    Returns:
        The first that agrees, with what it took; else what became of the plain one.
    """
    first: ClassAgreement | None = None
    bold: frozenset[str] = frozenset()
    for _ in range(_MOST_TRIES):
        try:
            found = attempt(bold)
        except Exception as error:  # noqa: BLE001  (users' classes raise what they like)
            return first or ClassAgreement(None, f"it cannot be copied: {said(error)}")
        if found.agrees:
            return replace(found, bold=bold)
        first = first or found
        # One that runs and is wrong does not say where.
        places = found.failed_in if found.difference is None else sorted(suspects)
        suspect = next((name for name in places if name in suspects - bold), None)
        if suspect is None:
            break
        bold |= {suspect}
    assert first is not None, "there is one attempt at least"
    return first


def lively(program: Program, seed: int) -> Program:
    """In float64 with random norms and scales, and matrices large enough to matter.

    Weights as they are drawn for attention give logits near 0, whose softmax hides what a wrong
    scale does below any limit. Here every matrix keeps the magnitude of what it is given.
    """
    import torch

    from deploykit.compress.prune.cutting.oracle import in_float64

    wide = in_float64(program, seed)
    learnt = {id(tensor): tensor for tensor in wide.tensors.values()}
    with torch.no_grad():
        for tensor in learnt.values():
            if isinstance(tensor, torch.nn.Parameter) and tensor.dim() > 1 and tensor.numel() > 1:
                wanted = (tensor.numel() / tensor.shape[0]) ** -0.5
                tensor.mul_(max(1.0, wanted / (float(tensor.std()) or wanted)))
    return wide


def _rounding(model: Model, program: Program, sizes: dict[str, int], seed: int) -> float:
    """What the class may differ by where tables that it makes are rounded in the graph.

    A table of sines that no input decides is in the graph as float32 numbers, and is made anew in
    float64 by the class, so that not even the whole class agrees with the whole graph to 1e-9.
    """
    whole = cut(lively(program, seed), Plan()).eval()
    module = smaller(model, program, whole, rest=doubled).eval()
    found = _compared(module, whole, model.inputs, sizes, seed)
    return min(max(LIMIT, _ROUNDING * (found.difference or 0.0)), _MOST_ROUNDING)


def _compared(
    module: nn.Module,
    small: GraphModule,
    inputs: Sequence[TensorSpec],
    sizes: dict[str, int],
    seed: int,
) -> ClassAgreement:
    from deploykit.load.calls import arguments, named_outputs
    from deploykit.load.synthetic import synthetic_feeds

    call = arguments(module, inputs, synthetic_feeds(inputs, sizes, seed))
    args = [doubled(arg) for arg in call.args]
    kwargs = {name: doubled(arg) for name, arg in call.kwargs.items()}
    feeds = args or [kwargs[spec.name] for spec in inputs]
    with in_double():
        expected = list(named_outputs(small(*(feed.clone() for feed in feeds))).values())
    with in_double(), quiet_torch(), running(module) as place:
        try:
            got = list(named_outputs(module(*args, **kwargs)).values())
        except Exception as error:  # noqa: BLE001  (users' classes raise what they like)
            return ClassAgreement.failed(module, place, error)
    if [a.shape for a in expected] != [b.shape for b in got]:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in got)
        return ClassAgreement(None, f"its outputs have another shape: {shapes}")
    return ClassAgreement(_difference(expected, got))


def _difference(expected: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    import torch

    worst, scale = 0.0, 0.0
    for a, b in zip(expected, got, strict=True):
        if not a.numel():
            continue
        if not torch.isfinite(b).all():
            return float("inf")
        worst = max(worst, float((a.double() - b.double()).abs().max()))
        scale = max(scale, float(a.abs().max()))
    return worst / (scale or 1.0)


def batches(inputs: Sequence[TensorSpec]) -> list[dict[str, int]]:
    """Sizes of the dynamic dimensions: two small ones each, where the network allows two."""
    from deploykit.load.capture import example_sizes
    from deploykit.load.synthetic import dims_of

    first = example_sizes(inputs)
    second = {
        name: first[name] + dim.step
        if dim.high is None or first[name] + dim.step <= dim.high
        else max(first[name] - dim.step, dim.low)
        for name, dim in dims_of(inputs).items()
    }
    return [first, second] if second != first else [first]


def said(error: Exception) -> str:
    """An error in one line."""
    line = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


@contextmanager
def running(module: nn.Module) -> Iterator[list[str]]:
    """The names of the modules that are being run, innermost last; stays as an error left it."""
    place: list[str] = []
    hooks = []
    for name, part in module.named_modules():
        hooks.append(part.register_forward_pre_hook(lambda *_, name=name: place.append(name)))
        hooks.append(part.register_forward_hook(lambda *_: _none(place.pop())))
    try:
        yield place
    finally:
        for hook in hooks:
            hook.remove()


def _none(value: object) -> None:
    """What a hook returns takes the place of the result."""
    del value


def doubled(tensor: Tensor) -> Tensor:
    """In float64, where it is of real numbers; a parameter stays one."""
    import torch

    if not tensor.is_floating_point():
        return tensor
    wide = tensor.detach().double()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(wide, requires_grad=tensor.requires_grad)
    return wide


@contextmanager
def in_double() -> Iterator[None]:
    """Run what asks for float32 in float64: casts, and tensors made on the way. No gradients."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map

    narrow = {torch.float32, torch.float16, torch.bfloat16}

    def wide(value: Any) -> Any:
        return torch.float64 if isinstance(value, torch.dtype) and value in narrow else value

    class Widened(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's has no types
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            del types
            return func(*tree_map(wide, args), **tree_map(wide, kwargs or {}))

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), Widened():  # type: ignore[no-untyped-call]  # torch's has no types
            yield
    finally:
        torch.set_default_dtype(before)
