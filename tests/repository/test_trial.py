"""Which requests a candidate takes."""

from typing import Any

import pytest

from batchserve.config import ModelConfig
from batchserve.repository import ModelVersion, Trial

IDS = [f"request-{number}" for number in range(4000)]


def trial(share: float, version: str = "2") -> Trial:
    config = ModelConfig(name="m", version=version, source="tests.models:Double")
    return Trial(ModelVersion(config), share, shadow=False)


def taken(*args: Any) -> set[str]:
    return {request for request in IDS if trial(*args).takes(request)}


def test_none_and_all():
    assert taken(0.0) == set()
    assert taken(1.0) == set(IDS)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_a_share_is_that_share_of_the_requests_and_always_the_same(share):
    found = taken(share)
    assert len(found) == pytest.approx(share * len(IDS), rel=0.3)
    assert taken(share) == found


def test_who_was_taken_is_taken_too_when_the_share_grows():
    assert taken(0.1) < taken(0.5) < taken(0.9)


def test_another_candidate_takes_others():
    both = taken(0.5) & taken(0.5, "3")
    assert len(both) == pytest.approx(0.25 * len(IDS), rel=0.2)
