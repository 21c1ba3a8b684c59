"""What exits learn: the sum by hand, and that the whole network learns nothing from its exits."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from deploykit.compress.exits.loss import EveryExit, joint_loss
from deploykit.compress.exits.network import MultiExit
from deploykit.compress.exits.options import ExitsOptions
from deploykit.compress.exits.plan import ExitHead, ExitsPlan
from deploykit.nets.resnet import resnet
from deploykit.train.objective import Step, Target, total

PLAN = ExitsPlan((ExitHead("stem", "pool", 4), ExitHead("stages.0", "conv", 4, 8)), 3)


def _net(*, frozen: bool = False) -> MultiExit:
    torch.manual_seed(0)
    net = resnet(channels=(4, 8), blocks=1, in_channels=1, classes=3)
    return MultiExit(net, PLAN, frozen=frozen).train()


def _step(net: MultiExit) -> Step:
    inputs = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    return Step(net, (inputs,), (Target(torch.tensor([0, 1, 2, 0, 1, 2])),), EveryExit())


def test_the_sum_is_the_one_of_the_docstring() -> None:
    net = _net()
    options = ExitsOptions(
        ("stem", "stages.0"), exit_weights=(0.5, 2.0), distill=0.25, temperature=2.0
    )
    step = _step(net)
    found = total(joint_loss(options)(step))
    outputs = net(*step.inputs)
    labels = step.targets[0].labels
    whole = F.log_softmax(outputs["output"].detach() / 2, 1)
    wanted = F.cross_entropy(outputs["output"], labels)
    for name, weight in (("exit1", 0.5), ("exit2", 2.0)):
        soft = F.log_softmax(outputs[name] / 2, 1)
        divergence = 4 * (whole.exp() * (whole - soft)).sum(1).mean()
        wanted = wanted + weight * (
            0.75 * F.cross_entropy(outputs[name], labels) + 0.25 * divergence
        )
    assert torch.allclose(found, wanted, rtol=1e-5)


def test_the_whole_network_learns_nothing_from_what_it_teaches() -> None:
    net = _net()
    terms = joint_loss(ExitsOptions(("stem", "stages.0"), distill=1.0))(_step(net))
    taught = [term.value for name, term in terms.items() if "taught" in name]
    torch.autograd.backward(taught)
    after = dict(net.net.named_parameters())["stages.1.0.conv1.weight"]
    assert after.grad is None or not after.grad.any()


def test_a_frozen_network_stays_as_it_is() -> None:
    net = _net(frozen=True)
    before = {name: value.clone() for name, value in net.net.state_dict().items()}
    terms = joint_loss(ExitsOptions(("stem", "stages.0"), frozen=True))(_step(net))
    assert not any(name.startswith("task") for name in terms)
    torch.autograd.backward(total(terms))
    torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1.0).step()
    assert all(torch.equal(before[name], value) for name, value in net.net.state_dict().items())
    assert all(p.grad is not None for p in net.heads.parameters())


def test_epochs_are_chosen_by_the_mean_of_all_exits() -> None:
    logits = {
        "output": torch.eye(3)[[0, 1, 2, 0]],
        "exit1": torch.eye(3)[[0, 0, 0, 0]],
        "exit2": torch.eye(3)[[1, 1, 2, 0]],
    }
    hits, count = EveryExit().score(logits, torch.tensor([0, 1, 2, -1]))
    np.testing.assert_allclose([float(hits), count], [(3 + 1 + 2) / 3, 3])
