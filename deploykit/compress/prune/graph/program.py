"""The network as a graph that can be analysed and cut: ATen operators under original names.

`torch.export` gives the training form (`batch_norm`, `dropout`, in-place operators and views are
still there), which stays trainable. Here regions are inlined, assertions dropped, and what
depends on no input and no parameter (attention masks, position indices) is computed once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, cast

from deploykit.compress.prune.graph.constants import fold_constants
from deploykit.load.capture import capture
from deploykit.load.quiet import quiet_torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import SymInt, Tensor, nn
    from torch.fx import GraphModule, Node
    from torch.fx.node import Argument
    from torch.utils._pytree import TreeSpec

    from deploykit.core.types import Model

    Shape = tuple[int, ...]

STAND_INS = (101, 103, 107, 109, 113)
"""Sizes that stand for dynamic ones: primes, so that no factor of them is taken for a channel's."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A captured network. It shares its tensors with the network and is never changed.

    Attributes:
        module: the graph; targets of its `get_attr` nodes are qualified names of the network.
        shapes: of every node that is a tensor, with stand-ins for dynamic sizes; a tuple of
            shapes where it is several tensors, `None` for one that is none.
        tensors: what each `get_attr` names.
        names: of parameters and buffers that the network has itself; others are constants.
    """

    module: GraphModule
    shapes: dict[Node, Shape | tuple[Shape | None, ...]]
    tensors: dict[str, Tensor]
    names: frozenset[str]

    @property
    def sizes(self) -> dict[str, Shape]:
        """The shape of every parameter, buffer and constant, by name."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def shape(self, node: Node) -> Shape:
        """Of a node that is one tensor."""
        found = self.shapes[node]
        return tuple(size for size in found if isinstance(size, int))


def program_of(model: Model) -> Program:
    """Capture a network for pruning.

    Raises:
        BadInputError: `torch.export` cannot capture it; the message has its reason and the place.
    """
    exported = capture(model)
    with quiet_torch():
        captured = exported.module(check_guards=False)
    module = plain(captured, exported.call_spec.out_spec)
    name_by_first(module)
    inline_regions(module)
    drop_assertions(module)
    module.graph.eliminate_dead_code()
    names = frozenset(model.module.state_dict())
    fold_constants(module, names)
    module.graph.eliminate_dead_code()
    return described(module, names)


def plain(captured: nn.Module, out_spec: TreeSpec | None) -> GraphModule:
    """The graph with an ordinary `forward`: inputs by name or position, outputs as they were."""
    from torch import fx
    from torch.fx.graph import CodeGen
    from torch.utils import _pytree

    assert isinstance(captured, fx.GraphModule), "that is what an exported program gives"
    assert out_spec is not None, "torch.export records what the network returned"
    graph = captured.graph
    graph.set_codegen(CodeGen())
    output = graph.output_node()
    (leaves,) = output.args
    assert isinstance(leaves, list | tuple), "an exported program returns a flat list"
    output.args = (_structure(_pytree.tree_unflatten(leaves, out_spec)),)
    return fx.GraphModule(captured, graph)


def name_by_first(module: GraphModule) -> None:
    """Of several names of one parameter, use the one that `named_parameters()` gives."""
    every = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in every}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            node.target = names.get(str(node.target), node.target)


