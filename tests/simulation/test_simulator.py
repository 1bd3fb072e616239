"""Small cases by hand, and long ones against the formulas of queueing theory."""

from typing import Any

import pytest

from batchserve.batch import CloseReason, Priority
from batchserve.batching.policy import FixedPolicy
from batchserve.simulation.machine import Machine
from batchserve.simulation.simulator import Run, Site, random_for, simulate
from batchserve.simulation.summary import summarise
from batchserve.simulation.traffic import Ask, Closed, Mix, Open, poisson
from batchserve.simulation.visit import ANSWERED
from tests.simulation.settings import model, rng, scheduler, serve, study

LINEAR = Machine({1: 0.010, 4: 0.016})


def passes(run: Run) -> list[Any]:
    return [(one.formed_s, one.seconds, one.size, one.reason) for one in run.passes]


def ends(run: Run) -> dict[float, Any]:
    return {visit.ask.at_s: (visit.outcome, visit.done_s) for visit in run.visits}


def test_one_item_alone_takes_a_pass():
    run = serve([Ask(1.0)], model(4), LINEAR)
    assert passes(run) == [(1.0, pytest.approx(0.010), 1, CloseReason.IDLE)]
    assert ends(run) == {1.0: (ANSWERED, pytest.approx(1.010))}


def test_who_comes_during_a_pass_shares_the_next():
    run = serve([Ask(0.0), *(Ask(0.001 * n) for n in range(1, 6))], model(4), LINEAR)
    assert passes(run) == [
        (0.0, pytest.approx(0.010), 1, CloseReason.IDLE),
        (pytest.approx(0.010), pytest.approx(0.016), 4, CloseReason.FULL),
        (pytest.approx(0.026), pytest.approx(0.010), 1, CloseReason.IDLE),
    ]


def test_fixed_waits_its_time_for_company():
    run = serve([Ask(0.0), Ask(0.003)], model(4), LINEAR, FixedPolicy(4, 0.005))
    assert passes(run) == [(0.005, pytest.approx(0.012), 2, CloseReason.WAIT)]
    assert ends(run)[0.0] == (ANSWERED, pytest.approx(0.017))


def test_what_is_decoded_is_waited_for_where_that_pays():
    machine = Machine({1: 0.010, 4: 0.016}, decode_s=0.002, decoders=1)
    run = serve([Ask(0.0), Ask(0.001)], model(4, max_wait_ms=5), machine)
    assert passes(run) == [(pytest.approx(0.004), pytest.approx(0.012), 2, CloseReason.IDLE)]


def test_the_loop_reads_and_answers_one_after_the_other():
    machine = Machine({1: 0.010, 4: 0.016}, request_s=0.002, batch_s=0.001)
    run = serve([Ask(0.0), Ask(0.0)], model(4), machine)
    # Both are read before a batch is decided: what lies in the socket buffers is let in.
    assert passes(run) == [(pytest.approx(0.002), pytest.approx(0.013), 2, CloseReason.IDLE)]
    assert [visit.done_s for visit in run.visits] == pytest.approx([0.016, 0.017])


def test_inputs_of_a_large_request_travel_in_several_batches_and_are_answered_together():
    run = serve([Ask(0.0, items=6)], model(4), LINEAR)
    assert [one.size for one in run.passes] == [4, 2]
    assert ends(run) == {0.0: (ANSWERED, pytest.approx(0.016 + 0.012))}


def test_a_full_queue_refuses_and_one_that_is_too_large_can_never_fit():
    config = model(4, policy="fixed", max_wait_ms=1, max_queue_size=4)
    run = serve([Ask(0.0), *(Ask(0.005) for _ in range(6)), Ask(1.0, items=5)], config, LINEAR)
    summary = summarise(run, None)
    assert summary.refused == {"queue_full": 2, "too_large": 1}
    assert summary.answered == 5


def test_nobody_waits_past_a_timeout():
    asks = [Ask(0.0), Ask(0.001, timeout_ms=12), Ask(0.002)]
    run = serve(asks, model(1, policy="fixed", max_wait_ms=0), LINEAR)
    assert ends(run)[0.001] == ("deadline_exceeded", pytest.approx(0.013))
    # It was in its pass by then; one that waits is not computed at all.
    waiting = serve([Ask(0.0), Ask(0.001, timeout_ms=5)], model(1, policy="fixed"), LINEAR)
    assert len(waiting.passes) == 1
    assert summarise(waiting, None).expired == 1


def test_interactive_requests_pass_bulk():
    bulk = [Ask(0.001, priority=Priority.BULK) for _ in range(3)]
    run = serve([Ask(0.0), *bulk, Ask(0.002, priority=Priority.INTERACTIVE)], model(1), LINEAR)
    assert ends(run)[0.002] == (ANSWERED, pytest.approx(0.020))


