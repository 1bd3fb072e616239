"""One server for all of the fuzzing: what a request does to it, the next one feels."""

from collections.abc import Iterator
from typing import Any

import pytest

from batchserve.config import Config
from tests.fuzz.live import Live, live

IMAGE: dict[str, Any] = {"mean": [0, 0, 0], "std": [1, 1, 1], "resize": 8, "crop": 8}
CONFIG = {
    "server": {
        "torch_threads": 1,
        "max_body_mb": 0.25,
        "default_timeout_ms": 5000,
        # Where nothing answers, and nothing private is reached.
        "fetch": {"hosts": ["127.0.0.1:9", "localhost"], "timeout_ms": 1000},
    },
    "models": [
        {"name": "numbers", "source": "tests.models:FailsOnNegative", "device": "cpu"},
        {
            "name": "colour",
            "source": "tests.models:MeanColour",
            "task": "image-classification",
            "image": IMAGE,
            "device": "cpu",
        },
        {"name": "tiny", "source": "tests.models:tiny", "device": "cpu", "slo_ms": 2000},
    ],
    "endpoints": [
        {"path": "/numbers-or-none", "model": "numbers", "slo_ms": 1000, "default_output": []},
        {"path": "/colours", "model": "colour"},
    ],
}


@pytest.fixture(scope="session")
def shared() -> Iterator[Live]:
    with live(Config.model_validate(CONFIG)) as served:
        yield served


@pytest.fixture
def server(shared: Live) -> Iterator[Live]:
    """The server, which must be there afterwards, too."""
    yield shared
    shared.check_ready()
