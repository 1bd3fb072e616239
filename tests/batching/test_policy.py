"""Policies are pure: a view goes in, a decision comes out."""

from typing import Any

import pytest
import torch

from batchserve.batch import CloseReason, Item
from batchserve.batching.bucket import Bucket
from batchserve.batching.policy import (
    POLICIES,
    AdaptivePolicy,
    Close,
    FixedPolicy,
    QueueView,
    Wait,
)

N, T_S = 4, 0.010
NO_FUTURE: Any = None


def bucket(*queued_s: float) -> Bucket:
    made = Bucket()
    for when_s in queued_s:
        # A policy looks at times and numbers only.
        made.append(Item(torch.zeros(1), NO_FUTURE, queued_s=when_s, deadline_s=1e9))
    return made


def view(*buckets: Bucket, now_s: float, arriving: int = 0, draining: bool = False) -> QueueView:
    return QueueView(now_s, buckets, arriving, draining)


@pytest.fixture(params=[FixedPolicy, AdaptivePolicy])
def policy(request: pytest.FixtureRequest) -> FixedPolicy:
    made: FixedPolicy = request.param(N, T_S)
    return made


def test_policies_are_found_by_their_names_in_the_config():
    assert {"fixed": FixedPolicy, "adaptive": AdaptivePolicy} == POLICIES


def test_with_nothing_queued_there_is_nothing_to_wait_for_but_news(policy):
    assert policy.decide(view(now_s=1.0)) == Wait(None)


def test_a_full_bucket_is_closed_at_once(policy):
    full = bucket(*[1.0] * N)
    assert policy.decide(view(full, now_s=1.0, arriving=3)) == Close(full, CloseReason.FULL)


def test_the_wait_counts_from_the_oldest_item(policy):
    waited = bucket(1.0, 1.009)
    assert policy.decide(view(waited, now_s=1.010, arriving=1)) == Close(waited, CloseReason.WAIT)


def test_until_then_it_waits_and_says_until_when(policy):
    waiting = bucket(1.0, 1.004)
    assert policy.decide(view(waiting, now_s=1.005, arriving=1)) == Wait(1.0 + T_S)


def test_a_timer_that_fires_a_rounding_error_early_is_on_time(policy):
    waited = bucket(1.0)
    decision = policy.decide(view(waited, now_s=1.0 + T_S - 1e-12, arriving=1))
    assert decision == Close(waited, CloseReason.WAIT)


def test_draining_waits_for_nobody(policy):
    last = bucket(1.0)
    decision = policy.decide(view(last, now_s=1.0, arriving=1, draining=True))
    assert decision == Close(last, CloseReason.DRAIN)


def test_fixed_waits_even_if_nobody_can_join():
    waiting = bucket(1.0)
    assert FixedPolicy(N, T_S).decide(view(waiting, now_s=1.0, arriving=0)) == Wait(1.0 + T_S)


def test_adaptive_does_not_wait_for_company_that_cannot_come():
    alone = bucket(1.0)
    decision = AdaptivePolicy(N, T_S).decide(view(alone, now_s=1.0, arriving=0))
    assert decision == Close(alone, CloseReason.IDLE)


def test_of_two_buckets_that_may_close_the_older_goes_first(policy):
    younger, older = bucket(*[1.002] * N), bucket(*[1.001] * N)
    decision = policy.decide(view(younger, older, now_s=1.003))
    assert decision == Close(older, CloseReason.FULL)


def test_a_bucket_that_fills_again_and_again_does_not_starve_another(policy):
    lonely = bucket(1.0)
    always_full = bucket(*[1.009] * N)
    decision = policy.decide(view(always_full, lonely, now_s=1.010, arriving=1))
    assert decision == Close(lonely, CloseReason.WAIT)


def test_an_older_bucket_that_may_not_close_yet_does_not_hold_up_a_full_one():
    waiting, full = bucket(1.0), bucket(*[1.001] * N)
    decision = FixedPolicy(N, T_S).decide(view(waiting, full, now_s=1.002))
    assert decision == Close(full, CloseReason.FULL)


def test_a_wait_of_zero_closes_at_once():
    waiting = bucket(1.0)
    decision = FixedPolicy(N, 0.0).decide(view(waiting, now_s=1.0, arriving=5))
    assert decision == Close(waiting, CloseReason.WAIT)
