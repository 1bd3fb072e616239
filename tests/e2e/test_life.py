"""How the server starts, stops and refuses to start, in real processes."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from batchserve.memory import find_tcmalloc
from tests.conftest import ROOT
from tests.e2e.conftest import APP, BIN, GUNICORN, PATIENCE_S, Server, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.e2e

TINY = {"name": "tiny", "source": "tests.models:tiny", "device": "cpu"}
BODY = {"input": [0.5] * 10}
BOTH_WAYS = [[str(BIN / "batchserve"), "serve"], [*GUNICORN, APP]]


def in_flight(server: Server) -> int:
    text = server.get("/metrics").text
    return int(float(text.split("batchserve_in_flight_items{")[1].split()[1]))


@pytest.mark.parametrize("command", BOTH_WAYS)
def test_both_ways_to_start_serve_the_same_config(launch, command):
    server = launch(TINY, command=command, server={"workers": 2})
    assert len(server.post(json=BODY).json()["output"]) == 10
    wait_for(lambda: "try tiny: " in server.output(), server)
    (shown,) = re.findall(r"try tiny: (.*)", server.output())
    printed = subprocess.run([*shlex.split(shown), "-sS"], capture_output=True, check=True)
    assert len(json.loads(printed.stdout)["output"]) == 10
    assert server.stop() == 0
    assert "Traceback" not in server.output()


def test_the_command_serves_with_tcmalloc(launch):
    library = find_tcmalloc()
    if library is None:
        message = "tcmalloc is not installed (Debian: apt-get install libtcmalloc-minimal4)"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    server = launch(TINY)
    for process in (psutil.Process(server.process.pid), *server.workers()):
        assert any(library in mapped.path for mapped in process.memory_maps())
    assert server.stop() == 0


def test_a_unix_socket(launch, tmp_path: Path):
    server = launch(TINY, server={"bind": "unix:batchserve.sock"})
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / "batchserve.sock"))
        sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert server.stop() == 0


def test_options_override_the_config(launch, tmp_path: Path):
    command = [str(BIN / "batchserve"), "serve", "config.yaml", "--workers", "2"]
    server = launch(TINY, command=[*command, "--bind", "unix:other.sock"], wait=False)
    server.wait_ready(2)
    assert (tmp_path / "other.sock").is_socket()
    assert len(server.workers()) == 2


def test_cores_are_shared_out_among_the_workers(launch):
    server = launch(
        {**TINY, "source": "tests.e2e.models:ThreadCount", "task": "tensor"},
        server={"workers": 2, "torch_threads": None},
    )
    cores = len(os.sched_getaffinity(0))
    assert server.post(json={"input": [0.0]}).json()["output"] == [max(1, cores // 2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "nowhere.pt"}, "there is no file"),
        ({"source": "tests.models:broken"}, "no such luck"),
        ({"source": "tests.models:tiny", "polcy": 1}, "unknown key"),
    ],
)
@pytest.mark.parametrize("command", BOTH_WAYS)
def test_a_server_that_cannot_start_says_why_and_ends(launch, command, changes, message):
    server = launch({**TINY, **changes}, command=command, server={"workers": 2}, wait=False)
    assert server.process.wait(PATIENCE_S) != 0
    assert server.output().count(message) == 1
    assert "Traceback" not in server.output()


def test_preloading_with_cuda_is_refused(launch):
    server = launch({**TINY, "device": "cuda"}, command=[*GUNICORN, "--preload", APP], wait=False)
    assert server.process.wait(PATIENCE_S) != 0
    assert "start without --preload" in server.output()
    assert "Traceback" not in server.output()


def test_preloading_on_the_cpu_works(launch):
    server = launch(TINY, command=[*GUNICORN, "--preload", APP], server={"workers": 2})
    assert server.post(json=BODY).status_code == 200
    server.post(json=BODY)
    counted = 'batchserve_requests_total{code="200",model="tiny",version="1"} 2.0'
    # A worker tells the other what it has counted every half a second.
    wait_for(lambda: counted in server.get("/metrics").text, server)


def test_workers_share_the_memory_of_what_all_of_them_import(launch):
    server = launch(TINY, server={"workers": 2, "torch_threads": 1})
    server.wait_ready(2)
    first, second = (worker.memory_full_info() for worker in server.workers())
    # Torch and what it imports are some 300 MB.
    assert max(first.uss, second.uss) < 0.4 * min(first.pss, second.pss) + 30e6


def test_sigterm_finishes_what_was_accepted(launch):
    server = launch({**TINY, "source": "tests.e2e.models:OneSecond"}, server={"drain_seconds": 20})
    with ThreadPoolExecutor(6) as clients:
        answers = [clients.submit(server.post, json={"input": [float(i)]}) for i in range(6)]
        wait_for(lambda: in_flight(server) > 0, server)
        assert server.stop(signal.SIGTERM) == 0
        for i, answer in enumerate(answers):
            assert answer.result().json()["output"] == [float(i)]
    assert "Traceback" not in server.output()


def test_a_killed_worker_is_replaced(launch):
    server = launch(TINY, server={"workers": 2})
    victim = server.workers()[0]
    victim.kill()
    server.wait_ready(3)
    assert server.post(json=BODY).status_code == 200
    assert server.get("/readyz").status_code == 200
    assert len(server.workers()) == 2


@pytest.mark.parametrize("command", BOTH_WAYS)
def test_hup_with_a_broken_config_keeps_serving(launch, command, tmp_path: Path):
    server = launch(TINY, command=command)
    (tmp_path / "config.yaml").write_text("server: {}\n", encoding="utf-8")
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "the configuration stays as it was" in server.output(), server)
    # Workers are replaced all the same, and one that is killed is too.
    server.wait_ready(2)
    wait_for(lambda: len(server.workers()) == 1, server)
    server.workers()[0].kill()
    server.wait_ready(3)
    assert server.post(json=BODY).status_code == 200


def test_hup_serves_the_new_config(launch, tmp_path: Path):
    server = launch(TINY)
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("name: tiny", "name: renamed"), encoding="utf-8")
    server.process.send_signal(signal.SIGHUP)
    server.wait_ready(2)
    wait_for(lambda: server.post(json=BODY).json()["model"] == "renamed", server)


def test_a_client_that_hangs_up_takes_its_items_along(launch):
    server = launch({**TINY, "source": "tests.e2e.models:OneSecond"})
    hold = threading.Thread(target=server.post, kwargs={"json": {"input": [1.0]}})
    hold.start()
    wait_for(lambda: in_flight(server) == 1, server)
    for _ in range(5):
        with pytest.raises(requests.exceptions.ReadTimeout):
            requests.post(f"{server.base}/predict", json={"input": [2.0]}, timeout=0.05)
    hold.join()
    assert server.post(json={"input": [3.0]}).json()["output"] == [3.0]
    # The first and the last: the five in between were never computed.
    text = server.get("/metrics").text
    assert 'batchserve_items_total{model="tiny",version="1"} 2.0' in text


def test_check_describes_a_good_config_and_explains_a_bad_one(tmp_path: Path):
    check = [str(BIN / "batchserve"), "check"]
    good = subprocess.run(
        [*check, str(ROOT / "config.yaml")],
        capture_output=True, text=True, check=False, env={"PATH": "", "COLUMNS": "200"},
    )  # fmt: skip
    assert good.returncode == 0, good.stderr
    assert "efficientnet-lite0:1" in good.stdout
    assert "thread" in good.stdout
    bad_config = tmp_path / "bad.yaml"
    bad_config.write_text("models: [{name: x, source: 'torchvision:resnet19'}]", encoding="utf-8")
    bad = subprocess.run([*check, str(bad_config)], capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert "did you mean resnet18" in bad.stderr
    assert "Traceback" not in bad.stderr


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_the_models_load_is_obeyed(launch, with_signal):
    server = launch({**TINY, "source": "tests.e2e.models:slow_to_load"}, wait=False)
    wait_for(lambda: "tiny:1 loading" in server.output(), server)
    assert server.stop(with_signal) == 0
    assert "SIGKILL" not in server.output()
    assert "Traceback" not in server.output()


@pytest.mark.parametrize("bind", ["127.0.0.1:{port}", "unix:taken.sock"])
def test_an_address_in_use_is_refused_and_left_alone(launch, tmp_path: Path, bind):
    bind = bind.format(port=free_port())
    first = launch(TINY, server={"bind": bind})
    first.log = first.log.rename(tmp_path / "first.log")
    folders = set(tmp_path.glob("batchserve-metrics-*"))
    assert len(folders) == 1
    for command in BOTH_WAYS:
        second = launch(TINY, server={"bind": bind}, command=command, wait=False)
        assert second.process.wait(PATIENCE_S) != 0
        assert f"{bind} is in use" in second.output()
        assert "Traceback" not in second.output()
        assert set(tmp_path.glob("batchserve-metrics-*")) == folders
    assert first.stop() == 0
    assert not any(tmp_path.glob("batchserve-metrics-*"))
