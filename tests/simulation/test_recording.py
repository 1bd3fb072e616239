"""Recordings in any of their formats."""

import json
from pathlib import Path

import pytest

from batchserve.errors import ConfigError
from batchserve.simulation.recording import read_recording


def written(folder: Path, text: str) -> Path:
    path = folder / "recording"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_time_a_line_counted_from_the_first(tmp_path: Path):
    recording = read_recording(written(tmp_path, "# seconds\n12.5\n\n10\n11\n"))
    assert recording.arrivals_s == [0.0, 1.0, 2.5]
    assert recording.forward_s == {}


def test_a_list_of_times(tmp_path: Path):
    assert read_recording(written(tmp_path, "[3, 1.5]")).arrivals_s == [0.0, 1.5]


def forward(size: int, dur: float) -> dict[str, object]:
    return {"ph": "X", "cat": "forward", "ts": 0, "dur": dur, "args": {"size": size}}


def test_a_trace_as_the_server_gives_it(tmp_path: Path):
    events = [
        {"ph": "M", "name": "process_name", "args": {"name": "worker 7"}},
        forward(1, 10_000),
        forward(1, 14_000),
        forward(4, 11_000),
        {"ph": "b", "cat": "wait", "name": "m:1 wait", "ts": 5e6, "args": {"decode_ms": 1}},
        {"ph": "b", "cat": "wait", "name": "decode", "ts": 5e6},
        {"ph": "e", "cat": "wait", "name": "decode", "ts": 5.1e6},
        {"ph": "b", "cat": "wait", "name": "m:1 wait", "ts": 9e6, "args": {"arrived_us": 5.5e6}},
        "not an event",
    ]
    recording = read_recording(written(tmp_path, json.dumps({"traceEvents": events})))
    assert recording.arrivals_s == pytest.approx([0.0, 0.5])
    # A larger batch is not faster; what says so is noise: two passes of 12 ms, and one of 11.
    usual_s = (2 * 0.012 + 0.011) / 3
    assert recording.forward_s == pytest.approx({1: usual_s, 4: usual_s})
    assert sorted(recording.ratios) == pytest.approx(
        [took_s / usual_s for took_s in (0.010, 0.011, 0.014)]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one\ntwo", "could not convert"),
        ("{", "not JSON"),
        ('{"traceEvents": []}', "no arrivals"),
        ("", "no arrivals"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        read_recording(written(tmp_path, text))


def test_a_missing_file_is_said(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recording(tmp_path / "nothing")
