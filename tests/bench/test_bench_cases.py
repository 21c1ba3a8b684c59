"""What is measured: combinations, sizes, names and inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from deploykit.bench.cases import Subject, Wanted, cases_of, distinct, shown_name
from deploykit.core.errors import BadInputError
from deploykit.core.types import Dim, File, OnnxArtifact, TensorSpec
from deploykit.load.data import Batch
from deploykit.load.datasets import open_data

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = TensorSpec("x", "float32", (Dim("N", 1, 8), 1, 4, 4))
ARTIFACT = OnnxArtifact((File("m.onnx", "ab", 3, "model"),), (), ())


def subject(*inputs: TensorSpec) -> Subject:
    return Subject("m", replace(ARTIFACT, inputs=inputs), inputs, "ab")


def test_every_combination_in_the_order_of_the_table() -> None:
    wanted = Wanted(("ort-cpu",), batches=(1, 8), threads=(1, 2), cpus=(0,))
    cases = cases_of([subject(IMAGE)], wanted, None)

    assert [(c.target.batch, c.target.threads) for c in cases] == [(1, 1), (1, 2), (8, 1), (8, 2)]
    assert {c.target.cpus for c in cases} == {(0,)}
    assert cases[2].target.shapes == {"x": (8, 1, 4, 4)}
    assert cases[2].feeds["x"].shape == (8, 1, 4, 4)


def test_without_a_batch_the_smallest_is_taken() -> None:
    (case,) = cases_of([subject(IMAGE)], Wanted(("ort-cpu",)), None)

    assert case.target.batch == 1


def test_a_fixed_batch_needs_none() -> None:
    fixed = TensorSpec("x", "float32", (2, 3))
    (case,) = cases_of([subject(fixed)], Wanted(("ort-cpu",)), None)

    assert case.target.batch is None
    assert case.target.shapes == {"x": (2, 3)}


@pytest.mark.parametrize(
    ("spec", "wanted", "message"),
    [
        (IMAGE, Wanted(batches=(9,)), r"^m: size 9 of N is outside its range 1\.\.8"),
        (TensorSpec("x", "float32", (2, 3)), Wanted(batches=(1,)), r"^m: .*fixed at 2.*batch 1"),
        (IMAGE, Wanted(shapes={"M": 3}), "--size M: no input has .* known: N"),
        (IMAGE, Wanted(runtimes=("torch-eager",)), "torch-eager runs PyTorch sources, and none"),
        (IMAGE, Wanted(runtimes=("ort-cpuu",)), "no runtime 'ort-cpuu'"),
        (
            TensorSpec("ids", "int64", (Dim("N"), Dim("length"))),
            Wanted(),
            r"input 'ids' is .*, and nobody says how large length is: give --size length=SIZE",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(
    spec: TensorSpec, wanted: Wanted, message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        cases_of([subject(spec)], wanted, None)


def test_a_size_that_was_given_is_taken() -> None:
    ids = TensorSpec("ids", "int64", (Dim("N"), Dim("length")))
    (case,) = cases_of([subject(ids)], Wanted(("ort-cpu",), shapes={"length": 7}), None)

    assert case.target.shapes == {"ids": (1, 7)}


def test_a_size_with_a_range_takes_its_lowest() -> None:
    wide = TensorSpec("x", "float32", (Dim("N", 1, 8), Dim("H", 32, 64, 32)))
    (case,) = cases_of([subject(wide)], Wanted(("ort-cpu",)), None)

    assert case.target.shapes == {"x": (1, 32)}


def test_real_inputs_are_the_first_of_the_data(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((3, 1, 4, 4), np.float32)
    np.savez(tmp_path / "d.npz", x=images)
    data = open_data(str(tmp_path / "d.npz"))
    small, large = cases_of([subject(IMAGE)], Wanted(("ort-cpu",), batches=(2, 5)), data)

    np.testing.assert_array_equal(small.feeds["x"], images[:2])
    np.testing.assert_array_equal(large.feeds["x"], images[[0, 1, 2, 0, 1]])
    assert isinstance(data.batch([0]), Batch)


def test_made_up_inputs_depend_on_the_seed_alone() -> None:
    def feed(seed: int) -> list[float]:
        (case,) = cases_of([subject(IMAGE)], Wanted(("ort-cpu",), seed=seed), None)
        return [float(value) for value in case.feeds["x"].ravel()]

    assert feed(1) == feed(1) != feed(2)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("build/net", "net"),
        ("build/net/", "net"),
        ("build/net/model.onnx", "net"),
        ("build/net/artifact.json", "net"),
        ("a/b.onnx", "b.onnx"),
        ("a/net.py:build", "net.py:build"),
        ("timm:resnet18", "timm:resnet18"),
    ],
)
def test_names_are_short(text: str, name: str) -> None:
    assert shown_name(text) == name


def test_names_that_clash_are_as_typed() -> None:
    same = [subject(IMAGE), subject(IMAGE), replace(subject(IMAGE), name="other")]
    named = distinct(same, ["a/m", "b/m", "c/other"])

    assert [s.name for s in named] == ["a/m", "b/m", "other"]
