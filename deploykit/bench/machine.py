"""The facts about this machine that a figure depends on, read from the kernel, slowly nothing."""

from __future__ import annotations

import os
import platform
from collections import Counter
from importlib import metadata
from pathlib import Path

from deploykit.bench.memory import available_cpus
from deploykit.core.measurement import Machine

# Those that kernels of ONNX Runtime, oneDNN, XNNPACK and QNNPACK are chosen by.
_DECIDE_SPEED = (
    "sse4_1", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl",
    "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme", "neon", "vfpv4",
    "rvv",
)  # fmt: skip
PACKAGES = (
    "deploykit", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino",
    "onnxruntime-directml", "onnxruntime-qnn", "openvino", "tensorrt", "torch",
)  # fmt: skip
_FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_NO_TURBO = Path("/sys/devices/system/cpu/intel_pstate/no_turbo")
_BOOST = Path("/sys/devices/system/cpu/cpufreq/boost")
_NVIDIA = Path("/proc/driver/nvidia/gpus")


def machine_facts() -> Machine:
    """Everything that can be told without privileges; `None` where the system does not tell."""
    info = _read(Path("/proc/cpuinfo")) or ""
    return Machine(
        cpu=cpu_name(info),
        arch=platform.machine(),
        instruction_sets=instruction_sets(info),
        cores=available_cpus(),
        memory_bytes=_memory_bytes(),
        governor=_read(_FREQUENCY),
        turbo=_turbo(_read(_NO_TURBO), _read(_BOOST)),
        virtual=_virtual(info),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        gpu=gpu_names(),
        driver=_read(Path("/sys/module/nvidia/version")),
        os=f"{platform.system()} {platform.release()}",
        versions=_versions(),
    )


def cpu_name(info: str) -> str:
    """The model's name from the text of /proc/cpuinfo; the architecture where it has none."""
    for key in ("model name", "Model", "Hardware", "cpu model"):
        if name := _field(info, key):
            return name
    return platform.processor() or platform.machine()


def instruction_sets(info: str) -> tuple[str, ...]:
    """Those that decide speed, from the flags in the text of /proc/cpuinfo."""
    flags = set((_field(info, "flags") or _field(info, "Features") or "").split())
    return tuple(name for name in _DECIDE_SPEED if name in flags)


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), own: str | None = None) -> float | None:
    """How many CPUs this process's control group may use at once; `None` without a limit.

    The tightest of the group's own limit and its parents', since each of them holds.

    Args:
        root: where control groups are mounted.
        own: the text of /proc/self/cgroup; read where left out.
    """
    own = own if own is not None else _read(Path("/proc/self/cgroup")) or ""
    group = next((line[3:] for line in own.splitlines() if line.startswith("0::")), "/")
    folder = root / group.strip("/")
    limits = [_limit(_read(place / "cpu.max")) for place in (folder, *folder.parents)]
    quota = _read(root / "cpu/cpu.cfs_quota_us")  # version 1 of control groups
    period = _read(root / "cpu/cpu.cfs_period_us")
    if quota and period:
        limits.append(_limit(f"{quota} {period}"))
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def gpu_names(root: Path = _NVIDIA) -> str | None:
    """The models of NVIDIA's GPUs, each once with how many there are; `None` where there is none.

    Args:
        root: where the driver lists them, a folder each.
    """
    places = sorted(root.glob("*/information"))
    names = Counter(_field(_read(place) or "", "Model") or "unknown" for place in places)
    shown = [f"{count} x {name}" if count > 1 else name for name, count in names.items()]
    return ", ".join(shown) or None


def _limit(text: str | None) -> float | None:
    quota, _, period = (text or "max").partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def _turbo(no_turbo: str | None, boost: str | None) -> bool | None:
    if no_turbo is not None:
        return no_turbo == "0"
    return boost == "1" if boost is not None else None


def _virtual(info: str) -> str | None:
    kind = _read(Path("/sys/hypervisor/type"))
    if kind:
        return kind
    vendor = _read(Path("/sys/class/dmi/id/sys_vendor")) or ""
    product = _read(Path("/sys/class/dmi/id/product_name")) or ""
    if "hypervisor" in (_field(info, "flags") or "").split():
        return " ".join(f"{vendor} {product}".split()) or "a hypervisor"
    if not info or _field(info, "flags") is None:
        return None  # only x86 has that flag
    return ""


def _memory_bytes() -> int | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _field(info: str, key: str) -> str | None:
    for line in info.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip() == key:
            return value.strip() or None
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None
