"""What a runtime is: a way to open an artifact on a target, and to run it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deploykit.core.types import Option, TensorSpec

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
