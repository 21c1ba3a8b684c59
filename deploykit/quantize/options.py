"""The options of quantization. Standard library only: recipes and help read them."""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.core.errors import BadInputError, nearest

TARGETS = ("ort-cpu", "tensorrt", "portable")


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """How a float graph becomes integers; how ranges are chosen is in `CalibrationOptions`.

    Attributes:
        target: whose integer kernels count: "ort-cpu", "tensorrt" or "portable".
        samples: of the calibration data that are used, the first ones; all where there are fewer.
        at_once: samples in one batch of calibration.
        exclude: nodes that stay float: patterns of their names, or operators.
    """

    target: str = "ort-cpu"
    samples: int = 512
    at_once: int = 16
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.target not in TARGETS:
            raise BadInputError(
                f"target {self.target!r} has no table of quantizers"
                f"{nearest(self.target, TARGETS)}; known are {', '.join(TARGETS)}"
            )
        for name in ("samples", "at_once"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be 1 or more, not {getattr(self, name)}")
