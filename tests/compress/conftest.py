"""Prune a network made on the spot, and compare it with the original in every way there is."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.compress.prune.analysis.analyse import analyse
from deploykit.compress.prune.cutting.cut import cut, plan_of
from deploykit.compress.prune.cutting.oracle import agreement, made_up, widen
from deploykit.compress.prune.graph.program import program_of
from deploykit.compress.prune.structure import Exactness
from deploykit.core.types import Model
from deploykit.load.calls import named_outputs
from deploykit.load.inputs import parse_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from torch.fx import GraphModule

    from deploykit.compress.prune.graph.program import Program
    from deploykit.compress.prune.plan import Plan
    from deploykit.compress.prune.structure import Structure

SAME = 1e-9
"""In float64, relative to the largest output."""


class Pruned(NamedTuple):
    """A network after half of its channels."""

    program: Program
    structure: Structure
    plan: Plan
    module: GraphModule

    @property
    def widths(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters that are left."""
        return {name: tuple(value.shape) for name, value in self.module.named_parameters()}

    @property
    def marks(self) -> dict[str, str]:
        """How exact each group is that may be cut."""
        return {group.name: group.exactness.value for group in self.structure.free}

    @property
    def locks(self) -> dict[str, str]:
        """Why the others may not."""
        return {group.name: group.locked for group in self.structure.groups if group.locked}


class Prune(Protocol):
    def __call__(
        self,
        network: nn.Module | Callable[..., object],
        *inputs: str,
        share: float = 0.5,
        heads: str = "within",
        sizes: Sequence[int] = (1, 3),
        zeroed: bool = True,
        gradients: bool = True,
        **parts: nn.Module | nn.Parameter | Tensor,
    ) -> Pruned: ...


class Net(nn.Module):
    """A network of parts and a function that gets it and the inputs."""

    def __init__(
        self, run: Callable[..., object], parts: dict[str, nn.Module | nn.Parameter | Tensor]
    ) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, *inputs: Tensor) -> object:
        return self.run(self, *inputs)


@pytest.fixture(scope="session")
def prune() -> Prune:
    """Cut a share of every free group at random; everything that can be checked is checked.

    Args:
        network: a module, or a function that gets a module with `parts` and the inputs. Vectors
            are made anew from a seed, so that no scale is one and no bias zero.
        inputs: as on the command line.
        share: of each group's channels.
        heads: see `analyse`.
        sizes: of the dynamic dimensions, to run the cut network with.
        zeroed: compare with the module itself, its parameters set to zero.
        gradients: ask for one of every parameter.
        parts: modules, parameters and buffers.
    """

    def work(
        network: nn.Module | Callable[..., object],
        *inputs: str,
        share: float = 0.5,
        heads: str = "within",
        sizes: Sequence[int] = (1, 3),
        zeroed: bool = True,
        gradients: bool = True,
        **parts: nn.Module | nn.Parameter | Tensor,
    ) -> Pruned:
        module = network if isinstance(network, nn.Module) else Net(network, parts)
        randomise(module)
        before = {name: value.clone() for name, value in module.state_dict().items()}
        model = Model(module.eval(), parse_inputs(inputs))
        program = program_of(model)
        structure = analyse(program, heads)
        shapes = {name: tuple(value.shape) for name, value in program.tensors.items()}
        every = [group.name for group in structure.free]
        plan = plan_of(structure, at_random(structure, every, share), shapes)
        small = cut(program, plan)
        _check_asked(structure, plan, at_random(structure, every, share))
        _check_runs(model, small, sizes)
        if gradients:
            _check_gradients(model, small)
        sure = [g.name for g in structure.free if g.exactness is not Exactness.APPROXIMATE]
        known = plan_of(structure, at_random(structure, sure, share), shapes)
        assert agreement(program, known, model.inputs).exact, "the oracle says no"
        exact = [g.name for g in structure.free if g.exactness is Exactness.EXACT]
        if zeroed:
            removed = at_random(structure, exact, share)
            _check_zeroed(model, program, plan_of(structure, removed, shapes))
        for name, value in module.state_dict().items():
            assert torch.equal(value, before[name]), f"{name} of what was given has changed"
        return Pruned(program, structure, plan, small)

    return work


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Everything anew: a scale of one or a bias of zero hides mistakes."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if tensor.dim() > 1 and tensor.any():
                wide = tensor[0].numel() ** 0.5
                tensor.copy_(torch.randn(tensor.shape, generator=rng) / wide)
            else:
                low = 0.5 if "var" in name else -1.0
                tensor.copy_(torch.rand(tensor.shape, generator=rng) + low)


