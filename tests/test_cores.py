"""A container's share of the cores counts, not those of the machine."""

import os
from pathlib import Path

import pytest

from batchserve.cores import usable_cores


@pytest.fixture(autouse=True)
def _eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("200000 100000\n", 2),
        ("250000 100000\n", 3),
        ("50000 100000\n", 1),
        ("9900000 100000\n", 8),
        ("max 100000\n", 8),
        ("nonsense\n", 8),
    ],
)
def test_the_limit_of_a_container(tmp_path: Path, stated, expected):
    (tmp_path / "cpu.max").write_text(stated)
    assert usable_cores(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("300000\n", 3), ("-1\n", 8)])
def test_the_limit_of_an_older_kernel(tmp_path: Path, quota, expected):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == expected


def test_without_a_limit_all_assigned_cores_count(tmp_path: Path):
    assert usable_cores(tmp_path) == 8


def test_without_affinity_all_cores_of_the_machine_count(tmp_path: Path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert usable_cores(tmp_path) == 4
