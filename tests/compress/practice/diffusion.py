"""A denoising U-Net: time embedding, scale and shift, attention on feature maps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def temb(t: Any, d: Any) -> Any:
    h = d // 2
    f = torch.exp(torch.arange(h) * -(math.log(10000) / (h - 1)))
    e = t[:, None] * f[None]
    return torch.cat([e.sin(), e.cos()], 1)


class Res(nn.Module):
    def __init__(self, i: Any, o: Any, td: Any) -> None:
        super().__init__()
        self.n1 = nn.GroupNorm(8, i)
        self.c1 = nn.Conv2d(i, o, 3, 1, 1)
        self.emb = nn.Linear(td, 2 * o)
        self.n2 = nn.GroupNorm(8, o)
        self.c2 = nn.Conv2d(o, o, 3, 1, 1)
        self.skip = nn.Conv2d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x: Any, e: Any) -> Any:
        h = self.c1(functional.silu(self.n1(x)))
        sc, sh = self.emb(functional.silu(e))[:, :, None, None].chunk(2, 1)
        h = self.n2(h) * (1 + sc) + sh
        return self.skip(x) + self.c2(functional.silu(h))


class Attn(nn.Module):
    def __init__(self, c: Any, h: Any = 4) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, c)
        self.qkv = nn.Conv2d(c, 3 * c, 1)
        self.proj = nn.Conv2d(c, c, 1)
        self.h = h

    def forward(self, x: Any) -> Any:
        b, c, hh, w = x.shape
        q, k, v = (
            self.qkv(self.norm(x))
            .reshape(b * self.h, 3 * (c // self.h), hh * w)
            .split(c // self.h, dim=1)
        )
        sc = 1 / math.sqrt(math.sqrt(c // self.h))
        a = torch.softmax(torch.einsum("bct,bcs->bts", q * sc, k * sc), -1)
        return x + self.proj(torch.einsum("bts,bcs->bct", a, v).reshape(b, c, hh, w))


class UNet(nn.Module):
    def __init__(self, w: Any = 16, td: Any = 32) -> None:
        super().__init__()
        self.td = td
        self.time = nn.Sequential(nn.Linear(td, 64), nn.SiLU(), nn.Linear(64, 64))
        self.inp = nn.Conv2d(3, w, 3, 1, 1)
        self.d1 = Res(w, w, 64)
        self.down = nn.Conv2d(w, w, 3, 2, 1)
        self.d2 = Res(w, 2 * w, 64)
        self.mid1 = Res(2 * w, 2 * w, 64)
        self.attn = Attn(2 * w)
        self.mid2 = Res(2 * w, 2 * w, 64)
        self.u2 = Res(4 * w, 2 * w, 64)
        self.up = nn.Conv2d(2 * w, 2 * w, 3, 1, 1)
        self.u1 = Res(3 * w, w, 64)
        self.norm = nn.GroupNorm(8, w)
        self.out = nn.Conv2d(w, 3, 3, 1, 1)

    def forward(self, x: Any, t: Any) -> Any:
        e = self.time(temb(t, self.td))
        a = self.d1(self.inp(x), e)
        b = self.d2(self.down(a), e)
        h = self.mid2(self.attn(self.mid1(b, e)), e)
        h = self.u2(torch.cat([h, b], 1), e)
        h = self.up(functional.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.u1(torch.cat([h, a], 1), e)
        return self.out(functional.silu(self.norm(h)))


def build() -> Any:
    return UNet()
