"""Attention, fused and by hand, within heads and whole heads, with everything that goes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tests.compress.conftest import Prune, Pruned

TOKENS = "x=N[1..8]x7x24"
HEADS, WIDTH = 4, 6
HEADS_MODES = ("within", "whole")


def heads_of(x: Tensor, heads: int = HEADS) -> Tensor:
    """[batch, tokens, heads · width] -> [batch, heads, tokens, width]."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def packed(m: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of one linear layer, as timm writes it."""
    batch, tokens, _ = x.shape
    q, k, v = m.qkv(x).reshape(batch, tokens, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def merged(m: Any, x: Tensor) -> Any:
    return m.out(x.transpose(1, 2).flatten(2))


def fused(m: Any, x: Tensor) -> Any:
    return merged(m, functional.scaled_dot_product_attention(*packed(m, x)))


def by_hand(m: Any, x: Tensor) -> Any:
    q, k, v = packed(m, x)
    scores = (q * WIDTH**-0.5) @ k.transpose(-2, -1) + m.bias
    return merged(m, scores.softmax(-1) @ v)


def with_einsum(m: Any, x: Tensor) -> Any:
    q, k, v = (t.unflatten(-1, (HEADS, WIDTH)) for t in m.qkv(x).chunk(3, -1))
    scores = torch.einsum("bihd,bjhd->bhij", q, k).softmax(-1)
    return m.out(torch.einsum("bhij,bjhd->bihd", scores, v).flatten(2))


def relative_positions(m: Any, x: Tensor) -> Any:
    """A table of biases that is looked up by distance (Liu et al., ICCV 2021, section 3.2)."""
    bias = m.table[m.distance.view(-1)].view(7, 7, HEADS).permute(2, 0, 1).unsqueeze(0)
    q, k, v = packed(m, x)
    return merged(m, functional.scaled_dot_product_attention(q, k, v, attn_mask=bias))


def normalised_queries(m: Any, x: Tensor) -> Any:
    q, k, v = packed(m, x)
    return merged(m, functional.scaled_dot_product_attention(m.norm_q(q), m.norm_k(k), v))


def cosine(m: Any, x: Tensor) -> Any:
    q, k, v = packed(m, x)
    scores = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1)
    return merged(m, (scores * m.scale.clamp(max=4.0).exp()).softmax(-1) @ v)


def linear_attention(m: Any, x: Tensor) -> Any:
    """φ(q)(φ(k)ᵀv) with φ = relu: no softmax (Katharopoulos et al., ICML 2020)."""
    q, k, v = packed(m, x)
    q, k = q.relu(), k.relu()
    share = (q * k.sum(-2, keepdim=True)).sum(-1, keepdim=True) + 1
    return merged(m, (q @ (k.transpose(-2, -1) @ v)) / share)


def cross_covariance(m: Any, x: Tensor) -> Any:
    """Softmax over the width: only heads can go (El-Nouby et al., NeurIPS 2021)."""
    q, k, v = (t.transpose(-2, -1) for t in packed(m, x))
    scores = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1)
    y = (scores * m.scale).softmax(-1) @ v
    return m.out(y.permute(0, 3, 1, 2).flatten(2))


def rotary_halves(m: Any, x: Tensor) -> Any:
    """Rotary positions (Su et al., 2021) as in LLaMA: one half turns against the other."""
    angle = torch.outer(torch.arange(7.0), 1e4 ** (-torch.arange(3.0) / 3))
    cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()

    def turned(t: Tensor) -> Tensor:
        return t * cos + torch.cat([-t[..., 3:], t[..., :3]], -1) * sin

    q, k, v = packed(m, x)
    return merged(m, functional.scaled_dot_product_attention(turned(q), turned(k), v))


def rotary_pairs(m: Any, x: Tensor) -> Any:
    """The same with neighbours turning against each other, and constants from buffers."""

    def turned(t: Tensor) -> Any:
        return t * m.cos + torch.stack([-t[..., 1::2], t[..., ::2]], -1).flatten(-2) * m.sin

    q, k, v = packed(m, x)
    return merged(m, functional.scaled_dot_product_attention(turned(q), turned(k), v))


