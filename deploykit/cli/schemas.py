"""Write the JSON Schemas of all records: `python -m deploykit.cli.schemas` (or `make schemas`).

The files are generated from the dataclasses, so that no field is declared twice, and committed, so
that other languages can read them and a change of a record shows in review. `deploykit schema`
prints them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields, make_dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

import deploykit
from deploykit.bench.diagnosis import DOCTOR, Diagnosis
from deploykit.bench.inspection import INSPECTION, Inspection
from deploykit.bench.layer_cache import LAYER_TIMES, LayerTimes
from deploykit.bench.result import BENCH, BenchResult
from deploykit.compress.exits.plan import EXITS_PLAN, ExitsPlan
from deploykit.compress.prune.plan import PLAN, Plan
from deploykit.compress.separable.plan import SEPARABLE_PLAN, SeparablePlan
from deploykit.core.records import ENGINE_ARTIFACT, ONNX_ARTIFACT, REPORT, Schema
from deploykit.core.report import Report
from deploykit.core.types import EngineArtifact, OnnxArtifact
from deploykit.flow.distill.record import DISTILLATION, Distillation
from deploykit.flow.exits.record import EXITS, Exits
from deploykit.flow.half.record import HALF, Half
from deploykit.flow.prune.record import PRUNING, Pruning
from deploykit.flow.quantize.record import QUANTIZATION, Quantization
from deploykit.flow.separable.record import SEPARABLE, Separable
from deploykit.load.recipe import RECIPE, Recipe
from deploykit.quantize.ranges import RANGES, Ranges
from deploykit.runtimes.dynamic.record import STAGES, Stages

FOLDER = Path(deploykit.__file__).parent / "core" / "schemas"
_RULE = (
    "Records of the same major version are read, whatever the minor one; fields that a reader does "
    "not know are left alone, and kept when the record is written again."
)
_ATTRIBUTE = re.compile(r" {4}(?P<name>\w+): (?P<text>.*)")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of record.

    Attributes:
        schema: its name and version.
        record: the dataclass that it holds.
    """

    schema: Schema
    record: type

    @property
    def path(self) -> Path:
        """Where its JSON Schema is."""
        return FOLDER / f"{self.schema.name.removeprefix('deploykit/')}.schema.json"


KINDS = (
    Kind(ONNX_ARTIFACT, OnnxArtifact),
    Kind(ENGINE_ARTIFACT, EngineArtifact),
    Kind(BENCH, BenchResult),
    Kind(DISTILLATION, Distillation),
    Kind(DOCTOR, Diagnosis),
    Kind(EXITS, Exits),
    Kind(EXITS_PLAN, ExitsPlan),
    Kind(HALF, Half),
    Kind(INSPECTION, Inspection),
    Kind(LAYER_TIMES, LayerTimes),
    Kind(PLAN, Plan),
    Kind(PRUNING, Pruning),
    Kind(QUANTIZATION, Quantization),
    Kind(RANGES, Ranges),
    Kind(RECIPE, Recipe),
    Kind(REPORT, Report),
    Kind(SEPARABLE, Separable),
    Kind(SEPARABLE_PLAN, SeparablePlan),
    Kind(STAGES, Stages),
)


def json_schema(kind: Kind) -> str:
    """The JSON Schema (draft 2020-12) of one kind of record, as it stands in its file."""
    made = msgspec.json.schema(_as_written(kind.record))
    definitions = made["$defs"]
    body = definitions.pop(kind.record.__name__)
    _document(body, str(kind.record.__doc__))
    for definition in definitions.values():
        _document(definition, definition.get("description", ""))
    properties = {
        "schema": {"const": kind.schema.name},
        "version": {
            "type": "string",
            "pattern": rf"^{kind.schema.major}\.[0-9]+$",
            "examples": [kind.schema.version],
            "description": _RULE,
        },
        **body["properties"],
    }
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{kind.schema.name}/{kind.schema.major}",
        "title": kind.schema.name,
        "description": body["description"],
        "type": "object",
        "properties": properties,
        "required": ["schema", "version", *body["required"]],
        "$defs": definitions,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _document(definition: dict[str, Any], doc: str) -> None:
    """Give a definition, and each of its properties, its part of the class's docstring."""
    summary, _, attributes = cleandoc(doc).partition("\n\nAttributes:\n")
    definition["description"] = " ".join(summary.split())
    name = ""
    lines: dict[str, list[str]] = {}
    for line in attributes.splitlines():
        if match := _ATTRIBUTE.fullmatch(line):
            name = match["name"]
        lines.setdefault(name, []).append(match["text"] if match else line.strip())
    for key, text in lines.items():
        if key in definition.get("properties", {}):
            definition["properties"][key]["description"] = " ".join(text).strip()


def write_schemas() -> None:
    """Write every file, and remove those of records that are gone."""
    kept = {kind.path for kind in KINDS}
    for path in FOLDER.glob("*.schema.json"):
        if path not in kept:
            path.unlink()
    for kind in KINDS:
        kind.path.write_text(json_schema(kind), encoding="utf-8")


def _as_written(record: type) -> type:
    """The dataclass without the fields that never reach a record."""
    hints = get_type_hints(record)
    kept = [f for f in fields(record) if f.metadata.get("in_record") is not False]
    return make_dataclass(
        record.__name__,
        [
            (f.name, hints[f.name], field(default=f.default, default_factory=f.default_factory))
            for f in kept
        ],
    )


if __name__ == "__main__":
    write_schemas()
