"""Making a network separable, end to end; plans in a row; the stage of a recipe."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import torch
from torch import nn

from deploykit.compress.separable.split import weight_error
from deploykit.core import records
from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.core.progress import silent
from deploykit.flow.export import ExportRequest, run_export
from deploykit.flow.prune.tune import judged
from deploykit.flow.rebuild import load_model
from deploykit.flow.separable.latency import Timing, split_probe
from deploykit.flow.separable.layers import Layers
from deploykit.flow.separable.record import SEPARABLE, Separable
from deploykit.flow.separable.request import SeparableRequest
from deploykit.flow.separable.separable import SeparableResult, run_separable
from deploykit.flow.separable.stage import separable_request
from deploykit.load.datasets import open_data
from deploykit.load.inputs import parse_inputs
from deploykit.load.modules import state_digest
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from pathlib import Path

    from tests.flow.conftest import Prune

TRAIN, VAL = "digits:train[:64]", "digits:val[:40]"
INPUT = "x=N[1..8]x1x8x8"
SHAPE = (16, 8, 3, 3)


class Split(Protocol):
    def __call__(self, out: str = "split", **asked: Any) -> SeparableResult: ...


@pytest.fixture
def split(nets: Path) -> Split:
    return partial(_split, nets)


def _split(nets: Path, out: str = "split", **asked: Any) -> SeparableResult:
    source = Source(f"{nets}/net.py:build", inputs=parse_inputs([INPUT]))
    plain: dict[str, Any] = {"measure": False, "source": source, **asked}
    return run_separable(SeparableRequest(plain.pop("source"), nets / out, **plain))


def schemas(folder: Path) -> list[str]:
    names = json.loads(json.dumps(load_plans(folder)))
    return [json.loads((folder / name).read_text())["schema"] for name in names]


def load_plans(folder: Path) -> list[str]:
    from deploykit.load.recipe import load_recipe

    return [path.name for path in load_recipe(folder).plan_paths]


def test_what_is_handed_over_is_what_was_judged(split: Split) -> None:
    result = split(train=TRAIN, val=VAL, finetune=False, changes={"samples": 64})

    assert {path.name for path in result.folder.iterdir()} == {
        "plan.json", "recipe.toml", "report.json", "separable.json", "weights.safetensors",
    }  # fmt: skip
    model = load_model(Source(str(result.folder)))
    assert [step.name for step in model.history] == ["load", "separable"]
    assert model.history[-1].input_digests["state"] == state_digest(model.module)
    assert result.report.artifact_digest == state_digest(model.module)
    found = records.load(result.folder / "separable.json", Separable, SEPARABLE)
    assert found == result.separable
    stem, conv = found.layers
    assert (stem.name, stem.split) == ("conv1", False)
    assert (conv.name, conv.split, conv.why) == ("conv2", True, "")
    assert (conv.weights_before, conv.weights_after) == (9 * 8 * 16, 9 * 8 + 8 * 16)
    assert (conv.macs_before, conv.macs_after) == (1152 * 16, 200 * 16)  # 4x4 places
    assert conv.error_fitted is not None
    assert conv.error_nearest is not None
    assert conv.error_fitted < min(conv.error_nearest, 0.5)
    assert found.fitted == 64
    assert found.val_split == judged(model, open_data(VAL), "", silent).value
    assert found.parameters_before - found.parameters_after == 1152 - 200


def test_without_data_kernels_are_the_nearest(split: Split) -> None:
    found = split().separable

    assert (found.fitted, found.epochs, found.val_split) == (0, 0, None)
    assert found.layers[1].error_fitted is None


def test_the_original_teaches(split: Split) -> None:
    asked: dict[str, Any] = {
        "train": TRAIN, "val": VAL, "changes": {"samples": 64},
        "tuning": {"epochs": 2, "batch_size": 32, "count_start": False},
    }  # fmt: skip
    digests = [
        split(out, distill=weight, **asked).report.artifact_digest
        for out, weight in (("labels", 0.0), ("both", 0.5), ("again", 0.5))
    ]

    assert digests[1] == digests[2] != digests[0]


def test_pruned_then_split_then_pruned_is_rebuilt(split: Split, prune: Prune) -> None:
    """Three plans in a row, from the one network that was whole."""
    first = prune("first", changes={"of": "channels", "scope": "layer"})
    second = split("second", source=Source(str(first.folder)))
    third = prune("third", source=Source(str(second.folder)), changes={"of": "channels"})

    assert schemas(second.folder) == ["deploykit/prune-plan", "deploykit/separable-plan"]
    assert schemas(third.folder) == [
        "deploykit/prune-plan", "deploykit/separable-plan", "deploykit/prune-plan",
    ]  # fmt: skip
    for result in (second, third):
        model = load_model(Source(str(result.folder)))
        assert state_digest(model.module) == result.report.artifact_digest
    names = dict(load_model(Source(str(second.folder))).module.named_parameters())
    assert {"conv2.depthwise.weight", "conv2.pointwise.weight", "bn1.weight"} <= names.keys()
    last = load_model(Source(str(third.folder)))
    assert [step.name for step in last.history] == ["load", "prune", "separable", "prune"]
    assert last.module(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    exported = run_export(ExportRequest(Source(str(third.folder)), third.folder.parent / "onnx"))
    assert exported.report.checks


def test_pruned_twice_is_one_plan(prune: Prune) -> None:
    first = prune("first", changes={"of": "channels"})
    second = prune("second", source=Source(str(first.folder)), changes={"of": "channels"})

    assert schemas(second.folder) == ["deploykit/prune-plan"]


def test_split_twice_is_one_plan(split: Split) -> None:
    first = split("first", changes={"layers": ("conv2",)})
    second = split("second", source=Source(str(first.folder)), changes={"layers": ("conv1",)})

    assert schemas(second.folder) == ["deploykit/separable-plan"]
    model = load_model(Source(str(second.folder)))
    assert state_digest(model.module) == second.report.artifact_digest


def test_a_graph_splits_like_its_modules(split: Split, prune: Prune) -> None:
    """What pruning left is a graph of operators: its kernels are split all the same."""
    pruned = prune("first", changes={"of": "channels"})
    whole = load_model(Source(str(pruned.folder)))
    folder = split("second", source=Source(str(pruned.folder)), changes={"rank": 2}).folder
    made = load_model(Source(str(folder)))
    kernel = whole.module.get_parameter("conv2.weight").detach()
    first, second = (
        made.module.get_parameter(f"conv2.{name}wise.weight").detach()
        for name in ("depth", "point")
    )
    outputs, inputs = kernel.shape[:2]
    again = torch.einsum(
        "irk,oir->oik", first.reshape(inputs, 2, 9), second.reshape(outputs, inputs, 2)
    )
    missed = (again.reshape(kernel.shape) - kernel).square().sum() / kernel.square().sum()
    conv = nn.Conv2d(inputs, outputs, 3)
    conv.weight.data = kernel

    assert float(missed) == pytest.approx(weight_error(conv, 2), rel=1e-3)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"changes": {"layers": ("conv3",)}}, "layer 'conv3' is not there; did you mean 'conv2'?"),
        ({"changes": {"rank": 0}}, "rank must be 1 or more, not 0"),
        ({"changes": {"skip": ("conv*",)}}, "there is nothing to split: conv1 was left out, conv2"),
        ({"max_drop": 1.0}, "max_drop needs data with labels to judge by; add --val DATA"),
        ({"tuning": {"epochs": 3}}, "epochs: there is nothing to train on; add --train DATA"),
        ({"train": TRAIN}, "training needs data to judge by; add --val DATA, or --no-finetune"),
        (
            {"train": "digits:train[:3]", "val": VAL},
            "has 3 samples, of which 1024 may be looked at; give more, or --no-refit",
        ),
    ],
)
def test_bad_input_says_what_to_do(split: Split, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInputError) as caught:
        split(**asked)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_without_convolutions_is_told(split: Split, nets: Path) -> None:
    source = Source(f"{nets}/net.py:linear", inputs=parse_inputs([INPUT]))

    with pytest.raises(BadInputError, match="nothing to split: the network has no convolution"):
        split(source=source)


def test_what_loses_too_much_is_not_handed_over(split: Split, nets: Path) -> None:
    tuning = {"epochs": 8, "batch_size": 32, "learning_rate": 0.2}
    data = {"train": "digits:train[:512]", "val": "digits:val[:100]"}
    changes = {"layers": ("conv1",), "samples": 64, "rank": 2}
    start = split("start", changes=changes, tuning=tuning, distill=0.0, **data)
    asked = {"finetune": False, "changes": {"refit": False}, "max_drop": 0}

    with pytest.raises(CheckFailedError, match="0 may be lost: take a higher rank"):
        split("cut", source=Source(str(start.folder)), **asked)
    assert not (nets / "cut").exists()


@pytest.mark.slow
def test_layers_are_timed_and_the_whole_too(split: Split) -> None:
    """Of a network this small nothing need get faster: it is forced, and measured all the same."""
    found = split("forced", measure=True, force=True).separable
    assert found.layers[1].split
    assert found.layers[1].latency_before_ns
    assert found.layers[1].latency_after_ns
    assert found.speed is not None
    assert found.speed.threads == 1


def test_layers_that_are_no_faster_stay(split: Split, nets: Path) -> None:
    model = load_model(Source(f"{nets}/net.py:build", inputs=parse_inputs([INPUT])))
    from deploykit.compress.separable.options import SeparableOptions

    layers = Layers.of(model, SeparableOptions())
    assert [one.name for one in layers.plan.layers] == ["conv2"]
    slow = replace(
        layers,
        choices=tuple(replace(one, why=one.why or "slow") for one in layers.choices),
        timings={"conv2": Timing(100.0, 120.0, 0.01)},
    )
    assert slow.nothing_text == (
        "separable convolutions cannot help here: none of 1 layers that can be split gets faster; "
        "the nearest, conv2, takes 1.2x of its time (--force splits them all the same)"
    )


@pytest.mark.parametrize(("after", "faster"), [(90.0, True), (97.5, False), (101.0, False)])
def test_faster_is_beyond_the_noise(after: float, faster: bool) -> None:
    assert Timing(100.0, after, 0.03).faster is faster


def test_what_is_timed_is_what_a_layer_becomes() -> None:
    from deploykit.bench.layer_shapes import LayerShape

    shape = LayerShape(
        "conv", 8, 16, spatial=(9, 9), kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1),
        dilation=(1, 1), relu=True,
    )  # fmt: skip
    first, second = (layer.shape for layer in split_probe(shape, 2).layers)

    assert first.depthwise
    assert (first.inputs, first.outputs, first.bias, first.relu) == (8, 16, False, False)
    assert first.output_spatial == second.spatial == second.output_spatial == (5, 5)
    assert (second.inputs, second.outputs, second.kernel, second.groups) == (16, 16, (1, 1), 1)
    assert second.bias
    assert second.relu


def test_a_stages_keys_are_sorted() -> None:
    from pathlib import Path as Place

    stage: dict[str, Any] = {
        "name": "separable",
        "rank": 2,
        "measure": False,
        "epochs": 3,
        "skip": ("a.*",),
    }
    found = separable_request(stage, Source("x"), Place("out"))

    assert found.changes == {"rank": 2, "skip": ("a.*",)}
    assert found.tuning == {"epochs": 3}
    assert (found.measure, found.as_stage, found.overwrite) == (False, True, True)
    with pytest.raises(BadInputError, match="stage separable: unknown key 'rnk'; did you mean"):
        separable_request({"name": "separable", "rnk": 2}, Source("x"), Place("out"))


def test_export_runs_the_stage(nets: Path) -> None:
    (nets / "recipe.toml").write_text(
        'schema = "deploykit/recipe"\nversion = "1.0"\n[source]\nnet = "net.py:build"\n'
        f'inputs = ["{INPUT}"]\n[[stages]]\nname = "separable"\nmeasure = false\n'
    )
    first = run_export(ExportRequest(Source(str(nets)), nets / "one"))

    assert [step.name for step in first.artifact.history] == ["load", "separable", "export"]
