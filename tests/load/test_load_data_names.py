"""Data by name: the grammar, slices, and what is refused with which words."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from deploykit.core.errors import BadInputError, MissingExtraError
from deploykit.load.datasets import open_data
from deploykit.load.slices import slice_rows, split_slice

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    x = np.arange(10, dtype=np.float32).reshape(10, 1)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(10))
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def pair(): return np.zeros((4, 2), 'float32'), [0, 1, 0, 1]\n"
        "def alone(): return np.ones((3, 2), 'float32')\n"
        "def named(): return {'ids': np.ones((3, 2), 'int64'), 'mask': np.ones((3, 2), bool)}\n"
        "def three(): return 1, 2, 3\n"
        "def ragged(): return [[1.0], [1.0, 2.0]]\n"
        "def data():\n"
        "    from deploykit.load.digits import digits\n"
        "    return digits('val')\n"
        "def broken(): raise RuntimeError('the disk is on fire')\n"
        "number = 3\n"
    )
    (tmp_path / "syntax.py").write_text("def x(:\n")
    (tmp_path / "needs.py").write_text("import surely_not_installed_anywhere\n")
    return tmp_path


@pytest.mark.parametrize(
    "text", ["[:500]", "[2:5]", "[::2]", "[-3:]", "[::-1]", "[:-2]", "[8:2:-2]", "[:]"]
)
def test_a_slice_means_what_it_means_in_python(folder: Path, text: str) -> None:
    data = open_data(f"data.npz{text}", folder)
    expected = list(eval(f"list(range(10)){text}"))

    batch = data.batch(range(len(data)))
    assert batch.inputs["x"][:, 0].tolist() == expected
    assert batch.labels is not None
    assert batch.labels.tolist() == expected
    assert data.name == f"data.npz{text}"


def test_rows_of_a_slice_can_be_asked_for_in_any_order(folder: Path) -> None:
    data = open_data("data.npz[4:8]", folder)

    assert data.batch([3, 0]).inputs["x"][:, 0].tolist() == [7, 4]


@pytest.mark.parametrize("text", ["[20:]", "[5:5]", "[:0]"])
def test_an_empty_slice_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(BadInputError, match=r"is empty: data\.npz has 10 samples"):
        open_data(f"data.npz{text}", folder)


def test_a_slice_that_is_none_says_what_to_write() -> None:
    with pytest.raises(BadInputError, match=r"data 'digits\[:5' does not end its slice; write"):
        split_slice("digits[:5")
    with pytest.raises(BadInputError, match=r"\[5\] is no slice; write it like \[5:6\]"):
        split_slice("digits[5]")
    with pytest.raises(BadInputError, match=r"\[a:b\] is no slice; write it like \[:500\]"):
        split_slice("digits[a:b]")
    with pytest.raises(BadInputError, match="the step of a slice cannot be 0"):
        slice_rows("[::0]", 10, "digits")


def test_digests_tell_rows_apart_and_are_stable(folder: Path) -> None:
    texts = ["data.npz", "data.npz[:5]", "data.npz[5:]", "data.npz[::2]", "data.npz[::-1]"]
    first = [open_data(text, folder).digest() for text in texts]

    assert first == [open_data(text, folder).digest() for text in texts]
    assert len(set(first)) == len(texts)
    assert open_data("data.npz[:]", folder).digest() == first[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fashion-mnst", "did you mean 'fashion-mnist'"),
        (
            "nothing.like.it",
            "there is no data 'nothing.like.it', and no such folder; known: digits",
        ),
        ("digits:tset", "digits has no split 'tset'; did you mean 'test'"),
        ("fashion-mnist:trian", "no split 'trian'; did you mean 'train'"),
        ("digits?resize=4", "only a folder of images has options, not resize"),
        ("data.npz:train", "has no splits; take a slice"),
        ("gone.npz", "gone.npz does not exist"),
        ("data.npz?resize", "'resize' is no option; write it like resize=256"),
        ("x?crop=1&crop=2", "has the option 'crop' twice"),
        ("mine.py:three", "returned 3 values; return"),
        ("mine.py:ragged", "returned what is no array"),
        ("mine.py:broken", r"failed with RuntimeError: the disk is on fire \(mine.py, line 10\)"),
        ("mine.py:namde", "has no 'namde'; did you mean 'named'"),
        ("mine.py:number", "is a int, not a function"),
        ("gone.py:data", "gone.py does not exist"),
        ("no.such.module:data", "no module is called 'no.such.module'"),
        ("syntax.py:x", r"is not Python: .*\(syntax.py, line 1\)"),
    ],
)
def test_what_cannot_be_used_is_named(folder: Path, text: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        open_data(text, folder)

    assert "\n" not in str(caught.value)


def test_a_package_that_users_code_lacks_is_named(folder: Path) -> None:
    with pytest.raises(MissingExtraError, match="needs the module 'surely_not"):
        open_data("needs.py:data", folder)


def test_users_functions_may_return_what_is_natural(folder: Path) -> None:
    pair = open_data("mine.py:pair", folder)
    labels = pair.batch([1, 2]).labels
    assert labels is not None
    assert labels.tolist() == [1, 0]
    assert open_data("mine.py:alone", folder).batch([0]).labels is None
    assert list(open_data("mine.py:named", folder).batch([0]).inputs) == ["ids", "mask"]
    assert len(open_data("mine.py:data[:7]", folder)) == 7


def test_a_function_of_a_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)

    assert open_data("mine:pair[1:]").name == "mine:pair[1:]"


def test_digits_come_in_parts_that_do_not_overlap() -> None:
    whole = open_data("digits")
    parts = [open_data(f"digits:{split}") for split in ("train", "val", "test")]

    assert [len(part) for part in parts] == [1197, 300, 300]
    assert sum(len(part) for part in parts) == len(whole) == 1797
    joined = np.concatenate([part.batch(range(len(part))).inputs["x"] for part in parts])
    np.testing.assert_array_equal(joined, whole.batch(range(1797)).inputs["x"])
    assert abs(joined.mean()) < 1e-3
    assert abs(joined.std() - 1) < 1e-3
    assert whole.labels == tuple("0123456789")


def test_no_data_needs_torch(folder: Path) -> None:
    from PIL import Image

    (folder / "images" / "a").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "images" / "a" / "0.png")
    code = (
        "import sys\n"
        "from deploykit.load.datasets import open_data\n"
        "texts = ['fashion-mnist[:2]', 'fashion-mnist-compact[:2]', 'digits[:2]', 'images',\n"
        "         'data.npz', 'mine.py:pair']\n"
        "for text in texts:\n"
        "    data = open_data(text)\n"
        "    data.batch([0]), data.digest()\n"
        "print('torch' in sys.modules, 'onnx' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["False", "False"]
