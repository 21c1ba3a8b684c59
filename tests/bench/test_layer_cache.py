"""What was timed is found again on the same machine, and only there."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from deploykit.bench.layer_cache import LayerCache, key_of
from deploykit.bench.layer_models import Probe, SizedLayer
from deploykit.bench.layer_shapes import LayerShape
from deploykit.core.errors import BadInputError, EnvironmentFailedError
from deploykit.core.measurement import Machine, Target

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = Machine(
    "cpu", "x86_64", ("avx2",), 2, 1 << 30, None, None, "", 0.1, None, None, "Linux 6",
    {"onnxruntime": "1.32.0", "torch": "2.13"},
)  # fmt: skip
TARGET = Target("ort-cpu", threads=1)
SHAPE = LayerShape("conv", 8, 4, 1, (5, 5), (3, 3), (1, 1), (1,) * 4, (1, 1), precision="int8")
ONE = Probe((SizedLayer(SHAPE, 8, 4),))
TWO = Probe((SizedLayer(SHAPE, 8, 2), SizedLayer(LayerShape("gemm", 4, 4), 2, 4)))


def test_what_was_kept_is_there_for_the_next_process(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    cache = LayerCache(folder, MACHINE, TARGET)
    cache.keep({ONE: (10.0, 11.5), TWO: (7.0,)})
    cache.keep({TWO: ()})
    cache.save()

    again = LayerCache(folder, MACHINE, TARGET)

    assert again.blocks == {ONE: (10.0, 11.5), TWO: (7.0,)}


@pytest.mark.parametrize(
    ("machine", "target"),
    [
        (replace(MACHINE, cpu="another"), TARGET),
        (replace(MACHINE, instruction_sets=("avx2", "avx512_vnni")), TARGET),
        (replace(MACHINE, versions={"onnxruntime": "1.33.0"}), TARGET),
        (MACHINE, replace(TARGET, threads=2)),
        (MACHINE, replace(TARGET, cpus=(0,))),
        (MACHINE, replace(TARGET, options={"spin": "off"})),
    ],
    ids=["cpu", "instructions", "runtime", "threads", "cpus", "options"],
)
def test_other_circumstances_have_another_file(machine: Machine, target: Target) -> None:
    assert key_of(machine, target) != key_of(MACHINE, TARGET)


def test_what_does_not_decide_speed_changes_nothing() -> None:
    versions = {"onnxruntime": "1.32.0", "torch": "2.14"}
    machine = replace(MACHINE, load_average=9.0, versions=versions, os="Linux 7")
    target = replace(TARGET, batch=8, shapes={"x": (8, 3)})

    assert key_of(machine, target) == key_of(MACHINE, TARGET)


def test_it_is_written_down_every_two_seconds(tmp_path: Path) -> None:
    now = 0
    cache = LayerCache(tmp_path, MACHINE, TARGET, clock=lambda: now)
    cache.keep({ONE: (10.0,)})
    assert not cache.path.exists()

    now = 2_000_000_000
    cache.keep({ONE: (10.0, 11.0)})

    assert LayerCache(tmp_path, MACHINE, TARGET).blocks == {ONE: (10.0, 11.0)}


@pytest.mark.parametrize(
    "timing",
    [
        {"layers": [[5, 8, 4]], "blocks_ns": [1.0]},
        {"layers": [[-1, 8, 4]], "blocks_ns": [1.0]},
        {"layers": [], "blocks_ns": [1.0]},
        {"layers": [[0, 8, 4]], "blocks_ns": []},
        {"layers": [[0, 8, 4]], "blocks_ns": [0.0]},
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, timing: dict[str, object]) -> None:
    cache = LayerCache(tmp_path, MACHINE, TARGET)
    cache.keep({ONE: (1.0,)})
    cache.save()
    raw = json.loads(cache.path.read_text())
    raw["timings"] = [timing]
    cache.path.write_text(json.dumps(raw))

    with pytest.raises(BadInputError, match=r"layers-\w+\.json is damaged: remove it"):
        LayerCache(tmp_path, MACHINE, TARGET)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(EnvironmentFailedError, match=r"^cannot make .*/file/inside: "):
        LayerCache(tmp_path / "file" / "inside", MACHINE, TARGET).save()
