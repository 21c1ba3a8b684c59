"""Declared inputs: the forms in the documentation, and the words of every refusal."""

from __future__ import annotations

import pytest

from deploykit.core.errors import BadInputError
from deploykit.core.types import Dim, TensorSpec
from deploykit.load.inputs import parse_inputs

_FORM = 'write it like "x=N[1..64]x3x224x224:float32"'


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("x=1x3", TensorSpec("x", "float32", (1, 3))),
        ("x=:int64", TensorSpec("x", "int64", ())),
        ("x=0x3", TensorSpec("x", "float32", (0, 3))),
        (" x=3:bool ", TensorSpec("x", "bool", (3,))),
        ("x=N[1..64]x3", TensorSpec("x", "float32", (Dim("N", 1, 64), 3))),
        ("x=N[2..2]", TensorSpec("x", "float32", (Dim("N", 2, 2),))),
        (
            "layer.0/x=H[64..512:32]xW[32..64]:float16",
            TensorSpec("layer.0/x", "float16", (Dim("H", 64, 512, 32), Dim("W", 32, 64))),
        ),
    ],
)
def test_forms_that_are_read(text: str, spec: TensorSpec) -> None:
    assert parse_inputs([text]) == (spec,)


def test_one_name_is_one_dimension_and_needs_its_range_once() -> None:
    ids, mask, again = parse_inputs(["ids=N[1..4]xL[2..8:2]", "mask=NxL", "again=N[1..4]xL"])

    assert ids.shape == mask.shape == again.shape == (Dim("N", 1, 4), Dim("L", 2, 8, 2))


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["1x3x224x224"], f"input '1x3x224x224' is not a declaration; {_FORM}"),
        (["=1x3"], f"input '=1x3' is not a declaration; {_FORM}"),
        ([""], f"input '' is not a declaration; {_FORM}"),
        (["x=1x3:"], f"input 'x=1x3:' is not a declaration; {_FORM}"),
        (
            ["x=1x3:float23"],
            "input 'x=1x3:float23' has unknown type 'float23'; did you mean 'float32'?",
        ),
        (["x=1x-3"], f"input 'x=1x-3': cannot read the size at '-3'; {_FORM}"),
        (["x=1x3x"], f"input 'x=1x3x': cannot read the size at '3x'; {_FORM}"),
        (["x=1,3"], f"input 'x=1,3': cannot read the size at '1,3'; {_FORM}"),
        (["x=N[1-4]x3"], f"input 'x=N[1-4]x3': cannot read the size at 'N[1-4]x3'; {_FORM}"),
        (["x=Nx3"], "input 'x=Nx3': N has no range; write N[1..64]"),
        (
            ["x=N[0..4]"],
            "input 'x=N[0..4]': the range 0..4 of N is empty or starts below 1",
        ),
        (
            ["x=N[5..4]"],
            "input 'x=N[5..4]': the range 5..4 of N is empty or starts below 1",
        ),
        (["x=H[4..9:4]"], "input 'x=H[4..9:4]': H ends off its step of 4"),
        (["x=H[2..8:4]"], "input 'x=H[2..8:4]': H ends off its step of 4"),
        (["x=N[1..4]", "x=N"], "input 'x' is declared twice"),
        (["x=N[1..4]", "y=N[1..8]"], "input 'y=N[1..8]': N has another range elsewhere"),
    ],
)
def test_what_is_no_declaration_is_refused(texts: list[str], words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        parse_inputs(texts)
    assert str(caught.value) == words


def test_a_step_of_zero_says_that_the_step_is_wrong() -> None:
    with pytest.raises(BadInputError, match=r"input 'x=H\[4\.\.8:0\]': the step of H is 0"):
        parse_inputs(["x=H[4..8:0]"])