def window(m: Any, x: Tensor) -> Any:
    """Windows of 4 by 4 of a rolled map."""
    y = m.stem(x)
    parts = y.roll((-1, -1), (1, 2)).view(-1, 2, 4, 2, 4, 24).transpose(2, 3).reshape(-1, 16, 24)
    parts = functional.scaled_dot_product_attention(*packed(m, parts)).transpose(1, 2).flatten(2)
    parts = m.after(parts).view(-1, 2, 2, 4, 4, 24).transpose(2, 3).reshape(-1, 8, 8, 24)
    return m.out((y + parts.roll((1, 1), (1, 2))).mean((1, 2)))


def qkv() -> nn.Linear:
    return nn.Linear(24, 72)


TYPES: dict[str, tuple[Callable[..., object], str, dict[str, Any]]] = {
    "fused": (fused, TOKENS, {"qkv": qkv()}),
    "by hand": (by_hand, TOKENS, {"qkv": qkv(), "bias": nn.Parameter(torch.rand(HEADS, 7, 7))}),
    "einsum": (with_einsum, TOKENS, {"qkv": qkv()}),
    "relative positions": (
        relative_positions, TOKENS,
        {"qkv": qkv(), "table": nn.Parameter(torch.rand(13, HEADS)),
         "distance": torch.arange(7)[:, None] - torch.arange(7) + 6},
    ),
    "q/k norm": (
        normalised_queries, TOKENS,
        {"qkv": qkv(), "norm_q": nn.LayerNorm(WIDTH), "norm_k": nn.RMSNorm(WIDTH)},
    ),
    "cosine": (cosine, TOKENS, {"qkv": qkv(), "scale": nn.Parameter(torch.ones(HEADS, 1, 1))}),
    "linear": (linear_attention, TOKENS, {"qkv": qkv()}),
    "rotary halves": (rotary_halves, TOKENS, {"qkv": qkv()}),
    "rotary pairs": (
        rotary_pairs, TOKENS, {"qkv": qkv(), "cos": torch.rand(7, 6), "sin": torch.rand(7, 6)},
    ),
    "window": (
        window, "x=N[1..8]x8x8x3",
        {"qkv": qkv(), "stem": nn.Linear(3, 24), "after": nn.Linear(24, 24)},
    ),
}  # fmt: skip


def units(done: Pruned, parameter: str) -> set[tuple[int, int]]:
    """Channels and indices a channel, of the groups that write a parameter."""
    return {
        member.indices.shape
        for group in done.structure.free
        for member in group.members
        if (member.parameter, member.dim) == (parameter, 0)
    }


@pytest.mark.parametrize("heads", HEADS_MODES)
@pytest.mark.parametrize("kind", TYPES)
def test_heads_get_narrower_or_go(prune: Prune, kind: str, heads: str) -> None:
    run, inputs, parts = TYPES[kind]

    done = prune(run, inputs, heads=heads, out=nn.Linear(24, 5), **parts)

    rows = sum(channels * unit for channels, unit in units(done, "qkv.weight"))
    assert rows == 72, "every row may go"
    assert all(unit % (WIDTH if heads == "whole" else HEADS) == 0
               for _, unit in units(done, "qkv.weight"))  # fmt: skip
    if heads == "whole":
        assert {channels for channels, _ in units(done, "qkv.weight")} == {HEADS}
        assert done.widths["out.weight"] == (5, 12)


def test_rotary_pairs_go_together(prune: Prune) -> None:
    """Two positions of each head, in q and k, and because of the packed layer in v."""
    run, inputs, parts = TYPES["rotary pairs"]

    done = prune(run, inputs, out=nn.Linear(24, 5), **parts)

    assert units(done, "qkv.weight") == {(3, 2 * HEADS * 3)}


