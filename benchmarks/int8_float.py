"""`python -m benchmarks.int8_float NAME FOLDER`: a float network exported to ONNX, for all tools.

The reference networks of `models/`, and networks of torchvision and timm with drawn weights and
norms that know their data (`zoo.build`): how long a network takes does not depend on what it has
learnt.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.in_child import ONE_THREAD, ChildError, answer
from benchmarks.packages import ROOT

if TYPE_CHECKING:
    from deploykit.core.types import Model

ZOO = {
    "resnet50": "torchvision",
    "mobilenet_v2": "torchvision",
    "mobilenet_v3_large": "torchvision",
    "efficientnet_b0": "torchvision",
    "deit_tiny_patch16_224": "timm",
}
_SIZE = 224


def export(name: str, folder: Path) -> Path:
    """The ONNX file of a network in an empty folder; made in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        answer("benchmarks.int8_float", name, str(folder), environment=ONE_THREAD)
    except ChildError as error:
        sys.exit(f"{name} could not be exported: {error}")
    return folder / "model.onnx"


def _model(name: str) -> Model:
    if name in ZOO:
        return _drawn(name)
    from deploykit.flow.rebuild import load_model
    from deploykit.load.sources import Source

    path = ROOT / "models" / name
    return load_model(Source(str(path if path.is_dir() else name)))


def _drawn(name: str) -> Model:
    from benchmarks import packages, zoo
    from deploykit.core.types import Model
    from deploykit.load.inputs import parse_inputs

    packages.on_path()
    module = zoo.build(zoo.Network(name, ZOO[name], _SIZE))
    return Model(module, parse_inputs([f"x=N[1..64]x3x{_SIZE}x{_SIZE}"]))


def main(name: str, folder: str) -> None:
    """Export; see the module."""
    from deploykit.export.options import ExportOptions
    from deploykit.export.torch_to_onnx import export_model

    export_model(_model(name), Path(folder), ExportOptions())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
