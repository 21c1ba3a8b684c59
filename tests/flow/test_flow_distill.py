"""Distillation, end to end: what is handed over is what was judged, and comes of the teacher."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import torch

from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.flow.distill.distill import DistillResult, run_distill
from deploykit.flow.distill.record import DISTILLATION, Distillation
from deploykit.flow.distill.request import DistillRequest
from deploykit.flow.prune.tune import judged
from deploykit.flow.rebuild import load_model
from deploykit.load.datasets import open_data
from deploykit.load.inputs import parse_inputs
from deploykit.load.modules import state_digest
from deploykit.load.sources import Source
from deploykit.load.weights import write_weights
from deploykit.train.loop import train
from deploykit.train.options import TrainOptions

if TYPE_CHECKING:
    from pathlib import Path

TRAIN, VAL, EVAL = "digits:train[:256]", "digits:val[:100]", "digits:test[:100]"
TINY_INPUT = "x=N[1..8]x1x8x8"
NET = """
from torch import nn

def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))

def large():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

def other():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12))
"""
TUNING: dict[str, Any] = {"epochs": 3, "batch_size": 32, "learning_rate": 0.1}


class Distil(Protocol):
    def __call__(self, out: str = "out", **asked: Any) -> DistillResult: ...


@pytest.fixture
def distil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distil:
    """From the folder of net.py, with a teacher that has learnt the digits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    teacher = load_model(_source("large"))
    options = TrainOptions(epochs=4, batch_size=32, learning_rate=0.1)
    folder = tmp_path / "kept"
    learnt = train(teacher.module, open_data(TRAIN), open_data(VAL), options, folder=folder)
    assert learnt.val_accuracy > 0.8
    write_weights(tmp_path / "large.safetensors", learnt.module)
    return partial(_distil, tmp_path)


def _source(name: str, weights: Path | None = None) -> Source:
    return Source(f"net.py:{name}", weights=weights, inputs=parse_inputs([TINY_INPUT]))


def _distil(
    place: Path, out: str = "out", *, teacher: Source | None = None, **asked: Any
) -> DistillResult:
    by = teacher or _source("large", place / "large.safetensors")
    values: dict[str, Any] = {
        "student": _source("small"), "train": TRAIN, "val": VAL, "eval": EVAL, "tuning": TUNING,
    }  # fmt: skip
    return run_distill(DistillRequest(teacher=by, out=place / out, **{**values, **asked}))


def test_what_is_handed_over_is_what_was_judged(distil: Distil, tmp_path: Path) -> None:
    result = distil()

    assert {path.name for path in result.folder.iterdir()} == {
        "distillation.json", "recipe.toml", "report.json", "weights.safetensors",
    }  # fmt: skip
    model = load_model(Source(str(result.folder)))
    assert result.report.artifact_digest == state_digest(model.module)
    checks = {check.name: check for check in result.report.checks}
    teacher = load_model(_source("large", tmp_path / "large.safetensors"))
    for name, text in (("val", VAL), ("eval", EVAL)):
        for who, one in (("teacher", teacher), ("student", model)):
            again = judged(one, open_data(text), "", lambda *_: None)
            assert checks[f"top-1 {who} {name}: {text}"].value == 100 * again.value
    found = records.load(result.folder / "distillation.json", Distillation, DISTILLATION)
    assert found == result.distillation
    assert (found.student, found.teacher) == ("net.py:small", "net.py:large")
    assert (found.student_parameters, found.teacher_parameters) == (610, 4810)
    assert found.options == {"weight": 0.5, "temperature": 4.0}
    assert found.training["epochs"] == found.epochs == 3
    assert found.advice == ()


def test_the_teacher_counts(distil: Distil) -> None:
    """The same data, labels and seed: what differs is who teaches, and how much."""
    weights = [
        state_digest(load_model(Source(str(distil(out, changes=changes).folder))).module)
        for out, changes in (
            ("labels", {"weight": 0.0}),
            ("both", {"weight": 0.5}),
            ("hot", {"weight": 0.5, "temperature": 9.0}),
            ("again", {"weight": 0.5}),
        )
    ]

    assert len(set(weights[:3])) == 3
    assert weights[1] == weights[3]


def test_a_student_with_the_whole_network_teaches_on(distil: Distil) -> None:
    """What was made is a source: it can learn again, and starts from what it knows."""
    first = distil()
    student = Source(str(first.folder))

    again = distil("again", student=student, train="", val="", eval="")
    anew = distil("anew", student=student, train="", val="", eval="", anew=True)

    before, after, fresh = (
        {check.name: check.value for check in one.report.checks}[f"top-1 student val: {VAL}"]
        for one in (first, again, anew)
    )
    assert before is not None
    assert after is not None
    assert after >= before
    assert fresh == before  # the same seed, data and teacher
    recipe = (again.folder / "recipe.toml").read_text()
    assert 'net = "../out"' in recipe
    assert "plan" not in recipe


def test_a_teacher_that_knows_less_is_pointed_out(distil: Distil, tmp_path: Path) -> None:
    large = tmp_path / "large.safetensors"
    write_weights(tmp_path / "small.safetensors", load_model(_source("small")).module)

    result = distil(
        student=_source("large", large),
        teacher=_source("small", tmp_path / "small.safetensors"),
    )

    texts = result.distillation.advice
    assert texts[0].endswith(" %: are the two in each other's place?")
    assert texts[1] == "the teacher has 610 parameters, the student 4810: more"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"changes": {"weight": 2.0}}, "the teacher's weight must be from 0 to 1, not 2"),
        ({"changes": {"wieght": 1.0}}, "distill: unknown key 'wieght'; did you mean 'weight'?"),
        ({"tuning": {"epochs": 0}}, "epochs must be 1 or more, not 0"),
        ({"train": ""}, "there is nothing to learn from; add --train DATA"),
        ({"val": ""}, "the best epoch is chosen on data of its own; add --val DATA"),
        (
            {"teacher": Source("net.py:other", inputs=parse_inputs([TINY_INPUT]))},
            "the teacher gives [12] for a sample and the student [10]; a teacher has to know",
        ),
        (
            {"teacher": Source("model.onnx")},
            "model.onnx is an ONNX file: distillation needs",
        ),
        ({"student": Source("net.py:smal", inputs=parse_inputs([TINY_INPUT]))}, "has no 'smal'"),
        ({"train": "fashion-mnist-compact:val[:4]"}, "gives shape [1, 1, 28, 28] for input 'x'"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    asked: dict[str, Any], words: str, distil: Distil, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError) as caught:
        distil(**asked)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_replaced_unasked(distil: Distil) -> None:
    distil()

    with pytest.raises(BadInputError, match="exists already: add --overwrite"):
        distil()
    assert distil(overwrite=True).report.passed


def test_a_pruned_network_learns(distil: Distil, tmp_path: Path) -> None:
    from deploykit.flow.prune.prune import run_prune
    from deploykit.flow.prune.request import PruneRequest

    large = _source("large", tmp_path / "large.safetensors")
    changes: dict[str, Any] = {"ratio": 0.5, "align": "1"}
    cut = run_prune(PruneRequest(large, tmp_path / "cut", changes=changes, val=VAL, measure=False))

    result = distil(student=Source(str(cut.folder)))

    assert (result.folder / "plan.json").read_bytes() == (cut.folder / "plan.json").read_bytes()
    small = load_model(Source(str(result.folder)))
    assert result.distillation.student_parameters < 4810 / 1.5
    assert result.report.artifact_digest == state_digest(small.module)
    with torch.no_grad():
        assert small.module(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
