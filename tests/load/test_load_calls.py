"""How a network is called, and what its outputs are called."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.core.errors import BadInputError
from deploykit.load.calls import arguments, by_keyword, named_outputs, run_module, to_array
from deploykit.load.inputs import parse_inputs


class TwoInputs(nn.Module):
    def forward(self, image: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return image * scale


class AnyNumber(nn.Module):
    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        return torch.stack(parts).sum(0)


class Optional(nn.Module):
    def forward(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, **other: torch.Tensor
    ) -> torch.Tensor:
        return x if bias is None else x + bias


def test_inputs_with_the_names_of_parameters_go_by_name() -> None:
    specs = parse_inputs(["scale=1", "image=2"])
    call = arguments(TwoInputs(), specs, {"image": np.ones(2), "scale": np.ones(1)})

    assert by_keyword(TwoInputs(), specs)
    assert call.args == ()
    assert list(call.kwargs) == ["scale", "image"]


def test_inputs_with_better_names_go_by_position() -> None:
    specs = parse_inputs(["photo=2", "factor=1"])
    fed = {"photo": np.array([1.0, 2.0]), "factor": np.array([3.0])}

    assert not by_keyword(TwoInputs(), specs)
    assert arguments(TwoInputs(), specs, fed).kwargs == {}
    assert run_module(TwoInputs(), specs, fed)["output"].tolist() == [3.0, 6.0]


def test_any_number_of_inputs_goes_by_position() -> None:
    specs = parse_inputs(["a=1", "b=1", "c=1"])
    fed = {name: np.ones(1) for name in "abc"}

    assert run_module(AnyNumber(), specs, fed)["output"].tolist() == [3.0]


def test_an_input_that_may_be_left_out_is_left_out_or_given() -> None:
    fed = {"x": np.ones(1), "bias": np.ones(1)}

    assert run_module(Optional(), parse_inputs(["x=1"]), fed)["output"].tolist() == [1.0]
    both = parse_inputs(["bias=1", "x=1"])
    assert run_module(Optional(), both, fed)["output"].tolist() == [2.0]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (
            ["image=2", "scal=1"],
            "input 'scal' is no parameter of forward(image, scale); did you mean 'scale'?",
        ),
        (
            ["image=2", "q=1"],
            "input 'q' is no parameter of forward(image, scale); known: image, scale",
        ),
        (["a=1", "b=1", "c=1"], "3 inputs are declared and forward(image, scale) takes 2"),
    ],
)
def test_names_that_do_not_fit_are_refused(texts: list[str], words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        by_keyword(TwoInputs(), parse_inputs(texts))
    assert str(caught.value) == words


def test_read_only_arrays_are_fed_without_a_remark() -> None:
    array = np.ones(2)
    array.flags.writeable = False
    fed = {"image": array, "scale": np.ones(1)}
    call = arguments(TwoInputs(), parse_inputs(["image=2", "scale=1"]), fed)

    assert call.kwargs["image"].tolist() == [1.0, 1.0]


A, B, C = torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


@dataclass
class Answer:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] | None = None


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (A, ["output"]),
        ((A, B), ["output_0", "output_1"]),
        ([A], ["output_0"]),
        ((A, None, B), ["output_0", "output_2"]),
        ((A, (B, C)), ["output_0", "output_1_0", "output_1_1"]),
        ({"logits": A, "boxes": B}, ["logits", "boxes"]),
        (OrderedDict(b=A, a=B), ["b", "a"]),
        ({"levels": [A, B]}, ["levels_0", "levels_1"]),
        ({0: A}, ["0"]),
        (Answer(A), ["logits"]),
        (Answer(A, (B, C)), ["logits", "hidden_0", "hidden_1"]),
        ({"top": Answer(A)}, ["top_logits"]),
        (Pair(A, B), ["output_0", "output_1"]),
    ],
)
def test_names_of_outputs(value: object, names: list[str]) -> None:
    assert list(named_outputs(value)) == names


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "the network returned a NoneType without any tensor"),
        ((), "the network returned a tuple without any tensor"),
        ({}, "the network returned a dict without any tensor"),
        (3, "the network returned a int as 'output': only tensors can be exported"),
        ((A, 0.5), "the network returned a float as 'output_1': only tensors can be exported"),
        ({"a": "text"}, "the network returned a str as 'a': only tensors can be exported"),
    ],
)
def test_what_is_no_tensor_is_refused(value: object, words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        named_outputs(value)
    assert str(caught.value) == words


def test_two_outputs_of_one_name_are_refused() -> None:
    with pytest.raises(BadInputError, match="the network returned two outputs called 'a_b'"):
        named_outputs({"a": {"b": A}, "a_b": B})


def test_bfloat16_becomes_float32_on_the_host() -> None:
    assert to_array(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32
    assert to_array(torch.ones(2, requires_grad=True)).tolist() == [1.0, 1.0]


class Refuses(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise self.error


def test_a_network_that_fails_is_quoted_in_one_line() -> None:
    specs = parse_inputs(["x=N[1..8]x4"])
    fed = {"x": np.zeros((1, 4), np.float32)}

    with pytest.raises(BadInputError) as caught:
        run_module(Refuses(ValueError("three channels\nonly")), specs, fed)
    assert str(caught.value) == (
        "the network does not run on x=N[1..8]x4:float32: ValueError: three channels only; "
        "declare what it takes with --input"
    )
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        run_module(Refuses(RuntimeError("can't allocate memory")), specs, fed)
