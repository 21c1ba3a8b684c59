"""Networks that cannot be exported, options that cannot be, and what is said of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from deploykit.core.errors import BadInputError
from deploykit.export.options import ExportOptions
from deploykit.load.artifacts import load_artifact
from deploykit.load.capture import example_sizes
from deploykit.load.inputs import parse_inputs

if TYPE_CHECKING:
    from tests.export.conftest import Export


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


class Halves(nn.Module):
    """Makes a constant of the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(2, 1) if x.shape[0] == 2 else x


class Reshape(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(4, 3) + 1


class Bessel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)  # type: ignore[no-any-return]


class ToNumpy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.numpy() * 2)


class Spectrum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(x)  # type: ignore[no-any-return]


def refused(export: Export, module: nn.Module, *inputs: str) -> str:
    with pytest.raises(BadInputError) as caught:
        export(module, *inputs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_branch_on_data_names_the_line(export: Export, capfd: pytest.CaptureFixture[str]) -> None:
    words = refused(export, Branch(), "x=N[1..8]x3")
    line = Branch.forward.__code__.co_firstlineno + 1

    assert words.startswith(
        "torch.export cannot capture the network: GuardOnDataDependentSymNode: Could not guard on "
        "data-dependent expression"
    )
    assert words.endswith(
        f"(test_export_refusals.py, line {line}); choose by value with torch.where, or torch.cond"
    )
    assert capfd.readouterr() == ("", "")


def test_a_network_of_another_type_than_its_input_is_told_in_pytorchs_words(
    export: Export,
) -> None:
    words = refused(export, nn.Linear(4, 3).half(), "x=N[1..8]x4")

    assert words.startswith(
        "the network does not run on x=N[1..8]x4:float32: RuntimeError: mat1 and mat2 must have "
        "the same dtype"
    )
    assert words.endswith("; declare what it takes with --input")


def test_a_complex_output_says_what_to_return(export: Export) -> None:
    assert refused(export, Spectrum(), "x=N[1..8]x8") == (
        "output 'output' is complex, which no ONNX runtime gives back: return "
        "torch.view_as_real(...) of it"
    )


def test_a_batch_that_the_code_made_constant_says_what_to_declare(export: Export) -> None:
    assert refused(export, Halves(), "x=N[1..8]x3") == (
        "torch.export cannot keep x=N[1..8]x3 dynamic: You marked N as dynamic but your code "
        "specialized it to be a constant (2).; torch suggests N = 2; declare that size fixed, or "
        "with a narrower range or a step"
    )


def test_a_shape_that_only_fits_one_batch_names_the_line(export: Export) -> None:
    words = refused(export, Reshape(), "x=N[1..8]x3")

    assert words.startswith("torch.export cannot capture the network: RuntimeError: shape '[4, 3]'")
    assert "(test_export_refusals.py, line " in words


def test_inputs_of_another_shape_than_the_network_takes_say_so(export: Export) -> None:
    words = refused(export, nn.Conv2d(3, 2, 3), "x=N[1..8]x4x5x5")

    assert "to have 3 channels, but got 4 channels instead" in words


def test_code_that_leaves_torch_names_the_line(export: Export) -> None:
    words = refused(export, ToNumpy(), "x=N[1..8]x3")

    assert ".numpy() is not supported" in words
    assert "(test_export_refusals.py, line " in words


def test_an_operator_without_a_translation_is_named(
    export: Export, capfd: pytest.CaptureFixture[str]
) -> None:
    assert refused(export, Bessel(), "x=N[1..8]x3") == (
        "operator prims.bessel_j0 has no ONNX translation: replace it in the network"
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("opset", [17, 26, 0, -1])
def test_an_opset_that_cannot_be_written_is_refused(opset: int) -> None:
    with pytest.raises(BadInputError) as caught:
        ExportOptions(opset)
    assert str(caught.value) == f"opset must be from 18 to 25, not {opset}"


@pytest.mark.parametrize("opset", [18, 25])
def test_the_opset_is_the_one_that_was_asked_for(export: Export, opset: int) -> None:
    written = export(nn.Linear(3, 2), "x=N[1..8]x3", opset=opset)

    assert {entry.domain: entry.version for entry in written.model.opset_import}[""] == opset


def test_weights_can_lie_in_a_file_of_their_own(export: Export) -> None:
    module = nn.Linear(30, 20)
    together = export(module, "x=N[1..8]x30").artifact
    apart = export(module, "x=N[1..8]x30", external_data=True).artifact

    assert [(file.path, file.role) for file in together.files] == [("model.onnx", "model")]
    assert [(file.path, file.role) for file in apart.files] == [
        ("model.onnx", "model"),
        ("model.onnx.data", "weights"),
    ]
    assert apart.files[0].bytes < 30 * 20 * 4 <= apart.files[1].bytes
    assert load_artifact(apart.folder) == apart


@pytest.mark.parametrize(
    ("inputs", "sizes"),
    [
        (["x=N[1..64]x3"], {"N": 2}),
        (["x=N[1..64]x2"], {"N": 3}),  # 2 would look like the other dimension
        (["x=N[1..64]x3xH[1..64]xW[1..64]"], {"N": 2, "H": 4, "W": 5}),
        (["x=1xH[32..512:32]"], {"H": 64}),  # one step would be a constant
        (["x=N[1..1]x3"], {"N": 1}),
        (["x=N[1..2]x2"], {"N": 2}),  # nothing better is allowed
    ],
)
def test_examples_have_sizes_that_cannot_be_taken_for_each_other(
    inputs: list[str], sizes: dict[str, int]
) -> None:
    assert example_sizes(parse_inputs(inputs)) == sizes
