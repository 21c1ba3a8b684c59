"""Everything that `deploykit inspect` tells of a network, as one record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.bench.layers import Layer, Totals, layers_of, totals
from deploykit.bench.profile import NodeTime, OperatorTime, operator_times, profile_nodes
from deploykit.core.errors import BadInputError
from deploykit.core.progress import Progress, silent
from deploykit.core.records import Schema
from deploykit.core.types import TensorSpec  # noqa: TC001  (msgspec reads the annotations)
from deploykit.load.synthetic import choose_sizes, synthetic_feeds

if TYPE_CHECKING:
    from deploykit.core.types import Model, OnnxArtifact
    from deploykit.runtimes.ort import OnnxRuntime

INSPECTION = Schema("deploykit/inspection")
_SEED = 0


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a network is made of, and where its time goes.

    Attributes:
        name: how the user called it.
        inputs: what it takes.
        outputs: what it returns; empty where a network in memory does not say.
        sizes: the size given to each dynamic dimension.
        size_bytes: on disk, or `None` for a network in memory.
        layers: nodes of the graph, or modules.
        totals: of the layers.
        runtime: what took the times, or `None` where none were taken.
        not_timed: why none were taken although they should have been, or "".
        operators: where the time goes by operator, slowest first.
        nodes: where it goes by node as the runtime runs them, slowest first; empty for PyTorch.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sizes: dict[str, int]
    size_bytes: int | None
    layers: tuple[Layer, ...]
    totals: Totals
    runtime: str | None = None
    not_timed: str = ""
    operators: tuple[OperatorTime, ...] = ()
    nodes: tuple[NodeTime, ...] = ()


@dataclass(frozen=True, slots=True)
class How:
    """At which sizes to look, and whether to take times.

    Attributes:
        batch: size of the first dynamic dimension.
        sizes: of dynamic dimensions by name; those not given take their smallest.
        timed: whether to run the network under a profiler.
        threads: for that; `None` leaves it to the runtime.
    """

    batch: int | None = None
    sizes: tuple[tuple[str, int], ...] = ()
    timed: bool = True
    threads: int | None = None


def inspect_onnx(
    name: str, artifact: OnnxArtifact, how: How, runtime: OnnxRuntime, progress: Progress = silent
) -> Inspection:
    """Look at an ONNX artifact; never imports torch.

    A model that the runtime refuses at these sizes is told all the same, without times.

    Raises:
        BadInputError: sizes that it does not allow.
        MissingExtraError: the runtime is not there.
    """
    sizes = choose_sizes(artifact.inputs, how.batch, dict(how.sizes))
    progress(f"{name}: layers", None)
    layers = layers_of(artifact, sizes=sizes)
    nodes: tuple[NodeTime, ...] = ()
    not_timed = ""
    if how.timed:
        progress(f"{name}: time by operator on {runtime.name}", None)
        try:
            feeds = synthetic_feeds(artifact.inputs, sizes, _SEED)
            nodes = profile_nodes(artifact, feeds, runtime, how.threads)
        except BadInputError as error:
            not_timed = str(error)
    return Inspection(
        name=name,
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        sizes=sizes,
        size_bytes=artifact.size_bytes,
        layers=layers,
        totals=totals(layers),
        runtime=runtime.name if nodes else None,
        not_timed=not_timed,
        operators=operator_times(nodes),
        nodes=nodes,
    )


def inspect_model(name: str, model: Model, how: How, progress: Progress = silent) -> Inspection:
    """Look at a PyTorch network, on the CPU.

    Raises:
        BadInputError: sizes that it does not allow.
    """
    from deploykit.bench.modules import modules_of, profile_modules

    sizes = choose_sizes(model.inputs, how.batch, dict(how.sizes))
    feeds = synthetic_feeds(model.inputs, sizes, _SEED)
    progress(f"{name}: modules", None)
    layers = modules_of(model, feeds)
    operators: tuple[OperatorTime, ...] = ()
    if how.timed:
        progress(f"{name}: time by operator", None)
        operators = profile_modules(model, feeds, how.threads)
    return Inspection(
        name=name,
        inputs=model.inputs,
        outputs=model.outputs,
        sizes=sizes,
        size_bytes=None,
        layers=layers,
        totals=totals(layers),
        runtime="torch-eager" if how.timed else None,
        operators=operators,
    )
