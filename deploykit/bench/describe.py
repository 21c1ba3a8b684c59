"""What a PyTorch source is, told by a process that measures nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.bench.protocol import Described, load_feeds

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploykit.load.sources import Source


def describe_source(source: Source) -> tuple[Described, Callable[[str], int | None]]:
    """The facts of a network, and a call that counts its MACs for the feeds in an `.npz` file.

    Raises:
        DeploykitError: the source cannot be loaded; see `deploykit.load.sources.load_source`.
    """
    from deploykit.load.modules import load_source

    model = load_source(source)
    described = Described(
        inputs=model.inputs,
        outputs=model.outputs,
        parameters=sum(parameter.numel() for parameter in model.module.parameters()),
        digest=model.history[-1].input_digests["state"],
    )

    def count(feeds: str) -> int | None:
        from deploykit.bench.layers import totals
        from deploykit.bench.modules import modules_of

        return totals(modules_of(model, load_feeds(feeds))).macs

    return described, count
