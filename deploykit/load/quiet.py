"""Keep PyTorch's own remarks off the terminal while it captures and translates.

It prints partial graphs and logs guesses about the caller's code; what matters of them is in the
exception, from which our one line is made.
"""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOGGERS = ("torch", "torch.onnx", "torch.export", "torch.fx", "torch._export", "onnxscript")


@contextmanager
def quiet_torch() -> Iterator[None]:
    """No warnings, no log records but critical ones, nothing printed, until the block ends."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
