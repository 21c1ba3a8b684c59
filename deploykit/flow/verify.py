"""Prove an artifact against its reference: parity in every runtime at hand, at several sizes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.check.parity import compare
from deploykit.core.errors import BadInputError, EnvironmentFailedError
from deploykit.core.measurement import Target
from deploykit.core.progress import Progress, silent
from deploykit.core.report import Check, Verdict
from deploykit.core.types import Dim
from deploykit.load.data import feeds as feeds_of
from deploykit.load.inputs import input_text
from deploykit.load.one_call import OneCall
from deploykit.load.synthetic import dims_of, synthetic_feeds
from deploykit.runtimes import RUNTIMES
from deploykit.runtimes.ort import CPU

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from deploykit.core.types import OnnxArtifact, TensorSpec
    from deploykit.load.data import Array, Data
    from deploykit.runtimes.base import Runtime, Session

_ODD = 3
# Where nobody said how large a dimension may be (a foreign file): batches are small, and lengths
# and image sides such that five halvings leave something.
_UNBOUNDED_HIGH = 8
_UNBOUNDED_SIDES = (32, 96, 128)
_SEED = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A parity check that failed, with what is needed to look closer.

    Attributes:
        check: the verdict.
        runtime: where it failed.
        feeds: on which inputs.
        unsteady: the reference, asked again, differs from itself as well.
    """

    check: Check
    runtime: Runtime
    feeds: Mapping[str, Array]
    unsteady: bool = False


@dataclass(frozen=True, slots=True)
class Parity:
    """All checks that were made, and the first failure if there was one."""

    checks: tuple[Check, ...]
    failure: Failure | None = None


def runtimes_at_hand() -> tuple[Runtime, ...]:
    """Every runtime that can run an ONNX artifact on this machine."""
    return tuple(r for r in RUNTIMES if r.format == "onnx" and r.missing() is None)


def parity(
    artifact: OnnxArtifact,
    reference: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    data: Data | None,
    *,
    limit: float | None = None,
    progress: Progress = silent,
) -> Parity:
    """Compare an artifact with its reference at batch 1, an odd batch and the largest allowed.

    Args:
        artifact: on disk.
        reference: outputs by name from inputs by name; eager PyTorch for a network of ours.
        data: real inputs; seeded random ones where there is none.
        limit: on the relative difference, or `None` for the one of the outputs' type.
        progress: told before every run.

    Raises:
        BadInputError: the data does not fit, or the reference itself gives NaN.
    """
    checks: list[Check] = []
    cases = ({},) if isinstance(data, OneCall) else parity_sizes(artifact.inputs)
    with ExitStack() as stack:
        sessions = dict(_sessions(artifact, stack))
        for number, sizes in enumerate(cases):
            fed = real_feeds(artifact.inputs, sizes, data)
            sized = sizes_text(fed_sizes(artifact.inputs, fed))  # data may have its own
            progress(f"parity, {sized}", number / len(cases))
            try:
                wanted = reference(fed)
            except BadInputError as error:
                guess = _guess_text(artifact.inputs, data, sized)
                raise BadInputError(f"{error}{guess}") from error
            for runtime, session in sessions.items():
                name = f"parity {runtime.name} {sized}"
                check = compare(name, wanted, outputs_of(session, fed), limit)
                checks.append(check)
                if check.verdict is not Verdict.PASSED:
                    again = compare(name, wanted, reference(fed), limit)
                    unsteady = again.verdict is not Verdict.PASSED
                    return Parity(tuple(checks), Failure(check, runtime, fed, unsteady))
    return Parity(tuple(checks))


def _sessions(artifact: OnnxArtifact, stack: ExitStack) -> Iterator[tuple[Runtime, Session]]:
    """The artifact opened in every runtime that really runs it, closed with the stack.

    A build of ONNX Runtime lists the providers that it was made with: onnxruntime-gpu has
    TensorRT where neither its libraries nor a GPU are. One that would fall back to the CPU
    proves nothing, and is no reason to refuse the artifact either; `deploykit doctor` says why.
    """
    for runtime in runtimes_at_hand():
        try:
            session = runtime.open(artifact, Target(runtime=runtime.name))
        except EnvironmentFailedError:
            if runtime is CPU:
                raise
            continue
        stack.callback(session.close)
        yield runtime, session


