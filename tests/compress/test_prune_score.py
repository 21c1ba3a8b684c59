"""Importance of channels: by hand, against a gate on the channel, and without leaving a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from deploykit.compress.prune.choice.evidence import Evidence, class_loss, evaluating
from deploykit.compress.prune.choice.score import score
from deploykit.compress.prune.options import CRITERIA, NEED_DATA
from deploykit.compress.prune.structure import Group, Member, Role, Structure
from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.load.arrays import ArrayData
from deploykit.load.inputs import parse_inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

INPUTS = parse_inputs(["x=N[1..64]x2x5x5:float32"])
WIDTH = 4


class Net(nn.Module):
    """One group: what conv1 writes, norm scales, and conv2 and side read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, WIDTH, 3)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.conv2 = nn.Conv2d(WIDTH, 3, 3)
        self.side = nn.Linear(WIDTH, 3)
        self.gate = torch.ones(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.conv1(x))) * self.gate[:, None, None]
        out: Tensor = self.conv2(hidden).mean((2, 3)) + self.side(hidden.mean((2, 3)))
        return out


def member(parameter: str, dim: int, role: Role, *, learnt: bool = True) -> Member:
    return Member(parameter, dim, np.arange(WIDTH)[:, None], role, learnt)


GROUP = Group(
    "conv1",
    WIDTH,
    (
        member("conv1.weight", 0, Role.WRITES),
        member("conv1.bias", 0, Role.SCALES),
        member("norm.weight", 0, Role.SCALES),
        member("norm.bias", 0, Role.SCALES),
        member("norm.running_mean", 0, Role.SCALES, learnt=False),
        member("conv2.weight", 1, Role.READS),
        member("side.weight", 1, Role.READS),
    ),
)
STRUCTURE = Structure((GROUP, Group("conv2", 3, (), locked="it is an output")))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape))
        net.get_buffer("norm.running_mean").copy_(torch.randn(WIDTH))
    return net


def evidence(
    count: int = 6, *, batch: int = 1, labels: bool = True, samples: int = 256
) -> Evidence:
    draws = np.random.default_rng(0)
    images = draws.standard_normal((count, 2, 5, 5)).astype(np.float32)
    wanted = draws.integers(0, 3, count) if labels else None
    data = ArrayData("made", {"x": images}, wanted)
    return Evidence(data, INPUTS, class_loss, samples, batch)


def over_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values / values.mean(), np.float64)


@pytest.mark.parametrize(("criterion", "power"), [("l1", 1), ("l2", 2)])
def test_magnitude_is_the_norm_of_all_weights_of_a_channel(
    net: Net, criterion: str, power: int
) -> None:
    parts = [
        net.conv1.weight.flatten(1),
        net.norm.weight[:, None],
        net.conv2.weight.transpose(0, 1).flatten(1),
        net.side.weight.T,
    ]
    norms = torch.cat(parts, 1).norm(power, dim=1).detach().double().numpy()
    found = score(net, STRUCTURE, criterion)

    assert list(found) == ["conv1"]  # nothing of locked groups
    np.testing.assert_allclose(found["conv1"], over_mean(norms), rtol=1e-6)


def test_several_indices_of_a_channel_are_one_sum() -> None:
    layer = nn.Linear(1, 6, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]]))
    pairs = Member("weight", 0, np.array([[0, 3], [1, 4], [2, 5]]), Role.WRITES)
    found = score(layer, Structure((Group("heads", 3, (pairs,), unit=2),)), "l1")

    np.testing.assert_allclose(found["heads"], np.array([5, 7, 9]) / 7)


def test_weights_that_are_all_zero_are_worth_nothing() -> None:
    layer = nn.Linear(2, WIDTH)
    nn.init.zeros_(layer.weight)
    group = Group("layer", WIDTH, (member("weight", 0, Role.WRITES),))

    np.testing.assert_array_equal(score(layer, Structure((group,)), "l2")["layer"], np.zeros(WIDTH))


def test_norm_scales_are_ranked_as_they_are_and_groups_without_are_left_out(net: Net) -> None:
    bare = Group("bare", WIDTH, (member("conv1.weight", 0, Role.WRITES),))
    found = score(net, Structure((GROUP, bare)), "bn-scale")

    assert list(found) == ["conv1"]
    np.testing.assert_allclose(found["conv1"], net.norm.weight.detach().abs().numpy())
    with pytest.raises(BadInputError, match=r"'bn-scale' needs norms with weights.*take l1"):
        score(net, Structure((bare,)), "bn-scale")


