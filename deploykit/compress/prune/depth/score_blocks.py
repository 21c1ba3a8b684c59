"""How much a network needs each of its residual blocks.

From weights alone:

*  "magnitude": how large the factors are that the branch's output ends with (a layer scale, a
   norm's weights, the rows of a last linear layer), over the mean of the blocks on streams of the
   same shape that end in the same operator. Rough: it cannot see what the branch reads.

From data:

*  "influence": one minus the cosine between the stream before and behind the block, over each
   sample as a whole (Men et al., "ShortGPT: Layers in Large Language Models are More Redundant
   Than You Expect", 2024, arXiv:2403.03853, section 3.1, which takes it by token). One pass.
*  "output": how far the network's output moves without the block, relative to its size.
*  "loss": by how much the loss grows without the block; negative where it falls (Song et al.,
   "SLEB: Streamlining LLMs through Redundancy Verification and Elimination of Transformer
   Blocks", ICML 2024, arXiv:2402.09025, section 3.2).

The last two run the network once more for every block. All blocks share the weights, so that it
takes no more memory than running it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.compress.prune.analysis.rules.call import packet_name
from deploykit.compress.prune.depth.blocks import blocks_of, found_blocks
from deploykit.compress.prune.depth.bypass import bypassed
from deploykit.compress.prune.graph.constants import memory_owners
from deploykit.compress.prune.options import BLOCK_CRITERIA
from deploykit.core.errors import BadInputError, CheckFailedError, nearest
from deploykit.load.calls import named_outputs, refuse_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor
    from torch.fx import GraphModule, Node

    from deploykit.compress.prune.choice.evidence import Evidence
    from deploykit.compress.prune.depth.blocks import Block
    from deploykit.compress.prune.graph.program import Program

_MOST_AT_ONCE = 32
_TINY = 1e-30


@dataclass(frozen=True, slots=True, eq=False)
class BlockScorer:
    """Scores blocks by one criterion.

    Attributes:
        program: of the network; not changed.
        blocks: `blocks_of(program)`.
        criterion: one of `options.BLOCK_CRITERIA`.
        evidence: for all criteria but "magnitude"; with a loss for "loss".
    """

    program: Program
    blocks: tuple[Block, ...]
    criterion: str
    evidence: Evidence | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be scored."""
        if self.criterion not in BLOCK_CRITERIA:
            raise BadInputError(
                f"depth_by {self.criterion!r} is unknown{nearest(self.criterion, BLOCK_CRITERIA)}"
            )
        if self.criterion == "magnitude":
            return
        if self.evidence is None:
            raise BadInputError(
                f"depth_by {self.criterion!r} looks at data; give some, or take magnitude"
            )
        if self.criterion == "loss" and self.evidence.loss is None:
            raise BadInputError('depth_by "loss" needs a loss; take output')

    def scores(self, gone: Sequence[str] = ()) -> dict[str, float]:
        """Of every block that is still there, by name; the least needed are the lowest.

        Args:
            gone: blocks that are removed already; what lies inside them is gone too.

        Raises:
            BadInputError: the data does not fit the network, or has no labels for "loss".
            CheckFailedError: a score is not a number.
        """
        removed = found_blocks(self.blocks, gone)
        left = [b for b in self.blocks if b not in removed and not {*b.inside} & {*gone}]
        if self.criterion == "magnitude":
            values = _magnitudes(self.program, left)
        elif self.criterion == "influence":
            values = self._influences(left, removed)
        else:
            values = self._without_each(left, removed)
        wrong = next((name for name, value in values.items() if not np.isfinite(value)), None)
        if wrong is not None:
            raise CheckFailedError(
                f"{self.criterion} of block {wrong} is not finite; score with magnitude"
            )
        return values

    def _batches(self) -> Iterator[tuple[tuple[Tensor, ...], Tensor | None]]:
        import torch

        assert self.evidence is not None, "made sure when the scorer was made"
        device = next((t.device for t in self.program.tensors.values()), torch.device("cpu"))
        return wider(self.evidence).batches(device)

    def _influences(self, left: Sequence[Block], removed: Sequence[Block]) -> dict[str, float]:
        program, nodes = bypassed(self.program, removed)
        watched = {nodes[b.sum]: (b.name, nodes[b.kept]) for b in left}
        totals: dict[str, float] = defaultdict(float)
        count = 0
        for inputs, _ in self._batches():
            samples = len(inputs[0])
            count += samples
            for name, value in _distances(program.module, inputs, watched).items():
                totals[name] += value * samples
        return {block.name: totals[block.name] / count for block in left}

    def _without_each(self, left: Sequence[Block], removed: Sequence[Block]) -> dict[str, float]:
        whole = bypassed(self.program, removed)[0].module
        parts = {b.name: bypassed(self.program, (*removed, b))[0].module for b in left}
        totals: dict[str, float] = defaultdict(float)
        count = 0
        for inputs, labels in self._batches():
            judge = self._judge(whole, inputs, labels)
            samples = len(inputs[0])
            count += samples
            for name, module in parts.items():
                totals[name] += judge(module) * samples
        return {name: totals[name] / count for name in parts}

    def _judge(
        self, whole: GraphModule, inputs: tuple[Tensor, ...], labels: Tensor | None
    ) -> Callable[[GraphModule], float]:
        """How much worse than the whole a network is on a batch."""
        assert self.evidence is not None, "made sure when the scorer was made"
        if self.criterion == "output":
            expected = _outputs(whole, inputs)
            size = float(expected.norm()) or 1.0
            return lambda module: float((_outputs(module, inputs) - expected).norm()) / size
        if labels is None:
            raise BadInputError(
                f'{self.evidence.data.name} has no labels, which depth_by "loss" needs; take output'
            )
        known = labels
        base = self._loss(whole, inputs, known)
        return lambda module: self._loss(module, inputs, known) - base

    def _loss(self, module: GraphModule, inputs: tuple[Tensor, ...], labels: Tensor) -> float:
        import torch

        assert self.evidence is not None, "made sure when the scorer was made"
        assert self.evidence.loss is not None, "likewise"
        try:
            with torch.no_grad():
                return float(self.evidence.loss(module, _own(inputs), labels))
        except BadInputError:
            raise
        except Exception as error:  # noqa: BLE001  (users' losses raise what they like)
            refuse_call(error, self.evidence.inputs)


