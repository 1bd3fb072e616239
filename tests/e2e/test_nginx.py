"""deploy/nginx with a real nginx: uploads, and the death of a backend under load."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import yaml

from batchserve.top.scrape import scrape
from tests.conftest import ROOT, photo
from tests.e2e.conftest import BIN, Server, kill, start, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.e2e

CONF = ROOT / "deploy/nginx/batchserve.conf"
MAIN = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/batchserve.conf;
}}
"""
MODELS = [
    {"name": "double", "source": "tests.models:Double", "device": "cpu"},
    {
        "name": "colour",
        "source": "tests.models:MeanColour",
        "task": "image-classification",
        "device": "cpu",
    },
]
LUA = """
wrk.method = "POST"
wrk.body = '{"input": [1, 2, 3]}'
wrk.headers["Content-Type"] = "application/json"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nginx")


def backend(folder: Path, name: str) -> Server:
    own = folder / name
    own.mkdir(exist_ok=True)
    config = {
        "server": {
            "bind": f"unix:{folder}/{name}.sock",
            "grace_seconds": 0.5,
            "drain_seconds": 5,
            "torch_threads": 1,
        },
        "models": MODELS,
    }
    (own / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return start([str(BIN / "batchserve"), "serve"], own)


@pytest.fixture(scope="module")
def backends(folder) -> Iterator[dict[str, Server]]:
    servers = {name: backend(folder, name) for name in "abc"}
    for server in servers.values():
        server.wait_ready(len(MODELS))
    yield servers
    for server in servers.values():
        kill(server)


@pytest.fixture(scope="module")
def nginx(folder, backends) -> Iterator[Server]:
    """Return nginx with our configuration, in front of the backends."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        assert "CI" not in os.environ, "nginx is not installed (Debian: apt-get install nginx)"
        pytest.skip("nginx is not installed")
    port = free_port()
    conf = CONF.read_text(encoding="utf-8").replace("listen 80;", f"listen 127.0.0.1:{port};")
    conf = conf.replace("/run/batchserve/", f"{folder}/")
    last = next(line for line in conf.splitlines() if f"{folder}/b.sock" in line)
    conf = conf.replace(last, f"{last}\n{last.replace('b.sock', 'c.sock')}")
    (folder / "batchserve.conf").write_text(conf, encoding="utf-8")
    # The sockets lie in a folder that only its owner may enter.
    user = "user root;" if os.geteuid() == 0 else ""
    main = folder / "nginx.conf"
    main.write_text(MAIN.format(user=user, folder=folder), encoding="utf-8")
    server = start([program, "-c", str(main)], folder, f"http://127.0.0.1:{port}")
    wait_for(lambda: reachable(server), server)
    yield server
    kill(server)


def reachable(server: Server) -> bool:
    try:
        return server.get("/readyz").status_code == 200
    except requests.exceptions.ConnectionError:
        return False


def answered(folder: Path, name: str) -> float:
    """Return how many requests a backend has answered with 200."""
    labels = {"model": "double", "version": "1", "code": "200"}
    return scrape([f"unix:{folder}/{name}.sock"]).value("batchserve_requests_total", **labels)


@contextmanager
def load(folder: Path, base: str, tool: str) -> Iterator[None]:
    """Ask without end while entered, and fail if any request did."""
    script = folder / "post.lua"
    script.write_text(LUA, encoding="utf-8")
    options = ["-t1", "-c16", "-d100s", "--timeout", "30s", "-s", str(script)]
    command = [tool, *options, f"{base}/predict"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            printed = process.communicate()[0]
    # wrk prints these lines if there is anything to say in them.
    assert "Non-2xx" not in printed, printed
    assert "Socket errors" not in printed, printed


def test_a_photo_through_nginx(nginx, backends):
    # Larger than nginx keeps in memory.
    file = photo("retina")
    assert len(file) > 2**20
    answer = nginx.post("/models/colour/predict", files={"file": file})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["output"]) == 3
    line = re.compile(rf"(\S+) \S+ .* id={answer.headers['X-Request-Id']} ")
    wait_for(lambda: any(line.search(each.output()) for each in backends.values()), nginx)
    (match,) = filter(None, (line.search(each.output()) for each in backends.values()))
    # The client's address, although the connection is a Unix socket's.
    assert match[0].split()[1] == "127.0.0.1"


def test_what_is_too_large_is_refused_in_our_form(nginx):
    for mib in (16.5, 18):
        answer = nginx.post("/predict", data=b"x" * int(mib * 2**20))
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_the_end_of_a_backend_under_load_fails_no_request(nginx, backends, folder, load_tool):
    with load(folder, nginx.base, load_tool("wrk")):
        wait_for(lambda: all(answered(folder, name) > 50 for name in "abc"), nginx)
        kill(backends["a"])
        before = answered(folder, "c")
        wait_for(lambda: answered(folder, "c") > before + 50, nginx)
        assert backends["b"].stop() == 0
    # Requests were cut off, whether the backend had read them or not.
    assert "while reading response header from upstream" in (folder / "error.log").read_text()
    kill(backends["c"])
    answer = nginx.post("/predict", json={"input": [1]})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
