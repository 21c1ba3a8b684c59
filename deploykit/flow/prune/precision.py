"""A network as it will ship, for its latency alone: quantized on made-up data.

Which numbers go through integer kernels is not what they cost, so that one sample of noise shows
the ranges. How much INT8 loses is asked of what is handed over: `deploykit quantize`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.flow.quantize.quantize import QuantizeRequest, run_quantize
from deploykit.load.artifacts import load_artifact
from deploykit.load.synthetic import choose_sizes, synthetic_feeds

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.core.progress import Progress

_SEED = 0


def quantized_beside(artifact: Path, progress: Progress) -> Path:
    """The artifact in INT8, in the folder `quantized_name` of it; made anew.

    Args:
        artifact: a float one.
        progress: told where it stands.

    Raises:
        BadInputError: it cannot be quantized; the message says why.
    """
    import numpy as np

    inputs = load_artifact(artifact).inputs
    data = artifact.with_name(f"{artifact.name}-noise.npz")
    np.savez(data, **synthetic_feeds(inputs, choose_sizes(inputs), _SEED))  # type: ignore[arg-type]  # names of inputs
    request = QuantizeRequest(
        artifact,
        quantized_name(artifact),
        str(data),
        changes={"bias_correction": False},  # moves no quantizer, and takes a while
        measure=False,
        overwrite=True,
    )
    run_quantize(request, progress)
    return request.out


def quantized_name(artifact: Path) -> Path:
    """Where `quantized_beside` puts it."""
    return artifact.with_name(f"{artifact.name}-int8")
