"""A set detector (Carion et al., ECCV 2020): learnt queries, self- and cross-attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class MLP(nn.Module):
    def __init__(self, i: Any, h: Any, o: Any, n: Any) -> None:
        super().__init__()
        d = [h] * (n - 1)
        self.layers = nn.ModuleList(
            (nn.Linear(a, b) for a, b in zip([i, *d], [*d, o], strict=True))
        )

    def forward(self, x: Any) -> Any:
        for i, layer in enumerate(self.layers):
            x = layer(x).relu() if i < len(self.layers) - 1 else layer(x)
        return x


class DecoderLayer(nn.Module):
    def __init__(self, d: Any, h: Any) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, 0.1, batch_first=True)
        self.cross_attn = nn.MultiheadAttention(d, h, 0.1, batch_first=True)
        self.linear1 = nn.Linear(d, 4 * d)
        self.linear2 = nn.Linear(4 * d, d)
        self.norm1 = nn.LayerNorm(d)
        self.norm2 = nn.LayerNorm(d)
        self.norm3 = nn.LayerNorm(d)

    def forward(self, t: Any, mem: Any, pos: Any, q: Any) -> Any:
        k = t + q
        t = self.norm1(t + self.self_attn(k, k, t, need_weights=False)[0])
        t = self.norm2(t + self.cross_attn(t + q, mem + pos, mem, need_weights=False)[0])
        return self.norm3(t + self.linear2(self.linear1(t).relu()))


class DETR(nn.Module):
    def __init__(self, d: Any = 32, h: Any = 4, nq: Any = 6, nc: Any = 5) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 16, 3, 4, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 48, 3, 2, 1, bias=False),
            nn.BatchNorm2d(48),
            nn.ReLU(),
        )
        self.conv = nn.Conv2d(48, d, 1)
        self.row_embed = nn.Parameter(torch.rand(50, d // 2))
        self.col_embed = nn.Parameter(torch.rand(50, d // 2))
        self.query = nn.Embedding(nq, d)
        self.layers = nn.ModuleList(DecoderLayer(d, h) for _ in range(2))
        self.norm = nn.LayerNorm(d)
        self.cls = nn.Linear(d, nc + 1)
        self.bbox = MLP(d, d, 4, 3)

    def forward(self, x: Any) -> Any:
        h = self.conv(self.backbone(x))
        height, width = h.shape[-2:]
        pos = (
            torch.cat(
                [
                    self.col_embed[:width].unsqueeze(0).repeat(height, 1, 1),
                    self.row_embed[:height].unsqueeze(1).repeat(1, width, 1),
                ],
                dim=-1,
            )
            .flatten(0, 1)
            .unsqueeze(0)
        )
        mem = h.flatten(2).permute(0, 2, 1)
        q = self.query.weight.unsqueeze(0).expand(x.shape[0], -1, -1)
        t = torch.zeros_like(q)
        for layer in self.layers:
            t = layer(t, mem, pos, q)
        t = self.norm(t)
        return {"logits": self.cls(t), "boxes": self.bbox(t).sigmoid()}


def build() -> Any:
    return DETR()
