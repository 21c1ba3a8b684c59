"""A projection discriminator with spectral norm (Miyato & Koyama, ICLR 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as sn


class Block(nn.Module):
    def __init__(self, i: Any, o: Any) -> None:
        super().__init__()
        self.c1 = sn(nn.Conv2d(i, o, 3, 1, 1))
        self.c2 = sn(nn.Conv2d(o, o, 3, 1, 1))
        self.sc = sn(nn.Conv2d(i, o, 1))
        self.act = nn.ReLU()
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Any) -> Any:
        return self.pool(self.c2(self.act(self.c1(self.act(x))))) + self.sc(self.pool(x))


class D(nn.Module):
    def __init__(self, nc: Any = 5) -> None:
        super().__init__()
        self.first = sn(nn.Conv2d(3, 16, 3, 1, 1))
        self.b = nn.Sequential(Block(16, 24), Block(24, 32))
        self.lin = sn(nn.Linear(32, 1))
        self.emb = sn(nn.Embedding(nc, 32))

    def forward(self, x: Any, y: Any) -> Any:
        h = torch.relu(self.b(self.first(x))).sum((2, 3))
        return self.lin(h) + (self.emb(y) * h).sum(1, keepdim=True)


def build() -> Any:
    return D()
