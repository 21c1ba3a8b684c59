"""Export, end to end, in one process: what is made, kept, reused, refused and left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.core.progress import silent
from deploykit.core.report import Verdict
from deploykit.core.types import Dim
from deploykit.flow.accuracy import accuracy_checks
from deploykit.flow.export import ExportRequest, run_export
from deploykit.flow.splits import open_splits
from deploykit.load.artifacts import load_artifact
from deploykit.load.inputs import parse_inputs
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deploykit.load.data import Array

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.fc = nn.Linear(72, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).flatten(1))

class Random(Net):
    def forward(self, x):
        y = super().forward(x)
        return y + torch.rand_like(y)

class NoNumber(Net):
    def forward(self, x):
        return super().forward(x) / 0 * 0
"""
RECIPE = """
schema = "deploykit/recipe"
version = "1.0"
task = "classification"
[source]
net = "net.py:Net"
weights = "weights.safetensors"
inputs = ["x=N[1..4]x1x8x8"]
[data]
val = "digits:val[:20]"
eval = "digits:test[:30]"
"""
METRIC = """
import os, signal
from pathlib import Path
import numpy as np

def score(outputs, labels):
    trap = Path(__file__).parent / "trap"
    if trap.exists():
        if trap.read_text() == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyboardInterrupt
    return np.ones(len(labels))
"""
INPUTS = parse_inputs(["x=N[1..4]x1x8x8"])


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"conv.weight": (2, 1, 3, 3), "conv.bias": (2,), "fc.weight": (10, 72), "fc.bias": 10}
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}  # type: ignore[call-overload]  # an int is a shape, too


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "net.py").write_text(NET)
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "metric.py").write_text(METRIC)
    save_file(weights(), folder / "weights.safetensors")
    return folder


def request(project: Path, out: str = "out", **options: object) -> ExportRequest:
    return ExportRequest(Source(str(project)), project.parent / out, **options)  # type: ignore[arg-type]  # by name


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_a_recipe_is_run_once_and_only_what_changed_is_made_again(project: Path) -> None:
    first = run_export(request(project))
    assert first.reused == ()
    assert listing(project.parent / "out") == ["artifact.json", "model.onnx", "report.json"]
    assert first.report.passed
    assert first.report.artifact_digest == first.artifact.digest
    assert [check.name for check in first.report.checks] == [
        "parity ort-cpu N=1",
        "parity ort-cpu N=3",
        "parity ort-cpu N=4",
        "top-1 ort-cpu val: digits:val[:20]",
        "top-1 lost against PyTorch val: digits:val[:20]",
        "top-1 ort-cpu eval: digits:test[:30]",
    ]
    assert [step.name for step in first.artifact.history] == ["load", "export"]
    assert first.artifact.io.task == "classification"
    assert len(first.artifact.io.labels) == 10

    again = run_export(request(project, "again"))
    assert again.reused == ("export", "verify")
    for name in listing(project.parent / "out"):
        one, two = (project.parent / out / name for out in ("out", "again"))
        assert one.read_bytes() == two.read_bytes()

    # Other data is verified anew; another limit as well.
    assert run_export(request(project, "data", eval="digits:test[:40]")).reused == ("export",)
    assert run_export(request(project, "limit", limit=1e-3)).reused == ("export",)

    # What was damaged in the cache is made anew, and not handed over.
    for path in (project / ".deploykit" / "cache").glob("*/model.onnx"):
        path.write_bytes(path.read_bytes()[:-1])
    healed = run_export(request(project, "healed"))
    assert healed.reused == ("verify",)
    assert healed.artifact.digest == first.artifact.digest

    # What the command line says wins over the recipe, and makes another artifact.
    other = run_export(request(project, "opset", changes={"opset": 19}))
    assert other.reused == ()
    assert other.artifact.history[-1].options["opset"] == 19

    path = project / "weights.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(path).items()}, path)
    changed = run_export(request(project, "weights"))
    assert changed.reused == ()
    assert changed.artifact.digest != first.artifact.digest


