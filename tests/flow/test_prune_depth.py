"""Blocks go before channels: a round of its own, recorded, and rebuilt from the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from deploykit.compress.prune.plan import PLAN, Plan
from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.core.report import Report
from deploykit.flow.prune.prune import run_prune
from deploykit.flow.prune.request import PruneRequest
from deploykit.flow.rebuild import load_model
from deploykit.load.inputs import parse_inputs
from deploykit.load.modules import state_digest
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.core.types import Option
    from deploykit.flow.prune.record import Pruning

NET = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.conv1 = nn.Conv2d(8, 16, 3, 1, 1)
        self.conv2 = nn.Conv2d(16, 8, 3, 1, 1)
        self.scale = nn.Parameter(torch.full((8, 1, 1), scale))

    def forward(self, x):
        return (x + self.scale * self.conv2(self.conv1(x).relu())).relu_()

class Net(nn.Module):
    def __init__(self, blocks=True):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1)
        scales = (1.0, 0.1, 0.5) if blocks else ()
        self.blocks = nn.Sequential(*(Block(scale) for scale in scales))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))

def build():
    torch.manual_seed(0)
    return Net()

def plain():
    return Net(blocks=False)
"""


def prune(
    folder: Path, *, build: str = "build", train: str = "", check: bool = False, **changes: Option
) -> tuple[Path, Pruning]:
    """Where the result is, and its record."""
    net = folder / "net.py"
    net.write_text(NET, encoding="utf-8")
    inputs = parse_inputs(["x=N[1..16]x1x6x6"])
    out = folder / "small"
    request = PruneRequest(
        source=Source(f"{net}:{build}", inputs=inputs),
        out=out,
        changes={"align": "1", **changes},
        train=train,
        finetune=False,
        measure=False,
        check=check,
        overwrite=True,
    )
    return out, run_prune(request).pruning


def plan_in(folder: Path) -> Plan:
    return records.load(folder / "plan.json", Plan, PLAN)


def test_blocks_go_then_channels(tmp_path: Path) -> None:
    out, pruning = prune(tmp_path, depth=1, ratio=0.6, check=True)

    plan = plan_in(out)
    assert plan.blocks == ("blocks.1",)
    assert plan.cuts
    assert len(pruning.rounds) == 2
    before, alone, after = pruning.before, pruning.rounds[0].size, pruning.after
    assert before.macs - alone.macs == pruning.blocks[1].macs
    assert before.parameters - alone.parameters == pruning.blocks[1].parameters
    assert after.macs <= 0.4 * before.macs
    assert [(row.name, row.removed) for row in pruning.blocks] == [
        ("blocks.0", False),
        ("blocks.1", True),
        ("blocks.2", False),
    ]
    assert not any(row.name.startswith("blocks.1") for row in pruning.groups)


def test_what_is_handed_over_is_rebuilt_from_source_plan_and_weights(tmp_path: Path) -> None:
    out, _ = prune(tmp_path, depth=1, ratio=0.6)

    one, two = load_model(Source(str(out))), load_model(Source(str(out)))

    report = records.load(out / "report.json", Report, records.REPORT)
    assert report.artifact_digest == state_digest(one.module)
    feed = torch.randn(2, 1, 6, 6)
    assert torch.equal(one.module(feed), two.module(feed))
    assert not any(name.startswith("blocks.1.") for name in one.module.state_dict())


def test_where_blocks_are_enough_no_channel_goes(tmp_path: Path) -> None:
    out, pruning = prune(tmp_path, depth=1, ratio=0.3)

    assert plan_in(out).cuts == ()
    assert pruning.after == pruning.rounds[0].size
    assert len(pruning.rounds) == 1


def test_a_share_takes_as_many_blocks_as_it_needs(tmp_path: Path) -> None:
    _, pruning = prune(tmp_path, depth=0.5, ratio=0.5)

    assert sum(row.removed for row in pruning.blocks) == 2


def test_blocks_are_scored_on_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((12, 1, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "train.npz", x=images, labels=rng.integers(0, 3, 12))

    _, pruning = prune(
        tmp_path, depth=1, depth_by="influence", ratio=0.5, train=str(tmp_path / "train.npz")
    )

    scores = {row.name: row.score for row in pruning.blocks}
    assert scores["blocks.1"] == pytest.approx(0, abs=0.01)
    assert [row.name for row in pruning.blocks if row.removed] == ["blocks.1"]


def test_excluded_blocks_stay_and_say_why(tmp_path: Path) -> None:
    _, pruning = prune(tmp_path, depth=1, ratio=0.4, exclude=("blocks.1",))

    assert {row.name: row.why for row in pruning.blocks if row.why} == {
        "blocks.1": "excluded by 'blocks.1'"
    }
    assert [row.name for row in pruning.blocks if row.removed] == ["blocks.2"]


def test_a_second_run_finds_the_first_one(tmp_path: Path) -> None:
    out, first = prune(tmp_path, depth=1, ratio=0.6)
    plan = plan_in(out)

    _, second = prune(tmp_path, depth=1, ratio=0.6)

    assert plan_in(out) == plan
    assert second.blocks == first.blocks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 4}, r"^4 residual blocks cannot go: the network has 3; ask for at most 3$"),
        ({"depth": 1.5}, r"^depth must be a whole number of blocks, or a share .*, not 1\.5$"),
        ({"depth": -1}, r"^depth must be a whole number of blocks"),
        ({"depth": 1, "depth_by": "los"}, r"^depth_by 'los' is unknown; did you mean 'loss'\?$"),
        ({"depth": 1, "depth_by": "loss"}, r"^depth_by 'loss' looks at data; add --train DATA, or"),
    ],
)
def test_what_cannot_be_done_is_told(
    changes: dict[str, Option], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=message):
        prune(tmp_path, **changes)  # type: ignore[arg-type]  # names of options only


def test_a_network_without_blocks_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"^depth 1: the network has no residual blocks"):
        prune(tmp_path, build="plain", depth=1)
