"""The options of half precision. Standard library only: recipes and help read them."""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.core.errors import BadInputError, nearest

HALVES = ("fp16", "bf16")
HALF_TARGETS = ("ort-cuda", "tensorrt", "portable")


@dataclass(frozen=True, slots=True)
class HalfOptions:
    """How a float32 graph becomes one of 16 bits.

    Attributes:
        precision: "fp16" (IEEE binary16: 11 bits, up to 65504) or "bf16" (8 bits, float32's range).
        target: whose kernels count: "ort-cuda", "tensorrt", or "portable" for those of both.
        samples: of the calibration data that are used, the first ones; all where there are fewer.
        at_once: samples in one batch of calibration.
        exclude: nodes that stay float32: patterns of their names, or operators.
        half_io: whether inputs and outputs are of 16 bits, too; float32 otherwise.
    """

    precision: str = "fp16"
    target: str = "portable"
    samples: int = 512
    at_once: int = 16
    exclude: tuple[str, ...] = ()
    half_io: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.precision not in HALVES:
            raise BadInputError(
                f"precision {self.precision!r} is not of 16 bits{nearest(self.precision, HALVES)}"
            )
        if self.target not in HALF_TARGETS:
            cpu = ": its kernels compute in float32, so take --precision int8 for it"
            raise BadInputError(
                f"target {self.target!r} gains nothing from {self.precision}"
                f"{cpu if self.target == 'ort-cpu' else nearest(self.target, HALF_TARGETS)}; "
                f"known are {', '.join(HALF_TARGETS)}"
            )
        for name in ("samples", "at_once"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.half_io and self.precision == "bf16":
            raise BadInputError(
                "half_io does not go with bf16: NumPy has no bfloat16 to feed such a network with; "
                "its inputs and outputs stay float32"
            )
