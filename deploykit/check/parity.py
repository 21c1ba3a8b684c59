"""Does the artifact compute what the network computes? Compared output by output.

The figure is the largest difference over the largest magnitude in the reference: a plain
`allclose` with fixed tolerances passes anything on small outputs and nothing on large ones.
Probabilities, outputs that lie within 0 and 1, are held against at least 0.01: kernels of sigmoid
and softmax are accurate in absolute terms (about 1e-7), and a detector that sees nothing gives
values near 0 only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deploykit.core.errors import BadInputError
from deploykit.core.report import Check, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Array: TypeAlias = NDArray[np.generic]

LIMITS = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2}
"""The largest relative difference that passes, by element type of the reference. Float32 kernels
that add in another order differ by 1e-7 to 1e-5 on deep networks."""
_OTHER_LIMIT = 5e-2  # bfloat16 and narrower
_LEAST_PROBABILITY = 1e-2
_EXACT = "biu"  # booleans and integers must be equal


def compare(
    name: str,
    reference: Mapping[str, Array],
    found: Mapping[str, Array],
    limit: float | None = None,
) -> Check:
    """Hold the outputs of an artifact against those of the reference.

    Args:
        name: of the check.
        reference: by output name.
        found: by output name; every output of the reference must be there.
        limit: on the relative difference; `None` takes `LIMITS` by element type.

    Returns:
        The check of the worst output: the relative difference, or for integers the share of
        elements that differ.

    Raises:
        BadInputError: the reference has NaN.
    """
    checks = [
        _compare_one(name, output, array, found.get(output), limit)
        for output, array in reference.items()
    ]
    failed = [check for check in checks if check.verdict is not Verdict.PASSED]
    return max(failed or checks, key=lambda check: check.value or 0.0)


def relative_difference(reference: Array, found: Array) -> float:
    """Largest absolute difference over the largest magnitude of the reference.

    Where the whole reference lies within 0 and 1 the magnitude counts as 0.01 or more.

    Equal infinities do not differ. NaN or infinity on one side only is an infinite difference.
    """
    want, have = _wide(reference), _wide(found)
    if want.shape != have.shape:
        return float("inf")
    if want.size == 0:
        return 0.0
    same = (want == have) | (np.isnan(want) & np.isnan(have))
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.where(same, 0.0, np.abs(want - have))
    finite = np.abs(want[np.isfinite(want)])
    scale = float(finite.max()) if finite.size else 0.0
    if ((want >= 0) & (want <= 1)).all():
        scale = max(scale, _LEAST_PROBABILITY)
    worst = float(np.nan_to_num(gap, nan=np.inf, posinf=np.inf).max())
    return worst / scale if scale > 0 else worst


def first_divergence(
    names: Iterable[str],
    reference: Mapping[str, Array],
    found: Mapping[str, Array],
    limit: float | None = None,
) -> tuple[str, float] | None:
    """The first tensor, in the order of `names`, that differs by more than its limit.

    Args:
        names: tensors in the order in which they are computed.
        reference: by name.
        found: by name; tensors that are missing on one side are passed over.
        limit: as in `compare`.

    Returns:
        Its name and difference, or `None` where all agree.
    """
    for name in names:
        if name in reference and name in found:
            gap = _difference(reference[name], found[name])
            if gap > _limit_for(reference[name], limit):
                return name, gap
    return None


def _compare_one(
    name: str, output: str, reference: Array, found: Array | None, limit: float | None
) -> Check:
    if reference.dtype.kind == "f" and np.isnan(reference).any():
        count = int(np.isnan(reference).sum())
        raise BadInputError(
            f"the network itself gives NaN in output {output!r} ({count} of {reference.size} "
            "values): mend the network or its input first"
        )
    allowed = _limit_for(reference, limit)
    if found is None:
        return Check(name, Verdict.FAILED, limit=allowed, advice=f"output {output!r} is missing")
    gap = _difference(reference, found)
    if gap <= allowed:
        return Check(name, Verdict.PASSED, value=gap, limit=allowed)
    return Check(
        name, Verdict.FAILED, value=gap, limit=allowed, advice=_advice(output, reference, found)
    )


def _advice(output: str, reference: Array, found: Array) -> str:
    if reference.shape != found.shape:
        return f"output {output!r} has shape {list(found.shape)}, not {list(reference.shape)}"
    if found.dtype.kind == "f" and np.isnan(found).any():
        return f"output {output!r} has NaN where the network has none"
    return f"output {output!r} differs"


def _difference(reference: Array, found: Array) -> float:
    if reference.dtype.kind in _EXACT and reference.shape == found.shape:
        return float(np.mean(reference != found)) if reference.size else 0.0
    return relative_difference(reference, found)


def _limit_for(reference: Array, limit: float | None) -> float:
    if reference.dtype.kind in _EXACT:
        return 0.0
    return LIMITS.get(reference.dtype.name, _OTHER_LIMIT) if limit is None else limit


def _wide(array: Array) -> NDArray[np.float64]:
    return np.asarray(array, dtype=np.float64)
