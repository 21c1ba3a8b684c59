"""The records: what flows through deploykit. Frozen data, no behaviour beyond small properties.

`Model` lives in memory, before export; `OnnxArtifact` and `EngineArtifact` are files, after it.
What is measured of them is in `measurement.py`, what is judged in `report.py`. The order of the
work is in these types: a stage takes one and returns another, so that pruning an ONNX file does
not type-check.

Units are in the names (`latency_ns`, `peak_rss_bytes`). What could not be measured is `None`,
never 0.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (msgspec reads the annotations)
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import nn

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
