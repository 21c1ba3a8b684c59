"""Options of a lower precision: what goes with what, told in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from deploykit.core.errors import BadInputError
from deploykit.flow.precision import COMMAND, STAGE, Lower, LowerLoop, lower_of

if TYPE_CHECKING:
    from deploykit.core.types import Option


@pytest.mark.parametrize("table", [{}, {"precision": "fp32"}])
def test_the_command_stays_float_unless_asked(table: dict[str, Option]) -> None:
    assert lower_of(table, COMMAND) is None


def test_a_stage_is_int8_unless_it_says_otherwise() -> None:
    table: dict[str, Option] = {"name": "quantize", "calibrate": "digits", "method": "mse"}

    assert lower_of(table, STAGE) == Lower(LowerLoop(calibrate="digits"), {"method": "mse"})


def test_half_needs_no_data_and_takes_its_own_options() -> None:
    table: dict[str, Option] = {"precision": "fp16", "target": "tensorrt", "half_io": True}

    assert lower_of(table, COMMAND) == Lower(
        LowerLoop(precision="fp16"), {"target": "tensorrt", "half_io": True}
    )


INT8: dict[str, Any] = {"precision": "int8", "calibrate": "digits"}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"precision": "int9"}, "export: there is no precision 'int9'; did you mean 'int8'?"),
    (
        {"precision": "int8"},
        (
            "export: int8 needs data that shows the ranges of activations, such as --calibrate "
            "'fashion-mnist:train[:512]'"
        ),
    ),
    (
        {"calibrate": "digits"},
        (
            "export: --calibrate goes with --precision int8 or fp16 or bf16, and this is fp32: "
            "leave it out, or change the precision"
        ),
    ),
    (
        {"precision": "bf16", "measure": False},
        (
            "export: --no-measure goes with --precision int8, and this is bf16: leave it out, or "
            "change the precision"
        ),
    ),
    (
        {**INT8, "half_io": True},
        (
            "export: --half-io goes with --precision fp16 or bf16, and this is int8: leave it out, "
            "or change the precision"
        ),
    ),
    ({**INT8, "threads": 2, "measure": False}, "export: leave out --threads: nothing is measured"),
    ({**INT8, "methd": "mse"}, "export: unknown key 'methd'; did you mean 'method'?"),
    ({**INT8, "target": "ort-gpu"}, "target 'ort-gpu' has no table of quantizers"),
    ({"precision": "fp16", "target": "ort-cpu"}, "target 'ort-cpu' gains nothing from fp16: its"),
    ({"precision": "fp16", "target": "tensorart"}, "did you mean 'tensorrt'?"),
    ({"precision": "bf16", "half_io": True}, "half_io does not go with bf16: NumPy has no"),
    ({"precision": "fp16", "samples": 0}, "samples must be 1 or more, not 0"),
]


@pytest.mark.parametrize(("table", "words"), BAD)
def test_what_does_not_go_together_is_told_in_one_line(table: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        lower_of(table, COMMAND)

    assert str(caught.value).startswith(words) or words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_stage_is_told_in_the_words_of_a_recipe() -> None:
    with pytest.raises(BadInputError) as caught:
        lower_of({"name": "quantize"}, STAGE)

    assert str(caught.value) == (
        "stage quantize: int8 needs data that shows the ranges of activations, such as calibrate "
        '= "fashion-mnist:train[:512]"'
    )
