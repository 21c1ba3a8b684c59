"""The inputs of one call, as they are: for networks with state, scalars and other odd shapes.

A data set is samples that can be put together in batches. A recurrent network's state, of shape
[layers, n, width], or a sample rate, a scalar, is no such thing: `inputs.npz?whole=yes` feeds the
arrays of the file unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError
from deploykit.load.arrays import digest_of
from deploykit.load.data import Batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploykit.core.types import Preprocessing
    from deploykit.load.data import Array

OPTION = "whole"
_YES = "yes"


@dataclass(frozen=True, slots=True, eq=False)
class OneCall:
    """A data set of a single sample, which is a whole call. See `deploykit.load.data.Data`.

    Attributes:
        name: as users wrote it.
        inputs: by name, of any shape.
    """

    name: str
    inputs: Mapping[str, Array]

    @property
    def labels(self) -> tuple[str, ...]:
        """None: nothing is known of the outputs."""
        return ()

    @property
    def preprocessing(self) -> Preprocessing | None:
        """Nobody said."""
        return None

    def __len__(self) -> int:
        """One call."""
        return 1

    def batch(self, rows: Sequence[int]) -> Batch:  # noqa: ARG002  (a call cannot be cut up)
        """The call, however many samples are asked for."""
        return Batch(self.inputs)

    def digest(self) -> str:
        """SHA-256, in hex, of all arrays with their names, types and shapes."""
        return digest_of(self.inputs.items())


def wants_one_call(options: Mapping[str, str], text: str) -> bool:
    """Whether the options of an `.npz` file say that it is one call.

    Raises:
        BadInputError: another option, or another value than "yes".
    """
    if not options:
        return False
    if dict(options) != {OPTION: _YES}:
        given = "&".join(f"{key}={value}" for key, value in options.items())
        raise BadInputError(f"data {text}: an .npz file takes {OPTION}={_YES} only, not {given}")
    return True
