"""What is measured: every artifact on every runtime, batch size and thread count asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from deploykit.core.errors import BadInputError, MissingExtraError, nearest
from deploykit.core.measurement import Target
from deploykit.core.types import Dim, OnnxArtifact
from deploykit.load.artifacts import load_artifact
from deploykit.load.data import feeds as data_feeds
from deploykit.load.data import shape_text
from deploykit.load.sources import Source, check_form, resolve
from deploykit.load.synthetic import choose_sizes, dims_of, synthetic_feeds
from deploykit.runtimes import RUNTIMES, runtime_named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploykit.core.types import Option, TensorSpec
    from deploykit.load.data import Array, Data
    from deploykit.runtimes.base import Runtime

Feeds: TypeAlias = "dict[str, Array]"


@dataclass(frozen=True, slots=True)
class Subject:
    """One artifact or source as the user named it.

    Attributes:
        name: for tables: the folder or file or source.
        model: what a runtime opens.
        inputs: what it takes.
        digest: SHA-256 of the model file or of the network's weights, in hex.
    """

    name: str
    model: OnnxArtifact | Source
    inputs: tuple[TensorSpec, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for, every list empty or one-element where nobody did.

    Attributes:
        runtimes: names; empty takes all that are here and fit the artifact.
        batches: sizes of the first dimension; empty takes 1 where it is dynamic.
        threads: intra-operator threads; empty leaves it to the runtime.
        cpus: to pin to; empty pins nothing.
        shapes: sizes of the other dynamic dimensions by name.
        options: of the runtimes.
        seed: of made-up inputs.
    """

    runtimes: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    threads: tuple[int, ...] = ()
    cpus: tuple[int, ...] = ()
    shapes: Mapping[str, int] | None = None
    options: Mapping[str, Option] | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table: one subject on one target, with its inputs."""

    subject: Subject
    target: Target
    feeds: Feeds


def onnx_subject(text: str) -> Subject:
    """The ONNX artifact that `text` names.

    Raises:
        BadInputError: see `deploykit.load.artifacts.load_artifact`.
    """
    artifact = load_artifact(Path(text))
    return Subject(shown_name(text), artifact, artifact.inputs, artifact.digest)


def pytorch_source(source: Source) -> Source:
    """The source as it is sent to a worker, which stands in the same folder: recipes are read.

    Raises:
        BadInputError: it is no source.
    """
    check_form(source.text)
    return resolve(source)


def shown_name(text: str) -> str:
    """Short enough for a table: the last part of a path, with what tells it apart."""
    path = Path(text)
    if path.name in ("artifact.json", "model.onnx"):
        path = path.parent
    return path.name or path.resolve().name


def distinct(subjects: Sequence[Subject], texts: Sequence[str]) -> list[Subject]:
    """The subjects, each under a name that no other one has: as typed where short names clash.

    Args:
        subjects: in order.
        texts: how each was typed.
    """
    names = [subject.name for subject in subjects]
    return [
        replace(subject, name=text if names.count(subject.name) > 1 else subject.name)
        for subject, text in zip(subjects, texts, strict=True)
    ]


def runtimes_for(model: OnnxArtifact | Source, names: Sequence[str]) -> list[Runtime]:
    """The runtimes that a model is measured on.

    Args:
        model: decides the format.
        names: asked for; empty takes every one that is here.

    Raises:
        BadInputError: an unknown name.
        MissingExtraError: none is here.
    """
    format_ = "onnx" if isinstance(model, OnnxArtifact) else "pytorch"
    if names:
        return [r for r in map(runtime_named, names) if r.format == format_]
    fitting = [runtime for runtime in RUNTIMES if runtime.format == format_]
    here = [runtime for runtime in fitting if runtime.missing() is None]
    if not here:
        raise MissingExtraError(f"no runtime for {format_} is here: {fitting[0].missing()}")
    return here


def cases_of(subjects: Sequence[Subject], wanted: Wanted, data: Data | None) -> tuple[Case, ...]:
    """Every combination, in the order in which rows are shown.

    Raises:
        BadInputError: a runtime that fits none of the subjects, a size outside its range, or data
            that does not fit.
        MissingExtraError: no runtime is here.
    """
    for name in wanted.runtimes:  # a typing mistake first
        runtime_named(name)
    cases = [
        Case(subject, _target(runtime, inputs, batch, threads, wanted), inputs)
        for subject in subjects
        for batch in (wanted.batches or (_default_batch(subject.inputs),))
        for inputs in (feeds_for(subject, batch, wanted, data),)
        for runtime in runtimes_for(subject.model, wanted.runtimes)
        for threads in (wanted.threads or (None,))
    ]
    known = {name for subject in subjects for name in dims_of(subject.inputs)}
    for name in wanted.shapes or {}:
        if name not in known:
            raise BadInputError(
                f"--size {name}: no input has a dynamic dimension of that name"
                f"{nearest(name, known)}"
            )
    used = {case.target.runtime for case in cases}
    for name in wanted.runtimes:
        if name not in used:
            kind = "ONNX files" if runtime_named(name).format == "onnx" else "PyTorch sources"
            raise BadInputError(f"--runtime {name} runs {kind}, and none is given")
    return tuple(cases)


def feeds_for(subject: Subject, batch: int | None, wanted: Wanted, data: Data | None) -> Feeds:
    """The inputs of one batch: real ones where there is data, else made up.

    Raises:
        BadInputError: a size outside its range, a dimension that nobody gave a size, or data that
            does not fit.
    """
    chosen = {n: s for n, s in (wanted.shapes or {}).items() if n in dims_of(subject.inputs)}
    try:
        sizes = choose_sizes(subject.inputs, batch, chosen)
    except BadInputError as error:
        raise BadInputError(f"{subject.name}: {error}") from error
    if data is None:
        _check_known(subject, sizes, chosen)
        return synthetic_feeds(subject.inputs, sizes, wanted.seed)
    rows = [row % len(data) for row in range(batch or _fixed_batch(subject.inputs))]
    return data_feeds(data.batch(rows), subject.inputs, data.name)


def _check_known(subject: Subject, sizes: Mapping[str, int], chosen: Mapping[str, int]) -> None:
    """Refuse to invent a size: a sequence of 1 token would be a figure for nothing."""
    batch = _batch_dim(subject.inputs)
    for name, dim in dims_of(subject.inputs).items():
        if name not in chosen and dim != batch and dim.high is None and sizes[name] == 1:
            spec = next(s for s in subject.inputs if dim in s.shape)
            raise BadInputError(
                f"{subject.name}: input {spec.name!r} is {shape_text(spec)}, and nobody says how "
                f"large {name} is: give --size {name}=SIZE"
            )


def _target(
    runtime: Runtime, feeds: Feeds, batch: int | None, threads: int | None, wanted: Wanted
) -> Target:
    return Target(
        runtime=runtime.name,
        device=runtime.device,
        threads=threads,
        cpus=wanted.cpus,
        batch=batch,
        shapes={name: array.shape for name, array in feeds.items()},
        options=dict(wanted.options or {}) if runtime.format == "onnx" else {},
    )


def _batch_dim(inputs: Sequence[TensorSpec]) -> Dim | None:
    first = inputs[0].shape[0] if inputs and inputs[0].shape else None
    return first if isinstance(first, Dim) else None


def _default_batch(inputs: Sequence[TensorSpec]) -> int | None:
    dim = _batch_dim(inputs)
    return dim.low if dim is not None else None


def _fixed_batch(inputs: Sequence[TensorSpec]) -> int:
    first = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    return first if isinstance(first, int) else 1
