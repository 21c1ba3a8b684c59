"""A normalising flow: squeeze, 1x1 convolutions, affine coupling, a random permutation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Coupling(nn.Module):
    def __init__(self, c: Any, h: Any = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(c // 2, h, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(h, h, 1),
            nn.ReLU(),
            nn.Conv2d(h, c, 3, padding=1),
        )
        self.scale = nn.Parameter(torch.zeros(1, c // 2, 1, 1))

    def forward(self, x: Any) -> Any:
        a, b = x.chunk(2, 1)
        t, ls = self.net(a).chunk(2, 1)
        ls = torch.tanh(ls) * self.scale
        return (torch.cat([a, b * ls.exp() + t], 1), ls.sum((1, 2, 3)))


class Glow(nn.Module):
    def __init__(self, c: Any = 12) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.logs = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.w = nn.ParameterList(
            nn.Parameter(torch.linalg.qr(torch.randn(c, c))[0]) for _ in range(2)
        )
        self.c = nn.ModuleList(Coupling(c) for _ in range(2))
        self.register_buffer("perm", torch.randperm(c))

    def forward(self, x: Any) -> Any:
        b, c, h, w = x.shape
        x = (
            x.view(b, c, h // 2, 2, w // 2, 2)
            .permute(0, 1, 3, 5, 2, 4)
            .reshape(b, c * 4, h // 2, w // 2)
        )
        ld = x.new_zeros(b)
        x = (x + self.mean) * self.logs.exp()
        for k, m in zip(self.w, self.c, strict=True):
            x = functional.conv2d(x, k[:, :, None, None])
            x, more = m(x[:, self.perm])
            ld = ld + more
        return (x, ld)


def build() -> Any:
    return Glow()
