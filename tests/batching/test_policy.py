"""Policies are pure: a bucket and a view go in, a decision comes out."""

from typing import Any

import pytest

from batchserve.batch import CloseReason
from batchserve.batching.bucket import Bucket
from batchserve.batching.cost import Cost
from batchserve.batching.policy import (
    POLICIES,
    AdaptivePolicy,
    Close,
    FixedPolicy,
    Policy,
    View,
    Wait,
)
from tests.batching.items import NEVER_S, bucket_of, item

N, T_S = 4, 0.010
# A pass takes 10 ms, and 1 ms for each item: sharing one saves 10 ms, whoever shares it.
SEED = {1: 0.011, 2: 0.012, 4: 0.014}


def bucket(*queued_s: float, due_s: float = NEVER_S) -> Bucket:
    return bucket_of(*(item(when_s, when_s, due_s=due_s) for when_s in queued_s))


def view(now_s: float, **changes: Any) -> View:
    usual: dict[str, Any] = {
        "free_since_s": 0.0,
        "arriving": 0,
        "draining": False,
        "cost": Cost(N),
        "most": N,
    }
    return View(now_s, **{**usual, **changes})


@pytest.fixture(params=[FixedPolicy, AdaptivePolicy])
def policy(request: pytest.FixtureRequest) -> Policy:
    made: Policy = request.param(N, T_S)
    return made


def test_policies_are_found_by_their_names_in_the_config():
    assert {"fixed": FixedPolicy, "adaptive": AdaptivePolicy} == POLICIES


def test_a_full_bucket_is_closed_at_once(policy):
    decision = policy.decide(bucket(*[1.0] * N), view(1.0, arriving=3))
    assert decision == Close(N, CloseReason.FULL)


def test_full_is_what_the_memory_has_room_for(policy):
    decision = policy.decide(bucket(1.0, 1.0), view(1.0, arriving=3, most=2))
    assert decision == Close(2, CloseReason.FULL)


def test_the_wait_counts_from_the_oldest_item(policy):
    decision = policy.decide(bucket(1.0, 1.009), view(1.010, arriving=1))
    assert decision == Close(N, CloseReason.WAIT)


def test_until_then_it_waits_and_says_until_when(policy):
    assert policy.decide(bucket(1.0, 1.004), view(1.005, arriving=1)) == Wait(1.0 + T_S)


def test_a_timer_that_fires_a_rounding_error_early_is_on_time(policy):
    decision = policy.decide(bucket(1.0), view(1.0 + T_S - 1e-12, arriving=1))
    assert decision == Close(N, CloseReason.WAIT)


def test_draining_waits_for_nobody(policy):
    decision = policy.decide(bucket(1.0), view(1.0, arriving=1, draining=True))
    assert decision == Close(N, CloseReason.DRAIN)


def test_fixed_waits_even_if_nobody_can_join():
    assert FixedPolicy(N, T_S).decide(bucket(1.0), view(1.0)) == Wait(1.0 + T_S)


def test_fixed_is_full_with_n_items_whatever_passes_cost():
    decision = FixedPolicy(N, T_S).decide(bucket(1.0), view(1.0, cost=Cost(N, {1: 1.0, 4: 9.0})))
    assert decision == Wait(1.0 + T_S)


def test_a_wait_of_zero_closes_at_once():
    decision = FixedPolicy(N, 0.0).decide(bucket(1.0), view(1.0, arriving=5))
    assert decision == Close(N, CloseReason.WAIT)


def test_adaptive_does_not_wait_for_company_that_cannot_come():
    decision = AdaptivePolicy(N, T_S).decide(bucket(1.0), view(1.0))
    assert decision == Close(N, CloseReason.IDLE)


def test_adaptive_is_full_with_as_many_items_as_the_device_is_fastest_with():
    cost = Cost(N, {1: 1.0, 2: 1.1, 4: 4.0})
    decision = AdaptivePolicy(N, T_S).decide(bucket(1.0, 1.0), view(1.0, arriving=1, cost=cost))
    assert decision == Close(2, CloseReason.FULL)


def test_adaptive_waits_as_long_as_sharing_a_pass_would_save():
    waiting = AdaptivePolicy(N).decide(bucket(1.0), view(1.0, arriving=1, cost=Cost(N, SEED)))
    assert waiting == Wait(pytest.approx(1.010))  # type: ignore[arg-type]
    over = AdaptivePolicy(N).decide(bucket(1.0), view(1.010, arriving=1, cost=Cost(N, SEED)))
    assert over == Close(N, CloseReason.WAIT)


def test_its_patience_counts_from_when_the_device_became_free():
    free = view(1.5, arriving=1, cost=Cost(N, SEED), free_since_s=1.5)
    decision = AdaptivePolicy(N).decide(bucket(1.0), free)
    assert decision == Wait(pytest.approx(1.510))  # type: ignore[arg-type]


def test_max_wait_counts_from_the_queue_even_so():
    free = view(1.5, arriving=1, cost=Cost(N, SEED), free_since_s=1.5)
    decision = AdaptivePolicy(N, 0.4).decide(bucket(1.0), free)
    assert decision == Close(N, CloseReason.WAIT)


def test_it_does_not_wait_where_sharing_saves_nothing():
    cost = Cost(N, {1: 0.010, 2: 0.0201, 4: 0.030})
    decision = AdaptivePolicy(N).decide(bucket(1.0), view(1.0, arriving=1, cost=cost))
    assert decision == Close(N, CloseReason.WAIT)


def test_it_waits_no_longer_than_the_oldest_items_promise_allows():
    cost = Cost(N, SEED)
    waiting = bucket(1.0, due_s=1.020)
    decision = AdaptivePolicy(N).decide(waiting, view(1.0, arriving=1, cost=cost))
    assert decision == Wait(pytest.approx(1.020 - cost.bound("key", 2)))  # type: ignore[arg-type]


def test_while_nothing_is_known_of_the_cost_it_waits_no_longer_than_max_wait():
    assert AdaptivePolicy(N, T_S).decide(bucket(1.0), view(1.0, arriving=1)) == Wait(1.0 + T_S)


def test_while_nothing_is_known_of_the_cost_a_promise_alone_makes_nobody_wait():
    decision = AdaptivePolicy(N).decide(bucket(1.0), view(1.0, arriving=1, cost=Cost(N)))
    assert decision == Close(N, CloseReason.WAIT)
