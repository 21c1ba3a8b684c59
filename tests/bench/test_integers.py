"""Which instructions a CPU lacks for fast products of bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deploykit.bench.integers import missing_instructions
from deploykit.bench.machine import machine_facts


@pytest.mark.parametrize(
    ("arch", "flags", "missing"),
    [
        ("x86_64", ("avx2", "fma"), "VNNI (none of avx512_vnni, avx_vnni, amx_int8)"),
        ("x86_64", ("avx2", "avx_vnni"), ""),
        ("x86_64", ("avx512f", "avx512_vnni"), ""),
        ("aarch64", ("asimd",), "dot products of integers (none of asimddp, i8mm)"),
        ("aarch64", ("asimd", "asimddp"), ""),
        ("riscv64", (), ""),
    ],
)
def test_what_is_missing(arch: str, flags: tuple[str, ...], missing: str) -> None:
    machine = replace(machine_facts(), arch=arch, instruction_sets=flags)

    assert missing_instructions(machine) == missing
