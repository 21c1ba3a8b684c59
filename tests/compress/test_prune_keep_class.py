"""The user's own class, smaller: which it can be, and that it is refused where it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from deploykit.compress.prune.analysis.analyse import analyse
from deploykit.compress.prune.cutting.cut import cut, plan_of
from deploykit.compress.prune.graph.program import program_of
from deploykit.compress.prune.own_class.class_check import in_double
from deploykit.compress.prune.own_class.class_groups import agreeing_groups, tied
from deploykit.compress.prune.own_class.keep_class import CannotKeepClassError, keep_class
from deploykit.core.types import Dim, Model, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

    from deploykit.compress.prune.graph.program import Program
    from deploykit.compress.prune.plan import Plan
    from deploykit.compress.prune.structure import Structure

IMAGES = (3, 8, 8)
TOKENS = (5, 12)


def model_of(module: nn.Module, shape: tuple[int, ...]) -> Model:
    """With random weights of a size that matters, a dynamic batch and one input."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.8, 0.8)
    return Model(module.eval(), (TensorSpec("x", "float32", (Dim("N", 1, 8), *shape)),))


def plan_for(program: Program, structure: Structure, share: float | dict[str, int]) -> Plan:
    """The first channels of groups go: a share of each, or counts by name."""
    removed = {
        group.name: np.arange(
            round(share * group.channels) if isinstance(share, float) else share.get(group.name, 0)
        )
        for group in structure.free
    }
    sizes = {name: tuple(tensor.shape) for name, tensor in program.tensors.items()}
    return plan_of(structure, removed, sizes)


def kept(module: nn.Module, shape: tuple[int, ...], share: float = 0.5) -> Any:
    """The class cut; computes what the graph does, and what was given is as it was."""
    model = model_of(module, shape)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    program = program_of(model)
    plan = plan_for(program, analyse(program), share)
    small, graph = keep_class(model, program, plan), cut(program, plan).eval()

    assert plan.cuts
    assert type(small) is type(module)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in module.parameters())
    for batch in (1, 3):
        x = torch.rand(batch, *shape)
        with torch.no_grad():
            torch.testing.assert_close(small(x), graph(x), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())
    return small


class Block(nn.Module):
    """A residual block of a grouped, a depthwise and a plain convolution, with their norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=2)
        self.middle = nn.GroupNorm(4, 16)
        self.spread = nn.Conv2d(16, 32, 3, padding=1, groups=16)
        self.act = nn.PReLU(32)
        self.last = nn.Conv2d(32, 8, 1, bias=False)
        self.up = nn.ConvTranspose2d(8, 12, 2, stride=2)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Any:
        """[N, 10]."""
        x = self.norm(self.stem(x)).relu()
        x = x + self.last(self.act(self.spread(self.middle(self.grouped(x)))))
        return self.head(self.up(x).mean((2, 3)))


def test_attributes_of_torch_layers_follow_their_weights() -> None:
    small = kept(Block(), IMAGES)

    assert (small.stem.in_channels, small.stem.out_channels) == (3, 4)
    assert small.norm.num_features == 4
    assert (small.grouped.in_channels, small.grouped.out_channels) == (4, 8)
    assert small.grouped.groups == 2
    assert (small.middle.num_groups, small.middle.num_channels) == (2, 8)
    assert (small.spread.in_channels, small.spread.out_channels) == (8, 16)
    assert small.spread.groups == 8
    assert small.act.num_parameters == 16
    assert (small.up.in_channels, small.up.out_channels) == (4, 6)
    assert (small.head.in_features, small.head.out_features) == (6, 10)


def test_the_cut_class_trains_on_weights_of_its_own() -> None:
    module = Block()
    small = kept(module, IMAGES).train()

    small(torch.rand(4, *IMAGES)).sum().backward()

    assert all(parameter.grad is not None for parameter in small.parameters())
    assert all(parameter.grad is None for parameter in module.parameters())


class Recurrent(nn.Module):
    """Tokens through an embedding's width, an LSTM and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(12, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        """[N, 3]."""
        return self.head(self.norm(self.lstm(self.before(x))[0]).mean(1))


def test_recurrent_layers_are_told_their_sizes() -> None:
    small = kept(Recurrent(), TOKENS)

    assert small.lstm.input_size == small.before.out_features == 4
    assert small.lstm.hidden_size == small.norm.normalized_shape[0] == small.head.in_features


