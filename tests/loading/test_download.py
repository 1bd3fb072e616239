import hashlib
import io
import logging
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
from rich.console import Console

from batchserve.errors import LoadError
from batchserve.loading import download
from batchserve.loading.download import fetch
from tests.loading.served import Site


@pytest.fixture(scope="module")
def content() -> bytes:
    """A file of weights of some 3 MB, no two parts of which are alike."""
    buffer, random = io.BytesIO(), torch.Generator().manual_seed(0)
    torch.save({"weight": torch.randn(3 * 2**18, generator=random)}, buffer)
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files_in(cache: Path) -> list[str]:
    names = [path.name for path in (cache / "downloads").iterdir()]
    return [name for name in names if not name.endswith(".lock")]


def refusal(url: str, digest: str | None = None) -> str:
    with pytest.raises(LoadError) as caught:
        fetch(url, digest)
    return str(caught.value)


@pytest.mark.parametrize("stated", [False, True])
def test_a_file_is_fetched_once(site: Site, cache, content, stated):
    url, digest = site.put("model.pt", content), sha256(content) if stated else None
    path = fetch(url, digest)
    assert path.read_bytes() == content
    assert path.is_relative_to(cache)
    assert path.name.endswith("-model.pt")
    assert files_in(cache) == [path.name]
    assert fetch(url, digest) == path
    assert len(site.requests) == 1


def test_it_is_told_how_far_it_is_across_a_cut(site: Site, content):
    url, seen = site.put("model.pt", content), list[tuple[int, int | None]]()
    site.cut_after = [2**20]
    fetch(url, on_bytes=lambda done, of: seen.append((done, of)))
    done = [bytes_ for bytes_, _ in seen]
    assert done == sorted(done)
    assert len(seen) > 10
    assert seen[-1] == (len(content), len(content))
    assert {of for _, of in seen} == {len(content)}


def test_files_of_one_name_do_not_collide(site: Site, content):
    other = content.replace(b"weight", b"height")
    one, two = site.put("1/model.pt", content), site.put("2/model.pt", other)
    assert fetch(one).read_bytes() == content
    assert fetch(two).read_bytes() == other


@pytest.mark.parametrize(
    "name", ["mod%20el.pt", "..%2F..%2Fevil.pt", "a/", "x" * 300, "ü" * 90, "m.pt?v=../1"]
)
def test_a_url_cannot_choose_where_its_file_lies(site: Site, cache, content, name):
    site.put(unquote(name.partition("?")[0]), content)
    path = fetch(f"http://127.0.0.1:{site.port}/{name}")
    assert path.parent == cache / "downloads"
    assert path.read_bytes() == content


# Connections that are cut


@pytest.mark.parametrize("cuts", [[2**16], [2**20], [2**20, 2**20, 2**17], [2**18] * 8])
def test_a_cut_connection_goes_on_where_it_ended(site: Site, cache, content, cuts):
    url = site.put("model.pt", content)
    site.cut_after.extend(cuts)
    assert fetch(url).read_bytes() == content
    offsets = [request.get("Range") for request in site.requests]
    ends = [sum(cuts[:n]) for n in range(1, len(cuts) + 1)]
    assert offsets == [None, *(f"bytes={end}-" for end in ends)]
    assert {request.get("If-Range") for request in site.requests[1:]} == {'"one"'}


def test_a_server_without_ranges_is_asked_for_all_again(site: Site, content):
    url = site.put("model.pt", content)
    site.ranges = False
    site.cut_after.extend([2**20, 2**21])
    assert fetch(url).read_bytes() == content


@pytest.mark.parametrize("etag", [None, 'W/"one"'])
def test_without_a_way_to_know_the_file_again_all_is_asked_for(site: Site, content, etag):
    url = site.put("model.pt", content)
    site.etag = etag
    site.cut_after.append(2**20)
    assert fetch(url).read_bytes() == content
    assert "Range" not in site.requests[1]


def test_the_date_serves_where_there_is_no_tag(site: Site, content):
    url, date = site.put("model.pt", content), "Wed, 21 Oct 2015 07:28:00 GMT"
    site.etag = None
    site.headers["Last-Modified"] = date
    site.cut_after.append(2**20)
    assert fetch(url).read_bytes() == content
    assert site.requests[1]["If-Range"] == date