def test_random_depends_on_the_seed_and_the_name_only(net: Net) -> None:
    other = Group("other", 7, ())
    alone = score(net, Structure((GROUP,)), "random", seed=3)["conv1"]
    among = score(net, Structure((other, GROUP)), "random", seed=3)

    np.testing.assert_array_equal(alone, among["conv1"])
    assert not np.array_equal(alone, among["other"][:WIDTH])
    assert not np.array_equal(alone, score(net, STRUCTURE, "random", seed=4)["conv1"])


def gate_derivatives(net: Net, given: Evidence) -> NDArray[np.float64]:
    """By sample and channel: the loss's derivative with respect to a factor on the channel."""
    net.gate.requires_grad_()
    rows = []
    for inputs, labels in given.batches(torch.device("cpu")):
        assert labels is not None
        (slope,) = torch.autograd.grad(class_loss(net, inputs, labels), net.gate)
        rows.append(slope.double().numpy())
    net.gate.requires_grad = False
    return np.stack(rows)


def test_taylor_is_the_mean_magnitude_of_a_gates_derivative(net: Net) -> None:
    slopes = gate_derivatives(net, evidence())
    found = score(net, STRUCTURE, "taylor", evidence=evidence())

    assert len(slopes) == 6
    np.testing.assert_allclose(found["conv1"], over_mean(np.abs(slopes).mean(0)), rtol=1e-4)


def test_fisher_is_its_mean_square(net: Net) -> None:
    slopes = gate_derivatives(net, evidence())
    found = score(net, STRUCTURE, "fisher", evidence=evidence())

    np.testing.assert_allclose(found["conv1"], over_mean(np.square(slopes).mean(0)), rtol=1e-4)


def test_taylor_is_what_removal_does_to_a_loss_that_is_linear(net: Net) -> None:
    def first_output(module: nn.Module, inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        logits: Tensor = module(*inputs)
        return logits[:, 0].mean()

    given = evidence(1)
    linear = Evidence(given.data, INPUTS, first_output)
    found = score(net, STRUCTURE, "taylor", evidence=linear)["conv1"]
    ((inputs, labels),) = linear.batches(torch.device("cpu"))
    assert labels is not None
    with torch.no_grad():
        whole = float(first_output(net, inputs, labels))
        changes = []
        for channel in range(WIDTH):
            net.gate = torch.ones(WIDTH).index_fill(0, torch.tensor(channel), 0.0)
            changes.append(abs(float(first_output(net, inputs, labels)) - whole))

    np.testing.assert_allclose(found, over_mean(np.array(changes)), rtol=1e-4, atol=1e-6)


def test_larger_batches_average_gradients_first(net: Net) -> None:
    slopes = gate_derivatives(net, evidence(batch=3))
    found = score(net, STRUCTURE, "taylor", evidence=evidence(batch=3))

    assert len(slopes) == 2
    np.testing.assert_allclose(found["conv1"], over_mean(np.abs(slopes).mean(0)), rtol=1e-4)


def test_writers_stand_in_where_nothing_learnt_reads(net: Net) -> None:
    queries = Group("queries", WIDTH, GROUP.members[:4])
    found = score(net, Structure((queries,)), "taylor", evidence=evidence())["queries"]

    assert found.shape == (WIDTH,)
    assert (found > 0).any()


def test_activation_is_what_readers_take_in(net: Net) -> None:
    with torch.no_grad():
        ((inputs, _),) = evidence(6, batch=6).batches(torch.device("cpu"))
        hidden = torch.relu(net.norm(net.conv1(*inputs)))
        by_conv, by_side = hidden.abs().mean((0, 2, 3)), hidden.mean((2, 3)).abs().mean(0)
    means = ((by_conv + by_side) / 2).double().numpy()
    found = score(net, STRUCTURE, "activation", evidence=evidence(batch=3, labels=False))

    np.testing.assert_allclose(found["conv1"], over_mean(means), rtol=1e-5)


def test_activation_falls_back_to_what_writers_put_out() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, WIDTH, 3), nn.Conv2d(WIDTH, WIDTH, 3, groups=2), nn.Flatten()
    ).eval()
    group = Group(
        "0",
        2,
        (
            Member("0.weight", 0, np.array([[0, 2], [1, 3]]), Role.WRITES),
            Member("1.weight", 1, np.array([[0], [1]]), Role.READS),  # of both groups
        ),
    )
    found = score(net, Structure((group,)), "activation", evidence=evidence(batch=6))["0"]
    with torch.no_grad():
        ((inputs, _),) = evidence(6, batch=6).batches(torch.device("cpu"))
        means = net[0](*inputs).abs().mean((0, 2, 3)).double().numpy()

    np.testing.assert_allclose(found, over_mean(means.reshape(2, 2).mean(0)), rtol=1e-5)


