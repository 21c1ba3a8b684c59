"""The options of an export, light enough for help texts and recipes."""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.core.errors import BadInputError

OLDEST_OPSET = 18  # the exporter's own floor
NEWEST_OPSET = 25


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the ONNX file shall be like.

    Attributes:
        opset: version of the ONNX operators.
        external_data: whether weights lie in a file of their own; files over 1.8 GB always do.
    """

    opset: int = 20
    external_data: bool = False

    def __post_init__(self) -> None:
        if not OLDEST_OPSET <= self.opset <= NEWEST_OPSET:
            raise BadInputError(
                f"opset must be from {OLDEST_OPSET} to {NEWEST_OPSET}, not {self.opset}"
            )
