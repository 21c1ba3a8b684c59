"""`deploykit doctor`, on this machine as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.cli.main import main
from deploykit.runtimes import RUNTIMES

if TYPE_CHECKING:
    import pytest


def test_every_runtime_is_told_and_the_cpu_runs(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--json"])

    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["deploykit"]) == ("deploykit/doctor", __version__)
    runtimes = {x["name"]: x for x in found["findings"] if x["area"] == "runtime"}
    assert list(runtimes) == [runtime.name for runtime in RUNTIMES]
    assert runtimes["ort-cpu"]["state"] == "ok"
    assert "ran a network of one layer" in runtimes["ort-cpu"]["detail"]
    broken = [x for x in found["findings"] if x["state"] == "broken"]
    assert status == (5 if broken else 0)


def test_the_table_says_how_to_install_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["doctor"])

    out = capsys.readouterr().out
    assert out.startswith(f"deploykit {__version__}, Python ")
    rows = [line for line in out.splitlines() if line.startswith("extra ")]
    assert any("compress" in row for row in rows)
    for row in rows:
        assert " ok " in row or "pip install 'deploykit[" in row
