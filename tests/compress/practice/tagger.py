"""A tagger: characters through a GRU, words through a two-way LSTM."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Tagger(nn.Module):
    def __init__(self, v: Any = 50, c: Any = 30, tags: Any = 7) -> None:
        super().__init__()
        self.word = nn.Embedding(v, 32)
        self.char = nn.Embedding(c, 12)
        self.char_rnn = nn.GRU(12, 10, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(0.3)
        self.rnn = nn.LSTM(52, 24, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2)
        self.out = nn.Linear(48, tags)

    def forward(self, words: Any, chars: Any) -> Any:
        b, t, k = chars.shape
        _, h = self.char_rnn(self.char(chars.reshape(b * t, k)))
        c = torch.cat([h[0], h[1]], -1).view(b, t, -1)
        y, _ = self.rnn(self.drop(torch.cat([self.word(words), c], -1)))
        return self.out(y)


def build() -> Any:
    return Tagger()
