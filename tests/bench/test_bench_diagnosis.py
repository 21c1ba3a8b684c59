"""What doctor concludes from what it finds, for machines that this one is not."""

from __future__ import annotations

import stat
import sys
from typing import TYPE_CHECKING

import pytest

from deploykit.bench import diagnosis
from deploykit.bench.diagnosis import State
from deploykit.bench.tryout import try_here, try_in_child, try_torch
from deploykit.runtimes import TORCH_EAGER, ort

if TYPE_CHECKING:
    from pathlib import Path

CUDA = next(runtime for runtime in ort.PROVIDERS if runtime.name == "ort-cuda")
XNNPACK = next(runtime for runtime in ort.PROVIDERS if runtime.name == "ort-xnnpack")


def test_two_onnxruntimes_overwrite_each_other() -> None:
    installed = {
        "onnxruntime": "1.32.0",
        "onnxruntime-gpu": "1.31.0",
        "onnxruntime-extensions": "1",
    }

    (clash,) = diagnosis.clash_findings(installed)

    assert clash.state is State.BROKEN
    assert clash.detail == "onnxruntime and onnxruntime-gpu overwrite each other's files"
    assert clash.remedy == (
        "pip uninstall --yes onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    )
    assert not list(diagnosis.clash_findings({"onnxruntime": "1"}))


def test_the_remedy_for_a_provider_does_not_make_them_clash() -> None:
    found = diagnosis.runtime_finding(CUDA, {"onnxruntime": "1.32.0"}, deep=False)

    assert found.state is State.MISSING
    assert "has no CUDAExecutionProvider" in found.detail
    assert found.remedy == "pip uninstall onnxruntime && pip install onnxruntime-gpu"


def test_a_provider_of_other_builds_has_no_line_to_install_it() -> None:
    found = diagnosis.runtime_finding(XNNPACK, {"onnxruntime": "1.32.0"}, deep=False)

    assert found.detail == "this build of onnxruntime has no XnnpackExecutionProvider"
    assert found.remedy == ""


def test_extras_come_from_the_packages_own_metadata() -> None:
    requires = [
        "click<9,>=8.4",
        "torch>=2.8; extra == 'compress'",
        'onnxscript>=0.5 ; extra == "compress"',
        "Cuda_Python>=12.6; extra == 'cuda'",
        "deploykit[compress,data]; extra == 'dev'",
    ]

    both, cuda = diagnosis.extra_findings(requires, {"torch": "2.13", "cuda-python": "13.0"})

    assert (both.name, both.state) == ("compress", State.MISSING)
    assert both.detail == "without onnxscript"
    assert both.remedy == "pip install 'deploykit[compress]'"
    assert (cuda.name, cuda.state, cuda.detail) == ("cuda", State.OK, "cuda-python 13.0")


def test_the_line_of_an_extra_leaves_one_onnxruntime() -> None:
    (cuda,) = diagnosis.extra_findings(["onnxruntime-gpu>=1.20; extra == 'cuda'"], {})

    assert cuda.remedy == (
        "pip install 'deploykit[cuda]' && pip uninstall --yes onnxruntime onnxruntime-gpu && "
        "pip install onnxruntime-gpu"
    )


def test_the_data_set_has_its_line() -> None:
    found = diagnosis.data_finding(None)

    assert found.state is State.MISSING
    assert found.remedy == "apt-get install dataset-fashion-mnist"


@pytest.mark.parametrize(
    ("script", "state", "detail"),
    [
        ("echo 'A GPU, 580.1, 81559 MiB'", State.OK, "A GPU, 580.1, 81559 MiB"),
        ("echo 'No devices were found'; exit 6", State.BROKEN, "nvidia-smi: No devices were found"),
        ("exit 9", State.BROKEN, "nvidia-smi: status 9"),
    ],
)
def test_what_nvidia_smi_says(
    script: str, state: State, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    found = diagnosis.gpu_finding()

    assert (found.state, found.detail) == (state, detail)


def test_no_nvidia_smi_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert diagnosis.gpu_finding().state is State.MISSING


def test_the_build_of_torch_is_read_and_torch_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('never')")
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = '12.8'\nhip = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    assert diagnosis.torch_build() == "CUDA 12.8"
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = None\n")
    assert diagnosis.torch_build() == "CPU only"


def test_onnx_runtime_gets_one_layer_right() -> None:
    """It raises where the answer is wrong."""
    try_here(ort.CPU)


def test_pytorch_gets_one_layer_right() -> None:
    """It raises where the answer is wrong."""
    try_torch()


def test_a_child_says_what_is_wrong() -> None:
    assert try_in_child("ort-cpu") is None
    assert "there is no runtime 'ort-cpi'" in str(try_in_child("ort-cpi"))
    assert "ort-cuda cannot run here" in str(try_in_child("ort-cuda")) or CUDA.missing() is None


def test_a_runtime_that_takes_its_process_down_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    assert str(try_in_child("ort-cpu")).startswith("its process died with status -6")
    finding = diagnosis.runtime_finding(ort.CPU, {"onnxruntime": "1.32.0"}, deep=False)
    assert finding.state is State.BROKEN


def test_pytorch_is_run_only_on_request() -> None:
    quick = diagnosis.runtime_finding(TORCH_EAGER, {"torch": "2.13.0"}, deep=False)

    assert quick.state is State.OK
    assert quick.detail.endswith("--deep runs it")
