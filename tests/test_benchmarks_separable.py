"""What the benchmark of separable networks says of a record."""

from __future__ import annotations

from benchmarks.result import Result
from benchmarks.separable import _figures
from deploykit.core.report import Check, Verdict
from deploykit.flow.separable.record import LayerRow, Separable, Speed


def _row(name: str, *, split: bool, macs: tuple[int, int], ns: tuple[float, float]) -> LayerRow:
    return LayerRow(
        name, (8, 8, 3, 3), 1, 1, split, "" if split else "is pointwise already", 576, 136,
        *macs, *ns,
    )  # fmt: skip


def _record(lost: float) -> Separable:
    check = Check("top-1 lost eval: some", Verdict.PASSED, lost, None, None, "points", "")
    return Separable(
        layers=(
            _row("stages.0.0.conv1", split=True, macs=(800, 100), ns=(40.0, 10.0)),
            _row("stages.0.1.conv1", split=True, macs=(800, 100), ns=(40.0, 10.0)),
            _row("stages.1.0.conv1", split=True, macs=(400, 100), ns=(10.0, 5.0)),
            _row("head", split=False, macs=(100, 100), ns=(1.0, 1.0)),
        ),
        parameters_before=2000,
        parameters_after=500,
        options={},
        training={},
        speed=Speed(3e6, 1e6, 1 / 3, None, None, "ort-cpu", 1),
        checks=(check,),
    )


def _values(record: Separable, *, judged: bool) -> dict[str, float]:
    return {figure.name: figure.value for figure in _figures("net", record, judged=judged)}


def test_layers_that_were_split_are_summed_by_stage() -> None:
    found = _values(_record(0.5), judged=True)

    assert found["net, stages.0: MACs, fewer by"] == 8
    assert found["net, stages.0: their kernels, measured faster by"] == 4
    assert found["net, stages.1: their kernels, measured faster by"] == 2
    assert found["net: MACs in the split layers, fewer by"] == 2000 / 300
    assert found["net: MACs of all convolutions, fewer by"] == 2100 / 400
    assert abs(found["net: the whole, measured faster by"] - 3) < 1e-9


def test_more_than_a_point_falls_short_where_it_is_judged() -> None:
    for lost, judged, met in ((1.0, True, True), (1.1, True, False), (9.0, False, True)):
        figures = tuple(_figures("net", _record(lost), judged=judged))

        assert Result(figures).met is met