def test_attention_over_channels_keeps_its_width(prune: Prune) -> None:
    done = prune(
        cross_covariance,
        TOKENS,
        qkv=qkv(),
        scale=nn.Parameter(torch.ones(HEADS, 1, 1)),
        out=nn.Linear(24, 5),
    )

    assert done.widths["scale"] == (2, 1, 1)
    assert units(done, "qkv.weight") == {(HEADS, 3 * WIDTH)}


@pytest.mark.parametrize("heads", HEADS_MODES)
@pytest.mark.parametrize("weights", [True, False])
def test_torchs_own_attention(prune: Prune, heads: str, weights: bool) -> None:
    done = prune(
        lambda m, x: m.out(m.attention(x, x, x, need_weights=weights)[0]),
        TOKENS,
        heads=heads,
        attention=nn.MultiheadAttention(24, HEADS, batch_first=True),
        out=nn.Linear(24, 5),
    )

    assert done.widths["attention.in_proj_weight"] == (36, 24)
    assert done.widths["attention.out_proj.weight"] == (12, 12)
    assert done.widths["out.weight"] == (5, 12)


def test_averaged_attention_weights_are_a_mean_over_heads(prune: Prune) -> None:
    done = prune(
        lambda m, x: m.attention(x, x, x),
        TOKENS,
        heads="whole",
        attention=nn.MultiheadAttention(24, HEADS, batch_first=True),
    )

    assert done.marks["attention"] == "renormalised"


@pytest.mark.parametrize("heads", HEADS_MODES)
def test_cross_attention(prune: Prune, heads: str) -> None:
    done = prune(
        lambda m, x, y: m.out(m.attention(m.a(x), m.b(y), m.b(y), need_weights=False)[0]),
        TOKENS,
        "y=Nx5x10",
        heads=heads,
        a=nn.Linear(24, 24),
        b=nn.Linear(10, 16),
        attention=nn.MultiheadAttention(24, HEADS, kdim=16, vdim=16, batch_first=True),
        out=nn.Linear(24, 5),
    )

    assert done.widths["attention.k_proj_weight"] == (12, 8)
    assert done.widths["b.weight"] == (8, 10)