def outputs_of(session: Session, fed: Mapping[str, Array]) -> dict[str, Array]:
    """One run; outputs by name.

    Raises:
        BadInputError: it cannot be run on these inputs, or an output is no tensor.
    """
    found = dict(zip([spec.name for spec in session.outputs], session.bind(fed)(), strict=True))
    for name, output in found.items():
        if not hasattr(output, "dtype"):
            raise BadInputError(
                f"output {name!r} is a {type(output).__name__}, no tensor, and cannot be "
                "compared: end the graph before it"
            )
    return found


def parity_sizes(specs: Sequence[TensorSpec]) -> tuple[dict[str, int], ...]:
    """Sizes of the dynamic dimensions to try: all at their lowest, odd, all at their highest."""
    dims = dims_of(specs)
    if not dims:
        return ({},)
    first = {spec.shape[0] for spec in specs if spec.shape}
    tried = {
        name: _UNBOUNDED_SIDES
        if dim.high is None and dim not in first
        else (dim.low, _odd(dim), _high(dim))
        for name, dim in dims.items()
    }
    cases = [{name: sizes[number] for name, sizes in tried.items()} for number in range(3)]
    return tuple(case for i, case in enumerate(cases) if case not in cases[:i])


def real_feeds(
    specs: Sequence[TensorSpec], sizes: Mapping[str, int], data: Data | None
) -> dict[str, Array]:
    """One batch of data, repeated from its start where it is too short; or made-up inputs.

    Only the first dimension of each input is filled from the data; its other sizes are the
    data's own.
    """
    if data is None:
        return synthetic_feeds(specs, sizes, _SEED)
    first = specs[0].shape[0] if specs and specs[0].shape else 1
    count = sizes.get(first.name, 1) if isinstance(first, Dim) else first
    if not len(data):
        raise BadInputError(f"{data.name} is empty")
    return feeds_of(data.batch([row % len(data) for row in range(count)]), specs, data.name)


def _odd(dim: Dim) -> int:
    """An odd multiple of the step, above the lowest, near three steps."""
    high = _high(dim)
    for size in range(max(dim.low, _ODD * dim.step), high + 1, dim.step):
        if (size // dim.step) % 2:
            return size
    return high


def _high(dim: Dim) -> int:
    return max(dim.low, _UNBOUNDED_HIGH * dim.step) if dim.high is None else dim.high


def fed_sizes(specs: Sequence[TensorSpec], fed: Mapping[str, Array]) -> dict[str, int]:
    """Of the dynamic dimensions by name, as a batch has them."""
    return {
        want.name: size
        for spec in specs
        for want, size in zip(spec.shape, fed[spec.name].shape, strict=True)
        if isinstance(want, Dim)
    }


def _guess_text(specs: Sequence[TensorSpec], data: Data | None, sized: str) -> str:
    """What to do where a model refused sizes that nobody had declared; "" elsewhere."""
    if data is not None or all(dim.high is not None for dim in dims_of(specs).values()):
        return ""
    options = " ".join(f'--input "{input_text(spec)}"' for spec in specs)
    return (
        f"; {sized} was a guess: give real inputs with --val, or the ranges that it takes in "
        f"{options}"
    )


def sizes_text(sizes: Mapping[str, int]) -> str:
    """Sizes as users read them: "N=1 L=6"."""
    return " ".join(f"{name}={size}" for name, size in sizes.items()) or "as it is"


def unsteady_text(failure: Failure) -> str:
    """The end of an error about a network that no artifact can equal; "" for any other."""
    if not failure.unsteady:
        return ""
    return (
        "; the network itself answers the same input differently each time: take out what draws "
        "random numbers or changes its state"
    )


def difference_text(check: Check) -> str:
    """What a failed check says in an error."""
    value = "" if check.value is None else f" by {check.value:.3g} (limit {check.limit:.3g})"
    return f"{check.name}: {check.advice}{value}"
