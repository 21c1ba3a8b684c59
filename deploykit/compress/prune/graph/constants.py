"""Constant folding: what depends on no input and no parameter is computed once.

Attention masks are often made by writing into slices of a zero tensor, so that operators that
write count as part of the constant they write to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploykit.load.quiet import quiet_torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch.fx import GraphModule, Node

_CREATE = frozenset(
    {"zeros", "ones", "full", "empty", "arange", "linspace", "eye", "tril_indices", "triu_indices",
     "scalar_tensor", "new_zeros", "new_ones", "new_full", "new_empty"}
)  # fmt: skip
_MAY_SHARE = frozenset({"reshape", "contiguous", "flatten", "to", "type_as", "expand_as"})
_LARGEST = 1 << 26  # elements


def fold_constants(module: GraphModule, names: frozenset[str] = frozenset()) -> None:
    """Replace each constant part of the graph by buffers with its value; changes the module.

    Each user gets a buffer of its own: what one loses to a cut, another may keep.

    Args:
        module: a graph.
        names: of tensors that are saved with the network. They keep their names, and real
            numbers among them are no constants: others may be loaded.
    """
    import torch

    constant = _constant(module, names)
    values: dict[Node, Any] = {}
    with torch.no_grad(), quiet_torch():
        for node in module.graph.nodes:
            if node in constant:
                values[node] = _value(module, node, values)
    number = 0
    for node in list(module.graph.nodes):
        users = [user for user in node.users if user not in constant]
        named = node.op == "get_attr" and (str(node.target) in names or len(users) < 2)
        if node not in constant or named:
            continue
        value = values[node]
        if not users or not isinstance(value, torch.Tensor):
            continue
        tensor = value.detach().clone()
        for user in users:  # a name each: what one user loses, another may keep
            name = f"_constant_{number}"
            number += 1
            module.register_buffer(name, tensor)
            with module.graph.inserting_before(node):
                made = module.graph.get_attr(name)
            made.meta = {"val": value}
            user.replace_input_with(node, made)
    for node in reversed(module.graph.nodes):
        if node in constant and not node.users:
            module.graph.erase_node(node)


def _value(module: GraphModule, node: Node, values: dict[Node, Any]) -> object:
    import torch
    from torch.fx.node import map_arg

    if node.op == "get_attr":
        found: object = module
        for part in str(node.target).split("."):
            found = getattr(found, part)
        # What is written to later must not change the network's own buffer.
        return found.clone() if isinstance(found, torch.Tensor) and is_written(node) else found

    def known(used: Node) -> Any:
        return values[used] if used in values else used.meta["val"]

    args: Any = map_arg(node.args, known)
    kwargs: Any = map_arg(node.kwargs, known)
    if _name(node).startswith("new_"):  # only the type of the tensor is asked for
        args = (torch.empty((), dtype=args[0].dtype), *args[1:])
    assert callable(node.target), "only calls are constant"
    return node.target(*args, **kwargs)


def is_written(node: Node) -> bool:
    """Whether it, or a view of it, is written to."""
    return any(writes(user) or (_shares(user) and is_written(user)) for user in node.users)


def _constant(module: GraphModule, names: frozenset[str]) -> set[Node]:
    """Nodes whose values are the same in every call."""
    import torch

    variable = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    variable |= {n for n, b in module.named_buffers() if n in names and b.is_floating_point()}
    found: set[Node] = set()
    for node in module.graph.nodes:
        if node.op == "get_attr":
            if node.target not in variable:
                found.add(node)
        elif node.op == "call_function" and (_creates(node) or _only(node, found)):
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor) and _size(value) is not None:
                found.add(node)
    while True:  # until nothing constant is written to, or kept, by what is not
        wrong = set(_spoilt(module, found))
        if not wrong:
            return found
        found -= wrong


def _spoilt(module: GraphModule, constant: set[Node]) -> Iterator[Node]:
    bases = memory_owners(module)
    position = {node: number for number, node in enumerate(module.graph.nodes)}
    written: dict[Node, list[Node]] = {}
    for node in module.graph.nodes:
        if writes(node) and node.all_input_nodes:
            written.setdefault(bases[node.all_input_nodes[0]], []).append(node)
    lost = {base for base, nodes in written.items() if any(n not in constant for n in nodes)}
    for node in constant:
        if writes(node) or bases[node] not in written:
            continue
        last = max(position[n] for n in written[bases[node]])
        if any(position[u] < last and u not in constant for u in node.users):
            lost.add(bases[node])
    for node in constant:
        owner = bases[node]
        read = node.op == "get_attr"
        spoilt = owner in lost and (not read or owner in written)
        if spoilt or not (read or _creates(node) or _only(node, constant)):
            yield node


def memory_owners(module: GraphModule) -> dict[Node, Node]:
    """The node that owns the memory of each."""
    bases: dict[Node, Node] = {}
    for node in module.graph.nodes:
        shares = node.op == "call_function" and node.all_input_nodes and _shares(node)
        bases[node] = bases[node.all_input_nodes[0]] if shares else node
    return bases


def _shares(node: Node) -> bool:
    """Whether the result may lie in the memory of the first input."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return False
    return _name(node) in _MAY_SHARE or any(r.alias_info is not None for r in schema.returns)


def writes(node: Node) -> bool:
    """Whether it changes one of its inputs."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _creates(node: Node) -> bool:
    """Whether it makes a tensor of fixed size from nothing."""
    if _name(node) not in _CREATE:
        return False
    sizes = node.args[1:] if _name(node).startswith("new_") else node.args
    return not any(hasattr(arg, "users") for arg in _flat(sizes))


def _flat(args: object) -> Iterator[object]:
    if isinstance(args, list | tuple):
        for arg in args:
            yield from _flat(arg)
    else:
        yield args


def _only(node: Node, constant: set[Node]) -> bool:
    inputs = node.all_input_nodes
    return bool(inputs) and all(n in constant for n in inputs) and not _is_random(node)


def _is_random(node: Node) -> bool:
    import torch

    tags = getattr(node.target, "tags", ())
    return torch.Tag.nondeterministic_seeded in tags and _name(node) != "dropout"


def _size(value: torch.Tensor) -> int | None:
    """Elements; `None` where that is dynamic or too many to keep."""
    if not all(isinstance(size, int) for size in value.shape):
        return None
    count = value.numel()
    return count if count <= _LARGEST else None


def _name(node: Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return getattr(packet, "__name__", getattr(node.target, "__name__", ""))
