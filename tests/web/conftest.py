"""Shared by the tests of the web layer."""

import pytest
from aiohttp.test_utils import TestServer

from batchserve.app import build_app
from batchserve.runners import warmup
from batchserve.testing.serving import DoorServer
from tests.web.clients import FAST


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a thread without a trial, and N without a second look: nobody need wait for them."""
    monkeypatch.setattr(warmup, "DOUBTFUL_S", 0)
    monkeypatch.setattr(warmup, "SHORT_PASS_S", 0)
    monkeypatch.setattr(warmup, "ROUNDS_S", 0)


@pytest.fixture
def serve(request, aiohttp_client, configure):
    """Return a function that serves as the one for all tests does, or without the fast path.

    `BOTH_WAYS` has a test take both.
    """
    make_server = DoorServer if getattr(request, "param", FAST) == FAST else TestServer

    async def start(config=None, **changes):
        return await aiohttp_client(make_server(await build_app(config or configure(**changes))))

    return start
