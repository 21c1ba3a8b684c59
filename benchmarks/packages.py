"""torchvision, timm and the peers: in a folder of their own, `.bench/zoo`, never in .venv.

torchvision comes without its compiled operators' library being loadable (its wheels are built for
CUDA); two of those operators are looked up at import and have to be declared before.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BENCH = ROOT / ".bench"
FOLDER = BENCH / "zoo"
REQUIREMENTS = ROOT / "benchmarks" / "peers" / "requirements.txt"
_MARK = "requirements.txt"  # a copy in the folder, written last: what is installed there
_BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[object] = []


def ready() -> bool:
    """Whether the folder has what `requirements.txt` pins."""
    mark = FOLDER / _MARK
    return mark.is_file() and mark.read_bytes() == REQUIREMENTS.read_bytes()


def install() -> None:
    """Fill the folder, where it is not ready; ends the program with one line where pip fails."""
    if ready():
        return
    fresh = FOLDER.with_name("zoo.new")
    for folder in (fresh, FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
    print(f"installing what {REQUIREMENTS.relative_to(ROOT)} pins into {FOLDER.name}", flush=True)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--target", str(fresh), "--requirement", str(REQUIREMENTS)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        errors = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
        sys.exit(
            f"pip could not install {REQUIREMENTS.relative_to(ROOT)}: "
            f"{errors[-1] if errors else f'exit status {ended.returncode}'}; the benchmarks of "
            "pruning need a package index for it, once"
        )
    shutil.copyfile(REQUIREMENTS, fresh / _MARK)
    fresh.rename(FOLDER)


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
