"""The tree of errors and the one table of exit statuses."""

from __future__ import annotations

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.core import errors
from deploykit.core.errors import DeploykitError, ExitStatus, MissingExtraError, nearest
from deploykit.core.extras import extra

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, DeploykitError) and kind is not DeploykitError
]


def test_every_error_has_a_status_of_its_own() -> None:
    statuses = [kind.exit_status for kind in KINDS]

    assert sorted(statuses) == [1, 2, 3, 4, 5]


def test_the_drawing_of_the_tree_is_true() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+) +(\d)", str(errors.__doc__)))

    assert drawn == {kind.__name__: str(int(kind.exit_status)) for kind in KINDS}


def test_an_unforeseen_error_is_never_a_verdict() -> None:
    assert DeploykitError.exit_status is ExitStatus.INTERNAL_ERROR
    assert ExitStatus.INTERNAL_ERROR not in {0, 1}


def test_signals_are_as_shells_report_them() -> None:
    statuses = (ExitStatus.INTERRUPTED, ExitStatus.BROKEN_PIPE, ExitStatus.TERMINATED)

    assert [status - 128 for status in statuses] == [2, 13, 15]


def test_the_nearest_name_or_the_choices() -> None:
    assert nearest("rellu", ["relu", "gelu", "conv"]) == "; did you mean 'relu'?"
    assert nearest("xyz", ["b", "a"]) == "; known: a, b"
    assert nearest("xyz", []) == ""
    many = [f"name{number:02}" for number in range(20)]
    assert nearest("xyz", many).endswith("name11 and 8 more")


@given(st.lists(st.text(min_size=1), min_size=1), st.data())
def test_a_known_name_is_its_own_nearest(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))

    assert nearest(name, names) == f"; did you mean {name!r}?"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("compress", "pip install 'deploykit[compress]'"),
        ("package:timm", "pip install timm"),
    ],
)
def test_a_missing_package_becomes_the_line_that_installs_it(name: str, line: str) -> None:
    with pytest.raises(MissingExtraError) as caught, extra(name):
        import no_such_package_anywhere  # type: ignore[import-not-found]  # noqa: F401

    assert str(caught.value) == f"no_such_package_anywhere is not installed: {line}"


def test_a_package_that_is_broken_is_not_called_missing() -> None:
    with pytest.raises(ImportError, match="its own words"), extra("compress"):
        raise ImportError("its own words")