def test_clients_in_a_closed_loop_ask_again_once_they_are_answered():
    config = model(4)
    site = Site(LINEAR, scheduler(config, LINEAR))
    run = simulate(Closed(4, 1.0, Mix()), site)
    # The four of them always travel together.
    assert {one.size for one in run.passes} == {4}
    assert len(run.passes) == 63  # 1 s of 16 ms each, and the last one is finished
    assert summarise(run, None).throughput == pytest.approx(250, rel=0.02)


def test_who_is_refused_comes_again_after_the_time_named():
    config = model(1, policy="fixed", max_wait_ms=0, max_queue_size=1)
    crowd = [Ask(0.0), Ask(0.001), Ask(0.002)]
    assert summarise(serve(crowd, config, LINEAR), None).refused == {"queue_full": 1}
    run = serve(crowd, config, LINEAR, retries=1)
    assert summarise(run, None).answered == 3
    assert 1.0 <= run.visits[-1].latency_s <= 1.6


def test_a_slowdown_begins_and_ends():
    machine = Machine({1: 0.010}, slowdowns=[(1.0, 3.0), (2.0, 1.0)])
    run = serve([Ask(0.5), Ask(1.5), Ask(2.5)], model(1), machine)
    assert [one.seconds for one in run.passes] == pytest.approx([0.010, 0.030, 0.010])


def test_devices_share_the_requests_at_random():
    config = model(1)
    site = Site(LINEAR, scheduler(config, LINEAR), devices=3)
    run = simulate(Open(poisson(60, rng(0)), 50, Mix()), site)
    shares = [sum(visit.worker == number for visit in run.visits) for number in range(3)]
    assert all(abs(share - len(run.visits) / 3) < 0.1 * len(run.visits) for share in shares)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_with_batches_of_one_waits_are_those_of_pollaczek_and_khinchine(load: float):
    # M/D/1, busy for a share u of the time: on average a wait of u / (2 (1 - u)) passes.
    outcome = study({1: 10.0}, None, load, 6_000, seed=1).look("fixed:1:0")
    waits_s = [visit.latency_s - 0.010 for visit in outcome.run.visits]
    busy = outcome.summary.utilisation
    expected_s = 0.010 * busy / (2 * (1 - busy))
    assert sum(waits_s) / len(waits_s) == pytest.approx(expected_s, rel=0.1)
    assert outcome.summary.utilisation == pytest.approx(load, rel=0.05)


def test_noise_makes_waits_longer_by_its_variance():
    # M/G/1: the mean wait grows by 1 + c², the squared coefficient of variation of a pass.
    noise, load = 0.8, 0.6
    outcome = study({1: 10.0}, None, load, 8_000, noise=noise, seed=2).look("fixed:1:0")
    seconds = [one.seconds for one in outcome.run.passes]
    mean_s = sum(seconds) / len(seconds)
    squared = sum(one**2 for one in seconds) / len(seconds) / mean_s**2
    assert mean_s == pytest.approx(0.010, rel=0.03)
    assert squared == pytest.approx(2.718281828 ** (noise**2), rel=0.15)
    waits_s = [visit.latency_s for visit in outcome.run.visits]
    rate = len(outcome.run.visits) / outcome.run.seconds
    expected_s = rate * squared * mean_s**2 / (2 * (1 - rate * mean_s))
    assert sum(waits_s) / len(waits_s) - mean_s == pytest.approx(expected_s, rel=0.15)


def test_the_same_seed_makes_the_same_run_and_another_another():
    def run(seed: int) -> list[Any]:
        looked = study({1: 10.0, 8: 24.0}, 100, 1.2, 400, noise=0.1, seed=seed, devices=2)
        return passes(looked.look("ours").run)

    assert run(5) == run(5)
    assert run(5) != run(6)


@pytest.mark.parametrize("policy", ["ours", "fixed:8:2", "aimd"])
def test_every_request_ends_in_exactly_one_way(policy: str):
    looked = study({1: 10.0, 8: 24.0}, 80, 2.0, 1500, timeout_ms=90.0, items={1: 0.8, 5: 0.2})
    sent = sum(1 for _ in looked.traffic().asks())
    outcome = looked.look(policy)
    summary = outcome.summary
    ends = summary.answered + summary.expired + sum(summary.refused.values())
    assert ends == summary.offered == sent
    assert summary.in_time + summary.late == summary.answered
    computed = sum(one.size for one in outcome.run.passes)
    answered_items = sum(v.ask.items for v in outcome.run.visits if v.outcome == ANSWERED)
    assert computed >= answered_items


def test_each_purpose_has_randomness_of_its_own():
    assert random_for(0, "a").random() != random_for(0, "b").random()
    assert random_for(0, "a").random() == random_for(0, "a").random()
