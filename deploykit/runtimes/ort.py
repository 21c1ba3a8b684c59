"""ONNX Runtime: one entry per execution provider, and no fallback from one to another.

ONNX Runtime only warns where a provider did not come up, and then runs on the CPU. So three things
are checked here: that the build has the provider, that the session kept it, and that it was really
given nodes. Nodes that it could not take run on the CPU, which is normal; how many is in `facts`.

Sources: ONNX Runtime's Python API (`InferenceSession`, `SessionOptions`) and its
onnxruntime_session_options_config_keys.h.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from deploykit.core.errors import BadInputError, EnvironmentFailedError, MissingExtraError, nearest
from deploykit.core.extras import extra
from deploykit.core.types import OnnxArtifact
from deploykit.runtimes.base import check_feeds, option
from deploykit.runtimes.ort_errors import plain_error, plain_errors
from deploykit.runtimes.ort_specs import spec_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deploykit.core.measurement import Target
    from deploykit.core.types import Option
    from deploykit.load.sources import Source
    from deploykit.runtimes.base import Array

# Since 1.29 ONNX Runtime reports to its maker from Linux and macOS too: a thread, a file in the
# temporary folder and the network, from a process that measures. Read when it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

CPU_PROVIDER = "CPUExecutionProvider"
OPTIMIZATIONS = ("all", "extended", "basic", "disable")
_FATAL_ONLY = 4  # errors come as exceptions, too


# An ONNX file of opset 13 with one node, y = Abs(x), both float32 of shape [1].
TINY_MODEL = (
    b'\x08\x07\x12\x00:2\n\x0b\n\x01x\x12\x01y"\x03Abs\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08'
    b"\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B"
    b"\x04\n\x00\x10\r"
)


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """One execution provider of ONNX Runtime.

    Options of a target: `optimization` ("all", "extended", "basic", "disable") and `spin` ("on",
    "off"): whether idle threads wait in a loop for work, as is ONNX Runtime's default.

    Attributes:
        name: as users type it.
        provider: ONNX Runtime's name of it.
        package: what to install where a build lacks it.
        device: where it runs unless the target says otherwise.
    """

    format: ClassVar[str] = "onnx"
    name: str
    provider: str
    package: str
    device: str = "cpu"

    def missing(self) -> str | None:
        """Why it cannot run on this machine, in one line; `None` where it can."""
        try:
            import onnxruntime
        except ImportError:
            return f"onnxruntime is not installed: pip install {self.package}"
        there = onnxruntime.get_available_providers()
        if self.provider in there:
            return None
        reason = f"this onnxruntime ({onnxruntime.__version__}) has no {self.provider}"
        if self.package == "onnxruntime":
            return f"{reason}: build one that has it, no pip install brings it"
        # Two of them side by side overwrite each other's files.
        return f"{reason}: pip uninstall onnxruntime && pip install {self.package}"

    def warm_imports(self) -> None:
        """Import ONNX Runtime, silence its log, and run one operator.

        The first session of a process reads in schemas and code, about 10 MB and 5 ms.
        """
        _import(self.package)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        tiny = onnxruntime.InferenceSession(TINY_MODEL, options, providers=[CPU_PROVIDER])
        tiny.run(None, {"x": np.zeros(1, np.float32)})

    def open(
        self, artifact: OnnxArtifact | Source, target: Target, profile_to: Path | None = None
    ) -> OrtSession:
        """Load an ONNX artifact; see `deploykit.runtimes.base.Runtime`.

        With `profile_to`, the beginning of a file's path, ONNX Runtime writes down what every
        node takes, until `OrtSession.end_profile`.
        """
        if not isinstance(artifact, OnnxArtifact):
            raise BadInputError(
                f"{self.name} runs ONNX files, and {artifact.text} is a PyTorch source: "
                f"deploykit export {artifact.text}"
            )
        _import(self.package)
        if reason := self.missing():
            raise MissingExtraError(f"{self.name} cannot run here: {reason}")
        import onnxruntime

        options = _session_options(target, record=self.provider != CPU_PROVIDER)
        if profile_to is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_to)
        with plain_errors(artifact.model_path):
            session = onnxruntime.InferenceSession(
                artifact.model_path, options, providers=[self._with_device(target.device)]
            )
        return OrtSession(session, self._placed(session), artifact, target)

    def _with_device(self, device: str) -> str | tuple[str, dict[str, str]]:
        _, colon, number = device.partition(":")
        return (self.provider, {"device_id": number}) if colon else self.provider

    def _placed(self, session: Any) -> Counter[str]:
        """Number of nodes by provider; empty where this onnxruntime does not tell.

        Raises:
            EnvironmentFailedError: the provider was dropped, or was given no node at all.
        """
        if session.get_providers()[0] != self.provider:
            raise EnvironmentFailedError(
                f"{self.name}: {self.provider} is installed but did not come up (driver or "
                "library missing?), and ONNX Runtime fell back to "
                f"{session.get_providers()[0]}: refused"
            )
        tell = getattr(session, "get_provider_graph_assignment_info", None)
        if tell is None or self.provider == CPU_PROVIDER:
            return Counter()
        placed = Counter({part.ep_name: 0 for part in tell()})
        for part in tell():
            placed[part.ep_name] += len(part.get_nodes())
        if placed and not placed[self.provider]:
            raise EnvironmentFailedError(
                f"{self.name}: {self.provider} takes none of this model's "
                f"{placed.total()} nodes, so that all of it would run on the CPU: refused"
            )
        return placed


class OrtSession:
    """A loaded model in ONNX Runtime; see `deploykit.runtimes.base.Session`."""

    def __init__(
        self,
        session: Any,
        placed: Counter[str],
        artifact: OnnxArtifact,
        target: Target,
    ) -> None:
        self._path = artifact.model_path
        self._session = session
        self._placed = placed
        self._target = target
        ranges = {spec.name: spec for spec in artifact.inputs}
        # The artifact's own specs know ranges; the file itself only knows names of dimensions.
        self.inputs = tuple(
            ranges.get(value.name) or spec_of(value) for value in session.get_inputs()
        )
        self.outputs = tuple(spec_of(value) for value in session.get_outputs())

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], Sequence[Array]]:
        """The call that runs `InferenceSession.run` on these host arrays, outputs in order.

        Between the clock and ONNX Runtime's own method there is one Python frame, which turns an
        error at run time (a size that an operator cannot take) into one line.
        """
        run, path = self._session.run, self._path
        names = [spec.name for spec in self.outputs]
        arrays = check_feeds(self.inputs, feeds)

        def call() -> Sequence[Array]:
            try:
                outputs: Sequence[Array] = run(names, arrays)
            except Exception as error:
                raise plain_error(error, path) from error
            return outputs

        return call

    def direct(self) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        """The call from inputs by name to outputs by name, for inputs that differ each time.

        Nothing is checked that ONNX Runtime does not check itself: checks take 40 us, and stages
        feed each other.
        """
        run, path = self._session.run, self._path
        names = [spec.name for spec in self.outputs]

        def call(feeds: Mapping[str, Array]) -> dict[str, Array]:
            try:
                return dict(zip(names, run(names, feeds), strict=True))
            except Exception as error:
                raise plain_error(error, path) from error

        return call

    def facts(self) -> dict[str, Option]:
        """Version, settings as they are in force, and which provider really runs the nodes."""
        import onnxruntime

        options = self._session.get_session_options()
        told: dict[str, Option] = {
            "onnxruntime": onnxruntime.__version__,
            "providers": tuple(self._session.get_providers()),
            "intra_op_threads": options.intra_op_num_threads or "onnxruntime's default",
            "inter_op_threads": options.inter_op_num_threads,
            **_choices(self._target),
        }
        if self._placed:
            told["nodes"] = self._placed.total()
            told["nodes_on_cpu"] = self._placed[CPU_PROVIDER]
        return told

    def end_profile(self) -> Path:
        """End the profile that the session was opened with; the file that holds it, as JSON."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Drop the session; its memory goes once no bound call is left."""
        self._session = None


