"""How outcomes of pruning are told, kept and judged: no network is fetched or pruned here."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks import children, packages, pruning_coverage, zoo
from benchmarks.kept import Kept
from benchmarks.outcome import Outcome, Trial, heard, tell

if TYPE_CHECKING:
    from pathlib import Path

GOOD = Trial(0.5, 0.1, 30, forward=True, backward=True, exact_error=1e-15, parity=1e-6)
OUTCOME = Outcome("timm/one", 100, 400, 1.5, 500_000_000, trials=(GOOD, replace(GOOD, ratio=0.3)))


def test_the_zoo_has_every_network_once_and_a_sample_of_twelve() -> None:
    assert (len(zoo.TORCHVISION), len(zoo.TIMM), len(zoo.SAMPLE), len(zoo.HUGE)) == (80, 60, 12, 4)
    assert len({network.key for network in zoo.NETWORKS}) == 140
    assert zoo.named("timm/coat_tiny") in zoo.SAMPLE


def test_a_network_that_hardly_shrank_is_a_silent_no_op() -> None:
    hardly = OUTCOME.with_trial(replace(GOOD, parameters=84))

    assert (OUTCOME.pruned(0.5), OUTCOME.silent(0.5)) == (True, False)
    assert (hardly.pruned(0.5), hardly.silent(0.5)) == (False, True)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(GOOD, exact_error=1e-6),
        replace(GOOD, exact_error=float("nan")),
        replace(GOOD, exact_error=None),
        replace(GOOD, parity=1e-3),
        replace(GOOD, parity=None),
        replace(GOOD, backward=False),
    ],
)
def test_only_what_passed_every_test_is_good(wrong: Trial) -> None:
    assert pruning_coverage.good(OUTCOME, 0.5)
    assert not pruning_coverage.good(OUTCOME.with_trial(wrong), 0.5)


def test_what_a_child_says_is_heard_and_other_lines_are_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell(OUTCOME)
    line = capsys.readouterr().out

    assert heard(line) == OUTCOME
    assert heard(line[:-9]) is None
    assert heard("a warning of some package") is None


def test_an_outcome_is_kept_until_what_decides_it_changes(tmp_path: Path) -> None:
    source = tmp_path / "prune.py"
    source.write_text("x = 1")
    folder = Kept.under(Outcome, "tool", [source]).folder
    kept = Kept(Outcome, tmp_path / "kept")
    assert kept.load("timm/one") is None
    kept.save("timm/one", OUTCOME)
    source.write_text("x = 2")

    assert kept.load("timm/one") == OUTCOME
    assert Kept.under(Outcome, "tool", [source]).folder != folder


@pytest.mark.parametrize(
    ("code", "limits", "why"),
    [
        ("while True: pass", children.Limits(0.2, 1 << 40), "not done after 0 s"),
        ("import time; time.sleep(60)", children.Limits(0.05, 1 << 40), children.STALLED),
        ("while True: pass", children.Limits(60, 1000), "over 0.0 GB of memory"),
        ("raise ValueError('no such layer')", children.Limits(60, 1 << 40), "exit status 1: Val"),
    ],
)
def test_why_a_child_ended_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    limits: children.Limits,
    why: str,
) -> None:
    (tmp_path / "speaking.py").write_text(f"{code}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    outcome = children.ask("speaking", "timm/one", limits)

    assert outcome.network == "timm/one"
    assert outcome.why.startswith(why)


def test_the_last_thing_said_is_the_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "speaking.py").write_text(
        "from benchmarks.outcome import Outcome, tell\n"
        "import sys\n"
        "tell(Outcome(sys.argv[1])); tell(Outcome(sys.argv[1], parameters=7)); print('noise')\n"
        "raise SystemExit(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    outcome = children.ask("speaking", "timm/one", children.Limits(60, 1 << 40))

    assert outcome == Outcome("timm/one", parameters=7, why="exit status 3: nothing said")


def test_time_that_is_up_asks_nothing_more_but_remembers(tmp_path: Path) -> None:
    kept = Kept(Outcome, tmp_path)
    tool = pruning_coverage.Tool("tool", "none.such", 1.0, ())
    limits = children.Limits(1.0, 1 << 40)
    over = time.monotonic() - 1
    one = zoo.TIMM[0]

    assert pruning_coverage._one(tool, kept, limits, over, one) is None
    kept.save(one.key, OUTCOME)
    assert pruning_coverage._one(tool, kept, limits, over, one) == OUTCOME


def test_figures_say_what_fell_short() -> None:
    networks = (zoo.TIMM[0], zoo.TIMM[1])
    first, second = (network.key for network in networks)
    ours = {
        first: replace(OUTCOME, network=first),
        second: Outcome(second, 100, 400, 30.0, 3_000_000_000, why="not done after 240 s"),
    }
    peer = {first: replace(OUTCOME, network=first, analysis_s=1.0)}

    found = {x.name: x for x in pruning_coverage.figures(networks, ours, peer)}

    assert (found["timm at 0.5: pruned"].value, found["timm at 0.5: pruned"].met) == (1, False)
    assert found["timm at 0.3: pruned by Torch-Pruning"].value == 1
    assert found["analysis of the 1 networks that both prune"].goal == ""
    assert not found["slowest analysis and cut"].met
    assert not found["most memory, without twice the weights"].met
    missing = "networks not reached in the time, run again to go on"
    assert found[f"deploykit: {missing}"].met
    assert (found[f"Torch-Pruning: {missing}"].value, found[f"Torch-Pruning: {missing}"].met) == (
        1,
        False,
    )


def test_a_slower_analysis_of_the_whole_zoo_falls_short() -> None:
    ours, peer = {"a": OUTCOME}, {"a": replace(OUTCOME, analysis_s=1.0)}

    found = {x.name: x for x in pruning_coverage.costs(ours, peer, all_of_them=True)}

    analysis = found["analysis of the 1 networks that both prune"]
    assert (analysis.value, analysis.goal, analysis.met) == (1.5, "below 1", False)


def test_a_failed_installation_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = tmp_path / "requirements.txt"
    pins.write_text("a name that no index has ==1\n")
    monkeypatch.setattr(packages, "REQUIREMENTS", pins)
    monkeypatch.setattr(packages, "ROOT", tmp_path)
    monkeypatch.setattr(packages, "FOLDER", tmp_path / "bench" / "zoo")

    with pytest.raises(SystemExit) as ended:
        packages.install()

    assert "pip could not install requirements.txt: ERROR" in str(ended.value)
    assert "\n" not in str(ended.value)
    assert not packages.ready()
