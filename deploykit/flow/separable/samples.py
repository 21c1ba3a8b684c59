"""What kernels are fitted to: some samples of the training data, drawn once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deploykit.check.accuracy import call_size
from deploykit.core.errors import BadInputError
from deploykit.load.calls import arguments
from deploykit.load.data import feeds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploykit.core.types import Model
    from deploykit.load.calls import Arguments
    from deploykit.load.data import Data

_BATCH = 32
_FEWEST = 4  # batches: three to fit to and one to judge by


@dataclass(frozen=True, slots=True)
class Samples:
    """Batches of a data set, the same ones every time.

    Attributes:
        data: as the network was trained on; never what its accuracy is reported on.
        model: whose inputs they are.
        rows: of the data, in an order drawn at random, whole batches of them.
        batch: samples at a time.
    """

    data: Data
    model: Model
    rows: tuple[int, ...]
    batch: int

    @classmethod
    def drawn(cls, data: Data, model: Model, count: int, seed: int) -> Samples:
        """Draw them.

        Raises:
            BadInputError: there are too few.
        """
        most = min(count, len(data))
        batch = call_size(model.inputs, max(1, min(_BATCH, most // _FEWEST)), max(most, 1))
        whole = most // batch * batch
        if whole < _FEWEST * batch:
            raise BadInputError(
                f"kernels are fitted to {_FEWEST} batches of {batch} or more, and {data.name} has "
                f"{len(data)} samples, of which {count} may be looked at; give more, or --no-refit"
            )
        draws = np.random.default_rng(seed)
        rows = draws.choice(len(data), whole, replace=False).tolist()
        return cls(data, model, tuple(rows), batch)

    def __call__(self) -> Iterator[Arguments]:
        """Each batch, as the network takes it."""
        for start in range(0, len(self.rows), self.batch):
            batch = self.data.batch(list(self.rows[start : start + self.batch]))
            fed = feeds(batch, self.model.inputs, self.data.name)
            yield arguments(self.model.module, self.model.inputs, fed)
