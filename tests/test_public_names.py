"""What `import deploykit` offers is what it says, sorted, documented, and light to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import deploykit

_INIT = Path(deploykit.__file__)


def _typed_names() -> set[str]:
    """The names that type checkers see: those imported under `if TYPE_CHECKING`."""
    tree = ast.parse(_INIT.read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_names_are_sorted_and_known_to_type_checkers() -> None:
    assert sorted(deploykit.__all__) == deploykit.__all__
    assert set(deploykit.__all__) == _typed_names()


def test_every_name_is_there_and_documented() -> None:
    found = {name: getattr(deploykit, name) for name in deploykit.__all__}

    assert [name for name, value in found.items() if isinstance(value, ModuleType)] == []
    assert [name for name, value in found.items() if not value.__doc__] == []


def test_a_name_that_is_not_public_is_refused() -> None:
    assert not hasattr(deploykit, "calibrate_everything")


def test_importing_the_package_loads_no_other_package() -> None:
    code = (
        "import sys, deploykit; "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy', 'rich', 'click', 'msgspec'}"
        " & set(sys.modules)))"
    )

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout.strip() == "[]"
