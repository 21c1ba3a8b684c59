"""Gates, channel attention, pooling, resizing: how exact each is, and that the oracle agrees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from deploykit.compress.prune.cutting.oracle import agreement
from deploykit.core.types import Model
from deploykit.load.inputs import parse_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tests.compress.conftest import Prune

IMAGE = "x=N[1..8]x3x8x8"


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def squeeze_excite(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    gate = m.up(m.down(functional.adaptive_avg_pool2d(y, 1)).relu()).sigmoid()
    return m.out(pooled(y * gate))


def squeeze_excite_linear(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    gate = m.up(m.down(pooled(y)).relu()).sigmoid()[:, :, None, None]
    return m.out(pooled(y * gate.expand_as(y)))


def selective_kernels(m: Any, x: Tensor) -> Any:
    """Two branches that compete (Li et al., CVPR 2019)."""
    y = torch.stack([m.a(x), m.b(x)], 1)
    score = m.up(m.down(y.sum(1).mean((2, 3))).relu()).view(-1, 2, 8)
    return m.out(pooled((y * score.softmax(1)[..., None, None]).sum(1)))


def test_squeeze_and_excitation(prune: Prune) -> None:
    for run, layer in ((squeeze_excite, conv), (squeeze_excite_linear, nn.Linear)):
        done = prune(run, IMAGE, a=conv(3, 16), down=layer(16, 4), up=layer(4, 16),
                     out=nn.Linear(16, 5))  # fmt: skip

        assert done.widths["down.weight"][:2] == (2, 8)
        assert done.widths["up.weight"][:2] == (8, 2)
        assert set(done.marks.values()) == {"exact"}


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1)


def test_selective_kernels(prune: Prune) -> None:
    done = prune(selective_kernels, IMAGE, a=conv(3, 8), b=conv(3, 8), down=nn.Linear(8, 4),
                 up=nn.Linear(4, 16), out=nn.Linear(8, 5))  # fmt: skip

    assert done.widths["up.weight"] == (8, 2)
    assert done.widths["b.weight"] == (4, 3, 1, 1)


def halves(m: Any, x: Tensor) -> Any:
    one, other = m.a(x).chunk(2, 1)
    return m.out(pooled(functional.silu(one) * other))


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda m, x: m.out(pooled(functional.glu(m.a(x), 1))), id="glu"),
        pytest.param(halves, id="swiglu"),
    ],
)
def test_gated_linear_units_lose_pairs(prune: Prune, run: Callable[..., object]) -> None:
    done = prune(run, IMAGE, a=conv(3, 16), out=nn.Linear(8, 5))

    assert done.widths["a.weight"] == (8, 3, 1, 1)
    (group,) = done.structure.free
    assert group.members[0].indices.tolist() == [[c, c + 8] for c in range(8)]


def test_a_token_mixing_gate_keeps_its_tokens(prune: Prune) -> None:
    """gMLP (Liu et al., NeurIPS 2021): positions meet what has a fixed number of them."""

    def run(m: Any, x: Tensor) -> Any:
        one, other = m.a(x).chunk(2, -1)
        other = m.mix(m.norm(other).transpose(1, 2)).transpose(1, 2)
        return m.out((one * other).mean(1))

    done = prune(run, "x=N[1..8]x7x3", a=nn.Linear(3, 16), norm=nn.LayerNorm(8),
                 mix=nn.Linear(7, 7), out=nn.Linear(8, 5))  # fmt: skip

    assert done.widths["a.weight"] == (8, 3)
    assert "fixed size" in done.locks["mix"]


def efficient_channel_attention(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    gate = m.mix(pooled(y).unsqueeze(1)).sigmoid().transpose(1, 2).unsqueeze(-1)
    return m.out(pooled(y * gate))


def spatial_attention(m: Any, x: Tensor) -> Any:
    """As in CBAM (Woo et al., ECCV 2018): an extreme over channels."""
    y = m.a(x)
    least = y.square().min(1, keepdim=True)[0]
    both = torch.cat([y.mean(1, keepdim=True), least], 1)
    return m.out(pooled(y * m.mix(both).sigmoid()))


@pytest.mark.parametrize(
    ("run", "mix", "why"),
    [
        (efficient_channel_attention, nn.Conv1d(1, 1, 3, padding=1), "runs over channels"),
        (spatial_attention, conv(2, 1), "min over all channels"),
    ],
    ids=["ECA", "CBAM"],
)
def test_what_looks_across_channels_is_approximate(
    prune: Prune, run: Callable[..., object], mix: nn.Module, why: str
) -> None:
    done = prune(run, IMAGE, a=conv(3, 16), mix=mix, out=nn.Linear(16, 5))

    (group,) = done.structure.free
    assert done.widths["a.weight"] == (8, 3, 1, 1)
    assert group.exactness == "approximate"
    assert why in group.why
    model = Model(nn.Identity(), parse_inputs([IMAGE]))
    assert not agreement(done.program, done.plan, model.inputs).exact


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2),
        nn.LPPool2d(2, 2), nn.Upsample(scale_factor=2), nn.Upsample(size=(9, 9), mode="bicubic"),
        nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.CircularPad2d(1), nn.ZeroPad2d(1),
        nn.ConstantPad2d(1, 3.0), nn.Dropout2d(), nn.AlphaDropout(), nn.PReLU(), nn.PReLU(8),
        nn.Hardtanh(-1, 1), nn.Softplus(), nn.Threshold(0.1, 20),
    ],
    ids=repr,
)  # fmt: skip
def test_channels_pass_what_works_on_positions(prune: Prune, pool: nn.Module) -> None:
    done = prune(
        lambda m, x: m.out(pooled(m.b(m.pool(m.a(x))))),
        IMAGE, a=conv(3, 8), pool=pool, b=conv(8, 6), out=nn.Linear(6, 5),
    )  # fmt: skip

    assert done.widths["b.weight"] == (3, 4, 1, 1)
    assert done.marks == {"a": "exact", "b": "exact"}


def gram(of: Callable[[Any, Tensor], Tensor]) -> Callable[..., object]:
    """A product of activations that sums over channels, and so reads them without a weight."""

    def run(m: Any, x: Tensor) -> Any:
        y = of(m, x).flatten(2)
        return m.out((y.transpose(1, 2) @ y).mean((1, 2))[:, None])

    return run


def through_an_alias(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    alias = y.view(-1, 8, 64)
    y.add_(1)
    return alias


@pytest.mark.parametrize(
    ("of", "mark"),
    [
        pytest.param(lambda m, x: m.a(x), "exact", id="as it is"),
        pytest.param(lambda m, x: m.a(x).relu(), "exact", id="f(0) = 0"),
        pytest.param(lambda m, x: m.a(x).clamp(-1, 6), "exact", id="a range with 0"),
        pytest.param(lambda m, x: m.a(x) * m.b(x).sigmoid(), "exact", id="gated by one channel"),
        pytest.param(lambda m, x: functional.normalize(m.a(x)), "exact", id="normalised"),
        pytest.param(lambda m, x: m.a(x).sigmoid(), "approximate", id="f(0) = 1/2"),
        pytest.param(lambda m, x: m.a(x).clamp(min=0.1), "approximate", id="a range without 0"),
        pytest.param(lambda m, x: m.a(x) + 1, "approximate", id="plus 1"),
        pytest.param(lambda m, x: m.a(x) + m.b(x), "approximate", id="plus one channel"),
        pytest.param(lambda m, x: m.a(x).add_(1), "approximate", id="plus 1 in place"),
        pytest.param(through_an_alias, "approximate", id="plus 1 through an alias"),
        pytest.param(
            lambda m, x: functional.pad(m.a(x), (1, 1), value=2.0), "approximate",
            id="padded with 2",
        ),
        pytest.param(lambda m, x: functional.pad(m.a(x), (1, 1)), "exact", id="padded with 0"),
    ],
)  # fmt: skip
def test_exactness_follows_the_zeros(
    prune: Prune, of: Callable[[Any, Tensor], Tensor], mark: str
) -> None:
    done = prune(gram(of), IMAGE, a=conv(3, 8), b=conv(3, 1), out=nn.Linear(1, 5))

    assert done.marks["a"] == mark
    model = Model(nn.Identity(), parse_inputs([IMAGE]))
    assert agreement(done.program, done.plan, model.inputs).exact == (mark == "exact")


def test_a_bilinear_form(prune: Prune) -> None:
    done = prune(
        lambda m, x: m.out(m.form(m.a(x), m.b(x))),
        "x=N[1..8]x6",
        a=nn.Linear(6, 8),
        b=nn.Linear(6, 12),
        form=nn.Bilinear(8, 12, 10),
        out=nn.Linear(10, 5),
    )

    assert done.widths["form.weight"] == (5, 4, 6)
    assert set(done.marks.values()) == {"exact"}


def test_queries_that_attend_to_each_other_are_exact(prune: Prune) -> None:
    """A query is never zero where no query goes: its number has nothing to do with its width."""

    def run(m: Any, x: Tensor) -> Any:
        q = m.queries.expand(x.shape[0], -1, -1)
        seen = functional.scaled_dot_product_attention(m.q(q), m.k(q + m.k2(x)[:, None]), m.v(q))
        return m.out(seen).mean(1)

    done = prune(run, "x=N[1..8]x6", queries=nn.Parameter(torch.rand(1, 7, 8)),
                 q=nn.Linear(8, 8), k=nn.Linear(8, 8), k2=nn.Linear(6, 8), v=nn.Linear(8, 8),
                 out=nn.Linear(8, 5))  # fmt: skip

    assert set(done.marks.values()) == {"exact"}
