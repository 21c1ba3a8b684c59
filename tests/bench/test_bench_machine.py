"""Facts about machines, from texts as kernels write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.bench.load import Account, account, between
from deploykit.bench.machine import cpu_name, cpu_quota, gpu_names, instruction_sets, machine_facts

if TYPE_CHECKING:
    from pathlib import Path

X86 = """processor\t: 0
model name\t: AMD EPYC 9R14
flags\t\t: fpu sse4_1 avx2 avx512f avx512_vnni amx_int8 hypervisor

processor\t: 1
model name\t: another
"""
ARM = """processor\t: 0
Features\t: fp asimd asimddp i8mm sve
Hardware\t: BCM2835
Model\t\t: Raspberry Pi 5
"""


def test_x86() -> None:
    assert cpu_name(X86) == "AMD EPYC 9R14"
    assert instruction_sets(X86) == ("sse4_1", "avx2", "avx512f", "avx512_vnni", "amx_int8")


def test_arm() -> None:
    assert cpu_name(ARM) == "Raspberry Pi 5"
    assert instruction_sets(ARM) == ("asimd", "asimddp", "i8mm", "sve")


def test_a_system_that_tells_nothing() -> None:
    assert instruction_sets("") == ()
    assert cpu_name("")


def test_this_machine() -> None:
    facts = machine_facts()

    assert facts.cores >= 1
    assert facts.versions["numpy"]
    assert facts.governor != ""


def test_the_tightest_quota_of_a_group_and_its_parents_holds(tmp_path: Path) -> None:
    inner = tmp_path / "a/b"
    inner.mkdir(parents=True)
    (tmp_path / "a/cpu.max").write_text("150000 100000\n")
    (inner / "cpu.max").write_text("400000 100000\n")

    assert cpu_quota(tmp_path, "0::/a/b\n") == 1.5


def test_no_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n")

    assert cpu_quota(tmp_path, "0::/\n") is None


def test_the_quota_of_old_control_groups(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")

    assert cpu_quota(tmp_path, "4:cpu:/\n") == 0.5


def test_accounts_are_read_from_the_first_line() -> None:
    found = account("cpu  100 0 100 700 100 0 0 50 0 0\ncpu0 1 2 3\n")

    assert found is not None
    assert (found.busy, found.stolen, found.total) == (2.0, 0.5, 10.5)


def test_a_system_without_an_account() -> None:
    assert account("nothing of the kind") is None
    assert between(None, None, 1.0) == (None, None)


def test_other_load_is_what_is_busy_and_not_ours() -> None:
    before = Account(busy=100, stolen=5, total=1000, own=10)
    after = Account(busy=115, stolen=6, total=1020, own=20)

    assert between(before, after, 10.0) == (0.5, 0.05)


def test_gpus_are_named_by_their_driver(tmp_path: Path) -> None:
    assert gpu_names(tmp_path) is None

    for number, name in enumerate(("NVIDIA A", "NVIDIA B", "NVIDIA A")):
        place = tmp_path / f"0000:0{number}:00.0"
        place.mkdir()
        (place / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 55\n")
    assert gpu_names(tmp_path) == "2 x NVIDIA A, NVIDIA B"
