"""Experts in one parameter and in a list, all of them weighed by a gate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Experts(nn.Module):
    def __init__(self, d: Any, h: Any, e: Any) -> None:
        super().__init__()
        self.gate = nn.Linear(d, e, bias=False)
        self.w1 = nn.Parameter(torch.randn(e, d, h) / d**0.5)
        self.b1 = nn.Parameter(torch.zeros(e, 1, h))
        self.w2 = nn.Parameter(torch.randn(e, h, d) / h**0.5)

    def forward(self, x: Any) -> Any:
        g = functional.softmax(self.gate(x), dim=-1)
        h = functional.gelu(torch.einsum("btd,edh->ebth", x, self.w1) + self.b1.unsqueeze(1))
        y = torch.einsum("ebth,ehd->ebtd", h, self.w2)
        return torch.einsum("ebtd,bte->btd", y, g)


class ListMoE(nn.Module):
    def __init__(self, d: Any, h: Any, e: Any) -> None:
        super().__init__()
        self.gate = nn.Linear(d, e)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(d, h), nn.ReLU(), nn.Linear(h, d)) for _ in range(e)
        )

    def forward(self, x: Any) -> Any:
        w = self.gate(x).softmax(-1)
        y = torch.stack([e(x) for e in self.experts], dim=-1)
        return (y * w.unsqueeze(-2)).sum(-1)


class Net(nn.Module):
    def __init__(self, d: Any = 32) -> None:
        super().__init__()
        self.inp = nn.Linear(24, d)
        self.n1 = nn.LayerNorm(d)
        self.m1 = Experts(d, 48, 4)
        self.n2 = nn.LayerNorm(d)
        self.m2 = ListMoE(d, 48, 3)
        self.out = nn.Linear(d, 5)

    def forward(self, x: Any) -> Any:
        x = self.inp(x)
        x = x + self.m1(self.n1(x))
        x = x + self.m2(self.n2(x))
        return self.out(x.mean(1))


def build() -> Any:
    return Net()
