"""Which residual blocks stay where a network keeps a share of its depth: evenly spread ones.

A *run* is blocks that follow each other on one stream, with nothing that calculates in between, and
are alike: their parameters have the same names and ranks, whatever the sizes. What repeats may be
more than one block: of attention, MLP, attention, MLP ... a layer is two.

    ResNet-18     layer2 = [0: projected] [1]              a run of 1 behind the first of its stage
    ViT           (attn mlp) (attn mlp) (attn mlp) ...     a run of 12 layers

The block that opens a stage changes the shape and can never go; where there is one, it counts as
the first of its run. Else the run's own first block stays. The others that stay are as far apart
as can be (every other one of twelve: Sanh et al., DistilBERT, 2019, arXiv:1910.01108, section 3).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from deploykit.compress.prune.analysis.cost import macs_by_node
from deploykit.compress.prune.depth.blocks import blocks_of
from deploykit.compress.prune.graph.constants import memory_owners
from deploykit.compress.prune.graph.liveness import effects
from deploykit.compress.prune.graph.program import learnt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch.fx import Node

    from deploykit.compress.prune.depth.blocks import Block
    from deploykit.compress.prune.graph.program import Program

    Kind: TypeAlias = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Blocks that are alike, one behind the other.

    Attributes:
        units: what repeats: each is blocks in the order of computation, by name.
        opened: whether a block that can never go stands before them.
    """

    units: tuple[tuple[str, ...], ...]
    opened: bool

    @property
    def can_go(self) -> int:
        """How many units may go at most."""
        return len(self.units) if self.opened else len(self.units) - 1

    def gone(self, depth: float) -> tuple[str, ...]:
        """Names of the blocks that go when this share of the run stays, at least one block."""
        total = len(self.units) + self.opened
        keep = max(1, int(depth * total + 0.5))
        stay = {place * total // keep for place in range(keep)}
        units = enumerate(self.units, int(self.opened))
        return tuple(name for place, unit in units if place not in stay for name in unit)


def runs_of(program: Program) -> tuple[Run, ...]:
    """The runs of a network's residual blocks, in the order of computation."""
    return _Search(program).runs()


class _Search:
    """Runs in one graph."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._blocks = blocks_of(program)
        self._costs = macs_by_node(program)
        self._learnt = learnt(program.module)
        others = effects(program.module, memory_owners(program.module))
        tensors = frozenset(program.shapes)
        self._before: Mapping[Node, tuple[Node, ...]] = {
            node: tuple(n for n in used if n in tensors) for node, used in others.items()
        }

    def runs(self) -> tuple[Run, ...]:
        found: list[Run] = []
        for chain in self._chains():
            opened = self._is_opened(chain[0])
            kinds = [self._kind(block) for block in chain]
            for start, period, end in _repeats(kinds):
                places = range(start, end - period + 1, period)
                units = (tuple(b.name for b in chain[p : p + period]) for p in places)
                found.append(Run(tuple(units), opened and start == 0))
        return tuple(found)

    def _chains(self) -> list[list[Block]]:
        """Blocks on one stream; those inside another's branch are chains of their own."""
        chains: list[list[Block]] = []
        latest: dict[tuple[str, ...], list[Block]] = {}
        for block in self._blocks:
            chain = latest.get(block.inside)
            if chain is None or not self._follows(block, chain[-1]):
                chains.append(chain := [])
                latest[block.inside] = chain
            chain.append(block)
        return chains

    def _follows(self, block: Block, other: Block) -> bool:
        """Whether nothing that calculates stands between another block's sum and this stream."""
        shapes = self._program.shapes
        return shapes[block.sum] == shapes[other.sum] and all(
            node.op != "placeholder" and node not in self._costs
            for node in self._upstream(block.kept, {other.sum})
        )

    def _upstream(self, end: Node, stops: set[Node]) -> Iterator[Node]:
        """Every node that leads to `end`, and that itself, as far back as `stops`, without them."""
        seen: set[Node] = set()
        todo = [end]
        while todo:
            node = todo.pop()
            if node not in seen and node not in stops:
                seen.add(node)
                yield node
                todo.extend(self._before[node])

    def _is_opened(self, block: Block) -> bool:
        """Whether what leads to the stream from the last block before has all layers of one."""
        sums = {other.sum for other in self._blocks}
        return _layers(self._program, self._upstream(block.kept, sums)) >= _layers(
            self._program, block.branch
        )

    def _kind(self, block: Block) -> Kind:
        """Names within the block, and ranks, of all parameters that its branch reads."""
        names = [str(n.target) for n in block.branch if n.op == "get_attr"]
        read = sorted({name for name in names if name in self._learnt})
        shared = _shared([name.split(".")[:-1] for name in read])
        ranks = self._program.sizes
        return tuple((".".join(n.split(".")[shared:]), len(ranks[n])) for n in read)


def _layers(program: Program, nodes: Iterable[Node]) -> Counter[object]:
    """Weights of layers, counted by rank and kernel."""
    names = {str(node.target) for node in nodes if node.op == "get_attr"}
    sizes = program.sizes
    return Counter(
        (len(sizes[name]), sizes[name][2:])
        for name in names
        if name in program.names and len(sizes[name]) > 1
    )


def _shared(paths: Sequence[Sequence[str]]) -> int:
    """How many leading parts all have in common."""
    count = 0
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        count += 1
    return count


def _repeats(kinds: Sequence[Kind]) -> Iterator[tuple[int, int, int]]:
    """Start, period and end of stretches that repeat; what does not repeat is one of its own."""
    start = 0
    while start < len(kinds):
        best = (start + 1, 1)
        for period in range(1, (len(kinds) - start) // 2 + 1):
            end = start + period
            while end < len(kinds) and kinds[end] == kinds[end - period]:
                end += 1
            whole = end - (end - start) % period
            if whole - start >= 2 * period and whole > best[0]:
                best = (whole, period)
        yield start, best[1], best[0]
        start = best[0]
