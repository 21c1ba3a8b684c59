"""The records: what flows through deploykit. Frozen data, no behaviour beyond small properties.

`Model` lives in memory, before export; `OnnxArtifact` and `EngineArtifact` are files, after it;
`Measurement` holds raw samples; `Report` holds checks with their verdicts. The order of the work
is in these types: a stage takes one and returns another, so that pruning an ONNX file does not
type-check.

Units are in the names (`latency_ns`, `peak_rss_bytes`). What could not be measured is `None`,
never 0.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (msgspec reads the annotations)
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import nn

Scalar: TypeAlias = bool | int | float | str | None
Option: TypeAlias = bool | int | float | str | tuple[bool | int | float | str | None, ...] | None
"""The value of one option of a stage or target, as it stands in a record."""


@dataclass(frozen=True, slots=True)
class Dim:
    """A dimension that may change from call to call.

    Attributes:
        name: the letter or word that dimensions of the same size share.
        low: the smallest size, at least 1.
        high: the largest size, or `None` where nobody said (a foreign ONNX file).
        step: sizes are multiples of it (an encoder-decoder may want multiples of 32).
    """

    name: str
    low: int = 1
    high: int | None = None
    step: int = 1


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, type and shape of one input or output.

    Attributes:
        name: as the graph calls it.
        dtype: NumPy's name of the element type: "float32", "int64", "bool" ...
        shape: sizes; a `Dim` where the size is dynamic. `()` is a scalar.
    """

    name: str
    dtype: str
    shape: tuple[int | Dim, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of a history: what was done, to what, with which versions.

    Attributes:
        name: the stage ("load", "export" ...).
        options: the stage's options by name.
        input_digests: SHA-256, in hex, of what went in, by role ("weights", "code", "data" ...).
        versions: versions of the packages that did the work.
    """

    name: str
    options: Mapping[str, Option] = field(default_factory=dict)
    input_digests: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What was done to raw images before they reached the network.

    Attributes:
        layout: order of the dimensions, "NCHW" or "NHWC".
        color: "RGB" or "L" (one grey channel).
        scale: factor from stored values to floats before mean and std, usually 1/255.
        mean: by channel, in scaled units.
        std: by channel, in scaled units.
        resize: length of the shorter side after resizing, in pixels.
        crop: height and width of the centre crop, in pixels.
    """

    layout: str = "NCHW"
    color: str = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: int | None = None
    crop: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Io:
    """What inputs and outputs mean.

    Attributes:
        task: "classification", "regression", or `None` where nobody said.
        labels: class names in the order of the output, or empty.
        preprocessing: how raw inputs became tensors, or `None` where nobody said.
    """

    task: str | None = None
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A PyTorch network in memory, before export. Stages take one and return a new one.

    Attributes:
        module: the network, in evaluation mode.
        inputs: what its `forward` takes, in order.
        outputs: what it returns, in order; empty until the network has been run once.
        io: what inputs and outputs mean.
        history: every step so far, oldest first.
    """

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...] = ()
    io: Io = Io()
    history: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """One file of an artifact.

    Attributes:
        path: relative to the artifact's folder, with forward slashes; never leaves the folder.
        sha256: of its content, in hex.
        bytes: its size.
        role: "model", "weights" (external data) or "data".
    """

    path: str
    sha256: str
    bytes: int
    role: str


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run an artifact that offers several (precisions, widths, stages).

    Attributes:
        name: how users choose it.
        files: paths of the files that it needs.
        options: what sets it apart ("precision": "int8").
    """

    name: str
    files: tuple[str, ...]
    options: Mapping[str, Option] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OnnxArtifact:
    """An ONNX graph on disk, with its record beside it.

    Attributes:
        files: the model first, then its external data.
        inputs: in the graph's order.
        outputs: in the graph's order.
        variants: empty where there is only one way to run it.
        io: what inputs and outputs mean.
        history: every step so far, oldest first; empty for a foreign file.
        folder: where the files are. Not part of the record.
    """

    files: tuple[File, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: tuple[Variant, ...] = ()
    io: Io = Io()
    history: tuple[Step, ...] = ()
    folder: Path = field(default=Path(), metadata={"in_record": False}, compare=False)

    @property
    def model_path(self) -> Path:
        """The `.onnx` file."""
        return self.folder / self.files[0].path

    @property
    def digest(self) -> str:
        """SHA-256 of the model file, in hex: the artifact's name in other records."""
        return self.files[0].sha256

    @property
    def size_bytes(self) -> int:
        """All of its files together."""
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class EngineArtifact:
    """A TensorRT engine on disk, with its record beside it.

    Attributes:
        files: the engine first.
        inputs: in the engine's order.
        outputs: in the engine's order.
        variants: empty where there is only one way to run it.
        io: what inputs and outputs mean.
        history: every step so far, oldest first; empty for a foreign file.
        folder: where the files are. Not part of the record.
    """

    files: tuple[File, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: tuple[Variant, ...] = ()
    io: Io = Io()
    history: tuple[Step, ...] = ()
    folder: Path = field(default=Path(), metadata={"in_record": False}, compare=False)


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure was taken on: only equal targets are compared.

    Attributes:
        runtime: name in `deploykit.runtimes.RUNTIMES`, such as "ort-cpu".
        device: "cpu", "cuda:0" ...
        threads: intra-operator threads; `None` leaves it to the runtime.
        cpus: the CPUs that the process is pinned to; empty where it is not.
        batch: size of the first dynamic dimension, or `None` where all shapes are fixed.
        shapes: the shape of every input as it was fed, by name.
        options: further options of the runtime.
    """

    runtime: str
    device: str = "cpu"
    threads: int | None = None
    cpus: tuple[int, ...] = ()
    batch: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    options: Mapping[str, Option] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts about a machine that a figure depends on.

    Attributes:
        cpu: model name.
        arch: "x86_64", "aarch64" ...
        instruction_sets: those that decide speed (avx2, avx512_vnni, amx_int8, asimddp ...).
        cores: CPUs that this process may use.
        memory_bytes: RAM.
        governor: frequency governor, or `None` where the kernel does not tell.
        turbo: whether the clock may boost, or `None` where the kernel does not tell.
        virtual: name of the hypervisor, "" on bare metal, `None` where it cannot be told.
        load_average: over the last minute, when measuring began.
        gpu: name, or `None`.
        driver: of the GPU, or `None`.
        os: kernel name and release.
        versions: of Python and of the packages that ran.
    """

    cpu: str
    arch: str
    instruction_sets: tuple[str, ...]
    cores: int
    memory_bytes: int | None
    governor: str | None
    turbo: bool | None
    virtual: str | None
    load_average: float | None
    gpu: str | None
    driver: str | None
    os: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw samples in the order they were taken, column by column; all columns equally long.

    Attributes:
        latency_ns: of one call, inputs on the host to outputs on the host.
        process: which process took it, from 0.
        round: which round of the interleaved schedule, from 0.
        order: position of this process's turn within its round, from 0.
        device_ns: time on the accelerator, or `None`.
        exit: the exit that the call left by, or `None`.
    """

    latency_ns: tuple[int, ...] = ()
    process: tuple[int, ...] = ()
    round: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    device_ns: tuple[int, ...] | None = None
    exit: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class ProcessRun:
    """What one measuring process saw besides the samples.

    Attributes:
        load_ns: from the file to a session that can run.
        first_ns: the first inference.
        warmup_ns: all warm-up calls after the first, together.
        warmup_count: how many there were.
        steady: whether latencies had settled when the warm-up ended.
        baseline_rss_bytes: the process with its runtime imported and its inputs ready, before
            the model is loaded.
        peak_rss_bytes: the highest resident memory from loading on (a kernel counter).
        model_bytes: `peak_rss_bytes` less the baseline: the model's own share.
        peak_device_bytes: memory on the accelerator, or `None`.
        facts: what the runtime said of itself ("providers", "graph_optimization" ...).
    """

    load_ns: int
    first_ns: int
    warmup_ns: int
    warmup_count: int
    steady: bool
    baseline_rss_bytes: int | None
    peak_rss_bytes: int | None
    model_bytes: int | None
    peak_device_bytes: int | None = None
    facts: Mapping[str, Option] = field(default_factory=dict)


class Status(Enum):
    """How a measurement ended."""

    OK = "ok"
    BUDGET_SPENT = "budget spent"
    """It ran, but the interval was still too wide when the time was up."""
    FAILED = "failed"
    """It crashed or was refused: `error` says why."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything that was seen of one artifact on one target.

    Attributes:
        name: how the artifact was called by the user.
        artifact_digest: SHA-256 of the model file or of the network's weights, in hex.
        target: what it ran on.
        machine: where.
        input_digest: SHA-256 of the inputs that were fed, in hex, or `None` where it failed before.
        status: how it ended.
        error: one line, where it failed.
        samples: raw, in the order they were taken.
        processes: one entry a process.
        size_bytes: on disk, or `None` for a network in memory.
        parameters: how many numbers the model has learnt, or `None`.
        macs: multiply-accumulates of one call at this target's shapes, or `None`.
        energy_joules: of one call, or `None`.
    """

    name: str
    artifact_digest: str
    target: Target
    machine: Machine
    input_digest: str | None
    status: Status
    error: str | None = None
    samples: Samples = Samples()
    processes: tuple[ProcessRun, ...] = ()
    size_bytes: int | None = None
    parameters: int | None = None
    macs: int | None = None
    energy_joules: float | None = None


class Verdict(Enum):
    """What a check found."""

    PASSED = "passed"
    FAILED = "failed"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class Check:
    """One verdict with the figure behind it.

    Attributes:
        name: what was checked ("parity ort-cpu batch 3").
        verdict: what was found.
        value: the figure, or `None` where there is none.
        interval: confidence interval of the figure, low and high, or `None`.
        limit: what the figure was held against, or `None` where it is only reported.
        unit: of value, interval and limit ("", "points", "ns" ...).
        advice: what to do about it; "" where nothing is to be done.
    """

    name: str
    verdict: Verdict
    value: float | None = None
    interval: tuple[float, float] | None = None
    limit: float | None = None
    unit: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The checks of one artifact. One without checks has not passed.

    Attributes:
        artifact_digest: of the artifact that was checked.
        checks: in the order they were made.
        measurements: what the checks were made from, where it is kept.
    """

    artifact_digest: str
    checks: tuple[Check, ...] = ()
    measurements: tuple[Measurement, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether there is at least one check and every one has passed."""
        return bool(self.checks) and all(c.verdict is Verdict.PASSED for c in self.checks)