def test_a_file_that_was_changed_meanwhile_is_not_patched_together(
    site: Site, content, monkeypatch
):
    buffer = io.BytesIO()
    torch.save({"other": torch.zeros(2**19)}, buffer)
    other = buffer.getvalue()
    url = site.put("model.pt", content)
    site.cut_after.append(2**20)
    receive = download._receive

    def change(*args: Any) -> None:
        try:
            receive(*args)
        finally:
            site.put("model.pt", other)
            site.etag = '"two"'

    monkeypatch.setattr(download, "_receive", change)
    assert fetch(url).read_bytes() == other


def test_a_connection_that_is_always_cut_is_given_up_and_kept(site: Site, cache, content):
    url = site.put("model.pt", content)
    site.cut_after.extend([2**20, 0, 0, 0])
    message = refusal(url)
    assert message.startswith(f"{url}: the connection was cut after {2**20} bytes: ")
    assert message.endswith("what is there is kept, and another try goes on from it")
    # So it does, in another process too.
    assert fetch(url).read_bytes() == content
    assert site.requests[-1]["Range"] == f"bytes={2**20}-"


def test_what_is_there_survives_a_server_that_refuses_meanwhile(site: Site, content):
    url = site.put("model.pt", content)
    site.cut_after.extend([2**20, 0, 0, 0])
    refusal(url)
    site.statuses.append(403)
    assert "was answered with 403" in refusal(url)
    assert fetch(url).read_bytes() == content
    assert site.requests[-1]["Range"] == f"bytes={2**20}-"


def test_a_part_that_is_longer_than_the_file_is_dropped(site: Site, cache, content):
    url = site.put("model.pt", content)
    site.cut_after.extend([2**21, 0, 0, 0])
    refusal(url)
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(3)}, buffer)
    site.put("model.pt", buffer.getvalue())  # with the same tag, as a careless server does
    assert fetch(url).read_bytes() == buffer.getvalue()


def test_nobody_ever_sees_half_a_file(site: Site, cache, content):
    url = site.put("model.pt", content)
    site.cut_after.extend([2**20, 0, 0, 0])
    refusal(url)
    assert not [name for name in files_in(cache) if name.endswith("-model.pt")]


def test_more_or_less_than_was_announced_is_cut(site: Site, cache, content):
    url = site.put("model.pt", content)
    site.headers["Content-Length"] = str(len(content) + 10)
    site.ranges = False
    assert "the connection was cut after" in refusal(url)


# Other files than were meant


def test_another_checksum_is_refused_and_not_kept(site: Site, cache, content):
    url = site.put("model.pt", content)
    assert refusal(url, "0" * 64) == (
        f"{url} is another file than was meant: its SHA-256 is {sha256(content)}, and not sha256: "
        f"{'0' * 64}; correct that if this file is right"
    )
    assert not [name for name in files_in(cache) if name.endswith((".part", ".pt"))]


def test_a_new_checksum_fetches_the_new_file(site: Site, content):
    url = site.put("model.pt", content)
    fetch(url)
    other = content.replace(b"weight", b"height")
    site.put("model.pt", other)
    assert fetch(url).read_bytes() == content
    assert fetch(url, sha256(other)).read_bytes() == other


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<!DOCTYPE html><title>Log in</title>", "is a web page in place of the file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_model_is_refused_and_not_kept(site: Site, cache, content, body, message):
    url = site.put("model.pt", body)
    assert refusal(url).startswith(f"{url} {message}")
    site.put("model.pt", content)
    assert fetch(url).read_bytes() == content


# Servers that do not answer with a file


@pytest.mark.parametrize(("status", "name"), [(404, "Not Found"), (403, "Forbidden"), (401, "Una")])
def test_an_error_is_told_with_what_to_do(site: Site, status, name):
    url = site.put("model.pt", b"")
    site.statuses.append(status)
    assert f"{url} was answered with {status} {name}" in refusal(f"{url}?token=secret")


