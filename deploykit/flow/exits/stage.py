"""The stage "exits" of a recipe: its keys, sorted to the options that they belong to."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from deploykit.compress.exits.options import ExitsOptions
from deploykit.core.errors import BadInputError, nearest
from deploykit.flow.exits.loop import ExitsLoop
from deploykit.flow.exits.request import ExitsRequest
from deploykit.flow.tables import options_from
from deploykit.train.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploykit.core.types import Option
    from deploykit.load.sources import Source

_WHERE = "stage exits"


def exits_request(stage: Mapping[str, Option], source: Source, out: Path) -> ExitsRequest:
    """What the stage asks for.

    Raises:
        BadInputError: an unknown key (with the nearest), or a value that cannot be.
    """
    table = {key: value for key, value in stage.items() if key != "name"}
    kinds = (ExitsLoop, ExitsOptions, TrainOptions)
    names = [{f.name for f in fields(kind)} for kind in kinds]
    known = set().union(*names)
    for key in table:
        if key not in known:
            raise BadInputError(f"{_WHERE}: unknown key {key!r}{nearest(key, known)}")
    own, adding, training = ({k: v for k, v in table.items() if k in n} for n in names)
    loop = options_from(own, ExitsLoop, _WHERE)
    options_from(adding, ExitsOptions, _WHERE)
    options_from(training, TrainOptions, _WHERE)
    values = {f.name: getattr(loop, f.name) for f in fields(ExitsLoop)}
    return ExitsRequest(source, out, adding, training, overwrite=True, as_stage=True, **values)
