"""What is installed on this machine, what works, and the line that installs what is missing.

Versions come from the packages' metadata, so that nothing heavy is imported here. That a runtime
is there is not believed: it runs a network of one layer, in a process of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.bench.machine import machine_facts
from deploykit.bench.tryout import try_in_child
from deploykit.core.measurement import Machine  # noqa: TC001  (msgspec reads the annotations)
from deploykit.core.progress import Progress, silent
from deploykit.core.records import Schema
from deploykit.load.fashion_mnist import whole_folder
from deploykit.runtimes import RUNTIMES
from deploykit.runtimes.ort import OnnxRuntime

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from deploykit.runtimes.base import Runtime

DOCTOR = Schema("deploykit/doctor")
_NOT_SHOWN = ("dev", "peers")  # extras for work on deploykit itself
_SOURCES = {"timm": "timm:NAME", "torchvision": "torchvision:NAME"}
_DATASET_LINE = "apt-get install dataset-fashion-mnist"
_REQUIREMENT = re.compile(r"(?P<package>[\w.-]+).*;.*extra == ['\"](?P<extra>[\w-]+)['\"]")
_CUDA_OF_TORCH = re.compile(r"^cuda\b.*= '([\d.]+)'", re.MULTILINE)
_GPU_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
_SECONDS = 10
# Builds of onnxruntime: all own the same files. The first is the one that deploykit depends on.
_ONNXRUNTIMES = (
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino",
    "onnxruntime-qnn", "onnxruntime-migraphx", "onnxruntime-rocm", "onnxruntime-cann",
)  # fmt: skip


class State(Enum):
    """How a part of the installation is."""

    OK = "ok"
    MISSING = "missing"
    """Not there; nothing is wrong as long as nobody needs it."""
    BROKEN = "broken"
    """There, and it does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of the installation.

    Attributes:
        area: "runtime", "extra", "source", "data", "gpu" or "packages".
        name: of the part.
        state: how it is.
        detail: versions, or what is wrong.
        remedy: the line to type, or "".
    """

    area: str
    name: str
    state: State
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that `deploykit doctor` tells.

    Attributes:
        deploykit: its version.
        python: its version.
        machine: the facts about it.
        findings: part by part.
    """

    deploykit: str
    python: str
    machine: Machine
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        """What is there and does not work."""
        return tuple(finding for finding in self.findings if finding.state is State.BROKEN)


def diagnose(*, deep: bool = False, progress: Progress = silent) -> Diagnosis:
    """Look at everything.

    Args:
        deep: run PyTorch as well, which takes seconds to import.
        progress: told what is being tried.
    """
    installed = installed_packages()
    found: list[Finding] = []
    for index, runtime in enumerate(RUNTIMES):
        progress(f"trying {runtime.name}", index / len(RUNTIMES))
        found.append(runtime_finding(runtime, installed, deep=deep))
    found += [
        *extra_findings(metadata.requires("deploykit") or (), installed),
        *source_findings(installed),
        data_finding(whole_folder()),
        gpu_finding(),
        *clash_findings(installed),
    ]
    python = ".".join(map(str, sys.version_info[:3]))
    return Diagnosis(__version__, python, machine_facts(), tuple(found))


def installed_packages() -> dict[str, str]:
    """Versions by name, as pip spells names in lists: lower case, hyphens."""
    found = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a half-removed package has none
            found[_canonical(name)] = distribution.version
    return found


def runtime_finding(runtime: Runtime, installed: Mapping[str, str], *, deep: bool) -> Finding:
    """Whether a runtime is there, and whether it works."""
    why = runtime.missing()
    if why is not None:
        reason, remedy = _remedy(runtime, why, installed)
        return Finding("runtime", runtime.name, State.MISSING, reason, remedy)
    if runtime.format == "pytorch":
        version = f"torch {installed.get('torch', '?')}, {torch_build()}"
        if not deep:
            return Finding("runtime", runtime.name, State.OK, f"{version}; --deep runs it")
    else:
        version = f"onnxruntime {_onnxruntime_version(installed)}"
    error = try_in_child(runtime.name)
    if error is None:
        return Finding("runtime", runtime.name, State.OK, f"{version}, ran a network of one layer")
    return Finding("runtime", runtime.name, State.BROKEN, f"{version}: {error}")


