"""What a layer multiplies its weights with, as rows of a matrix: a sample of them.

A convolution is a product of matrices over patches of its input; a few thousand patches of a batch
tell as much of its weights as all do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.graph.values import attributes

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from deploykit.quantize.adjust.layers import Form


def sampled(
    node: onnx.NodeProto,
    form: Form,
    inputs: NDArray[np.float32],
    results: NDArray[np.float32],
    most: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows of a batch, evenly spaced, and what comes out of them.

    Args:
        node: Conv, Gemm or MatMul.
        form: of its weight.
        inputs: of the node.
        results: of shape [samples, channels, ...] for Conv, else [..., channels].
        most: rows.

    Returns:
        [groups, rows, in / groups * positions] and [groups, rows, out / groups].
    """
    if node.op_type != "Conv":
        rows, wanted = inputs.reshape(-1, inputs.shape[-1]), results.reshape(-1, results.shape[-1])
        chosen = _spaced(len(rows), most)
        return rows[None, chosen], wanted[None, chosen]
    places = np.unravel_index(
        _spaced(results.size // results.shape[1], most), (len(results), *results.shape[2:])
    )
    wanted = np.moveaxis(results, 1, -1)[places]
    rows = _patches(node, form, inputs, results.shape[2:], places)
    count = len(wanted)
    grouped = rows.reshape(count, form.groups, -1).swapaxes(0, 1)
    return grouped, wanted.reshape(count, form.groups, -1).swapaxes(0, 1)


def _spaced(count: int, most: int) -> NDArray[np.intp]:
    return np.linspace(0, count - 1, min(count, most)).astype(np.intp)


def _patches(
    node: onnx.NodeProto,
    form: Form,
    inputs: NDArray[np.float32],
    out: tuple[int, ...],
    places: tuple[NDArray[np.intp], ...],
) -> NDArray[np.float32]:
    """[rows, channels, *kernel]: what a convolution sees at some places of its result."""
    given = attributes(node)
    kernel = form.shape[2:]
    ones = [1] * len(kernel)
    strides, dilations = (_list(given.get(key), ones) for key in ("strides", "dilations"))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = inputs.shape[2:]
    before = _pads_before(given, sizes, out, strides, reach)
    needed = [(o - 1) * s + r for o, s, r in zip(out, strides, reach, strict=True)]
    around = [(b, max(n - b - size, 0)) for b, n, size in zip(before, needed, sizes, strict=True)]
    padded = np.pad(inputs, [(0, 0), (0, 0), *around])
    axes = tuple(range(2, 2 + len(kernel)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
    steps = tuple(slice(None, None, d) for d in dilations)
    starts = [place * s for place, s in zip(places[1:], strides, strict=True)]
    # Channels behind the places that are chosen, so that these come first in what is copied.
    seen = np.moveaxis(windows, 1, len(starts) + 1)[(places[0], *starts)]
    return np.asarray(seen[(slice(None), slice(None), *steps)])


def _pads_before(
    given: dict[str, object],
    sizes: tuple[int, ...],
    out: tuple[int, ...],
    strides: list[int],
    reach: list[int],
) -> list[int]:
    """Zeros in front of each dimension."""
    how = given.get("auto_pad", b"NOTSET")
    if how in {b"SAME_UPPER", b"SAME_LOWER"}:
        whole = [
            max((o - 1) * s + r - size, 0)
            for o, s, r, size in zip(out, strides, reach, sizes, strict=True)
        ]
        extra = how == b"SAME_LOWER"
        return [(one + extra) // 2 for one in whole]
    zeros = [0] * len(sizes)
    return _list(given.get("pads") if how == b"NOTSET" else None, zeros)[: len(sizes)]


def _list(value: object, default: list[int]) -> list[int]:
    return [int(one) for one in value] if isinstance(value, list | tuple) else default
