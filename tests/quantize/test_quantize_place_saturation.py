"""Sums of 16 bits: which machines have them, and that 7 bits of weights fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from deploykit.bench.machine import machine_facts
from deploykit.core.errors import BadInputError
from deploykit.quantize.options import QuantizeOptions
from deploykit.quantize.place.numbers import grid_of, limits, weight_grid
from deploykit.quantize.place.saturation import resolved, saturates

if TYPE_CHECKING:
    from numpy.typing import NDArray

RNG = np.random.default_rng(0)


def maddubs(unsigned: NDArray[Any], signed: NDArray[Any]) -> NDArray[Any]:
    """vpmaddubsw: products of pairs, each pair summed into 16 bits, saturating."""
    products = unsigned.astype(np.int32) * signed.astype(np.int32)
    pairs = products.reshape(*products.shape[:-1], -1, 2).sum(axis=-1)
    summed: NDArray[Any] = np.clip(pairs, -(2**15), 2**15 - 1)
    return summed


@pytest.mark.parametrize("bits", [7, 8])
def test_only_7_bits_always_fit_into_16(bits: int) -> None:
    low, high = limits(np.dtype(np.int8), bits)
    most = np.full(2, 255, np.uint8)
    ends = [np.full(2, end, np.int8) for end in (low, high)]

    exact = [int(most.astype(int) @ end.astype(int)) for end in ends]
    found = [int(maddubs(most, end)[0]) for end in ends]

    assert (found == exact) is (bits == 7)


@pytest.mark.parametrize(("bits", "is_exact"), [(7, True), (8, False)])
def test_a_layer_on_such_a_machine(bits: int, is_exact: bool) -> None:
    x = RNG.uniform(0, 1, (16, 64)).astype(np.float32) ** 0.25  # most are near the end
    weights = np.abs(RNG.normal(size=(64, 8))).astype(np.float32)
    inputs, grid = grid_of(0, 1, "uint8", symmetric=False), weight_grid(weights, 1, bits)
    a, w = inputs.quantized(x), grid.quantized(weights)

    sums = np.stack([maddubs(a, column).sum(axis=-1) for column in w.T], axis=1)

    exact = a.astype(int) @ w.astype(int)
    assert bool((sums == exact).all()) is is_exact
    error = np.abs(sums * inputs.scale * grid.scale - x @ weights).max() / (x @ weights).max()
    assert bool(error < 0.02) is is_exact


@pytest.mark.parametrize(
    ("arch", "flags", "expected"),
    [
        ("x86_64", ("avx2", "fma"), True),
        ("AMD64", ("avx2", "avx512f", "avx512bw"), True),
        ("x86_64", ("sse4_1",), True),
        ("x86_64", ("avx2", "avx_vnni"), False),
        ("x86_64", ("avx512f", "avx512_vnni"), False),
        ("x86_64", ("amx_int8",), False),
        ("aarch64", ("asimd",), False),
        ("aarch64", ("asimd", "asimddp"), False),
    ],
)
def test_which_machines_saturate(arch: str, flags: tuple[str, ...], expected: bool) -> None:
    machine = replace(machine_facts(), arch=arch, instruction_sets=flags)

    assert saturates(machine) is expected


def test_auto_asks_this_machine_where_it_is_the_target() -> None:
    here = "7" if saturates(machine_facts()) else "8"

    assert resolved(QuantizeOptions()).weight_bits == here
    assert resolved(QuantizeOptions(weight_bits="7")).weight_bits == "7"
    assert resolved(QuantizeOptions(target="tensorrt")).weight_bits == "8"
    assert resolved(QuantizeOptions(target="portable")).weight_bits == "8"


def test_other_widths_are_refused() -> None:
    with pytest.raises(
        BadInputError, match=r"^weight_bits '4' is not known; .*it is auto or 7 or 8$"
    ):
        QuantizeOptions(weight_bits="4")
