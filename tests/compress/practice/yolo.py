"""A detector in the way of YOLOv8: C2f, SPPF, two-way pyramid, heads with DFL, decoded boxes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def autopad(k: Any) -> Any:
    return k // 2


class Conv(nn.Module):
    def __init__(self, c1: Any, c2: Any, k: Any = 1, st: Any = 1, g: Any = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, st, autopad(k), groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=0.001)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Any) -> Any:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, c1: Any, c2: Any, shortcut: Any = True, e: Any = 1.0) -> None:
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = Conv(c1, c_, 3)
        self.cv2 = Conv(c_, c2, 3)
        self.add = shortcut and c1 == c2

    def forward(self, x: Any) -> Any:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    def __init__(self, c1: Any, c2: Any, n: Any = 1, shortcut: Any = False, e: Any = 0.5) -> None:
        super().__init__()
        self.c = int(c2 * e)
        self.cv1 = Conv(c1, 2 * self.c)
        self.cv2 = Conv((2 + n) * self.c, c2)
        self.m = nn.ModuleList(Bottleneck(self.c, self.c, shortcut) for _ in range(n))

    def forward(self, x: Any) -> Any:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    def __init__(self, c1: Any, c2: Any, k: Any = 5) -> None:
        super().__init__()
        c_ = c1 // 2
        self.cv1 = Conv(c1, c_)
        self.cv2 = Conv(c_ * 4, c2)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x: Any) -> Any:
        x = self.cv1(x)
        y1 = self.m(x)
        y2 = self.m(y1)
        return self.cv2(torch.cat((x, y1, y2, self.m(y2)), 1))


class DFL(nn.Module):
    def __init__(self, c1: Any = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data[:] = torch.arange(c1, dtype=torch.float).view(1, c1, 1, 1)
        self.c1 = c1

    def forward(self, x: Any) -> Any:
        b, _, a = x.shape
        return self.conv(x.view(b, 4, self.c1, a).transpose(2, 1).softmax(1)).view(b, 4, a)


class Detect(nn.Module):
    anchors: torch.Tensor
    strides: torch.Tensor

    def __init__(
        self,
        nc: Any = 5,
        ch: Any = (),
        reg: Any = 8,
        sizes: Any = (8, 4, 2),
        stride: Any = (8, 16, 32),
    ) -> None:
        super().__init__()
        self.nc = nc
        self.reg = reg
        self.no = nc + 4 * reg
        c2, c3 = (max(16, ch[0] // 4, reg * 4), max(ch[0], min(nc, 100)))
        self.cv2 = nn.ModuleList(
            nn.Sequential(Conv(x, c2, 3), Conv(c2, c2, 3), nn.Conv2d(c2, 4 * reg, 1)) for x in ch
        )
        self.cv3 = nn.ModuleList(
            nn.Sequential(Conv(x, c3, 3), Conv(c3, c3, 3), nn.Conv2d(c3, nc, 1)) for x in ch
        )
        self.dfl = DFL(reg)
        pts, st = ([], [])
        for h, t in zip(sizes, stride, strict=True):
            sy, sx = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(h) + 0.5, indexing="ij")
            pts.append(torch.stack((sx, sy), -1).view(-1, 2))
            st.append(torch.full((h * h, 1), float(t)))
        self.register_buffer("anchors", torch.cat(pts).T, persistent=False)
        self.register_buffer("strides", torch.cat(st).T, persistent=False)

    def forward(self, x: Any) -> Any:
        x = [torch.cat((a(f), b(f)), 1) for f, a, b in zip(x, self.cv2, self.cv3, strict=True)]
        flat = torch.cat([f.view(f.shape[0], self.no, -1) for f in x], 2)
        box, cls = torch.split(flat, [4 * self.reg, self.nc], 1)
        lt, rb = self.dfl(box).chunk(2, 1)
        a, b = (self.anchors - lt, self.anchors + rb)
        xywh = torch.cat(((a + b) / 2, b - a), 1) * self.strides
        return (torch.cat((xywh, cls.sigmoid()), 1), x)


class YOLO(nn.Module):
    def __init__(self, w: Any = 8) -> None:
        super().__init__()
        self.stem = Conv(3, w, 3, 2)
        self.p2 = nn.Sequential(Conv(w, 2 * w, 3, 2), C2f(2 * w, 2 * w, 1, True))
        self.p3 = nn.Sequential(Conv(2 * w, 4 * w, 3, 2), C2f(4 * w, 4 * w, 2, True))
        self.p4 = nn.Sequential(Conv(4 * w, 8 * w, 3, 2), C2f(8 * w, 8 * w, 2, True))
        self.p5 = nn.Sequential(
            Conv(8 * w, 16 * w, 3, 2), C2f(16 * w, 16 * w, 1, True), SPPF(16 * w, 16 * w)
        )
        self.up = nn.Upsample(None, 2, "nearest")
        self.h1 = C2f(24 * w, 8 * w)
        self.h2 = C2f(12 * w, 4 * w)
        self.dn1 = Conv(4 * w, 4 * w, 3, 2)
        self.h3 = C2f(12 * w, 8 * w)
        self.dn2 = Conv(8 * w, 8 * w, 3, 2)
        self.h4 = C2f(24 * w, 16 * w)
        self.detect = Detect(5, (4 * w, 8 * w, 16 * w))

    def forward(self, images: Any) -> Any:
        c3 = self.p3(self.p2(self.stem(images)))
        c4 = self.p4(c3)
        c5 = self.p5(c4)
        p4 = self.h1(torch.cat((self.up(c5), c4), 1))
        p3 = self.h2(torch.cat((self.up(p4), c3), 1))
        n4 = self.h3(torch.cat((self.dn1(p3), p4), 1))
        n5 = self.h4(torch.cat((self.dn2(n4), c5), 1))
        return self.detect([p3, n4, n5])


def build() -> Any:
    return YOLO()
