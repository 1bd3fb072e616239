"""Who records, what, and how often."""

import json
from itertools import count
from pathlib import Path

import pytest

from batchserve.history_log import HistoryLog
from batchserve.metrics import Metrics
from batchserve.recorder import EVERY_S, Recorder


@pytest.fixture
def log(tmp_path: Path):
    made = HistoryLog(tmp_path)
    yield made
    made.close()


def test_a_point_is_made_of_two_looks(log):
    metrics, seconds = Metrics(), count(100, 2)
    recording = Recorder(metrics, log, clock=lambda: next(seconds))
    recording.record()
    assert log.since(0) == []
    metrics.on_answer("m", "1", 200, 0.1)
    assert recording.record() >= EVERY_S
    (point,) = map(json.loads, log.since(0))
    assert (point["at"], point["seconds"]) == (102, 2)
    assert point["models"]["m:1"]["answers_per_s"] == {"200": 0.5}


def test_of_several_workers_one_records(log, tmp_path):
    ours = Recorder(Metrics(), log)
    other = HistoryLog(tmp_path)
    theirs = Recorder(Metrics(), other)
    for _ in range(3):
        ours.record()
        assert theirs.record() == EVERY_S
    assert len(log.since(0)) == 2
    log.close()
    for _ in range(2):
        theirs.record()
    assert len(log.since(0)) == 3
    other.close()


def test_a_clock_that_was_set_back_makes_no_point(log):
    seconds = iter([100.0, 50.0, 52.0])
    recording = Recorder(Metrics(), log, clock=lambda: next(seconds))
    for _ in range(3):
        recording.record()
    (point,) = map(json.loads, log.since(0))
    assert point["at"] == 52


def test_the_dearer_a_look_the_rarer(log, monkeypatch):
    used = iter([1.0, 1.1])
    monkeypatch.setattr("batchserve.recorder.time.thread_time", lambda: next(used))
    assert Recorder(Metrics(), log).record() == pytest.approx(10)
