"""`python -m benchmarks.separable_one JOB`: one network made separable by the command's own code.

It writes the folder that users get; what came of it is read from its separable.json.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks import packages

if TYPE_CHECKING:
    from deploykit.core.types import Option


@dataclass(frozen=True, slots=True)
class Job:
    """One network.

    Attributes:
        source: a folder, or a network of torchvision's.
        out: the folder to make; one that is there is replaced.
        inputs: of a source that is no folder.
        data: to fit and train on, to choose by and to report on; empty for the recipe's own, or
            where there is none.
        samples: that kernels are fitted to.
        tuning: fields of `TrainOptions`; empty for what the command does.
        finetune: whether it is trained.
        measure: whether latencies are taken.
    """

    source: str
    out: str
    inputs: tuple[str, ...] = ()
    data: tuple[str, str, str] = ("", "", "")
    samples: int | None = None
    tuning: dict[str, int] = field(default_factory=dict)
    finetune: bool = True
    measure: bool = True


def make(job: Job) -> None:
    """Split, fit, train, judge and write."""
    from deploykit.flow.separable.request import SeparableRequest
    from deploykit.flow.separable.separable import run_separable
    from deploykit.load.inputs import parse_inputs
    from deploykit.load.sources import Source

    if job.source.startswith("torchvision:"):
        packages.on_path()
    changes: dict[str, Option] = {} if job.samples is None else {"samples": job.samples}
    train, val, test = job.data
    run_separable(
        SeparableRequest(
            Source(job.source, inputs=parse_inputs(job.inputs)),
            Path(job.out),
            changes=changes,
            tuning=dict(job.tuning),
            train=train,
            val=val,
            eval=test,
            finetune=job.finetune,
            measure=job.measure,
            batch=1 if job.measure else None,
            threads=1,
            overwrite=True,
        ),
        _tell,
    )


def _tell(what: str, share: float | None) -> None:
    """On standard error, for who looks on."""
    if share is None:
        print(f"  {what}", file=sys.stderr, flush=True)


def main(text: str) -> None:
    """Do the job that a JSON text describes."""
    make(msgspec.json.decode(text, type=Job))


if __name__ == "__main__":
    main(sys.argv[1])
