"""A container's share of the cores counts, not those of the machine."""

import math
import os
from pathlib import Path

import pytest

from batchserve import cores
from batchserve.cores import limit_of_container, usable_cores


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("200000 100000\n", 2),
        ("50000 100000\n", 0.5),
        ("max 100000\n", math.inf),
        ("nonsense\n", math.inf),
    ],
)
def test_the_limit_of_a_container(tmp_path: Path, stated, expected):
    (tmp_path / "cpu.max").write_text(stated)
    assert limit_of_container(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("300000\n", 3), ("-1\n", math.inf)])
def test_the_limit_of_an_older_kernel(tmp_path: Path, quota, expected):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert limit_of_container(tmp_path) == expected


def test_where_there_is_no_container_there_is_no_limit(tmp_path: Path):
    assert limit_of_container(tmp_path) == math.inf


@pytest.mark.parametrize(("limit", "expected"), [(math.inf, 8), (2, 2), (2.5, 3), (0.5, 1)])
def test_the_fewer_count(monkeypatch, limit, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cores, "LIMIT", limit)
    assert usable_cores() == expected
