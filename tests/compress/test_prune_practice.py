"""Networks as practitioners write them, through the command line, judged from `plan.json` alone.

The judge takes the user's own module in float64 with random norms and biases, sets what the plan
removes to zero, evaluates norms over channels on what is kept, and compares with the folder that
was written, read back, with the same numbers cut as the plan says. It shares no code with what it
judges.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.fx.node import map_aggregate

import deploykit
from deploykit.cli.main import main
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from torch import Tensor

NETS = Path(__file__).parent / "practice"
SAME = 1e-9
NORMS = (nn.LayerNorm, nn.GroupNorm)


class Given(NamedTuple):
    inputs: tuple[str, ...]
    feeds: Any
    options: tuple[str, ...] = ("--ratio", "0.5", "--of", "macs")


def ids(*shape: int) -> Tensor:
    return torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(0))


def reals(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


CASES = {
    "yolo": Given(("images=N[1..8]x3x64x64",), lambda n: (reals(n, 3, 64, 64),)),
    "llama": Given(
        ("tokens=N[1..4]xT[2..32]:int64",),
        lambda n: (ids(n, 4 + n),),
        ("--ratio", "0.5", "--of", "parameters", "--heads", "whole"),
    ),
    "detr": Given(("x=N[1..4]x3x32x32",), lambda n: (reals(n, 3, 32, 32),)),
    "stylegan": Given(("z=N[1..4]x32",), lambda n: (reals(n, 32),)),
    "sngan": Given(
        ("x=N[1..8]x3x32x32", "y=N:int64"), lambda n: (reals(n, 3, 32, 32), ids(n))
    ),
    "tagger": Given(
        ("words=N[1..4]x7:int64", "chars=Nx7x6:int64"), lambda n: (ids(n, 7), ids(n, 7, 6))
    ),
    "glow": Given(("x=N[1..4]x3x16x16",), lambda n: (reals(n, 3, 16, 16),)),
    "diffusion": Given(
        ("x=N[1..4]x3x16x16", "t=N"), lambda n: (reals(n, 3, 16, 16), 10 * reals(n))
    ),
    "moe": Given(("x=N[1..8]x12x24",), lambda n: (reals(n, 12, 24),)),
}  # fmt: skip


def built(name: str) -> nn.Module:
    """The user's own network, without deploykit."""
    spec = importlib.util.spec_from_file_location(f"practice_{name}", NETS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    torch.manual_seed(0)
    module: nn.Module = code.build()
    return module.eval()


def leaves(value: Any) -> list[Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [tensor for part in parts for tensor in leaves(part)]


def randomise(module: nn.Module) -> None:
    """Vectors anew; what was positive stays so."""
    rng = torch.Generator().manual_seed(1)
    state = module.state_dict()
    for name, tensor in state.items():
        flat = sum(size > 1 for size in tensor.shape) < 2 or bool((tensor == 0).all())
        if not tensor.is_floating_point() or not flat or name.endswith(("._u", "._v")):
            continue
        new = torch.rand(tensor.shape, generator=rng, dtype=tensor.dtype)
        tensor.copy_(new + 0.5 if bool((tensor > 0).all()) else new * 1.5 - 0.5)


def gone(part: dict[str, Any]) -> Tensor:
    stays = set(part["kept"])
    return torch.tensor([index for index in range(part["size"]) if index not in stays])


def norms_of_the_kept(module: nn.Module, cuts: list[dict[str, Any]]) -> None:
    """Norms over channels see the kept ones, and give zeros elsewhere."""
    kept = {part["parameter"]: torch.tensor(part["kept"]) for part in cuts if part["dim"] == 0}
    for name, norm in list(module.named_modules()):
        index = kept.get(f"{name}.weight")
        if index is None or not (isinstance(norm, NORMS) or type(norm).__name__ == "RMSNorm"):
            continue
        small: Any = copy.deepcopy(norm)
        dim = 1 if isinstance(norm, nn.GroupNorm) else -1
        if isinstance(norm, nn.GroupNorm):
            stays = torch.zeros(norm.num_channels, dtype=torch.bool).index_fill(
                0, index, value=True
            )
            small.num_groups = int(stays.view(norm.num_groups, -1).any(1).sum())
        small.normalized_shape = (len(index),)
        for key, value in list(small.named_parameters()):
            setattr(small, key, nn.Parameter(value[index]))

        def forward(x: Tensor, small: Any = small, index: Tensor = index, dim: int = dim) -> Tensor:
            made: Tensor = small(x.index_select(dim, index))
            return torch.zeros_like(x).index_copy(dim, index, made)

        norm.forward = forward


def widened(module: nn.Module) -> nn.Module:
    """In float64, also where the graph says float32."""
    assert isinstance(module, torch.fx.GraphModule)
    for node in module.graph.nodes:
        wide = lambda arg: torch.float64 if arg is torch.float32 else arg  # noqa: E731
        node.args, node.kwargs = map_aggregate(node.args, wide), map_aggregate(node.kwargs, wide)
    module.recompile()
    return module.double()


@pytest.fixture
def whole_numbers_stay_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that says `x.float()` would round the reference itself."""
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_numbers_stay_double")
@pytest.mark.parametrize("name", CASES)
def test_a_network_that_nobody_named(name: str, tmp_path: Path) -> None:
    inputs, feeds, options = CASES[name]
    declared = [word for one in inputs for word in ("--input", one)]
    out = tmp_path / "out"
    flags = ("--align", "1", "--no-measure", "--no-finetune", "--check", "--quiet", "-o", str(out))

    status = main(["compress", "prune", f"{NETS / name}.py:build", *declared, *options, *flags])

    assert status == 0
    cuts = json.loads((out / "plan.json").read_text())["cuts"]
    record = json.loads((out / "pruning.json").read_text())
    of = options[3]
    assert 0.5 <= 1 - record["after"][of] / record["before"][of] < 0.6, "about what was asked"
    assert all(row["exactness"] != "approximate" for row in record["groups"])
    small = widened(deploykit.load_model(Source(str(out))).module)
    judge(name, small, cuts, feeds)
    learns(small, [feed.double() if feed.is_floating_point() else feed for feed in feeds(3)])


def judge(name: str, small: nn.Module, cuts: list[dict[str, Any]], feeds: Any) -> None:
    whole = built(name).double()
    with torch.no_grad():
        randomise(whole)
        own = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
        left = {**dict(small.named_parameters()), **dict(small.named_buffers())}
        for key in own.keys() & left.keys():
            if not own[key].is_floating_point():  # a permutation that was drawn at random
                own[key].copy_(left[key])
                continue
            part = own[key]
            for cut in (cut for cut in cuts if cut["parameter"] == key):
                part = part.index_select(cut["dim"], torch.tensor(cut["kept"]))
            left[key].copy_(part)
        for cut in cuts:
            if cut["parameter"] in dict(whole.named_parameters()):
                own[cut["parameter"]].index_fill_(cut["dim"], gone(cut), 0)
        norms_of_the_kept(whole, cuts)
        for count in (1, 3):
            expected = leaves(whole(*(feed.clone() for feed in feeds(count))))
            got = leaves(small(*feeds(count)))
            assert [part.shape for part in got] == [part.shape for part in expected]
            for one, other in zip(expected, got, strict=True):
                assert float((one - other).abs().max()) < SAME * float(one.abs().max())


def learns(small: nn.Module, feeds: list[Tensor]) -> None:
    """In training mode every parameter that is left has a gradient."""
    small.train()
    torch.autograd.backward([part.square().sum() for part in leaves(small(*feeds))])
    frozen = {name for name, value in small.named_parameters() if not value.requires_grad}
    assert {name for name, value in small.named_parameters() if value.grad is None} == frozen
