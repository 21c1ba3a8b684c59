"""PyTorch eager: the network as it was trained, the yardstick for every export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from deploykit.core.errors import BadInputError, EnvironmentFailedError, nearest
from deploykit.core.extras import extra
from deploykit.core.types import OnnxArtifact, TensorSpec
from deploykit.runtimes.base import check_feeds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from deploykit.core.measurement import Target
    from deploykit.core.types import Model, Option
    from deploykit.load.sources import Source
    from deploykit.runtimes.base import Array


@dataclass(frozen=True, slots=True)
class TorchEager:
    """PyTorch without a compiler, in inference mode.

    It takes a source that a user named on the command line, never one from a record: loading a
    source runs its code.
    """

    format: ClassVar[str] = "pytorch"
    name: str = "torch-eager"
    device: str = "cpu"

    def missing(self) -> str | None:
        """Why it cannot run on this machine, in one line; `None` where it can."""
        from importlib.util import find_spec

        return None if find_spec("torch") else "pip install 'deploykit[compress]'"

    def warm_imports(self) -> None:
        """Import torch and run one operator."""
        with extra("compress"):
            import torch
        with torch.inference_mode():
            torch.zeros(1, 1) @ torch.zeros(1, 1)

    def open(self, artifact: OnnxArtifact | Source, target: Target) -> EagerSession:
        """Load a PyTorch source; see `deploykit.runtimes.base.Runtime`."""
        if isinstance(artifact, OnnxArtifact):
            raise BadInputError(
                f"{self.name} runs PyTorch sources, and {artifact.model_path} is an ONNX file: "
                "give the network that it came from"
            )
        self.warm_imports()
        from deploykit.load.modules import load_source

        return self.from_model(load_source(artifact), target)

    def from_model(self, model: Model, target: Target) -> EagerSession:
        """A session of a network that is in memory already."""
        import torch

        if target.options:
            name = next(iter(target.options))
            raise BadInputError(f"{self.name} has no option {name!r}{nearest(name, ())}")
        if target.threads is not None:
            torch.set_num_threads(target.threads)
        try:
            module = model.module.eval().to(target.device)
        except (RuntimeError, AssertionError) as error:
            raise EnvironmentFailedError(
                f"{self.name} cannot use {target.device}: {str(error).splitlines()[0]}"
            ) from error
        return EagerSession(module, model.inputs, model.outputs, target.device)


class EagerSession:
    """A network in memory; see `deploykit.runtimes.base.Session`."""

    def __init__(
        self,
        module: nn.Module,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        device: str,
    ) -> None:
        self._module: nn.Module | None = module
        self._device = device
        self.inputs = inputs
        self.outputs = outputs

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], Sequence[Array]]:
        """The call that runs `forward` on these arrays; see `deploykit.load.calls`.

        On the CPU tensors share the arrays' memory; elsewhere the copies to and from the device
        are inside the call. Outputs are flattened (tuples, lists and dictionaries, in order).
        """
        import torch

        from deploykit.load.calls import arguments, named_outputs, refuse_call, to_array

        module, inputs = self._module, self.inputs
        assert module is not None, "the session is closed"
        call = arguments(module, self.inputs, check_feeds(self.inputs, feeds))
        device = torch.device(self._device)

        def on_host() -> list[Array]:
            with torch.inference_mode():
                try:
                    result = module(*call.args, **call.kwargs)
                except Exception as error:  # noqa: BLE001  (users' code raises what it likes)
                    refuse_call(error, inputs)
                # The common case costs no more than itself.
                if isinstance(result, torch.Tensor) and result.dtype != torch.bfloat16:
                    return [result.numpy()]
                return [to_array(tensor) for tensor in named_outputs(result).values()]

        def on_device() -> list[Array]:
            with torch.inference_mode():
                args = (tensor.to(device) for tensor in call.args)
                kwargs = {name: tensor.to(device) for name, tensor in call.kwargs.items()}
                result = module(*args, **kwargs)
                return [to_array(tensor) for tensor in named_outputs(result).values()]

        return on_host if device.type == "cpu" else on_device

    def facts(self) -> dict[str, Option]:
        """Version, threads as they are in force, and the device."""
        import torch

        return {
            "torch": torch.__version__,
            "intra_op_threads": torch.get_num_threads(),
            "device": self._device,
            "mode": "inference_mode",
        }

    def close(self) -> None:
        """Drop the network; its memory goes once no bound call is left."""
        self._module = None
