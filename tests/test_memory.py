"""tcmalloc where there is one, and huge pages reach torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchserve import memory
from batchserve.memory import (
    HUGE_PAGES,
    PRELOAD,
    TCMALLOC,
    find_tcmalloc,
    use_huge_pages,
    use_tcmalloc,
)
from batchserve.repository import ModelVersion
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


class Again(BaseException):
    """The process has begun anew."""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return what libraries are installed, by their names, and begin nothing anew in tests."""
    found: dict[str, str] = {}

    def execv(path: str, arguments: list[str]) -> None:
        raise Again(path, arguments)

    monkeypatch.setattr(memory, "find_library", found.get)
    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "batchserve", "serve", "my.yaml"])
    # So that it is put back as it was.
    monkeypatch.setenv(PRELOAD, "")
    for name in [PRELOAD, *(name for name in os.environ if name.startswith("MALLOC_"))]:
        monkeypatch.delenv(name)
    return found


@pytest.mark.parametrize("name", TCMALLOC)
def test_with_tcmalloc_installed_the_same_command_begins_anew_with_it(installed, name):
    installed[name] = f"lib{name}.so.4"
    with pytest.raises(Again) as again:
        use_tcmalloc()
    assert again.value.args == (
        sys.executable, [sys.executable, "-X", "dev", "batchserve", "serve", "my.yaml"],
    )  # fmt: skip
    assert os.environ[PRELOAD] == f"lib{name}.so.4"
    # And only once.
    use_tcmalloc()


def test_without_tcmalloc_it_goes_on(installed):
    use_tcmalloc()
    assert PRELOAD not in os.environ


@pytest.mark.parametrize(
    "name", [PRELOAD, "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"]
)
def test_what_the_user_says_of_the_allocator_stays(installed, monkeypatch, name):
    installed[TCMALLOC[0]] = "libtcmalloc_minimal.so.4"
    monkeypatch.setenv(name, "")
    use_tcmalloc()
    assert not os.environ.get(PRELOAD)


def test_elsewhere_there_is_nothing_to_preload(installed, monkeypatch):
    installed[TCMALLOC[0]] = "libtcmalloc_minimal.dylib"
    monkeypatch.setattr(sys, "platform", "darwin")
    use_tcmalloc()
    assert PRELOAD not in os.environ


# How many MB a process has, and is left with, of what it frees.
FREE = """
import psutil, torch
from batchserve.memory import release_freed
process = psutil.Process()
block = torch.ones(50 * 2**20)
held = process.memory_info().rss
del block
release_freed()
print((held - process.memory_info().rss) // 2**20)
"""


def freed_mb(preload: str) -> int:
    printed = subprocess.run(
        [sys.executable, "-c", FREE], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, PRELOAD: preload},
    )  # fmt: skip
    return int(printed.stdout)


@pytest.mark.skipif(find_tcmalloc() is None, reason="tcmalloc is not installed")
def test_tcmalloc_gives_back_what_was_freed():
    assert freed_mb(find_tcmalloc() or "") > 150


def test_without_it_nothing_has_to_be_given_back():
    assert freed_mb("") > 150


async def test_what_the_warm_up_needed_is_given_back(configure, monkeypatch):
    released = []
    monkeypatch.setattr("batchserve.repository.version.release_freed", lambda: released.append(1))
    version = ModelVersion(configure().models[0])
    await version.load(lambda _model, _batch: None)
    await version.close()
    assert released == [1]
