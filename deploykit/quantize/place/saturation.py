"""How many bits weights may have where products of bytes are summed in 16 bits.

x86 without VNNI multiplies unsigned activations by signed weights with vpmaddubsw, which adds two
products into 16 bits and saturates (Intel, Intrinsics Guide, _mm256_maddubs_epi16): with 8 bits
255 x 127 x 2 = 64,770 becomes 32,767, and a network answers differently from machine to machine.
With 7 bits 255 x 64 x 2 = 32,640 fits. VNNI, AMX and ARM's dot products sum in 32 bits.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from deploykit.bench.machine import machine_facts
from deploykit.quantize.options import AUTO

if TYPE_CHECKING:
    from deploykit.core.measurement import Machine
    from deploykit.quantize.options import QuantizeOptions

_X86 = frozenset({"x86_64", "amd64", "i386", "i686"})
_SUM_IN_32_BITS = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})


def saturates(machine: Machine) -> bool:
    """Whether a machine cuts sums of two products of bytes off at 16 bits."""
    exact = _SUM_IN_32_BITS.intersection(machine.instruction_sets)
    return machine.arch.lower() in _X86 and not exact


def resolved(options: QuantizeOptions) -> QuantizeOptions:
    """The options with a number of bits: "auto" asks this machine, where it is the target.

    For a device that is elsewhere the caller says it: 7 is right everywhere, and 8 more accurate
    on all but x86 without VNNI.
    """
    if options.weight_bits != AUTO:
        return options
    narrow = options.target == "ort-cpu" and _saturates_here()
    return replace(options, weight_bits="7" if narrow else "8")


@cache
def _saturates_here() -> bool:
    return saturates(machine_facts())
