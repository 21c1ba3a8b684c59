"""Fused attention that PyTorch's exporter cannot translate, written out.

Its translation takes queries, keys and values of four dimensions only. Windows and grids of
patches bring five, a single head three.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.export import ExportedProgram

_TRANSLATED_DIMS = 4  # [samples, heads, positions, width]


def written_out(program: ExportedProgram) -> ExportedProgram:
    """The program with such attention as products and a softmax; as it is where it has none.

    Args:
        program: captured; not changed.
    """
    import torch

    fused = torch.ops.aten.scaled_dot_product_attention.default
    nodes = [node for node in program.graph.nodes if node.target is fused]
    if all(node.args[0].meta["val"].dim() == _TRANSLATED_DIMS for node in nodes):
        return program
    table: dict[Any, Callable[..., Any]] = {fused: _attention}
    made: ExportedProgram = program.run_decompositions(table)
    return made


def _attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any) -> Any:
    """softmax(q·kᵀ·s + mask)·v, in evaluation mode; source: the operator's documentation."""
    import torch

    if query.dim() == _TRANSLATED_DIMS:
        return NotImplemented  # stays what it is
    options = {**dict(zip(("attn_mask", "dropout_p", "is_causal"), rest, strict=False)), **named}
    attn_mask, scale = options.get("attn_mask"), options.get("scale")
    if options.get("enable_gqa"):
        shared = query.shape[-3] // key.shape[-3]
        key, value = (part.repeat_interleave(shared, -3) for part in (key, value))
    factor = 1 / sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if options.get("is_causal"):
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, dim=-1) @ value