def _structure(value: object) -> Argument:
    """What a graph can return: mappings and dataclasses as dictionaries."""
    if isinstance(value, Mapping):
        return {str(key): _structure(part) for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _structure(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return tuple(_structure(part) for part in value)
    if isinstance(value, list):
        return [_structure(part) for part in value]
    return cast("Argument", value)


def described(module: GraphModule, names: frozenset[str]) -> Program:
    """The program of a cleaned graph."""
    tensors = {
        node.target: attribute(module, node.target)
        for node in module.graph.nodes
        if node.op == "get_attr" and not is_graph(module, str(node.target))
    }
    stand_ins: dict[object, int] = {}
    shapes: dict[Node, Shape | tuple[Shape | None, ...]] = {}
    for node in module.graph.nodes:
        value = tensors.get(node.target) if node.op == "get_attr" else node.meta.get("val")
        if isinstance(value, list | tuple):
            shapes[node] = tuple(_shape(part, stand_ins) for part in value)
        elif (shape := _shape(value, stand_ins)) is not None:
            shapes[node] = shape
    return Program(module, shapes, tensors, names)


def attribute(module: GraphModule, name: str) -> Tensor:
    """A tensor by its qualified name."""
    import torch

    found: object = module
    for part in name.split("."):
        found = getattr(found, part)
    assert isinstance(found, torch.Tensor), f"{name} is a {type(found).__name__}"
    return found


def _shape(value: object, stand_ins: dict[object, int]) -> Shape | None:
    import torch

    if not isinstance(value, torch.Tensor):
        return None
    sizes: Iterable[int | SymInt] = value.shape
    return tuple(size if isinstance(size, int) else _stand_in(size, stand_ins) for size in sizes)


def _stand_in(size: SymInt, stand_ins: dict[object, int]) -> int:
    """The size's expression with a prime in place of each symbol."""
    expression = size.node.expr
    for symbol in sorted(expression.free_symbols, key=str):
        if symbol not in stand_ins:
            stand_ins[symbol] = STAND_INS[len(stand_ins) % len(STAND_INS)]
    return int(expression.subs({s: stand_ins[s] for s in expression.free_symbols}))


def inline_regions(module: GraphModule) -> None:
    """Put the bodies of autocast and no-grad regions in their places.

    Capture is in float32 on the CPU, where such a region changes nothing but the graph.
    """
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not str(node.target).startswith("wrap_with_"):
            continue
        place = next(
            number
            for number, arg in enumerate(node.args)
            if getattr(arg, "op", "") == "get_attr" and is_graph(module, str(arg.target))
        )
        body = getattr(module, str(node.args[place].target))
        inline_regions(body)
        inner = [n for n in body.graph.nodes if n.op == "placeholder"]
        known = dict(zip(inner, node.args[place + 1 :], strict=True))
        with module.graph.inserting_before(node):
            for part in body.graph.nodes:
                if part.op in {"placeholder", "output"}:
                    continue
                known[part] = module.graph.node_copy(part, known.__getitem__)
                if part.op == "get_attr":
                    known[part].target = _moved(module, body, str(part.target))
        (result,) = next(n for n in body.graph.nodes if n.op == "output").args
        parts = result if isinstance(result, list | tuple) else (result,)
        for user in list(node.users):
            user.replace_all_uses_with(known[parts[int(user.args[1])]])
            module.graph.erase_node(user)
        module.graph.erase_node(node)


def learnt(module: GraphModule) -> frozenset[str]:
    """Names of parameters, every one where several name the same."""
    return frozenset(name for name, _ in module.named_parameters(remove_duplicate=False))


def bodies(module: GraphModule) -> dict[str, object]:
    """The bodies of regions that are still there (`torch.cond`), by name."""
    names = [str(node.target) for node in module.graph.nodes if node.op == "get_attr"]
    return {name: getattr(module, name) for name in names if is_graph(module, name)}


def is_graph(module: GraphModule, name: str) -> bool:
    """Whether a name is that of a region's body (`torch.cond`, autocast)."""
    return hasattr(getattr(module, name, None), "graph")


def _moved(module: GraphModule, body: GraphModule, name: str) -> str:
    """A tensor of a region's own, under a name of the whole graph."""
    taken = len(dict(module.named_buffers()))
    new = f"_region_{taken}_{name.replace('.', '_')}"
    module.register_buffer(new, attribute(body, name))
    return new


def drop_assertions(module: GraphModule) -> None:
    """Take out checks of sizes and types: capture has made them already."""
    for node in reversed(module.graph.nodes):
        name = getattr(node.target, "__name__", "")
        checks = node.op == "call_function" and name.startswith(("_assert", "sym_constrain"))
        if checks or (node.op == "call_module" and "guard" in str(node.target)):
            module.graph.erase_node(node)
