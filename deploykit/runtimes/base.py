"""What a runtime is: a way to open an artifact on a target, and to run it.

A runtime refuses to fall back: a CUDA figure that was taken on the CPU is the worst mistake that a
measuring tool can make.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deploykit.core.errors import BadInputError, nearest
from deploykit.load.data import shape_fits, shape_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deploykit.core.measurement import Target
    from deploykit.core.types import OnnxArtifact, Option, TensorSpec
    from deploykit.load.sources import Source

Array: TypeAlias = NDArray[np.generic]


class Session(Protocol):
    """A loaded artifact, ready to run on one target."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes, in order."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it returns, in order."""

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], Sequence[Array]]:
        """Get one set of inputs ready and return the call that runs it.

        The call takes and returns host arrays: inputs by name here, outputs in the order of
        `outputs` from the call, which returns only once they are on the host. The clock of
        `deploykit.bench` goes around exactly that call.

        Raises:
            BadInputError: names, types or shapes do not fit.
        """

    def facts(self) -> Mapping[str, Option]:
        """What the runtime says of itself: providers that really run nodes, threads, versions."""

    def close(self) -> None:
        """Give everything back. May be called twice."""


class Runtime(Protocol):
    """One way to run an artifact."""

    @property
    def name(self) -> str:
        """As users type it: "ort-cpu", "torch-eager" ..."""

    @property
    def format(self) -> str:
        """What it opens: "onnx" (an `OnnxArtifact`) or "pytorch" (a `Source`)."""

    @property
    def device(self) -> str:
        """Where it runs unless the target says otherwise: "cpu", "cuda:0" ..."""

    def missing(self) -> str | None:
        """Why it cannot run on this machine, in one line with the remedy; `None` where it can."""

    def warm_imports(self) -> None:
        """Import what it needs and bring it up, as a program does once, whatever its models.

        Neither a model's load time nor its share of memory contain this.

        Raises:
            MissingExtraError: a package is not installed.
        """

    def open(self, artifact: OnnxArtifact | Source, target: Target) -> Session:
        """Load an artifact, ready to run on the target.

        Args:
            artifact: of this runtime's format.
            target: threads, device and options are used; the runtime is this one.

        Raises:
            BadInputError: not of this format, not loadable, or an unknown option.
            MissingExtraError: the runtime, or this part of it, is not installed.
            EnvironmentFailedError: it is installed, and fell back or did not come up.
        """


def check_feeds(specs: Sequence[TensorSpec], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The feeds in the order of the inputs, each contiguous, or one clear line.

    Raises:
        BadInputError: a name is missing or unknown, or a type or shape does not fit.
    """
    names = [spec.name for spec in specs]
    for name in feeds:
        if name not in names:
            raise BadInputError(f"the network has no input {name!r}{nearest(name, names)}")
    for spec in specs:
        if spec.name not in feeds:
            raise BadInputError(f"input {spec.name!r} is not fed; given: {', '.join(feeds)}")
        array = feeds[spec.name]
        if array.dtype.name != spec.dtype:
            raise BadInputError(f"input {spec.name!r} takes {spec.dtype}, not {array.dtype.name}")
        if not shape_fits(array.shape, spec):
            raise BadInputError(
                f"input {spec.name!r} takes shape {shape_text(spec)}, not {list(array.shape)}"
            )
    return {name: np.require(feeds[name], requirements="C") for name in names}


def option(options: Mapping[str, Option], name: str, default: str, choices: Sequence[str]) -> str:
    """One option of a target that is a choice of words.

    Raises:
        BadInputError: a value that is none of the choices.
    """
    value = options.get(name, default)
    if value not in choices:
        raise BadInputError(
            f"option {name} is one of {', '.join(choices)}, not {value!r}"
            f"{nearest(str(value), choices)}"
        )
    return str(value)
