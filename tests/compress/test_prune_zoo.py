"""Twelve families of timm that between them have most of what is hard, pruned in a child process.

timm and torchvision lie in `.bench/zoo`, where `make zoo` puts them: tests fetch nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks import packages
from benchmarks.outcome import Outcome, heard
from benchmarks.zoo import SAMPLE, Network

pytestmark = pytest.mark.slow

_LIMIT_S = 900


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    if not packages.ready():
        if "zoo" in os.environ.get("DEPLOYKIT_REQUIRE", "").split():
            pytest.fail("DEPLOYKIT_REQUIRE names zoo and .bench/zoo is not there")
        pytest.skip("timm is not in .bench/zoo: make zoo")
    keys = [network.key for network in SAMPLE]
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.prune_one", "--lean", *keys],
        cwd=packages.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    told = [found for line in ended.stdout.splitlines() if (found := heard(line))]
    return {outcome.network: outcome for outcome in told}


@pytest.mark.parametrize("network", SAMPLE, ids=[network.name for network in SAMPLE])
def test_a_difficult_family_is_pruned_by_half_exactly(
    outcomes: dict[str, Outcome], network: Network
) -> None:
    outcome = outcomes[network.key]
    trial = outcome.trial(0.5)

    assert (trial.why or outcome.why) == ""
    assert outcome.pruned(0.5)
    assert outcome.share_removed(0.5) > 0.35
    assert trial.exact_error is not None
    assert trial.exact_error < 1e-9