def at_random(
    structure: Structure, names: Sequence[str], share: float
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Channels to remove; of a group of one, none."""
    rng = np.random.default_rng(0)
    return {
        group.name: np.sort(
            rng.permutation(group.channels)[
                : min(group.channels - 1, round(group.channels * share))
            ]
        )
        for group in structure.free
        if group.name in names
    }


def _check_asked(
    structure: Structure,
    plan: Plan,
    removed: dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]],
) -> None:
    """What the plan takes is what the members of the chosen channels name, and no more."""
    asked: dict[tuple[str, int], set[int]] = {}
    for group in structure.free:
        for member in group.members:
            indices = member.indices[removed[group.name]].ravel().tolist()
            asked.setdefault((member.parameter, member.dim), set()).update(indices)
    taken = {(c.parameter, c.dim): set(range(c.size)) - set(c.kept) for c in plan.cuts}
    assert taken == {key: indices for key, indices in asked.items() if indices}


def _check_runs(model: Model, small: GraphModule, every: Sequence[int]) -> None:
    """The same outputs in name and shape at every size."""
    from deploykit.load.calls import to_tensor
    from deploykit.load.synthetic import dims_of, synthetic_feeds

    for size in every:
        sizes = {n: size * dim.step for n, dim in dims_of(model.inputs).items()}
        feeds = [to_tensor(v) for v in synthetic_feeds(model.inputs, sizes, 0).values()]
        with torch.no_grad():
            expected = named_outputs(model.module(*(feed.clone() for feed in feeds)))
            got = named_outputs(small(*feeds))
        assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in expected.items()}
        assert all(bool(value.isfinite().all()) for value in got.values())


def _check_gradients(model: Model, small: GraphModule) -> None:
    """Every parameter that is left learns, in training mode."""
    small.train()
    feeds = [t.float() if t.is_floating_point() else t for t in made_up(model.inputs, 0)]
    outputs = named_outputs(small(*feeds))
    real = [value.double() for value in outputs.values() if value.is_floating_point()]
    torch.autograd.backward([value.square().sum() for value in real if value.requires_grad])
    small.eval()
    still = {name for name, value in small.named_parameters() if value.grad is None}
    assert not still
    small.zero_grad()


def _check_zeroed(model: Model, program: Program, plan: Plan) -> None:
    """The user's own network with zeros where the plan cuts computes what the cut one does.

    Shares nothing with the oracle: neither graph nor masks.
    """
    zeroed = copy.deepcopy(model.module).double()
    tensors: dict[str, Tensor] = dict(zeroed.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for part in plan.cuts:
            if part.parameter in tensors:
                gone = sorted(set(range(part.size)) - set(part.kept))
                tensors[part.parameter].index_fill_(part.dim, torch.tensor(gone), 0)
        feeds = made_up(model.inputs, 1)
        expected = named_outputs(zeroed(*(feed.clone() for feed in feeds)))
        small = cut(program, plan)
        widen(small.graph)
        small.recompile()
        got = named_outputs(small.double()(*feeds))
    for name, value in expected.items():
        scale = max(float(value.abs().max()), 1e-3)
        assert float((got[name] - value).abs().max()) < SAME * scale, f"{name} differs"
