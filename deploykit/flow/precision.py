"""The precision that an export ends in, and what was asked of it: one table of options.

The table comes from the command line (`--precision int8 --calibrate DATA ...`) or is the stage
"quantize" of a recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError, nearest
from deploykit.flow.budget import DEFAULT_BUDGET
from deploykit.flow.tables import options_from
from deploykit.quantize.calibration_options import CalibrationOptions
from deploykit.quantize.half_options import HALVES, HalfOptions
from deploykit.quantize.options import QuantizeOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploykit.core.types import Option

FLOAT, INT8 = "fp32", "int8"
PRECISIONS = (FLOAT, INT8, *HALVES)
COMMAND = "export"
STAGE = "stage quantize"
QUANTIZE = "quantize"


@dataclass(frozen=True, slots=True)
class LowerLoop:
    """What is asked for beside the options of quantization itself.

    Attributes:
        precision: "int8", "fp16" or "bf16".
        calibrate: data that shows the ranges of activations, or "".
        max_drop: points on `val` that may be lost; `None` only reports.
        budget: for int8: of the search for what meets `max_drop`: evaluations, or a time ("10m").
        measure: for int8: whether the latency is compared with the float network's.
        batch: for int8: of that measurement; `None` takes the smallest.
        threads: for int8: of it; `None` leaves it to the runtime.
        force: for int8: hand over what is slower, all the same.
    """

    precision: str = INT8
    calibrate: str = ""
    max_drop: float | None = None
    budget: str = DEFAULT_BUDGET
    measure: bool = True
    batch: int | None = None
    threads: int | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Lower:
    """What comes after a float export.

    Attributes:
        loop: see there.
        changes: fields of the options of the precision that are not the default.
    """

    loop: LowerLoop
    changes: Mapping[str, Option] = field(default_factory=dict)


def _names(*kinds: type) -> tuple[str, ...]:
    return tuple(f.name for kind in kinds for f in fields(kind))


_HALF = ("precision", "calibrate", "max_drop", *_names(HalfOptions))
_TAKES: Mapping[str, tuple[str, ...]] = {
    FLOAT: ("precision",),
    INT8: _names(LowerLoop, QuantizeOptions, CalibrationOptions),
    **dict.fromkeys(HALVES, _HALF),
}
"""The keys that go with each precision."""


def lower_of(table: Mapping[str, Option], where: str) -> Lower | None:
    """What a table asks for; `None` where the network stays float32.

    Args:
        table: by the names of fields; `precision` may be left out in a stage, and is int8 then.
        where: `COMMAND`, `QUANTIZE` (the command) or `STAGE`, for errors.

    Raises:
        BadInputError: an unknown precision or key (with the nearest), a value that cannot be, an
            option that does not go with the precision, or int8 without calibration data.
    """
    given = {key: value for key, value in table.items() if key != "name"}
    precision = str(given.get("precision", INT8 if where == STAGE else FLOAT))
    if precision not in PRECISIONS:
        raise BadInputError(
            f"{where}: there is no precision {precision!r}{nearest(precision, PRECISIONS)}"
        )
    if precision == FLOAT and where == QUANTIZE:
        raise BadInputError(f"{where}: fp32 is what comes in: give int8, fp16 or bf16")
    _check_keys(given, precision, where)
    if precision == FLOAT:
        return None
    own = _names(LowerLoop)
    loop = options_from({k: v for k, v in given.items() if k in own}, LowerLoop, where)
    changes = {key: value for key, value in given.items() if key not in own}
    if precision == INT8:
        _check_int8(changes, loop, where)
    else:
        options_from({**changes, "precision": precision}, HalfOptions, where)
    return Lower(loop, changes)


def _check_keys(given: Mapping[str, Option], precision: str, where: str) -> None:
    """An option that does nothing must not look as if it had."""
    known = {name for names in _TAKES.values() for name in names}
    for key in given:
        if key not in known:
            raise BadInputError(f"{where}: unknown key {key!r}{nearest(key, known)}")
        if key not in _TAKES[precision]:
            homes = " or ".join(one for one in PRECISIONS if key in _TAKES[one])
            raise BadInputError(
                f"{where}: {_said(key, where)} goes with {_said('precision', where)} {homes}, and "
                f"this is {precision}: leave it out, or change the precision"
            )


def _check_int8(changes: Mapping[str, Option], loop: LowerLoop, where: str) -> None:
    for kind in (QuantizeOptions, CalibrationOptions):
        known = _names(kind)
        options_from({k: v for k, v in changes.items() if k in known}, kind, where)
    if not loop.calibrate:
        data = "fashion-mnist:train[:512]"
        example = f'calibrate = "{data}"' if where == STAGE else f"--calibrate '{data}'"
        raise BadInputError(
            f"{where}: int8 needs data that shows the ranges of activations, such as {example}"
        )
    if not loop.measure and (unused := [n for n in ("batch", "threads") if getattr(loop, n)]):
        said = ", ".join(_said(name, where) for name in unused)
        raise BadInputError(f"{where}: leave out {said}: nothing is measured")


def _said(name: str, where: str) -> str:
    """An option as users wrote it."""
    if where == STAGE:
        return name
    return "--no-measure" if name == "measure" else f"--{name.replace('_', '-')}"
