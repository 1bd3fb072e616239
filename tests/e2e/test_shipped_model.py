"""The shipped model in real Gunicorn with two UVLoop workers: photos, load tools, metrics."""

import base64
import re
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT, photo
from tests.e2e.conftest import PATIENCE_S, Server, wait_for

pytestmark = pytest.mark.e2e

CATS = {"tiger cat", "Egyptian cat", "tabby"}


def best(response: requests.Response) -> str:
    assert response.status_code == 200, response.text
    label: str = response.json()["output"][0]["label"]
    return label


def total(server: Server, name: str) -> float:
    families = text_string_to_metric_families(server.get("/metrics").text)
    return sum(
        sample.value for family in families for sample in family.samples if sample.name == name
    )


def test_two_uvloop_workers_run_it(shipped):
    assert "Using worker: aiohttp.GunicornUVLoopWebWorker" in shipped.output()
    assert len(shipped.workers()) == 2


def test_coffee_is_an_espresso(shipped):
    response = shipped.post(files={"file": photo("coffee")})
    assert best(response) == "espresso"
    assert response.json()["output"][0]["score"] == pytest.approx(0.957, abs=0.002)
    assert response.headers["X-Batch-Size"] == "1"


@pytest.mark.parametrize(("name", "labels"), [("chelsea", CATS), ("rocket", {"missile"})])
def test_other_photos_in_every_way_in(shipped, name, labels):
    png, jpeg = photo(name), photo(name, "JPEG")
    encoded = base64.b64encode(jpeg).decode()
    responses = [
        shipped.post(data=png, headers={"Content-Type": "image/png"}),
        shipped.post(data=jpeg, headers={"Content-Type": "application/octet-stream"}),
        shipped.post(json={"input": encoded}),
        shipped.post(json={"input": f"data:image/jpeg;base64,{encoded}"}),
    ]
    assert {best(response) for response in responses} <= labels


def test_24_clients_share_batches_and_each_gets_its_own_answer(shipped):
    photos = [(photo("coffee"), {"espresso"}), (photo("rocket"), {"missile"})] * 24

    def ask(data: bytes, labels: set[str]) -> int:
        response = shipped.post(data=data, headers={"Content-Type": "image/png"})
        assert best(response) in labels
        return int(response.headers["X-Batch-Size"])

    with ThreadPoolExecutor(24) as clients:
        sizes = list(clients.map(ask, *zip(*photos, strict=True)))
    assert max(sizes) > 1


def test_the_metrics_count_both_workers(shipped):
    # Each worker tells the other what it has counted every half a second.
    time.sleep(1)
    before = total(shipped, "batchserve_requests_total")
    with ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda _: shipped.post(files={"file": photo("rocket")}), range(16)))
    wait_for(lambda: total(shipped, "batchserve_requests_total") == before + 16, shipped)
    counts = {total(shipped, "batchserve_requests_total") for _ in range(8)}
    # Whichever worker answers, the count is that of both.
    assert counts == {before + 16}
    assert total(shipped, "batchserve_items_total") >= 16


def test_ab_posts_json(shipped, load_tool, tmp_path):
    body = tmp_path / "body.json"
    body.write_bytes(b'{"input": "' + base64.b64encode(photo("chelsea", "JPEG")) + b'"}')
    run_ab(load_tool, shipped, body, "application/json")


def test_ab_posts_the_well_known_multipart_with_base64(shipped, load_tool, tmp_path):
    body = tmp_path / "body.txt"
    body.write_bytes(
        b"--1234567890\r\n"
        b'Content-Disposition: form-data; name="file"; filename="chelsea.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n"
        b"Content-Transfer-Encoding: base64\r\n"
        b"\r\n" + base64.b64encode(photo("chelsea", "JPEG")) + b"\r\n"
        b"--1234567890--\r\n"
    )
    run_ab(load_tool, shipped, body, "multipart/form-data; boundary=1234567890")


def run_ab(load_tool: Callable[[str], str], server: Server, body: Path, kind: str) -> None:
    command = [load_tool("ab"), "-n", "60", "-c", "12", "-p", str(body), "-T", kind]
    printed = subprocess.run(
        # -l: the length of an answer may vary with its request id.
        [*command, "-l", f"{server.base}/predict"],
        capture_output=True, text=True, check=True, timeout=PATIENCE_S,
    ).stdout  # fmt: skip
    assert "Complete requests:      60" in printed
    assert "Failed requests:        0" in printed
    assert "Non-2xx" not in printed


def test_wrk_posts_json_without_a_failed_request(shipped, load_tool, tmp_path):
    body = tmp_path / "body.json"
    body.write_bytes(b'{"input": "' + base64.b64encode(photo("coffee", "JPEG")) + b'"}')
    before = total(shipped, "batchserve_items_total")
    printed = subprocess.run(
        [
            *(load_tool("wrk"), "-t1", "-c16", "-d5s", "--timeout", "30s"),
            *("-s", str(ROOT / "benchmarks" / "post.lua"), f"{shipped.base}/predict", str(body)),
        ],
        capture_output=True, text=True, check=True, timeout=PATIENCE_S,
    ).stdout  # fmt: skip
    done = re.search(r"(\d+) requests in", printed)
    assert done is not None, printed
    assert int(done[1]) > 0
    assert "Non-2xx" not in printed
    assert "Socket errors" not in printed
    wanted = before + int(done[1])
    wait_for(lambda: total(shipped, "batchserve_items_total") >= wanted, shipped)


def test_after_all_that_both_workers_are_still_the_same(shipped):
    assert shipped.get("/readyz").status_code == 200
    assert shipped.output().count("Booting worker") == 2
    assert "Traceback" not in shipped.output()
