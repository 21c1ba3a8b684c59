"""Residual blocks: which are found, what they are called, and what is left without them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.compress.prune.analysis.analyse import analyse
from deploykit.compress.prune.cutting.cut import compose, cut, plan_of
from deploykit.compress.prune.cutting.oracle import agreement
from deploykit.compress.prune.depth.blocks import blocks_of
from deploykit.compress.prune.depth.bypass import Shallow, after_blocks, without_blocks
from deploykit.compress.prune.graph.program import program_of
from deploykit.compress.prune.own_class.block_modules import blocks_as_modules
from deploykit.compress.prune.own_class.keep_class import CannotKeepClassError, keep_class
from deploykit.compress.prune.plan import Plan
from deploykit.core.errors import BadInputError
from deploykit.core.types import Model
from deploykit.load.inputs import parse_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from deploykit.compress.prune.graph.program import Program


class Basic(nn.Module):
    """A ResNet's block, in place as torchvision has it."""

    def __init__(self, inner: int, outer: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Conv2d(inner, outer, 1, stride) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += shortcut
        result: Tensor = self.relu(out)
        return result


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.layer1 = nn.Sequential(Basic(8, 8), Basic(8, 8))
        self.layer2 = nn.Sequential(Basic(8, 16, 2), Basic(16, 16), Basic(16, 16))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.stem(x).relu_()))
        result: Tensor = self.fc(x.mean((2, 3)))
        return result


class Layer(nn.Module):
    """A transformer's layer: two blocks in one module."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))
        self.gamma = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        result: Tensor = x + self.gamma * self.mlp(self.norm2(x))
        return result


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        self.blocks = nn.ModuleList(Layer(8) for _ in range(3))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.head(x.mean(1))
        return result


def model_of(module: nn.Module, *inputs: str) -> Model:
    """In evaluation mode, with norms that do something."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and tensor.dim() < 2:
                tensor.copy_(
                    torch.rand(tensor.shape, generator=rng) + (-0.5 if "mean" in name else 0.5)
                )
    return Model(module.eval(), parse_inputs(inputs))


def resnet() -> Model:
    torch.manual_seed(0)
    return model_of(ResNet(), "x=N[1..64]x3x8x8")


def transformer() -> Model:
    torch.manual_seed(0)
    return model_of(Transformer(), "x=N[1..64]x5x6")


