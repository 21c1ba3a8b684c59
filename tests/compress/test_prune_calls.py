"""Networks as users have them: shared and unused weights, inputs, outputs, sizes, what locks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import deploykit.runtimes  # noqa: F401 - before onnxruntime: switches telemetry off
from deploykit.compress.prune.analysis.analyse import analyse
from deploykit.compress.prune.cutting.cut import cut, plan_of
from deploykit.compress.prune.graph.program import program_of
from deploykit.core.types import Model
from deploykit.export.options import ExportOptions
from deploykit.export.torch_to_onnx import export_model
from deploykit.load.calls import to_tensor
from deploykit.load.capture import capture
from deploykit.load.inputs import parse_inputs
from deploykit.load.synthetic import dims_of, synthetic_feeds

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from deploykit.core.types import TensorSpec
    from deploykit.export.torch_to_onnx import Exported
    from tests.compress.conftest import Prune

VECTOR = "x=N[1..8]x6"


def test_one_module_used_twice(prune: Prune) -> None:
    done = prune(
        lambda m, x: m.out(m.b(m.b(m.a(x)).relu())),
        VECTOR, a=nn.Linear(6, 8), b=nn.Linear(8, 8), out=nn.Linear(8, 5),
    )  # fmt: skip

    assert done.widths["a.weight"] == (4, 6)
    assert done.widths["b.weight"] == (4, 4)
    assert len(done.structure.free) == 1


def test_two_names_of_one_parameter_are_one(prune: Prune) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)
            self.stem = nn.Linear(6, 8)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Any:
            return self.out(self.b(self.a(self.stem(x)).relu()))

    done = prune(Tied(), VECTOR)

    assert done.widths["a.weight"] == (4, 4)
    assert "b.weight" not in done.widths


def test_unused_parameters_are_left_out(prune: Prune) -> None:
    done = prune(
        lambda m, x: m.out(m.a(x)),
        VECTOR, a=nn.Linear(6, 8), spare=nn.Linear(8, 8), out=nn.Linear(8, 5),
    )  # fmt: skip

    assert not [name for name in done.widths if name.startswith("spare")]
    assert done.widths["a.weight"] == (4, 6)


def test_an_output_keeps_its_shape(prune: Prune) -> None:
    done = prune(
        lambda m, x: (m.out(m.a(x)), m.a(x)), VECTOR, a=nn.Linear(6, 8), out=nn.Linear(8, 5)
    )

    assert done.widths["a.weight"] == (8, 6)
    assert "is an output" in done.locks["a"]


class Pair(NamedTuple):
    logits: Tensor
    more: dict[str, tuple[Tensor, ...]]


def test_nested_outputs_come_as_they_were(prune: Prune) -> None:
    done = prune(
        lambda m, x: Pair(m.out(m.a(x)), {"z": (m.b(m.a(x)), x)}),
        VECTOR, a=nn.Linear(6, 8), b=nn.Linear(8, 3), out=nn.Linear(8, 5),
    )  # fmt: skip

    logits, more = done.module(torch.ones(2, 6))

    assert logits.shape == (2, 5)
    assert [tuple(part.shape) for part in more["z"]] == [(2, 3), (2, 6)]


def test_several_inputs_by_name_and_position(prune: Prune) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor, y: Tensor) -> Any:
            return self.out(self.a(x) + self.b(y))

    done = prune(Two(), VECTOR, "y=Nx4")
    x, y = torch.ones(2, 6), torch.ones(2, 4)

    assert torch.equal(done.module(x, y), done.module(y=y, x=x))
    assert done.widths["b.weight"] == (4, 4)


def test_a_network_of_fixed_size(prune: Prune) -> None:
    done = prune(
        lambda m, x: m.out(m.a(x).view(2, -1)), "x=2x6", sizes=[1],
        a=nn.Linear(6, 8), out=nn.Linear(8, 5),
    )  # fmt: skip

    assert done.widths["a.weight"] == (4, 6)


def test_in_place_operators(prune: Prune) -> None:
    def run(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        y.add_(1.0).mul_(2.0).clamp_(-1, 3)
        z = m.b(x)
        z += y
        return m.out(z.relu_())

    done = prune(run, VECTOR, a=nn.Linear(6, 8), b=nn.Linear(6, 8), out=nn.Linear(8, 5))

    assert done.widths["b.weight"] == (4, 6)


@pytest.mark.parametrize(
    ("run", "inputs", "parts"),
    [
        pytest.param(
            lambda m, x: m.out(m.b(m.a(x).repeat_interleave(2, -1)).mean((2, 3))),
            "x=N[1..16]x3xH[8..64]xW[8..64]", {"a": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 6, 3)},
            id="image",
        ),
        pytest.param(
            lambda m, x: m.out(m.b(m.a(x).view(*x.shape[:2], 2, 4).flatten(2)).mean(1)),
            "x=N[1..16]xS[2..64]x3", {"a": nn.Linear(3, 8), "b": nn.Linear(8, 6)}, id="series",
        ),
    ],
)  # fmt: skip
def test_dynamic_sizes_stay_and_export(
    prune: Prune, tmp_path: Path, run: Any, inputs: str, parts: dict[str, Any]
) -> None:
    """The cut graph runs at other sizes, is captured again, and goes to ONNX."""
    done = prune(run, inputs, sizes=[9, 12], out=nn.Linear(6, 5), **parts)

    captured = capture(Model(done.module, parse_inputs([inputs])))
    written = export_model(Model(done.module, parse_inputs([inputs])), tmp_path, ExportOptions())

    assert len(captured.range_constraints) == len(dims_of(parse_inputs([inputs])))
    _check_onnx(done.module, written, parse_inputs([inputs]))


def _check_onnx(module: nn.Module, written: Exported, specs: tuple[TensorSpec, ...]) -> None:
    """ONNX Runtime gives what the cut graph does, at sizes that it was not captured with."""
    from onnxruntime import InferenceSession

    session = InferenceSession(written.artifact.model_path)
    for size in (9, 12):
        feeds = synthetic_feeds(specs, dict.fromkeys(dims_of(specs), size), 0)
        (got,) = session.run(None, feeds)
        with torch.no_grad():
            expected = module(*(to_tensor(feed) for feed in feeds.values()))
        assert np.abs(got - expected.numpy()).max() < 1e-4


def test_heads_that_go_with_a_dynamic_batch_export(prune: Prune, tmp_path: Path) -> None:
    def run(m: Any, x: Tensor) -> Any:
        folded = m.a(x).view(x.shape[0], 7, 4, 6).transpose(1, 2).reshape(x.shape[0] * 4, -1, 6)
        scores = torch.bmm(folded, folded.transpose(1, 2)).softmax(-1)
        y = torch.bmm(scores, folded).view(x.shape[0], 4, 7, 6)
        return m.out(y.transpose(1, 2).flatten(2))

    done = prune(run, "x=N[1..16]x7x3", heads="whole", a=nn.Linear(3, 24), out=nn.Linear(24, 5))

    assert done.widths["out.weight"] == (5, 12)
    specs = parse_inputs(["x=N[1..16]x7x3"])
    written = export_model(Model(done.module, specs), tmp_path, ExportOptions())
    _check_onnx(done.module, written, specs)


@torch.library.custom_op("deploykit_tests::mirror", mutates_args=())
def mirror(x: torch.Tensor) -> torch.Tensor:
    return x.flip(-1)


@mirror.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda m, x: m.out(torch.topk(m.a(x), 8, -1).values), "topk runs over it"),
        (lambda m, x: m.out(torch.sort(m.a(x), -1).values), "sort runs over it"),
        (lambda m, x: m.out(m.a(x).softmax(-1)), "softmax runs over it"),
        (lambda m, x: m.out(m.a(x).cumsum(-1)), "cumsum runs over it"),
        (lambda m, x: m.out(m.a(x).roll(1, 1)), "is rolled"),
        (lambda m, x: m.out(torch.gather(m.a(x), 1, m.a(x).argsort(-1))), "argsort runs over it"),
        (lambda m, x: m.out(torch.fft.rfft(m.a(x), 14).abs()), "fft_rfft runs over it"),
        (lambda m, x: m.out(mirror(m.a(x)).detach() + m.a(x)), "deploykit_tests.mirror"),
        (
            lambda m, x: m.out(torch.cond(x.sum() > 0, torch.sin, torch.cos, (m.a(x),))),
            "no pruning rule for cond",
        ),
    ],
    ids=["topk", "sort", "softmax", "cumsum", "roll", "gather", "fft", "custom", "cond"],
)
def test_what_is_unknown_or_ordered_locks_and_says_why(prune: Prune, run: Any, why: str) -> None:
    done = prune(run, VECTOR, a=nn.Linear(6, 8), out=nn.Linear(8, 5), gradients=False, zeroed=False)

    assert why in done.locks["a"]
    assert done.widths["a.weight"] == (8, 6)


def test_places_of_a_maximum_lock_and_its_value_does_not(prune: Prune) -> None:
    where = prune(
        lambda m, x: m.out(m.a(x) + m.a(x).max(-1, keepdim=True).indices),
        VECTOR, a=nn.Linear(6, 8), out=nn.Linear(8, 5),
    )  # fmt: skip
    value = prune(
        lambda m, x: m.out(m.a(x) + m.a(x).max(-1, keepdim=True).values),
        VECTOR, a=nn.Linear(6, 8), out=nn.Linear(8, 5),
    )  # fmt: skip

    assert "max runs over it" in where.locks["a"]
    assert value.marks == {"a": "approximate"}


def test_a_parameter_without_a_rule_is_named(prune: Prune) -> None:
    done = prune(
        lambda m, x: m.out(m.bag(x)), "x=N[1..8]x5:int64",
        bag=nn.EmbeddingBag(50, 24), out=nn.Linear(24, 3),
    )  # fmt: skip

    assert "embedding_bag" in done.locks["bag"]


def test_cutting_twice_is_cutting_what_was_left() -> None:
    """The cut graph is a network like any other: captured, analysed and cut again."""
    torch.manual_seed(0)
    module: nn.Module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.Flatten(),
        nn.Linear(288, 5),
    ).eval()  # fmt: skip
    inputs = parse_inputs(["x=N[1..8]x3x8x8"])
    for width in (8, 4):
        program = program_of(Model(module, inputs))
        structure = analyse(program)
        sizes = {name: tuple(tensor.shape) for name, tensor in program.tensors.items()}
        removed = {"0": np.arange(structure.groups[0].channels // 2)}
        module = cut(program, plan_of(structure, removed, sizes))
        assert module.state_dict()["0.weight"].shape[0] == width
        assert module(torch.ones(2, 3, 8, 8)).shape == (2, 5)
