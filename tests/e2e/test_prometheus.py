"""A real Prometheus scrapes a real server; what the dashboard and the alerts ask it has answers."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.conftest import ROOT
from tests.deploy.test_monitoring import dashboard, expressions, rules
from tests.e2e.conftest import Server, kill, start, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.e2e

# What Grafana would fill in.
FILLED = {"$__rate_interval": "1m", "$instance": ".*", "$model": ".*", "$version": ".*"}


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Any]:
    """Return a function that starts Prometheus as deploy/ has it, but on a target, and faster."""
    program = shutil.which("prometheus")
    if program is None:
        message = "Prometheus is not installed (Debian: apt-get install prometheus)"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    folder = tmp_path / "prometheus"
    shutil.copytree(ROOT / "deploy/prometheus", folder)
    started: list[Server] = []

    def run(target: str) -> Server:
        config = yaml.safe_load((folder / "prometheus.yml").read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
        config["scrape_configs"][0]["scrape_timeout"] = "200ms"
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        address = f"127.0.0.1:{free_port()}"
        options = [f"--web.listen-address={address}", f"--storage.tsdb.path={folder}/data"]
        command = [program, f"--config.file={folder}/prometheus.yml", *options]
        server = start(command, folder, f"http://{address}")
        started.append(server)
        wait_for(lambda: is_ready(server), server)
        return server

    yield run
    for server in started:
        kill(server)


def is_ready(server: Server) -> bool:
    try:
        return server.get("/-/ready").ok
    except requests.exceptions.ConnectionError:
        return False


def ask(server: Server, expression: str) -> list[Any]:
    """Return what an expression evaluates to."""
    for name, value in FILLED.items():
        expression = expression.replace(name, value)
    answer = server.get("/api/v1/query", params={"query": expression}).json()
    assert answer["status"] == "success", (expression, answer)
    result: list[Any] = answer["data"]["result"]
    return result


def has(server: Server, expression: str) -> bool:
    return bool(ask(server, expression))


def test_dashboard_and_alerts_on_a_real_prometheus(launch, prometheus):
    model = {"name": "m", "source": "tests.models:FailsOnNegative", "device": "cpu", "slo_ms": 5000}
    server = launch(model, server={"workers": 2, "torch_threads": 1})
    watcher = prometheus(server.base.removeprefix("http://"))
    wait_for(lambda: has(watcher, "batchserve_workers == 2"), watcher)
    for expression in expressions():
        ask(watcher, expression)
    # Nobody asks an endpoint here, which would show its defaults, or tries a version.
    elsewhere = re.compile("defaults_total|canary_|shadow_")
    missing = {each for each in expressions() if not elsewhere.search(each)}

    def nothing_is_missing() -> bool:
        for value in (1, 2, -1, "text"):
            server.post(json={"input": [value]})
        missing.difference_update([each for each in missing if ask(watcher, each)])
        return not missing

    wait_for(nothing_is_missing, watcher)
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            values = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
            assert values is not None
            assert all(values[2] in each["metric"] for each in ask(watcher, values[1]))
    for rule in rules():
        ask(watcher, rule["expr"])
    loaded = watcher.get("/api/v1/rules").json()["data"]["groups"][0]["rules"]
    assert [rule["name"] for rule in loaded] == [rule["alert"] for rule in rules()]
    assert {rule["health"] for rule in loaded} <= {"ok", "unknown"}
    assert has(watcher, 'batchserve_faults_total{kind="input", model="m"} > 0')

    def is_missed() -> bool:
        # The next one is there so soon that a scrape may come too late to see that one was not.
        for worker in server.workers()[:1]:
            worker.kill()
        return has(watcher, rules()[1]["expr"])

    # The worker that is killed is missed.
    wait_for(is_missed, watcher)
