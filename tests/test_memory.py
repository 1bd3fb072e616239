"""Huge pages reach torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchserve.memory import HUGE_PAGES, use_huge_pages
from tests.conftest import ROOT

KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")

# How often the kernel has to hand out a page for a block of 16 MB.
COUNT_FAULTS = """
import resource
from batchserve.memory import use_huge_pages
{prepare}
import torch
torch.ones(4 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(4 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(prepare: str) -> int:
    printed = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS.format(prepare=prepare)],
        cwd=ROOT, capture_output=True, text=True, check=True,
        env={name: value for name, value in os.environ.items() if name != HUGE_PAGES},
    )  # fmt: skip
    return int(printed.stdout)


@pytest.mark.skipif(
    not (KERNEL.exists() and "[madvise]" in KERNEL.read_text()),
    reason="this kernel gives huge pages to all or to nobody",
)
def test_large_blocks_cost_fewer_faults():
    assert faults("use_huge_pages()") < faults("") / 4


def test_what_the_user_says_stays(monkeypatch):
    monkeypatch.setenv(HUGE_PAGES, "0")
    use_huge_pages()
    assert os.environ[HUGE_PAGES] == "0"
