"""Models changed at run time in real servers: nobody notices, and nothing is forgotten."""

import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import ROOT
from tests.e2e.conftest import PATIENCE_S, Server, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.e2e

TOKEN = "correct-horse-battery"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
ADMIN = "/admin/models/double"
COMMON = {"device": "cpu", "input_shape": [1], "batching": {"max_batch_size": 4}}
DOUBLE = {"name": "double", "source": "tests.models:Double", **COMMON}
# Named by the config file, so that it may be loaded over HTTP.
SLOW = {**DOUBLE, "name": "slow", "source": "tests.e2e.models:double_after_two_seconds"}
TWO = {"workers": 2, "torch_threads": 1, "accesslog": None, "admin_token": TOKEN}


def administer(server: Server, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
    response = requests.request(
        method, f"{server.base}{path}", headers=AUTH, timeout=PATIENCE_S, **kwargs
    )
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    assert body["done"]
    return body


def load(server: Server, version: str, source: str = str(DOUBLE["source"])) -> dict[str, Any]:
    path = f"{ADMIN}/versions/{version}?current=true"
    return administer(server, "PUT", path, json={**COMMON, "source": source})


def currents(server: Server) -> list[str]:
    """Return the version that each worker answers with."""
    shown = server.get("/models/double").json()
    return [
        version["version"]
        for version in shown["versions"]
        for worker in version.get("workers", [])
        if worker.get("current")
    ]


def test_versions_swapped_and_rolled_back_twenty_times_fail_nobody(launch, load_tool, tmp_path):
    server = launch(DOUBLE, server=TWO)
    body = tmp_path / "body.json"
    body.write_text('{"input": [1]}')
    post = str(ROOT / "benchmarks" / "post.lua")
    command = [load_tool("wrk"), "-t1", "-c8", "-d120s", "--timeout", "30s", "-s", post]
    process = subprocess.Popen(
        [*command, f"{server.base}/models/double/predict", str(body)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    load(server, "2")
    for swap in range(20):
        if swap % 10 == 9:
            # What nobody asks any more goes, and another one comes.
            administer(server, "PUT", f"{ADMIN}/current", json={"version": "1"})
            administer(server, "DELETE", f"{ADMIN}/versions/2")
            load(server, "2")
        assert administer(server, "POST", f"{ADMIN}/rollback")["current"] == "1"
        path, body_of = f"{ADMIN}/current", {"version": "2"}
        assert administer(server, "PUT", path, json=body_of)["current"] == "2"
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=PATIENCE_S)
    done = re.search(r"(\d+) requests in", printed)
    assert done is not None, printed
    assert int(done[1]) > 0
    assert "Non-2xx" not in printed
    assert "Socket errors" not in printed
    metrics = server.get("/metrics").text
    assert set(re.findall(r'batchserve_requests_total\{code="(\d+)"', metrics)) == {"200"}
    answered = re.findall(r'requests_total\{.*version="(\d)"\} (\S+)', metrics)
    assert {version for version, count in answered if float(count) > 0} == {"1", "2"}
    assert currents(server) == ["2", "2"]


def test_after_a_kill_in_the_middle_of_a_swap_all_workers_agree(launch):
    server = launch(DOUBLE, SLOW, server=TWO)
    failures = []
    with requests.Session() as session:
        # The one that is asked is the one that is killed: the session keeps its connection.
        trace = session.get(f"{server.base}/debug/batches", timeout=PATIENCE_S).json()
        (asked,) = [w for w in server.workers() if w.pid == trace["otherData"]["worker"]]

        def ask() -> None:
            path = f"{server.base}{ADMIN}/versions/2?current=true"
            section = {**COMMON, "source": SLOW["source"]}
            try:
                session.put(path, json=section, headers=AUTH, timeout=PATIENCE_S)
            except requests.ConnectionError as error:
                failures.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_for(lambda: server.output().count("double:2 loading") == 2, server)
        asked.kill()
        asking.join()
    assert len(failures) == 1
    wait_for(lambda: currents(server) == ["2", "2"], server)
    for _ in range(10):
        assert server.post("/models/double/predict", json={"input": [1]}).json()["version"] == "2"
    # And after everything has ended.
    assert server.stop() == 0
    server.log.rename(server.log.with_suffix(".before"))
    again = launch(DOUBLE, SLOW, server=TWO)
    assert currents(again) == ["2", "2"]
    assert again.post("/predict", json={"input": [1]}).json()["version"] == "2"
    assert "changed over HTTP since the config file was written: double:2 is current" in (
        again.output()
    )
    assert "Traceback" not in again.output()


def test_encrypted_and_administered_at_an_address_of_its_own(launch, tmp_path: Path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    port = free_port()
    settings = {
        **TWO,
        "admin_bind": f"127.0.0.1:{port}",
        "tls": {"cert": "cert.pem", "key": "key.pem"},
        "api_keys": ["a-key-of-somebody"],
    }
    server = launch(DOUBLE, server=settings)
    address = server.base.removeprefix("http://")
    # It is told once connections are accepted.
    greeting = f"https://{address}, https://127.0.0.1:{port};"
    wait_for(lambda: greeting in server.output(), server)

    def ask(base: str, method: str, path: str, **kwargs: Any) -> int:
        response = requests.request(
            method, f"https://{base}{path}", verify=str(cert), timeout=PATIENCE_S, **kwargs
        )
        return response.status_code

    key_of = {"X-API-Key": "a-key-of-somebody"}
    predict = {"json": {"input": [1]}}
    assert ask(address, "POST", "/predict", headers=key_of, **predict) == 200
    assert ask(address, "POST", "/predict", **predict) == 401
    assert ask(address, "GET", "/readyz") == 200
    rollback = f"{ADMIN}/rollback"
    assert ask(address, "POST", rollback, headers=AUTH) == 404
    assert ask(f"127.0.0.1:{port}", "POST", rollback, headers=AUTH) == 409
    # Without encryption there is no answer at all.
    with pytest.raises(requests.ConnectionError):
        server.get("/readyz")
    assert TOKEN not in server.output()
    assert server.stop() == 0
    assert "Traceback" not in server.output()
