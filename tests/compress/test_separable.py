"""Splitting convolutions: exact where it can be, nearest elsewhere, fitted to data; what stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from deploykit.compress.separable.choose import choices
from deploykit.compress.separable.convert import converted
from deploykit.compress.separable.counts import weights_split, weights_whole
from deploykit.compress.separable.options import SeparableOptions
from deploykit.compress.separable.plan import SeparablePlan, SplitLayer
from deploykit.compress.separable.refit import refitted
from deploykit.compress.separable.split import SeparableConv, split, taps_of, weight_error
from deploykit.core.errors import BadInputError
from deploykit.load.calls import Arguments

if TYPE_CHECKING:
    from collections.abc import Iterator

CONVS = [
    nn.Conv2d(4, 6, 3, padding=1),
    nn.Conv2d(4, 6, (3, 5), stride=(1, 2), padding=(2, 0), dilation=(2, 1), bias=False),
    nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"),
    nn.Conv2d(4, 6, 3, padding=1, groups=2),
    nn.Conv2d(1, 5, 3),
    nn.Conv1d(3, 4, 5, stride=2, padding=2, padding_mode="reflect"),
    nn.Conv3d(2, 4, 3, padding=1),
]


def image(conv: nn.Module, size: int = 9) -> torch.Tensor:
    rank = len(conv.kernel_size)  # type: ignore[arg-type]  # of a convolution
    shape = (3, conv.in_channels, *[size] * rank)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]


def plan_for(net: nn.Module, rank: int = 1) -> SeparablePlan:
    found = choices(net, SeparableOptions(rank=rank))
    return SeparablePlan(tuple(SplitLayer(c.name, c.rank, c.weight) for c in found if not c.why))


def test_weights_are_those_of_the_formula() -> None:
    assert (weights_whole((4, 2, 3, 3)), weights_split((4, 2, 3, 3), 1)) == (72, 26)
    for rank in (1, 2):
        made = split(nn.Conv2d(2, 4, 3, bias=False), rank)
        assert sum(p.numel() for p in made.parameters()) == weights_split((4, 2, 3, 3), rank)
    grouped = split(nn.Conv2d(4, 6, 3, groups=2, bias=False), 1)
    assert sum(p.numel() for p in grouped.parameters()) == weights_split((6, 2, 3, 3), 1, 2)


@pytest.mark.parametrize("conv", CONVS, ids=str)
def test_at_full_rank_it_is_the_same(conv: nn.Conv2d) -> None:
    x = image(conv)

    torch.testing.assert_close(split(conv, 99)(x), conv(x), rtol=1e-4, atol=1e-5)


def test_a_kernel_of_low_rank_is_found_exactly() -> None:
    conv = nn.Conv2d(3, 5, 3)
    first, second = torch.randn(3, 9), torch.randn(5, 3)
    conv.weight.data = torch.einsum("ik,oi->oik", first, second).reshape(5, 3, 3, 3)

    assert weight_error(conv, 1) < 1e-10
    torch.testing.assert_close(split(conv, 1)(image(conv)), conv(image(conv)), rtol=1e-4, atol=1e-5)


def test_no_other_split_is_nearer() -> None:
    """Eckart and Young: what is missed is the rest of the singular values, channel by channel."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3)
    values = [torch.linalg.svdvals(conv.weight[:, i].flatten(1).double()) for i in range(3)]
    for rank in (1, 2, 3):
        missed = sum(float((one[rank:] ** 2).sum().detach()) for one in values)
        whole = float(conv.weight.detach().double().square().sum())
        assert weight_error(conv, rank) == pytest.approx(missed / whole, rel=1e-6)


@pytest.mark.parametrize("conv", CONVS, ids=str)
def test_taps_are_what_a_convolution_sums_up(conv: nn.Conv2d) -> None:
    x = image(conv)
    taps = taps_of(conv)(x)
    groups, inside = conv.groups, conv.in_channels // conv.groups
    by_group = taps.reshape(3, groups, inside * conv.weight[0, 0].numel(), -1)
    kernel = conv.weight.reshape(groups, conv.out_channels // groups, -1)
    summed = torch.einsum("ngtp,got->ngop", by_group, kernel).reshape(conv(x).shape)
    if conv.bias is not None:
        summed = summed + conv.bias.reshape(-1, *[1] * (x.dim() - 2))

    torch.testing.assert_close(summed, conv(x), rtol=1e-4, atol=1e-5)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.one = nn.Conv2d(16, 16, 3, padding=1)
        self.again = self.one
        self.two = nn.Conv2d(16, 16, 3, padding=1, groups=4, bias=False)
        self.tied = nn.Conv2d(16, 16, 3, padding=1)
        self.twin = nn.Conv2d(16, 16, 3, padding=1)
        self.twin.weight = self.tied.weight
        self.point = nn.Conv2d(16, 16, 1)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.up = nn.ConvTranspose2d(16, 16, 2)
        self.odd = nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 3))
        self.small = nn.Conv2d(16, 1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.one(x))
        x = torch.relu(self.again(x))
        out: torch.Tensor = self.two(x)
        return out


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def test_what_stays_says_why() -> None:
    why = {choice.name: choice.why for choice in choices(net(), SeparableOptions(skip=("two",)))}

    assert why == {
        "stem": "would make all 16 outputs of 1 filtered channel; name it in layers to split it "
        "all the same",
        "one": "",
        "two": "was left out",
        "tied": "shares its kernel with twin",
        "twin": "shares its kernel with tied",
        "point": "is pointwise already",
        "depth": "is depthwise already",
        "up": "is transposed, which runtimes have no fast depthwise kernels for",
        "odd": "is a ParametrizedConv2d, which computes in a way of its own",
        "small": "has 144 weights, and would have 160 at rank 1",
    }


