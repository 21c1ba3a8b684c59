"""What pruning is asked for, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from deploykit.compress.prune.options import PruneOptions
from deploykit.compress.prune.structure import Exactness
from deploykit.core.errors import BadInputError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, "ratio must be above 0 and below 1, not 0$"),
        ({"ratio": 1.0}, "ratio must be above 0 and below 1, not 1$"),
        ({"ratio": -0.5}, r"ratio must be above 0 and below 1, not -0\.5$"),
        ({"ratio": 30.0}, r"ratio must be .* not 30; for 30 % write 0\.3$"),
        ({"ratio": float("nan")}, "ratio must be above 0 and below 1, not nan$"),
        ({"max_ratio": 1.5}, r"max_ratio must be above 0 and below 1, not 1\.5; for 1\.5 %"),
        ({"of": "flops"}, "of 'flops' is unknown; known: channels, macs, parameters"),
        ({"criterion": "tailor"}, r"criterion 'tailor' is unknown; did you mean 'taylor'\?"),
        ({"scope": "isomorph"}, r"scope 'isomorph' is unknown; did you mean 'isomorphic'\?"),
        ({"heads": "all"}, "heads 'all' is unknown; known: whole, within"),
        ({"exactness": "renormalized"}, r"did you mean 'renormalised'\?"),
        ({"align": "0"}, "align must be \"auto\" or a whole number from 1, not '0'"),
        ({"align": "8.5"}, "write it like auto or 8"),
        ({"exclude": ("stem", " ")}, 'exclude has an empty pattern; name layers like "layer1'),
        ({"samples": 0}, "samples must be 1 or more, not 0"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
    ],
)
def test_bad_options_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        PruneOptions(**options)

    assert "\n" not in str(caught.value)


def test_the_alignment_is_a_number_or_left_to_a_measurement() -> None:
    assert PruneOptions().step is None
    assert PruneOptions(align="16").step == 16


def test_exactness_is_the_structures_own() -> None:
    assert PruneOptions(exactness="exact").least_exact is Exactness.EXACT


def test_options_load_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, deploykit.compress.prune.options\n"
        "print([name for name in ('torch', 'numpy', 'onnx') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout.strip() == "[]"
