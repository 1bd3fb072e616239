"""What lies behind a test's client: its batcher, and a gate in place of the model."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from batchserve.batching.batcher import Batcher
from batchserve.testing import GatedRunner
from batchserve.web.keys import REPOSITORY

Client = TestClient[Any, Any]

# How `serve` serves.
FAST, PLAIN = "fast path", "aiohttp"
BOTH_WAYS = pytest.mark.parametrize("serve", [FAST, PLAIN], indirect=True)


def batcher_of(client: Client) -> Batcher:
    """Return the batcher of the first model."""
    batcher: Batcher = client.app[REPOSITORY].versions[0].batcher
    return batcher


def gate(client: Client) -> GatedRunner:
    """Let the test say when a forward pass of the first model ends."""
    runner = batcher_of(client).passes.runner = GatedRunner()
    return runner


async def until(condition: Callable[[], Any]) -> None:
    """Let everybody else have a turn, as often as it takes."""
    while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0)
