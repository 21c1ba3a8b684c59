"""A generator with a kernel for each sample (Karras et al., CVPR 2020)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class EqualLinear(nn.Module):
    def __init__(self, i: Any, o: Any, bias: Any = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(o, i))
        self.bias = nn.Parameter(torch.full((o,), bias))
        self.scale = 1 / math.sqrt(i)

    def forward(self, x: Any) -> Any:
        return functional.linear(x, self.weight * self.scale, self.bias)


class ModConv(nn.Module):
    def __init__(self, i: Any, o: Any, k: Any, zdim: Any, demod: Any = True) -> None:
        super().__init__()
        self.i, self.o, self.k, self.demod = (i, o, k, demod)
        self.weight = nn.Parameter(torch.randn(1, o, i, k, k))
        self.mod = EqualLinear(zdim, i, 1.0)
        self.scale = 1 / math.sqrt(i * k * k)

    def forward(self, x: Any, w: Any) -> Any:
        b, c, h, wd = x.shape
        st = self.mod(w).view(b, 1, c, 1, 1)
        weight = self.scale * self.weight * st
        if self.demod:
            d = torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-08)
            weight = weight * d.view(b, self.o, 1, 1, 1)
        weight = weight.view(b * self.o, c, self.k, self.k)
        x = x.reshape(1, b * c, h, wd)
        y = functional.conv2d(x, weight, padding=self.k // 2, groups=b)
        return y.view(b, self.o, h, wd)


class Styled(nn.Module):
    noise: torch.Tensor

    def __init__(self, i: Any, o: Any, z: Any, up: Any = False) -> None:
        super().__init__()
        self.conv = ModConv(i, o, 3, z)
        self.up = up
        self.register_buffer("noise", torch.randn(1, 1, 1, 1))
        self.strength = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1, o, 1, 1))

    def forward(self, x: Any, w: Any) -> Any:
        if self.up:
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return functional.leaky_relu(
            self.conv(x, w) + self.strength * self.noise + self.bias, 0.2
        ) * math.sqrt(2)


class G(nn.Module):
    def __init__(self, z: Any = 32, c: Any = 24) -> None:
        super().__init__()
        self.mapping = nn.Sequential(
            *[m for _ in range(3) for m in (EqualLinear(z, z), nn.LeakyReLU(0.2))]
        )
        self.const = nn.Parameter(torch.randn(1, c, 4, 4))
        self.a = Styled(c, c, z)
        self.b = Styled(c, 16, z, True)
        self.c = Styled(16, 12, z, True)
        self.rgb1 = ModConv(16, 3, 1, z, False)
        self.rgb2 = ModConv(12, 3, 1, z, False)

    def forward(self, z: Any) -> Any:
        z = z * torch.rsqrt(z.pow(2).mean(1, keepdim=True) + 1e-08)
        w = self.mapping(z)
        x = self.const.repeat(z.shape[0], 1, 1, 1)
        x = self.b(self.a(x, w), w)
        img = self.rgb1(x, w)
        x = self.c(x, w)
        return functional.interpolate(
            img, scale_factor=2, mode="bilinear", align_corners=False
        ) + self.rgb2(x, w)


def build() -> Any:
    return G()
