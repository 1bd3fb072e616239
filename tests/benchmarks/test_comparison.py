"""What the comparison of servers makes of what it has measured."""

import base64
import io
import os
import threading
from pathlib import Path

import pytest
import torch
from comparison import figures, tables
from comparison.contestants import Visit
from comparison.environments import REQUIREMENTS
from comparison.ideal import Cost, Way
from comparison.passes import FOLDER, Count, Passes, counted
from comparison.plots import plot
from comparison.publish import circumstances
from comparison.results import Results, read
from comparison.rounds import Plan, all_at_once, rotated, seconds_of_turns
from comparison.samples import Reference
from comparison.servers import SERVERS
from comparison.servers.base import CORES
from comparison.servers.batchserve import Batchserve
from comparison.usage import Cpu, Share, memory_mb, shares
from comparison.workloads import WORKLOADS, Service, pixels_of
from comparison.wrk import parse
from PIL import Image
from torchvision.transforms import v2

from batchserve.config import Config, ModelConfig
from batchserve.tasks.image_classification import ImageClassification
from tests.conftest import ROOT, photo

PRINTED = """\
Running 2s test @ http://127.0.0.1:8000/predict
  100 requests in 2.00s, 1.00MB read
{"requests": 100, "seconds": 2.0, "non_2xx": 10, "socket_errors": 1, "p50_ms": 1.5, \
"p90_ms": 2, "p99_ms": 9}
"""


def visit(server: str, rate: float, turn: int = 0, clients: int = 16, **more) -> Visit:
    return Visit(server, "tiny", clients, turn, rate, **more)


def results() -> Results:
    """Two rounds, in the second of which the machine was half as fast."""
    visits = [
        visit("batchserve", 300, 0, p50_ms=1.0, cpu_us=[Share("python", 30, 10)], memory_mb=500),
        visit("batchserve", 150, 1, p50_ms=3.0, cpu_us=[Share("python", 50, 30)], memory_mb=700),
        *(visit("mosec", 100, 0, p50_ms=5.0), visit("mosec", 60, 1, p50_ms=7.0)),
        *(visit("flask", 20, 0), visit("flask", 10, 1, non_2xx=3)),
        *(visit("bare", 400, 0), visit("bare", 200, 1)),
        *(visit("ideal", 1000, 0), visit("ideal", 500, 1)),
    ]
    found = Results(rounds=2, seconds=3, visits=visits)
    for name in ("batchserve", "mosec", "flask", "bare", "ideal"):
        found.settings[name] = {"tiny": {}}
    found.versions["mosec"] = "mosec 0.9.8"
    found.failed("ray", "tiny", "it ended while it started\nTraceback")
    return found


def test_whatever_is_no_2xx_counts_against_a_server():
    load = parse(PRINTED)
    assert (load.rate, load.p50_ms, load.socket_errors) == (45, 1.5, 1)


def test_ratios_are_of_visits_in_the_same_round():
    visits = results().visits
    ours, theirs = (figures.of(visits, "tiny", 16, name) for name in ("batchserve", "mosec"))
    assert figures.ratio(ours, theirs) == pytest.approx((3 + 2.5) / 2)
    assert figures.ratio(ours, theirs[1:]) == pytest.approx(2.5)
    assert figures.ratio(ours, [visit("mosec", 0)]) is None
    assert figures.of(visits, "tiny", 1, "mosec") == []


def test_figures_are_medians_but_memory_and_failures():
    visits = results().visits
    ours = figures.figures(figures.of(visits, "tiny", 16, "batchserve"))
    assert (ours.rate, ours.p50_ms, ours.cpu_us, ours.memory_mb) == (225, 2, 60, 700)
    flask = figures.figures(figures.of(visits, "tiny", 16, "flask"))
    assert (flask.failures, flask.p50_ms, flask.memory_mb) == (3, None, None)


def test_the_best_peer_is_neither_ours_nor_a_yardstick():
    assert figures.best(results().visits, "tiny", 16, tables.peers()) == "mosec"
    assert figures.best([], "tiny", 16, tables.peers()) is None
    assert {"batchserve", "bare", "ideal", "mosec-tuned"}.isdisjoint(tables.peers())


def test_the_summary_shows_everybody_and_how_ours_compare():
    rows = tables.summary(results()).splitlines()
    assert rows[0] == "| requests/s | tiny, 16 clients |"
    assert "| batchserve | 225 |" in rows
    assert "| Mosec 0.9.8 | 80 |" in rows
    assert rows[-3:] == [
        "| **batchserve ÷ best peer** | 2.75 |",
        "| **batchserve ÷ ideal** | 0.30 |",
        "| **batchserve ÷ bare handler** | 0.75 |",
    ]
    assert tables.absent(results()) == "- Ray Serve (tiny): it ended while it started"
    assert "| Mosec 0.9.8 | 16 | 80 | 2.75 | 6.00 | - |" in tables.details(results(), "tiny")


def test_a_table_replaces_what_was_between_its_markers_and_nothing_else():
    text = "a\n<!-- speed -->\nold\n<!-- /speed -->\nb\n"
    once = tables.put(text, "speed", r"new \1")
    assert once == "a\n<!-- speed -->\nnew \\1\n<!-- /speed -->\nb\n"
    assert tables.put(once, "speed", "old") == text
    with pytest.raises(ValueError, match="<!-- speed -->"):
        tables.put("nothing", "speed", "new")


def test_the_documents_have_the_markers():
    readme, speed = ((ROOT / name).read_text() for name in ("README.md", "docs/speed.md"))
    tables.put(readme, "speed", "")
    for marker in ("circumstances", "absent", *WORKLOADS):
        tables.put(speed, marker, "")


