"""Whether a runtime really works: run a network of one layer and compare the numbers.

`python -m deploykit.bench.tryout NAME` does it in a process of its own, because a broken driver or
library may take the process down with it. It prints one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.core.errors import DeploykitError, EnvironmentFailedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deploykit.core.types import OnnxArtifact
    from deploykit.runtimes.base import Runtime

_SECONDS = 120
_IR_VERSION, _OPSET = 8, 13  # what every onnxruntime from 1.20 on reads


def try_in_child(name: str) -> str | None:
    """Run the tiny network in a child process.

    Args:
        name: of a runtime.

    Returns:
        `None` where it works, otherwise why not, in one line.
    """
    # -P: a `queue.py` in the folder where the user stands must not be taken for Python's own.
    command = [sys.executable, "-P", "-m", "deploykit.bench.tryout", name]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it did not finish a network of one layer in {_SECONDS} s"
    try:
        answer = json.loads(ended.stdout.splitlines()[-1])
        return None if answer["works"] else str(answer["error"])
    except (IndexError, KeyError, TypeError, ValueError):
        last = (ended.stderr.strip().splitlines() or ["without a word"])[-1]
        return f"its process died with status {ended.returncode}: {last}"


def try_here(runtime: Runtime) -> None:
    """Run the tiny network on an ONNX runtime in this process.

    Raises:
        DeploykitError: it cannot be opened, or its numbers are wrong.
    """
    import numpy as np

    from deploykit.core.measurement import Target

    with tempfile.TemporaryDirectory(prefix="deploykit-tryout-") as folder:
        artifact = _tiny_artifact(Path(folder))
        session = runtime.open(artifact, Target(runtime.name, device=runtime.device))
        x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
        (found,) = session.bind({"x": x})()
        session.close()
    expected = np.maximum(x @ _weights(), 0)
    # Half precision is enough to tell working from broken, and some accelerators have no more.
    if not np.allclose(found, expected, atol=1e-2):
        raise EnvironmentFailedError(f"{runtime.name} runs and gets the numbers of one layer wrong")


def try_torch() -> None:
    """The same layer in PyTorch, on the CPU and on the GPU if PyTorch says that there is one.

    Raises:
        EnvironmentFailedError: the numbers are wrong.
    """
    import numpy as np
    import torch

    weights = _weights()
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    expected = np.maximum(x @ weights, 0)
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        product = torch.from_numpy(x).to(device) @ torch.from_numpy(weights).to(device)
        if not np.allclose(product.relu().cpu().numpy(), expected, atol=1e-2):
            raise EnvironmentFailedError(f"torch gets the numbers of one layer wrong on {device}")


def _weights() -> NDArray[np.float32]:
    import numpy as np

    return np.cos(np.arange(20, dtype=np.float32)).reshape(4, 5)


def _tiny_artifact(folder: Path) -> OnnxArtifact:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from deploykit.load.artifacts import load_artifact

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "tryout",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 5])],
        [numpy_helper.from_array(_weights(), "w")],
    )
    model = helper.make_model(
        graph, ir_version=_IR_VERSION, opset_imports=[helper.make_opsetid("", _OPSET)]
    )
    onnx.save(model, folder / "tryout.onnx")
    return load_artifact(folder / "tryout.onnx")


def _answer(name: str) -> dict[str, object]:
    from deploykit.runtimes import runtime_named

    try:
        runtime = runtime_named(name)
        if runtime.format == "onnx":
            try_here(runtime)
        else:
            try_torch()
    except DeploykitError as error:
        return {"works": False, "error": str(error)}
    except Exception as error:  # noqa: BLE001  (whatever a broken installation raises is the answer)
        return {"works": False, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"works": True}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_answer(sys.argv[1])) + "\n")