def of(run: Callable[..., Tensor], *inputs: str, **parts: nn.Module) -> Program:
    """The graph of a function of parts and inputs."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, *given: Tensor) -> Tensor:
            return run(self, *given)

    return program_of(Model(Net().eval(), parse_inputs(inputs)))


def named(program: Program) -> list[str]:
    return [block.name for block in blocks_of(program)]


def half(program: Program, blocks: tuple[str, ...]) -> Plan:
    """These blocks, and half of the channels of what is left."""
    rest = without_blocks(program, blocks)
    structure = analyse(rest)
    shapes = {name: tuple(tensor.shape) for name, tensor in rest.tensors.items()}
    removed = {group.name: np.arange(group.channels // 2) for group in structure.free}
    return compose(Plan(blocks=blocks), plan_of(structure, removed, shapes))


def test_a_projected_shortcut_is_no_block() -> None:
    blocks = blocks_of(program_of(resnet()))

    assert [b.name for b in blocks] == ["layer1.0", "layer1.1", "layer2.1", "layer2.2"]


def test_a_block_knows_its_parameters_and_its_multiply_accumulates() -> None:
    block = blocks_of(program_of(resnet()))[0]

    assert [name.removeprefix("layer1.0.") for name in block.parameters] == [
        "bn1.bias", "bn1.weight", "bn2.bias", "bn2.weight", "conv1.weight", "conv2.weight",
    ]  # fmt: skip
    assert block.elements == 2 * 8 * 8 * 9 + 4 * 8
    assert block.macs == 2 * 8 * 8 * 9 * 64


def test_attention_and_mlp_of_a_layer_are_two_blocks_and_positions_none() -> None:
    names = named(program_of(transformer()))

    assert names == [f"blocks.{n}.{part}" for n in range(3) for part in ("attn", "mlp")]


def test_dense_connections_gates_and_plain_sums_are_no_blocks() -> None:
    conv = nn.Conv2d(4, 4, 1)

    def run(net: Any, x: Tensor) -> Any:
        x = net.first(x)
        x = torch.cat((x, net.dense(x)), 1)
        x = x * net.gate(x).sigmoid()
        return net.left(x) + net.right(x) + 1.0

    program = of(
        run, "x=N[1..64]x4x5x5", first=conv, dense=nn.Conv2d(4, 4, 1), gate=nn.Conv2d(8, 8, 1),
        left=nn.Conv2d(8, 2, 1), right=nn.Conv2d(8, 2, 1),
    )  # fmt: skip

    assert named(program) == []


def test_a_branch_that_reads_another_input_is_no_block() -> None:
    program = of(
        lambda net, x, y: x + net.mix(x * y), "x=N[1..64]x4", "y=N[1..64]x4", mix=nn.Linear(4, 4)
    )

    assert named(program) == []


def test_norms_and_activations_by_hand_are_no_blocks() -> None:
    def run(net: Any, x: Tensor) -> Any:
        x = net.mix(x)
        return x * (1 + torch.tanh(0.8 * (x + 0.044 * x**3)))

    assert named(of(run, "x=N[1..64]x4", mix=nn.Linear(4, 4))) == []


def test_branches_in_parallel_are_two_blocks() -> None:
    program = of(
        lambda net, x: x + net.one(x) + net.two(x).relu(),
        "x=N[1..64]x4", one=nn.Linear(4, 4), two=nn.Linear(4, 4),
    )  # fmt: skip

    assert named(program) == ["one", "two"]
    feed = torch.randn(3, 4)
    expected = feed + program.module.get_parameter("one.weight").new_tensor(0)
    assert torch.equal(without_blocks(program, ["one", "two"]).module(feed), expected)


def test_a_block_inside_another_goes_with_it() -> None:
    def run(net: Any, x: Tensor) -> Any:
        y = net.inner(x)
        y = net.outer(y + net.core(y).relu())
        return net.last(x + y)

    program = of(
        run, "x=N[1..64]x4",
        inner=nn.Linear(4, 4), core=nn.Linear(4, 4), outer=nn.Linear(4, 4), last=nn.Linear(4, 2),
    )  # fmt: skip
    core, outer = blocks_of(program)

    assert core.inside == (outer.name,)
    rest = without_blocks(program, [outer.name])
    assert sorted(rest.tensors) == ["last.bias", "last.weight"]
    assert sorted(without_blocks(program, [outer.name, core.name]).tensors) == sorted(rest.tensors)


def test_a_layer_that_is_shared_stays_until_its_last_block_goes() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = x + self.layer(x).relu()
            return x

    program = program_of(Model(Shared().eval(), parse_inputs(["x=N[1..64]x4"])))
    names = named(program)

    assert len(set(names)) == 3
    assert all(block.elements == 0 for block in blocks_of(program))
    assert "layer.weight" in without_blocks(program, names[:2]).tensors
    assert not without_blocks(program, names).tensors


def test_names_are_the_same_in_every_run() -> None:
    assert named(program_of(transformer())) == named(program_of(transformer()))


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (resnet, ("layer1.0",)),
        (resnet, ("layer1.1", "layer2.1", "layer2.2")),
        (transformer, ("blocks.1.attn",)),
        (transformer, ("blocks.0.mlp", "blocks.2.attn", "blocks.2.mlp")),
    ],
)
class TestWithout:
    def test_computes_what_zeroed_branches_do(self, model: object, names: tuple[str, ...]) -> None:
        """The user's own network, with the last weights of the branches at zero."""
        assert callable(model)
        given: Model = model()
        before = {name: tensor.clone() for name, tensor in given.module.state_dict().items()}
        small = cut(program_of(given), Plan(blocks=names)).double()
        zeroed = copy.deepcopy(given.module).double()
        with torch.no_grad():
            for name, tensor in zeroed.named_parameters():
                last = (".bn2.", ".out_proj.", ".mlp.2.")
                if name.startswith(names) and any(part in name for part in last):
                    tensor.zero_()
                if name.removesuffix("gamma") + "mlp" in names and name.endswith("gamma"):
                    tensor.zero_()
        feed = torch.randn(3, *[int(str(s)) for s in given.inputs[0].shape[1:]]).double()

        expected, got = zeroed(feed.clone()), small(feed.clone())

        assert torch.allclose(got, expected, rtol=0, atol=1e-12)
        for name, tensor in given.module.state_dict().items():
            assert torch.equal(tensor, before[name]), f"{name} of what was given has changed"

    def test_agrees_with_the_oracle_with_and_without_channels(
        self, model: object, names: tuple[str, ...]
    ) -> None:
        assert callable(model)
        given: Model = model()
        program = program_of(given)

        assert agreement(program, Plan(blocks=names), given.inputs).exact
        assert agreement(program, half(program, names), given.inputs).exact

    def test_trains(self, model: object, names: tuple[str, ...]) -> None:
        assert callable(model)
        given: Model = model()
        program = program_of(given)
        small = cut(program, half(program, names)).train()

        out = small(torch.randn(4, *[int(str(s)) for s in given.inputs[0].shape[1:]]))
        torch.autograd.backward(out.square().sum())

        assert all(p.grad is not None for p in small.parameters())
        assert not any(name.startswith(names[:1]) for name in small.state_dict())

    def test_one_plan_or_two_cuts_in_turn_are_the_same_bit_for_bit(
        self, model: object, names: tuple[str, ...]
    ) -> None:
        assert callable(model)
        given: Model = model()
        program = program_of(given)
        plan = half(program, names)

        at_once = cut(program, plan)
        first = Model(cut(program, Plan(blocks=names)), given.inputs)
        then = cut(program_of(first), Plan(plan.cuts))

        feed = torch.randn(3, *[int(str(s)) for s in given.inputs[0].shape[1:]])
        assert at_once.state_dict().keys() == then.state_dict().keys()
        assert torch.equal(at_once(feed.clone()), then(feed.clone()))


