"""How INT8 is compared with the peers: figures and verdicts; and a tiny network for real."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import chain, chain_made, int8_accuracy, int8_one, int8_speed, turns
from benchmarks.fine_tuned import OURS, PEER, Budget
from benchmarks.int8_one import FLOAT, NNCF, ORT, Job, Made, make
from benchmarks.peers import int8_nncf, int8_ort, int8_packages

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.result import Figure


def _made(wrong: int, count: int = 10_000) -> Made:
    """So many of the first test images wrong; all of the validation data right."""
    return Made((bytes([1]) * 10, bytes([0]) * wrong + bytes([1]) * (count - wrong)))


def _by_name(figures: object) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures}  # type: ignore[attr-defined]  # an iterator


def _found(ours: int, peer: int) -> dict[int8_accuracy._Row, list[Made]]:
    return {
        int8_accuracy._FLOAT: [_made(600)],
        int8_accuracy._OURS: [_made(ours)] * 3,
        int8_accuracy._EQUAL: [_made(ours + 90)] * 3,
        int8_accuracy._Row(ORT, "entropy"): [_made(peer)] * 3,
    }


def test_what_was_lost_is_the_mean_of_the_draws_less_float() -> None:
    found = _found(600, 620)
    found[int8_accuracy._OURS] = [_made(600), _made(610), _made(620)]

    figures = _by_name(int8_accuracy._figures("fashion_resnet", found, judged=True))

    lost = figures["fashion_resnet: points lost"]
    assert (round(lost.value, 6), lost.met) == (0.1, True)
    assert round(figures["fashion_resnet: ONNX Runtime (entropy): points lost"].value, 6) == 0.2


def test_too_much_lost_and_below_the_peer_fall_short() -> None:
    figures = _by_name(int8_accuracy._figures("fashion_resnet", _found(700, 600), judged=True))

    assert not figures["fashion_resnet: points lost"].met
    assert not figures["fashion_resnet: ONNX Runtime: our worst draw, right"].met
    behind = "fashion_resnet: one scale a tensor, equalised: points behind one a channel"
    assert not figures[behind].met


def test_a_peer_that_fails_is_named_and_decides_nothing() -> None:
    found = _found(600, 600)
    found[int8_accuracy._Row(ORT, "entropy")] = [Made(why="no such kernel")]

    figures = _by_name(int8_accuracy._figures("fashion_resnet", found, judged=True))

    assert "fashion_resnet: ONNX Runtime (entropy) failed: no such kernel" in figures
    assert all(figure.met for name, figure in figures.items() if "ONNX" in name)


def test_ours_that_fails_ends_the_benchmark() -> None:
    found = _found(600, 600) | {int8_accuracy._OURS: [Made(why="it broke")]}

    with pytest.raises(SystemExit, match="fashion_resnet: it broke"):
        list(int8_accuracy._figures("fashion_resnet", found, judged=True))


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (10, 2, 0.03857421875)],
)
def test_mcnemar_is_exact(only_first: int, only_second: int, p: float) -> None:
    assert int8_accuracy.mcnemar(only_first, only_second) == pytest.approx(p)


def test_draws_are_of_the_same_size_and_share_no_image() -> None:
    rows = [set(range(first, first + 512 * 107, 107)) for first in (0, 36, 72)]

    assert all(len(each) == 512 and max(each) < 55_000 for each in rows)
    assert not rows[0] & rows[1] | rows[1] & rows[2] | rows[0] & rows[2]
    assert [draw.partition("[")[2] for draw in int8_accuracy._DRAWS] == [
        f"{first}:{first + 512 * 107}:107]" for first in (0, 36, 72)
    ]


def test_a_ratio_is_paired_by_round_and_its_interval_is_over_processes() -> None:
    drifting = tuple(((10.0 * slow, 5.0 * slow), (20.0, 10.0)) for slow in (1.0, 3.0, 7.0))
    same = turns.Times(drifting).compared(0, 1)
    assert (same.value, same.low, same.high) == pytest.approx((2, 2, 2))

    unlike = turns.Times((((10.0, 5.0),), ((10.0, 4.0),), ((10.0, 6.0),))).compared(0, 1)
    assert unlike.low < unlike.value < unlike.high
    assert turns.Times((((10.0, 5.0),),)).compared(0, 1).low == pytest.approx(2)


@pytest.mark.parametrize(("ours", "met"), [(5.0, True), (5.5, False)])
def test_slower_than_the_fastest_peer_falls_short(ours: float, met: bool) -> None:
    times = turns.Times(tuple(((20.0, ours * s, 5.1 * s, 6.0 * s),) for s in (1.0, 1.01, 0.99)))
    labels = ["float", int8_one.OURS, "A", "B"]

    figures = list(int8_speed._figures("mobilenet_v2", labels, times, judged=True))

    assert figures[-1].name.startswith("mobilenet_v2: ours over the fastest peer, A,")
    assert figures[-1].met == met


def test_a_chain_is_chosen_on_val_and_judged_on_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "has_vnni", lambda: True)

    def entry(label: str, made: Made, *, ours: bool, rounded: bool = False) -> chain_made.Entry:
        return chain_made.Entry(label, ours, rounded, tmp_path, made)

    ours = [
        (1, entry("fast", Made((bytes(10), _made(600).right[1])), ours=True)),
        (2, entry("keeps", _made(640), ours=True)),
        (3, entry("slow", _made(600), ours=True)),
    ]
    peers = [
        (4, entry("rounded", _made(600), ours=False, rounded=True)),
        (5, entry("plain", _made(600), ours=False)),
    ]
    times = turns.Times((((60.0, 5.0, 10.0, 20.0, 12.0, 15.0),),) * 3)

    chosen = chain._chosen(_made(600), times, ours)
    figures = list(chain._verdict(_made(600), times, chosen, peers, judged=True))

    assert chosen[1].label == "keeps"
    assert [round(figure.value, 6) for figure in figures] == [0.4, 6.0, 1.2, 1.5]
    assert [figure.met for figure in figures] == [True, True, False, True]


def test_jobs_of_the_chain_have_names_of_their_own() -> None:
    jobs = chain_made.Chains.of_here(quick=False).jobs()

    assert len({job.key for job in jobs}) == len(jobs)
    assert {job.tool for job in jobs} == {OURS, PEER}
    assert {job.budget for job in jobs} == {Budget(epochs=3)}


def test_a_failed_installation_of_the_peers_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = tmp_path / "int8.txt"
    pins.write_text("a name that no index has ==1\n")
    monkeypatch.setattr(int8_packages, "PINS", pins)
    monkeypatch.setattr(int8_packages, "ROOT", tmp_path)
    monkeypatch.setattr(int8_packages, "FOLDER", tmp_path / "bench" / "int8")

    with pytest.raises(SystemExit) as ended:
        int8_packages.install()

    assert "pip could not install int8.txt: ERROR" in str(ended.value)
    assert "\n" not in str(ended.value)
    assert not int8_packages.ready()


def test_the_peers_have_the_ways_that_are_asked_for() -> None:
    assert {way for _, way in chain_made.WAYS} <= set(int8_ort.WAYS) | set(int8_nncf.WAYS)
    assert set(int8_accuracy._WAYS[ORT]) == set(int8_ort.WAYS)
    assert "transformer" not in int8_accuracy._WAYS[NNCF]


def _tiny(folder: Path) -> tuple[str, str]:
    """A convolution that tells dark from bright images, and such images."""
    weight = np.stack([np.full((1, 3, 3), sign, np.float32) for sign in (-1, 1)])
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
            helper.make_node("GlobalAveragePool", ["a"], ["b"], "pool"),
            helper.make_node("Flatten", ["b"], ["y"], "flat"),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "tiny.onnx")
    chance = np.random.default_rng(0)
    labels = np.arange(8) % 2
    images = chance.uniform(0.2, 1, (8, 1, 4, 4)) * np.where(labels, 1, -1)[:, None, None, None]
    np.savez(folder / "images.npz", x=images.astype(np.float32), labels=labels)
    return str(folder / "tiny.onnx"), str(folder / "images.npz")


@pytest.mark.parametrize(
    ("tool", "way"), [(FLOAT, ""), (OURS, ""), (ORT, "min-max"), (ORT, "percentile")]
)
def test_each_tool_quantizes_a_tiny_network_that_is_still_right(
    tmp_path: Path, tool: str, way: str
) -> None:
    model, images = _tiny(tmp_path)

    made = make(Job(tool, model, images, way=way, judge=(images, f"{images}[:3]")), tmp_path)

    assert [len(right) for right in made.right] == [8, 3]
    assert (made.count_right(0), made.share(1)) == (8, 100.0)


def test_what_a_tool_raises_is_an_outcome(tmp_path: Path) -> None:
    _, images = _tiny(tmp_path)

    made = int8_one.ask(Job(OURS, str(tmp_path / "none.onnx"), images))

    assert "none.onnx" in made.why
    assert not made.right


@pytest.mark.slow
def test_nncf_quantizes_a_tiny_network(tmp_path: Path) -> None:
    if not int8_packages.ready():
        pytest.skip("NNCF is not in .bench/int8: python -m benchmarks int8_accuracy puts it there")
    model, images = _tiny(tmp_path)
    out = tmp_path / "nncf.onnx"

    made = int8_one.ask(Job(NNCF, model, images, str(out), way="mixed", judge=(images,)))

    assert (made.why, made.count_right(0)) == ("", 8)
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(out).graph.node}