def test_no_password_of_a_url_is_told(site: Site, caplog, content):
    url = f"http://me:secret@127.0.0.1:{site.port}/model.pt?token=secret"
    assert "secret" not in refusal(url)
    site.put("model.pt", content)
    with caplog.at_level(logging.INFO):
        fetch(url)
    assert "fetched" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("statuses", [[503], [429, 500, 502]])
def test_a_busy_server_is_asked_again(site: Site, content, statuses):
    url = site.put("model.pt", content)
    site.statuses.extend(statuses)
    assert fetch(url).read_bytes() == content


def test_a_server_that_stays_busy_is_told(site: Site):
    site.statuses.extend([503] * 9)
    assert "was answered with 503 Service Unavailable" in refusal(site.put("model.pt", b""))


def test_a_server_that_is_not_there_is_told_with_what_to_do(site: Site):
    message = refusal("http://127.0.0.1:1/model.pt")
    assert message.startswith("http://127.0.0.1:1/model.pt could not be fetched: ")
    assert message.endswith("fetch it where there is a network, and name its path")


def test_a_file_that_is_compressed_on_the_way_is_refused(site: Site, content):
    site.headers["Content-Encoding"] = "gzip"
    assert "is sent in gzip, although" in refusal(site.put("model.pt", content))


# Redirects


def test_a_redirect_is_followed(site: Site, content):
    site.redirects["/latest"] = site.put("model.pt", content)
    assert fetch(f"http://127.0.0.1:{site.port}/latest").read_bytes() == content


@pytest.mark.parametrize(
    "target", ["http://example.org/model.pt", "ftp://127.0.0.1/", "//example.org"]
)
def test_a_redirect_to_where_anybody_listens_is_refused(site: Site, target):
    site.redirects["/model.pt"] = target
    message = refusal(f"http://127.0.0.1:{site.port}/model.pt")
    assert "model.pt leads to " in message
    assert message.endswith("which is not https")
    assert len(site.requests) == 1


def test_a_redirect_from_https_to_this_machine_is_refused():
    class Response:
        is_redirect = True
        url = "https://example.org/model.pt"

        def __init__(self) -> None:
            self.headers = {"location": "http://127.0.0.1/model.pt"}

        def close(self) -> None:
            pass

    with pytest.raises(LoadError, match=r"leads to http://127.0.0.1/model.pt, which is not https"):
        download._check_redirect(Response())  # type: ignore[arg-type]


# Several at once, and what they show


def test_who_fetch_at_once_do_it_once(site: Site, content):
    # The lock is an open file's, so that threads stand for processes.
    url = site.put("model.pt", content)
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(fetch, [url] * 3))
    assert len(paths) == 1
    assert len(site.requests) == 1


@pytest.mark.parametrize("length", [True, False])
def test_a_terminal_sees_a_progress_bar(site: Site, content, monkeypatch, length):
    screen = io.StringIO()
    monkeypatch.setattr(
        download, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100)
    )
    if not length:
        site.headers["Content-Length"] = "?"
    site.put("mod{e}[l].pt", content)
    fetch(f"http://127.0.0.1:{site.port}/mod{{e}}[l].pt")
    assert "mod{e}[l].pt" in screen.getvalue()
    assert "3.1" in screen.getvalue()


def test_a_log_is_told_that_it_has_begun_and_where_it_lies(site: Site, content, caplog):
    url = site.put("model.pt", content)
    with caplog.at_level(logging.INFO):
        path = fetch(url)
    assert caplog.messages == [f"fetching {url}, 3.1 MB", f"fetched {url} to {path}"]


def test_a_full_disk_is_told_and_what_is_there_is_kept(site: Site, content, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    url = site.put("model.pt", content)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left on device; make room for it" in refusal(url)
    assert fetch(url).read_bytes() == content


# From a config


def test_a_project_from_a_url_needs_a_checksum_or_trust(load, refused, site: Site):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.py", "import torch\nbuild = torch.nn.Identity")
    url = site.put("project.zip", buffer.getvalue())
    described = {"source": url, "entry": "model:build"}
    assert refused(**described) == (
        f"model tiny: {url} is a zip of a project, whose code would run, whatever it is by then: "
        f"state its sha256, or set trust: true"
    )
    for more in ({"trust": True}, {"sha256": sha256(buffer.getvalue())}):
        assert isinstance(load(**described, **more), torch.nn.Identity)
