"""The slice at the end of a data set's name, as in Python: `[:500]`, `[100:200]`, `[::2]`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploykit.core.types import Preprocessing
    from deploykit.load.data import Batch, Data

_AT_END = re.compile(r"\[([^\[\]]*)\]$")
_SLICE = re.compile(r"(-?\d+)?:(-?\d+)?(?::(-?\d+)?)?")


@dataclass(frozen=True, slots=True, eq=False)
class Sliced:
    """Some rows of a data set.

    Attributes:
        whole: where they are taken from.
        rows: which ones, in order.
        name: with the slice.
    """

    whole: Data
    rows: range
    name: str

    @property
    def labels(self) -> tuple[str, ...]:
        """Those of the whole."""
        return self.whole.labels

    @property
    def preprocessing(self) -> Preprocessing | None:
        """That of the whole."""
        return self.whole.preprocessing

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def batch(self, rows: Sequence[int]) -> Batch:
        """See `deploykit.load.data.Data`."""
        return self.whole.batch([self.rows[row] for row in rows])

    def digest(self) -> str:
        """SHA-256 of the whole's digest and the rows; all rows in order are the whole."""
        whole = self.whole.digest()
        if self.rows == range(len(self.whole)):
            return whole
        rows = f"{self.rows.start} {self.rows.step} {len(self.rows)}"
        return hashlib.sha256(f"{whole} {rows}".encode()).hexdigest()


def split_slice(text: str) -> tuple[str, str]:
    """A data set's name without its slice, and the slice with its brackets ("" for none).

    Raises:
        BadInputError: what is in the brackets is no slice.
    """
    match = _AT_END.search(text)
    if match is None:
        if "[" in text.rpartition("/")[2]:
            raise BadInputError(f"data {text!r} does not end its slice; write it like [:500]")
        return text, ""
    if _SLICE.fullmatch(match[1]) is None:
        example = f"[{match[1]}:{int(match[1]) + 1}]" if match[1].isdecimal() else "[:500] or [::2]"
        raise BadInputError(f"data {text!r}: {match[0]} is no slice; write it like {example}")
    return text[: match.start()], match[0]


def slice_rows(text: str, count: int, name: str) -> range:
    """The rows that a slice takes.

    Args:
        text: the slice with its brackets, as `split_slice` gives it.
        count: rows there are.
        name: of the data set, for errors.

    Raises:
        BadInputError: no row is left, or the step is 0.
    """
    match = _SLICE.fullmatch(text[1:-1])
    assert match is not None  # split_slice has seen to it
    start, stop, step = (int(part) if part else None for part in match.groups())
    if step == 0:
        raise BadInputError(f"data {name}{text}: the step of a slice cannot be 0")
    rows = range(count)[slice(start, stop, step)]
    if not rows:
        raise BadInputError(f"data {name}{text} is empty: {name} has {count} samples")
    return rows
