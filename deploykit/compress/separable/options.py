"""The options of splitting. Standard library only: help reads them."""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.core.errors import BadInputError


@dataclass(frozen=True, slots=True)
class SeparableOptions:
    """Which convolutions are split, and how.

    Attributes:
        rank: depthwise kernels for each input channel, 1 or more. With 2, 3 ... the split is
            nearer to the original, and larger in proportion.
        layers: names of modules, or patterns such as "stages.*", that may be split, with all that
            is in them; empty for every convolution that can be.
        skip: likewise, that stay as they are; wins over `layers`.
        refit: whether kernels are fitted to what goes through the layers, where there is data.
        samples: of the data that are looked at for that; a quarter of them only judges the fit.
        seed: of the choice of the samples, and of training.
    """

    rank: int = 1
    layers: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    refit: bool = True
    samples: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be split with."""
        if self.rank < 1:
            raise BadInputError(f"rank must be 1 or more, not {self.rank}")
        if self.samples < 8:
            raise BadInputError(f"samples must be 8 or more, not {self.samples}")
        if self.seed < 0:
            raise BadInputError(f"seed must be 0 or more, not {self.seed}")
