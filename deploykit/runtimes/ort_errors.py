"""ONNX Runtime's errors, each as one line that says what to do.

They all come as classes without a common root but `Exception`, with a code and a C++ signature
inside the text. The texts matched here are those of ONNX Runtime 1.20 to 1.32; one that is not
known is passed on, shortened.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError, DeploykitError, EnvironmentFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE = re.compile(r"\S*?\w+\.(?:h|hpp|cc|cpp|cu):\d+ .*?\) ", re.DOTALL)
_LONGEST = 300
_KNOWN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), text)
    for pattern, text in (
        (r"Protobuf parsing failed", "is not an ONNX model, or it is cut off"),
        (r"No graph was found in the protobuf", "is not an ONNX model: it has no graph"),
        (
            r"Opset (\d+) is under development.*till opset (\d+)",
            (
                r"uses opset \1, and this onnxruntime knows up to \2: "
                "export with an older opset, or pip install -U onnxruntime"
            ),
        ),
        (
            r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
            (
                r"has IR version \1, and this onnxruntime knows up to \2: "
                "pip install -U onnxruntime"
            ),
        ),
        (
            r"No Op registered for (\S+) with domain_version of (\d+)",
            r"uses operator \1, which opset \2 does not have",
        ),
        (
            r"([\w.]+):(\w+)\(-?\d+\) is not a registered function/op",
            r"uses the custom operator \1::\2, which this onnxruntime does not have",
        ),
        (
            r"Could not find an implementation for (\w+)\((\d+)\)",
            (
                r"uses \1 (since opset \2) with types for which this onnxruntime has no kernel: "
                "raise its opset (onnx.version_converter), or take other types"
            ),
        ),
        (
            r"External data path does not exist: \"?([^\"\n]+)",
            r"keeps its weights in \1, which is missing",
        ),
        (
            r"External data path.*(?:escapes|outside|not under).*?\"?([^\"\n]+)",
            r"points at weights outside its folder: refused",
        ),
    )
)


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Turn what ONNX Runtime raises inside into a `DeploykitError` about the file `path`.

    Raises:
        BadInputError: the model cannot be loaded or run.
        EnvironmentFailedError: memory ran out.
    """
    try:
        yield
    except DeploykitError:
        raise
    except Exception as error:
        raise plain_error(error, path) from error


def plain_error(error: Exception, path: Path) -> DeploykitError:
    """The error of ours that stands for one of ONNX Runtime's."""
    text = str(error)
    if "bad_alloc" in text or "Failed to allocate memory" in text:
        return EnvironmentFailedError(f"{path}: memory ran out in ONNX Runtime")
    return BadInputError(f"{path} {explain(text)}")


def explain(text: str) -> str:
    """The end of a sentence that begins with the file's name."""
    for pattern, plain in _KNOWN:
        if match := pattern.search(text):
            return match.expand(plain)
    short = " ".join(_SOURCE.sub("", _CODE.sub("", text)).split())
    cut = f"{short[:_LONGEST]}..." if len(short) > _LONGEST else short
    return f"cannot be run by ONNX Runtime: {cut}"
