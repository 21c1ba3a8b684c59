"""Weights from files: what is read, what is refused, and that nothing in a pickle runs."""

from __future__ import annotations

import io
import os
import pickle
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from deploykit.core.errors import BadInputError
from deploykit.load.weights import fit_weights, read_weights

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, -1.0])}


def saved(value: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def write(folder: Path, data: bytes, suffix: str = ".pt") -> Path:
    path = folder / f"weights{suffix}"
    path.write_bytes(data)
    return path


def refused(path: Path) -> str:
    """What is said of this file, after its name."""
    with pytest.raises(BadInputError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"weights {path} ")
    assert "\n" not in message
    return message.removeprefix(f"weights {path} ")


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (save(STATE), ".safetensors"),
        (saved(STATE), ".pt"),
        (saved(OrderedDict(STATE)), ".pth"),
        (saved(STATE, _use_new_zipfile_serialization=False), ".pth"),
        (saved({"state_dict": STATE, "epoch": 3}), ".pt"),
        (saved({"model_state_dict": STATE, "optimizer": {"lr": 0.1}}), ".pt"),
        (saved({"model": STATE}), ".pt"),
    ],
)
def test_tensors_are_read_out_of_every_wrapping(tmp_path: Path, data: bytes, suffix: str) -> None:
    found = read_weights(write(tmp_path, data, suffix))

    assert {key: value.tolist() for key, value in found.items()} == {
        key: value.tolist() for key, value in STATE.items()
    }


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off(prefix: str) -> None:
    module = nn.Linear(3, 2)
    fit_weights(module, {f"{prefix}{key}": v for key, v in STATE.items()}, Path("w.pt"))

    assert module.bias.tolist() == STATE["bias"].tolist()


def test_one_name_of_a_shared_tensor_is_enough() -> None:
    def tied() -> nn.ModuleDict:
        net = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2), "c": nn.Linear(3, 2)})
        net["b"].weight = net["a"].weight
        return net

    net, whole = tied(), tied().state_dict()
    del whole["a.weight"]
    fit_weights(net, whole, Path("w.pt"))
    assert net.state_dict()["a.weight"].tolist() == whole["b.weight"].tolist()

    del whole["c.weight"]
    with pytest.raises(BadInputError, match=r"1 missing \(c.weight\)"):
        fit_weights(net, whole, Path("w.pt"))


def test_a_prefix_that_the_network_has_itself_is_part_of_the_name() -> None:
    wrapper = nn.ModuleDict({"module": nn.Linear(3, 2)})
    fit_weights(wrapper, {f"module.{key}": v for key, v in STATE.items()}, Path("w.pt"))

    assert wrapper.state_dict()["module.bias"].tolist() == STATE["bias"].tolist()


def test_a_prefix_that_only_some_have_is_part_of_the_name() -> None:
    mixed = {"module.weight": STATE["weight"], "bias": STATE["bias"]}

    with pytest.raises(BadInputError, match=r"1 missing \(weight\); 1 not in the network"):
        fit_weights(nn.Linear(3, 2), mixed, Path("w.pt"))


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    words = refused(write(tmp_path, saved({"weight": Evil(trap)})))

    assert words == (
        "hold more than tensors (posix.mkdir), which could run code: refused; save them with "
        "torch.save(model.state_dict(), ...) or as .safetensors"
    )
    assert not trap.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_plain_pickle_with_code_is_refused_whatever_its_protocol(
    tmp_path: Path, protocol: int
) -> None:
    trap = tmp_path / "trap"
    words = refused(write(tmp_path, pickle.dumps({"weight": Evil(trap)}, protocol), ".pth"))

    assert "could run code: refused" in words or "not a PyTorch file" in words
    assert not trap.exists()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (nn.Linear(2, 2), "hold more than tensors (torch.nn.modules.linear.Linear), which could"),
        (
            {"state_dict": STATE, "args": Namespace(lr=1)},
            "hold more than tensors (argparse.Namespace), which could run code: refused",
        ),
        ([STATE["bias"]], "hold a list, not a state_dict"),
        (STATE["bias"], "hold a Tensor, not a state_dict"),
        (
            {"weight": STATE["weight"], "epoch": 3},
            "are not a state_dict: 1 not tensors (epoch); save model.state_dict()",
        ),
        (
            {str(n): n for n in range(5)},
            "are not a state_dict: 5 not tensors (0, 1, 2, ...); save model.state_dict()",
        ),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, value: object, words: str) -> None:
    assert refused(write(tmp_path, saved(value))).startswith(words)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"hello", b"<!DOCTYPE html><html>"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_other_files_are_refused(tmp_path: Path, data: bytes, suffix: str) -> None:
    assert " or cut off" in refused(write(tmp_path, data, suffix))


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (save(STATE), ".safetensors"),
        (saved(STATE), ".pt"),
        (saved(STATE, _use_new_zipfile_serialization=False), ".pt"),
    ],
)
def test_a_file_that_is_cut_off_anywhere_is_refused(
    tmp_path: Path, data: bytes, suffix: str
) -> None:
    for length in range(0, len(data), 7):
        assert refused(write(tmp_path, data[:length], suffix)), length


def test_wrong_suffixes_and_missing_files_are_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "w.bin") == ("must end in one of .safetensors, .pt, .pth, not '.bin'")
    assert refused(tmp_path / "w.pt") == "do not exist"
    (tmp_path / "folder.pt").mkdir()
    assert refused(tmp_path / "folder.pt") == "do not exist"


def test_weights_that_fit_are_copied() -> None:
    module = nn.Linear(3, 2)
    fit_weights(module, STATE, Path("w.pt"))

    assert module.weight.tolist() == STATE["weight"].tolist()


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, "2 missing (weight, bias)"),
        ({**STATE, "extra.0": torch.ones(1)}, "1 not in the network (extra.0)"),
        (
            {**STATE, "weight": torch.ones(2, 4)},
            "1 of another shape (weight [2, 4] for [2, 3])",
        ),
        (
            {"weight": torch.ones(1), **{f"a.{n}": torch.ones(1) for n in range(4)}},
            (
                "1 missing (bias); 4 not in the network (a.0, a.1, a.2, ...); "
                "1 of another shape (weight [1] for [2, 3])"
            ),
        ),
    ],
)
def test_weights_that_do_not_fit_are_counted_and_named(
    weights: dict[str, torch.Tensor], words: str
) -> None:
    module = nn.Linear(3, 2)
    before = module.weight.tolist()

    with pytest.raises(BadInputError) as caught:
        fit_weights(module, weights, Path("w.pt"))
    assert str(caught.value) == f"weights w.pt do not fit the network: {words}"
    assert module.weight.tolist() == before
