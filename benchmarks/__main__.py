"""`python -m benchmarks [NAME] [--quick]`: ask one question, or all and rewrite RESULTS.md.

With a name: its figures beside their goals, and last `NAME: met` or `NAME: short: WHY`; exit
status 1 where it fell short. Without: every benchmark; results that this commit already has on
this machine are kept, so that an interrupted run goes on where it stopped (`--again` asks anew).
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from benchmarks import NAMES
from benchmarks.results_file import RESULTS, Entry, Keep, machine_line, write_entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.result import Figure, Result


def main(args: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; see the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=NAMES)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, no RESULTS.md")
    parser.add_argument("--again", action="store_true", help="forget results of this commit")
    chosen = parser.parse_args(args)
    if chosen.name is not None:
        return 0 if ask(chosen.name, quick=chosen.quick).result.met else 1
    if chosen.quick:
        entries = [ask(name, quick=True) for name in NAMES]
        return 0 if all(entry.result.met for entry in entries) else 1
    return run_all(again=chosen.again)


def run_all(*, again: bool) -> int:
    """Every benchmark in turn, each written to RESULTS.md as soon as it has ended."""
    keep = Keep.of_here()
    met = True
    for name in NAMES:
        entry = None if again else keep.load(name)
        if entry is None:
            entry = ask(name, quick=False)
            keep.save(name, entry)
        else:
            print(f"{name}: kept from this commit and machine")
        write_entry(RESULTS, name, entry)
        met = met and entry.result.met
    print(f"{RESULTS.name} has all {len(NAMES)}; {machine_line()}")
    return 0 if met else 1


def ask(name: str, *, quick: bool) -> Entry:
    """Run one benchmark and print its figures and verdict."""
    module = import_module(f"benchmarks.{name}")
    print(f"{name}: {module.GOAL}", flush=True)
    result: Result = module.run(quick=quick)
    for figure in result.figures:
        print(f"  {line(figure)}")
    print(verdict(name, result), flush=True)
    return Entry.now(module.GOAL, result)


def line(figure: Figure) -> str:
    """One figure beside its goal."""
    goal = f"   goal: {figure.goal}{'' if figure.met else ': SHORT'}" if figure.goal else ""
    return f"{figure.name}: {figure.value:.4g} {figure.unit}{goal}"


def verdict(name: str, result: Result) -> str:
    """The last line: `NAME: met`, or what fell short."""
    short = [
        f"{figure.name} is {figure.value:.4g} {figure.unit}, goal {figure.goal}"
        for figure in result.figures
        if not figure.met
    ]
    return f"{name}: short: {'; '.join(short)}" if short else f"{name}: met"


if __name__ == "__main__":
    sys.exit(main())
