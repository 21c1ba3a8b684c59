"""`deploykit schema`: the JSON Schemas of everything that deploykit writes and reads as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import click

import deploykit
from deploykit.cli.output import Column, print_table
from deploykit.core.errors import BadInputError, nearest

_SUFFIX = ".schema.json"


@click.command("schema")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """Print the JSON Schema of one kind of record, or list them all.

    Every record says what it is ("schema") and its version ("version": "MAJOR.MINOR"). A reader
    takes every record of its own major version. A newer minor version only adds fields; those that
    a reader does not know are left alone, and kept when it writes the record again.
    """
    folder = Path(deploykit.__file__).parent / "core" / "schemas"
    found = {path.name.removesuffix(_SUFFIX): path for path in sorted(folder.glob(f"*{_SUFFIX}"))}
    if name is None:
        columns = (Column("name"), Column("schema"), Column("version"), Column("what it is"))
        print_table(columns, [(key, *_facts(path)) for key, path in found.items()])
        return
    key = name.removeprefix("deploykit/")
    if key not in found:
        raise BadInputError(f"there is no schema {name!r}{nearest(key, found)}")
    click.echo(found[key].read_bytes(), nl=False)


def _facts(path: Path) -> tuple[str, str, str]:
    schema = json.loads(path.read_bytes())
    return schema["title"], schema["properties"]["version"]["examples"][0], schema["description"]
