"""The options of quantization. Standard library only: recipes and help read them."""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.core.errors import BadInputError, nearest

TARGETS = ("ort-cpu", "tensorrt", "portable")
ROUNDINGS = ("nearest", "gptq")
WEIGHT_RANGES = ("max", "mse")
SMOOTH_AUTO, SMOOTH_OFF = "auto", "off"
AUTO = "auto"
WEIGHT_BITS = (AUTO, "7", "8")


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """How a float graph becomes integers; how ranges are chosen is in `CalibrationOptions`.

    Attributes:
        target: whose integer kernels count: "ort-cpu", "tensorrt" or "portable".
        samples: of the calibration data that are used, the first ones; all where there are fewer.
        at_once: samples in one batch of calibration.
        exclude: nodes that stay float: patterns of their names, or operators.
        per_channel: whether weights have a scale for each output channel, or one for all.
        weight_bits: of the integers of weights: "8", "7" for x86 without VNNI, whose sums of
            products saturate, or "auto": what this machine needs where it is the target, else 8.
        weight_range: "max": the largest weight is the end of the grid. "mse": the end with the
            least squared error of the weights.
        equalise: cross-layer equalisation and bias absorption (Nagel et al., ICCV 2019, section
            4.1): for weights with one scale, and depthwise networks.
        smooth: outliers of activations go into weights (SmoothQuant: Xiao et al., ICML 2023,
            section 4): "off", "auto" (an alpha for each value, or none), or an alpha from 0 to 1.
        rounding: of weights. "nearest", or "gptq": each rounding error is made up for by the
            weights that are still to be rounded (Frantar et al., ICLR 2023, section 3).
        bias_correction: biases take back what quantization moves the mean of each channel by
            (Nagel et al., ICCV 2019, section 4.2). On by default: measured noise at the
            output was 2.4 dB less on a small depthwise network, 0.3 dB on `fashion_resnet`.
    """

    target: str = "ort-cpu"
    samples: int = 512
    at_once: int = 16
    exclude: tuple[str, ...] = ()
    per_channel: bool = True
    weight_bits: str = AUTO
    weight_range: str = "max"
    equalise: bool = False
    smooth: str = SMOOTH_OFF
    rounding: str = "nearest"
    bias_correction: bool = True

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
        _refuse_other(self.rounding, "rounding", ROUNDINGS)
        _refuse_other(self.weight_range, "weight_range", WEIGHT_RANGES)
        _refuse_other(self.weight_bits, "weight_bits", WEIGHT_BITS)
        _ = self.alpha

    @property
    def alpha(self) -> float | None:
        """Of smoothing; `None` where it is off or searched.

        Raises:
            BadInputError: `smooth` is neither a word that is known nor a number from 0 to 1.
        """
        if self.smooth in {SMOOTH_AUTO, SMOOTH_OFF}:
            return None
        try:
            found = float(self.smooth)
        except ValueError:
            found = -1.0
        if not 0 <= found <= 1:
            raise BadInputError(
                f"smooth is {self.smooth!r}; give off, auto or an alpha from 0 to 1, such as 0.5"
            )
        return found


def _refuse_other(value: str, name: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadInputError(
            f"{name} {value!r} is not known{nearest(value, known)}; it is {' or '.join(known)}"
        )
