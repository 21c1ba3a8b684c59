"""Whether a CPU multiplies 8-bit integers faster than floats: the instructions that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploykit.core.measurement import Machine

_X86 = frozenset({"x86_64", "AMD64", "i686", "x86"})
_ARM = frozenset({"aarch64", "arm64", "armv8l", "armv7l"})
_NEEDED = (
    (_X86, "VNNI", ("avx512_vnni", "avx_vnni", "amx_int8")),
    (_ARM, "dot products of integers", ("asimddp", "i8mm")),
)
"""Architectures, what their instructions are called, and the flags that say a CPU has one."""


def missing_instructions(machine: Machine) -> str:
    """What a CPU lacks for fast 8-bit products: "VNNI (avx512_vnni, ...)"; "" where it has it.

    Without it a product of bytes takes several instructions, about as long as four of floats, and
    INT8 is rarely faster. Of an architecture that is not known nothing is said.
    """
    for architectures, name, flags in _NEEDED:
        if machine.arch in architectures and not set(flags) & set(machine.instruction_sets):
            return f"{name} (none of {', '.join(flags)})"
    return ""