def score_blocks(
    program: Program, criterion: str, *, evidence: Evidence | None = None
) -> dict[str, float]:
    """How much a network needs each of its residual blocks, by name.

    Raises:
        BadInputError: the criterion is unknown, or the data does not do.
        CheckFailedError: a score is not a number.
    """
    return BlockScorer(program, blocks_of(program), criterion, evidence).scores()


def wider(evidence: Evidence) -> Evidence:
    """With as many samples in a batch as the network takes, and as fill all batches."""
    from deploykit.core.types import Dim

    first = evidence.inputs[0].shape[0] if evidence.inputs[0].shape else 1
    if not isinstance(first, Dim):
        return evidence
    count = min(evidence.samples, len(evidence.data))
    most = min(_MOST_AT_ONCE, count, first.high or count)
    batch = next((n for n in range(most, 0, -1) if count % n == 0 and n % first.step == 0), 0)
    return replace(evidence, batch=batch) if batch >= first.low and batch else evidence


def _own(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Copies: a network may write to its inputs."""
    return tuple(tensor.clone() for tensor in inputs)


def _outputs(module: GraphModule, inputs: tuple[Tensor, ...]) -> Tensor:
    """All numbers that the network puts out, as one vector in float64."""
    import torch

    with torch.no_grad():
        outputs = named_outputs(module(*_own(inputs)))
    return torch.cat([t.double().flatten() for t in outputs.values() if t.is_floating_point()])


def _distances(
    module: GraphModule, inputs: tuple[Tensor, ...], watched: dict[Node, tuple[str, Node]]
) -> dict[str, float]:
    """One minus the cosine between stream and sum, mean over samples; behind an activation."""
    import torch
    from torch import fx

    found: dict[str, float] = {}
    owners = memory_owners(module)

    class Watch(fx.Interpreter):
        def run_node(self, n: Node) -> Any:
            if n not in watched:
                return super().run_node(n)
            name, kept = watched[n]
            before = self.env[kept]
            if owners[n] is owners[kept]:
                before = before.clone()  # the sum is written to it
            result = super().run_node(n)
            found[name] = _one_minus_cosine(_after(n, before), _after(n, result))
            return result

    with torch.no_grad():
        Watch(module).run(*_own(inputs))
    return found


def _after(node: Node, value: Tensor) -> Tensor:
    """What the activation behind a sum makes of a value."""
    import torch

    users = list(node.users)
    if len(users) == 1 and len(users[0].all_input_nodes) == 1:
        user = users[0]
        if torch.Tag.pointwise in getattr(user.target, "tags", ()) and callable(user.target):
            made: Tensor = user.target(value.clone(), *user.args[1:], **user.kwargs)
            return made
    return value


def _one_minus_cosine(before: Tensor, after: Tensor) -> float:
    """Mean over samples: dimension 0."""
    one, other = before.double().flatten(1), after.double().flatten(1)
    sizes = (one.norm(dim=1) * other.norm(dim=1)).clamp_min(_TINY)
    return float((1 - (one * other).sum(1) / sizes).mean())


def _magnitudes(program: Program, blocks: Sequence[Block]) -> dict[str, float]:
    """Root mean square of the branch's last factors, over the mean of its kind."""
    kinds: dict[object, list[float]] = defaultdict(list)
    sizes: dict[str, tuple[object, float]] = {}
    for block in blocks:
        (end,) = (n for n in block.sum.all_input_nodes if n is not block.kept)
        last, size = _last_factors(program, end, block)
        kind = (last, program.shapes[block.sum])
        kinds[kind].append(size)
        sizes[block.name] = (kind, size)
    return {
        name: size / (float(np.mean(kinds[kind])) or 1.0) for name, (kind, size) in sizes.items()
    }


def _last_factors(program: Program, end: Node, block: Block) -> tuple[str, float]:
    """The operator that sets the scale of a branch's output, and the size of its factors."""
    factor, node = 1.0, end
    while node in block.branch:
        name = packet_name(node)
        weights = [program.tensors[str(n.target)] for n in node.all_input_nodes
                   if n.op == "get_attr" and str(n.target) in program.tensors]  # fmt: skip
        if name in {"mul", "mul_"} and weights:
            factor *= _rms(weights[0])
        elif name.endswith("_norm"):
            return name, factor * (_rms(weights[0]) if weights else 1.0)
        elif weights and weights[0].dim() > 1:
            tensor = weights[0]
            return name, factor * float(tensor.detach().double().norm()) / sqrt(tensor.shape[0])
        inner = [n for n in node.all_input_nodes if n in block.branch and n.op != "get_attr"]
        if not inner:
            break
        node = inner[0]
    return "", factor


def _rms(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().mean().sqrt())
