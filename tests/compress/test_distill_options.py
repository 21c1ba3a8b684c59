"""What distillation can be asked for, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from deploykit.compress.distill.options import DistillOptions, layers_of
from deploykit.core.errors import BadInputError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight": 1.5}, "the teacher's weight must be from 0 to 1, not 1.5"),
        ({"weight": float("nan")}, "the teacher's weight must be from 0 to 1, not nan"),
        ({"weight_end": -1.0}, "the teacher's weight must be from 0 to 1, not -1"),
        ({"temperature": 0.0}, "temperature must be above 0, not 0"),
        ({"temperature_end": float("inf")}, "temperature must be above 0, not inf"),
        ({"method": "dits"}, "method 'dits' is unknown; did you mean 'dist'?"),
        ({"course": "linaer"}, "course 'linaer' is unknown; did you mean 'linear'?"),
        ({"hint_weight": -1.0}, "hint_weight must be 0 or more, not -1"),
        (
            {"alpha": 2.0},
            "leave out alpha: it has no effect here (say method decoupled)",
        ),
        (
            {"hint_weight": 2.0},
            "leave out hint_weight: it has no effect here (name layers with hints)",
        ),
        (
            {"method": "mse", "temperature": 2.0},
            "leave out temperature: it has no effect here (mse takes outputs as is)",
        ),
        (
            {"hints": ("a=",)},
            "'a=' names no pair of layers: write STUDENT.LAYER=TEACHER.LAYER",
        ),
        (
            {"teacher_shares": (0.5, 0.4)},
            "teacher_shares must be 1 in all, not 0.9",
        ),
        (
            {"teacher_shares": (0.0, 1.0)},
            "teacher_shares must be above 0 and at most 1, not 0",
        ),
    ],
)
def test_what_is_no_mixture_or_has_no_effect(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        DistillOptions(**options)
    assert str(caught.value) == words


def test_pairs_of_layers() -> None:
    assert layers_of("a.0=b.1") == ("a.0", "b.1")
    assert layers_of("layer1") == ("layer1", "layer1")


@pytest.mark.parametrize(
    ("course", "expected"),
    [("linear", (1.0, 0.8, 0.6, 0.2)), ("cosine", (1.0, 0.882843, 0.6, 0.2))],
)
def test_the_weight_on_its_way(course: str, expected: tuple[float, ...]) -> None:
    options = DistillOptions(1.0, weight_end=0.2, temperature=8.0, course=course)

    found = [options.weight_at(progress) for progress in (0.0, 0.25, 0.5, 1.0)]

    assert found == pytest.approx(expected, abs=1e-6)
    assert options.temperature_at(0.7) == 8.0