def test_the_oracle_sees_a_wrong_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut that takes another block than the plan says does not agree."""
    from deploykit.compress.prune.cutting import oracle

    given = resnet()
    program = program_of(given)
    right = after_blocks

    def wrong(doubled: Program, plan: Plan) -> Shallow:
        rest = right(doubled, plan)
        other = right(doubled, Plan(blocks=("layer2.2",)))
        return Shallow(other.program, other.plan, other.nodes, rest.skipped)

    monkeypatch.setattr(oracle, "after_blocks", wrong)

    assert not agreement(program, Plan(blocks=("layer2.1",)), given.inputs).exact


def test_an_activation_in_place_behind_the_sum_does_not_reach_the_stream() -> None:
    """Without a copy, `relu_` would write to what the last sum still reads."""

    def run(net: Any, x: Tensor) -> Any:
        x = net.first(x)
        y = (net.branch(x) + x).relu_()
        return net.last(x) + y.sum()

    parts = {name: nn.Linear(4, 4) for name in ("first", "branch", "last")}
    program = of(run, "x=N[1..64]x4", **parts)
    (block,) = blocks_of(program)
    feed = torch.randn(3, 4)

    got = without_blocks(program, [block.name]).module(feed.clone())

    x = parts["first"](feed)
    assert torch.allclose(got, parts["last"](x) + x.relu().sum())


def test_an_input_is_not_written_to() -> None:
    program = of(lambda net, x: (net.branch(x) + x).relu_(), "x=N[1..64]x4", branch=nn.Linear(4, 4))
    feed = torch.randn(3, 4)
    before = feed.clone()

    got = without_blocks(program, ["branch"]).module(feed)

    assert torch.equal(got, before.relu())
    assert torch.equal(feed, before)


def test_a_relu_behind_a_relu_goes() -> None:
    small = cut(program_of(resnet()), Plan(blocks=("layer1.0", "layer1.1")))
    whole = program_of(resnet()).module

    def count(module: torch.fx.GraphModule) -> int:
        return sum("relu" in str(node.target) for node in module.graph.nodes)

    assert count(whole) - count(small) == 4


def test_an_unknown_block_is_told_with_the_nearest() -> None:
    with pytest.raises(BadInputError, match=r"^layer1\.3 is no .*; did you mean 'layer1.\d'\?$"):
        cut(program_of(resnet()), Plan(blocks=("layer1.3",)))


def test_a_module_of_two_blocks_is_told_with_both() -> None:
    with pytest.raises(BadInputError, match=r"is 2 residual blocks: blocks\.1\.attn, blocks\.1\.m"):
        cut(program_of(transformer()), Plan(blocks=("blocks.1",)))


def test_a_network_without_blocks_says_so() -> None:
    program = of(lambda net, x: net.fc(x), "x=N[1..64]x4", fc=nn.Linear(4, 4))

    with pytest.raises(BadInputError, match="the network has none that can go"):
        cut(program, Plan(blocks=("fc",)))


def test_what_was_named_in_a_cut_graph_fits_the_network_it_came_from() -> None:
    given = transformer()
    program = program_of(given)
    first = Plan(blocks=("blocks.0.attn", "blocks.1.mlp"))
    again = program_of(Model(cut(program, first), given.inputs))
    later = tuple(named(again))

    both = cut(program, compose(first, Plan(blocks=later)))

    assert len(later) == 4
    assert not any(name.startswith("blocks") for name in both.state_dict())


def test_cuts_of_what_went_with_a_later_block_are_left_out() -> None:
    given = resnet()
    program = program_of(given)
    channels = half(program, ())

    both = cut(program, compose(channels, Plan(blocks=("layer1.1",))))

    assert not any(name.startswith("layer1.1") for name in both.state_dict())
    assert both.state_dict()["layer1.0.conv1.weight"].shape[0] == 4


def test_a_block_that_is_named_twice_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"^layer1\.0 is named twice"):
        cut(program_of(resnet()), Plan(blocks=("layer1.0", "layer1.0")))


def test_nodes_keep_their_names() -> None:
    program = program_of(transformer())
    rest = without_blocks(program, ["blocks.0.attn", "blocks.2.mlp"])
    names = [node.name for node in rest.module.graph.nodes]

    whole = [node.name for node in program.module.graph.nodes]
    assert names == [name for name in whole if name in names]


@pytest.mark.parametrize(
    ("model", "names", "modules"),
    [
        (resnet, ("layer1.1", "layer2.2"), ("layer1.1", "layer2.2")),
        (resnet, ("layer1.0", "layer1.1"), ("layer1",)),
        (transformer, ("blocks.1.attn", "blocks.1.mlp"), ("blocks.1",)),
    ],
)
def test_whole_modules_become_identities_of_the_own_class(
    model: Callable[[], Model], names: tuple[str, ...], modules: tuple[str, ...]
) -> None:
    given = model()
    program = program_of(given)
    plan = Plan(blocks=names)

    own = keep_class(given, program, plan)

    small = cut(program, plan)
    assert blocks_as_modules(program, small) == modules
    assert type(own) is type(given.module)
    assert all(isinstance(own.get_submodule(name), nn.Identity) for name in modules)
    feed = torch.randn(3, *[int(str(s)) for s in given.inputs[0].shape[1:]])
    assert torch.allclose(own(feed.clone()), small(feed.clone()), atol=1e-6)
    assert not any(name.startswith(modules) for name in own.state_dict())


def test_half_a_layer_is_no_identity_and_the_class_is_refused() -> None:
    given = transformer()

    with pytest.raises(CannotKeepClassError, match=r"^Transformer cannot be cut as the graph is"):
        keep_class(given, program_of(given), Plan(blocks=("blocks.1.attn",)))
