"""The samples that data-driven criteria look at, and how a network is run on them unchanged."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from deploykit.core.errors import BadInputError
from deploykit.load.calls import to_tensor
from deploykit.load.data import feeds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import Tensor, nn

    from deploykit.core.types import TensorSpec
    from deploykit.load.data import Data

Loss: TypeAlias = "Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]"
"""Called with the network, a batch's inputs and its labels; gives the mean loss, a scalar."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a criterion may look at.

    Attributes:
        data: as the network was trained on; never what its accuracy is reported on.
        inputs: of the network, in order.
        loss: what is minimised; `None` where the criterion needs no gradients.
        samples: how many of the data are looked at, at most.
        batch: samples at a time. Gradients are per sample with 1; larger batches are faster, and
            average the gradients of their samples before anything is made of them.
        seed: of the choice of the samples.
    """

    data: Data
    inputs: tuple[TensorSpec, ...]
    loss: Loss | None = None
    samples: int = 256
    batch: int = 1
    seed: int = 0

    def batches(self, device: torch.device) -> Iterator[tuple[tuple[Tensor, ...], Tensor | None]]:
        """Inputs and labels of each batch; the last samples that fill none are left out.

        Raises:
            BadInputError: the data does not fit the inputs, or fills no batch.
        """
        count = min(self.samples, len(self.data)) // self.batch * self.batch
        if not count:
            raise BadInputError(
                f"{self.data.name} has {len(self.data)} samples of which {self.samples} may be "
                f"looked at, and a batch takes {self.batch}"
            )
        draws = np.random.default_rng(self.seed)
        rows = np.sort(draws.choice(len(self.data), count, replace=False)).tolist()
        for start in range(0, count, self.batch):
            batch = self.data.batch(rows[start : start + self.batch])
            fed = feeds(batch, self.inputs, self.data.name)
            labels = None if batch.labels is None else to_tensor(batch.labels).to(device)
            yield tuple(to_tensor(array).to(device) for array in fed.values()), labels


def class_loss(net: nn.Module, inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """A `Loss`: cross-entropy of classes."""
    from deploykit.train.tasks import cross_entropy

    return cross_entropy(net(*inputs), labels)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode; every part's own mode comes back."""
    before = [(part, part.training) for part in module.modules()]
    if not any(training for _, training in before):
        yield
        return
    whole = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(whole)
        for part, training in before:
            part.training = training
