"""The JSON Schemas: current, and true of what is really written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploykit.cli.schemas import FOLDER, KINDS, Kind, json_schema
from deploykit.core.records import ONNX_ARTIFACT, encode
from deploykit.core.types import Dim, File, OnnxArtifact, TensorSpec


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.path.name)
def test_the_file_is_what_the_records_say(kind: Kind) -> None:
    assert kind.path.read_text(encoding="utf-8") == json_schema(kind), "run: make schemas"


def test_there_is_no_file_of_a_record_that_is_gone() -> None:
    assert sorted(FOLDER.glob("*.json")) == sorted(kind.path for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.path.name)
def test_every_field_is_described_and_unknown_ones_are_allowed(kind: Kind) -> None:
    schema = json.loads(json_schema(kind))
    for name, definition in {"": schema, **schema["$defs"]}.items():
        assert definition.get("additionalProperties", True) is True
        for field, value in definition.get("properties", {}).items():
            described = value.get("description") or "const" in value
            assert described, f"{kind.path.name}: {name}.{field} is not in its class's docstring"


def test_what_is_written_has_the_fields_that_the_schema_requires() -> None:
    artifact = OnnxArtifact(
        files=(File("m.onnx", "00", 1, "model"),),
        inputs=(TensorSpec("x", "float32", (Dim("N"), 3)),),
        outputs=(),
    )
    kind = next(kind for kind in KINDS if kind.schema == ONNX_ARTIFACT)
    schema = json.loads(json_schema(kind))

    _check(json.loads(encode(artifact, ONNX_ARTIFACT)), schema, schema["$defs"])


def _check(value: Any, schema: dict[str, Any], definitions: dict[str, Any]) -> None:
    """As much of JSON Schema as our records need: objects, arrays, references, types."""
    if "$ref" in schema:
        _check(value, definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    elif schema.get("type") == "object" and "properties" in schema:
        assert set(schema["required"]) <= set(value)
        assert set(value) <= set(schema["properties"])
        for name, item in value.items():
            _check(item, schema["properties"][name], definitions)
    elif schema.get("type") == "array" and isinstance(schema.get("items"), dict):
        for item in value:
            _check(item, schema["items"], definitions)
    elif "const" in schema:
        assert value == schema["const"]
    elif schema.get("type") in {"string", "integer"}:
        assert isinstance(value, {"string": str, "integer": int}[schema["type"]])
