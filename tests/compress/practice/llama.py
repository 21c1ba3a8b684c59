"""A decoder in the way of Llama: RMS norm by hand, rotary positions, grouped queries, SwiGLU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class RMSNorm(nn.Module):
    def __init__(self, dim: Any, eps: Any = 1e-06) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def _norm(self, x: Any) -> Any:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, x: Any) -> Any:
        return self._norm(x.float()).type_as(x) * self.weight


def precompute(dim: Any, end: Any, theta: Any = 10000.0) -> Any:
    f = 1.0 / theta ** (torch.arange(0, dim, 2)[: dim // 2].float() / dim)
    t = torch.outer(torch.arange(end).float(), f)
    return (torch.cos(t), torch.sin(t))


def rotate_half(x: Any) -> Any:
    a, b = (x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :])
    return torch.cat((-b, a), dim=-1)


def rope(q: Any, k: Any, cos: Any, sin: Any) -> Any:
    cos = torch.cat((cos, cos), -1)[None, None]
    sin = torch.cat((sin, sin), -1)[None, None]
    return (q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin)


def repeat_kv(x: Any, n: Any) -> Any:
    b, h, t, d = x.shape
    return x[:, :, None].expand(b, h, n, t, d).reshape(b, h * n, t, d)


class Attention(nn.Module):
    def __init__(self, d: Any, h: Any, kv: Any) -> None:
        super().__init__()
        self.h, self.kv, self.hd = (h, kv, d // h)
        self.q_proj = nn.Linear(d, h * self.hd, bias=False)
        self.k_proj = nn.Linear(d, kv * self.hd, bias=False)
        self.v_proj = nn.Linear(d, kv * self.hd, bias=False)
        self.o_proj = nn.Linear(h * self.hd, d, bias=False)

    def forward(self, x: Any, cos: Any, sin: Any) -> Any:
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.h, self.hd).transpose(1, 2)
        k = self.k_proj(x).view(b, t, self.kv, self.hd).transpose(1, 2)
        v = self.v_proj(x).view(b, t, self.kv, self.hd).transpose(1, 2)
        q, k = rope(q, k, cos[:t], sin[:t])
        k, v = (repeat_kv(k, self.h // self.kv), repeat_kv(v, self.h // self.kv))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class FeedForward(nn.Module):
    def __init__(self, d: Any, hidden: Any) -> None:
        super().__init__()
        self.w1 = nn.Linear(d, hidden, bias=False)
        self.w2 = nn.Linear(hidden, d, bias=False)
        self.w3 = nn.Linear(d, hidden, bias=False)

    def forward(self, x: Any) -> Any:
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, d: Any, h: Any, kv: Any) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(d)
        self.attention = Attention(d, h, kv)
        self.ffn_norm = RMSNorm(d)
        self.feed_forward = FeedForward(d, 128)

    def forward(self, x: Any, cos: Any, sin: Any) -> Any:
        h = x + self.attention(self.attention_norm(x), cos, sin)
        return h + self.feed_forward(self.ffn_norm(h))


class Llama(nn.Module):
    def __init__(
        self, vocab: Any = 64, d: Any = 48, h: Any = 6, kv: Any = 2, n: Any = 3, end: Any = 64
    ) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocab, d)
        self.layers = nn.ModuleList(Block(d, h, kv) for _ in range(n))
        self.norm = RMSNorm(d)
        self.output = nn.Linear(d, vocab, bias=False)
        cos, sin = precompute(d // h, end)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens: Any) -> Any:
        h = self.tok(tokens)
        for layer in self.layers:
            h = layer(h, self.cos, self.sin)
        return self.output(self.norm(h))


def build() -> Any:
    return Llama()
