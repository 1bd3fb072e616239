"""What the policy promises, over machines and loads: the reason why there is a simulator."""

from dataclasses import replace

import pytest

from batchserve.batch import Priority
from batchserve.errors import Overloaded
from batchserve.simulation.study import Study
from batchserve.simulation.summary import Summary
from batchserve.simulation.traffic import Bursts
from batchserve.simulation.visit import ANSWERED
from tests.simulation.settings import study

# Milliseconds by batch size, and what is promised.
MACHINES: dict[str, tuple[dict[int, float], float]] = {
    "linear": ({1: 10.0, 16: 40.0}, 200.0),
    "gpu": ({1: 10.0, 8: 11.0, 32: 16.0}, 60.0),
    "knee": ({1: 10.0, 8: 20.0, 16: 50.0, 32: 140.0}, 150.0),
    "cpu": ({1: 30.0, 16: 400.0}, 1000.0),
    "short": ({1: 10.0, 16: 40.0}, 60.0),
}
NOISES = {"quiet": 0.0, "noisy": 0.15}
REQUESTS = 1000


def look(
    machine: str,
    load: float,
    noise: float = 0.05,
    pattern: str = "poisson",
    requests: int = REQUESTS,
) -> tuple[Study, Summary]:
    forward_ms, slo_ms = MACHINES[machine]
    made = study(
        forward_ms,
        slo_ms,
        load,
        requests,
        noise=noise,
        seed=3,
        pattern=pattern,
        bursts=Bursts(3, 0.2, slo_ms / 50),
    )
    return made, made.look("ours").summary


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("load", [0.1, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("machine", MACHINES)
def test_with_only_a_promise_the_p99_stays_under_it_below_capacity(
    machine: str, load: float, noise: float
):
    made, summary = look(machine, load, noise)
    assert made.promise_s is not None
    assert summary.p99_s <= made.promise_s
    if machine != "short":
        # Who is refused is not slow either, but that is not what was promised.
        assert summary.answered >= 0.97 * summary.offered


@pytest.mark.parametrize("load", [0.5, 0.95, 1.5])
@pytest.mark.parametrize("machine", MACHINES)
def test_so_it_does_in_bursts_that_are_more_than_the_device_can_do(machine: str, load: float):
    made, summary = look(machine, load, pattern="bursty", requests=2000)
    assert made.promise_s is not None
    assert summary.p99_s <= made.promise_s
    assert summary.late <= 0.01 * summary.answered


@pytest.mark.parametrize("machine", MACHINES)
def test_at_four_times_the_capacity_goodput_is_near_its_peak(machine: str):
    loads = [0.8, 0.95, 1.2, 2.0, 4.0]
    goodputs = [look(machine, load, requests=1500)[1].goodput for load in loads]
    assert goodputs[-1] >= 0.95 * max(goodputs)


@pytest.mark.parametrize("load", [0.3, 0.7, 0.9])
@pytest.mark.parametrize("machine", ["linear", "gpu", "knee", "short"])
def test_goodput_is_near_that_of_the_best_fixed_size_and_wait(machine: str, load: float):
    made, ours = look(machine, load)
    largest = made.largest
    rivals = [
        made.look(f"fixed:{size}:{wait_ms}").summary.goodput
        for size, wait_ms in (
            (1, 0),
            (largest // 4, 0),
            (largest // 2, 0),
            (largest, 0),
            (largest, made.machine.mean_s(1) * 500),
        )
    ]
    assert ours.goodput >= 0.95 * max(rivals)


def test_after_a_slowdown_it_finds_back():
    forward_ms, slo_ms = MACHINES["linear"]
    made = study(forward_ms, slo_ms, 0.8, 4000, noise=0.05, seed=4)
    slow = [(0.3 * made.seconds, 2.5), (0.5 * made.seconds, 1.0)]
    slowed = replace(made, machine=replace(made.machine, slowdowns=slow))
    run = slowed.look("ours").run
    after = [visit for visit in run.visits if visit.ask.at_s > 0.6 * made.seconds]
    assert all(visit.outcome == ANSWERED for visit in after)
    late = [visit for visit in after if visit.latency_s > slo_ms / 1000]
    assert len(late) <= 0.01 * len(after)


@pytest.mark.parametrize("load", [0.9, 1.5, 4.0])
@pytest.mark.parametrize("interactive", [0.1, 0.5])
def test_whoever_is_let_in_is_answered_in_time_whoever_passes(load, interactive):
    made = study({1: 35.0, 8: 70.0}, 800.0, load, 4000, seed=1)
    priorities = {
        Priority.INTERACTIVE: interactive,
        Priority.NORMAL: 0.95 - interactive,
        Priority.BULK: 0.05,
    }
    run = replace(made, priorities=priorities).look("ours").run
    answered = [visit for visit in run.visits if visit.outcome == ANSWERED]
    let_in = [visit for visit in run.visits if visit.outcome != Overloaded.code]
    in_time = [visit for visit in answered if visit.latency_s <= 0.8]
    assert len(in_time) > 0.97 * len(let_in)
    assert len(in_time) / run.seconds > 0.95 * min(load, 1.0) * made.capacity
    assert {visit.ask.priority for visit in in_time} == set(Priority), "somebody was starved"
