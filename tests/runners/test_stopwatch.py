"""Seconds without those in which a thread waits for a core."""

import os
import subprocess
import sys
import threading
import time

import pytest

from batchserve.runners import stopwatch
from batchserve.runners.stopwatch import Stopwatch, waited_s

FOR_S = 0.1


def compute(seconds: float) -> None:
    until_s = time.thread_time() + seconds
    while time.thread_time() < until_s:
        pass


def test_what_a_thread_sleeps_counts():
    watch = Stopwatch()
    time.sleep(0.05)
    assert watch.seconds() > 0.03


@pytest.mark.skipif(not stopwatch.SCHEDSTAT.exists(), reason="this kernel does not tell")
def test_what_it_waits_for_a_core_does_not():
    cores = os.sched_getaffinity(0)
    busy = [sys.executable, "-c", "while True: pass"]
    others: list[subprocess.Popen[bytes]] = []
    try:
        # This thread and two others share one core.
        os.sched_setaffinity(0, {min(cores)})
        others += [subprocess.Popen(busy) for _ in range(2)]
        time.sleep(0.3)  # until they are there
        started_s, watch = time.perf_counter(), Stopwatch()
        compute(FOR_S)
        seconds, taken_s = watch.seconds(), time.perf_counter() - started_s
    finally:
        os.sched_setaffinity(0, cores)
        for other in others:
            other.kill()
            other.wait()
    assert FOR_S <= seconds < 2 * FOR_S < taken_s


def test_it_counts_for_its_own_thread():
    other = threading.Thread(target=compute, args=(FOR_S,))
    other.start()
    before_s = waited_s()
    other.join()
    assert waited_s() - before_s < FOR_S / 2


@pytest.mark.parametrize("text", [None, "", "1", "a b c"])
def test_where_the_kernel_does_not_tell_all_counts(monkeypatch, tmp_path, text):
    path = tmp_path / "schedstat"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(stopwatch, "SCHEDSTAT", path)
    assert waited_s() == 0.0
    watch = Stopwatch()
    time.sleep(0.01)
    assert watch.seconds() >= 0.01


def test_no_more_is_taken_off_than_what_was_not_computed(monkeypatch):
    waited = iter([0.0, 100.0])
    monkeypatch.setattr(stopwatch, "waited_s", lambda: next(waited))
    watch = Stopwatch()
    compute(0.01)
    assert watch.seconds() >= 0.01
