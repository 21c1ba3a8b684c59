"""Which values are in memory at the same time: accounting, node by node."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import onnx

    from deploykit.quantize.calibrate.shapes import Value

_IN_PLACE = frozenset(
    {
        *("Abs", "Add", "Cast", "Clip", "Div", "Dropout", "Elu", "Exp", "Flatten", "HardSigmoid"),
        *("HardSwish", "Identity", "LeakyRelu", "Mul", "Neg", "PRelu", "Relu", "Reshape", "Selu"),
        *("Sigmoid", "Softplus", "Sqrt", "Squeeze", "Sub", "Tanh", "Unsqueeze"),
    }
)
"""Operators whose result ONNX Runtime writes over an input of its size that nobody else reads
(`MayInplace`, `Alias` in its CPU kernels)."""


class Alive:
    """Bytes that are alive while nodes are added to a piece, one after another.

    What a piece gives is alive until it ends, and so is what it reads from outside; what stays
    inside is gone after its last reader.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        weights: Mapping[str, int],
        last: Mapping[str, int],
        wanted: Collection[str],
        uncut: Collection[str],
    ) -> None:
        """Begin before the first node.

        Args:
            sizes: bytes by value.
            weights: bytes by constant, where they count.
            last: place of the last node that reads a value.
            wanted: values that are given.
            uncut: values that cannot go from piece to piece.
        """
        self._sizes, self._weights, self._last = sizes, weights, last
        self._wanted, self._uncut = wanted, uncut
        self._carried = 0  # read by nodes to come: alive if the graph is cut here
        self._now = 0
        self._uncut_open: set[str] = set()
        self._made: set[str] = set()
        self._loaded: set[str] = set()
        self._began = True

    def after(self, node: onnx.NodeProto, reads: Sequence[str]) -> int:
        """Bytes while this node runs, if it is added."""
        fresh = sum(self._weights.get(n, 0) for n in reads if n not in self._loaded)
        return self._now + fresh + sum(self._sizes.get(name, 0) for name in node.output)

    def may_cut(self) -> bool:
        """Whether a piece may end here."""
        return not self._began and not self._uncut_open

    def cut(self) -> None:
        """Begin a piece."""
        self._now = self._carried
        self._made, self._loaded, self._began = set(), set(), True

    def run(self, place: int, node: onnx.NodeProto, reads: Sequence[str]) -> None:
        """Add a node."""
        self._began = False
        for name in reads:
            if name not in self._loaded:
                self._now += self._weights.get(name, 0)
                self._loaded.add(name)
        for name in filter(None, node.output):
            size, later = self._sizes.get(name, 0), self._last.get(name, -1) > place
            self._made.add(name)
            self._carried += size if later else 0
            self._now += size if later or name in self._wanted else 0
            if later and name in self._uncut:
                self._uncut_open.add(name)
        for name in reads:
            if self._last[name] == place:
                size = self._sizes.get(name, 0)
                self._carried -= size
                self._now -= size if name in self._made and name not in self._wanted else 0
                self._uncut_open.discard(name)


def inner_bytes(
    nodes: Sequence[onnx.NodeProto],
    reads: Sequence[Sequence[str]],
    inside: Collection[str],
    values: Mapping[str, Value],
) -> int:
    """The most that values inside of a piece take at once, and what kernels take beside them.

    Args:
        nodes: of the piece.
        reads: names that each reads.
        inside: values that nobody outside wants.
        values: for one batch.
    """
    last = {name: place for place, names in enumerate(reads) for name in names}
    now = most = 0

    def size(name: str) -> int:
        return values[name].size_bytes if name in inside and name in values else 0

    for place, node in enumerate(nodes):
        made = sum(size(name) for name in node.output)
        dying = [size(name) for name in reads[place] if last[name] == place]
        # Its place is taken by the result, not freed after it was made.
        reused = made if node.op_type in _IN_PLACE and made in dying else 0
        most = max(most, now + made - reused + _workspace_bytes(node, values))
        unread = sum(size(name) for name in node.output if name not in last)
        now += made - unread - sum(dying)
    return most


def _workspace_bytes(node: onnx.NodeProto, values: Mapping[str, Value]) -> int:
    """What a kernel takes to work beyond its inputs and outputs, where that is much.

    ONNX Runtime's transposed convolution multiplies one sample's input with all weights of a group
    before it adds up what overlaps (conv_transpose.cc, `col_buffer`). Convolutions work in tiles
    of a fixed size (mlas/lib/convolve.cpp).
    """
    if node.op_type != "ConvTranspose" or not {*node.input[:2]} <= values.keys():
        return 0
    image, weights = (values[name] for name in node.input[:2])
    if image.shape is None or weights.shape is None or len(image.shape) < 3:
        return 0
    width = weights.size_bytes // max(prod(weights.shape), 1)
    return prod(weights.shape[1:]) * prod(image.shape[2:]) * width