def deploykit(
    project: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploykit", *arguments],
        cwd=project.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_where_it_stopped(project: Path) -> None:
    command = ("export", "project", "-o", "out", "--metric", "project/metric.py:score")
    (project / "trap").write_text("kill")
    killed = deploykit(project, *command)
    assert killed.returncode == -9
    assert not (project.parent / "out").exists()

    (project / "trap").unlink()
    done = deploykit(project, *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert "; reused: export\n" in done.stdout
    assert load_artifact(project.parent / "out").history[-1].name == "export"


@pytest.mark.slow
def test_another_process_in_another_folder_makes_the_same_bytes(project: Path) -> None:
    here = run_export(request(project))
    elsewhere = project.parent / "another place" / "copy"
    elsewhere.mkdir(parents=True)
    for name in ("net.py", "recipe.toml", "weights.safetensors"):
        (elsewhere / name).write_bytes((project / name).read_bytes())
    done = deploykit(
        project, "export", str(elsewhere), "-o", "there", "--json", PYTHONHASHSEED="12345"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["schema"] == "deploykit/report"

    one, two = (project.parent / out for out in ("out", "there"))
    assert (one / "model.onnx").read_bytes() == (two / "model.onnx").read_bytes()
    records = [json.loads((out / "artifact.json").read_text()) for out in (one, two)]
    for record in records:
        # Of all code in the process; pytest has imported the tests.
        assert record["history"][0]["input_digests"].pop("code")
        record["history"][1]["input_digests"].pop("code", None)
    assert records[0] == records[1]
    for out in (one, two):
        for path in out.iterdir():
            assert str(project.parent).encode() not in path.read_bytes()
    assert here.report.passed


def source(project: Path, name: str = "Net") -> Source:
    return Source(f"{project}/net.py:{name}", inputs=INPUTS)


def plain(project: Path, name: str = "Net", **options: object) -> ExportRequest:
    return ExportRequest(source(project, name), project.parent / "new" / "out", **options)  # type: ignore[arg-type]  # by name


def nothing_left(project: Path) -> bool:
    return listing(project.parent) == ["project"]


def test_a_plain_source_has_no_cache(project: Path) -> None:
    result = run_export(plain(project, val="digits:val[:8]"))

    assert result.reused == ()
    assert not (project / ".deploykit").exists()
    assert listing(result.artifact.folder) == ["artifact.json", "model.onnx", "report.json"]
    *_, accuracy, lost = result.report.checks
    assert accuracy.name == "top-1 ort-cpu val: digits:val[:8]"
    assert accuracy.limit is None
    assert lost.name == "top-1 lost against PyTorch val: digits:val[:8]"
    assert (lost.value, lost.limit, lost.unit) == (0.0, 0.1, "points")


def test_a_network_that_is_random_fails_and_leaves_nothing(project: Path) -> None:
    with pytest.raises(CheckFailedError) as caught:
        run_export(plain(project, "Random"))
    words = str(caught.value)

    assert words.startswith("parity ort-cpu N=1: output 'output' differs by ")
    assert "(limit 0.0001); the first tensor that diverges is 'rand_like' (RandomUniform" in words
    assert words.endswith(
        "; the network itself answers the same input differently each time: take out what draws "
        "random numbers or changes its state; nothing was written"
    )
    assert nothing_left(project)


def test_a_recipe_that_fails_leaves_no_folder(project: Path) -> None:
    (project / "recipe.toml").write_text(RECIPE.replace("net.py:Net", "net.py:Random"))
    with pytest.raises(CheckFailedError, match="the first tensor that diverges is 'rand_like'"):
        run_export(request(project))

    assert nothing_left(project)
    assert listing(project / ".deploykit" / "cache") == [".gitignore"]


def test_what_the_artifact_lost_is_judged_on_all_of_the_validation_data(project: Path) -> None:
    """Parity looks at a few samples: an artifact that is wrong on others must not pass."""
    artifact = run_export(plain(project)).artifact
    splits = open_splits("digits:val[:20]", "")
    assert splits.val is not None
    known = splits.val.batch(range(20))
    right = dict(zip((x.tobytes() for x in known.inputs["x"]), known.labels, strict=True))  # type: ignore[arg-type]  # it has labels

    def perfect(fed: Mapping[str, Array]) -> list[Array]:
        return [np.eye(10, dtype=np.float32)[[right[x.tobytes()] for x in fed["x"]]]]

    found, lost = accuracy_checks(artifact, splits, "", silent, perfect)
    assert found.value is not None
    assert lost.value == pytest.approx(100 - found.value)
    assert (lost.verdict, lost.limit) == (Verdict.FAILED, 0.1)
    assert accuracy_checks(artifact, splits, "", silent) == (found,)


def test_a_network_that_gives_nan_is_refused_and_leaves_nothing(project: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        run_export(plain(project, "NoNumber"))

    assert str(caught.value) == (
        "the network itself gives NaN in output 'output' (10 of 10 values): mend the network or "
        "its input first"
    )
    assert nothing_left(project)


def test_ctrl_c_leaves_nothing(project: Path) -> None:
    (project / "trap").write_text("interrupt")
    with pytest.raises(KeyboardInterrupt):
        run_export(plain(project, val="digits:val[:8]", metric=f"{project}/metric.py:score"))

    assert nothing_left(project)


def _stage(recipe: str) -> str:
    return recipe + '[[stages]]\nname = "prone"\n'


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_stage, "there is no stage 'prone' in deploykit "),
        (lambda text: text + "[export]\nopst = 3\n", "[export]: unknown key 'opst'; did you mean"),
        (lambda text: text + "[export]\nopset = 3\n", "opset must be from 18 to 25, not 3"),
        (
            lambda text: text + '[export]\nopset = "20"\n',
            "[export]: Expected `int`, got `str` - at `$.opset`",
        ),
        (
            lambda text: text.replace("digits:val", "digts:val"),
            "did you mean 'digits'?",
        ),
        (
            lambda text: text.replace("x1x8x8", "x3x8x8"),
            "digits:val[:20] gives shape [1, 1, 8, 8] for input 'x', which takes N[1..4]x3x8x8",
        ),
        (
            lambda text: text.replace("weights.safetensors", "gone.safetensors"),
            "gone.safetensors do not exist, and the recipe has no [train]",
        ),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused(
    project: Path, change: Callable[[str], str], words: str
) -> None:
    (project / "recipe.toml").write_text(change(RECIPE))
    with pytest.raises(BadInputError) as caught:
        run_export(request(project))

    assert words in str(caught.value)
    assert nothing_left(project)


def test_a_foreign_file_is_verified_against_itself_without_optimisation(project: Path) -> None:
    made = run_export(plain(project)).artifact
    foreign = project.parent / "foreign.onnx"
    foreign.write_bytes(made.model_path.read_bytes())
    out = project.parent / "adopted"
    asked = ExportRequest(
        Source(str(foreign), inputs=parse_inputs(["x=B[1..4]x1x8x8"])), out, val="digits:val[:8]"
    )
    result = run_export(asked)

    assert listing(out) == ["artifact.json", "model.onnx", "report.json"]
    assert result.report.passed
    assert [check.name for check in result.report.checks] == [
        "parity ort-cpu N=1",
        "parity ort-cpu N=3",
        "parity ort-cpu N=4",
        "top-1 ort-cpu val: digits:val[:8]",
    ]
    unused = ExportRequest(
        Source(str(foreign), weights=Path("w.pt")), out, overwrite=True, changes={"opset": 21}
    )
    with pytest.raises(BadInputError) as caught:
        run_export(unused)
    assert str(caught.value) == (
        f"{foreign} is an ONNX file, which is taken as it is: leave out --opset, --weights"
    )


class Scaled(nn.Module):
    def forward(self, image: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
        return image * scale


def test_an_exported_program_is_exported_with_its_own_inputs(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=6)
    program = torch.export.export(
        Scaled(),
        (torch.ones(2, 3),),
        {"scale": torch.ones(2, 1)},
        dynamic_shapes={"image": {0: batch}, "scale": {0: batch}},
    )
    torch.export.save(program, tmp_path / "net.pt2")
    asked = ExportRequest(Source(str(tmp_path / "net.pt2"), trust=True), tmp_path / "out")
    result = run_export(asked)

    assert [spec.name for spec in result.artifact.inputs] == ["image", "scale"]
    assert {spec.shape[0] for spec in result.artifact.inputs} == {Dim("N", 1, 6)}
    assert [check.name[-3:] for check in result.report.checks] == ["N=1", "N=3", "N=6"]
    assert result.artifact.history[0].options["source"] == "net.pt2"


def test_dropout_is_off_in_what_is_exported(project: Path) -> None:
    (project / "drop.py").write_text(
        "from torch import nn\ndef build(): return nn.Sequential(nn.Flatten(), nn.Dropout(0.5))\n"
    )
    asked = ExportRequest(Source(f"{project}/drop.py:build", inputs=INPUTS), project.parent / "out")

    assert run_export(asked).report.passed
