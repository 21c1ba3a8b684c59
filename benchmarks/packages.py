"""torchvision, timm and the peers: in a folder of their own, `.bench/zoo`, never in .venv.

torchvision comes without its compiled operators' library being loadable (its wheels are built for
CUDA); two of those operators are looked up at import and have to be declared before.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import pinned

ROOT = Path(__file__).parents[1]
BENCH = ROOT / ".bench"
FOLDER = BENCH / "zoo"
REQUIREMENTS = ROOT / "benchmarks" / "peers" / "requirements.txt"
_BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[object] = []


def ready() -> bool:
    """Whether the folder has what `requirements.txt` pins."""
    return pinned.is_ready(REQUIREMENTS, FOLDER)


def install() -> None:
    """Fill the folder, where it is not ready; ends the program with one line where pip fails."""
    pinned.install(REQUIREMENTS, FOLDER, ROOT, "pruning")


def on_path() -> None:
    """Make the folder's packages importable in this process, which should be a child's."""
    import torch

    if _declared:
        return
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # torch has no types here
    for name in ("nms", "qnms"):
        library.define(name + _BOXES)  # type: ignore[no-untyped-call]  # torch has no types here
    _declared.append(library)  # the operators go with it
    sys.path.append(str(FOLDER))
