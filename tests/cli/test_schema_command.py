"""`deploykit schema`: lists and prints the JSON Schemas."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from deploykit.cli.main import main
from deploykit.cli.schemas import KINDS

if TYPE_CHECKING:
    import pytest


def test_the_list_has_every_record_with_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0

    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[2:]]
    assert sorted(rows) == sorted(
        [kind.schema.name.removeprefix("deploykit/"), kind.schema.name, kind.schema.version]
        for kind in KINDS
    )


def test_one_is_printed_as_its_file_is(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("artifact-onnx", "deploykit/artifact-onnx"):
        assert main(["schema", name]) == 0
        assert json.loads(capsys.readouterr().out)["title"] == "deploykit/artifact-onnx"


def test_an_unknown_one_gets_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "bensh"]) == 2
    assert "there is no schema 'bensh'; did you mean 'bench'?" in capsys.readouterr().err