def test_results_are_read_as_they_were_written(tmp_path: Path):
    results().write(tmp_path / "results.json")
    found = read(tmp_path / "results.json")
    assert found.visits == results().visits
    plot(found, "tiny", tmp_path / "tiny.svg")
    assert "Mosec 0.9.8" in (tmp_path / "tiny.svg").read_text(encoding="utf-8")


def test_a_workload_is_measured_again_beside_what_is_known_of_others():
    found = results()
    found.failed("ray", "image", "did not start")
    found.date = "2026-01-01T00:00+00:00"
    left = found.without(["tiny"])
    assert left.date > found.date
    assert left.visits == []
    assert left.failures == {"ray": {"image": "did not start"}}
    assert found.without(["image"]).visits == found.visits
    assert set(found.without(["image"]).failures["ray"]) == {"tiny"}


def test_everybody_comes_first_once():
    present = [*"abc"]
    assert ["".join(rotated(present, turn)) for turn in range(4)] == ["abc", "bca", "cab", "abc"]
    assert rotated([], 3) == []


def test_a_plan_counts_starts_and_visits():
    servers = {name: ["batchserve", "batchserve-tuned"] for name in ("tiny", "image")}
    plan = Plan(servers, {"tiny": [1, 16], "image": [8]}, 5, {})
    assert plan.entries("tiny") == ["batchserve"]
    assert plan.steps() == (1 + 5 * 2) + 2 * (1 + 5)


def test_all_are_stopped_at_once_and_whoever_cannot_be_stopped_hinders_nobody():
    together, stopped = threading.Barrier(2), []

    def stop():
        stopped.append(together.wait(5))

    def fail():
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"), all_at_once([fail, stop, stop]):
        assert not stopped
    assert sorted(stopped) == [0, 1]


def test_turns_with_images_are_longer_and_the_documents_say_so():
    assert seconds_of_turns(["tiny", "image"], 3) == {"tiny": 3, "image": 6}
    assert "medians of 2 rounds of 3 s each (image: 6 s)" in circumstances(results())


def test_the_ideal_uses_all_cores_for_decoding_and_for_the_pass():
    cost = Cost(decode_s=0.2, forward_s=0.3)
    assert Way(CORES, 8).rate(cost) == pytest.approx(CORES * 8 / 0.5)
    assert Way(1, 8).rate(cost) == pytest.approx(CORES * 8 / (0.2 + CORES * 0.3))


def test_passes_of_all_processes_are_counted(tmp_path: Path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    passes = Passes()
    passes.count(3)
    passes.count(5)
    (tmp_path / "another").write_bytes((tmp_path / str(os.getpid())).read_bytes())
    assert counted(tmp_path) == Count(passes=4, items=16)
    assert (counted(tmp_path) - Count(2, 8)).batch_size == 4
    assert Count().batch_size is None


def test_cpu_time_is_shared_out_by_process_and_request():
    before = {1: Cpu("python", 1.0, 0.5), 2: Cpu("idle", 1.0, 0.0)}
    after = {1: Cpu("python", 1.1, 0.5), 2: Cpu("idle", 1.0, 0.0), 3: Cpu("new", 0.0, 0.4)}
    new, python = shares(before, after, 1000)
    assert (new.name, python.name) == ("new", "python")
    assert [new.main_us, new.others_us] == pytest.approx([0, 400])
    assert [python.main_us, python.others_us] == pytest.approx([100, 0])
    assert memory_mb(os.getpid()) > 100  # torch is in it


@pytest.mark.parametrize("workload", ["tiny", "mlp"])
def test_a_batch_gets_the_answers_of_each_alone_and_another_answer_is_noticed(workload):
    reference = Reference(workload)
    tolerance = reference.tolerance(tuned=False)
    outputs = Service(WORKLOADS[workload])(reference.payloads)
    for place, output in enumerate(outputs):
        assert reference.difference(place, output) <= tolerance
        assert reference.difference((place + 1) % len(outputs), output) > tolerance
    with pytest.raises(ValueError, match="oops"):
        reference.difference(0, "oops")


@pytest.mark.parametrize(("interpolation", "is_right"), [("bilinear", True), ("nearest", False)])
def test_our_own_way_with_images_is_one_of_torchvisions_two(interpolation, is_right):
    reference, workload = Reference("image"), WORKLOADS["image"]
    described = Batchserve("x", "x").config("image")["models"][0]
    config = ModelConfig(**described, image={"interpolation": interpolation})
    task, model = ImageClassification(config.image), workload.model()
    differences = []
    for place, payload in enumerate(reference.payloads):
        with torch.inference_mode():
            row = model(task.preprocess(task.decode(payload)[None]))
        differences.append(reference.difference(place, workload.encode(row)[0]))
    assert (max(differences) <= reference.tolerance(tuned=False)) is is_right


def test_photos_are_cut_as_torchvision_does_it():
    data = photo("chelsea", "JPEG")
    reference = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    cut = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    expected = v2.functional.normalize(
        reference(cut(Image.open(io.BytesIO(data)).convert("RGB"))),
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
    )
    found = pixels_of(base64.b64encode(data).decode())
    # One step of 255 is 0.017.
    assert (found - expected).abs().max() < 0.04


@pytest.mark.parametrize("name", SERVERS)
def test_every_server_is_pinned_described_and_can_be_configured(name):
    server = SERVERS[name]
    described = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert f"`{name}`" in described
    if server.peer is not None:
        lines = (REQUIREMENTS / f"{server.peer}.txt").read_text(encoding="utf-8").splitlines()
        assert all("==" in line for line in lines if not line.startswith("#"))
    if isinstance(server, Batchserve):
        for workload in server.workloads:
            assert Config.model_validate(server.config(workload)).models[0].name == workload
