"""A folder with tiny networks to prune, and pruning of them in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from deploykit.core.progress import silent
from deploykit.flow.prune.prune import PruneResult, run_prune
from deploykit.flow.prune.request import PruneRequest
from deploykit.load.inputs import parse_inputs
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.core.progress import Progress

TINY_NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, stride=2)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.conv2(x)).mean((2, 3))
        return self.fc(self.drop(x))

def build(width=8):
    torch.manual_seed(0)
    return Net(width)

def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

class Branch(Net):
    def forward(self, x):
        if x.sum() > 0:
            return super().forward(x)
        return super().forward(-x)

class Value(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4, 1)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3))).squeeze(1)

MADE = build().train()
"""
TINY_INPUT = "x=N[1..8]x1x8x8"


class Prune(Protocol):
    """Prunes one of the networks of a folder."""

    def __call__(
        self, out: str = "out", net: str = "build", progress: Progress = silent, **asked: Any
    ) -> PruneResult:
        """Without measurement unless asked; `asked` are fields of `PruneRequest`."""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(TINY_NETS)
    return tmp_path


@pytest.fixture
def prune(nets: Path) -> Prune:
    def run(
        out: str = "out", net: str = "build", progress: Progress = silent, **asked: Any
    ) -> PruneResult:
        plain = {"measure": False, **asked}
        source = Source(f"{nets}/net.py:{net}", inputs=parse_inputs((TINY_INPUT,)))
        request = PruneRequest(plain.pop("source", source), nets / out, **plain)
        return run_prune(request, progress)

    return run