def test_layers_are_chosen_by_name_and_pattern() -> None:
    chosen = SeparableOptions(layers=("stem", "t*"), skip=("tw*",))
    why = {choice.name: choice.why for choice in choices(net(), chosen)}

    assert why["stem"] == ""
    assert why["one"] == "was not asked for"
    assert why["two"] == "was left out"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layers": ("stemm",)}, "layer 'stemm' is not there; did you mean 'stem'?"),
        ({"skip": ("no.*",)}, "layer 'no.*' is not there"),
        ({"layers": ("point",)}, "layer 'point' cannot be split: it is pointwise already"),
    ],
)
def test_bad_names_are_refused(options: dict[str, tuple[str, ...]], says: str) -> None:
    with pytest.raises(BadInputError) as caught:
        choices(net(), SeparableOptions(**options))  # type: ignore[arg-type]  # names only
    assert str(caught.value).startswith(says)


def test_a_shared_module_is_split_everywhere_and_the_original_stays() -> None:
    whole = net()
    made = converted(whole, plan_for(whole))

    assert isinstance(made.get_submodule("one"), SeparableConv)
    assert made.get_submodule("again") is made.get_submodule("one")
    assert isinstance(whole.one, nn.Conv2d)
    assert not {p.data_ptr() for p in made.parameters()} & {
        p.data_ptr() for p in whole.parameters()
    }


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (SplitLayer("onne", 1, (16, 16, 3, 3)), "the plan splits onne, which is not there"),
        (SplitLayer("up", 1, (16, 16, 2, 2)), "the plan splits up, which is a ConvTranspose2d"),
        (
            SplitLayer("one", 1, (16, 8, 3, 3)),
            "the plan splits one with a kernel of [16, 8, 3, 3], and it has [16, 16, 3, 3]",
        ),
    ],
)
def test_a_plan_that_does_not_fit_says_where(layer: SplitLayer, says: str) -> None:
    with pytest.raises(BadInputError) as caught:
        converted(net(), SeparablePlan((layer,)))
    assert str(caught.value).startswith(says)


def test_a_plan_names_a_layer_once() -> None:
    with pytest.raises(BadInputError, match="the plan splits a twice"):
        SeparablePlan((SplitLayer("a", 1, (1,)), SplitLayer("a", 2, (1,))))
    with pytest.raises(BadInputError, match="at rank 0; 1 is the least"):
        SplitLayer("a", 0, (1,))


def batches() -> Iterator[Arguments]:
    draws = torch.Generator().manual_seed(1)
    mixing = torch.randn(1, 1, 3, 3, generator=draws)
    for _ in range(8):
        noise = torch.randn(16, 1, 12, 12, generator=draws)
        yield Arguments((torch.conv2d(noise, mixing, padding=1),), {})


@pytest.mark.parametrize("rank", [1, 2])
def test_fitted_kernels_are_nearer_to_what_comes_out(rank: int) -> None:
    """On samples that were not fitted to, layer by layer, and for the whole network."""
    whole = net()
    plan = plan_for(whole, rank)
    made, fits = refitted(whole, plan, batches, samples=128)
    nearest = converted(whole, plan)
    x = torch.conv2d(torch.randn(64, 1, 12, 12), torch.ones(1, 1, 3, 3), padding=1)
    off = [float((one(x) - whole(x)).square().mean().detach()) for one in (nearest, made)]

    assert [layer.name for layer in plan.layers] == ["one", "two"]
    assert all(fit.fitted < fit.nearest for fit in fits.values())
    assert fits["one"].fitted < 0.7 * fits["one"].nearest
    assert off[1] < 0.7 * off[0]
    assert all(p.requires_grad for p in made.parameters())
    made.train()(x).sum().backward()


def test_what_is_nearly_separable_stays_near() -> None:
    """A layer that is nearly pointwise is hardly off."""
    torch.manual_seed(0)
    conv = nn.Conv1d(6, 4, 1, bias=True)
    conv3 = nn.Conv1d(6, 4, 3, bias=True)
    conv3.weight.data.zero_()
    conv3.weight.data[:, :, 1] = conv.weight.data[:, :, 0]
    conv3.weight.data += 0.01 * torch.randn_like(conv3.weight)
    whole = nn.Sequential(conv3).eval()
    plan = SeparablePlan((SplitLayer("0", 1, tuple(conv3.weight.shape)),))
    data = [Arguments((torch.randn(16, 6, 10),), {}) for _ in range(8)]
    _, fits = refitted(whole, plan, lambda: iter(data), samples=128)

    assert fits["0"].fitted <= fits["0"].nearest < 0.01
