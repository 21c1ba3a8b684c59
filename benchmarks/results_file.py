"""RESULTS.md: one section a benchmark, each with the machine, the commit and the day it ran on.

A section is replaced when its benchmark runs again; the others stay as they are. Figures that
fall short stay as they are too.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks import NAMES
from benchmarks.result import Result  # noqa: TC001  (msgspec reads the annotations)
from deploykit.bench.machine import machine_facts

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
_KEPT = ROOT / ".deploykit" / "benchmarks"
_HEAD = """# Results

What `python -m benchmarks` found, each figure beside its goal. Written by it, never by hand:
figures that fall short stay as they are.
"""
_SECTION = re.compile(r"^## (?P<name>[\w-]+)\n(?P<body>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """One benchmark that has run.

    Attributes:
        goal: the question and what would answer it.
        result: its figures.
        day: when, in UTC.
        commit: of the checkout, "+" after it where files had changed.
        machine: in one line.
    """

    goal: str
    result: Result
    day: str
    commit: str
    machine: str

    @classmethod
    def now(cls, goal: str, result: Result) -> Entry:
        """An entry of this machine, commit and day."""
        return cls(goal, result, datetime.now(UTC).date().isoformat(), commit(), machine_line())


@dataclass(frozen=True, slots=True)
class Keep:
    """Finished results of one commit on one machine, in an ignored folder.

    Attributes:
        folder: where they are.
    """

    folder: Path

    @classmethod
    def of_here(cls) -> Keep:
        """For this commit and machine."""
        machine = hashlib.sha256(machine_line().encode()).hexdigest()[:12]
        return cls(_KEPT / f"{commit()}-{machine}")

    def load(self, name: str) -> Entry | None:
        """A finished result, if there is one and the commit has no changes since."""
        path = self.folder / f"{name}.json"
        if self.folder.name.partition("-")[0].endswith("+") or not path.is_file():
            return None
        try:
            return msgspec.json.decode(path.read_bytes(), type=Entry)
        except msgspec.MsgspecError:  # cut off, or of an older form: ask again
            return None

    def save(self, name: str, entry: Entry) -> None:
        """Keep a finished result."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.json").write_bytes(msgspec.json.encode(entry))


def write_entry(path: Path, name: str, entry: Entry) -> None:
    """Put a benchmark's section into the file; the sections of the others stay."""
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    sections = {match["name"]: match["body"].strip("\n") for match in _SECTION.finditer(old)}
    sections[name] = _body(entry)
    order = [*(x for x in NAMES if x in sections), *(x for x in sections if x not in NAMES)]
    text = "\n".join([_HEAD, *(f"## {x}\n\n{sections[x]}\n" for x in order)])
    path.write_text(text, encoding="utf-8")


def _body(entry: Entry) -> str:
    rows = [
        f"| {figure.name} | {figure.value:.4g} {figure.unit} | {figure.goal or '-'} | "
        f"{('yes' if figure.met else '**short**') if figure.goal else '-'} |"
        for figure in entry.result.figures
    ]
    return "\n".join(
        [
            entry.goal,
            "",
            f"{entry.day}, commit {entry.commit}, {entry.machine}.",
            "",
            "| figure | value | goal | met |",
            "| --- | --- | --- | --- |",
            *rows,
        ]
    )


def commit() -> str:
    """The short hash of the checkout, "+" after it where tracked files have changed."""
    head = _git("rev-parse", "--short=10", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!*RESULTS.md")
    return (head or "unknown") + ("+" if changed else "")


def machine_line() -> str:
    """The facts that figures depend on, without anything that names this machine."""
    facts = machine_facts()
    versions = ", ".join(
        f"{name} {facts.versions[name]}"
        for name in ("python", "onnxruntime", "torch")
        if name in facts.versions
    )
    virtual = f", virtual ({facts.virtual})" if facts.virtual else ""
    return f"{facts.cpu}, {facts.cores} CPUs{virtual}, {versions}"


def _git(*args: str) -> str:
    ended = subprocess.run(
        ["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=False
    )
    return ended.stdout.strip()