def test_activation_names_networks_that_it_cannot_watch(net: Net) -> None:
    scales = Group("scales", WIDTH, (member("norm.weight", 0, Role.SCALES),))
    with pytest.raises(BadInputError, match=r"'activation' could watch no layer.*take l1"):
        score(net, Structure((scales,)), "activation", evidence=evidence())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_graphs_of_aten_operators_score_like_the_module(net: Net, criterion: str) -> None:
    image = torch.zeros(2, 2, 5, 5)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (image,), dynamic_shapes=({0: batch},), strict=False)
    captured = program.module(check_guards=False)
    assert isinstance(captured, fx.GraphModule)
    module = score(net, STRUCTURE, criterion, evidence=evidence())
    graph = score(
        fx.GraphModule(captured, captured.graph), STRUCTURE, criterion, evidence=evidence()
    )

    np.testing.assert_allclose(graph["conv1"], module["conv1"], rtol=1e-4)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_scoring_leaves_no_trace_and_repeats_itself(net: Net, criterion: str) -> None:
    net.train()
    net.norm.eval()
    net.conv1.weight.requires_grad = False
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first = score(net, STRUCTURE, criterion, evidence=evidence())
    second = score(net, STRUCTURE, criterion, evidence=evidence())

    np.testing.assert_array_equal(first["conv1"], second["conv1"])
    assert net.training
    assert not net.norm.training
    assert net.conv2.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["conv1.weight"]


def test_a_graph_that_switches_its_own_mode_is_switched_back(net: Net) -> None:
    class Switching(nn.Sequential):
        """As cut graphs do, it changes more than flags."""

        def train(self, mode: bool = True) -> Switching:
            self.now = mode
            return super().train(mode)

    whole = Switching(net).train()
    with evaluating(whole):
        assert not whole.now

    assert whole.now


@pytest.mark.parametrize("criterion", NEED_DATA)
def test_data_is_asked_for(net: Net, criterion: str) -> None:
    with pytest.raises(BadInputError, match=f"'{criterion}' needs data: give --data, or take l1"):
        score(net, STRUCTURE, criterion)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (evidence(labels=False), "made has no labels, and this criterion needs them"),
        (evidence(3, batch=4), "made has 3 samples of which 256 may be looked at, and a batch"),
        (evidence(samples=2, batch=4), "made has 6 samples of which 2 may be looked at"),
        (Evidence(evidence().data, INPUTS), "this criterion needs a loss; take l1"),
        (
            Evidence(evidence().data, parse_inputs(["x=N[1..8]x1x5x5:float32"]), class_loss),
            r"made gives shape \[1, 2, 5, 5\] for input 'x'",
        ),
    ],
)
def test_evidence_that_does_not_do_is_told_in_one_line(
    net: Net, given: Evidence, message: str
) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        score(net, STRUCTURE, "taylor", evidence=given)

    assert "\n" not in str(caught.value)


def test_a_network_that_fails_on_the_data_is_told_in_its_own_words(net: Net) -> None:
    net.conv1 = nn.Conv2d(3, WIDTH, 3)
    for criterion in NEED_DATA:
        with pytest.raises(BadInputError, match="the network does not run on x=N"):
            score(net, STRUCTURE, criterion, evidence=evidence())


def test_gradients_that_are_no_numbers_are_refused(net: Net) -> None:
    with torch.no_grad():
        net.conv2.weight.fill_(float("inf"))
    with pytest.raises(CheckFailedError, match="gradients of group conv1 are not finite on made"):
        score(net, STRUCTURE, "fisher", evidence=evidence())


def test_which_samples_are_seen_depends_on_the_seed() -> None:
    def seen(seed: int) -> list[int]:
        data = ArrayData("numbered", {"x": np.zeros((50, 2, 5, 5), np.float32)}, np.arange(50))
        given = Evidence(data, INPUTS, samples=5, seed=seed)
        return [
            int(labels) for _, labels in given.batches(torch.device("cpu")) if labels is not None
        ]

    assert seen(0) == seen(0)
    assert len(set(seen(0))) == 5
    assert seen(0) != seen(1)