def _remedy(runtime: Runtime, why: str, installed: Mapping[str, str]) -> tuple[str, str]:
    """What is missing and the line that brings it, without making onnxruntimes clash."""
    reason, _, line = why.rpartition(": ")
    if not isinstance(runtime, OnnxRuntime):
        return "torch is not installed", why
    there = [name for name in onnxruntimes(installed) if name != runtime.package]
    if runtime.package in installed:
        return f"this build of {runtime.package} has no {runtime.provider}", ""
    if there:
        line = f"pip uninstall {' '.join(there)} && pip install {runtime.package}"
    return reason, line


def torch_build() -> str:
    """Which CUDA this torch was built for, from its files: importing it takes seconds."""
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return "not found"
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return "of unknown build"
    match = _CUDA_OF_TORCH.search(text)
    return f"CUDA {match[1]}" if match else "CPU only"


def extra_findings(requires: Sequence[str], installed: Mapping[str, str]) -> Iterator[Finding]:
    """Every extra of deploykit, from its own metadata.

    Args:
        requires: requirements as the metadata has them.
        installed: versions by package.
    """
    extras: dict[str, list[str]] = {}
    for line in requires:
        match = _REQUIREMENT.match(line)
        if match and match["extra"] not in _NOT_SHOWN:
            extras.setdefault(match["extra"], []).append(_canonical(match["package"]))
    for name, packages in extras.items():
        lacking = [package for package in packages if package not in installed]
        if lacking:
            yield Finding(
                "extra", name, State.MISSING, f"without {', '.join(lacking)}",
                _extra_line(name, packages),
            )  # fmt: skip
        else:
            versions = ", ".join(f"{package} {installed[package]}" for package in packages)
            yield Finding("extra", name, State.OK, versions)


def _extra_line(name: str, packages: Sequence[str]) -> str:
    """What brings an extra, and leaves one onnxruntime where it brings another than our own."""
    line = f"pip install 'deploykit[{name}]'"
    own, *others = _ONNXRUNTIMES
    for package in set(packages) & set(others):
        line += f" && pip uninstall --yes {own} {package} && pip install {package}"
    return line


def source_findings(installed: Mapping[str, str]) -> Iterator[Finding]:
    """Collections of networks that sources can name."""
    for package, form in _SOURCES.items():
        if package in installed:
            yield Finding("source", form, State.OK, f"{package} {installed[package]}")
        else:
            detail = f"{package} is not installed"
            yield Finding("source", form, State.MISSING, detail, f"pip install {package}")


def data_finding(folder: Path | None) -> Finding:
    """The whole Fashion-MNIST, where it is there.

    Args:
        folder: where it was found.
    """
    if folder is None:
        detail = "not there; the compact set of a checkout is used"
        return Finding("data", "fashion-mnist", State.MISSING, detail, _DATASET_LINE)
    return Finding("data", "fashion-mnist", State.OK, f"70,000 images in {folder}")


def gpu_finding() -> Finding:
    """What nvidia-smi says, if there is one."""
    try:
        ended = subprocess.run(
            _GPU_QUERY, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        return Finding("gpu", "nvidia", State.MISSING, "no nvidia-smi here")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("gpu", "nvidia", State.BROKEN, f"nvidia-smi: {error}")
    lines = ended.stdout.strip().splitlines()
    if ended.returncode or not lines:
        said = (ended.stderr or ended.stdout).strip().splitlines()
        detail = f"nvidia-smi: {said[0] if said else f'status {ended.returncode}'}"
        return Finding("gpu", "nvidia", State.BROKEN, detail, "check the driver: nvidia-smi")
    return Finding("gpu", "nvidia", State.OK, "; ".join(lines))


def clash_findings(installed: Mapping[str, str]) -> Iterator[Finding]:
    """Two builds of onnxruntime own the same files: the later one overwrote the earlier."""
    names = onnxruntimes(installed)
    if len(names) > 1:
        keep = next((name for name in names if name != "onnxruntime"), names[0])
        yield Finding(
            "packages", "onnxruntime", State.BROKEN,
            f"{' and '.join(names)} overwrite each other's files",
            f"pip uninstall --yes {' '.join(names)} && pip install {keep}",
        )  # fmt: skip


def onnxruntimes(installed: Mapping[str, str]) -> list[str]:
    """Installed packages that are an onnxruntime (not those that extend one)."""
    return [name for name in _ONNXRUNTIMES if name in installed]


def _onnxruntime_version(installed: Mapping[str, str]) -> str:
    return " and ".join(installed[name] for name in onnxruntimes(installed)) or "?"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
