"""Export to INT8 in one command, and the recipe's stage "quantize"."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import onnx
import pytest

from deploykit.core.errors import BadInputError
from deploykit.flow.export import ExportRequest, run_export
from deploykit.flow.stages import check_stages
from deploykit.load.artifacts import load_artifact
from deploykit.load.inputs import parse_inputs
from deploykit.load.recipe import load_recipe
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INT8: dict[str, Any] = {
    "precision": "int8",
    "calibrate": "digits:train[:32]",
    "measure": False,
}
RECIPE = """
schema = "deploykit/recipe"
version = "1.0"
[source]
net = "net.py:build"
inputs = ["x=N[1..8]x1x8x8"]
[data]
train = "digits:train[:64]"
val = "digits:val[:40]"
[train]
epochs = 1
batch_size = 32
"""
STAGE = '[[stages]]\nname = "quantize"\nmeasure = false\n'
FILES = {"artifact.json", "model.onnx", "quantization.json", "ranges.json", "report.json"}


def source(nets: Path) -> Source:
    return Source(f"{nets}/net.py:build", inputs=parse_inputs(("x=N[1..8]x1x8x8",)))


def operators(folder: Path) -> set[str]:
    return {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}


def test_one_command_gives_int8_and_one_report(nets: Path) -> None:
    out = nets / "out"
    result = run_export(ExportRequest(source(nets), out, val="digits:val[:40]", lower=INT8))

    assert {path.name for path in out.iterdir()} == FILES
    assert "QuantizeLinear" in operators(out)
    assert [step.name for step in result.artifact.history] == ["load", "export", "quantize"]
    assert load_artifact(out) == result.artifact
    names = [check["name"] for check in json.loads((out / "report.json").read_text())["checks"]]
    assert names == [check.name for check in result.report.checks]
    assert names[0] == "float32 parity ort-cpu N=1"
    assert names[-1] == "top-1 lost val: digits:val[:40]"
    assert result.report.artifact_digest == result.artifact.digest
    assert result.lowered is not None
    assert result.lowered.samples == 32
    assert [path.name for path in nets.iterdir() if path.name.startswith(".out")] == []


def test_a_foreign_file_goes_the_same_way(
    tmp_path: Path, float_network: Callable[..., Path]
) -> None:
    file = float_network(tmp_path / "net.onnx")
    result = run_export(ExportRequest(Source(str(file)), tmp_path / "out", lower=INT8))

    assert "QuantizeLinear" in operators(tmp_path / "out")
    assert result.report.checks[0].name.startswith("float32 parity ort-cpu ")


def test_what_fails_late_leaves_nothing(nets: Path) -> None:
    lower = {**INT8, "exclude": ("Conv", "Gemm")}
    with pytest.raises(BadInputError, match="no node can be quantized"):
        run_export(ExportRequest(source(nets), nets / "out", lower=lower))

    assert sorted(p.name for p in nets.iterdir() if p.name != "__pycache__") == ["net.py"]


def test_a_limit_needs_data_to_judge_by(nets: Path) -> None:
    lower = {**INT8, "max_drop": 0.5}
    with pytest.raises(BadInputError, match=r"needs data to judge it on: add --val$"):
        run_export(ExportRequest(source(nets), nets / "out", lower=lower))


def test_int8_is_replaced_by_float_on_request(nets: Path) -> None:
    run_export(ExportRequest(source(nets), nets / "out", lower=INT8))
    run_export(ExportRequest(source(nets), nets / "out", overwrite=True))

    assert {path.name for path in (nets / "out").iterdir()} == FILES - {
        "quantization.json", "ranges.json",
    }  # fmt: skip


@pytest.fixture
def project(nets: Path) -> Path:
    (nets / "recipe.toml").write_text(RECIPE + STAGE)
    return nets


def test_the_stage_runs_after_export_and_once(project: Path) -> None:
    first = run_export(ExportRequest(Source(str(project)), project / "one"))
    again = run_export(ExportRequest(Source(str(project)), project / "two"))

    assert first.reused == ()
    assert again.reused == ("export", "verify", "int8")
    assert first.lowered is not None
    assert first.lowered.samples == 64  # the recipe's training data, all of it
    assert again.lowered == first.lowered
    assert "QuantizeLinear" in operators(project / "two")
    assert any(check.name.startswith("top-1 quantized val: ") for check in first.report.checks)


def test_the_command_line_wins_over_the_stage(project: Path) -> None:
    lower: dict[str, Any] = {"samples": 16}
    fewer = run_export(ExportRequest(Source(str(project)), project / "few", lower=lower))
    plain = run_export(
        ExportRequest(Source(str(project)), project / "plain", lower={"precision": "fp32"})
    )

    assert fewer.lowered is not None
    assert fewer.lowered.samples == 16
    assert plain.lowered is None
    assert "QuantizeLinear" not in operators(project / "plain")


PRUNE = '[[stages]]\nname = "prune"\nmeasure = false\nratio = 0.4\nfinetune = false\n'


@pytest.mark.slow
def test_prune_comes_before_quantize(project: Path) -> None:
    (project / "recipe.toml").write_text(RECIPE + PRUNE + STAGE)
    result = run_export(ExportRequest(Source(str(project)), project / "out"))

    steps = [step.name for step in result.artifact.history]
    assert steps == ["load", "prune", "export", "quantize"]


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (
            STAGE + PRUNE,
            ": stage 'prune' stands after quantize, which works on the exported file: ",
        ),
        (STAGE + STAGE, ": stage 'quantize' stands after quantize"),
        (STAGE + "methd = 'mse'\n", "stage quantize: unknown key 'methd'; did you mean 'method'?"),
        (STAGE + "samples = 'a'\n", "stage quantize: Expected `int`, got `str` - at `$.samples`"),
        (STAGE + "calibrate = 3\n", "stage quantize: Expected `str`, got `int` - at `$.calibrate`"),
        (STAGE + "threads = 1\n", "stage quantize: leave out threads: nothing is measured"),
        (STAGE.replace("ize", "ise"), "there is no stage 'quantise' in deploykit"),
        (STAGE.replace("ize", "ise"), "did you mean 'quantize'?"),
    ],
)
def test_what_the_stage_does_not_understand_is_told_before_any_work(
    nets: Path, stages: str, words: str
) -> None:
    (nets / "recipe.toml").write_text(RECIPE + stages)
    with pytest.raises(BadInputError) as caught:
        check_stages(load_recipe(nets))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_stage_without_any_data_is_refused(nets: Path) -> None:
    (nets / "recipe.toml").write_text(RECIPE.replace("train = ", "eval = ") + STAGE)
    with pytest.raises(BadInputError, match="stage quantize: int8 needs data that shows the"):
        check_stages(load_recipe(nets))
