"""Distillation, end to end: what is handed over is what was judged, and comes of the teacher."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
import torch

from deploykit.compress.distill.options import DistillOptions
from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.core.progress import Progress, silent
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
    assert learnt.val_score > 0.8
    write_weights(tmp_path / "large.safetensors", learnt.module)
    return partial(_distil, tmp_path)


def _source(name: str, weights: Path | None = None) -> Source:
    return Source(f"net.py:{name}", weights=weights, inputs=parse_inputs([TINY_INPUT]))


def _distil(
    place: Path,
    out: str = "out",
    *,
    teacher: Source | None = None,
    progress: Progress = silent,
    **asked: Any,
) -> DistillResult:
    by = teacher or _source("large", place / "large.safetensors")
    values: dict[str, Any] = {
        "student": _source("small"), "train": TRAIN, "val": VAL, "eval": EVAL, "tuning": TUNING,
    }  # fmt: skip
    request = DistillRequest(teacher=by, out=place / out, **{**values, **asked})
    return run_distill(request, progress)


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
    assert found.options == asdict(DistillOptions())
    assert found.training["epochs"] == found.epochs == 3
    assert found.advice == ()


@pytest.mark.slow
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
    assert texts[0].endswith("already: are the two in each other's place?")
    assert texts[1] == "the teacher has 610 parameters, the student 4810: more"


def test_a_student_that_has_unlearnt_is_pointed_out(distil: Distil, tmp_path: Path) -> None:
    large = tmp_path / "large.safetensors"

    result = distil(
        student=_source("large", large),
        teacher=_source("large", large),
        tuning={**TUNING, "epochs": 1, "learning_rate": 30.0},
    )

    assert "before it was taught: lower the learning rate" in result.distillation.advice[-1]


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


IMAGE_NET = """
import torch
from torch import nn

class Images(nn.Module):
    def __init__(self, width, size):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width * size * size // 4, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.norm(self.conv(x)).relu(), 2)
        return self.head(x.flatten(1))

def narrow():
    return Images(2, 4)

def wide():
    return Images(8, 8)

class Frozen(Images):
    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

def frozen():
    return Frozen(4, 8)

def line():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

def numbers():
    from deploykit.load.datasets import open_data
    batch = open_data("digits:train[:256]").batch(range(256))
    x = batch.inputs[next(iter(batch.inputs))]
    return x, x.mean(axis=(1, 2, 3))[:, None].repeat(2, axis=1)
"""


@pytest.fixture
def images(distil: Distil, tmp_path: Path) -> Distil:
    (tmp_path / "images.py").write_text(IMAGE_NET)
    return distil


def _image_net(name: str, size: int = 8) -> Source:
    return Source(f"images.py:{name}", inputs=parse_inputs([f"x=N[1..64]x1x{size}x{size}"]))


@pytest.mark.slow
def test_hints_several_teachers_and_samples_without_labels_together(images: Distil) -> None:
    result = images(
        student=_image_net("frozen"),
        teacher=_image_net("wide"),
        others=(_image_net("wide"),),
        unlabelled="digits:train[256:400]",
        tuning={**TUNING, "learning_rate": 0.01},
        changes={
            "hints": ("norm",),
            "attention": ("conv",),
            "method": "decoupled",
            "teacher_shares": (0.25, 0.75),
            "temperature_end": 2.0,
        },
    )

    found = result.distillation
    assert found.teacher == "images.py:wide, images.py:wide"
    assert found.options["hints"] == ("norm",)
    assert (
        "the student keeps norm in evaluation mode while it is trained, as its train() says: "
        "norms keep their statistics there, and dropout does nothing"
    ) in found.advice
    names = {check.name for check in result.report.checks}
    assert f"top-1 teacher 2 val: {VAL}" in names
    learnt = load_model(Source(str(result.folder))).module
    assert set(learnt.state_dict()) == set(load_model(_image_net("frozen")).module.state_dict())


@pytest.mark.slow
def test_a_student_may_take_smaller_images(images: Distil) -> None:
    result = images(student=_image_net("narrow", 4), teacher=_image_net("wide"))

    assert result.distillation.advice[0] == (
        "the student takes images of 4x4: others are resized for it"
    )
    model = load_model(Source(str(result.folder)))
    assert model.inputs == parse_inputs(["x=N[1..64]x1x4x4"])
    assert result.report.artifact_digest == state_digest(model.module)
    assert "[data]" not in (result.folder / "recipe.toml").read_text()


def test_numbers_are_learnt_and_judged_by_their_error(images: Distil) -> None:
    """No classes: mse between outputs, mae for the report."""
    result = images(
        student=_image_net("line"),
        teacher=_image_net("line"),
        train="images.py:numbers",
        val="images.py:numbers[:100]",
        eval="",
        tuning={"epochs": 4, "batch_size": 32, "learning_rate": 0.01},
    )

    names = [check.name for check in result.report.checks]
    assert names == [
        "mae teacher val: images.py:numbers[:100]",
        "mae student val: images.py:numbers[:100]",
        "mae behind the teacher val: images.py:numbers[:100]",
    ]
    assert any(text.startswith("the student has mae") for text in result.distillation.advice)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"changes": {"hints": ("cnov",)}}, "the student has no layer 'cnov'; did you mean"),
        ({"changes": {"hints": ("conv=head",)}}, "take layers with equally many dimensions"),
        ({"changes": {"teacher_shares": (0.5, 0.5)}}, "has 2 numbers for 1 teachers"),
        (
            {"train": "images.py:numbers", "val": "images.py:numbers", "unlabelled": VAL},
            "stand beside class numbers only: leave out --unlabelled",
        ),
        ({"train": "blank.npz"}, "blank.npz has no labels; --unlabelled takes it so"),
        ({"val": "blank.npz"}, "blank.npz has no labels; name other data with --val"),
        (
            {"train": "", "unlabelled": VAL, "changes": {"method": "decoupled"}},
            "method decoupled needs labels, and digits:val[:100] is taken without",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_the_long_work(
    asked: dict[str, Any], words: str, images: Distil, tmp_path: Path
) -> None:
    np.savez(tmp_path / "blank.npz", x=np.zeros((40, 1, 8, 8), np.float32))
    values = {"student": _image_net("frozen"), "teacher": _image_net("wide"), **asked}
    said: list[str] = []
    with pytest.raises(BadInputError) as caught:
        images(**values, progress=lambda text, _: said.append(text))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any("top-1" in text for text in said)  # nobody was judged


def test_data_without_labels_alone_will_do(distil: Distil) -> None:
    """The classes are those of the validation data, and nobody but the teacher says which."""
    result = distil(train="", unlabelled=TRAIN, changes={"weight": 1.0})

    value = {c.name: c.value for c in result.report.checks}[f"top-1 student val: {VAL}"]
    assert value is not None
    assert value > 50


def test_a_pruned_network_learns_by_hints_of_the_whole_one(images: Distil, tmp_path: Path) -> None:
    from deploykit.flow.prune.prune import run_prune
    from deploykit.flow.prune.request import PruneRequest

    whole = _image_net("wide")
    changes: dict[str, Any] = {"ratio": 0.5, "align": "1"}
    cut = run_prune(PruneRequest(whole, tmp_path / "cut", changes=changes, val=VAL, measure=False))

    result = images(student=Source(str(cut.folder)), teacher=whole, changes={"hints": ("norm",)})

    small = load_model(Source(str(result.folder)))
    assert result.report.artifact_digest == state_digest(small.module)
