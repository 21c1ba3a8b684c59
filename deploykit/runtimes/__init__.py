"""RUN an artifact: one file a runtime, one explicit tuple of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError, nearest
from deploykit.runtimes import ort
from deploykit.runtimes.torch_eager import TorchEager

if TYPE_CHECKING:
    from deploykit.runtimes.base import Runtime

TORCH_EAGER = TorchEager()
RUNTIMES: tuple[Runtime, ...] = (*ort.PROVIDERS, TORCH_EAGER)


def runtime_named(name: str) -> Runtime:
    """The runtime of that name.

    Raises:
        BadInputError: there is none; the message has the nearest name.
    """
    for runtime in RUNTIMES:
        if runtime.name == name:
            return runtime
    known = [runtime.name for runtime in RUNTIMES]
    raise BadInputError(f"there is no runtime {name!r}{nearest(name, known)}")
