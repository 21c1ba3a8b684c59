"""Pieces as ONNX Runtime's sessions, whose weights are mapped from one file.

Nothing is optimised: each node computes what the graph says, in whichever piece it is. Fused or
moved nodes would round otherwise, and then a range would depend on where the graph was cut. For
the same reason weights are not packed into another order ahead of time, which also copies them;
mapped, they need no memory that the system could not take back.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from deploykit.core.errors import EnvironmentFailedError
from deploykit.quantize.graph.values import without_weights
from deploykit.quantize.graph.write import moved
from deploykit.runtimes.ort import CPU_PROVIDER  # before onnxruntime: it switches off telemetry
from deploykit.runtimes.ort_errors import plain_errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    import onnx

    from deploykit.quantize.calibrate.pieces import Piece
    from deploykit.quantize.prepare.prepare import Prepared

_WEIGHTS = "weights"
_PIECE = "piece.onnx"
NETWORK = Path("the network")
"""What errors of ONNX Runtime are about: no file of the user's."""


class Sessions:
    """Opens pieces of one graph. Its weights lie in a temporary folder as long as it is open."""

    def __init__(self, prepared: Prepared, threads: int) -> None:
        """Write the weights down.

        Args:
            prepared: the float graph.
            threads: of ONNX Runtime; 0 for one a core.

        Raises:
            BadInputError: external data cannot be read.
            EnvironmentFailedError: there is no room for the weights in the temporary folder.
        """
        self._threads = threads
        self._folder = tempfile.TemporaryDirectory(prefix="deploykit-")
        path = Path(self._folder.name) / _WEIGHTS
        try:
            self._model = moved(prepared.model, prepared.folder, path)
        except BaseException as error:
            self._folder.cleanup()
            if isinstance(error, OSError):
                raise EnvironmentFailedError(
                    f"cannot write the weights to {path.parent}: {error.strerror or error}; make "
                    "room there, or set TMPDIR to another folder"
                ) from error
            raise
        self._constants = {tensor.name: tensor for tensor in self._model.graph.initializer}

    def open(self, piece: Piece, types: Mapping[str, int]) -> Any:
        """A session of a piece.

        Args:
            piece: of the graph.
            types: ONNX's numbers of the element types of what the piece reads.

        Raises:
            BadInputError: ONNX Runtime cannot run it; the message says why.
        """
        import onnx
        import onnxruntime

        path = Path(self._folder.name) / _PIECE
        onnx.save(self._of(piece, types), path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = False  # freed means freed
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.disable_prepacking", "1")
        # Idle threads would wait in a loop, and take the cores from the observers.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with plain_errors(NETWORK):
            return onnxruntime.InferenceSession(path, options, providers=[CPU_PROVIDER])

    def _of(self, piece: Piece, types: Mapping[str, int]) -> onnx.ModelProto:
        """A piece as a model of its own."""
        from onnx import TypeProto, helper

        made = without_weights(self._model)
        graph = made.graph
        for field in ("input", "output", "value_info"):
            graph.ClearField(field)
        for name in piece.reads:
            graph.input.append(helper.make_tensor_value_info(name, types[name], None))
        graph.output.extend(helper.make_value_info(name, TypeProto()) for name in piece.gives)
        graph.node.extend(piece.nodes)
        graph.initializer.extend(self._constants[name] for name in piece.constants)
        return made

    def __enter__(self) -> Self:
        """The weights are written already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the weights from the disk."""
        self._folder.cleanup()
