"""Pruning, end to end: what is handed over is what was judged, and what was given is as it was."""

from __future__ import annotations

import json
import shutil
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from deploykit.core import records
from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.core.report import Verdict
from deploykit.flow.prune.record import PRUNING, Pruning
from deploykit.flow.prune.tune import judged
from deploykit.flow.rebuild import load_model
from deploykit.load.datasets import open_data
from deploykit.load.inputs import parse_inputs
from deploykit.load.modules import state_digest
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from tests.flow.conftest import Prune

TINY_INPUT = "x=N[1..8]x1x8x8"
TRAIN, VAL, EVAL = "digits:train[:128]", "digits:val[:60]", "digits:test[:60]"
TUNED: dict[str, Any] = {
    "train": TRAIN, "val": VAL, "tuning": {"epochs": 1, "batch_size": 32, "learning_rate": 0.05},
}  # fmt: skip
FILES = {
    "kept.svg", "plan.json", "pruning.json", "recipe.toml", "report.json", "weights.safetensors",
}  # fmt: skip


def outputs(folder: Path) -> torch.Tensor:
    module = load_model(Source(str(folder))).module
    with torch.no_grad():
        result: torch.Tensor = module(torch.linspace(-1, 1, 3 * 64).reshape(3, 1, 8, 8))
    return result


def nothing_made(nets: Path) -> bool:
    return sorted(path.name for path in nets.iterdir() if path.name != "__pycache__") == [
        ".deploykit",
        "net.py",
    ]


def test_what_is_handed_over_is_what_was_judged(prune: Prune) -> None:
    result = prune(**TUNED, eval=EVAL, check=True)
    model = load_model(Source(str(result.folder)))
    checks = {check.name: check for check in result.report.checks}

    assert {path.name for path in result.folder.iterdir()} == FILES
    assert result.report.artifact_digest == state_digest(model.module)
    for split, text in (("val", VAL), ("eval", EVAL)):
        again = judged(model, open_data(text), "", lambda *_: None)
        assert checks[f"top-1 after {split}: {text}"].value == 100 * again.value
    size = sum(parameter.numel() for parameter in model.module.parameters())
    assert result.pruning.after.parameters == size < result.pruning.before.parameters
    assert checks["macs left"].value == result.pruning.after.macs / result.pruning.before.macs
    assert checks["macs left"].limit == 0.5
    assert result.report.passed
    assert result.report.checks[-1].name.startswith("cut against the network with those channels")
    assert not model.module.training


def test_the_record_says_all_that_happened(prune: Prune) -> None:
    result = prune(**TUNED)
    record = records.load(result.folder / "pruning.json", Pruning, PRUNING)

    assert record.checks == result.report.checks
    assert record.aim == "0.5x of its macs"
    assert [row.name for row in record.groups if row.refused] == ["fc"]
    (row,) = record.rounds
    assert row.epochs == 1
    assert row.val_before is not None
    assert row.val_after is not None
    assert row.val_after >= row.val_before