class Attention(nn.Module):
    """As classes are written: numbers of heads and widths in attributes, the scale left out."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = width
        self.attn_dim = heads * width
        self.qkv = nn.Linear(12, 3 * heads * width)
        self.proj = nn.Linear(heads * width, 12)

    def forward(self, x: Tensor) -> Any:
        """As `x`, [N, positions, 12]."""
        n, positions, _ = x.shape
        parts = self.qkv(x).reshape(n, positions, 3, self.num_heads, self.head_dim)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.proj(y.reshape(n, positions, self.attn_dim))


class Transformer(nn.Module):
    """Two attentions."""

    def __init__(self, *shapes: tuple[int, int]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Attention(heads, width) for heads, width in shapes))

    def forward(self, x: Tensor) -> Any:
        """[N, 12]."""
        return self.blocks(x).mean(1)


def test_a_narrower_head_keeps_its_scale() -> None:
    small = kept(Transformer((2, 8), (2, 6)), TOKENS)

    first = small.get_submodule("blocks.0")
    assert (first.num_heads, first.head_dim, first.attn_dim) == (2, 4, 8)


def test_as_many_heads_as_their_width_are_told_apart_by_the_other_block() -> None:
    small = kept(Transformer((4, 4), (2, 6)), TOKENS)

    first = small.get_submodule("blocks.0")
    assert (first.num_heads, first.head_dim, first.attn_dim) == (4, 2, 8)


class Split(nn.Module):
    """Parts of unequal sizes, one of them through a convolution; sizes in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 1)
        self.sizes = [4, 8]
        self.wide = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Any:
        """[N, 5, height, width]."""
        left, right = self.stem(x).split(self.sizes, dim=1)
        return self.head(torch.cat([left, self.wide(right)], 1))


def test_a_list_of_split_sizes_is_mended() -> None:
    small = kept(Split(), IMAGES)

    assert small.sizes == [2, 4]


class Rest(nn.Module):
    """A part and what is left of the whole, of which only the sum is kept; a multiple."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 14, 1)
        self.part, self.whole = 4, 14
        self.third = 6
        self.three = nn.Conv2d(4, 18, 1)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Any:
        """[N, 5, height, width]."""
        left, right = self.stem(x).split([self.part, self.whole - self.part], dim=1)
        n, _, height, width = x.shape
        three = self.three(left).reshape(n, -1, 3 * self.third, height, width).sum(1)
        q, k, v = three.chunk(3, dim=1)
        return self.head(torch.cat([q * k + v, right], 1))


@pytest.mark.parametrize("removed", [1, 3])
def test_sums_and_parts_of_numbers_are_tried_where_the_plain_repair_fails(removed: int) -> None:
    model = model_of(Rest(), IMAGES)
    program = program_of(model)
    structure = analyse(program)
    counts = {group.name: removed for group in structure.free}
    small: Any = keep_class(model, program, plan_for(program, structure, counts))

    assert (small.part, small.whole, small.third) == (4 - removed, 14 - 2 * removed, 6 - removed)


class Twice(nn.Module):
    """One depthwise layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.first = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8))
        self.second = nn.Sequential(self.first[0])
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Any:
        """[N, 5, height, width]."""
        return self.head(self.second(self.first(self.stem(x)).relu()))


def test_a_shared_layer_stays_shared() -> None:
    small = kept(Twice(), IMAGES)

    assert small.first[0] is small.second[0]
    assert small.first[0].groups == 4


class OwnScale(nn.Module):
    """Takes a scale from the width of what it sees, as no attribute can change."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(12, 8)
        self.down = nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Any:
        """As `x`."""
        y = self.up(x)
        return self.down(torch.tanh(y / y.shape[-1] ** 0.5))


def test_a_class_that_runs_and_computes_something_else_is_refused() -> None:
    model = model_of(OwnScale(), TOKENS)
    program = program_of(model)
    plan = plan_for(program, analyse(program), 0.5)

    with pytest.raises(CannotKeepClassError, match=r"OwnScale .* outputs differ by \d"):
        keep_class(model, program, plan)


class Halves(nn.Module):
    """Equal halves of one layer, each through its own; and a plain layer before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.both = nn.Conv2d(6, 16, 1)
        self.left = nn.Conv2d(8, 5, 1)
        self.right = nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        """[N, 5, height, width]."""
        left, right = self.both(self.stem(x).relu()).chunk(2, dim=1)
        return self.left(left) + self.right(right.relu())


