"""Shared by the tests of loading."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from batchserve.errors import LoadError
from batchserve.loading import download, load_module
from tests.loading.models import Small, convolved
from tests.loading.served import Site, serving

Load = Callable[..., nn.Module]
Refused = Callable[..., str]
Save = Callable[[str, Any], str]


@pytest.fixture
def load(configure) -> Load:
    """Return a function that loads the one model of a config with those keys."""

    def load(**model) -> nn.Module:
        return load_module(configure(**model).models[0])

    return load


@pytest.fixture
def refused(load: Load) -> Refused:
    """Return a function that does the same, and returns the message of its refusal."""

    def refused(**model) -> str:
        with pytest.raises(LoadError) as caught:
            load(**model)
        return str(caught.value)

    return refused


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that writes with torch.save beside the config."""

    def save(file: str, held: Any) -> str:
        torch.save(held, tmp_path / file)
        return file

    return save


@pytest.fixture
def trained() -> Small:
    """A module whose weights, statistics and counter are no one's defaults."""
    torch.manual_seed(7)
    module = Small()
    for _ in range(3):
        module(torch.randn(8, 3))
    return module.eval()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AOTInductor package of `convolved()`, for batches of any size."""
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        message = "AOTInductor needs a C++ compiler (Debian: apt-get install g++)"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    path = tmp_path_factory.mktemp("compiled") / "model.pt2"
    program = torch.export.export(
        convolved(), (torch.randn(4, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        # Compiling them takes longer than all the rest.
        headers = {"aot_inductor.precompile_headers": False}
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs=headers
        )
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "batchserve"


@pytest.fixture
def site(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A web site on this machine, which is tried again without a pause."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(download, "PAUSE_S", 0)
    monkeypatch.setattr(download, "RETRY", download.RETRY.new(backoff_factor=0))
    with serving() as site:
        yield site
