"""Shared by the tests of the web layer."""

import pytest

from batchserve.runners import warmup


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a thread without a trial, which these tests need not wait for."""
    monkeypatch.setattr(warmup, "DOUBTFUL_S", 0)
