"""Initial weights that depend on a seed and on nothing else."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Layers made in this block draw their weights from `seed`.

    The global generator is put back afterwards, so that building a network neither depends on
    what ran before nor changes what runs after.

    Args:
        seed: any integer.
    """
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
