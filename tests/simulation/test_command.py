"""The command line, as people use it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from batchserve.cli import main

CONFIG = """
models:
  - name: tiny
    source: tests.models:tiny
    device: cpu
    slo_ms: 100
    batching: {max_batch_size: 8}
"""
FORWARD = ("--forward-ms", "1:5,8:12")

Simulate = Callable[..., Result]


@pytest.fixture
def simulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulate:
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.setenv("COLUMNS", "160")

    def call(*options: str) -> Result:
        arguments = ["simulate", str(tmp_path / "config.yaml"), "--seconds", "2", *options]
        return CliRunner().invoke(main, arguments)

    return call


def numbers(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_it_prints_a_column_for_each_policy(simulate: Simulate):
    others = ("fixed:8:2", "aimd", "oracle")
    result = simulate(*FORWARD, *(part for other in others for part in ("--against", other)))
    assert result.exit_code == 0, result.output
    for shown in ("ours", *others, "goodput", "p99, ms", "0.80 of capacity"):
        assert shown in result.output


def test_all_numbers_are_there_for_programs(simulate: Simulate, tmp_path: Path):
    path = tmp_path / "numbers.json"
    result = simulate(*FORWARD, "--rate", "100", "--json", str(path), "--against", "oracle")
    assert result.exit_code == 0, result.output
    written = numbers(path)
    assert written["situation"]["rate"] == 100
    ours = written["policies"]["ours"]
    assert ours["answered"] == ours["offered"]
    assert ours["goodput"] <= written["oracle"]["goodput"] * 1.01


@pytest.mark.parametrize(
    "options",
    [
        ("--arrivals", "bursty", "--burst", "2:0.3:1"),
        ("--arrivals", "diurnal", "--retry", "1", "--rate", "1.5x"),
        ("--arrivals", "closed:8", "--devices", "2"),
        ("--items", "1:0.5,10:0.5", "--priorities", "bulk:0.5,normal:0.5", "--noise", "0.1"),
        ("--slowdown", "0.5:2,1:1", "--decode-ms", "1", "--request-ms", "0.2", "--batch-ms", "0.1"),
    ],
)
def test_situations_of_every_kind(simulate: Simulate, options: tuple[str, ...]):
    result = simulate(*FORWARD, *options)
    assert result.exit_code == 0, result.output


def test_a_recording_is_replayed_at_its_rate_or_another(simulate: Simulate, tmp_path: Path):
    recorded, path = tmp_path / "times.txt", tmp_path / "numbers.json"
    recorded.write_text("\n".join(str(n / 50) for n in range(101)), encoding="utf-8")
    options = (*FORWARD, "--arrivals", str(recorded), "--json", str(path))
    assert simulate(*options).exit_code == 0
    assert numbers(path)["situation"]["rate"] == pytest.approx(50.5)
    assert numbers(path)["policies"]["ours"]["offered"] == 101
    assert simulate(*options, "--rate", "101").exit_code == 0
    assert numbers(path)["situation"]["seconds"] == pytest.approx(1, rel=0.01)


def test_what_passes_took_may_come_from_a_trace(simulate: Simulate, tmp_path: Path):
    trace, path = tmp_path / "trace.json", tmp_path / "numbers.json"
    took = [{"ph": "X", "cat": "forward", "dur": dur, "args": {"size": 1}} for dur in (9e3, 11e3)]
    trace.write_text(json.dumps({"traceEvents": took}), encoding="utf-8")
    result = simulate("--passes", str(trace), "--json", str(path))
    assert result.exit_code == 0, result.output
    assert numbers(path)["situation"]["forward_ms"] == {"1": pytest.approx(10)}


def test_without_stated_costs_the_model_is_measured(simulate: Simulate, tmp_path: Path):
    result = simulate("--json", str(tmp_path / "numbers.json"), "--rate", "50")
    assert result.exit_code == 0, result.output
    measured = numbers(tmp_path / "numbers.json")["situation"]["forward_ms"]
    assert list(measured) == ["1", "2", "4", "8"]


def test_it_draws(simulate: Simulate, tmp_path: Path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "drawn.svg"
    result = simulate(*FORWARD, "--plot", str(path))
    assert result.exit_code == 0, result.output
    assert "<svg" in path.read_text(encoding="utf-8")


def test_without_matplotlib_it_says_what_to_install(
    simulate: Simulate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = simulate(*FORWARD, "--plot", str(tmp_path / "drawn.png"))
    assert result.exit_code == 1
    assert "pip install 'batchserve[plot]'" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rate", "fast"), "--rate fast: write requests/s"),
        (("--rate", "-1x"), "--rate -1x"),
        (("--arrivals", "nowhere.txt"), "neither a pattern"),
        (("--arrivals", "closed:none"), "closed:16"),
        (("--model", "other"), "the config has tiny"),
        (("--burst", "9:0.5:1"), "FACTOR × SHARE"),
        (("--burst", "9"), "FACTOR:SHARE:SECONDS"),
        (("--items", "0"), "1 input or more"),
        (("--priorities", "urgent"), "none of interactive, normal, bulk"),
        (("--against", "magic"), "'magic' is no policy"),
        (("--against", "fixed:0:1"), "is no policy"),
        (("--against", "fixed:a:1"), "is no policy"),
        (("--slo-ms", "0"), "above 0"),
        (("--plot", "drawn.txt"), "the ending must be one of"),
        (("--forward-ms", "0:5"), "sizes begin with 1"),
        (("--forward-ms", "fast"), "milliseconds by batch size"),
        (("--json", "/nowhere/at/all"), "name another file"),
    ],
)
def test_mistakes_name_the_option_and_the_fix(
    simulate: Simulate, options: tuple[str, ...], message: str
):
    result = simulate(*FORWARD, *options)
    assert result.exit_code == 1
    assert message in result.output


def test_the_same_run_draws_the_same_picture(simulate: Simulate, tmp_path: Path):
    pictures = [tmp_path / "once.svg", tmp_path / "again.svg"]
    for picture in pictures:
        assert simulate(*FORWARD, "--plot", str(picture)).exit_code == 0
    once, again = (picture.read_text(encoding="utf-8") for picture in pictures)
    assert once == again
    assert ">batch size</text>" in once
