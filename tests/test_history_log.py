"""The file that all workers share: who writes it, how long it gets, what a reader finds."""

from pathlib import Path

import pytest

from batchserve.history_log import HistoryLog


@pytest.fixture
def log(tmp_path: Path):
    made = HistoryLog(tmp_path, most=3)
    assert made.lead()
    yield made
    made.close()


def test_what_was_appended_is_read_in_its_order(log):
    log.append(1.0, b'{"n":1}')
    log.append(2.0, b'{"n":2}')
    assert log.since(0) == [b'{"n":1}', b'{"n":2}']


def test_a_reader_gets_what_came_after_a_time(log):
    for n in (1, 2, 3):
        log.append(n, b"%d" % n)
    assert log.since(1.0) == [b"2", b"3"]
    assert log.since(3.0) == []


def test_only_the_last_points_are_kept_and_the_file_stays_small(log, tmp_path):
    for n in range(1, 100):
        log.append(n, b"%d" % n)
        kept = [b"%d" % kept for kept in range(max(1, n - 2), n + 1)]
        assert log.since(0) == kept
        assert len((tmp_path / "history").read_bytes().splitlines()) <= 6


def test_one_worker_leads_until_it_ends(log, tmp_path):
    other = HistoryLog(tmp_path, most=3)
    assert not other.lead()
    assert log.lead()
    log.append(1.0, b"1")
    # The kernel does the same for a worker that is killed.
    log.close()
    assert other.lead()
    for n in range(2, 9):
        other.append(n, b"%d" % n)
    assert log.since(0) == [b"6", b"7", b"8"]
    other.close()


def test_whoever_does_not_lead_reads_the_same(log, tmp_path):
    log.append(1.0, b"1")
    assert HistoryLog(tmp_path).since(0) == [b"1"]


def test_a_line_that_is_being_written_is_left_for_later(log, tmp_path):
    log.append(1.0, b"1")
    with (tmp_path / "history").open("ab") as file:
        file.write(b"2.000 {")
    assert log.since(0) == [b"1"]


def test_before_the_first_point_there_is_nothing(tmp_path):
    assert HistoryLog(tmp_path).since(0) == []


def test_a_folder_that_is_gone_is_an_error_that_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        HistoryLog(tmp_path / "gone").lead()
