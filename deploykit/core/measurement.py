"""What is measured: raw samples, with all that they depend on. Frozen data.

Units are in the names. What could not be measured is `None`, never 0. Only measurements of equal
targets on equal machines are compared.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (msgspec reads the annotations)
from dataclasses import dataclass, field
from enum import Enum

from deploykit.core.types import Option  # noqa: TC001  (msgspec reads the annotations)


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