@pytest.fixture
def given(nets: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module that is imported once, so that its network is the very one that is pruned."""
    shutil.copy(nets / "net.py", nets / "given_net.py")
    monkeypatch.syspath_prepend(str(nets))
    yield import_module("given_net")
    del sys.modules["given_net"]


def test_the_network_that_was_given_is_as_it_was(prune: Prune, given: ModuleType) -> None:
    module = given.MADE.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    source = Source("given_net:MADE", inputs=parse_inputs((TINY_INPUT,)))
    prune(source=source, **TUNED, changes={"criterion": "taylor", "samples": 8}, check=True)

    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert not any(part.training for part in module.modules())


def test_the_callers_draws_go_on_as_if_nothing_had_been(prune: Prune, given: ModuleType) -> None:
    source = Source("given_net:MADE", inputs=parse_inputs((TINY_INPUT,)))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002  (what callers may use)
    prune(source=source, **TUNED, changes={"criterion": "fisher", "samples": 8}, check=True)

    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]  # noqa: NPY002


def test_the_same_command_gives_the_same_files(prune: Prune, nets: Path) -> None:
    first = prune(**TUNED, rounds=2).folder
    shutil.rmtree(nets / ".deploykit")  # nothing is taken from the cache
    second = prune("again", **TUNED, rounds=2).folder

    for name in ("plan.json", "weights.safetensors", "recipe.toml", "report.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_pruned_network_is_pruned_again(prune: Prune, nets: Path) -> None:
    first = prune(changes={"ratio": 0.3}).folder
    second = prune("twice", source=Source(str(first)), changes={"ratio": 0.3}, check=True)
    expected = outputs(second.folder)
    shutil.rmtree(first)

    assert second.report.passed
    assert torch.equal(outputs(second.folder), expected)
    assert 'net = "../net.py:build"' in (second.folder / "recipe.toml").read_text()
    plan = json.loads((second.folder / "plan.json").read_text())
    sizes = {(cut["parameter"], cut["dim"]): cut["size"] for cut in plan["cuts"]}
    assert sizes["conv1.weight", 0] == 8  # of the whole network


def test_a_pruned_network_takes_its_own_place(prune: Prune, nets: Path) -> None:
    folder = prune(changes={"ratio": 0.3}).folder
    (folder / ".deploykit").mkdir()  # what export keeps there
    before = outputs(folder)
    prune(source=Source(str(folder)), changes={"ratio": 0.3}, overwrite=True)

    assert load_model(Source(str(folder))).module.get_parameter("conv2.weight").shape != (16, 8)
    assert not torch.equal(outputs(folder), before)


def test_data_drives_the_choice_where_the_criterion_looks_at_it(prune: Prune) -> None:
    changes = {"criterion": "activation", "samples": 16}
    result = prune(train=TRAIN, finetune=False, changes=changes)

    assert result.report.passed


def test_what_the_limits_do_not_allow_is_kept_as_near_as_can_be(prune: Prune) -> None:
    result = prune(changes={"ratio": 0.9, "max_ratio": 0.25})
    (left,) = result.report.checks

    assert left.verdict is Verdict.FAILED
    assert left.advice == "this is the closest that the limits allow"
    assert left.value is not None
    assert left.value > 0.5
    assert {row.kept for row in result.pruning.groups if not row.refused} == {6, 12}
    assert outputs(result.folder).shape == (3, 10)


def test_what_leaves_everything_whole_is_no_pruning(prune: Prune, nets: Path) -> None:
    with pytest.raises(CheckFailedError) as caught:
        prune(changes={"ratio": 0.1, "max_ratio": 0.3, "align": "8"})
    assert str(caught.value) == (
        "no channel can go on the way to 0.9x of its macs: align 8 and max_ratio 0.3 leave every "
        "group whole; nothing was written"
    )
    assert nothing_made(nets)


def test_too_much_lost_is_not_handed_over(prune: Prune, nets: Path) -> None:
    metric = nets / "metric.py"
    metric.write_text(  # worse and worse, whatever the network says
        "import numpy as np\nfrom pathlib import Path\n"
        "def score(outputs, labels):\n"
        "    with Path(__file__).with_suffix('.calls').open('a+') as file:\n"
        "        file.write('x')\n"
        "        return np.full(len(labels), 1 / file.tell())\n"
    )
    text = f"{metric}:score"
    with pytest.raises(CheckFailedError) as caught:
        prune(val=VAL, max_drop=0.1, metric=text)
    assert str(caught.value) == (
        f"cut to 0.5x of its macs, the network loses more than 0.1 points on {VAL}: ask for less, "
        "or for more rounds or epochs; nothing was written"
    )
    metric.unlink()
    metric.with_suffix(".calls").unlink()
    assert nothing_made(nets)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"changes": {"ratio": 1.5}}, "ratio must be above 0 and below 1, not 1.5"),
        ({"changes": {"exclude": ("con1",)}}, "exclude 'con1' matches no layer; did you mean"),
        ({"changes": {"ratoi": 0.5}}, "prune: unknown key 'ratoi'; did you mean 'ratio'?"),
        ({"net": "linear"}, "nothing can be pruned: all 1 groups are locked"),
        ({"net": "Branch"}, "torch.export cannot capture the network: "),
        ({"net": "biuld"}, "/net.py has no 'biuld'; did you mean 'build'?"),
        ({"val": "fashion-mnist-compact:val[:4]"}, "gives shape [1, 1, 28, 28] for input 'x'"),
        (
            {"train": "fashion-mnist-compact:val[:4]", "val": VAL},
            "gives shape [1, 1, 28, 28] for input 'x'",
        ),
        ({"val": "digits:val[:0]"}, "data digits:val[:0] is empty"),
        ({"max_drop": 1.0}, "max_drop needs data with labels to judge by; add --val DATA"),
        ({"train": TRAIN}, "fine-tuning needs data to judge by; add --val DATA"),
        (
            {"tuning": {"epochs": 2, "patience": 1, "seed": 3}},
            "epochs, patience: there is nothing to fine-tune on; add --train DATA",
        ),
        ({**TUNED, "tuning": {"epochs": 0}}, "epochs must be 1 or more, not 0"),
        (
            {"changes": {"criterion": "fisher"}},
            "net.py:build names none; add --train DATA, or take l1",
        ),
        ({"metric": "top1", "val": VAL}, "there is no metric 'top1'"),
        (
            {"source": Source("model.onnx")},
            "model.onnx is an ONNX file: pruning needs the PyTorch network",
        ),
        ({"source": Source("net")}, "'net' is not a source and no such file"),
    ],
)
def test_what_cannot_be_pruned_is_refused(
    prune: Prune, nets: Path, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        prune(**asked)
    assert words in str(caught.value)
    assert not (nets / "out").exists()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.arange(8) / 8, " has labels of type float64, and fine-tuning learns classes, which"),
        (None, " has no labels, and fine-tuning learns classes, which are whole numbers; prune "),
    ],
)
def test_training_needs_classes(
    prune: Prune, nets: Path, labels: np.ndarray[tuple[int], np.dtype[np.float64]], words: str
) -> None:
    arrays = {"x": np.zeros((8, 1, 8, 8), np.float32)}
    if labels is not None:
        arrays["labels"] = labels  # type: ignore[assignment]  # of any type
    np.savez(nets / "data.npz", **arrays)  # type: ignore[arg-type]  # a stub too narrow
    text = str(nets / "data.npz")
    with pytest.raises(BadInputError) as caught:
        prune(net="Value", train=text, val=text)
    assert words in str(caught.value)


def test_an_output_that_is_there_is_left_alone(prune: Prune, nets: Path) -> None:
    folder = prune().folder
    before = (folder / "plan.json").read_bytes()
    strange = "holds files that are no deploykit artifact (.deploykit, net.py, out)"
    for out, words in (
        ("out", "exists already: add --overwrite, or give another --output"),
        ("net.py", "is a file: give a folder with --output"),
        (".", f"{strange}: give another --output"),
    ):
        with pytest.raises(BadInputError) as caught:
            prune(out, changes={"ratio": 0.2})
        assert str(caught.value).endswith(words)
    assert (folder / "plan.json").read_bytes() == before


def test_what_was_interrupted_goes_on(prune: Prune, nets: Path) -> None:
    def stop(message: str, share: float | None) -> None:
        if message.startswith("round 2 of 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(**TUNED, rounds=2, progress=stop)
    assert nothing_made(nets)

    said: list[str] = []
    going_on = prune(**TUNED, rounds=2, progress=lambda message, _: said.append(message))
    first_round = said[: said.index("round 2 of 2: analysing")]
    assert not any("epoch" in message for message in first_round)
    assert any("epoch" in message for message in said)

    shutil.rmtree(nets / ".deploykit")
    at_once = prune("at_once", **TUNED, rounds=2)
    for name in ("plan.json", "weights.safetensors"):
        whole = (at_once.folder / name).read_bytes()
        assert (going_on.folder / name).read_bytes() == whole


@pytest.mark.slow
def test_other_data_or_options_are_not_taken_from_the_cache(prune: Prune) -> None:
    others: tuple[dict[str, object], ...] = (
        {},
        {"train": "digits:train[:96]"},
        {"val": "digits:val[:40]"},
        {"tuning": {"epochs": 1, "batch_size": 32, "learning_rate": 0.01}},
        {"tuning": {"epochs": 1, "batch_size": 32, "learning_rate": 0.05, "seed": 4}},
        {"distill": 0.5},
        {"distill": 0.5, "temperature": 2.0},
    )
    limit: dict[str, object] = {"max_drop": 90.0}
    said: list[str] = []
    for number, other in enumerate((*others, limit)):
        said.clear()
        asked: dict[str, Any] = {**TUNED, **other}
        prune(f"{number}", **asked, progress=lambda text, _: said.append(text))
        trained = any(text.startswith("epoch 1/1: ") for text in said)
        assert trained == (other in others)  # a limit changes nothing of the work itself