def _import(package: str) -> None:
    with extra(f"package:{package}"):
        import onnxruntime
    onnxruntime.set_default_logger_severity(_FATAL_ONLY)


def _choices(target: Target) -> dict[str, str]:
    known = ("optimization", "spin")
    for name in target.options:
        if name not in known:
            raise BadInputError(f"ONNX Runtime has no option {name!r} here{nearest(name, known)}")
    return {
        "optimization": option(target.options, "optimization", "all", OPTIMIZATIONS),
        "spin": option(target.options, "spin", "on", ("on", "off")),
    }


def _session_options(target: Target, *, record: bool) -> Any:
    import onnxruntime

    choices = _choices(target)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if target.threads is not None:
        options.intra_op_num_threads = target.threads
    options.inter_op_num_threads = 1
    level = f"ORT_{choices['optimization'].upper()}"
    suffix = {"ORT_ALL": "ORT_ENABLE_ALL", "ORT_DISABLE": "ORT_DISABLE_ALL"}
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, suffix.get(level, level.replace("ORT_", "ORT_ENABLE_"))
    )
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if choices["spin"] == "on" else "0"
    )
    if record:  # only where there is more than the CPU to place nodes on; unknown keys are ignored
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


CPU = OnnxRuntime("ort-cpu", CPU_PROVIDER, "onnxruntime")
PROVIDERS = (
    CPU,
    OnnxRuntime("ort-cuda", "CUDAExecutionProvider", "onnxruntime-gpu", "cuda:0"),
    OnnxRuntime("ort-tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu", "cuda:0"),
    OnnxRuntime("ort-tensorrt-rtx", "NvTensorRTRTXExecutionProvider", "onnxruntime-gpu", "cuda:0"),
    OnnxRuntime("ort-migraphx", "MIGraphXExecutionProvider", "onnxruntime-migraphx", "rocm:0"),
    OnnxRuntime("ort-openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino"),
    OnnxRuntime("ort-dml", "DmlExecutionProvider", "onnxruntime-directml", "dml:0"),
    OnnxRuntime("ort-qnn", "QNNExecutionProvider", "onnxruntime-qnn", "npu"),
    OnnxRuntime("ort-coreml", "CoreMLExecutionProvider", "onnxruntime", "coreml"),
    OnnxRuntime("ort-xnnpack", "XnnpackExecutionProvider", "onnxruntime"),
    OnnxRuntime("ort-dnnl", "DnnlExecutionProvider", "onnxruntime"),
    OnnxRuntime("ort-acl", "ACLExecutionProvider", "onnxruntime"),
)