def test_a_class_that_does_not_run_is_refused_with_the_place() -> None:
    model = model_of(Halves(), IMAGES)
    program = program_of(model)
    plan = plan_for(program, analyse(program), {"both": 4})

    with pytest.raises(CannotKeepClassError, match=r"does not run in left: RuntimeError") as caught:
        keep_class(model, program, plan)
    assert "\n" not in str(caught.value)
    assert "--keep-class" in str(caught.value)


def test_halves_are_tied_so_that_they_stay_equal() -> None:
    model = model_of(Halves(), IMAGES)
    program = program_of(model)
    whole = analyse(program)
    structure = agreeing_groups(model, program, whole)

    assert [group.name for group in whole.free] == ["stem", "both", "both:2"]
    assert [(group.name, group.channels) for group in structure.free] == [("stem", 6), ("both", 8)]
    small: Any = keep_class(model, program, plan_for(program, structure, {"stem": 1, "both": 3}))
    assert small.both.out_channels == 10
    assert (small.left.in_channels, small.right.in_channels) == (5, 5)


def test_what_the_class_cannot_express_is_locked_with_its_own_words() -> None:
    model = model_of(nn.Sequential(nn.Linear(12, 12), OwnScale()), TOKENS)
    program = program_of(model)
    structure = agreeing_groups(model, program, analyse(program))

    assert [group.name for group in structure.free] == ["0"]
    (locked,) = (group for group in structure.groups if group.name == "1.up")
    assert locked.locked.startswith("is left alone for the class's sake: it runs and its outputs")
    keep_class(model, program, plan_for(program, structure, 0.5))


def test_nothing_changes_where_the_class_can_express_everything() -> None:
    model = model_of(Block(), IMAGES)
    program = program_of(model)
    structure = analyse(program)

    assert agreeing_groups(model, program, structure) is structure


def test_a_tie_of_unlike_groups_has_the_channels_of_their_common_measure() -> None:
    program = program_of(model_of(Block(), IMAGES))
    free = analyse(program).free
    stem = next(group for group in free if group.name == "stem")
    up = next(group for group in free if group.name == "up")

    tie = tied((stem, up))

    assert tie is not None
    assert tie.channels == 4
    shapes = {(m.parameter, m.dim): m.indices.shape for m in tie.members}
    assert shapes["stem.weight", 0] == (4, 2)
    assert shapes["up.weight", 1] == (4, 3)
    assert tied((stem, next(group for group in free if group.channels % 4))) is None


def test_casts_and_new_tensors_are_float64_while_compared() -> None:
    with in_double():
        cast = torch.ones(2, dtype=torch.float64).float()
        made = torch.zeros(2)
        asked = torch.zeros(2, dtype=torch.float16)

    assert {cast.dtype, made.dtype, asked.dtype} == {torch.float64}
    assert torch.get_default_dtype() is torch.float32


class Timed(nn.Module):
    """Adds sines of positions, made anew by each call, in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(12, 8)
        self.after = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        """[N, T, 3]."""
        frequencies = torch.exp(torch.arange(12) * (-9.2 / 11))
        return self.after(self.before((x[..., None, 0] * 10 * frequencies).sin()).relu())


def test_a_table_of_float32_numbers_is_no_reason_to_refuse() -> None:
    model = model_of(Timed(), TOKENS)
    program = program_of(model)
    structure = analyse(program)
    for seed in range(4):
        assert agreeing_groups(model, program, structure, seed) is structure
        keep_class(model, program, plan_for(program, structure, 0.5), seed)


def test_spectral_and_weight_norm_keep_their_class() -> None:
    normed = nn.utils.parametrizations
    small = kept(
        nn.Sequential(
            normed.spectral_norm(nn.Conv2d(3, 8, 3)),
            nn.ReLU(),
            normed.weight_norm(nn.Conv2d(8, 16, 3)),
            nn.ReLU(),
            nn.Conv2d(16, 2, 1),
        ),
        IMAGES,
    )

    assert (small[0].out_channels, small[2].in_channels, small[2].out_channels) == (4, 4, 8)
    assert small[4].in_channels == 8
    small.train()(torch.rand(2, *IMAGES)).sum().backward()
