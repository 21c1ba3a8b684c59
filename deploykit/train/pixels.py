"""What the numbers of an image mean: where black is, and how they were normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from deploykit.core.types import Preprocessing


@dataclass(frozen=True, slots=True)
class Pixels:
    """How images were normalised: (pixel - mean) / std, with pixels from 0 to 1.

    Attributes:
        mean: shape [C, 1, 1], or [1, 1, 1] where nobody said.
        std: likewise.
        known: whether somebody said.
    """

    mean: Tensor
    std: Tensor
    known: bool

    @classmethod
    def of(cls, preprocessing: Preprocessing | None) -> Pixels:
        """As the data says it; numbers are taken for pixels where it does not."""
        if preprocessing is None or not preprocessing.mean:
            return cls(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), known=False)
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        return cls(mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1), known=True)

    @property
    def black(self) -> Tensor:
        """A black pixel after normalisation, shape [C, 1, 1]; 0 where nobody said."""
        return -self.mean / self.std

    def raw(self, images: Tensor) -> Tensor:
        """Pixels from 0 to 1 again.

        Raises:
            BadInputError: nobody said how they were normalised.
        """
        if not self.known:
            raise BadInputError(
                "jitter changes pixels, and the data does not say how they were normalised; set "
                "jitter = 0 in [train]"
            )
        return images * self.std.to(images) + self.mean.to(images)

    def normalised(self, pixels: Tensor) -> Tensor:
        """What a network takes."""
        return (pixels - self.mean.to(pixels)) / self.std.to(pixels)