@pytest.mark.parametrize("heads", HEADS_MODES)
@pytest.mark.parametrize("spread", ["enable_gqa", "repeat_interleave", "expand"])
def test_grouped_queries(prune: Prune, heads: str, spread: str) -> None:
    """Two heads of k and v serve four of q (Ainslie et al., EMNLP 2023)."""

    def run(m: Any, x: Tensor) -> Any:
        q, k, v = heads_of(m.q(x)), heads_of(m.k(x), 2), heads_of(m.v(x), 2)
        if spread == "repeat_interleave":
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        elif spread == "expand":
            k, v = (t[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for t in (k, v))
        grouped = spread == "enable_gqa"
        return merged(m, functional.scaled_dot_product_attention(q, k, v, enable_gqa=grouped))

    done = prune(run, TOKENS, heads=heads, q=nn.Linear(24, 24), k=nn.Linear(24, 12),
                 v=nn.Linear(24, 12), out=nn.Linear(24, 5))  # fmt: skip

    assert done.widths["q.weight"] == (12, 24)
    assert done.widths["k.weight"] == (6, 24)
    assert done.widths["v.weight"] == (6, 24)


@pytest.mark.parametrize("heads", HEADS_MODES)
@pytest.mark.parametrize("inferred", [True, False])
def test_heads_folded_into_the_batch(prune: Prune, heads: str, inferred: bool) -> None:
    """Where the graph computes batch · heads, that size follows the cut, too."""

    def run(m: Any, x: Tensor) -> Any:
        batch = x.shape[0]
        tokens = -1 if inferred else 7
        q, k, v = (
            heads_of(part(x)).reshape(batch * HEADS, tokens, WIDTH) for part in (m.q, m.k, m.v)
        )
        y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
        return merged(m, y.view(batch, HEADS, 7, WIDTH))

    done = prune(run, TOKENS, heads=heads, q=nn.Linear(24, 24), k=nn.Linear(24, 24),
                 v=nn.Linear(24, 24), out=nn.Linear(24, 5))  # fmt: skip

    assert done.widths["out.weight"] == (5, 12)


def test_heads_that_talk(prune: Prune) -> None:
    """Linear layers over heads (Shazeer et al., 2020) lose heads between them."""

    def run(m: Any, x: Tensor) -> Any:
        q, k, v = packed(m, x)
        scores = m.before((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).softmax(-2)
        return merged(m, m.after(scores).permute(0, 3, 1, 2) @ v)

    done = prune(run, TOKENS, heads="whole", qkv=qkv(), before=nn.Linear(HEADS, HEADS),
                 after=nn.Linear(HEADS, HEADS), out=nn.Linear(24, 5))  # fmt: skip

    assert done.widths["before.weight"] == (2, 2)
    assert done.widths["after.weight"] == (2, 2)


def test_learnt_queries(prune: Prune) -> None:
    def run(m: Any, x: Tensor) -> Any:
        q = heads_of(m.q(m.latents)[None]).expand(x.shape[0], -1, -1, -1)
        y = functional.scaled_dot_product_attention(q, heads_of(m.k(x)), heads_of(m.v(x)))
        return merged(m, y)

    done = prune(run, TOKENS, q=nn.Linear(16, 24), k=nn.Linear(24, 24), v=nn.Linear(24, 24),
                 latents=nn.Parameter(torch.rand(5, 16)), out=nn.Linear(24, 5))  # fmt: skip

    assert done.widths["q.weight"] == (12, 16)
    assert done.widths["out.weight"] == (5, 12)


def test_a_vision_transformer(prune: Prune) -> None:
    """Class token, positions, a block of torch's own, a norm, and the token that is read."""

    def run(m: Any, x: Tensor) -> Any:
        y = m.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([m.token.expand(x.shape[0], -1, -1), y], 1) + m.positions
        return m.out(m.norm(m.block(y))[:, 0])

    done = prune(
        run,
        "x=N[1..8]x3x8x8",
        patches=nn.Conv2d(3, 24, 4, 4),
        token=nn.Parameter(torch.rand(1, 1, 24)),
        positions=nn.Parameter(torch.rand(1, 5, 24)),
        block=nn.TransformerEncoderLayer(24, HEADS, 48, batch_first=True, norm_first=True),
        norm=nn.LayerNorm(24),
        out=nn.Linear(24, 5),
    )

    assert done.widths["token"] == (1, 1, 12)
    assert done.widths["positions"] == (1, 5, 12)
    assert done.widths["block.linear1.weight"] == (24, 12)
    assert done.marks["patches"] == "renormalised"
    assert done.marks["block.self_attn"] == "exact"


def test_an_encoder_and_a_decoder(prune: Prune) -> None:
    done = prune(
        lambda m, x, y: m.out(m.both(m.a(x), m.b(y))),
        TOKENS,
        "y=Nx5x24",
        a=nn.Linear(24, 24),
        b=nn.Linear(24, 24),
        both=nn.Transformer(24, HEADS, 1, 1, 48, batch_first=True),
        out=nn.Linear(24, 5),
    )

    assert done.widths["both.decoder.layers.0.multihead_attn.out_proj.weight"] == (12, 12)
    assert done.widths["both.encoder.layers.0.linear2.weight"] == (12, 24)


def test_blocks_that_share_a_constant_are_cut_apart(prune: Prune) -> None:
    """Positions that both blocks use: each keeps its own part of them."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("positions", torch.rand(7, 8), persistent=False)
            self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 8)
            self.out = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Any:
            y = (self.first(x) * self.positions).relu()
            return self.out(self.second(y) * self.positions)

    done = prune(Two(), "x=N[1..8]x7x3")

    assert set(done.marks) == {"first", "second"}
