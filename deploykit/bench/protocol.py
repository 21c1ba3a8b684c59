"""What a measuring process is told and what it answers: one JSON object a line.

::

    parent                            worker (python -m deploykit.bench.worker)
    Open(runtime, target, feeds ...)  Opened(load, first inference, warm-up, facts)
    Take(duration)                    Taken(latencies)          as often as wanted
    Finish()                          Finished(peak memory)

    Describe(source)                  Described(inputs, outputs, parameters, digest)
    CountMacs(feeds)                  MacsCounted(macs)

    TimeProbes(model, target ...)     ProbesTimed(latencies)    as often as wanted

    anything                          Failed(status, error)     and the worker ends

The worker needs nothing but these lines and the files that they name, so that they can as well
come through a shell on another machine. It ends when its input ends: a parent that is killed
leaves no orphans.
"""

from __future__ import annotations

import json
from collections.abc import Mapping  # noqa: TC003  (msgspec reads the annotations)
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np

from deploykit.bench.timing import WarmUp, WarmUpRules
from deploykit.core.errors import BadInputError, EnvironmentFailedError
from deploykit.core.measurement import Target  # noqa: TC001  (msgspec reads the annotations)
from deploykit.core.types import (  # noqa: TC001  (msgspec reads the annotations)
    OnnxArtifact,
    Option,
    TensorSpec,
)
from deploykit.load.sources import Source  # noqa: TC001

if TYPE_CHECKING:
    from deploykit.load.data import Array


@dataclass(frozen=True, slots=True)
class Open:
    """Load a model, run it once, and warm it up.

    Attributes:
        runtime: its name.
        target: what to run on; `cpus` are pinned before anything is imported.
        feeds: an `.npz` file with one array an input.
        artifact: of an ONNX runtime.
        source: of a PyTorch runtime. One of the two is given.
        warm_up: when it is warm.
    """

    runtime: str
    target: Target
    feeds: str
    artifact: OnnxArtifact | None = None
    source: Source | None = None
    warm_up: WarmUpRules = field(default_factory=WarmUpRules)


@dataclass(frozen=True, slots=True)
class Opened:
    """The model is ready.

    Attributes:
        load_ns: from the file (in the page cache, just read by the parent) to a session.
        first_ns: the first inference.
        warm_up: what came after it.
        baseline_rss_bytes: before loading, or `None`.
        facts: what the runtime says of itself.
    """

    load_ns: int
    first_ns: int
    warm_up: WarmUp
    baseline_rss_bytes: int | None
    facts: Mapping[str, Option] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Take:
    """Time calls for a while.

    Attributes:
        duration_ns: no call starts later; at least one is timed.
        lead_in_ns: calls before that which are not kept.
    """

    duration_ns: int
    lead_in_ns: int


@dataclass(frozen=True, slots=True)
class Taken:
    """The latencies of a slice, in order.

    Attributes:
        latency_ns: one a call.
        rested_ns: how long the runtime's threads took to go to sleep afterwards.
    """

    latency_ns: tuple[int, ...]
    rested_ns: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Read the counters and end."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The last words.

    Attributes:
        peak_rss_bytes: since loading began, or `None`.
        model_bytes: the model's own share of it, or `None`.
        cpu_ns: CPU time of the whole process, so that the parent knows what others took.
    """

    peak_rss_bytes: int | None
    model_bytes: int | None
    cpu_ns: int


@dataclass(frozen=True, slots=True)
class Describe:
    """Say what a PyTorch source is. Its own process: it must not weigh on a measurement."""

    source: Source


@dataclass(frozen=True, slots=True)
class Described:
    """What a PyTorch source is.

    Attributes:
        inputs: in order.
        outputs: in order, as far as they are known.
        parameters: learnt numbers, buffers left out.
        digest: SHA-256 of the state dictionary: names, types, shapes and values.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    digest: str


@dataclass(frozen=True, slots=True)
class CountMacs:
    """Count the multiply-accumulates of one call of the described source with these feeds."""

    feeds: str


@dataclass(frozen=True, slots=True)
class MacsCounted:
    """The answer; `None` where it could not be counted."""

    macs: int | None


@dataclass(frozen=True, slots=True)
class TimeProbes:
    """Time the layers of a model that `deploykit.bench.layer_models` wrote.

    Attributes:
        model: its `.onnx` file, in a folder that may be written to.
        target: what to run on, the same in all requests to one process; `cpus` are pinned.
        probes: how many there are in it.
        duration_ns: how long to call it, within limits.
    """

    model: str
    target: Target
    probes: int
    duration_ns: int


@dataclass(frozen=True, slots=True)
class ProbesTimed:
    """One block of each probe.

    Attributes:
        latency_ns: of each probe, in order.
    """

    latency_ns: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """It cannot go on.

    Attributes:
        status: an exit status of `deploykit.core.errors`, which says what kind of error it is.
        error: one line.
    """

    status: int
    error: str


Message: TypeAlias = (
    Open | Opened | Take | Taken | Finish | Finished
    | Describe | Described | CountMacs | MacsCounted | TimeProbes | ProbesTimed | Failed
)  # fmt: skip

_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        Open, Opened, Take, Taken, Finish, Finished,
        Describe, Described, CountMacs, MacsCounted, TimeProbes, ProbesTimed, Failed,
    )
}  # fmt: skip


def encode(message: Message) -> bytes:
    """One line, newline and all."""
    body = msgspec.to_builtins(message, enc_hook=str)
    return json.dumps({"message": type(message).__name__, **body}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Read one line.

    Raises:
        BadInputError: it is no message of this protocol.
    """
    try:
        body = json.loads(line)
        kind = _KINDS[body.pop("message")]
        return msgspec.convert(body, kind, dec_hook=_to_path)
    except (ValueError, KeyError, AttributeError, TypeError, msgspec.ValidationError) as error:
        shown = line[:80].decode(errors="replace")
        raise BadInputError(f"not a message of the bench protocol: {shown!r}") from error


def load_feeds(path: str) -> dict[str, Array]:
    """The inputs in an `.npz` file by name; nothing in it is unpickled."""
    with np.load(path, allow_pickle=False) as file:
        names = [str(name) for name in file[_NAMES]]
        return {name: np.require(file[str(n)], requirements="C") for n, name in enumerate(names)}


def save_feeds(path: Path, feeds: Mapping[str, Array]) -> None:
    """Write what `load_feeds` reads; names stand apart, since inputs may be called anything.

    Raises:
        EnvironmentFailedError: the disk is full.
    """
    arrays = {_NAMES: np.array(list(feeds)), **{str(n): a for n, a in enumerate(feeds.values())}}
    try:
        np.savez(path, allow_pickle=False, **arrays)
    except OSError as error:
        raise EnvironmentFailedError(f"cannot write {path}: {error.strerror}") from error


_NAMES = "names"


def _to_path(kind: type[object], value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(kind)
