"""`deploykit export` from the outside: exit statuses, one line for each bad input, nothing left."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from deploykit.cli.export import default_output, named_after
from deploykit.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NET = """
import torch
from torch import nn

print("a remark of the file")

class Net(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.fc = nn.Linear(3, width)

    def forward(self, x):
        print("a remark of the network")
        return self.fc(x)

class Wide(Net):
    def __init__(self): super().__init__(20000)

class Random(Net):
    def forward(self, x): return super().forward(x) + torch.rand(1)

class NoNumber(Net):
    def forward(self, x): return super().forward(x) * float("nan")
"""
INPUT = ("--input", "x=N[1..4]x3")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with everything that can go wrong in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "broken.py").write_text("raise RuntimeError('not on this machine')\n")
    (tmp_path / "not.onnx").write_text("hello")
    whole = foreign()
    onnx.save(whole, tmp_path / "good.onnx")
    (tmp_path / "cut.onnx").write_bytes(whole.SerializeToString()[:200])
    outside = foreign()
    weight = outside.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/passwd")
    (tmp_path / "outside.onnx").write_bytes(outside.SerializeToString())
    save_file({"fc.weight": torch.ones(5, 3)}, tmp_path / "other.safetensors")
    torch.save({"fc.weight": Trap(tmp_path)}, tmp_path / "trap.pt")
    np.savez(tmp_path / "names.npz", image=np.ones((4, 3), np.float32), mask=np.ones((4, 3)))
    np.savez(tmp_path / "shape.npz", x=np.ones((4, 5), np.float32))
    np.savez(tmp_path / "type.npz", x=np.ones((4, 3), np.int64))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "artifact.json").write_text("{}")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "recipe.toml").write_text('schema = "deploykit/recipe"\nversion = "2.0"\n')
    return tmp_path


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.folder / "sprung"),)


def foreign() -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "foreign",
        [value("x", TensorProto.FLOAT, ["N", 3])],
        [value("y", TensorProto.FLOAT, ["N", 20000])],
        [numpy_helper.from_array(np.ones((3, 20000), np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 13)]
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=7)
    return made


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.name != "__pycache__")


def only_line(err: str) -> str:
    """What standard error says, if it is the one line that users shall see."""
    assert err.startswith("deploykit: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err.removeprefix("deploykit: error: ").removesuffix("\n")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["gone.onnx"], 2, "gone.onnx does not exist"),
        (["gone.py:Net", *INPUT], 2, "gone.py does not exist"),
        (["gone"], 2, "'gone' is not a source and no such file; write path/net.py:build, "),
        (["n" * 300], 2, "File name too long"),
        (["not.onnx"], 2, "not.onnx is not an ONNX model, or it is cut off"),
        (["cut.onnx"], 2, "cut.onnx is not an ONNX model, or it is cut off"),
        (["outside.onnx"], 2, "'../../etc/passwd' is outside the folder .: refused"),
        (["good.onnx", "--opset", "20"], 2, "taken as it is: leave out --opset"),
        (
            ["good.onnx", "--input", "z=N[1..4]x3"],
            2,
            "the graph's inputs are x: declare each",
        ),
        (
            ["bad"],
            2,
            "bad/recipe.toml has version 2.0; this deploykit reads recipes of version 1.x",
        ),
        (
            ["net.py:Net", *INPUT, "--weights", "other.safetensors"],
            2,
            (
                "weights other.safetensors do not fit the network: 1 missing (fc.bias); 1 of "
                "another shape (fc.weight [5, 3] for [2, 3])"
            ),
        ),
        (
            ["net.py:Net", *INPUT, "--weights", "trap.pt"],
            2,
            "weights trap.pt hold more than tensors (posix.mkdir), which could run code: refused",
        ),
        (["net.py:Nett", *INPUT], 2, "net.py has no 'Nett'; did you mean 'Net'?"),
        (["net.py:Net"], 2, 'its inputs are not declared; add --input "x=N[1..64]x3x224x224"'),
        (["net.py:Net", "--input", "x=3:float3"], 2, "unknown type 'float3'; did you mean"),
        (["broken.py:Net", *INPUT], 2, "failed with RuntimeError: not on this machine (broken.py"),
        (
            ["net.py:Net", *INPUT, "--val", "names.npz"],
            2,
            "names.npz has 2 inputs (image, mask) and the network takes 1 (x)",
        ),
        (
            ["net.py:Net", *INPUT, "--val", "shape.npz"],
            2,
            "shape.npz gives shape [1, 5] for input 'x', which takes N[1..4]x3",
        ),
        (
            ["net.py:Net", *INPUT, "--val", "type.npz"],
            2,
            "type.npz gives int64 for input 'x', which is float32",
        ),
        (["net.py:Net", *INPUT, "--opset", "99"], 2, "opset must be from 18 to 25, not 99"),
        (["net.py:Net", *INPUT, "--tolerance", "0"], 2, "0 is not in the range x>0"),
        (["net.py:Net", "--inptu", "x"], 2, "No such option '--inptu'"),
        (["net.py:NoNumber", *INPUT], 2, "the network itself gives NaN in output 'output' (2 of 2"),
        (["net.py:Random", *INPUT], 1, "the first tensor that diverges is "),
        (["net.py:Net", *INPUT, "-o", "taken"], 2, "taken exists already: add --overwrite, or "),
        (
            ["net.py:Net", *INPUT, "-o", "mine", "--overwrite"],
            2,
            "mine holds files that are no deploykit artifact (notes.txt): give another --output",
        ),
        (
            ["net.py:Net", *INPUT, "-o", "net.py"],
            2,
            "net.py is a file: give a folder with --output",
        ),
        (["nothing:here", *INPUT], 2, "no module is called 'nothing': install its package, or "),
        (["timm:resnet18"], 3, "timm is not installed: pip install timm"),
    ],
)
def test_a_bad_input_is_one_line_and_leaves_nothing(
    place: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # as where it is not installed
    before = listing(place)

    assert main(["export", *arguments, "--json"]) == status
    out, err = capfd.readouterr()
    err = err.replace("a remark of the file\n", "").replace("a remark of the network\n", "")
    assert words in only_line(err)
    assert out == ""
    assert listing(place) == before


def test_what_the_network_prints_does_not_spoil_the_json(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "net.py:Net", *INPUT, "-o", "out", "--json"]) == 0
    out, err = capfd.readouterr()
    report = json.loads(out)

    assert report["schema"] == "deploykit/report"
    assert report["version"] == "1.0"
    assert {check["verdict"] for check in report["checks"]} == {"passed"}
    assert out.encode() == (place / "out" / "report.json").read_bytes()
    assert set(err.splitlines()) == {"a remark of the file", "a remark of the network"}


def test_people_get_a_table(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "good.onnx", "--quiet"]) == 0
    out, err = capfd.readouterr()
    lines = out.splitlines()

    assert err == ""
    assert lines[0] == "build/good: ONNX, 240 kB"
    assert lines[1] == "  input x=N[1..]x3:float32"
    assert lines[2] == "  output y=N[1..]x20000:float32"
    assert lines[3].split() == ["check", "verdict", "value", "limit"]
    assert lines[5].split()[:4] == ["parity", "ort-cpu", "N=1", "passed"]
    assert listing(place / "build") == [
        "good", "good/artifact.json", "good/model.onnx", "good/report.json",
    ]  # fmt: skip


def test_an_artifact_can_be_replaced_on_purpose(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "good.onnx", "-o", "out"]
    assert main(command) == 0
    old = (place / "out" / "artifact.json").stat().st_ino
    assert main(command) == 2
    assert (place / "out" / "artifact.json").stat().st_ino == old
    assert main([*command, "--overwrite"]) == 0
    assert (place / "out" / "artifact.json").stat().st_ino != old
    # Even by itself.
    assert main(["export", "out", "-o", "out", "--overwrite"]) == 0
    record = json.loads((place / "out" / "artifact.json").read_text())
    assert [step["name"] for step in record["history"]] == ["adopt", "adopt"]


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may be larger than `limit` bytes: the kernel refuses as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "arguments",
    [
        ["good.onnx"],
        ["net.py:Wide", *INPUT],
        ["net.py:Wide", *INPUT, "--external-data"],
    ],
)
def test_a_full_disk_is_5_and_leaves_nothing(
    place: Path, capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    before = listing(place)
    with full_disk(100_000):
        status = main(["export", *arguments, "-o", "deep/out"])
    out, err = capfd.readouterr()

    assert status == 5
    assert only_line(err.replace("a remark of the file\n", "")).endswith("File too large")
    assert out == ""
    assert listing(place) == before


@pytest.mark.slow
def test_the_console_script_on_a_full_disk(place: Path) -> None:
    before = listing(place)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("deploykit")), "export", "net.py:Wide", *INPUT],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )

    assert done.returncode == 5
    assert done.stdout == ""
    words = only_line(done.stderr.replace("a remark of the file\n", ""))
    assert words.startswith(f"cannot write {place}/build/")
    assert words.endswith(": File too large")
    assert listing(place) == before


@pytest.mark.slow
def test_train_and_export_of_a_recipe(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "recipe.toml").write_text(
        'schema = "deploykit/recipe"\nversion = "1.0"\n'
        '[source]\nnet = "deep.py:build"\nweights = "w.safetensors"\n'
        'inputs = ["x=N[1..4]x1x8x8"]\n'
        '[data]\ntrain = "digits:train[:64]"\nval = "digits:val[:32]"\n'
        "[train]\nepochs = 3\nbatch_size = 32\n"
    )
    (place / "deep.py").write_text(
        "from torch import nn\ndef build(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    assert main(["train", "recipe.toml", "--epochs", "1"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert out.startswith("w.safetensors: ")
    assert " % on the validation data after 1 epoch, " in out
    assert main(["train", "recipe.toml"]) == 2
    assert only_line(capfd.readouterr().err) == (
        "w.safetensors exists already: add --overwrite to train it anew"
    )

    assert main(["export", "recipe.toml", "-o", "one"]) == 0
    assert "reused" not in capfd.readouterr().out
    assert main(["export", "recipe.toml", "-o", "two"]) == 0
    assert "; reused: export, verify\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("models/fashion_resnet/recipe.toml", "fashion_resnet"),
        ("models/fashion_resnet/small.toml", "small"),
        ("path/net.py:build", "net-build"),
        ("package.module:make", "module-make"),
        ("timm:resnet18.a1_in1k", "resnet18.a1_in1k"),
        ("path/model.onnx", "model"),
        ("model.pt2", "model"),
        ("elsewhere/artifact.json", "elsewhere"),
    ],
)
def test_what_the_output_is_called_by_default(source: str, name: str) -> None:
    assert default_output(source) == Path("build") / name


def test_a_source_in_build_gives_its_own_name_to_the_stages_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build" / "net-pruned").mkdir(parents=True)

    assert named_after("build/net-pruned") == Path("build/net-pruned")
    assert default_output("build/net-pruned") == Path("build/net-pruned-onnx")
