"""Stages on disk, opened in a runtime."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError
from deploykit.runtimes.base import check_feeds
from deploykit.runtimes.dynamic.staged import Answer, run_stages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from deploykit.core.measurement import Target
    from deploykit.runtimes.base import Array
    from deploykit.runtimes.dynamic.record import Stages
    from deploykit.runtimes.ort import OnnxRuntime, OrtSession

    RunBatch = Callable[[Mapping[str, Array]], Answer]


class OpenStages:
    """Stages that can run.

    Args:
        record: how they belong together.
        folder: where their files are.
        runtime: a provider of ONNX Runtime.
        target: for it.

    Raises:
        BadInputError: a file is missing, or is not the stage that the record describes.
    """

    def __init__(self, record: Stages, folder: Path, runtime: OnnxRuntime, target: Target) -> None:
        from deploykit.load.artifacts import load_artifact

        self.record = record
        self.sessions: list[OrtSession] = []
        for stage in record.stages:
            path = folder / stage.file
            if not path.is_file():
                raise BadInputError(f"stage file {stage.file} is missing in {folder}: export again")
            self.sessions.append(runtime.open(load_artifact(path), target))
        for stage, session in zip(record.stages, self.sessions, strict=True):
            _check(stage.file, {one.name for one in stage.takes}, {x.name for x in session.inputs})
            gives = {stage.exit, *(one.name for one in stage.gives)}
            _check(stage.file, gives, {x.name for x in session.outputs})
        self.inputs = self.sessions[0].inputs
        self._check_feeds = partial(check_feeds, self.inputs)
        self.run = [session.direct() for session in self.sessions]

    def __call__(self, feeds: Mapping[str, Array]) -> Answer:
        """One batch.

        Raises:
            BadInputError: names, types or shapes do not fit.
        """
        self._check_feeds(feeds)
        return run_stages(self.record, self.run, feeds)

    def following(self, record: Stages) -> RunBatch:
        """The same stages by other thresholds, rules and temperatures."""
        return lambda feeds: run_stages(record, self.run, feeds)

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], Answer]:
        """The call that runs the stages on these host arrays."""
        checked = self._check_feeds(feeds)
        return lambda: run_stages(self.record, self.run, checked)

    def close(self) -> None:
        """Drop all sessions."""
        for session in self.sessions:
            session.close()


def _check(file: str, recorded: set[str], found: set[str]) -> None:
    if recorded != found:
        odd = ", ".join(sorted(recorded ^ found))
        raise BadInputError(f"{file} is not the stage that its record describes: {odd}")
