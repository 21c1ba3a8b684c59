"""Guards of the design that neither ruff, mypy nor import-linter hold."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "deploykit"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.name != "__main__.py"
)
# Networks and the training loop's parts: made of torch, and imported by nothing at its top.
NEED_TORCH = {
    "deploykit.compress.distill.at_size",
    "deploykit.compress.distill.decoupled",
    "deploykit.compress.distill.features",
    "deploykit.compress.distill.graph_layers",
    "deploykit.compress.distill.layers",
    "deploykit.compress.distill.loss",
    "deploykit.compress.distill.outputs",
    "deploykit.compress.distill.relations",
    "deploykit.compress.distill.soft_targets",
    "deploykit.compress.distill.teachers",
    "deploykit.compress.exits.heads",
    "deploykit.compress.exits.loss",
    "deploykit.compress.exits.network",
    "deploykit.compress.separable.fit",
    "deploykit.compress.separable.moments",
    "deploykit.compress.separable.refit",
    "deploykit.compress.separable.split",
    "deploykit.nets.classic",
    "deploykit.nets.mobilenet",
    "deploykit.nets.resnet",
    "deploykit.nets.separable",
    "deploykit.train.augment",
    "deploykit.train.average",
    "deploykit.train.checkpoint",
    "deploykit.train.draws",
    "deploykit.train.fit",
    "deploykit.train.global_norm",
    "deploykit.train.learning",
    "deploykit.train.loop",
    "deploykit.train.mix",
    "deploykit.train.optimizer",
    "deploykit.train.pixels",
    "deploykit.train.room",
    "deploykit.train.run",
    "deploykit.train.samples",
    "deploykit.train.tasks",
    "deploykit.train.watch",
}
_IMPORT_ALL = """
import json, sys
from importlib import import_module
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "accelerate", "safetensors", "onnxscript"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
failed = {}
for name in json.loads(sys.argv[1]):
    try:
        import_module(name)
    except ImportError as error:
        failed[name] = str(error)
print(json.dumps(failed))
"""


def test_a_device_without_torch_imports_everything_but_the_networks() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, json.dumps(MODULES)],
        capture_output=True,
        text=True,
        check=True,
    )
    failed: dict[str, str] = json.loads(ended.stdout)

    assert set(failed) == NEED_TORCH, failed


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_idea(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    long = {node.name: _lines(node) for node in _functions(text) if _lines(node) > 60}

    assert len(text.splitlines()) <= 400, "split it"
    assert not long, f"does not fit a screen: {long}"
    assert path.stem not in {"utils", "helpers", "common", "misc"}


def test_rooms_are_those_of_the_design() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}

    assert rooms <= {
        "core", "load", "nets", "train", "runtimes", "bench", "check", "compress", "export",
        "quantize", "engine", "bundle", "flow", "cli",
    }  # fmt: skip


def test_tests_have_names_of_their_own() -> None:
    """Without packages among the tests, two files of one name would hide each other."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]

    assert len(names) == len(set(names))


def _functions(text: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.walk(ast.parse(text))
    return [node for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Of the body, without signature and docstring."""
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1
